package lock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/gofrs/flock"
)

// TestLockExcludesOthers: while a lock is held nobody else gets it, also not with the library that
// earlier versions used, and the other way round. When it is closed, the next one gets it.
func TestLockExcludesOthers(t *testing.T) {
	dir := t.TempDir()
	for name, flag := range map[string]int{filepath.Join(dir, "lock"): os.O_CREATE | os.O_RDONLY, dir: os.O_RDONLY} {
		if name == dir && runtime.GOOS == "windows" {
			continue // it locks files only
		}
		for range 3 {
			l, err := Try(name, flag, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			runtime.GC() // the lock is not that of an object that is gone
			if _, err := Try(name, flag, 0o600); !errors.Is(err, ErrTaken) {
				t.Errorf("%s is locked twice: %v", name, err)
			}
			if _, err := TryShared(name, flag, 0o600); !errors.Is(err, ErrTaken) {
				t.Errorf("%s is shared although it is locked: %v", name, err)
			}
			old := flock.New(name, flock.SetFlag(flag))
			if ok, err := old.TryLock(); ok || err != nil {
				t.Errorf("%s: the library locks it too: %v", name, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if ok, err := old.TryLock(); !ok || err != nil {
				t.Errorf("%s is still locked: %v", name, err)
			}
			if _, err := Try(name, flag, 0o600); !errors.Is(err, ErrTaken) {
				t.Errorf("%s was locked by the library: %v", name, err)
			}
			if err := old.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	a, err := TryShared(filepath.Join(dir, "lock"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := TryShared(filepath.Join(dir, "lock"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal("two do not share: ", err)
	}
	for _, l := range []interface{ Close() error }{a, b} {
		if _, err := Try(filepath.Join(dir, "lock"), os.O_RDONLY, 0); !errors.Is(err, ErrTaken) {
			t.Errorf("locked although it is shared: %v", err)
		}
		_ = l.Close()
	}
	if _, err := Try(filepath.Join(dir, "none", "lock"), os.O_CREATE|os.O_RDONLY, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file without a directory: %v", err)
	}
}
