package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

var update = flag.Bool("update", false, "write testdata/matrix.md, and the table in docs/flows.md")

// The rows and columns of the matrix.
var (
	transports = []string{"tcp", "tls", "ws", "wss"}
	methods    = []string{"anonymous", "password", "X.509", "token"}
	faults     = []string{"refused", "network cut", "broker restart", "session expired"}
)

// rig is one broker with everything that a row of the matrix needs.
type rig struct {
	name    string
	listen  int // the port of the listener under test
	admin   int // the port of one without TLS for everybody
	stop    func()
	start   func()
	lasting bool // sessions outlive the broker
	// rest, if set, reports whether the broker has nothing to do. It must not have two things to do
	// at once: mochi-mqtt locks Inflight twice for reading (NextImmediate, GetAll), and hangs for
	// ever when another goroutine asks to write in between. So it gets one message after the other.
	rest func() bool
}

// proxy stands between client and broker, and can be cut.
type proxy struct {
	t    testing.TB
	l    net.Listener
	port int

	mu    sync.Mutex
	to    string
	open  map[net.Conn]bool
	isCut bool
}

func newProxy(t testing.TB, target int) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, port: l.Addr().(*net.TCPAddr).Port, to: fmt.Sprintf("127.0.0.1:%d", target), open: map[net.Conn]bool{}}
	go p.serve()
	t.Cleanup(func() {
		l.Close()
		p.cut(true)
	})
	return p
}

func (p *proxy) serve() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		p.mu.Lock()
		if err != nil || p.isCut {
			p.mu.Unlock()
			in.Close()
			if out != nil {
				out.Close()
			}
			continue
		}
		p.open[in], p.open[out] = true, true
		p.mu.Unlock()
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				_, _ = io.Copy(pair[0], pair[1])
				pair[0].Close()
				pair[1].Close()
				p.mu.Lock()
				delete(p.open, pair[0])
				delete(p.open, pair[1])
				p.mu.Unlock()
			}()
		}
	}
}

// cut resets every connection. With stay set, new ones are refused too, until cut(false).
func (p *proxy) cut(stay bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = stay
	for c := range p.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
	}
	clear(p.open)
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = false
}

// mosquittoRig returns "" or why mosquitto cannot do a row.
func mosquittoRig(t *testing.T, transport, method string, pki *endtest.Authority) (*rig, string) {
	if method == "token" {
		return nil, "mosquitto has enhanced authentication only by a plugin"
	}
	r := &rig{name: "mosquitto", listen: freePort(t), admin: freePort(t), lasting: true}
	dir := t.TempDir()
	conf := fmt.Sprintf("per_listener_settings true\nlistener %d 127.0.0.1\nallow_anonymous true\nlistener %d 127.0.0.1\n", r.admin, r.listen)
	if transport == "ws" || transport == "wss" {
		conf += "protocol websockets\n"
	}
	if transport == "tls" || transport == "wss" {
		pki.WriteServer(t, dir)
		conf += fmt.Sprintf("cafile %[1]s/ca.pem\ncertfile %[1]s/server.pem\nkeyfile %[1]s/server.key\n", dir)
	}
	switch method {
	case "anonymous":
		conf += "allow_anonymous true\n"
	case "password":
		conf += "allow_anonymous false\npassword_file " + filepath.Join(dir, "passwords") + "\n"
		// mosquitto_passwd makes this of the line me:right.
		endtest.WriteFile(t, filepath.Join(dir, "passwords"), mosquittoPassword(t, dir, "me", "right"))
	case "X.509":
		conf += "allow_anonymous true\nrequire_certificate true\nuse_identity_as_username true\n"
	}
	b := newMosquitto(t, conf)
	r.stop, r.start = b.stop, b.start
	return r, ""
}

// checker is the authentication of a mochi broker.
type checker struct {
	mochi.HookBase
	method string
}

func (c *checker) ID() string { return "checker" }

