package sim

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// silentListener adds to a listener in memory what [dropSYNs] does to a real one.
type silentListener struct {
	net.Listener
	net **memnet.Net
}

func (l silentListener) DropSYNs() (func() error, error) {
	(*l.net).Cut(l.Addr().String())
	return func() error { (*l.net).Mend(l.Addr().String()); return nil }, nil
}

func TestEachFaultOfAHubLooksAsItShould(t *testing.T) {
	isClosed := func(err error) bool { return isEOF(err) || errors.Is(err, syscall.EPIPE) }
	isTimeout := func(err error) bool {
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout()
	}
	for name, f := range map[string]struct {
		fault iothub.Fault
		ends  func(error) bool // how a connection ends; nil if it stays
		dial  func(error) bool // how TCP and TLS to it fail; nil if they do not
		code  byte
	}{
		"kill":        {iothub.Fault{Kind: iothub.FaultKill}, isReset, isRefused, 0},
		"kill rst":    {iothub.Fault{Kind: iothub.FaultKill, Close: "rst"}, isReset, isRefused, 0},
		"kill fin":    {iothub.Fault{Kind: iothub.FaultKill, Close: "fin"}, isEOF, isRefused, 0},
		"connack3":    {iothub.Fault{Kind: iothub.FaultConnack3, Close: "fin"}, isEOF, nil, 3},
		"connack5":    {iothub.Fault{Kind: iothub.FaultConnack5}, isReset, nil, 5},
		"close":       {iothub.Fault{Kind: iothub.FaultClose}, isReset, isReset, 0},
		"close fin":   {iothub.Fault{Kind: iothub.FaultClose, Close: "fin"}, isEOF, isClosed, 0},
		"blackhole":   {iothub.Fault{Kind: iothub.FaultBlackhole}, nil, isTimeout, 0},
		"syndrop":     {iothub.Fault{Kind: iothub.FaultSYNDrop}, nil, isTimeout, 0},
		"slow":        {iothub.Fault{Kind: iothub.FaultSlow}, nil, nil, 0},
		"drop-puback": {iothub.Fault{Kind: iothub.FaultDropPuback}, nil, nil, 0},
		"throttle":    {iothub.Fault{Kind: iothub.FaultThrottle}, nil, nil, 0},
	} {
		var n *memnet.Net
		listen := func(c *Config) {
			inner := c.Listen
			c.Listen = func(network, addr string) (net.Listener, error) {
				l, err := inner(network, addr)
				return silentListener{l, &n}, err
			}
		}
		inWorld(t, listen, func(w *world) {
			n = w.net
			host := w.provision("d")
			w.provision("e")
			before := w.connect(host, "d")
			bystander := w.connect(host, "e")
			_ = bystander
			must(t, w.FaultHub("hub-a", f.fault))
			if got := w.State().Hubs[0]; string(got.Fault) != f.fault.Kind {
				t.Errorf("%s: state is %+v", name, got)
			}
			if f.ends != nil {
				if err := before.howItEnds(); !f.ends(err) {
					t.Errorf("%s: connection ends with %v", name, err)
				}
				if got := w.State().Hubs[0]; got.Connections != 0 {
					t.Errorf("%s: %+v", name, got)
				}
			}
			if f.dial != nil {
				if _, err := w.dialBriefly(w.hubAddr(host)); !f.dial(err) {
					t.Errorf("%s: dial says %v", name, err)
				}
			} else {
				if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != f.code {
					t.Errorf("%s: CONNACK %d", name, code)
				}
			}
			must(t, w.HealHub("hub-a"))
			must(t, w.HealHub("hub-a"))
			if got := w.State().Hubs[0]; got.Fault != "" {
				t.Errorf("%s: state is %+v", name, got)
			}
			w.connect(host, "d").telemetry("", "healed", 1)
		})
	}
}

// deafToFaults lets a cloud listen on listeners that can do nothing but listen.
func deafToFaults(c *Config) {
	listen := c.Listen
	c.Listen = func(network, addr string) (net.Listener, error) {
		l, err := listen(network, addr)
		return struct{ net.Listener }{l}, err
	}
}

func TestSYNDropIsRefusedWhereSocketsCannotDoIt(t *testing.T) {
	inWorld(t, deafToFaults, func(w *world) {
		if got := refusal(w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSYNDrop})); got != "400 " {
			t.Error(got)
		}
		if got := w.State().Hubs[0]; got.Fault != "" {
			t.Errorf("%+v", got)
		}
	})
}

