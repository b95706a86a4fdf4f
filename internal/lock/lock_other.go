//go:build !unix || aix || solaris

package lock

import (
	"io"
	"os"
	"runtime"

	"github.com/gofrs/flock"
)

// Try opens a file as [os.OpenFile] does, and locks it until the lock is closed. It does not wait:
// it returns [ErrTaken] if another process has the lock.
func Try(name string, flag int, perm os.FileMode) (io.Closer, error) {
	return try(name, flag, perm, (*flock.Flock).TryLock)
}

// TryShared is Try for a lock that several may hold at once, if nobody holds that of Try.
func TryShared(name string, flag int, perm os.FileMode) (io.Closer, error) {
	return try(name, flag, perm, (*flock.Flock).TryRLock)
}

func try(name string, flag int, perm os.FileMode, how func(*flock.Flock) (bool, error)) (io.Closer, error) {
	if runtime.GOOS != "windows" {
		flag |= os.O_RDWR // else these systems lock nothing
	}
	l := flock.New(name, flock.SetPermissions(perm), flock.SetFlag(flag))
	switch ok, err := how(l); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrTaken
	}
	return l, nil
}