func (c *checker) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (c *checker) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (c *checker) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	switch {
	case cl.Net.Listener == "admin":
		return true
	case c.method == "password":
		return string(pk.Connect.Username) == "me" && string(pk.Connect.Password) == "right"
	case c.method == "token":
		return pk.Properties.AuthenticationMethod == methodServiceAccount && string(pk.Properties.AuthenticationData) == "right"
	}
	return true
}

// mochiRig starts a broker of other hands in this process.
func mochiRig(t *testing.T, transport, method string, pki *endtest.Authority) (*rig, string) {
	r := &rig{name: "mochi", listen: freePort(t), admin: freePort(t)}
	var server *mochi.Server
	r.start = func() {
		o := &mochi.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: mochi.NewDefaultServerCapabilities()}
		server = mochi.New(o)
		c := listeners.Config{ID: "test", Address: fmt.Sprintf("127.0.0.1:%d", r.listen)}
		if transport == "tls" || transport == "wss" {
			c.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pki.Server}}
			if method == "X.509" {
				c.TLSConfig.ClientAuth, c.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, pki.Pool
			}
		}
		var l listeners.Listener = listeners.NewTCP(c)
		if transport == "ws" || transport == "wss" {
			l = listeners.NewWebsocket(c)
		}
		if err := server.AddHook(&checker{method: method}, nil); err != nil {
			t.Fatal(err)
		}
		for _, l := range []listeners.Listener{l, listeners.NewTCP(listeners.Config{ID: "admin", Address: fmt.Sprintf("127.0.0.1:%d", r.admin)})} {
			if err := server.AddListener(l); err != nil {
				t.Fatal(err)
			}
		}
		if err := server.Serve(); err != nil {
			t.Fatal(err)
		}
	}
	r.stop = func() { _ = server.Close() }
	r.rest = func() bool { return atomic.LoadInt64(&server.Info.Inflight) == 0 }
	r.start()
	t.Cleanup(func() { r.stop() })
	return r, ""
}

// TestMatrix takes each broker, transport and method through each fault.
func TestMatrix(t *testing.T) {
	needMosquitto(t)
	type row struct{ broker, transport, method string }
	cells := map[row][]string{}
	var mu sync.Mutex
	var rows []row
	pki := endtest.New(t)
	brokers := map[string]func(*testing.T, string, string, *endtest.Authority) (*rig, string){"mosquitto": mosquittoRig, "mochi": mochiRig}
	t.Run("rows", func(t *testing.T) {
		for _, broker := range []string{"mosquitto", "mochi"} {
			for _, transport := range transports {
				for _, method := range methods {
					r := row{broker, transport, method}
					rows = append(rows, r)
					t.Run(broker+" "+transport+" "+method, func(t *testing.T) {
						t.Parallel()
						out := slices.Repeat([]string{"a client certificate needs TLS"}, len(faults))
						if method != "X.509" || transport == "tls" || transport == "wss" {
							g, cannot := brokers[broker](t, transport, method, pki)
							if cannot != "" {
								out = slices.Repeat([]string{cannot}, len(faults))
							} else {
								out = matrixRow(t, g, transport, method, pki)
							}
						}
						mu.Lock()
						defer mu.Unlock()
						cells[r] = out
					})
				}
			}
		}
	})
	var b bytes.Buffer
	fmt.Fprintf(&b, "| broker | transport | authentication | %s |\n|---|---|---|%s\n", strings.Join(faults, " | "), strings.Repeat("---|", len(faults)))
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.broker, r.transport, r.method, strings.Join(cells[r], " | "))
	}
	path := filepath.Join("testdata", "matrix.md")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		endtest.WriteFile(t, path, b.String())
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != b.String() {
		t.Errorf("%s is not what was found (%v); run with -update:\n%s", path, err, b.String())
	}
}

