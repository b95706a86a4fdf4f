package status

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// socketServer serves a control socket in a directory until stop.
func socketServer(t *testing.T, s *Server, k Socket) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	k.every = 10 * time.Millisecond
	go func() { defer close(ended); s.ServeSocket(ctx, k) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

// await asks the device in a directory until it answers.
func await(t *testing.T, dir string) View {
	t.Helper()
	for t.Context().Err() == nil {
		if path, err := FindSocket(dir); err == nil {
			c := NewClient(path)
			v, _, err := c.Status(t.Context())
			c.Close()
			if err == nil {
				return v
			}
		}
		runtime.Gosched()
	}
	t.Fatal("nobody answers")
	return View{}
}

// TestTheSocketIsForItsUserAlone looks at the modes of the socket, and lets the level be changed
// there.
func TestTheSocketIsForItsUserAlone(t *testing.T) {
	s, _ := newServer()
	var level string
	s.SetLevel = func(l string, d time.Duration) error {
		if l != "debug" {
			return errors.New("there is only debug")
		}
		level = fmt.Sprint(l, d)
		return nil
	}
	dir := t.TempDir()
	stop := socketServer(t, s, Socket{Dir: dir})
	if v := await(t, dir); v.Device != "dev-1" {
		t.Errorf("%+v", v)
	}
	path := filepath.Join(dir, SocketName)
	info, err := os.Lstat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	for body, want := range map[string]int{
		`{"level":"debug","for":"10m"}`: 200, `{"level":"loud"}`: 400, `{"level":"debug","for":"soon"}`: 400, `{"level":"debug","for":"-1s"}`: 400,
		`{"level":"debug","until":"x"}`: 400, ``: 400, `[]`: 400, `{"level":"` + strings.Repeat("x", 1<<20) + `"}`: 400,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://hubhop/loglevel", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		a, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		if a.StatusCode != want {
			t.Errorf("%.40s: %s", body, a.Status)
		}
	}
	if level != "debug10m0s" {
		t.Errorf("the level is %q", level)
	}
	stop()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// TestADeletedSocketIsMadeAnew deletes the socket, then its whole directory.
func TestADeletedSocketIsMadeAnew(t *testing.T) {
	s, _ := newServer()
	dir := filepath.Join(t.TempDir(), "dev")
	must(t, os.Mkdir(dir, 0o700))
	socketServer(t, s, Socket{Dir: dir})
	await(t, dir)
	must(t, os.Remove(filepath.Join(dir, SocketName)))
	await(t, dir)
	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o700))
	await(t, dir)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheSocketOfADeadProcessIsReplaced leaves a socket behind that nobody serves.
func TestTheSocketOfADeadProcessIsReplaced(t *testing.T) {
	dir := t.TempDir()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, SocketName))
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, l.Close())
	s, _ := newServer()
	socketServer(t, s, Socket{Dir: dir})
	await(t, dir)
}

// TestASocketThatIsServedStays lets two servers use one directory: the second one takes nothing
// from the first, says so once, and takes over when the first has ended.
func TestASocketThatIsServedStays(t *testing.T) {
	dir := t.TempDir()
	first, _ := newServer()
	stop := socketServer(t, first, Socket{Dir: dir})
	await(t, dir)
	second, now := newServer()
	now.view.Device = "second"
	told := make(chan string, 10)
	second.Report = func(text string) { told <- text }
	socketServer(t, second, Socket{Dir: dir})
	if text := <-told; !strings.Contains(text, errServed.Error()) {
		t.Error(text)
	}
	if v := await(t, dir); v.Device != "dev-1" {
		t.Errorf("%s answers", v.Device)
	}
	stop()
	if v := await(t, dir); v.Device != "second" {
		t.Errorf("%s answers", v.Device)
	}
	if len(told) > 0 {
		t.Errorf("it said also %q", <-told)
	}
}

// TestAFileInThePlaceOfTheSocketStays puts a plain file there.
func TestAFileInThePlaceOfTheSocketStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SocketName)
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	s, _ := newServer()
	told := make(chan string, 10)
	s.Report = func(text string) { told <- text }
	stop := socketServer(t, s, Socket{Dir: dir})
	if text := <-told; !strings.Contains(text, "is no socket; move it away") {
		t.Error(text)
	}
	stop()
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("it holds %q", b)
	}
}

