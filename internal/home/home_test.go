package home

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// opened opens the home of a device on the real disk.
func opened(stateDir, deviceID string) (*Home, error) {
	h := New(RealDisk, stateDir, deviceID, nil)
	return h, h.Open()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSecondProcess: one device, one state directory, one process.
func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	first, err := opened(dir, "dev-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opened(dir, "dev-1"); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("%v", err)
	}
	other, err := opened(dir, "dev-2")
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	first.Close()
	again, err := opened(dir, "dev-1")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := opened(blocked, "dev-1"); !errors.Is(err, ErrStateDir) || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("%v", err)
	}
}

func TestFileNames(t *testing.T) {
	for id, want := range map[string]string{"dev-001": "dev-001", "A.b_c": "A.b_c", "a:b/c": "a%3Ab%2Fc", "..": "%2E.", "": ""} {
		if got := fileName(id); got != want {
			t.Errorf("%q: %q", id, got)
		}
	}
}

// TestLockFileRemoved: a directory whose lock file somebody has removed is still taken.
func TestLockFileRemoved(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("this system locks files only, and removes none that is open")
	}
	dir := t.TempDir()
	first, err := opened(dir, "dev-1")
	must(t, err)
	defer first.Close()
	if _, err := opened(dir, "dev-1"); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("stop process %d,", os.Getpid())) {
		t.Errorf("%v", err)
	}
	must(t, os.Remove(first.Path(LockFile)))
	if _, err := opened(dir, "dev-1"); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one runs: %v", err)
	}
}

// TestLongIDs: an id of 128 characters, none of which is legal in a file name, has a directory of
// its own, and is listed.
func TestLongIDs(t *testing.T) {
	dir := t.TempDir()
	ids := []string{strings.Repeat("*", 128), strings.Repeat("*", 127) + "?", strings.Repeat("a", 128), strings.Repeat("*", 85)}
	for _, id := range ids {
		h, err := opened(dir, id)
		must(t, err)
		must(t, os.Mkdir(h.Path(OutboxName), 0o700))
		h.Made(OutboxName)
		h.Close()
		if len(filepath.Base(filepath.Dir(h.Path("x")))) > 255 {
			t.Errorf("%d bytes", len(filepath.Base(filepath.Dir(h.Path("x")))))
		}
	}
	got := OutboxDevices(dir)
	slices.Sort(got)
	slices.Sort(ids)
	if !slices.Equal(got, ids) {
		t.Errorf("%q", got)
	}
}
