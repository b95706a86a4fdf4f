package drill

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

const (
	// soakDevice is the device of every soak.
	soakDevice = "dev-1"

	// backWithin is how long the first sample may take once everything is healed: a backoff of a
	// minute, and what may follow it.
	backWithin = 100 * time.Second

	// drainedWithin is how long the queue may take to empty after that, and again after a while.
	drainedWithin = 2 * time.Minute

	// twinWithin is how long a twin may take to come to rest: the answer to a request got lost, and
	// the device asks again.
	twinWithin = time.Minute
)

// soaked is what became of a schedule.
type soaked struct {
	mu sync.Mutex
	Verdict
	back    time.Duration // from the end of the last fault to the first sample that was made after it
	samples uint64
	trace   []string
}

// fault adds a finding, unless it is known. It leaves room for the findings of the judge.
func (v *soaked) fault(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if len(v.Findings) < maxFindings/2 && !slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.Text == text }) {
		v.Object(Misconduct, "%s", text)
	}
}

// texts are the findings.
func (v *soaked) texts() (all []string) {
	for _, f := range v.Findings {
		all = append(all, f.Text)
	}
	return all
}

// soak plays a schedule with the whole client against the whole cloud, with real TLS and MQTT
// between them, in virtual time. When the schedule ends, everything is healed, and the device must
// come back. soak never fails t for what it finds, so that a failing schedule can be made smaller.
// Each of spoil breaks the world before the device starts, so that the soak must find something.
func soak(t *testing.T, s Schedule, spoil ...func(w *soakWorld)) (v *soaked) {
	v = &soaked{}
	dir := virtual.Dir(t)
	defer func() { _ = os.RemoveAll(dir) }() // now, because there are thousands
	m := virtual.Model(t)
	guard := time.AfterFunc(3*time.Minute, func() { panic("a soak does not end in real time:\n" + s.String()) })
	defer guard.Stop()
	defer func() {
		if r := recover(); r != nil { // a goroutine is left, or all of them are asleep
			v.fault("panic: %v", r)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		w := &soakWorld{v: v, dir: dir, s: s, model: m, connected: map[string]map[*soakConn]bool{}, paths: map[string]string{}}
		w.play(t, spoil)
	})
	return v
}

// soakWorld is the cloud and the device of one soak. It is the Network and the Process of its
// stage. A field without another guard belongs to the goroutine that plays.
type soakWorld struct {
	v     *soaked
	s     Schedule
	model *model.Model
	dir   string
	lives int
	net   *memnet.Net
	cloud *sim.Sim
	conf  soakPlan
	clock *virtual.Machine // of the device
	began time.Time
	life  *soakLife
	old   []*soakLife // those that have crashed

	gone  int64     // how many samples had left the outbox
	other *soakLife // the rival: another program with the same identity
	rates []count
	spoil []spoiling // what a test breaks later

	mu        sync.Mutex
	moved     time.Time                     // when DPS last gave the device another hub
	paths     map[string]string             // by address: what is wrong with new connections
	connected map[string]map[*soakConn]bool // by address: connections that have sent a CONNECT and are open
}

// soakPlan is what a device is made of.
type soakPlan struct {
	shared device.Shared
	id     device.Identity
	app    sample.Options
}

// spoiling is something that a test breaks, some time after the start.
type spoiling struct {
	at time.Duration
	do func()
}

// count is how many registrations DPS had counted at a time.
type count struct {
	at time.Time
	n  int64
}

