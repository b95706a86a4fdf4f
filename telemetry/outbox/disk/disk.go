// Package disk is the directory of an outbox as the system keeps it: plain files, opened without
// waiting for anybody, locks, and syncs that mean what they say.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/internal/lock"
)

// Errors of a disk. Any other error is one of package os.
var (
	// ErrLocked says that another process has the directory locked.
	ErrLocked = errors.New("the outbox is in use by another process")
	// ErrSpecial says that a name is not a plain file but a link, a pipe, a directory or a device.
	ErrSpecial = errors.New("the outbox keeps plain files only")
)

// IsDamage says whether the system means bad data by an error.
func IsDamage(err error) bool {
	return slices.ContainsFunc(damages, func(d error) bool { return errors.Is(err, d) })
}

// NeedsPerson says whether an error of a disk does not pass by itself: a person must choose another
// directory, or change this one.
func NeedsPerson(err error) bool {
	for _, e := range []error{
		fs.ErrPermission, fs.ErrExist, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.ELOOP, // ErrExist: a link to nowhere
		ErrLocked, ErrSpecial,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Same says whether two files of the real disk are one.
func Same(a, b File) bool {
	x, isReal := a.(realFile)
	y, areReal := b.(realFile)
	return isReal && areReal && os.SameFile(x.info, y.info)
}

// FS is a disk. It is narrow, so that a test can fail each call, cut each write short, or keep a
// record of what was synced when. Its methods and those of its files may be called at the same
// time. Errors are those of package os.
type FS interface {
	// MkdirAll makes dir and what is missing above it, for this user only.
	MkdirAll(dir string) error
	// Lock locks dir until the lock is closed. It does not wait: it returns ErrLocked if dir is
	// locked.
	Lock(dir string) (io.Closer, error)
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// Open is os.OpenFile with the flags of package os, and mode 0600. It opens plain files only:
	// for anything else, a link included, the error is ErrSpecial. It never waits for another
	// process.
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
	// Is says whether name is still the name of this file. It returns the system's error if that is
	// unknown.
	Is(name string) (bool, error)
	// Truncate cuts the file, or extends it with zeros.
	Truncate(size int64) error
	// Sync returns when everything written to the file, and its size, is on stable storage.
	Sync() error
}

// Real returns the real disk.
func Real() FS { return realDisk{} }

type realDisk struct{}

func (realDisk) MkdirAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir))) // else a power cut takes it and its files
}

// LockName is the file in a directory that older versions lock, and that is locked on systems
// without locks on directories.
const LockName = "lock"

// Lock takes two locks where the system has both; one is enough. The lock on the directory needs no
// room on the disk and cannot be deleted. The lock on the file keeps older versions out.
func (realDisk) Lock(dir string) (io.Closer, error) {
	return lockBoth(func() (io.Closer, error) { return lockDir(dir, true) }, func() (io.Closer, error) { return lockFile(filepath.Join(dir, LockName)) })
}

func lockBoth(dir, file func() (io.Closer, error)) (io.Closer, error) {
	onDir, err := retryLock(dir)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	onFile, err := retryLock(file)
	switch {
	case err == nil:
		return locks{onDir, onFile}, nil
	case errors.Is(err, errors.ErrUnsupported), onDir != nil && !errors.Is(err, ErrLocked) && !NeedsPerson(err):
		return locks{onDir}, nil // a full disk, or one that is read-only, has no room for the file
	}
	return nil, errors.Join(err, locks{onDir}.Close())
}

// locks are closed together. One may be nil.
type locks []io.Closer

func (l locks) Close() (err error) {
	for _, c := range l {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// retryLock tries for a while, because IsHeld of another process may hold the lock for a moment.
func retryLock(try func() (io.Closer, error)) (l io.Closer, err error) {
	for range lockTries {
		if l, err = try(); !errors.Is(err, ErrLocked) {
			break
		}
		<-time.After(lockPause)
	}
	return l, err
}

const (
	lockTries = 10
	lockPause = 10 * time.Millisecond
)

// lockFile locks a file, which it makes if it is missing.
func lockFile(name string) (io.Closer, error) {
	if err := checkPlain(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := lock.Try(name, os.O_CREATE|os.O_RDONLY, 0o600)
	if errors.Is(err, lock.ErrTaken) {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	return l, err
}

// IsHeld says whether a process has the outbox in dir open. It takes shared locks and gives them
// back at once, because no other way works on every system. It returns false if that is unknown.
func IsHeld(dir string) bool {
	l, err := lockDir(dir, false)
	if l != nil {
		_ = l.Close()
	}
	if errors.Is(err, ErrLocked) {
		return true
	}
	name := filepath.Join(dir, LockName)
	if checkPlain(name) != nil {
		return false
	}
	if l, err = lock.TryShared(name, os.O_RDONLY, 0); l != nil {
		_ = l.Close()
	}
	return errors.Is(err, lock.ErrTaken)
}

// checkPlain returns ErrSpecial, with the kind of the file, if name is not a plain file.
func checkPlain(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	return specialError(name, info.Mode())
}

// specialError returns the error of checkPlain for a mode; nil for a plain file.
func specialError(name string, mode fs.FileMode) error {
	kind := ""
	switch {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		kind = "a directory"
	case mode&fs.ModeSymlink != 0:
		kind = "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	default:
		kind = "a device"
	}
	return fmt.Errorf("%s is %s: %w: move it away", name, kind, ErrSpecial)
}

func (realDisk) List(dir string) ([]string, error) {
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

func (realDisk) Open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag|plainOnly, 0o600)
	if err != nil {
		if special := checkPlain(name); errors.Is(special, ErrSpecial) {
			return nil, special // clearer than the system's error
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = specialError(name, info.Mode())
	}
	if err == nil && plainOnly == 0 { // the system could not be told not to follow a link
		err = checkPlain(name)
	}
	if err != nil {
		_ = f.Close() // the first error is returned
		return nil, err
	}
	return realFile{f, info}, nil
}

func (realDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (realDisk) Remove(name string) error     { return os.Remove(name) }
func (realDisk) SyncDir(dir string) error     { return syncDir(dir) }

type realFile struct {
	*os.File
	info fs.FileInfo // when it was opened
}

func (f realFile) Sync() error { return syncData(f.File) }

func (f realFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f realFile) Is(name string) (bool, error) {
	return isFile(f.info, name)
}

// WriteAgain writes the same bytes of a part of a file again.
func WriteAgain(f File, from, to int64) error {
	buf := make([]byte, min(to-from, 256<<10))
	for ; from < to; from += int64(len(buf)) {
		buf = buf[:min(to-from, int64(len(buf)))]
		if _, err := f.ReadAt(buf, from); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, from); err != nil {
			return err
		}
	}
	return nil
}
