package device

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/addresses"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// names is a DNS that can be changed, and a network: some addresses lead to the simulator, some are
// silent, and some refuse.
type names struct {
	mu    sync.Mutex
	hosts map[string][]netip.Addr
	asked int
	to    map[string]string // address and port: where it leads; "refused"; absent is silence
	dials []string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (n *names) set(host string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host] = nil
	for _, a := range addresses {
		n.hosts[host] = append(n.hosts[host], netip.MustParseAddr(a))
	}
}

func (n *names) lead(addr, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to[addr] = to
}

func (n *names) resolve(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.hosts[host] == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return slices.Clone(n.hosts[host]), nil
}

func (n *names) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	to := n.to[addr]
	n.dials = append(n.dials, addr)
	n.mu.Unlock()
	switch {
	case strings.HasPrefix(addr, "127."):
		return n.dial(ctx, network, addr)
	case to == "refused":
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	case to == "":
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
	}
	return n.dial(ctx, network, to)
}

// known starts the device, and starts it again as a device that knows its hub, or DPS, by name
// only. No address is cached, and f says what the DNS knows.
func known(t *testing.T, host string, prepare func(n *names), f func(t *testing.T, w *world, n *names)) {
	t.Helper()
	n := &names{hosts: map[string][]netip.Addr{}, to: map[string]string{}}
	s := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *plan) {
		n.dial = c.DialContext
		c.Resolve, c.DialContext = n.resolve, n.DialContext
	}}
	bubble(t, s, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		w.halt()
		w.must(os.Remove(filepath.Join(w.config.StateDir, "dev-1", "state.json")))
		if host == hubName {
			w.config.PinnedHub = host
		} else {
			w.config.ProvisioningHost = host
		}
		n.dials = nil
		prepare(n)
		w.forget()
		w.start()
		f(t, w, n)
	})
}

const (
	hubName = "hub-a.sim.local"
	dpsName = "dps.sim.local"
)

// TestHubWithANewAddressIsFollowed: between two connects the hub's name gets another address, and
// the device follows.
func TestHubWithANewAddressIsFollowed(t *testing.T) {
	known(t, hubName, func(n *names) {
		n.set(hubName, "10.0.0.1")
		n.lead("10.0.0.1:8883", hubA)
	}, func(t *testing.T, w *world, n *names) {
		w.run(time.Minute)
		n.set(hubName, "10.0.0.2")
		n.lead("10.0.0.2:8883", hubA)
		n.lead("10.0.0.1:8883", "refused")
		asked := n.asked
		w.must(w.cloud.Disconnect("dev-1"))
		if took := w.on("hub-a", 10*time.Second); took > time.Second {
			t.Errorf("telemetry after %v", took)
		}
		if n.asked != asked+1 || n.dials[len(n.dials)-1] != "10.0.0.2:8883" {
			t.Errorf("the DNS was asked %d times, and %v dialled", n.asked-asked, n.dials)
		}
	})
}

// TestDeadAddressCostsNoMoreThanItsHeadStart: a dead address costs no more than its head start, and
// an address that refuses costs nothing, in either family, at the hub and at DPS.
func TestDeadAddressCostsNoMoreThanItsHeadStart(t *testing.T) {
	for name, v := range map[string]struct {
		addresses []string
		good      string
		dead      string // what is at the others
		within    time.Duration
	}{
		"one":                                  {[]string{"10.0.0.1"}, "10.0.0.1", "", 0},
		"the first of two is silent":           {[]string{"10.0.0.1", "10.0.0.2"}, "10.0.0.2", "", addresses.HeadStart},
		"the first of two refuses":             {[]string{"10.0.0.1", "10.0.0.2"}, "10.0.0.2", "refused", 0},
		"three are silent":                     {[]string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}, "10.0.0.4", "", 3 * addresses.HeadStart},
		"IPv6 is silent, with all its servers": {[]string{"fd00::1", "fd00::2", "fd00::3", "10.0.0.1"}, "10.0.0.1", "", addresses.HeadStart},
		"IPv4 is silent, with all its servers": {[]string{"10.0.0.1", "10.0.0.2", "fd00::1"}, "fd00::1", "", addresses.HeadStart},
	} {
		t.Run(name, func(t *testing.T) {
			for host, to := range map[string]string{hubName: hubA, dpsName: "127.0.0.1:8883"} {
				known(t, host, func(n *names) {
					for _, a := range v.addresses {
						n.lead(net.JoinHostPort(a, "8883"), v.dead)
					}
					n.lead(net.JoinHostPort(v.good, "8883"), to)
					n.set(host, v.addresses...)
				}, func(t *testing.T, w *world, n *names) {
					w.run(3 * time.Second)
					at := map[journal.Kind]time.Time{}
					w.mu.Lock()
					for _, e := range w.events {
						at[e.Kind] = e.Time
					}
					w.mu.Unlock()
					if took := at[journal.Connected].Sub(at[journal.Started]); took != v.within {
						t.Errorf("%s: up after %v, not %v; dialled %v", host, took, v.within, n.dials)
					}
				})
			}
		})
	}
}

// TestNoAddressAnswers: the error is that of the last attempt to fail, and still says what it said.
func TestNoAddressAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := names{hosts: map[string][]netip.Addr{}, to: map[string]string{"10.0.0.1:8883": "refused", "10.0.0.2:8883": "refused"}}
		n.set("refused", "10.0.0.1", "10.0.0.2")
		n.set("both", "10.0.0.1", "10.0.0.3")
		n.set("late", "10.0.0.3", "10.0.0.1")
		n.set("none")
		by := &addresses.Dialer{Resolve: n.resolve, Dial: n.DialContext, Spawn: func(f func()) { go f() },
			Contain: func(f func() error) error { return f() }}
		d := &hub.Dialer{DialContext: by.DialContext, KeepAlive: time.Minute}
		for host, want := range map[string]failover.Signal{"refused": failover.DialRefused, "both": failover.DialSilent, "late": failover.DialSilent,
			"unheard-of": failover.NameNotFound, "none": failover.NameNotFound} {
			_, err := d.Dial(t.Context(), hub.Attempt{Host: host, DeviceID: "dev-1"})
			if got := failover.Classify(t.Context(), err); got != want {
				t.Errorf("%s: %v, not %v (%v)", host, got, want, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := d.Dial(ctx, hub.Attempt{Host: "late", DeviceID: "dev-1"}); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// TestOnlyOneAddressIsUsed: if two addresses answer, the first connection is used and the other one
// is closed.
func TestOnlyOneAddressIsUsed(t *testing.T) {
	known(t, hubName, func(n *names) {
		n.lead("10.0.0.1:8883", hubA)
		n.lead("10.0.0.2:8883", hubA)
		n.set(hubName, "10.0.0.1", "10.0.0.2")
	}, func(t *testing.T, w *world, n *names) {
		w.run(10 * time.Second)
		w.net.SetDelay(addresses.HeadStart) // the answer of the first comes when the second has been asked
		n.dials = nil
		w.must(w.cloud.Disconnect("dev-1"))
		w.run(10 * time.Second)
		if open := w.net.Open(hubA); open != 1 || len(n.dials) != 2 {
			t.Errorf("%d connections of %d are open", open, len(n.dials))
		}
		w.net.SetDelay(0)
		w.run(10 * time.Second)
	})
}
