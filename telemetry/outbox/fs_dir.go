//go:build !windows

package outbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// plainOnly keeps an open from waiting for the other end of a pipe, and from following a link.
const plainOnly = syscall.O_NONBLOCK | syscall.O_NOFOLLOW

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockDir takes the lock of a directory, or shares it. The error is errors.ErrUnsupported where the file system has none.
func lockDir(dir string, alone bool) (io.Closer, error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_SH
	if alone {
		how = syscall.LOCK_EX
	}
	for {
		err = syscall.Flock(int(d.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return d, nil
	}
	_ = d.Close()
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	case errors.Is(err, syscall.EBADF), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOLCK), errors.Is(err, errors.ErrUnsupported):
		return nil, errors.ErrUnsupported // as network file systems answer
	}
	return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
}