// TestTheMatrixStandsInTheGuide for those who write flows: docs/flows.md has it, with transports of
// which all is the same in one row.
func TestTheMatrixStandsInTheGuide(t *testing.T) {
	matrix, err := os.ReadFile(filepath.Join("testdata", "matrix.md"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "..", "docs", "flows.md")
	guide, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, hasBegin := strings.Cut(string(guide), "<!-- brokers: begin -->\n")
	table, after, hasEnd := strings.Cut(rest, "<!-- brokers: end -->")
	if !hasBegin || !hasEnd {
		t.Fatalf("%s has no place for the matrix, between <!-- brokers: begin --> and end", path)
	}
	want := joined(t, string(matrix))
	if *update {
		endtest.WriteFile(t, path, before+"<!-- brokers: begin -->\n"+want+"<!-- brokers: end -->"+after)
	} else if table != want {
		t.Errorf("%s does not have what was found; run with -update:\n%s", path, want)
	}
}

// joined returns the matrix with the transports of a broker and method joined that have the same
// cells, and with what cannot be tried said once.
func joined(t *testing.T, matrix string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(matrix), "\n")
	if len(lines) != 2+2*len(transports)*len(methods) {
		t.Fatalf("the matrix has %d lines", len(lines))
	}
	out := lines[:2:2]
	for _, broker := range []string{"mosquitto", "mochi"} {
		for _, method := range methods {
			var order []string // cells
			over := map[string][]string{}
			for _, line := range lines[2:] {
				cells := strings.Split(strings.Trim(line, "| "), " | ")
				if len(cells) != 3+len(faults) {
					t.Fatalf("%q has %d cells", line, len(cells))
				}
				if cells[0] != broker || cells[2] != method {
					continue
				}
				found := cells[3:]
				if len(slices.Compact(slices.Clone(found))) == 1 {
					found = append([]string{"not tried: " + found[0]}, slices.Repeat([]string{""}, len(faults)-1)...)
				}
				same := strings.Join(found, " | ")
				if over[same] == nil {
					order = append(order, same)
				}
				over[same] = append(over[same], cells[1])
			}
			for _, same := range order {
				out = append(out, fmt.Sprintf("| %s | %s | %s | %s |", broker, strings.Join(over[same], ", "), method, same))
			}
		}
	}
	return strings.Join(out, "\n") + "\n"
}

