package device

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// TestMain refuses every dial outside of the network in memory, on which whole outages run.
func TestMain(m *testing.M) {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, fmt.Errorf("a test asked for the real DNS")
	}}
	os.Exit(m.Run())
}

// world is a cloud and one device, in virtual time, with real TLS and real MQTT between them.
type world struct {
	t      *testing.T
	net    *memnet.Net
	cloud  *sim.Sim
	config plan
	dev    *Device

	mu        sync.Mutex
	events    []journal.Event
	stop      context.CancelFunc
	leave     context.CancelFunc // stop, but at once
	ended     chan error
	began     time.Time // when the device started first
	disk      home.Disk // of the device's home; nil: the real one
	continues int64     // the last sample that another cloud has received
	gives     bool      // the device gives samples up: they must be announced
}

// setup changes the cloud and the device before they start.
type setup struct {
	cloud  func(*sim.Config)
	device func(*plan)
	start  time.Time // when the cloud and the device start; zero: at the beginning of virtual time

	continues int64 // the last sample that another cloud has received
}

// bubble runs f in a world of its own and stops the device. Then it checks what must always be
// true: no sample is lost, none is out of order, and no goroutine or connection is left.
func bubble(t *testing.T, s setup, f func(t *testing.T, w *world)) {
	t.Helper()
	m := withCommands(t, virtual.ModelText(t))
	dir := virtual.Dir(t) // a second of virtual time has dozens of syncs; the outbox is held to a real disk by its own tests
	synctest.Test(t, func(t *testing.T) {
		if !s.start.IsZero() {
			time.Sleep(time.Until(s.start))
		}
		n, cloud := virtual.Cloud(t, s.cloud)
		info := cloud.Info()
		w := &world{t: t, net: n, cloud: cloud, continues: s.continues}
		w.config = plan{
			Shared: Shared{
				Agent: "test", Roots: cloud.CAPool(), DialContext: n.DialContext, Rand: rand.New(rand.NewPCG(7, 7)),
			},
			Config: Config{
				ProvisioningHost: info.ProvisioningHost, ProvisioningTransport: dps.MQTT,
				MethodTimeout: 25 * time.Second,
				DrainTimeout:  5 * time.Second,
				Outbox:        outbox.Options{MaxBytes: 64 << 20, Machine: "test"},
				Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
				Drain:         telemetry.DrainOptions{Window: 64},
			},
			Identity: Identity{
				DeviceID: "dev-1", IDScope: info.IDScope, Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey("dev-1")), StateDir: dir,
			},
			does: does{
				Model: m, Telemetry: true, Reported: true, Desired: true, Methods: true, C2D: true,
				TelemetryInterval: time.Second, ReportedInterval: 15 * time.Second,
			},
		}
		if s.device != nil {
			s.device(&w.config)
		}
		w.start()
		defer func() {
			if w.dev != nil { // the test has failed in the middle
				w.stop()
				<-w.ended
			}
		}()
		f(t, w)
		if w.dev != nil {
			w.halt()
		}
		switch {
		case w.gives:
			w.nothingUntold()
		case w.config.Telemetry:
			w.nothingLost()
		}
	})
}

// start runs the device.
func (w *world) start() {
	w.t.Helper()
	j := new(journal.Journal)
	j.Sink(func(e journal.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	})
	if w.began.IsZero() {
		w.began = time.Now()
	}
	w.dev = w.config.device(j)
	if w.disk != nil {
		w.dev.disk = w.disk
	}
	ctx, cancel := context.WithCancelCause(w.t.Context())
	w.stop, w.leave = func() { cancel(nil) }, func() { cancel(ErrLeave) }
	ended := make(chan error, 1)
	w.ended = ended
	dev := w.dev
	go func() { ended <- dev.Run(ctx) }()
}

// halt stops the device in order.
func (w *world) halt() {
	w.t.Helper()
	w.stop()
	if err := <-w.ended; err != nil {
		w.t.Errorf("the device ended with %v", err)
	}
	w.dev = nil
}

// lastSeq is the number of the last sample that the device has ever made.
func (w *world) lastSeq() int64 {
	seq := int64(0)
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		var n int64
		if _, digits, ok := strings.Cut(m.Mid, "-"); ok {
			_, _ = fmt.Sscan(digits, &n)
		}
		seq = max(seq, n)
	}
	return seq
}

