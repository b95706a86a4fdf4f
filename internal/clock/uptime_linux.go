package clock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// uptime returns a function that says how long this machine has been running, and the id of this
// boot; nil if the system does not say.
func uptime() (running func() time.Duration, boot string) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if _, ok := boottime(); err != nil || !ok {
		return nil, ""
	}
	return func() time.Duration { d, _ := boottime(); return d }, strings.TrimSpace(string(id))
}

// boottime reads a clock that counts suspensions, unlike Go's own.
func boottime() (time.Duration, bool) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano()), err == nil
}
