//go:build linux

package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// outage is a trouble that takes too long to be waited for: it is measured in virtual time, with
// the real device, the real simulator and real TLS and MQTT between them.
type outage struct {
	what   string
	lasts  time.Duration // from the beginning of the faults to the end of the last one, which is where the measurement begins
	limit  float64       // ms at p99
	https  bool          // DPS is asked over HTTPS
	dpsSay byte          // the CONNACK of DPS meanwhile; 0: it answers as it does
	dps    sim.DPSFault  // no kind: it is well
	hub    sim.Fault
	lead   time.Duration // from the beginning of DPS's fault to that of the hub's
	lost   bool          // what is measured is the time from the fault until the link is known to be lost
}

// retryAfter is what DPS asks for in these measurements, as the simulator's default is.
const retryAfter = 3 * time.Second

// outages are the short troubles of DPS, and of a hub that refuses, while nobody else can help.
func outages() (all []outage) {
	const seconds = float64(time.Second)
	killed, r := sim.Fault{Kind: sim.FaultKill}, 1000*retryAfter.Seconds()
	for _, lasts := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		all = append(all, outage{
			what: fmt.Sprintf("the assigned hub refuses for %v while DPS is down and no other hub is known", lasts), lasts: lasts, limit: 2000,
			dps: sim.DPSFault{Kind: sim.DPSDown}, hub: sim.Fault{Kind: sim.FaultKill, Seconds: float64(lasts) / seconds, DPSKnows: new(false)},
		})
	}
	for _, f := range []struct{ kind, says string }{{sim.DPSError500, "500"}, {sim.DPSUnauthorized, "401"}} {
		for _, way := range []string{"", ", over HTTPS"} {
			for _, lasts := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
				o := outage{
					what: fmt.Sprintf("hub killed, and DPS answers %s for %v%s", f.says, lasts, way), lasts: lasts, limit: r + 6000, https: way != "",
					dps: sim.DPSFault{Kind: f.kind, Seconds: float64(lasts) / seconds}, hub: killed,
				}
				if lasts == 10*time.Second {
					o.limit = r + 2000
				}
				if lasts == 10*time.Second && f.kind == sim.DPSError500 {
					o.what += " (the published sample, once: 3200)"
				}
				all = append(all, o)
			}
		}
	}
	for _, code := range []byte{3, 5} {
		all = append(all, outage{
			what: fmt.Sprintf("hub killed, and DPS answers CONNACK %d for 10s", code), lasts: 10 * time.Second, limit: r + 2000, dpsSay: code, hub: killed,
		})
	}
	return all
}

// after is how much later than at its own length the last fault ends.
func (o outage) after() time.Duration {
	if o.hub.Seconds > 0 {
		return o.lead
	}
	return 0
}

// measure plays an outage with n devices side by side, each with chance of its own, and says how
// long each took. Nothing of it takes real time but the work.
func (o outage) measure(t *testing.T, n int, change func(*plan)) (took []time.Duration) {
	t.Helper()
	m, dir := virtual.Model(t), virtual.Dir(t)
	synctest.Test(t, func(t *testing.T) {
		wire, cloud := virtual.Cloud(t, func(c *sim.Config) { c.RetryAfter = retryAfter })
		info, roots := cloud.Info(), cloud.CAPool()
		door := &doorkeeper{code: o.dpsSay, to: info.DPS.MQTT, dial: wire.DialContext}
		if o.dpsSay != 0 {
			roots.AddCert(door.open(t, wire, info.ProvisioningHost))
			defer door.close()
		}

		var mu sync.Mutex
		var began time.Time // of the faults; zero: not yet
		lost, up, ready := make([]time.Time, n), make([]time.Time, n), 0
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for i := range n {
			id := fmt.Sprintf("device-%04d", i)
			conf := plan{
				Shared: device.Shared{
					Agent: "bench", Roots: roots, DialContext: door.dialContext, Rand: rand.New(rand.NewPCG(uint64(i), 1)),
				},
				Config: device.Config{
					ProvisioningHost: info.ProvisioningHost, ProvisioningTransport: dps.MQTT,
					MethodTimeout: time.Second,
					DrainTimeout:  time.Second,
					Outbox:        outbox.Options{MaxBytes: 1 << 20, Machine: "bench"},
					Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
					Drain:         telemetry.DrainOptions{Window: 64},
				},
				Identity: device.Identity{
					DeviceID: id, IDScope: info.IDScope, Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey(id)), StateDir: dir,
				},
				Sample: sample.Options{Model: m, Interval: 5 * time.Second, Off: device.Paths{Reported: true}},
			}
			if o.https {
				conf.ProvisioningTransport = dps.HTTPS
			}
			if change != nil {
				change(&conf)
			}
			j := new(journal.Journal)
			j.Sink(func(e journal.Event) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case e.Kind == journal.Acknowledged && began.IsZero():
					ready++
				case e.Kind == journal.Acknowledged && up[i].IsZero():
					up[i] = e.Time
				case e.Kind == journal.Lost && !began.IsZero() && lost[i].IsZero():
					lost[i] = e.Time
				}
			})
			dev := conf.device(j)
			running.Go(func() { _ = dev.Run(ctx) })
			time.Sleep(apart)
		}
		time.Sleep(time.Minute) // a link that has stood for so long is one like any other
		mu.Lock()
		if ready < n {
			t.Fatalf("%d of %d devices are up", ready, n)
		}
		began = time.Now()
		mu.Unlock()
		door.shutFor(o.lasts)
		var err error
		if o.dps.Kind != "" {
			err = cloud.FaultDPS(o.dps)
		}
		time.Sleep(o.lead)
		if err = errors.Join(err, cloud.FaultHub("hub-a", o.hub)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(o.lasts + 2*time.Minute)
		synctest.Wait()
		mu.Lock()
		for i := range n {
			switch {
			case o.lost:
				took = append(took, lost[i].Sub(began))
			case up[i].IsZero():
				t.Errorf("device %d has not recovered in two minutes", i)
			default:
				took = append(took, up[i].Sub(began)-o.lasts-o.after())
			}
		}
		mu.Unlock()
		stop()
		running.Wait()
	})
	return took
}