func TestSlowAndThrottledHubsDelayTheirAnswers(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		took := func(f func()) time.Duration {
			start := time.Now()
			f()
			return time.Since(start)
		}
		ping := func() { c.send([]byte{0xc0, 0}); c.want("d000") }
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DelayMs: 1500}))
		if d := took(func() { c.telemetry("", "x", 1) }); d != 1500*time.Millisecond {
			t.Errorf("slow PUBACK took %v", d)
		}
		if d := took(ping); d != 1500*time.Millisecond {
			t.Errorf("slow PINGRESP took %v", d)
		}
		if d := took(func() { // a pipeline is as late as one packet, and in order
			c.send(publishBytes("devices/d/messages/events/", "1", 1, 1), publishBytes("devices/d/messages/events/", "2", 1, 2), []byte{0xc0, 0})
			seen := ""
			for range 3 {
				seen += string(c.next().first)
			}
			if seen != "@@\u00d0" && seen != "\u00d0@@" {
				t.Errorf("%x", seen)
			}
		}); d != 1500*time.Millisecond {
			t.Errorf("slow pipeline took %v", d)
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultThrottle}))
		if d := took(ping); d != 0 {
			t.Errorf("PINGRESP of a throttled hub took %v", d)
		}
		if d := took(func() { c.telemetry("", "x", 1) }); d != 5*time.Second {
			t.Errorf("throttled PUBACK took %v", d)
		}
		if d := took(func() { w.connect(host, "d") }); d != 5*time.Second {
			t.Errorf("throttled CONNACK took %v", d)
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DelayMs: 100}))
		must(t, w.DisableIdentity("d"))
		if d := took(func() { w.tryHub(w.hubOptions(host, "d"), host) }); d != 100*time.Millisecond {
			t.Errorf("slow refusal took %v", d)
		}
		must(t, w.Enable("d"))
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultDropPuback}))
		c = w.connect(host, "d")
		w.ResetLedger()
		c.send(publishBytes("devices/d/messages/events/", "x", 1, 1))
		ping()
		c.wantSilence(10 * time.Second)
		if l := w.Ledger("d", false); l.Received != 1 {
			t.Errorf("%+v", l)
		}
	})
}

// A CONNACK that a fault delays is the first packet even if the fault ends before the CONNACK is
// due.
func TestLateConnackStaysTheFirstPacket(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultThrottle, DelayMs: 4000}))
		start := time.Now()
		c := w.mustDial(w.hubAddr(host))
		c.send(connectBytes(w.hubOptions(host, "d")))
		time.Sleep(time.Second)
		must(t, w.HealHub("hub-a"))
		c.send(publishBytes("devices/d/messages/events/", "x", 1, 1), []byte{0xc0, 0}, publishBytes("devices/d/messages/events/", "x", 1, 2))
		c.want("20020000")
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("CONNACK after %v", d)
		}
		c.want("d000")
		c.want("40020001")
		c.want("40020002")
	})
}

// A hub that was a black hole answers afterwards what still makes sense. A client that has given up
// is gone.
func TestBlackholeAnswersLaterWhatStillMakesSense(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("stays")
		w.provision("leaves")
		stays, leaves := w.connect(host, "stays"), w.connect(host, "leaves")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole, Seconds: 20}))
		stays.send(publishBytes("devices/stays/messages/events/", "late", 1, 1))
		leaves.send(publishBytes("devices/leaves/messages/events/", "never", 1, 1))
		if l := w.Ledger("", false); l.Received != 0 {
			t.Errorf("%+v", l)
		}
		time.Sleep(5 * time.Second)
		_ = leaves.raw.(interface{ SetLinger(int) error }).SetLinger(0)
		_ = leaves.raw.Close()
		stays.wantSilence(14 * time.Second)
		stays.want("40020001")
		time.Sleep(time.Second)
		if l := w.Ledger("", false); l.Received != 1 {
			t.Errorf("%+v", l)
		}
		if d := w.device("leaves"); d.ConnectedHub != "" {
			t.Errorf("%+v", d)
		}
		// what the hub ends during the fault, the client learns after it
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
		must(t, w.Disconnect("stays"))
		if d := w.device("stays"); d.ConnectedHub != "" {
			t.Errorf("%+v", d)
		}
		stays.wantSilence(time.Minute)
		must(t, w.HealHub("hub-a"))
		if err := stays.howItEnds(); !isReset(err) {
			t.Errorf("%v", err)
		}
		// the keep-alive runs on: 90 s, and the client is none the wiser
		stays = w.connect(host, "stays")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
		time.Sleep(91 * time.Second)
		if d := w.device("stays"); d.ConnectedHub != "" {
			t.Errorf("%+v", d)
		}
		stays.wantSilence(time.Second)
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		if err := stays.howItEnds(); !isReset(err) {
			t.Errorf("%v", err)
		}
	})
}

