package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

func TestOptions(t *testing.T) {
	_, err := Open(t.TempDir(), Options{MaxBytes: -1, MaxAge: -1, Full: 7})
	for _, word := range []string{"MaxBytes", "MaxAge", "Full"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	closeBox(t, b)
	closeBox(t, openBox(t, dir, Options{}))
}

func TestOpenNeedsADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	b := openBox(t, dir, Options{})
	defer closeBox(t, b)
	appendBodies(t, b, "x")
	for name, want := range map[string]os.FileMode{"": 0o700, cursorName: 0o600, segName(1): 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, name, info.Mode().Perm(), want)
	}
}

// TestOtherFormatIsRefused: a directory of a newer format is left exactly as it is.
func TestOtherFormatIsRefused(t *testing.T) {
	refuse := func(t *testing.T, file string, version byte, want error) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "x")
		closeBox(t, b)
		disk.Edit("/box/"+file, func(data []byte) []byte {
			magic := string(data[:8])
			newer := append([]byte(magic), version, 0, 0, 0)
			newer = le.AppendUint32(newer, checksum(newer))
			for at := range data {
				if strings.HasPrefix(string(data[at:]), magic) {
					copy(data[at:], newer)
				}
			}
			return data
		})
		before := disk.Calls
		_, err := Open("/box", Options{FS: disk})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
			t.Errorf("got %v", err)
		}
		equal(t, "calls that change something", disk.Calls, before)
		if _, err := Open("/box", Options{FS: disk}); errors.Is(err, ErrLocked) {
			t.Error("the lock was kept")
		}
	}
	for _, file := range []string{cursorName, segName(1)} {
		refuse(t, file, 2, ErrNewer)
		refuse(t, file, 0, ErrOlder)
	}
}
