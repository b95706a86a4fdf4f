//go:build unix

package namedfile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFilesThatFlagsName: each file is read up to a bound. A special file is named and not waited
// for.
func TestFilesThatFlagsName(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo, socket, huge := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket"), write("huge", "")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 300<<20); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for path, says := range map[string]string{
		dir: "this is a directory", fifo: "this is a named pipe", socket: "this is a socket", "/dev/zero": "this is a device",
		"/dev/null": "this is a device", huge: "more than 64 kB", filepath.Join(dir, "none"): "there is no file",
		"AAECAwQFBgcICQoLDA0ODw==": "looks like the secret itself", write("utf16", "\xff\xfea\x00"): "save it as UTF-8",
	} {
		_, err := ReadKey("device-key-file", path)
		if err == nil || !strings.HasPrefix(err.Error(), "device-key-file") || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "AAECAw") {
			t.Errorf("%s: %v", path, err)
		}
		if want := strings.Contains(says, "no file") || strings.Contains(says, "secret"); errors.Is(err, fs.ErrNotExist) != want {
			t.Errorf("%s: not there: %v", path, !want)
		}
	}
	keyLike := write("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g", "a2V5")
	t.Chdir(dir)
	if key, err := ReadKey("k", filepath.Base(keyLike)); err != nil || key != "a2V5" {
		t.Errorf("a file whose name looks like a key: %q, %v", key, err)
	}
	for name, content := range map[string]string{"plain": "a2V5", "lf": "a2V5\n", "windows": "\xef\xbb\xbf a2V5\r\n"} {
		if key, err := ReadKey("k", write(name, content)); err != nil || key != "a2V5" {
			t.Errorf("%s: %q, %v", name, key, err)
		}
	}
}

// TestPipesThatTheShellHandsOver are read, but neither without an end nor for ever.
func TestPipesThatTheShellHandsOver(t *testing.T) {
	pipe := func() (path string, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return fmt.Sprintf("/dev/fd/%d", r.Fd()), w
	}
	path, w := pipe()
	go func() {
		_, _ = w.WriteString("a2V5\n")
		_ = w.Close()
	}()
	if key, err := ReadKey("k", path); err != nil || key != "a2V5" {
		t.Error(key, err)
	}
	path, endless := pipe()
	go func() {
		for b := make([]byte, 4096); ; {
			if _, err := endless.Write(b); err != nil {
				return
			}
		}
	}()
	if _, err := ReadKey("k", path); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if runtime.GOOS == "linux" { // elsewhere the pipe itself is handed on, and cannot be waited for with an end
		silent, _ := pipe()
		if _, err := readWithin("k", silent, 1, time.Millisecond); err == nil || !strings.Contains(err.Error(), "nothing came from") {
			t.Error(err)
		}
	}
}
