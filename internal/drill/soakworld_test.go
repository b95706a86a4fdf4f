package drill

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
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

	// drainedWithin is how long the queue may take to empty after that.
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

// soak plays a schedule with the whole client against the whole cloud, with real TLS and MQTT between
// them, in virtual time. When the schedule ends, everything is healed, and the device must come back.
// soak never fails t for what it finds, so that a failing schedule can be made smaller. Each of spoil
// breaks the world before the device starts, so that the soak must find something.
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

// soakWorld is the cloud and the device of one soak. It is the Network and the Process of its stage.
// A field without another guard belongs to the goroutine that plays.
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

// soakLife is one process of the device.
type soakLife struct {
	dev   *device.Device
	stop  context.CancelFunc
	ended chan error

	rival bool
	mu    sync.Mutex
	dead  bool
	conns map[*soakConn]bool
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
				Outbox:        outbox.Options{MaxBytes: 4 << 20, SyncEvery: duration(c.SyncEvery, 0), Machine: "soak"},
				Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: duration(c.SASTTL, time.Hour)},
				Drain:         telemetry.DrainOptions{Window: c.Window, Order: order},
			},
		},
		device.Identity{
			DeviceID: soakDevice, IDScope: info.IDScope,
			Key:      base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(soakDevice)),
			StateDir: filepath.Join(w.dir, "0"),
		},
		sample.Options{Model: w.model, Interval: duration(c.Interval, time.Second), ReportedInterval: 15 * time.Second},
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

// Cut loses whatever is sent to a place.
func (w *soakWorld) Cut(place string) {
	for _, addr := range w.addresses(place) {
		w.net.Cut(addr)
	}
}

// Mend ends a cut.
func (w *soakWorld) Mend(place string) {
	for _, addr := range w.addresses(place) {
		w.net.Mend(addr)
	}
}

// SetDelay makes all ways longer.
func (w *soakWorld) SetDelay(oneWay time.Duration) { w.net.SetDelay(oneWay) }

// ResetDelay makes all ways as long as the settings have them.
func (w *soakWorld) ResetDelay() { w.net.SetDelay(duration(w.s.With.Delay, 0)) }

// SetWeather lets segments come late or get lost.
func (w *soakWorld) SetWeather(jitter time.Duration, loss float64) {
	w.net.SetWeather(jitter, loss, w.s.With.Seed)
}

// SetPath lets new connections fail.
func (w *soakWorld) SetPath(place, how string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, addr := range w.addresses(place) {
		w.paths[addr] = how
	}
}

// HandOver takes the device's address away: what it sends on old connections does not arrive, for
// good, and new dials fail.
func (w *soakWorld) HandOver() {
	w.SetPath("all", "unreachable")
	if w.life == nil {
		return
	}
	w.life.mu.Lock()
	defer w.life.mu.Unlock()
	for c := range w.life.conns {
		c.gone.Store(true)
	}
}

// SetClock makes the clock of the device's machine wrong.
func (w *soakWorld) SetClock(ahead time.Duration) { w.clock.Set(ahead) }

// try notes what the cloud refuses to do.
func (w *soakWorld) try(err error) {
	if err != nil {
		w.trace("   not done: %v", err)
	}
}

