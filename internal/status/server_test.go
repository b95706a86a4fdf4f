package status

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shown is what the tests show.
type shown struct {
	mu    sync.Mutex
	view  View
	beats []Beat
}

func (s *shown) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

func (s *shown) Beats() []Beat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beats
}

func (s *shown) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// serve starts a server on a loopback port, as if it had a reach, until the test ends.
func serve(t *testing.T, s *Server, reach Reach) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, reach) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func newServer() (*Server, *shown) {
	s := &shown{view: View{Device: "dev-1", State: Connected, Hub: "hub-a", Flows: []Flow{}, Assets: []Asset{}}}
	text := func(body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	}
	return &Server{Shown: s, Events: NewEvents(), Metrics: text("metrics"), Page: text("page")}, s
}

// ask makes one request with some headers, "Host" among them.
func ask(t *testing.T, method, addr, path string, headers ...string) (code int, body string, h http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Body.Close() }()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(b), a.Header
}

// TestEachRouteAnswersOnLoopback asks for all routes of a device that is well.
func TestEachRouteAnswersOnLoopback(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	for path, want := range map[string]string{
		"/healthz": `"healthy":true`, "/readyz": `"ready":true`, "/status": `"device":"dev-1"`, "/metrics": "metrics", "/": "page", "/page.js": "page",
	} {
		code, body, h := ask(t, http.MethodGet, addr, path)
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("GET %s has the headers %v", path, h)
		}
	}
}

// TestNothingChangesOverTCP tries the methods that change things on every route, and the log level
// on each reach but the socket.
func TestNothingChangesOverTCP(t *testing.T) {
	for _, reach := range []Reach{OnMachine, OnNetwork} {
		s, _ := newServer()
		s.Token, s.SetLevel = "secret", func(string, time.Duration) error {
			t.Error("the level was changed")
			return nil
		}
		addr := serve(t, s, reach)
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			for _, path := range []string{"/healthz", "/readyz", "/status", "/metrics", "/events", "/loglevel", "/"} {
				if code, body, _ := ask(t, method, addr, path, "Authorization", "Bearer secret"); code < 400 {
					t.Errorf("%s %s: %d %s", method, path, code, body)
				}
			}
		}
	}
}

// TestForeignPagesAreRefusedOnLoopback makes the requests that a page of another site can let a
// browser make, also by its own name that leads to this machine (DNS rebinding).
func TestForeignPagesAreRefusedOnLoopback(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	_, port, _ := net.SplitHostPort(addr)
	for _, headers := range [][]string{
		{"Host", "evil.example"},
		{"Host", "evil.example:" + port},
		{"Host", "127.0.0.1.evil.example"},
		{"Host", "localhost.evil.example:" + port},
		{"Host", "192.0.2.1:" + port},
		{"Host", "[::ffff:192.0.2.1]:" + port},
		{"Host", "0.0.0.0:" + port},
		{"Origin", "https://evil.example"},
		{"Origin", "http://127.0.0.1:1"},
		{"Origin", "https://" + addr},
		{"Origin", "null"},
		{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"},
	} {
		for _, path := range []string{"/healthz", "/status", "/events", "/metrics", "/"} {
			code, body, h := ask(t, http.MethodGet, addr, path, headers...)
			if code != http.StatusForbidden || strings.Contains(body, "dev-1") || h.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("GET %s with %q: %d %s", path, headers, code, body)
			}
		}
	}
	for _, headers := range [][]string{
		{"Host", "localhost:" + port}, {"Host", "LOCALHOST"}, {"Host", "[::1]:" + port}, {"Host", "127.0.0.9"},
		{"Origin", "http://" + addr}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"},
	} {
		if code, body, _ := ask(t, http.MethodGet, addr, "/status", headers...); code != http.StatusOK {
			t.Errorf("GET /status with %q: %d %s", headers, code, body)
		}
	}
}

// TestTheNetworkNeedsTheToken asks from an address of the network with and without tokens.
func TestTheNetworkNeedsTheToken(t *testing.T) {
	closed := []string{"/status", "/events", "/", "/page.js", "/loglevel", "/healthz/../status", "//healthz"}
	for _, token := range []string{"", "secret"} {
		s, _ := newServer()
		s.Token = token
		addr := serve(t, s, OnNetwork)
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			if code, body, _ := ask(t, http.MethodGet, addr, path); code != http.StatusOK {
				t.Errorf("with the token %q GET %s is not open: %d %s", token, path, code, body)
			}
		}
		for _, path := range closed {
			for _, given := range []string{"", "Bearer", "Bearer ", "Bearer x", "Bearer secre", "Bearer secret2", "Basic secret", "secret", "Bearer Secret"} {
				if code, body, _ := ask(t, http.MethodGet, addr, path, "Authorization", given); code != http.StatusForbidden && code != http.StatusUnauthorized || strings.Contains(body, "dev-1") {
					t.Errorf("with the token %q and %q GET %s: %d %s", token, given, path, code, body)
				}
			}
		}
		want := http.StatusForbidden
		if token != "" {
			want = http.StatusOK
		}
		if code, body, _ := ask(t, http.MethodGet, addr, "/status", "Authorization", "Bearer secret"); code != want {
			t.Errorf("with the token %q: %d %s", token, code, body)
		}
	}
}

