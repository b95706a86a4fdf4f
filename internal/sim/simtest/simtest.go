// Package simtest has what the tests of several of the simulator's rooms need. It imports none of
// the rooms, so that the tests inside each of them can import it.
package simtest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
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
	Truncate(size int64) error
	Close() error
}

// FullDisk is a file on a disk that takes only so many more bytes. A write of more than that writes
// as much as there is room for, and fails. Its methods may be called from any goroutine.
type FullDisk struct {
	DiskFile

	mu       sync.Mutex // guards what is below
	room     int
	cutFails bool
}

// NewFullDisk returns a disk that takes room more bytes.
func NewFullDisk(room int) *FullDisk { return &FullDisk{room: room} }

// Over puts the disk between a file and its owner.
func (f *FullDisk) Over(file DiskFile) DiskFile {
	f.DiskFile = file
	return f
}

// MakeRoom lets the disk take room more bytes from now on.
func (f *FullDisk) MakeRoom(room int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = room
}

// FailCuts says whether truncations fail, too.
func (f *FullDisk) FailCuts(fail bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutFails = fail
}

// WriteAt writes what there is room for.
func (f *FullDisk) WriteAt(b []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(b) > f.room {
		n, _ := f.DiskFile.WriteAt(b[:f.room], at)
		f.room = 0
		return n, ErrFull
	}
	f.room -= len(b)
	return f.DiskFile.WriteAt(b, at)
}

// Truncate cuts the file, or fails.
func (f *FullDisk) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cutFails {
		return ErrFull
	}
	return f.DiskFile.Truncate(size)
}