func (w *soakWorld) play(t *testing.T, spoil []func(*soakWorld)) {
	c := w.s.With
	w.began = time.Now()
	w.net, w.cloud = virtual.Cloud(t, func(sc *sim.Config) {
		sc.Hubs, sc.Move, sc.DisabledRefusal, sc.Polls = max(2, c.Hubs), c.Move, c.Refusal, c.Polls
		sc.SASGrace = 10 * time.Second
		if sc.RetryAfterAbsent = c.RetryAfter == nil; !sc.RetryAfterAbsent {
			sc.RetryAfter = time.Duration(*c.RetryAfter) * time.Second
		}
	})
	w.ResetDelay()
	events, cancel := w.cloud.Watch()
	defer cancel()
	go func() {
		for e := range events {
			w.trace("   cloud %s %s %s %s %d", e.Kind, e.Hub, e.Device, e.Reason, e.Count)
			if e.Kind == sim.EventMove {
				w.mu.Lock()
				w.moved = time.Now()
				w.mu.Unlock()
			}
		}
	}()
	w.clock = virtual.NewMachine(0)
	w.conf = w.plan(c)
	for how, answer := range map[string]string{"portal": "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", "reset": ""} {
		l, err := w.net.Listen("tcp", how+":443")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		go w.intercept(l, answer)
	}
	for _, f := range spoil {
		f(w)
	}
	stage := &Stage{Device: soakDevice, Cloud: Embedded(w.cloud), Network: w, Process: w,
		Wait:    func(_ context.Context, at time.Time) error { w.until(at); return nil },
		Before:  func(what string) { w.trace("== %s", what) },
		Refused: w.try,
	}
	if err := w.s.Play(context.Background(), stage); err != nil {
		w.v.fault("%v", err)
	}
	w.heal()
	w.comeBack()
	w.Stop()
	for _, l := range w.old {
		<-l.ended
	}
	w.check(w.cloud.Info())
}

// plan is the device as the settings want it.
func (w *soakWorld) plan(c Settings) soakPlan {
	info := w.cloud.Info()
	order := telemetry.FIFO
	if c.FreshFirst {
		order = telemetry.FreshFirst
	}
	return soakPlan{
		device.Shared{
			Agent: "soak", Roots: w.cloud.CAPool(), Rand: rand.New(rand.NewPCG(c.Seed, 7)),
			Clock: clock.Machine{Wall: w.clock.Wall, Running: w.clock.Running, Boot: "boot 1"},
			Config: device.Config{
				ProvisioningHost: info.ProvisioningHost, ProvisioningTransport: dps.Transport(c.Transport),
				MethodTimeout: 25 * time.Second,
				DrainTimeout:  30 * time.Second,
				Failover:      failover.Options{Pipeline: failover.Pipeline(c.Pipeline), NoKnown: c.NoKnown},
				Outbox:        outbox.Options{MaxBytes: 4 << 20, SyncEvery: Span(c.SyncEvery, 0), Machine: "soak"},
				Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: Span(c.SASTTL, time.Hour)},
				Drain:         telemetry.DrainOptions{Window: c.Window, Order: order},
			},
		},
		device.Identity{
			DeviceID: soakDevice, IDScope: info.IDScope,
			Key:      base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(soakDevice)),
			StateDir: filepath.Join(w.dir, "0"),
		},
		sample.Options{Model: w.model, Interval: Span(c.Interval, time.Second), ReportedInterval: 15 * time.Second},
	}
}

func soakTrace() bool { return os.Getenv("SOAK_TRACE") != "" }

