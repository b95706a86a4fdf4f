// Package simtest has what the tests of several of the simulator's rooms need. It imports none of
// the rooms, so that the tests inside each of them can import it.
package simtest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Killed copies a state directory in use, and returns the copy. It is what a process that is killed
// now would leave behind.
func Killed(t testing.TB, dir string) string {
	t.Helper()
	after := filepath.Join(t.TempDir(), "state")
	Must(t, os.CopyFS(after, os.DirFS(dir)))
	return after
}

// ErrFull is the error of a [FullDisk].
var ErrFull = errors.New("no space left on device")

// DiskFile is the part of an [os.File] that the rooms write through.
type DiskFile = interface {
	WriteAt(b []byte, at int64) (int, error)
	ReadAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
	Close() error
}

// FullDisk is a file on a disk that takes only Room more bytes. A write of more than that writes as
// much as there is room for, and fails. The caller guards it.
type FullDisk struct {
	DiskFile
	Room     int
	CutFails bool // a truncation fails, too
}

// Over puts the disk between a file and its owner.
func (f *FullDisk) Over(file DiskFile) DiskFile {
	f.DiskFile = file
	return f
}

// WriteAt writes what there is room for.
func (f *FullDisk) WriteAt(b []byte, at int64) (int, error) {
	if len(b) > f.Room {
		n, _ := f.DiskFile.WriteAt(b[:f.Room], at)
		f.Room = 0
		return n, ErrFull
	}
	f.Room -= len(b)
	return f.DiskFile.WriteAt(b, at)
}

// Truncate fails if CutFails says so.
func (f *FullDisk) Truncate(size int64) error {
	if f.CutFails {
		return ErrFull
	}
	return f.DiskFile.Truncate(size)
}