// TestReadyzSaysWhyNot asks a device without a link.
func TestReadyzSaysWhyNot(t *testing.T) {
	s, now := newServer()
	now.view.Hub, now.view.State, now.view.Why = "", Waiting, &Why{Rule: "H07", Evidence: "refused"}
	code, body, _ := ask(t, http.MethodGet, serve(t, s, OnMachine), "/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, `"rule":"H07"`) || !strings.Contains(body, `"state":"waiting"`) {
		t.Errorf("%d %s", code, body)
	}
}

// TestHealthzNamesTheLoopThatStandsStill asks while loops wait, work, and stand still.
func TestHealthzNamesTheLoopThatStandsStill(t *testing.T) {
	s, now := newServer()
	addr := serve(t, s, OnMachine)
	began := time.Now()
	for _, c := range []struct {
		beats []Beat
		code  int
		still string
	}{
		{[]Beat{{Loop: "session"}, {Loop: "samples", Due: began.Add(time.Hour)}}, http.StatusOK, ""},
		{[]Beat{{Loop: "session", Busy: began.Add(-29 * time.Second)}, {Loop: "samples", Due: began.Add(-29 * time.Second)}}, http.StatusOK, ""},
		{[]Beat{{Loop: "session", Busy: began.Add(-31 * time.Second)}, {Loop: "samples"}}, http.StatusServiceUnavailable, "session"},
		{[]Beat{{Loop: "session"}, {Loop: "samples", Due: began.Add(-31 * time.Second)}}, http.StatusServiceUnavailable, "samples"},
		{[]Beat{{Loop: "a", Busy: began.Add(-time.Minute)}, {Loop: "b", Busy: began.Add(-time.Hour)}}, http.StatusServiceUnavailable, "b"},
	} {
		now.set(func() { now.beats = c.beats })
		code, body, _ := ask(t, http.MethodGet, addr, "/healthz")
		if code != c.code || c.still != "" && !strings.Contains(body, `"still":"`+c.still+`"`) {
			t.Errorf("%+v: %d %s", c.beats, code, body)
		}
	}
}

// TestHugeHeadersAreRefused sends a header that is too large, and one line without an end.
func TestHugeHeadersAreRefused(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	conn := dial(t, addr)
	go func() {
		_, _ = fmt.Fprintf(conn, "GET /status HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n", strings.Repeat("x", 1<<20)) // fails when the server has seen enough
	}()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.Contains(line, " 431 ") {
		t.Errorf("%q", line)
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestConnectionsAreBounded opens more connections than the server takes: those beyond the bound
// are closed at once, and when one ends there is room again.
func TestConnectionsAreBounded(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	var all []net.Conn
	for range maxConns {
		all = append(all, dial(t, addr))
	}
	one := dial(t, addr)
	if _, err := one.Read(make([]byte, 1)); err == nil {
		t.Error("the server said something to a connection that is too many")
	}
	for _, conn := range all {
		_ = conn.Close()
	}
	for { // until the server has noticed the ends
		conn := dial(t, addr)
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if line, _ := bufio.NewReader(conn).ReadString('\n'); strings.Contains(line, " 200 ") {
			return
		}
	}
}

// TestClientsOfTheNetworkLeaveTheSocketAlone takes all places of TCP, by connections that say
// nothing and by readers of the events. The control socket answers all the same.
func TestClientsOfTheNetworkLeaveTheSocketAlone(t *testing.T) {
	for _, reach := range []Reach{OnMachine, OnNetwork} {
		s, _ := newServer()
		addr := serve(t, s, reach)
		for range maxConns {
			dial(t, addr)
		}
		if _, err := dial(t, addr).Read(make([]byte, 1)); err == nil {
			t.Error("there is room left: the test proves nothing")
		}
		s.mu.Lock()
		s.places[reach].streams = maxStreams
		s.mu.Unlock()
		socket := serve(t, s, OnSocket)
		if code, _, _ := ask(t, http.MethodGet, socket, "/status"); code != http.StatusOK {
			t.Errorf("the socket answers %d", code)
		}
		conn := dial(t, socket)
		_, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: hubhop\r\n\r\n")
		must(t, err)
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, " 200 ") {
			t.Errorf("the events of the socket: %q, %v", line, err)
		}
	}
}

// breaking is a listener that fails when it is told to.
type breaking struct {
	net.Listener
	now   chan struct{}
	fault error
}

func (b breaking) Accept() (net.Conn, error) {
	type accepted struct {
		conn net.Conn
		err  error
	}
	next := make(chan accepted, 1)
	go func() {
		conn, err := b.Listener.Accept()
		next <- accepted{conn, err}
	}()
	select {
	case a := <-next:
		return a.conn, a.err
	case <-b.now:
		return nil, b.fault
	}
}

// TestAListenerThatFailsEndsItsStreams lets a listener fail while a reader has a stream of events:
// the error names the address, and the stream ends with it, also while the device goes on.
func TestAListenerThatFailsEndsItsStreams(t *testing.T) {
	s, _ := newServer()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	broken := breaking{l, make(chan struct{}), errors.New("no buffer space")}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context(), broken, OnMachine) }()
	conn := dial(t, l.Addr().String())
	_, err = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	must(t, err)
	lines := bufio.NewScanner(conn)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), ":") {
	}
	close(broken.now)
	if err := <-ended; !errors.Is(err, broken.fault) || !strings.Contains(err.Error(), l.Addr().String()+" takes no more connections") {
		t.Error(err)
	}
	for lines.Scan() { // until the end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.places[OnMachine]; left != (places{}) {
		t.Errorf("%+v are left", left)
	}
}

