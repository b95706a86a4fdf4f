package drill

import (
	"context"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// Cut loses whatever is sent to a place.
func (w *soakWorld) Cut(place string) {
	for _, addr := range w.addresses(place) {
		w.net.Cut(addr)
	}
}

// Mend ends a cut.
func (w *soakWorld) Mend(place string) {
	for _, addr := range w.addresses(place) {
		w.net.Mend(addr)
	}
}

// SetDelay makes all ways longer.
func (w *soakWorld) SetDelay(oneWay time.Duration) { w.net.SetDelay(oneWay) }

// ResetDelay makes all ways as long as the settings have them.
func (w *soakWorld) ResetDelay() { w.net.SetDelay(Span(w.s.With.Delay, 0)) }

// SetWeather lets segments come late or get lost.
func (w *soakWorld) SetWeather(jitter time.Duration, loss float64) {
	w.net.SetWeather(jitter, loss, w.s.With.Seed)
}

// SetPath lets new connections fail.
func (w *soakWorld) SetPath(place, how string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, addr := range w.addresses(place) {
		w.paths[addr] = how
	}
}

// HandOver takes the device's address away: what it sends on old connections does not arrive, for
// good, and new dials fail.
func (w *soakWorld) HandOver() {
	w.SetPath("all", "unreachable")
	if w.life == nil {
		return
	}
	w.life.mu.Lock()
	defer w.life.mu.Unlock()
	for c := range w.life.conns {
		c.gone.Store(true)
	}
}

// addresses returns the addresses of a place.
func (w *soakWorld) addresses(place string) (all []string) {
	info := w.cloud.Info()
	if place == "dps" || place == "all" {
		all = append(all, info.DPS.MQTT, info.DPS.HTTPS)
	}
	for _, h := range info.Hubs {
		if place == h.Name || place == "all" {
			all = append(all, h.MQTT)
		}
	}
	return all
}

// dial is the network of one process.
func (w *soakWorld) dial(ctx context.Context, l *soakLife, network, addr string) (net.Conn, error) {
	raw, err := w.path(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &soakConn{Conn: raw, w: w, l: l, addr: addr}
	l.mu.Lock()
	dead := l.dead
	if !dead {
		l.conns[c] = true
	}
	l.mu.Unlock()
	if dead {
		_ = raw.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	}
	return c, nil
}

// path dials, unless something is wrong with the way.
func (w *soakWorld) path(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	how := w.paths[addr]
	w.mu.Unlock()
	fail := func(err error) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: network, Err: err} }
	switch how {
	case "nxdomain":
		return fail(&net.DNSError{Err: "no such host", Name: addr, IsNotFound: true})
	case "no-dns":
		return fail(&net.DNSError{Err: "server misbehaving", Name: addr, IsTemporary: true})
	case "unreachable":
		return fail(os.NewSyscallError("connect", syscall.ENETUNREACH))
	case "refused":
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case "hang":
		<-ctx.Done()
		return fail(os.ErrDeadlineExceeded)
	case "portal", "reset":
		return w.net.DialContext(ctx, network, how+":443")
	}
	return w.net.DialContext(ctx, network, addr)
}

// intercept answers in place of whoever was dialled, until its listener is closed.
func (w *soakWorld) intercept(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 1<<10))
		_, _ = c.Write([]byte(answer))
		_ = c.Close()
	}
}

// soakConn notices from outside when a connection becomes a session: with the first application
// record that is too long for anything but a CONNECT with a token in it.
type soakConn struct {
	net.Conn
	w       *soakWorld
	l       *soakLife
	addr    string
	gone    atomic.Bool // what is written goes nowhere, and TLS does not survive that
	session bool        // it has sent a CONNECT
	closed  bool        // guarded by w.mu, as session is
}

// SetLinger is the connection's own, if it has one.
func (c *soakConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

func (c *soakConn) Write(p []byte) (int, error) {
	const applicationData, tooLong = 23, 200
	if len(p) > tooLong && p[0] == applicationData && !c.l.rival && c.hub() {
		c.begin()
	}
	if c.gone.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// hub says whether this goes to a hub.
func (c *soakConn) hub() bool { return !slices.Contains(c.w.addresses("dps"), c.addr) }

func (c *soakConn) begin() {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.session || c.closed {
		return
	}
	c.session = true
	if w.connected[c.addr] == nil {
		w.connected[c.addr] = map[*soakConn]bool{}
	}
	w.connected[c.addr][c] = true
	if n := len(w.connected[c.addr]); n > 1 {
		w.v.fault("%d sessions at once with %s", n, c.addr)
	}
}

func (c *soakConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	c.w.mu.Lock()
	c.closed = true
	delete(c.w.connected[c.addr], c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}
