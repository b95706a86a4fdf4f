//go:build unix

package telemetry

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestAStopEndsTheReadOfAStandardInput: a pipe that was opened before the program started has no
// deadlines. A stop still ends the read, and takes no data from the pipe.
func TestAStopEndsTheReadOfAStandardInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fd, err := syscall.Dup(int(r.Fd())) // Fd has made it a blocking one
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	inherited := os.NewFile(uintptr(fd), "stdin")
	defer inherited.Close()
	if inherited.SetReadDeadline(time.Time{}) == nil {
		t.Fatal("it takes deadlines, so it is not what this test is about")
	}
	fmt.Fprintln(w, "{}")
	stopped(t, inherited)
	fmt.Fprintln(w, "{}")
	if b := make([]byte, 10); func() int { n, _ := inherited.Read(b); return n }() != 3 {
		t.Errorf("read %q: the reader was left behind and has taken it", b)
	}
}