// TestAPanicOfAPageIsContained answers 500 and reports it.
func TestAPanicOfAPageIsContained(t *testing.T) {
	s, _ := newServer()
	var told []string
	s.Report = func(text string) { told = append(told, text) }
	s.Page = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a fault") })
	if code, _, _ := ask(t, http.MethodGet, serve(t, s, OnMachine), "/%0A%1b[2J"); code != http.StatusInternalServerError {
		t.Error(code)
	}
	if len(told) != 1 || !strings.Contains(told[0], "a fault") || strings.ContainsAny(told[0], "\n\x1b") {
		t.Errorf("%q", told)
	}
}

// TestSlowClientsAreEnded makes clients that send their request byte by byte, that send nothing
// more, and that take no answer. Each is ended within its bound, in virtual time.
func TestSlowClientsAreEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer()
		huge := strings.Repeat("x", 4<<20)
		s.Page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, huge) })
		net := memnet.New()
		l, err := net.Listen("tcp", "10.0.0.1:80")
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, l, OnMachine) }()
		for what, c := range map[string]struct {
			begin   string
			drip    bool
			atLeast time.Duration
			atMost  time.Duration
		}{
			"no request":          {"", false, headerLimit, headerLimit + time.Second},
			"a header by drips":   {"GET /status HTTP/1.1\r\nHost: localhost\r\nX: ", true, headerLimit, headerLimit + time.Second},
			"no second request":   {"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n", false, idleLimit, idleLimit + time.Second},
			"an answer not taken": {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", false, writeLimit, writeLimit + 2*time.Second},
		} {
			began := time.Now()
			conn, err := net.DialContext(t.Context(), "tcp", "10.0.0.1:80")
			must(t, err)
			if _, err = io.WriteString(conn, c.begin); err != nil {
				t.Fatal(err)
			}
			over := func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.places[OnMachine].conns == 0
			}
			synctest.Wait()
			if over() {
				t.Errorf("%s: the connection was ended at once", what)
			}
			for !over() && time.Since(began) < 10*time.Minute {
				if c.drip {
					_, _ = io.WriteString(conn, "x") // fails at the end
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
			}
			if took := time.Since(began); took < c.atLeast || took > c.atMost {
				t.Errorf("%s: the connection was ended after %v", what, took)
			}
			_ = conn.Close()
		}
		stop()
		must(t, <-ended)
	})
}

// TestAReaderThatTakesNothingIsEnded opens a stream in virtual time, takes nothing of it while much
// happens, and is gone after writeLimit. A reader that takes what it gets stays, and hears a sign
// of life while nothing happens.
func TestAReaderThatTakesNothingIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer()
		net := memnet.New()
		l, err := net.Listen("tcp", "10.0.0.1:80")
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, l, OnMachine) }()
		streams := func() int {
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.places[OnMachine].streams
		}
		open := func() io.ReadWriteCloser {
			conn, err := net.DialContext(t.Context(), "tcp", "10.0.0.1:80")
			must(t, err)
			_, err = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
			must(t, err)
			return conn
		}
		deaf, awake := open(), open()
		signs := make(chan int, 1)
		go func() {
			b, _ := io.ReadAll(awake)
			signs <- strings.Count(string(b), signFrame)
		}()
		if n := streams(); n != 2 {
			t.Fatalf("%d streams", n)
		}
		for range 2000 {
			s.Events.Emit(journal.Event{Kind: journal.Warning, Text: strings.Repeat("x", 1000)})
		}
		time.Sleep(writeLimit + time.Second)
		if n := streams(); n != 1 {
			t.Errorf("%d streams after the limit", n)
		}
		time.Sleep(10 * sign)
		if n := streams(); n != 1 {
			t.Errorf("%d streams after a long silence", n)
		}
		_ = deaf.Close()
		stop()
		must(t, <-ended)
		if n := <-signs; n < 10 {
			t.Errorf("%d signs of life", n)
		}
	})
}