// A fault may say what happens to the connections that waited for a silent hub or DPS.
func TestFaultSaysWhatBecomesOfWaitingConnections(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		end := map[string]func(){"healed": func() { must(t, w.HealHub("hub-a")) }, "in time": func() { time.Sleep(20 * time.Second) },
			"by another fault": func() {
				must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow}))
				must(t, w.HealHub("hub-a"))
			}}
		for name, end := range end {
			for _, f := range []iothub.Fault{
				{Kind: iothub.FaultBlackhole, Seconds: 20, WhenOver: iothub.WaitingReset}, {Kind: iothub.FaultSYNDrop, Seconds: 20, WhenOver: iothub.WaitingReset},
				{Kind: iothub.FaultBlackhole, Seconds: 20, WhenOver: iothub.WaitingAnswer}, {Kind: iothub.FaultBlackhole, Seconds: 20},
			} {
				must(t, w.ResetLedger())
				c := w.connect(host, "d")
				must(t, w.FaultHub("hub-a", f))
				c.send(publishBytes("devices/d/messages/events/", "waits", 1, 1))
				synctest.Wait()
				end()
				if f.WhenOver == iothub.WaitingReset {
					if err := c.howItEnds(); !isReset(err) {
						t.Errorf("%s, %+v: %v", name, f, err)
					}
				} else {
					c.want("40020001")
				}
				synctest.Wait()
				if n := w.Ledger("d", false).Received; n != map[bool]int64{true: 0, false: 1}[f.WhenOver == iothub.WaitingReset] {
					t.Errorf("%s, %+v: %d received", name, f, n)
				}
				w.connect(host, "d").telemetry("", "and goes on", 1)
			}
		}
		c := w.dpsConnect("d")
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSBlackhole, Seconds: 5, WhenOver: iothub.WaitingReset}))
		before := w.State().Totals.Registrations
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", "{}", 1, 1))
		time.Sleep(5 * time.Second)
		if err := c.howItEnds(); !isReset(err) || w.State().Totals.Registrations != before {
			t.Errorf("DPS: %v", err)
		}
		for name, err := range map[string]error{
			"a word":       w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole, WhenOver: "drop"}),
			"another kind": w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, WhenOver: iothub.WaitingReset}),
			"DPS, a word":  w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSBlackhole, WhenOver: "x"}),
			"DPS, a kind":  w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSDown, WhenOver: iothub.WaitingAnswer}),
		} {
			if refusal(err) != "400 " || !strings.Contains(err.Error(), "whenOver") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestFaultEndsAfterItsSeconds(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		fault := func() string { return string(w.State().Hubs[0].Fault) }
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, Seconds: 10}))
		time.Sleep(5 * time.Second)
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultConnack3, Seconds: 60}))
		time.Sleep(10 * time.Second)
		if fault() != iothub.FaultConnack3 {
			t.Errorf("the first fault's timer healed the second: %q", fault())
		}
		must(t, w.HealHub("hub-a"))
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		time.Sleep(10 * time.Minute)
		if fault() != iothub.FaultKill {
			t.Errorf("a healed fault's timer healed the next: %q", fault())
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, Seconds: 0.25}))
		time.Sleep(251 * time.Millisecond)
		if fault() != "" {
			t.Errorf("%q", fault())
		}
		// the port is taken when the time is up: tried again every second
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, Seconds: 10}))
		thief, err := w.net.Listen("tcp", w.hubAddr("hub-a"))
		must(t, err)
		if got := refusal(w.HealHub("hub-a")); got != "409 " || fault() != iothub.FaultKill {
			t.Errorf("%s, %q", got, fault())
		}
		time.Sleep(12500 * time.Millisecond)
		if fault() != iothub.FaultKill {
			t.Errorf("%q", fault())
		}
		_ = thief.Close()
		time.Sleep(time.Second)
		if fault() != "" {
			t.Errorf("%q", fault())
		}
		w.connect(w.provision("d"), "d")
		for _, bad := range []iothub.Fault{{}, {Kind: "nuke"}, {Kind: iothub.FaultKill, Close: "slam"}, {Kind: iothub.FaultKill, Seconds: -1}, {Kind: iothub.FaultSlow, DelayMs: -1}, {Kind: iothub.FaultKill, DPSLagSeconds: -1}} {
			if got := refusal(w.FaultHub("hub-a", bad)); got != "400 " {
				t.Errorf("%+v: %s", bad, got)
			}
		}
		if got := refusal(w.FaultHub("hub-z", iothub.Fault{Kind: iothub.FaultKill})); got != "404 HubNotFound" {
			t.Error(got)
		}
		if got := refusal(w.HealHub("hub-z")); got != "404 HubNotFound" {
			t.Error(got)
		}
	})
}

