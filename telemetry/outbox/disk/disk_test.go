package disk

import (
	"errors"
	"io"
	"path/filepath"
	"syscall"
	"testing"
)

// TestLockWithoutAFile: if no lock file can be made, the lock on the directory is enough.
func TestLockWithoutAFile(t *testing.T) {
	dir := t.TempDir()
	onDir := func() (io.Closer, error) { return lockDir(dir, true) }
	for _, errno := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.EIO} {
		first, err := lockBoth(onDir, func() (io.Closer, error) { return nil, errno })
		if err != nil {
			t.Fatalf("%v: %v", errno, err)
		}
		if _, err := Real().Lock(dir); !errors.Is(err, ErrLocked) {
			t.Errorf("%v: another one gets in: %v", errno, err)
		}
		if !IsHeld(dir) {
			t.Errorf("%v: it does not look held", errno)
		}
		if err := first.Close(); err != nil || IsHeld(dir) {
			t.Errorf("%v: it is held for ever: %v", errno, err)
		}
	}
	if _, err := lockBoth(onDir, func() (io.Closer, error) { return nil, syscall.EACCES }); !errors.Is(err, syscall.EACCES) {
		t.Errorf("without permission: %v", err)
	}
	if IsHeld(dir) {
		t.Error("it is held after an error")
	}
	// If the system cannot lock directories, the lock on the file is enough.
	none := func() (io.Closer, error) { return nil, errors.ErrUnsupported }
	onFile := func() (io.Closer, error) { return lockFile(filepath.Join(dir, LockName)) }
	first, err := lockBoth(none, onFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockBoth(none, onFile); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}
