package device

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestDialerResumesItsTLSSessions: a dialler with a session cache resumes the TLS session of its
// last link to the same hub, also after it was on another hub. Both hubs share the cache, but the
// first link to another hub makes a handshake of its own.
func TestDialerResumesItsTLSSessions(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.must(w.cloud.Failover("dev-1", 0)) // so that the other hub knows the device too
		w.on("hub-b", 10*time.Second)
		w.halt()
		var resumed []bool
		d := &hub.Dialer{DialContext: w.config.DialContext, KeepAlive: time.Minute, C2D: true, Token: hub.KeyToken(time.Now, w.config.Key, time.Hour),
			TLS: &tls.Config{RootCAs: w.config.Roots, ClientSessionCache: tls.NewLRUClientSessionCache(16),
				VerifyConnection: func(s tls.ConnectionState) error { resumed = append(resumed, s.DidResume); return nil }}}
		for _, host := range []string{"127.0.0.3", "127.0.0.3", "127.0.0.2", "127.0.0.3", "127.0.0.2"} {
			l, err := d.Dial(t.Context(), hub.Attempt{Host: host, DeviceID: "dev-1"}) // hub-a refuses the identity, behind TLS
			if err == nil {
				l.Close(t.Context(), nil)
			}
		}
		if want := []bool{false, true, false, true, true}; !slices.Equal(resumed, want) {
			t.Errorf("resumed %v, not %v", resumed, want)
		}
	})
}

// TestDeviceResumesItsTLSSessions looks at a whole device. The first answer of each server says on
// the wire whether it resumed a session. At the first time, DPS and each hub do not; later they do.
func TestDeviceResumesItsTLSSessions(t *testing.T) {
	var r handshakes
	s := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *plan) {
		r = handshakes{dial: c.DialContext}
		c.DialContext = r.DialContext
	}}
	bubble(t, s, func(t *testing.T, w *world) {
		expect := func(what string, want ...string) {
			t.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			if slices.Sort(r.seen); !slices.Equal(r.seen, want) {
				t.Errorf("%s: %q, not %q", what, r.seen, want)
			}
			r.seen = nil
		}
		const dps, hubB = "127.0.0.1:8883", "127.0.0.3:8883"
		// The device opens a connection to DPS ahead. Chance decides whether it comes as far as TLS
		// before the device knows that it is not needed.
		butDPS := func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seen = slices.DeleteFunc(r.seen, func(s string) bool { return strings.HasPrefix(s, "127.0.0.1:") })
		}
		w.run(30 * time.Second)
		butDPS()
		expect("start", hubA+" full")
		w.must(w.cloud.Disconnect("dev-1"))
		w.run(30 * time.Second)
		butDPS()
		expect("reconnect", hubA+" resumed")
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.run(time.Minute)
		butDPS()
		expect("failover", hubB+" full")
		w.must(w.cloud.HealHub("hub-a"))
		w.must(w.cloud.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill}))
		w.run(time.Minute)
		expect("and back", dps+" resumed", hubA+" resumed")
	})
}

// handshakes notes what the servers' first answers say.
type handshakes struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	mu   sync.Mutex
	seen []string
}

func (r *handshakes) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := r.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &handshakeConn{Conn: c, r: r, addr: addr}, nil
}

type handshakeConn struct {
	net.Conn
	r    *handshakes
	addr string
	head []byte // what came so far, until the ServerHello is complete
	done bool
}

func (c *handshakeConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.done {
		c.head = append(c.head, b[:n]...)
		if resumed, ok := serverHello(c.head); ok {
			c.done = true
			c.r.mu.Lock()
			defer c.r.mu.Unlock()
			c.r.seen = append(c.r.seen, fmt.Sprintf("%s %s", c.addr, map[bool]string{true: "resumed", false: "full"}[resumed]))
		}
	}
	return n, err
}

func (c *handshakeConn) SetLinger(sec int) error {
	return c.Conn.(interface{ SetLinger(int) error }).SetLinger(sec)
}

// serverHello looks for the extension pre_shared_key in a TLS 1.3 ServerHello (RFC 8446, section
// 4.1.3), which is not encrypted. A server that resumes a session sends it. ok is false until the
// whole ServerHello is there.
func serverHello(b []byte) (resumed, ok bool) {
	const record, preSharedKey = 5, 41
	if len(b) < record || len(b) < record+int(binary.BigEndian.Uint16(b[3:])) {
		return false, false
	}
	b = b[record : record+int(binary.BigEndian.Uint16(b[3:]))]
	b = b[4+2+32:]      // type and length, version, random
	b = b[1+int(b[0]):] // session id
	b = b[2+1+2:]       // cipher suite, compression, length of the extensions
	for len(b) >= 4 {
		if binary.BigEndian.Uint16(b) == preSharedKey {
			return true, true
		}
		b = b[4+int(binary.BigEndian.Uint16(b[2:])):]
	}
	return false, true
}