// nothingLost checks in the cloud's ledger that every sequence number up to the last has arrived,
// in order, from one outbox.
func (w *world) nothingLost() {
	w.t.Helper()
	l := w.cloud.Ledger("dev-1", true)
	if last := w.lastSeq() - w.continues; l.Distinct != last || last <= 0 {
		w.t.Errorf("%d samples arrived, the last one is number %d", l.Distinct, last)
	}
	if l.Reordered != 0 && w.config.Drain.Order != telemetry.FreshFirst {
		w.t.Errorf("%d samples came behind later ones", l.Reordered)
	}
	for _, m := range l.Messages {
		if gap := m.Properties["gap"]; gap != nil {
			w.t.Errorf("%s says that %s were dropped", m.Mid, *gap)
		}
	}
}

// nothingUntold compares the cloud's ledger with the device's disk: every missing sample was
// announced.
func (w *world) nothingUntold() audit.Account {
	w.t.Helper()
	var a audit.Audit
	w.must(a.Holds(home.OutboxDir(w.config.StateDir, "dev-1")))
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		gap := ""
		if p := m.Properties["gap"]; p != nil {
			gap = *p
		}
		a.Arrived(m.Mid, gap)
	}
	all := a.Accounts(false)
	if len(all) != 1 || all[0].Lost > 0 || all[0].Reordered > 0 || all[0].Announced == 0 {
		w.t.Fatalf("%+v", all)
	}
	return all[0]
}

// run lets virtual time pass.
func (w *world) run(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// must fails the test for what the cloud refuses to do.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// on waits up to limit, in virtual time, until telemetry comes to a hub. It returns how long that
// took by the cloud's ledger.
func (w *world) on(hub string, limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	watch, stop := w.cloud.Watch()
	defer stop()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		for _, m := range w.cloud.Ledger("dev-1", true).Messages {
			if m.Hub == hub && m.At.After(began) { // what came at this very moment was before
				return m.At.Sub(began)
			}
		}
		select {
		case <-watch:
		case <-timer.C:
			w.t.Fatalf("no telemetry on %s within %v; decisions: %v", hub, limit, w.decisions())
		}
	}
}

// decisions are the rules that were applied, repetitions in a row left out.
func (w *world) decisions() (ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == journal.Decision && (len(ids) == 0 || ids[len(ids)-1] != e.Rule) {
			ids = append(ids, e.Rule)
		}
	}
	return ids
}

// forget makes decisions start anew.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = nil
}

// decided holds the device to a list of rules.
func (w *world) decided(want ...string) {
	w.t.Helper()
	if got := w.decisions(); !slices.Equal(got, want) {
		w.t.Errorf("decided %v, not %v", got, want)
	}
}

func (w *world) count(kind journal.Kind) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// all returns the events of a kind.
func (w *world) all(kind journal.Kind) (all []journal.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}

func (w *world) texts(kind journal.Kind) (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			all = append(all, e.Text)
		}
	}
	return all
}

// twin is the device's twin at the hub DPS would assign, one part of it.
func (w *world) twin(part string) map[string]any {
	w.t.Helper()
	t, err := w.cloud.Twin("dev-1")
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := json.Marshal(t)
	if err != nil {
		w.t.Fatal(err)
	}
	var doc map[string]map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		w.t.Fatal(err)
	}
	return doc[part]
}

// acknowledged returns a property's acknowledgement as value, ac, av.
func (w *world) acknowledged(name string) string {
	w.t.Helper()
	ack, _ := w.twin("reported")[name].(map[string]any)
	return fmt.Sprintf("%v %v %v", ack["value"], ack["ac"], ack["av"])
}

// aDay is how long tests live that wait for what is rare: a day with LONG_TESTS (make days), else 6
// hours.
func aDay() time.Duration {
	switch {
	case os.Getenv("LONG_TESTS") != "":
		return 24 * time.Hour
	case racing.On:
		return 2 * time.Hour
	}
	return 6 * time.Hour
}

func no() *bool { return new(false) }

// plan is all that [New] is given, so that a test can change any part of it by its name.
type plan struct {
	Shared
	Config
	Identity
	does
}

// device makes a device that shares nothing with others but the limits of the plan.
func (p plan) device(j *journal.Journal) *Device {
	shared := p.Shared
	shared.Config, shared.Journal = p.Config, j
	return New(&shared, p.Identity, p.app(p.Rand))
}