// TestALongPathHasAShortSocket uses a directory whose path is too long for a socket, twice in a
// row, and refuses a directory for sockets that others can enter.
func TestALongPathHasAShortSocket(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, strings.Repeat("long", 30))
	must(t, os.Mkdir(dir, 0o700))
	short, err := os.MkdirTemp("", "hh") //nolint:usetesting // the path of TempDir may be too long itself
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	k := Socket{Dir: dir, Short: filepath.Join(short, "s")}
	for range 2 {
		s, _ := newServer()
		stop := socketServer(t, s, k)
		await(t, dir)
		t.Chdir(root)
		if v := await(t, filepath.Base(dir)); v.Device != "dev-1" { // the relative path is short enough
			t.Errorf("%+v", v)
		}
		if runtime.GOOS != "windows" { // where a link needs a privilege
			link := filepath.Join(root, "short")
			_ = os.Remove(link)
			must(t, os.Symlink(dir, link))
			await(t, link)
		}
		b, err := os.ReadFile(filepath.Join(dir, SocketPathName))
		if err != nil || !strings.HasPrefix(string(b), k.Short) {
			t.Errorf("%q %v", b, err)
		}
		stop()
		if _, err := os.Lstat(filepath.Join(dir, SocketPathName)); err == nil {
			t.Error("the file with the path is left behind")
		}
	}
	if runtime.GOOS == "windows" {
		return
	}
	must(t, os.Chmod(k.Short, 0o755))
	s, _ := newServer()
	told := make(chan string, 10)
	s.Report = func(text string) { told <- text }
	socketServer(t, s, k)
	if text := <-told; !strings.Contains(text, "only this user may enter") {
		t.Error(text)
	}
}

// failing is a listener that accepts nothing.
type failing struct{ net.Listener }

func (failing) Accept() (net.Conn, error) { return nil, errors.New("no buffer space") }

// TestASocketThatFailsIsTriedAgainAfterAPause lets the socket fail as soon as it is served. It
// is told of once.
func TestASocketThatFailsIsTriedAgainAfterAPause(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer()
		told := make(chan string, 1000)
		s.Report = func(text string) { told <- text }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		made := 0
		wrap := func(l net.Listener) net.Listener {
			if made++; made >= 100 {
				cancel() // else it never rests
			}
			return failing{l}
		}
		ended := make(chan struct{})
		go func() { defer close(ended); s.ServeSocket(ctx, Socket{Dir: dir, wrap: wrap}) }()
		time.Sleep(5*retryEvery - retryEvery/2)
		synctest.Wait()
		if made != 5 {
			t.Errorf("the socket was made %d times in five pauses", made)
		}
		if len(told) != 1 || !strings.Contains(<-told, "its control socket has failed ("+filepath.Join(dir, SocketName)+" takes no more connections: no buffer space)") {
			t.Errorf("it was reported %d times", len(told))
		}
		cancel()
		<-ended
		if _, err := os.Lstat(filepath.Join(dir, SocketName)); err == nil {
			t.Error("the socket is left behind")
		}
	})
}

// TestWhatIsNoStatusIsRefused: the file with the path of the socket may be another one, and
// who answers on the socket may be no hubhop.
func TestWhatIsNoStatusIsRefused(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, SocketPathName)
	for _, text := range []string{"", "junk", strings.Repeat("/x", 1<<20)} {
		must(t, os.WriteFile(name, []byte(text), 0o600))
		if path, err := FindSocket(dir); err == nil || !strings.Contains(err.Error(), "has no path of a socket") {
			t.Errorf("%.10q: %.200q, %v", text, path, err)
		}
	}
	if runtime.GOOS != "windows" {
		must(t, os.Remove(name))
		must(t, os.Symlink("/dev/zero", name)) // it never ends
		if _, err := FindSocket(dir); err == nil || !strings.Contains(err.Error(), "is no file") {
			t.Error(err)
		}
	}
	for what, answer := range map[string]http.HandlerFunc{
		"null": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("null")) },
		"{}":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		"307 Temporary": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		},
		`its state is "what"`: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"state":"what"}`)) },
	} {
		dir := t.TempDir()
		l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, SocketName))
		must(t, err)
		server := http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = server.Serve(l) }()
		c := NewClient(filepath.Join(dir, SocketName))
		if v, _, err := c.Status(t.Context()); err == nil || strings.Contains(what, " ") && !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %+v %v", what, v, err)
		}
		c.Close()
		_ = server.Close()
		<-ended
	}
}

// TestASocketThatPackageNetCannotNameIsAnError: package net panics if the kernel does not name a
// new socket. The process goes on, and the error names the path.
func TestASocketThatPackageNetCannotNameIsAnError(t *testing.T) {
	config := net.ListenConfig{Control: func(string, string, syscall.RawConn) error { panic("no name") }}
	path := filepath.Join(t.TempDir(), "s")
	if l, err := listenUnix(t.Context(), config, path); err == nil || l != nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, %v", l, err)
	}
}
