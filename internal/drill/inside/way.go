package inside

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// way is the way between the devices of this process and a cloud in memory. It is a
// [drill.Network].
type way struct {
	net    *memnet.Net
	places map[string][]string // addresses, by the name of a hub, "dps" and "all"
	delay  time.Duration       // one way, when nothing is done to it
	seed   uint64

	mu    sync.Mutex
	paths map[string]string // by address: what is wrong with new connections
	mine  map[*wayConn]bool // open connections of the device under test
	traps []net.Listener    // who answers in place of the cloud
}

// newWay opens the way over a network. Close must be called.
func newWay(n *memnet.Net, places map[string][]string, delay time.Duration, seed uint64) (*way, error) {
	w := &way{net: n, places: places, delay: delay, seed: seed, paths: map[string]string{}, mine: map[*wayConn]bool{}}
	for how, answer := range map[string]string{pathPortal: "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", pathReset: ""} {
		l, err := n.Listen("tcp", how+":443")
		if err != nil {
			return nil, err
		}
		w.traps = append(w.traps, l)
		go trap(l, answer)
	}
	w.ResetDelay()
	return w, nil
}

// The ways in which a path can be wrong; see [drill.Network].
const (
	pathNoName      = "nxdomain"
	pathNoDNS       = "no-dns"
	pathUnreachable = "unreachable"
	pathRefused     = "refused"
	pathPortal      = "portal"
	pathReset       = "reset"
	pathHang        = "hang"
)

// failureTakes is how long a dial takes that fails on this side of the network.
const failureTakes = time.Millisecond

// Close ends what answers in place of the cloud.
func (w *way) Close() {
	for _, l := range w.traps {
		_ = l.Close()
	}
}

// Cut loses whatever is sent to a place.
func (w *way) Cut(place string) {
	for _, addr := range w.places[place] {
		w.net.Cut(addr)
	}
}

// Mend ends a cut.
func (w *way) Mend(place string) {
	for _, addr := range w.places[place] {
		w.net.Mend(addr)
	}
}

// SetDelay makes all ways longer.
func (w *way) SetDelay(oneWay time.Duration) { w.net.SetDelay(oneWay) }

// ResetDelay makes all ways as long as they were in the beginning.
func (w *way) ResetDelay() { w.net.SetDelay(w.delay) }

// SetWeather lets segments come late or get lost.
func (w *way) SetWeather(jitter time.Duration, loss float64) { w.net.SetWeather(jitter, loss, w.seed) }

// SetPath lets new connections fail.
func (w *way) SetPath(place, how string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, addr := range w.places[place] {
		w.paths[addr] = how
	}
}

// HandOver takes the address of the device under test away: what it sends on old connections does
// not arrive, for good, and new dials of all devices fail.
func (w *way) HandOver() {
	w.SetPath("all", pathUnreachable)
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.mine {
		c.gone.Store(true)
	}
}

// dial is a device's dial. mine says that it is the device under test.
func (w *way) dial(ctx context.Context, network, addr string, mine bool) (net.Conn, error) {
	raw, err := w.path(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &wayConn{Conn: raw, way: w}
	if mine {
		w.mu.Lock()
		w.mine[c] = true
		w.mu.Unlock()
	}
	return c, nil
}

// path dials, unless something is wrong with the way.
func (w *way) path(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	how := w.paths[addr]
	w.mu.Unlock()
	fail := func(err error) (net.Conn, error) {
		// It takes some time, as everywhere: a device that dials again at once would stop the
		// virtual clock.
		timer := time.NewTimer(failureTakes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	switch how {
	case pathNoName:
		return fail(&net.DNSError{Err: "no such host", Name: addr, IsNotFound: true})
	case pathNoDNS:
		return fail(&net.DNSError{Err: "server misbehaving", Name: addr, IsTemporary: true})
	case pathUnreachable:
		return fail(os.NewSyscallError("connect", syscall.ENETUNREACH))
	case pathRefused:
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case pathHang:
		<-ctx.Done()
		return fail(os.ErrDeadlineExceeded)
	case pathPortal, pathReset:
		return w.net.DialContext(ctx, network, how+":443")
	}
	return w.net.DialContext(ctx, network, addr)
}

// trap answers in place of whoever was dialled, until its listener is closed.
func trap(l net.Listener, answer string) {
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

// wayConn is a connection of a device. After a handover, what is written goes nowhere, and TLS does
// not survive that.
type wayConn struct {
	net.Conn
	way  *way
	gone atomic.Bool
}

func (c *wayConn) Write(p []byte) (int, error) {
	if c.gone.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *wayConn) Close() error {
	c.way.mu.Lock()
	delete(c.way.mine, c)
	c.way.mu.Unlock()
	return c.Conn.Close()
}

// SetLinger is the connection's own, if it has one.
func (c *wayConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}
