//go:build linux

package bench

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

const roundTrip = 50 * time.Millisecond

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (c *cloud) tls() *tls.Config { return &tls.Config{RootCAs: c.CAPool()} }

// delayed is a network with a round trip: a proxy in this process passes everything on half a round
// trip later.
func delayed(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	began := time.Now()
	far, err := d.DialContext(ctx, network, addr)
	select {
	case <-time.After(roundTrip - time.Since(began)):
	case <-ctx.Done():
	}
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", near(9)+":0")
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	conn, err := d.DialContext(context.WithoutCancel(ctx), network, l.Addr().String())
	if err != nil {
		return nil, err
	}
	near, err := l.Accept()
	if err != nil {
		return nil, err
	}
	go later(far, near)
	go later(near, far)
	return conn, nil
}

// later copies with half a round trip of delay, the end included.
func later(to, from net.Conn) {
	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			pieces <- piece{time.Now().Add(roundTrip / 2), b[:n]}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_ = to.(*net.TCPConn).SetLinger(0)
	_ = to.Close()
}

// floorHub does the least that gets a PUBACK from a hub: TCP, TLS, and CONNECT, SUBSCRIBE and
// PUBLISH in one write.
func floorHub(c *cloud, id, key, host string, dial dialFunc) (time.Duration, error) {
	password, _, err := hub.KeyToken(time.Now, key, time.Hour)(host, id)
	if err != nil {
		return 0, err
	}
	all := append(opening(host, id, password), publishPacket(eventTopic(id, "0123456789abcdef-1"), sampleBody)...)
	began := time.Now()
	raw, err := dial(c.t.Context(), "tcp", net.JoinHostPort(host, "8883"))
	if err != nil {
		return 0, err
	}
	conf := c.tls()
	conf.ServerName = host
	conn := tls.Client(raw, conf)
	defer func() { _ = conn.Close() }()
	if _, err = conn.Write(all); err == nil {
		err = read(conn, make([]byte, openingAnswer+4))
	}
	return time.Since(began), err
}

// floorDPS is one registration alone, with nothing around it.
func floorDPS(c *cloud, id, key string, dial dialFunc) (time.Duration, error) {
	r := &dps.Client{Host: c.info.ProvisioningHost, Transport: dps.MQTT, IDScope: c.info.IDScope, RegistrationID: id, Key: key, Agent: "bench",
		TLS: c.tls(), DialContext: dial}
	began := time.Now()
	_, err := r.Register(c.t.Context(), dps.Request{})
	return time.Since(began), err
}

// run is a device at work.
type run struct {
	id, dir          string
	carried          chan journal.Event // first PUBACKs of links
	lost, renewed    chan journal.Event
	losses, renewals atomic.Int64
	stop             func()
}

