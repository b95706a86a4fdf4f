//go:build !windows

package outbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// isFile is os.SameFile with a look at the name, without the memory for it: each commit asks.
func isFile(info fs.FileInfo, name string) (bool, error) {
	was, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, errors.ErrUnsupported
	}
	var now syscall.Stat_t
	for {
		switch err := syscall.Lstat(name, &now); {
		case err == nil:
			return was.Dev == now.Dev && was.Ino == now.Ino, nil
		case !errors.Is(err, syscall.EINTR):
			return false, &os.PathError{Op: "lstat", Path: name, Err: err}
		}
	}
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
