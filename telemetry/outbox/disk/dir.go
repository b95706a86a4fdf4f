//go:build !windows

package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/hubhop-iot/hubhop/internal/lock"
)

// plainOnly are flags of Open: it must not wait for the other end of a pipe, nor follow a link.
const plainOnly = syscall.O_NONBLOCK | syscall.O_NOFOLLOW

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// isFile says whether name is still the file of info. It is os.SameFile without allocations,
// because each commit calls it.
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

// lockDir locks a directory, alone or shared. It returns errors.ErrUnsupported if the file system
// cannot.
func lockDir(dir string, alone bool) (io.Closer, error) {
	try := lock.TryShared
	if alone {
		try = lock.Try
	}
	l, err := try(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, lock.ErrTaken):
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	case errors.Is(err, syscall.EBADF), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOLCK), errors.Is(err, errors.ErrUnsupported):
		return nil, errors.ErrUnsupported // as network file systems answer
	}
	return l, err
}