func (c *cloud) run(dial dialFunc, change func(*plan)) *run {
	c.t.Helper()
	c.next++
	m, id := virtual.Model(c.t), fmt.Sprintf("device-%04d", c.next)
	conf := plan{
		Shared: device.Shared{
			Agent: "bench", Roots: c.CAPool(), DialContext: dial,
		},
		Config: device.Config{
			ProvisioningHost: c.info.ProvisioningHost, ProvisioningTransport: dps.MQTT,
			MethodTimeout: time.Second,
			DrainTimeout:  time.Second,
			Outbox:        outbox.Options{MaxBytes: 64 << 20, Machine: "bench"},
			Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
			Drain:         telemetry.DrainOptions{Window: 64},
		},
		Identity: device.Identity{
			DeviceID: id, IDScope: c.info.IDScope, Key: keyOf(c, id), StateDir: c.t.TempDir(),
		},
		Sample: sample.Options{Model: m, Interval: 10 * time.Millisecond, ReportedInterval: time.Minute},
	}
	if change != nil {
		change(&conf)
	}
	r := &run{id: id, dir: home.OutboxDir(conf.StateDir, id), carried: make(chan journal.Event, 100), lost: make(chan journal.Event, 100),
		renewed: make(chan journal.Event, 1000)}
	j := new(journal.Journal)
	j.Sink(func(e journal.Event) {
		switch e.Kind {
		case journal.Acknowledged:
			r.carried <- e
		case journal.Lost:
			r.losses.Add(1)
			r.lost <- e
		case journal.Renewed:
			r.renewals.Add(1)
			r.renewed <- e
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	dev := conf.device(j)
	wg.Go(func() { _ = dev.Run(ctx) })
	r.stop = func() { cancel(); wg.Wait() }
	return r
}

func (c *cloud) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// up waits for the next link that carries telemetry.
func (r *run) up(t testing.TB) (e journal.Event) {
	t.Helper()
	select {
	case e = <-r.carried:
	case <-time.After(time.Minute):
		t.Fatal("no recovery in a minute")
	}
	return e
}

// apart is how much later each device starts than the one before. So a fault hits each of them at
// another moment of its second.
const apart = 20 * time.Millisecond

// recover connects n devices to hub A and causes a fault of the cloud a while later. It returns how
// long each took to know that its link is lost, and how long until its next link had a PUBACK.
func (c *cloud) recover(n int, dial dialFunc, change func(*plan), later time.Duration, fault func()) (lost, up []time.Duration) {
	c.t.Helper()
	runs := make([]*run, n)
	for i := range runs {
		runs[i] = c.run(dial, change)
		defer runs[i].stop()
		time.Sleep(apart)
	}
	for _, r := range runs {
		r.up(c.t)
	}
	time.Sleep(later)
	began := time.Now()
	fault()
	for _, r := range runs {
		up = append(up, r.up(c.t).Time.Sub(began))
		lost = append(lost, (<-r.lost).Time.Sub(began))
	}
	c.heal()
	return lost, up
}

// heal ends every fault.
func (c *cloud) heal() { _, _, _ = c.HealHub("hub-a"), c.HealHub("hub-b"), c.HealDPS() }

// times repeats a measurement.
func times(n int, measure func() time.Duration) (all []time.Duration) {
	for range n {
		all = append(all, measure())
	}
	return all
}

// recovery measures how long no PUBACK comes after a fault. Faults that cost milliseconds are
// measured with one device after the other. Faults that cost seconds are mostly waiting, so many
// devices are measured side by side.
func recovery(t *testing.T) (numbers []number) {
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	direct := new(net.Dialer).DialContext
	floors := func(n int, dial dialFunc) (hubOnly, whole figure) {
		id, key, host := c.device()
		var h, w []time.Duration
		for range n {
			hub, err := floorHub(c, id, key, host, dial)
			c.must(err)
			dps, err := floorDPS(c, id, key, dial)
			c.must(err)
			h, w = append(h, hub), append(w, hub+dps)
		}
		return milliseconds(h), milliseconds(w)
	}
	row := func(what string, floor figure, ours []time.Duration, g goal) {
		numbers = append(numbers, number{what, len(ours), floor, milliseconds(ours), g})
		fmt.Fprintln(os.Stderr, what, milliseconds(ours), g)
	}
	kill := func(f sim.Fault) func() { return func() { c.must(c.FaultHub("hub-a", f)) } }
	settle := 50 * time.Millisecond
	one := func(dial dialFunc, later time.Duration, fault func()) func() time.Duration {
		return func() time.Duration {
			_, up := c.recover(1, dial, nil, later, fault)
			return up[0]
		}
	}
	hubFloor, wholeFloor := floors(100, direct)
	for _, f := range []struct {
		what  string
		fault sim.Fault
	}{
		{"hub reset, then refused", sim.Fault{Kind: sim.FaultKill}},
		{"hub closed (FIN), then refused", sim.Fault{Kind: sim.FaultKill, Close: "fin"}},
		{"hub reset, then CONNACK 3", sim.Fault{Kind: sim.FaultConnack3}},
		{"hub reset, then CONNACK 5", sim.Fault{Kind: sim.FaultConnack5}},
	} {
		row("ms to the first PUBACK: "+f.what+"; DPS knows, retry-after 0", wholeFloor, times(50, one(direct, settle, kill(f.fault))), p99AtMost(wholeFloor.median()+100))
	}
	row("ms to the first PUBACK: hub reset, then refused; DPS is down, the other hub is known", hubFloor, times(20, func() time.Duration {
		r := c.run(direct, nil)
		defer r.stop()
		defer c.heal()
		r.up(t)
		kill(sim.Fault{Kind: sim.FaultKill})() // so that the device gets to know both
		r.up(t)
		c.must(c.HealHub("hub-a"))
		time.Sleep(settle)
		c.must(c.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		began := time.Now()
		c.must(c.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill}))
		return r.up(t).Time.Sub(began)
	}), p99AtMost(hubFloor.median()+600))

	// Over a long way two go side by side: that costs them next to nothing.
	far := func(fault func()) (all []time.Duration) {
		for range 10 {
			_, up := c.recover(2, delayed, nil, 4*roundTrip, fault)
			all = append(all, up...)
		}
		return all
	}
	const half = 25 // ms, of a round trip
	farHub, farWhole := floors(20, delayed)
	row("ms to the first PUBACK, 50 ms round trip: link reset, same hub; the reset takes 25 ms to arrive", farHub, far(func() {
		c.must(c.Disconnect(fmt.Sprintf("device-%04d", c.next-1)))
		c.must(c.Disconnect(fmt.Sprintf("device-%04d", c.next)))
	}), medianAtMost(farHub.median()*1.15+half))
	for _, f := range []struct {
		what, kind string
		more       float64
	}{
		{"then refused; whole failover, retry-after 0", sim.FaultKill, 0},
		{"then CONNACK 3: half a round trip until the end arrives, and three for that answer beside two of DPS's", sim.FaultConnack3, 3 * half},
		{"then CONNACK 5: the same", sim.FaultConnack5, 3 * half},
	} {
		row("ms to the first PUBACK, 50 ms round trip: hub reset, "+f.what, farWhole, far(kill(sim.Fault{Kind: f.kind})), medianAtMost(farWhole.median()*1.15+f.more))
	}

	// behind is a floor that has to wait first: for the watchdog, or for the end of the last fault.
	behind := func(wait float64, floor figure) figure {
		later := slices.Clone(floor)
		for i := range later {
			later[i] += wait
		}
		return later
	}
	for _, f := range []struct {
		what  string
		limit float64 // ms, from the beginning of the faults: they last a second
		fault func()
	}{
		{"DPS is down for 1 s meanwhile, no other hub is known", 3000, func() {
			c.must(c.FaultDPS(sim.DPSFault{Kind: sim.DPSDown, Seconds: 1}))
			kill(sim.Fault{Kind: sim.FaultKill})()
		}},
		{"DPS knows 1 s later", 6000, kill(sim.Fault{Kind: sim.FaultKill, DPSLagSeconds: 1})},
		{"DPS drops registrations for 1 s", 6000, func() {
			c.must(c.FaultDPS(sim.DPSFault{Kind: sim.DPSDrop, Seconds: 1}))
			kill(sim.Fault{Kind: sim.FaultKill})()
		}},
		{"the new hub answers CONNACK 5 for 1 s", 3000, func() {
			c.must(c.FaultHub("hub-b", sim.Fault{Kind: sim.FaultConnack5, Seconds: 1, DPSKnows: new(false)}))
			kill(sim.Fault{Kind: sim.FaultKill})()
		}},
	} {
		_, up := c.recover(20, direct, nil, settle, f.fault)
		row("ms to the first PUBACK: hub reset, then refused, and "+f.what+"; floor: behind that second", behind(1000, wholeFloor), up, p99AtMost(f.limit))
	}
	lost, up := c.recover(50, direct, func(d *plan) { d.Sample.Interval = time.Second }, settle, kill(sim.Fault{Kind: sim.FaultBlackhole}))
	row("ms until a black hole is known, 1 sample/s; floor: 2 s of silence", figure{2000}, lost, p99AtMost(3000))
	row("ms to the first PUBACK: black hole, 1 sample/s; floor: behind 2 s of silence", behind(2000, wholeFloor), up, p99AtMost(3500))
	const steady = 5 * time.Second // so many devices that they meet the fault at every moment between two samples; each has had two
	lost, up = c.recover(int(steady/apart), direct, func(d *plan) { d.Sample.Interval = steady }, steady+settle, kill(sim.Fault{Kind: sim.FaultBlackhole}))
	row("ms until a black hole is known, a sample each 5 s; floor: 2 s of silence", figure{2000}, lost, p99AtMost(5500))
	row("ms to the first PUBACK: black hole, a sample each 5 s; floor: behind 2 s of silence", behind(2000, wholeFloor), up, p99AtMost(6000))
	return numbers
}

func keyOf(c *cloud, id string) string { return base64.StdEncoding.EncodeToString(c.DeviceKey(id)) }
