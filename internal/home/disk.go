package home

import (
	"io"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"github.com/hubhop-iot/hubhop/internal/lock"
)

// Disk is the part of the file system that a device's directory uses. It is narrow, so that a test
// can fail each call. Errors are those of package os.
type Disk interface {
	MkdirAll(dir string) error // for this user only
	Lstat(name string) (fs.FileInfo, error)
	Stat(name string) (fs.FileInfo, error)
	Open(name string, flag int) (File, error) // os.OpenFile, mode 0600
	Rename(from, to string) error
	Remove(name string) error
	// Lock locks a file, which it creates, or a directory, which must exist, until the lock is
	// closed. It does not wait: it returns [ErrTaken] if another process has the lock.
	Lock(name string, directory bool) (io.Closer, error)
}

// File is an open file of a Disk.
type File interface {
	io.Reader
	io.Writer
	io.Closer
	Sync() error
}

// ErrTaken says that another process has a lock.
var ErrTaken = lock.ErrTaken

// noWait is a flag of Open. Without it the open of a pipe in the place of a file would wait for
// ever.
var noWait = func() int {
	if runtime.GOOS == "windows" { // its directories hold no pipes
		return 0
	}
	return syscall.O_NONBLOCK
}()

// RealDisk is the disk of this machine.
var RealDisk Disk = realDisk{}

type realDisk struct{}

func (realDisk) MkdirAll(dir string) error              { return os.MkdirAll(dir, 0o700) }
func (realDisk) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(name) }
func (realDisk) Stat(name string) (fs.FileInfo, error)  { return os.Stat(name) }
func (realDisk) Rename(from, to string) error           { return os.Rename(from, to) }
func (realDisk) Remove(name string) error               { return os.Remove(name) }
func (realDisk) Open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag|noWait, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (realDisk) Lock(name string, directory bool) (io.Closer, error) {
	flag := os.O_CREATE | os.O_RDONLY | noWait
	if directory {
		flag = os.O_RDONLY
	}
	return lock.Try(name, flag, 0o600)
}
