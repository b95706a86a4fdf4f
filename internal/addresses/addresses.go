// Package addresses connects to a host by name, at the address that answers first.
package addresses

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// HeadStart is how long an address is tried alone before the next one is tried beside it (RFC 8305,
// "Connection Attempt Delay").
const HeadStart = 250 * time.Millisecond

// Dialer connects to a host by name, at the address that answers first. It resolves the name at
// every dial and keeps nothing, so it finds a hub with a new address as soon as the DNS knows that
// address. [net.Dialer] does nearly the same. But it tries a second address beside the first one
// only if that is of the other family: if the first of two IPv4 addresses is silent, it waits for
// its end.
type Dialer struct {
	Resolve func(ctx context.Context, network, host string) ([]netip.Addr, error)
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error) // addr has an IP address
	Spawn   func(f func())                                                    // runs f in a goroutine of its own
	Contain func(f func() error) error                                        // calls f, and returns a panic in it as an error
}

// DialContext opens one connection. If all attempts fail, it returns the error of the one that
// failed last.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return d.Dial(ctx, network, addr) // which says what is wrong with it
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return d.Dial(ctx, network, addr)
	}
	all, err := d.Resolve(ctx, "ip", host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if len(all) == 0 {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no address", Name: host, IsNotFound: true}}
	}
	left := alternate(all)

	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(left))
	running := 0
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		d.Spawn(func() { // closes the connections that came too late
			for range running {
				if r := <-results; r.err == nil {
					_ = r.conn.Close()
				}
			}
		})
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			if len(left) == 0 {
				continue
			}
			to := net.JoinHostPort(left[0].String(), port)
			left, running = left[1:], running+1
			next.Reset(HeadStart)
			d.Spawn(func() {
				var r result
				r.err = d.Contain(func() (err error) {
					r.conn, err = d.Dial(ctx, network, to)
					return err
				})
				results <- r
			})
		case r := <-results:
			if running--; r.err == nil {
				return r.conn, nil
			}
			if running == 0 && (len(left) == 0 || ctx.Err() != nil) {
				return nil, r.err
			}
			if len(left) > 0 && ctx.Err() == nil {
				next.Reset(0)
			}
		}
	}
}

// alternate lets the two families take turns, and keeps the order otherwise (RFC 8305, section 4).
// If one family does not work at all, then the second attempt works.
func alternate(all []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, a := range all {
		a = a.Unmap()
		if len(first) == 0 || a.Is4() == first[0].Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	out := make([]netip.Addr, 0, len(all))
	for i := range first {
		out = append(out, first[i])
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	if len(second) > len(first) {
		out = append(out, second[len(first):]...)
	}
	return out
}
