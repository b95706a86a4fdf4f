package outbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// FS is the disk as the outbox uses it: narrow, so that a test can fail each call, cut each write short, or keep a record of what was
// synced when. Its methods and those of its files may be called at the same time. Errors are those of package os.
type FS interface {
	// MkdirAll makes dir and what is missing above it, for this user only.
	MkdirAll(dir string) error
	// Lock takes the file for this holder alone until the lock is closed. It does not wait: ErrLocked if it is taken.
	Lock(name string) (io.Closer, error)
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// Open is os.OpenFile with the flags of package os, and mode 0600.
	Open(name string, flag int) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir returns when what was created, renamed and removed in dir is so for good.
	SyncDir(dir string) error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Truncate cuts the file, or extends it with zeros.
	Truncate(size int64) error
	// Sync returns when everything written to the file, and its size, is on stable storage.
	Sync() error
}

// How the outbox opens files.
const (
	readOnly  = os.O_RDONLY
	readWrite = os.O_RDWR
	create    = os.O_CREATE
	exclusive = os.O_EXCL
	truncate  = os.O_TRUNC
)

// Disk returns the real disk.
func Disk() FS { return disk{} }

type disk struct{}

func (disk) MkdirAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir))) // a directory that a power cut takes away takes its files along
}

func (disk) Lock(name string) (io.Closer, error) {
	l := flock.New(name, flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	for range lockTries { // isHeld has it for a moment, who only looks
		if ok || err != nil {
			break
		}
		<-time.After(lockPause)
		ok, err = l.TryLock()
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return io.NopCloser(nil), nil // no such lock on this system: the caller's own has to do
	}
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	return l, nil
}

const (
	lockTries = 10
	lockPause = 10 * time.Millisecond
)

// isHeld says whether a process has the outbox in dir open. It asks by taking a shared lock and giving it back at once, since nothing
// else tells on every system. False where it cannot tell.
func isHeld(dir string) bool {
	name := filepath.Join(dir, "lock")
	if _, err := os.Stat(name); err != nil {
		return false
	}
	l := flock.New(name, flock.SetFlag(os.O_RDONLY))
	ok, err := l.TryRLock()
	if ok {
		_ = l.Unlock()
	}
	return err == nil && !ok
}

func (disk) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (disk) Open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(name string) error     { return os.Remove(name) }
func (disk) SyncDir(dir string) error     { return syncDir(dir) }

type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return syncData(f.File) }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