// Faults, connections and control come from all sides at once. The test proves only that the race
// detector and the deadlines stay quiet.
func TestFaultsConnectsAndControlAtOnce(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		ids := []string{"d0", "d1", "d2", "d3"}
		for _, id := range ids {
			w.provision(id)
		}
		events, cancel := w.Watch()
		defer cancel()
		go func() {
			for range events {
			}
		}()
		var jobs sync.WaitGroup
		for i, id := range ids {
			jobs.Go(func() {
				for n := range 60 {
					for _, hub := range w.info.Hubs {
						c, err := w.dialBrieflyAndServe(hub.MQTT)
						if err != nil {
							continue
						}
						_ = c.raw.SetDeadline(time.Now().Add(500 * time.Millisecond))
						_, _ = c.tls.Write(connectBytes(w.hubOptions(hub.Host, id)))
						_, _ = c.tls.Write(subscribeBytes(1, 1, "devices/"+id+"/messages/devicebound/#", "$iothub/methods/POST/#"))
						_, _ = c.tls.Write(publishBytes("devices/"+id+"/messages/events/", "x", 1, uint16(n+1)))
						_, _ = c.read()
						time.Sleep(time.Duration(i*7+n) * time.Millisecond)
						_ = c.raw.Close()
					}
				}
			})
		}
		kinds := []string{iothub.FaultKill, iothub.FaultBlackhole, iothub.FaultConnack3, iothub.FaultClose, iothub.FaultSlow, iothub.FaultThrottle, iothub.FaultDropPuback, iothub.FaultConnack5}
		for n := range 120 {
			jobs.Go(func() {
				time.Sleep(time.Duration(n*37) * time.Millisecond)
				id, hub := ids[n%4], w.info.Hubs[n%2].Name
				_ = w.FaultHub(hub, iothub.Fault{Kind: kinds[n%len(kinds)], Seconds: 0.05 * float64(n%3), Close: []string{"", "fin"}[n%2]})
				_, _ = w.SendC2D(id, iothub.C2D{})
				_ = []func(string) error{w.Disable, w.Enable, w.Block, w.Unblock, w.Disconnect, w.Failback}[n%6](id)
				_ = w.Failover(id, time.Second)
				_ = w.HealHub(hub)
				_ = w.State()
				_ = w.Ledger("", true)
			})
		}
		jobs.Wait()
		for _, hub := range w.info.Hubs {
			must(t, w.HealHub(hub.Name))
		}
		time.Sleep(5 * time.Minute)
		for _, h := range w.State().Hubs {
			if h.Connections != 0 {
				t.Errorf("%+v", h)
			}
		}
		for _, id := range ids {
			must(t, w.Enable(id))
			must(t, w.Unblock(id))
			host := w.provision(id)
			o := w.hubOptions(host, id)
			o.clean = true // C2D waits
			c, _, _ := w.tryHub(o, host)
			c.id = id
			c.telemetry("", "fine", 1)
		}
	})
}

func (w *world) dialBrieflyAndServe(addr string) (*client, error) {
	raw, err := w.net.DialContext(w.t.Context(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(300 * time.Millisecond))
	c, err := newClient(w.t, shortHandshake{raw}, w.clientTLS(addr))
	return c, err
}

// shortHandshake keeps its own deadline whatever newClient sets.
type shortHandshake struct{ net.Conn }

func (c shortHandshake) SetDeadline(t time.Time) error {
	if time.Until(t) > time.Second {
		return nil
	}
	return c.Conn.SetDeadline(t)
}
