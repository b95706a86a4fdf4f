package disk

import (
	"errors"
	"os"
	"syscall"
)

// syncData leaves out what fsync adds for nothing, the time of the last change: half of the bytes
// written for a small record.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
	}
}

// damages are the errors of Linux that mean bad data.
var damages = []error{syscall.EIO, syscall.EREMOTEIO, syscall.EUCLEAN, syscall.EBADMSG, syscall.ENODATA}
