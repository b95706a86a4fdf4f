//go:build unix && !aix && !solaris

package lock

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// Try opens a file or a directory as [os.OpenFile] does, and locks it until the lock is closed. It
// does not wait: it returns [ErrTaken] if another process has the lock.
func Try(name string, flag int, perm os.FileMode) (io.Closer, error) {
	return try(name, flag, perm, syscall.LOCK_EX)
}

// TryShared is Try for a lock that several may hold at once, if nobody holds that of Try.
func TryShared(name string, flag int, perm os.FileMode) (io.Closer, error) {
	return try(name, flag, perm, syscall.LOCK_SH)
}

func try(name string, flag int, perm os.FileMode, how int) (io.Closer, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	err = lockNow(f, how)
	// Where a network file system makes flock of other locks, a file must be open for writing.
	if info, failed := f.Stat(); failed == nil && info.Mode().IsRegular() && (errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EIO)) {
		again, failed := os.OpenFile(name, flag|os.O_RDWR, perm)
		if failed != nil {
			return nil, failed
		}
		defer func() { _ = again.Close() }()
		f, err = again, lockNow(again, how)
	}
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, ErrTaken
	case err != nil:
		return nil, &os.PathError{Op: "flock", Path: name, Err: err}
	}
	return keep(f)
}

func lockNow(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// keep returns another descriptor of an open file. The file is locked for as long as one of its
// descriptors is open, and an [os.File] would cost ten times the memory.
func keep(f *os.File) (io.Closer, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, &os.PathError{Op: "dup", Path: f.Name(), Err: err}
	}
	syscall.CloseOnExec(fd)
	return descriptor(fd), nil
}

// descriptor is a lock.
type descriptor int

// Close gives the lock back. It may be called once.
func (d descriptor) Close() error { return os.NewSyscallError("close", syscall.Close(int(d))) }
