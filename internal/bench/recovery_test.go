//go:build linux

package bench

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"hubhop/dps"
	"hubhop/hub"
	"hubhop/internal/device"
	"hubhop/internal/journal"
	"hubhop/internal/sim"
	"hubhop/model"
)

const roundTrip = 50 * time.Millisecond

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (c *cloud) tls() *tls.Config { return &tls.Config{RootCAs: c.CAPool()} }

// delayed is a network with a round trip: a proxy in this process that passes everything on half a round trip later.
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
	l, err := net.Listen("tcp", "127.72.0.9:0")
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
		if _, err := to.Write(p.data); err != nil && err != io.EOF { //nolint:errorlint // a proxy passes on what it can
			break
		}
	}
	_ = to.(*net.TCPConn).SetLinger(0)
	_ = to.Close()
}

// floorHub is the least that gets a PUBACK from a hub: TCP, TLS, and CONNECT, SUBSCRIBE and PUBLISH in one write.
func floorHub(c *cloud, id, key, host string, dial dialFunc) (time.Duration, error) {
	password, _, err := hub.KeyToken(key, time.Hour)(host, id)
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
	carried chan string // hubs, at their first PUBACK
	stop    func()
}

func (c *cloud) run(dial dialFunc, change func(*device.Config)) *run {
	c.t.Helper()
	c.next++
	text, err := os.ReadFile("../../failover.json")
	if err != nil {
		c.t.Fatal(err)
	}
	m, err := model.Parse(text)
	if err != nil {
		c.t.Fatal(err)
	}
	id := fmt.Sprintf("device-%04d", c.next)
	conf := device.Config{DeviceID: id, IDScope: c.info.IDScope, Key: keyOf(c, id), ModelID: "dtmi:Sample:Failover;1", Model: m, Agent: "bench",
		ProvisioningHost: c.info.ProvisioningHost, ProvisioningTransport: dps.MQTT, Roots: c.CAPool(), DialContext: dial, StateDir: c.t.TempDir(),
		Telemetry: true, Reported: true, Desired: true, Methods: true, C2D: true, Source: "simulated", TelemetryInterval: 10 * time.Millisecond,
		ReportedInterval: time.Minute, KeepAlive: 20 * time.Second, SASTTL: time.Hour, MethodTimeout: time.Second, OutboxMaxBytes: 64 << 20,
		MachineID: "bench", DrainWindow: 64, DrainTimeout: time.Second}
	if change != nil {
		change(&conf)
	}
	r := &run{carried: make(chan string, 100)}
	j := new(journal.Journal)
	j.Sink(func(e journal.Event) {
		if e.Kind == journal.Acknowledged {
			r.carried <- e.Hub
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	dev := device.New(conf, j)
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

// recover takes one device to hub A, does something to the cloud, and says how long it took to the next link with a PUBACK.
func (c *cloud) recover(dial dialFunc, change func(*device.Config), before time.Duration, fault func()) time.Duration {
	c.t.Helper()
	r := c.run(dial, change)
	defer r.stop()
	<-r.carried
	time.Sleep(before)
	began := time.Now()
	fault()
	select {
	case <-r.carried:
	case <-time.After(time.Minute):
		c.t.Fatal("no recovery in a minute")
	}
	took := time.Since(began)
	_, _, _ = c.HealHub("hub-a"), c.HealHub("hub-b"), c.HealDPS()
	return took
}

// times repeats a measurement.
func times(n int, measure func() time.Duration) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = measure()
	}
	slices.Sort(all)
	return all
}

func median(all []time.Duration) time.Duration { return all[len(all)/2] }
func p99(all []time.Duration) time.Duration    { return all[(len(all)*99+99)/100-1] }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// recovery measures how long no PUBACK comes after a fault.
func recovery(t *testing.T, out *rows) {
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	direct := new(net.Dialer).DialContext
	floors := func(n int, dial dialFunc) (hubOnly, whole []time.Duration) {
		id, key, host := c.device()
		for range n {
			h, err := floorHub(c, id, key, host, dial)
			c.must(err)
			d, err := floorDPS(c, id, key, dial)
			c.must(err)
			hubOnly, whole = append(hubOnly, h), append(whole, h+d)
		}
		slices.Sort(hubOnly)
		slices.Sort(whole)
		return hubOnly, whole
	}
	out.head("first PUBACK after (ms, median / p99)", "n", "floor", "ours", "goal", "ours to floor")
	row := func(what string, floor, ours []time.Duration, goal string) {
		out.add(what, fmt.Sprint(len(ours)), ms(median(floor))+" / "+ms(p99(floor)), ms(median(ours))+" / "+ms(p99(ours)), goal,
			fmt.Sprintf("%.2f", float64(median(ours))/float64(median(floor))))
	}
	// behind is a floor that has to wait first: for the watchdog, or for the end of the last fault.
	behind := func(wait time.Duration, floor []time.Duration) []time.Duration {
		later := slices.Clone(floor)
		for i := range later {
			later[i] += wait
		}
		return later
	}
	kill := func(f sim.Fault) func() { return func() { c.must(c.FaultHub("hub-a", f)) } }
	settle := 50 * time.Millisecond
	_, wholeFloor := floors(50, direct)
	within := func(floor []time.Duration, more time.Duration) string { return "≤ " + ms(median(floor)+more) }
	for _, f := range []struct {
		what  string
		fault sim.Fault
	}{
		{"hub reset, then refused", sim.Fault{Kind: sim.FaultKill}},
		{"hub closed (FIN), then refused", sim.Fault{Kind: sim.FaultKill, Close: "fin"}},
		{"hub reset, then CONNACK 3", sim.Fault{Kind: sim.FaultConnack3}},
		{"hub reset, then CONNACK 5", sim.Fault{Kind: sim.FaultConnack5}},
	} {
		row(f.what+"; retry-after 0", wholeFloor, times(20, func() time.Duration { return c.recover(direct, nil, settle, kill(f.fault)) }), within(wholeFloor, 100*time.Millisecond))
	}
	row("black hole, 1 sample/s; the floor waits for 2 s of silence", behind(2*time.Second, wholeFloor), times(5, func() time.Duration {
		return c.recover(direct, func(d *device.Config) { d.TelemetryInterval = time.Second }, 500*time.Millisecond, kill(sim.Fault{Kind: sim.FaultBlackhole}))
	}), "≤ 3500")
	row("DPS refuses for 1 s meanwhile, no other hub known", behind(time.Second, wholeFloor), times(3, func() time.Duration {
		return c.recover(direct, nil, settle, func() {
			c.must(c.FaultDPS(sim.DPSFault{Kind: "down", Seconds: 1}))
			kill(sim.Fault{Kind: sim.FaultKill})()
		})
	}), "≤ 3000")
	row("DPS knows 1 s later", behind(time.Second, wholeFloor), times(3, func() time.Duration {
		return c.recover(direct, nil, settle, kill(sim.Fault{Kind: sim.FaultKill, DPSLagSeconds: 1}))
	}), "≤ 6000")
	row("DPS drops registrations for 1 s", behind(time.Second, wholeFloor), times(3, func() time.Duration {
		return c.recover(direct, nil, settle, func() {
			c.must(c.FaultDPS(sim.DPSFault{Kind: "drop", Seconds: 1}))
			kill(sim.Fault{Kind: sim.FaultKill})()
		})
	}), "≤ 6000")
	row("the new hub answers CONNACK 5 for 1 s", behind(time.Second, wholeFloor), times(3, func() time.Duration {
		return c.recover(direct, nil, settle, func() {
			c.must(c.FaultHub("hub-b", sim.Fault{Kind: sim.FaultConnack5, Seconds: 1, DPSKnows: new(false)}))
			kill(sim.Fault{Kind: sim.FaultKill})()
		})
	}), "≤ 6000")

	farHub, farWhole := floors(10, delayed)
	row("50 ms round trip: link reset, same hub", farHub, times(10, func() time.Duration {
		return c.recover(delayed, nil, 4*roundTrip, func() { c.must(c.Disconnect(fmt.Sprintf("device-%04d", c.next))) })
	}), "≤ "+ms(median(farHub)*115/100+roundTrip/2)+" (the end takes half a round trip to arrive)")
	for _, f := range []struct {
		what string
		kind string
		more time.Duration // the end takes half a round trip to arrive, and an answer of the old hub takes three, beside two of DPS's
	}{
		{"then refused", sim.FaultKill, 0},
		{"then CONNACK 3", sim.FaultConnack3, roundTrip/2 + roundTrip},
		{"then CONNACK 5", sim.FaultConnack5, roundTrip/2 + roundTrip},
	} {
		row("50 ms round trip: hub reset, "+f.what+"; retry-after 0", farWhole, times(10, func() time.Duration {
			return c.recover(delayed, nil, 4*roundTrip, kill(sim.Fault{Kind: f.kind}))
		}), "≤ "+ms(median(farWhole)*115/100+f.more))
	}
}

func keyOf(c *cloud, id string) string { return base64.StdEncoding.EncodeToString(c.DeviceKey(id)) }