// doorkeeper stands in for DPS and answers CONNECT with a code, as long as it is told to.
type doorkeeper struct {
	code  byte
	to    string // DPS
	dial  dialFunc
	until time.Time
	l     net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
}

const doorAddress = "127.0.9.9:1"

func (d *doorkeeper) shutFor(lasts time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until = time.Now().Add(lasts)
}

func (d *doorkeeper) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	shut := d.code != 0 && addr == d.to && time.Now().Before(d.until)
	d.mu.Unlock()
	if shut {
		addr = doorAddress
	}
	return d.dial(ctx, network, addr)
}

func (d *doorkeeper) close() {
	_ = d.l.Close()
	d.wg.Wait()
}

// open sets it to work, and returns the certificate that it shows.
func (d *doorkeeper) open(t *testing.T, wire *memnet.Net, host string) *x509.Certificate {
	t.Helper()
	cert, _ := memnet.Certificate(t, host)
	l, err := wire.Listen("tcp", doorAddress)
	if err != nil {
		t.Fatal(err)
	}
	d.l = l
	d.wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() {
				conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
				if _, err := conn.Read(make([]byte, 8<<10)); err == nil {
					_, _ = conn.Write([]byte{0x20, 2, 0, d.code})
				}
				_ = conn.Close()
			})
		}
	})
	return cert.Leaf
}

// troubles measures all outages, with many devices each. What DPS goes through begins up to 4 s
// before the hub's end, so that the registrations that a device gets back, one each 5 s, meet the
// end of it at another moment.
func troubles(t *testing.T) (numbers []number) {
	row := func(what string, took figure, g goal) {
		numbers = append(numbers, number{what, len(took), nil, took, g})
		fmt.Fprintln(os.Stderr, what, took, g)
	}
	for _, o := range outages() {
		var took figure
		for o.lead = 0; o.lead < 5*time.Second; o.lead += time.Second {
			took = append(took, milliseconds(o.measure(t, 40, nil))...)
		}
		row(fmt.Sprintf("virtual ms from the end of the faults to the first PUBACK, retry-after %v: %s", retryAfter, o.what), took, p99AtMost(o.limit))
	}
	hole := outage{lost: true, hub: sim.Fault{Kind: sim.FaultBlackhole}}
	row("virtual ms until a black hole is known, a sample each 5 s", milliseconds(hole.measure(t, 200, nil)), p99AtMost(5500))
	out := measured("make bench-troubles")
	out.numbers(numbers)
	write(t, "troubles", out)
	return numbers
}

// TestShortTroubles holds a few devices to what docs/benchmarks.md says of many: not one of them
// may be later than the goal for 99 of 100.
func TestShortTroubles(t *testing.T) {
	for _, o := range outages() {
		if o.lasts == 40*time.Second {
			continue // 20 s show the same
		}
		t.Run(o.what, func(t *testing.T) {
			for _, took := range o.measure(t, 12, nil) {
				if ms := took.Seconds() * 1000; ms > o.limit || ms < 0 {
					t.Errorf("%v after the end of the faults", took)
				}
			}
		})
	}
}