// addresses returns the addresses of a place.
func (w *soakWorld) addresses(place string) (all []string) {
	info := w.cloud.Info()
	if place == "dps" || place == "all" {
		all = append(all, info.DPS.MQTT, info.DPS.HTTPS)
	}
	for _, h := range info.Hubs {
		if place == h.Name || place == "all" {
			all = append(all, h.MQTT)
		}
	}
	return all
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
// minute after a refusal, after a silence that a living hub can explain, and after a hub was dead for
// long. A link that was lost in a handover leaves a hub that answers others, so it is such a silence.
// After anything else only the waits of DPS and a few seconds are left.
func (w *soakWorld) bound() time.Duration {
	if d := duration(w.s.With.BackWithin, 0); d > 0 {
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
	underWay := 2 + uint64(4*duration(w.s.With.Delay, 0)/w.conf.app.Interval)
	for drained := time.Now(); w.life.dev.Status().Outbox.Queued > underWay; {
		if time.Since(drained) > drainedWithin {
			w.v.fault("%d samples still wait %v after the first one came", w.life.dev.Status().Outbox.Queued, drainedWithin)
			break
		}
		w.until(time.Now().Add(250 * time.Millisecond))
	}
	w.until(time.Now().Add(10 * time.Second))                                                 // it must stay there
	for since := time.Now(); w.life.dev.Status().Hub == "" || w.state().ConnectedHub == ""; { // a token may just be renewed
		if time.Since(since) > 5*time.Second {
			w.v.fault("there is no link, although the queue was empty before")
			break
		}
		w.until(time.Now().Add(250 * time.Millisecond))
	}
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

// Start runs the device as a process of its own, unless it runs.
func (w *soakWorld) Start() {
	if w.life != nil {
		return
	}
	w.life = w.process(strconv.Itoa(w.lives), w.conf, false)
	w.rates = nil // a new process has a new budget
	synctest.Wait()
}

// process runs a device as one of its own. Its journal goes into the trace under a name.
func (w *soakWorld) process(name string, c soakPlan, rival bool) *soakLife {
	l := &soakLife{ended: make(chan error, 1), conns: map[*soakConn]bool{}, rival: rival}
	c.shared.Journal = new(journal.Journal)
	c.shared.Journal.Sink(func(e journal.Event) { w.trace("%s %s %s %s %s", name, e.Kind, e.Rule, e.Text, e.Error) })
	c.shared.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return w.dial(ctx, l, network, addr)
	}
	c.app.Rand = c.shared.Rand
	l.dev = device.New(&c.shared, c.id, sample.App(c.app))
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	go func() { l.ended <- l.dev.Run(ctx) }()
	return l
}

// Stop stops the device in order, if it runs.
func (w *soakWorld) Stop() {
	if w.life == nil {
		return
	}
	synctest.Wait()
	w.look()
	w.budget()
	w.life.stop()
	if err := <-w.life.ended; err != nil {
		w.v.fault("the device ended with %v", err)
	}
	synctest.Wait()
	if n := len(w.life.conns); n > 0 {
		w.v.fault("%d connections are open after the end", n)
	}
	w.life = nil
}

// StartRival starts another device with the same identity, on a machine of its own.
func (w *soakWorld) StartRival() {
	if w.other != nil {
		return
	}
	c := w.conf
	c.app.Off.Telemetry, c.id.StateDir, c.shared.Clock = true, filepath.Join(w.dir, "rival"), clock.Machine{}
	c.shared.Rand = rand.New(rand.NewPCG(w.s.With.Seed, 99))
	w.other = w.process("  rival", c, true)
}

// StopRival ends the rival, if there is one.
func (w *soakWorld) StopRival() {
	if w.other != nil {
		w.other.stop()
		<-w.other.ended
		w.other = nil
	}
}

// Crash ends the process as a kill does: the system closes its sockets, and the next process finds
// what is in the files at that moment.
func (w *soakWorld) Crash(hard bool) {
	l := w.life
	if l == nil {
		return
	}
	synctest.Wait() // so that nobody is in the middle of a write
	w.look()
	w.budget()
	w.lives++
	next := filepath.Join(w.dir, strconv.Itoa(w.lives))
	if err := os.CopyFS(next, os.DirFS(w.conf.id.StateDir)); err != nil {
		w.v.fault("copying the state: %v", err)
	}
	w.conf.id.StateDir = next
	w.conf.shared.Rand = rand.New(rand.NewPCG(w.s.With.Seed, uint64(7+w.lives)))
	l.mu.Lock()
	l.dead = true
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		if hard {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
	l.stop() // the rest of it has no network
	w.old = append(w.old, l)
	w.life = nil
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
	if err := j.Holds(device.OutboxDir(w.conf.id.StateDir, soakDevice)); err != nil {
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

// dial is the network of one process.
func (w *soakWorld) dial(ctx context.Context, l *soakLife, network, addr string) (net.Conn, error) {
	raw, err := w.path(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &soakConn{Conn: raw, w: w, l: l, addr: addr}
	l.mu.Lock()
	dead := l.dead
	if !dead {
		l.conns[c] = true
	}
	l.mu.Unlock()
	if dead {
		_ = raw.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	}
	return c, nil
}

// path dials, unless something is wrong with the way.
func (w *soakWorld) path(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	how := w.paths[addr]
	w.mu.Unlock()
	fail := func(err error) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: network, Err: err} }
	switch how {
	case "nxdomain":
		return fail(&net.DNSError{Err: "no such host", Name: addr, IsNotFound: true})
	case "no-dns":
		return fail(&net.DNSError{Err: "server misbehaving", Name: addr, IsTemporary: true})
	case "unreachable":
		return fail(os.NewSyscallError("connect", syscall.ENETUNREACH))
	case "refused":
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case "hang":
		<-ctx.Done()
		return fail(os.ErrDeadlineExceeded)
	case "portal", "reset":
		return w.net.DialContext(ctx, network, how+":443")
	}
	return w.net.DialContext(ctx, network, addr)
}

// intercept answers in place of whoever was dialled, until its listener is closed.
func (w *soakWorld) intercept(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 1<<10))
		_, _ = c.Write([]byte(answer))
		_ = c.Close()
	}
}

// soakConn notices from outside when a connection becomes a session: with the first application
// record that is too long for anything but a CONNECT with a token in it.
type soakConn struct {
	net.Conn
	w       *soakWorld
	l       *soakLife
	addr    string
	gone    atomic.Bool // what is written goes nowhere, and TLS does not survive that
	session bool        // it has sent a CONNECT
	closed  bool        // guarded by w.mu, as session is
}

// SetLinger is the connection's own, if it has one.
func (c *soakConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

func (c *soakConn) Write(p []byte) (int, error) {
	const applicationData, tooLong = 23, 200
	if len(p) > tooLong && p[0] == applicationData && !c.l.rival && c.hub() {
		c.begin()
	}
	if c.gone.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// hub says whether this goes to a hub.
func (c *soakConn) hub() bool { return !slices.Contains(c.w.addresses("dps"), c.addr) }

func (c *soakConn) begin() {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.session || c.closed {
		return
	}
	c.session = true
	if w.connected[c.addr] == nil {
		w.connected[c.addr] = map[*soakConn]bool{}
	}
	w.connected[c.addr][c] = true
	if n := len(w.connected[c.addr]); n > 1 {
		w.v.fault("%d sessions at once with %s", n, c.addr)
	}
}

func (c *soakConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	c.w.mu.Lock()
	c.closed = true
	delete(c.w.connected[c.addr], c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}
