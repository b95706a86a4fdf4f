package device

import (
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// clockBoottime is CLOCK_BOOTTIME of linux/time.h: unlike Go's own clock it counts suspensions.
const clockBoottime = 7

// uptime is how long this machine has been running, and the name of that run; nil where the system does not say.
func uptime() (running func() time.Duration, boot string) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if _, ok := boottime(); err != nil || !ok {
		return nil, ""
	}
	return func() time.Duration { d, _ := boottime(); return d }, strings.TrimSpace(string(id))
}

func boottime() (time.Duration, bool) {
	var ts syscall.Timespec
	_, _, failed := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0) //nolint:gosec // G103: the kernel fills it in
	return time.Duration(ts.Nano()), failed == 0
}