func (w *soakWorld) trace(format string, args ...any) {
	if soakTrace() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.v.trace = append(w.v.trace, fmt.Sprintf("%9.3f %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...)))
	}
}

// try notes what the cloud refuses to do.
func (w *soakWorld) try(err error) {
	if err != nil {
		w.trace("   not done: %v", err)
	}
}

// heal ends all faults, and starts the device if it does not run.
func (w *soakWorld) heal() {
	w.trace("== all is healed")
	for _, h := range w.cloud.Info().Hubs {
		w.try(w.cloud.HealHub(h.Name))
	}
	w.try(w.cloud.HealDPS())
	w.Mend("all")
	w.ResetDelay()
	w.net.SetWeather(0, 0, 0)
	w.mu.Lock()
	clear(w.paths)
	w.mu.Unlock()
	w.StopRival()
	w.clock.Set(0)
	w.try(w.cloud.Enable(soakDevice))
	w.try(w.cloud.Unblock(soakDevice))
	w.Start()
}

// bound returns how long the first sample may take after everything is healed. The device waits a
// minute after a refusal, after a silence that a living hub can explain, and after a hub was dead
// for long. A link that was lost in a handover leaves a hub that answers others, so it is such a
// silence. After anything else only the waits of DPS and a few seconds are left.
func (w *soakWorld) bound() time.Duration {
	if d := Span(w.s.With.BackWithin, 0); d > 0 {
		return d
	}
	text := w.s.String()
	for _, slow := range []string{"block", "disable", "identity", "unauthorized", "error500", "slow", "drop-puback", "cut", `"throttle"`, "portal", "rival", "storm", "weather", "handover", "clock"} {
		if strings.Contains(text, slow) {
			return backWithin
		}
	}
	if w.s.Lasts() > 40*time.Second {
		return backWithin
	}
	r := 2 // what the client takes for an absent one
	if w.s.With.RetryAfter != nil {
		r = *w.s.With.RetryAfter
	}
	return 12*time.Second + w.conf.app.Interval + time.Duration(2*(1+w.s.With.Polls)*r)*time.Second
}

// comeBack holds the device to its bounds.
func (w *soakWorld) comeBack() {
	healed, bound := time.Now(), w.bound()
	received := func() int64 { return w.cloud.Ledger(soakDevice, false).Received }
	before := received()
	for received() == before {
		if time.Since(healed) > bound {
			w.v.fault("nothing came within %v after the last fault", bound)
			return
		}
		w.until(time.Now().Add(50 * time.Millisecond))
	}
	w.v.back = time.Since(healed)
	w.trace("== back")
	w.drain("the first one came")
	w.until(time.Now().Add(10 * time.Second))                                                 // it must stay there
	for since := time.Now(); w.life.dev.Status().Hub == "" || w.state().ConnectedHub == ""; { // a token may just be renewed
		if time.Since(since) > 5*time.Second {
			w.v.fault("there is no link, although the queue was empty before")
			break
		}
		w.until(time.Now().Add(250 * time.Millisecond))
	}
	// A hub that withheld a PUBACK is given up a minute later, and nothing more may be sent until
	// then.
	w.drain("the queue had been empty")
	if n := w.sessions(); n > 1 {
		w.v.fault("%d sessions at once, when all was quiet", n)
	}
	for since := time.Now(); ; w.until(time.Now().Add(time.Second)) {
		open := w.open()
		if len(open) == 0 {
			break
		}
		if time.Since(since) > twinWithin {
			w.v.fault("%s", strings.Join(open, "; "))
			break
		}
	}
}

// drain waits until only samples wait that may be under way. event, which has just come about,
// stands in the finding if that takes too long.
func (w *soakWorld) drain(event string) {
	underWay := 2 + uint64(4*Span(w.s.With.Delay, 0)/w.conf.app.Interval)
	for drained := time.Now(); w.life.dev.Status().Outbox.Queued > underWay; {
		if time.Since(drained) > drainedWithin {
			w.v.fault("%d samples still wait %v after %s", w.life.dev.Status().Outbox.Queued, drainedWithin, event)
			break
		}
		w.until(time.Now().Add(250 * time.Millisecond))
	}
}

// sessions returns how many sessions the device has, with all hubs.
func (w *soakWorld) sessions() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, all := range w.connected {
		n += len(all)
	}
	return n
}

// state is how the cloud sees the device.
func (w *soakWorld) state() (d sim.DeviceState) {
	if all := w.cloud.State().Devices; len(all) > 0 {
		d = all[0]
	}
	return d
}