// matrixRow returns what became of each fault.
func matrixRow(t *testing.T, g *rig, transport, method string, pki *endtest.Authority) []string {
	p := newProxy(t, g.listen)
	secret := t.TempDir()
	config := func(client string) Config {
		c := plainConfig(t, p.port, client)
		c.WebSocket = strings.HasPrefix(transport, "ws")
		if c.WebSocket {
			c.Host += "/mqtt"
		}
		if transport == "tls" || transport == "wss" {
			shown := ""
			if method == "X.509" {
				shown = secret
			}
			c.TLS = func() (*tls.Config, error) { return credentials.TLS(filepath.Join(secret, "ca"), shown) }
		}
		c.schedule = func(err error, _ int) (time.Duration, State) {
			_, state := schedule(err, 0)
			return 20 * time.Millisecond, state
		}
		switch method {
		case "password":
			c.Auth = Auth{Method: UsernamePassword, Password: func() (string, string, error) { return credentials.Password(secret) }}
		case "X.509":
			c.Auth = Auth{Method: X509Certificate}
		case "token":
			c.Auth = Auth{Method: ServiceAccountToken, Token: func(context.Context) (string, error) {
				return credentials.Token(filepath.Join(secret, "token"))
			}}
		}
		return c
	}
	if err := os.Mkdir(filepath.Join(secret, "ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	endtest.WriteFile(t, filepath.Join(secret, "ca", "root.pem"), pki.PEM)
	credentials := func(right bool) {
		word := "wrong"
		if right {
			word = "right"
		}
		endtest.WriteFile(t, filepath.Join(secret, "username"), "me\n")
		endtest.WriteFile(t, filepath.Join(secret, "password"), word)
		endtest.WriteFile(t, filepath.Join(secret, "token"), word)
		pki.WriteClient(t, secret, right)
	}
	var out []string

	// Refused: with wrong credentials the status says so. The right ones are read at the next
	// attempt.
	credentials(false)
	s := newSource(t, config("in"), "m/#")
	got := newCollector()
	start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
	d := newDestination(t, config("out"))
	start(t, d.Run)
	if method == "anonymous" {
		out = append(out, "everybody is welcome")
	} else {
		endtest.Until(t, "the refusal", func() bool { return s.Status().State == Refused && d.Status().State == Refused })
		if text := s.Status().Text; !strings.Contains(text, ";") {
			t.Errorf("the status has no next step: %s", text)
		}
		credentials(true)
		out = append(out, "named, goes on with the new secret")
	}
	endtest.Until(t, "the subscription", s.subscribed)

	next := 0
	done := newCompletions()
	arrived := func() {
		t.Helper()
		done.until(t, next)
		defer func() {
			if t.Failed() {
				have := map[string]bool{}
				for _, d := range got.all() {
					have[string(d.Message.Payload)] = true
				}
				for i := range next {
					if !have[strconv.Itoa(i)] {
						t.Logf("message %d is missing", i)
					}
				}
			}
		}()
		got.until(t, "all messages", func(got []node.Delivery) bool {
			have := map[string]bool{}
			for _, d := range got {
				have[string(d.Message.Payload)] = true
			}
			return len(have) == next
		})
		checkOrder(t, got.all(), next)
	}
	publish := func(n int) {
		t.Helper()
		step := n
		if g.rest != nil {
			n, step = 10, 1
		}
		for range n / step {
			ms, tickets := numbered("m/x", next, step)
			next += step
			if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
				t.Fatal(err)
			}
			if g.rest != nil {
				arrived()
				endtest.Until(t, "the rest of the broker", g.rest)
			}
		}
	}
	publish(100)
	arrived()

	// Network cut, in the middle of messages where the broker can stand that.
	before, beforeOut := s.Status().Connects, d.Status().Connects
	publish(150)
	p.cut(false)
	if g.rest != nil {
		endtest.Until(t, "the connections after the cut", func() bool {
			return s.Status().Connects > before && d.Status().Connects > beforeOut && s.subscribed()
		})
	}
	publish(150)
	arrived()
	if g.rest == nil {
		out = append(out, "nothing lost, order kept")
	} else {
		out = append(out, "nothing lost, order kept (cut between messages: the broker hangs under load)")
	}

	// Restart. A broker that forgets its sessions gets messages again when the source is back.
	connects, gaps := s.Status().Connects, s.Status().Gaps
	g.stop()
	if g.lasting {
		publish(100)
	}
	g.start()
	endtest.Until(t, "the connection after the restart", func() bool { return s.Status().Connects > connects && s.subscribed() })
	if !g.lasting {
		if s.Status().Gaps != gaps+1 {
			t.Errorf("%d gaps after the restart", s.Status().Gaps-gaps)
		}
		publish(100)
		out = append(out, "the broker forgets sessions: gap counted, subscribed again")
	} else {
		if s.Status().Gaps != gaps {
			t.Errorf("%d gaps after the restart", s.Status().Gaps-gaps)
		}
		out = append(out, "nothing lost, order kept")
	}
	arrived()

	// Session expired: while the network is cut, the session goes.
	gaps = s.Status().Gaps
	p.cut(true)
	forget(t, g.admin, "in")
	p.mend()
	endtest.Until(t, "the gap", func() bool { return s.Status().Gaps == gaps+1 && s.subscribed() })
	publish(100)
	arrived()
	return append(out, "gap counted, subscribed again")
}

// checkOrder checks that each of n numbers has come, and that a repetition is none that goes back
// behind what was there without it.
func checkOrder(t testing.TB, got []node.Delivery, n int) {
	t.Helper()
	highest := -1
	for _, d := range got {
		k, err := strconv.Atoi(string(d.Message.Payload))
		if err != nil || k > highest+1 {
			t.Fatalf("%q came after %d", d.Message.Payload, highest)
		}
		highest = max(highest, k)
	}
	if highest != n-1 {
		t.Fatalf("the highest number is %d of %d", highest, n)
	}
}

// forget makes a broker drop the session of a client id.
func forget(t testing.TB, port int, client string) {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := c.Connect(t.Context(), &paho.Connect{ClientID: client, CleanStart: true, KeepAlive: 60}); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}
}
