package mqtt

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// TestProbeSpeaksOnlyForAnAddressOfThisMachine: nothing comes on the link, and a new TLS connection
// is answered, as above. Whether that speaks for the link depends on whether this machine still has
// the address that the link was made from, as far as the system tells.
func TestProbeSpeaksOnlyForAnAddressOfThisMachine(t *testing.T) {
	const old, young = "192.168.1.7", "10.1.1.8"
	for name, v := range map[string]struct {
		link, probe string
		own         []string // what the system lists
		then        []string // and from 5.5 s after the last message on; nil: the same
		err         error
		delay       time.Duration // each way
		want        error
		after       time.Duration
	}{
		"gone":                 {link: old, probe: young, own: []string{"127.0.0.1", young, "fd00::7"}, want: ErrSilent, after: minDead},
		"gone, IPv6":           {link: "fd00::7", probe: "fd00::8", own: []string{"fd00::8"}, want: ErrSilent, after: minDead},
		"gone, IPv6 to IPv4":   {link: "fd00::7", probe: young, own: []string{young}, want: ErrSilent, after: minDead},
		"gone, slow path":      {link: old, probe: young, own: []string{young}, delay: 200 * time.Millisecond, want: ErrSilent, after: 2400 * time.Millisecond},
		"gone later":           {link: old, probe: young, own: []string{old, young}, then: []string{young}, want: ErrSilent, after: 6 * time.Second},
		"there":                {link: old, probe: old, own: []string{old, young}, want: ErrUnacked, after: finalLimit},
		"there, another route": {link: old, probe: young, own: []string{old, young}, want: ErrUnacked, after: finalLimit},
		"there, IPv6":          {link: "fd00::7", probe: "fd00::8", own: []string{"fd00::8", "fd00::7"}, want: ErrUnacked, after: finalLimit},
		"loopback, not listed": {link: "127.0.0.9", probe: "127.0.0.9", own: []string{"127.0.0.1"}, want: ErrUnacked, after: finalLimit},
		"neither is listed":    {link: old, probe: young, own: []string{"127.0.0.1"}, want: ErrUnacked, after: finalLimit},
		"none is listed":       {link: old, probe: young, want: ErrUnacked, after: finalLimit},
		"not told":             {link: old, probe: young, err: errors.New("not permitted"), want: ErrUnacked, after: finalLimit},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var began time.Time
				w.dialer.Addresses = func() (own []net.Addr, err error) {
					all := v.own
					if v.then != nil && time.Since(began) >= 5500*time.Millisecond {
						all = v.then
					}
					for _, a := range all {
						own = append(own, &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)})
					}
					return own, v.err
				}
				from := v.link
				w.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := w.Net.DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					defer func() { from = v.probe }()
					return placed{c, &net.TCPAddr{IP: net.ParseIP(from), Port: 40000}}, nil
				}
				w.Net.SetDelay(v.delay)
				stop := w.Serve("10.0.0.1", (*peer).Mute)
				defer stop()
				l := w.dial("10.0.0.1")
				var a acks
				began = time.Now()
				offer(t, l, &a, "m")
				if err := l.Err(); !errors.Is(err, v.want) || time.Since(began) != v.after {
					t.Errorf("%v after %v", err, time.Since(began))
				} else if errors.Is(v.want, ErrSilent) && !strings.Contains(err.Error(), v.link) {
					t.Errorf("%v: which address?", err)
				}
				l.Abort(nil)
			})
		})
	}
}

// TestAddressesOfThisMachineAreKnown asks the system: what it lists is this machine's, and an
// address kept for documentation (RFC 5737) is not.
func TestAddressesOfThisMachineAreKnown(t *testing.T) {
	all, err := net.InterfaceAddrs()
	var d dialer
	for _, a := range all {
		if n, ok := a.(*net.IPNet); !ok || !d.endpoint("h").has(&net.TCPAddr{IP: n.IP, Port: 40000}) {
			t.Errorf("%v is not this machine's", a)
		}
	}
	if other := (&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000}); d.endpoint("h").has(other) != (err != nil) { // a system that does not tell has all
		t.Errorf("%v is this machine's: %v (%v)", other, err == nil, err)
	}
}

// placed is a connection with an address of this machine.
type placed struct {
	net.Conn
	local net.Addr
}

func (p placed) LocalAddr() net.Addr { return p.local }