// open returns what has not come to rest yet: a desired property without its acknowledgement, or a
// message to the device that the device has not settled.
func (w *soakWorld) open() (all []string) {
	d := w.state()
	w.mu.Lock()
	moved := w.moved
	w.mu.Unlock()
	if d.ConnectedHub != d.AssignedHub || moved.After(w.life.dev.Status().Since) { // DPS moved it, or its twin, and has not told the device
		return nil
	}
	t, err := w.cloud.Twin(soakDevice)
	if err != nil {
		return []string{err.Error()}
	}
	b, err := json.Marshal(t)
	var doc struct{ Desired, Reported map[string]json.RawMessage }
	if err = errors.Join(err, json.Unmarshal(b, &doc)); err != nil {
		return []string{err.Error()}
	}
	for name, want := range doc.Desired {
		var ack struct{ Value json.RawMessage }
		_ = json.Unmarshal(doc.Reported[name], &ack)
		if !strings.HasPrefix(name, "$") && string(ack.Value) != string(want) {
			all = append(all, fmt.Sprintf("desired %s is %s, acknowledged is %s", name, want, doc.Reported[name]))
		}
	}
	messages, _ := w.cloud.C2DMessages(soakDevice) // an error means that there are none
	for _, m := range messages {
		if m.Hub == string(d.ConnectedHub) && (m.State == sim.C2DEnqueued || m.State == sim.C2DDelivered) {
			all = append(all, fmt.Sprintf("a message to the device is still %s at %s", m.State, m.Hub))
		}
	}
	return all
}

// later breaks something, some time after the start.
func (w *soakWorld) later(after time.Duration, f func()) {
	w.spoil = append(w.spoil, spoiling{after, f})
}

// until lets time pass, and looks at what must hold at any time.
func (w *soakWorld) until(at time.Time) {
	for {
		for len(w.spoil) > 0 && time.Since(w.began) >= w.spoil[0].at {
			w.spoil[0].do()
			w.spoil = w.spoil[1:]
		}
		synctest.Wait()
		w.look()
		left := time.Until(at)
		if left <= 0 {
			return
		}
		time.Sleep(min(left, time.Second))
	}
}

// look holds the running device to what is true at any moment: what left the outbox has arrived.
func (w *soakWorld) look() {
	w.rates = append(w.rates, count{time.Now(), w.cloud.State().Totals.Registrations})
	if w.life == nil {
		return
	}
	s := w.life.dev.Status().Outbox
	if s.LastSeq == 0 { // it is not open yet
		return
	}
	gone := int64(s.LastSeq - s.Queued)
	if arrived := w.cloud.Ledger(soakDevice, false).Distinct; gone > arrived {
		w.v.fault("%d samples have left the outbox, %d have arrived", gone, arrived)
	}
	if gone < w.gone { // not even after a crash
		w.v.fault("%d samples had left the outbox, and now %d have", w.gone, gone)
	}
	w.gone = gone
	if s.Dropped+s.Quarantined+s.Damaged > 0 || s.Degraded {
		w.v.fault("the outbox gave something up: %+v", s)
	}
}

// budget holds a life to its registrations: five in hand, and one more each five seconds.
func (w *soakWorld) budget() {
	if strings.Contains(w.s.String(), "rival") {
		return // the rival has a budget of its own
	}
	for i, a := range w.rates {
		for _, b := range w.rates[i+1:] {
			if n, allowed := b.n-a.n, 6+int64(b.at.Sub(a.at)/(5*time.Second)); n > allowed {
				w.v.fault("%d registrations within %v", n, b.at.Sub(a.at))
				return
			}
		}
	}
}

// check judges what arrived by what the device has on its disk, and looks for connections that are
// left.
func (w *soakWorld) check(info sim.Info) {
	j := Judge{Allow: Allowance{Reordered: w.s.With.FreshFirst}}
	if err := j.Holds(home.OutboxDir(w.conf.id.StateDir, soakDevice)); err != nil {
		w.v.fault("the outbox cannot be read: %v", err)
	}
	for _, m := range w.cloud.Ledger(soakDevice, true).Messages {
		j.Arrived(ArrivalOf(m))
	}
	books := j.Verdict(false)
	for _, f := range books.Findings {
		w.v.Object(f.Kind, "%s", f.Text)
	}
	if w.v.samples = books.Distinct; w.v.samples == 0 {
		w.v.Object(NoSamples, "nothing came at all")
	}
	for _, h := range info.Hubs {
		if n := w.net.Open(h.MQTT); n > 0 {
			w.v.fault("%d connections to %s are left", n, h.Name)
		}
	}
	if n := w.net.Open(info.DPS.MQTT) + w.net.Open(info.DPS.HTTPS); n > 0 {
		w.v.fault("%d connections to DPS are left", n)
	}
}
