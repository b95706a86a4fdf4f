package sim

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// listening returns the addresses this very process listens on, as the kernel tells it.
func listening(t *testing.T) (addrs []string) {
	t.Helper()
	own := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		table, err := os.Open(file)
		if err != nil {
			continue // no IPv6 here
		}
		for lines := bufio.NewScanner(table); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) > 9 && f[3] == "0A" && own[f[9]] { // 0A is LISTEN
				addrs = append(addrs, f[1])
			}
		}
		_ = table.Close()
	}
	return addrs
}

// The test asks the kernel, so that it finds a listener that was not opened with Config.Listen,
// too.
func TestNothingListensBeyondLoopback(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux lists the listening sockets of a process, in /proc/net")
	}
	w := realWorld(t, func(c *Config) { c.Hubs, c.ConnectProxy = 3, "127.0.0.1:0" })
	addrs := listening(t)
	if want := 2 + 2*3 + 2; len(addrs) < want {
		t.Errorf("%d listeners, want at least %d: %v", len(addrs), want, addrs)
	}
	for _, a := range addrs {
		if !strings.HasPrefix(a, "0100007F:") { // 127.0.0.1, the kernel's way
			t.Errorf("listens on %s", a)
		}
	}
	must(t, w.Close())
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "10.0.0.1:0", "example.org:0", "nonsense"} {
		s, err := New(Config{Listen: func(string, string) (net.Listener, error) {
			t.Errorf("listens on %q", listen)
			return nil, net.ErrClosed
		}})
		must(t, err)
		if _, err := s.config.Listen("tcp", listen); err == nil || !strings.Contains(err.Error(), "--listen-any") {
			t.Errorf("%s: %v", listen, err)
		}
	}
	asked := 0
	s, err := New(Config{ListenAny: true, Listen: func(string, string) (net.Listener, error) { asked++; return nil, net.ErrClosed }})
	must(t, err)
	if _, err := s.config.Listen("tcp", "0.0.0.0:0"); err == nil || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

// A web page may let its own name point at this machine. It reads nothing and changes nothing.
func TestReboundPageReadsAndChangesNothing(t *testing.T) {
	w := realWorld(t, func(c *Config) {
		c.Page = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "the page") })
	})
	own := strings.TrimPrefix(w.info.Control, "http://")
	_, port, _ := net.SplitHostPort(own)
	requests := []string{"GET /api/state", "GET /api/events", "GET /api/ledger", "GET /", "GET /page/style.css", "HEAD /api/state", "POST /api/devices/d/enable", "DELETE /api/ledger",
		"PATCH /api/devices/d/desired", "OPTIONS /api/state"}
	for _, host := range []string{"evil.example", "evil.example:" + port, "", ":" + port, "10.0.0.1:" + port, "localhost.evil.example:" + port,
		"127.0.0.1.evil.example", "0.0.0.0:" + port, "[::]", "127.0.0.1@evil.example", "localhost:80:80"} {
		for _, request := range requests {
			method, path, _ := strings.Cut(request, " ")
			r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
			r.Host = host
			rec := httptest.NewRecorder()
			w.ControlHandler().ServeHTTP(rec, r)
			if rec.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s as %q: %v", request, host, rec.Header())
			}
			if rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), `"error"`) {
				t.Errorf("%s as %q: %d %s", request, host, rec.Code, rec.Body)
			}
		}
	}
	for _, host := range []string{own, "localhost:" + port, "localhost", "127.0.0.1", "127.0.0.9:1", "[::1]:" + port, "::1"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/state", nil)
		r.Host = host
		rec := httptest.NewRecorder()
		if w.ControlHandler().ServeHTTP(rec, r); rec.Code != http.StatusOK {
			t.Errorf("%q: %d %s", host, rec.Code, rec.Body)
		}
	}
	for path, want := range map[string]string{"/": "the page", "/page/style.css": "the page", "/other": `"error"`} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Host = own
		rec := httptest.NewRecorder()
		if w.ControlHandler().ServeHTTP(rec, r); !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
	// where everybody may connect an address will do, but a name may still be anybody's
	everywhere := realWorld(t, func(c *Config) { c.ListenAny, c.ControlAddr = true, "0.0.0.0:0" })
	for host, status := range map[string]int{"192.0.2.7:8090": 200, "[2001:db8::1]:8090": 200, "evil.example:8090": 403, "": 403} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/state", nil)
		r.Host = host
		rec := httptest.NewRecorder()
		if everywhere.ControlHandler().ServeHTTP(rec, r); rec.Code != status {
			t.Errorf("%q: %d %s", host, rec.Code, rec.Body)
		}
	}
}

// Files with keys belong to their owner alone, whatever was there before, and whoever may write
// into the directory.
func TestFilesWithKeysAreTheirOwnersAlone(t *testing.T) {
	w := realWorld(t, nil)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.WriteFile(elsewhere, []byte("untouched"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "sim.json"), []byte("{}"), 0o644))
	must(t, os.Chmod(filepath.Join(dir, "sim.json"), 0o666))
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "device-ca-key.pem")))
	reader, err := os.Open(filepath.Join(dir, "sim.json")) // opened while everybody could
	must(t, err)
	defer func() { _ = reader.Close() }()
	must(t, w.WriteFiles(dir))
	for _, name := range []string{"sim.json", "device-ca-key.pem", "group.key"} {
		info, err := os.Lstat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s is %v", name, info.Mode())
		}
	}
	if old := make([]byte, 10); fmt.Sprint(reader.Read(old)) != "2 <nil>" || string(old[:2]) != "{}" {
		t.Errorf("who had the old file open reads %s", old)
	}
	if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "untouched" {
		t.Errorf("%s %v", b, err)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"ca.pem", "device-ca-key.pem", "device-ca.pem", "group.key", "sim.json"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
}
