package device

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
	"runtime"
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
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// A soak is the whole client against the whole cloud, real TLS and MQTT between them, in virtual time, under a schedule of faults that
// a seed draws. A schedule is a text, so that one that has failed can be kept: those in testdata/soak run with every test.
//
//	with {"interval":"1s","retryAfter":3}
//	12.3s hub-a {"kind":"kill","seconds":20}
//	15s dps {"kind":"throttle","retryAfter":5,"seconds":10}
//	20s device failover 30s
//	30s cut hub-b 4s
//	31s delay 80ms 10s
//	33s weather 500ms 0.05 20s
//	35s handover 3s
//	40s crash rst 2s
//	50s restart 1s
//	55s clock -2h 20s
//
// Everything in it ends by itself or with the schedule; then all is healed, and the device must be back.

const (
	// backWithin is how long the first sample may take once everything is healed: a backoff of a minute, and what may follow it.
	backWithin = 100 * time.Second
	// drainedWithin is how long the queue may take to empty after that.
	drainedWithin = 2 * time.Minute
)

// soakConfig is how a world is set up; the zero values are the defaults.
type soakConfig struct {
	Seed       uint64 `json:"seed"`                 // of the device's own chance
	Interval   string `json:"interval,omitempty"`   // between samples
	RetryAfter *int   `json:"retryAfter,omitempty"` // of DPS, seconds; absent: it names none
	Polls      int    `json:"polls,omitempty"`
	Hubs       int    `json:"hubs,omitempty"`
	SASTTL     string `json:"sasTTL,omitempty"`
	Pipeline   string `json:"pipeline,omitempty"`
	Transport  string `json:"transport,omitempty"`
	NoKnown    bool   `json:"noKnown,omitempty"`
	Window     int    `json:"window,omitempty"`
	FreshFirst bool   `json:"freshFirst,omitempty"`
	SyncEvery  string `json:"syncEvery,omitempty"`
	Move       string `json:"move,omitempty"`
	Refusal    byte   `json:"refusal,omitempty"`
	Delay      string `json:"delay,omitempty"`      // one way
	BackWithin string `json:"backWithin,omitempty"` // for a schedule that was kept: how long the first sample may take at the end
}

// step is one line of a schedule.
type step struct {
	at   time.Duration
	what string
}

type schedule struct {
	with  soakConfig
	steps []step
}

func (s schedule) String() string {
	with, err := json.Marshal(s.with)
	if err != nil {
		panic(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "with %s\n", with)
	for _, st := range s.steps {
		fmt.Fprintf(&b, "%v %s\n", st.at, st.what)
	}
	return b.String()
}

func parseSchedule(text string) (s schedule, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		first, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case first == "with":
			err = json.Unmarshal([]byte(rest), &s.with)
		default:
			st := step{what: rest}
			st.at, err = time.ParseDuration(first)
			s.steps = append(s.steps, st)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", line, err)
		}
	}
	return s, nil
}

// draw makes the schedule of a seed.
func draw(seed uint64) schedule {
	r := rand.New(rand.NewPCG(seed, 1))
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	some := func(all ...string) string { return all[r.IntN(len(all))] }
	// long is a time of any order of magnitude between 50 ms and 70 s.
	long := func() time.Duration {
		return ms(time.Duration(50*float64(time.Millisecond)) << r.IntN(11) * time.Duration(100+r.IntN(40)) / 100)
	}
	secs := func() float64 { return long().Seconds() }

	s := schedule{with: soakConfig{
		Seed: seed, Interval: some("1s", "1s", "1s", "200ms", "5s"), Hubs: 2 + r.IntN(4)/3, SASTTL: some("1h", "1h", "1m40s", "3m"),
		Pipeline: some("", "", "", "off", "on"), Transport: some("mqtt", "mqtt", "mqtt", "https"), NoKnown: r.IntN(6) == 0,
		Window: []int{0, 0, 1, 8}[r.IntN(4)], FreshFirst: r.IntN(8) == 0, SyncEvery: some("", "", "", "1s"), Move: some("", "", "delete"),
		Refusal: []byte{0, 0, 5}[r.IntN(3)], Delay: some("", "", "5ms", "40ms", "150ms"), Polls: r.IntN(4) / 3,
	}}
	if s.with.Window == 1 && (s.with.Interval == "200ms" || s.with.Delay == "150ms") {
		s.with.Window = 8 // one at a time would not catch up
	}
	if n := []int{-1, 0, 1, 3, 3, 5}[r.IntN(6)]; n >= 0 {
		s.with.RetryAfter = &n
	}
	at := time.Duration(0)
	if r.IntN(2) == 0 { // then it knows two hubs, and is at home in the second
		s.steps = append(s.steps, step{12 * time.Second, `hub-a {"kind":"kill","seconds":10}`})
		at = 30 * time.Second
	}
	for n := 1 + r.IntN(9); n > 0; n-- {
		switch r.IntN(4) {
		case 0: // with the one before
		case 1:
			at += time.Duration(r.IntN(3000)) * time.Millisecond
		default:
			at += time.Duration(r.IntN(40_000)) * time.Millisecond
		}
		hub := "hub-" + string(rune('a'+r.IntN(s.with.Hubs)))
		if r.IntN(2) == 0 {
			hub = "hub-a"
		}
		what := ""
		switch k := r.IntN(33); {
		case k < 9:
			f := sim.Fault{Kind: some(sim.FaultKill, sim.FaultKill, sim.FaultBlackhole, sim.FaultSYNDrop, sim.FaultConnack3, sim.FaultConnack5,
				sim.FaultClose, sim.FaultSlow, sim.FaultDropPuback, sim.FaultThrottle), Close: some("", "fin"), Seconds: secs()}
			if r.IntN(2) == 0 {
				f.DPSKnows = new(r.IntN(2) == 0)
			}
			if r.IntN(3) == 0 {
				f.DPSLagSeconds = secs()
			}
			if f.Kind == sim.FaultSlow || f.Kind == sim.FaultThrottle {
				f.DelayMs = 1 + r.IntN(8000)
			}
			f.Empty = r.IntN(12) == 0
			b, _ := json.Marshal(f)
			what = hub + " " + string(b)
		case k < 14:
			f := sim.DPSFault{Kind: some(sim.DPSDown, sim.DPSBlackhole, sim.DPSDrop, sim.DPSThrottle, sim.DPSError500, sim.DPSStuck, sim.DPSSlow,
				sim.DPSUnauthorized, sim.DPSStray), Seconds: secs()}
			if f.Kind == sim.DPSThrottle {
				f.RetryAfter = new(r.IntN(12))
			}
			if f.Kind == sim.DPSSlow {
				f.DelayMs = 1 + r.IntN(8000)
			}
			b, _ := json.Marshal(f)
			what = "dps " + string(b)
		case k < 18:
			what = "device " + some("failover", "failover", "failback", "disconnect", "disable", "block", "identity", "delete") + " " + long().String()
		case k < 20:
			what = "cut " + some(hub, hub, "dps", "all") + " " + long().String()
		case k < 21:
			what = "delay " + ms(time.Duration(r.IntN(600))*time.Millisecond).String() + " " + long().String()
		case k < 23:
			what = some("crash rst", "crash fin", "restart") + " " + long().String()
		case k < 26:
			what = "path " + some(hub, hub, "dps", "all") + " " + some("nxdomain", "no-dns", "unreachable", "refused", "portal", "reset", "hang") + " " + long().String()
		case k < 27:
			what = fmt.Sprintf("storm %d %v", 2+r.IntN(20), ms(time.Duration(1+r.IntN(900))*time.Millisecond))
		case k < 28:
			what = "rival " + long().String()
		default:
			what = some("desired", "c2d", "method")
		}
		s.steps = append(s.steps, step{at, what})
	}
	if c := rand.New(rand.NewPCG(seed, 2)); c.IntN(3) == 0 { // chance of its own: the rest of a seed's schedule stays what it was
		from := ms(time.Duration(c.IntN(2)*c.IntN(60_000)) * time.Millisecond) // half of them from the start
		off := []string{"1970", "-2h", "2h", "-30m", "720h"}[c.IntN(5)]
		s.steps = append(s.steps, step{from, fmt.Sprintf("clock %s %v", off, ms(time.Duration(1+c.IntN(90_000))*time.Millisecond))})
	}
	if c := rand.New(rand.NewPCG(seed, 3)); c.IntN(5) == 0 {
		from, lasts := ms(time.Duration(c.IntN(60_000))*time.Millisecond), ms(time.Duration(1+c.IntN(40_000))*time.Millisecond)
		how := fmt.Sprintf("weather %v %.2f", ms(time.Duration(c.IntN(2000))*time.Millisecond), c.Float64()/10)
		if c.IntN(2) == 0 {
			how = "handover"
		}
		s.steps = append(s.steps, step{from, how + " " + lasts.String()})
	}
	return s
}

// verdict is what became of a schedule.
type verdict struct {
	faults  []string
	back    time.Duration // from the end of the last fault to the first sample that was made after it
	samples int64
	trace   []string
	mu      sync.Mutex
}

func (v *verdict) fault(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if text := fmt.Sprintf(format, args...); len(v.faults) < 20 && !slices.Contains(v.faults, text) {
		v.faults = append(v.faults, text)
	}
}

// soak plays a schedule. It never fails t for what it finds, so that a failing schedule can be made smaller.
func soak(t *testing.T, s schedule) (v *verdict) {
	v = &verdict{}
	dir := inMemory(t)
	defer func() { _ = os.RemoveAll(dir) }() // now: there are thousands
	builtin, err := os.ReadFile("../../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	// What hangs for good in real time is named.
	guard := time.AfterFunc(3*time.Minute, func() { panic("a soak does not end:\n" + s.String()) })
	defer guard.Stop()
	defer func() {
		if r := recover(); r != nil { // a goroutine that is left, or all of them asleep
			v.fault("panic: %v", r)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		w := &soakWorld{v: v, dir: dir, s: s, model: builtin, connected: map[string]map[*soakConn]bool{}, paths: map[string]string{}}
		w.play(t)
	})
	return v
}

// ramDisk is where files cost nothing, if there is such a place.
func ramDisk() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// inMemory is a directory where syncing costs nothing, for tests that sync for days, or start thousands of times.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(ramDisk(), "device") //nolint:usetesting // t.TempDir is on a disk, and the syncs of these tests would take hours there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// soakWorld is the cloud and the device of one soak. What has no other guard belongs to the goroutine that plays.
type soakWorld struct {
	v     *verdict
	s     schedule
	model []byte
	dir   string
	lives int
	net   *memnet.Net
	cloud *sim.Sim
	conf  plan
	clock *machine // of the device
	began time.Time
	life  *soakLife
	old   []*soakLife // those that have crashed

	gone  int64     // how many samples had left the outbox
	other *soakLife // somebody with the same identity
	rates []count

	mu        sync.Mutex
	moved     time.Time                     // when DPS last gave the device another hub
	paths     map[string]string             // by address: what is wrong with new connections
	connected map[string]map[*soakConn]bool // by address: connections that have sent a CONNECT and are open
}

// count is how many registrations DPS had counted at a time.
type count struct {
	at time.Time
	n  int64
}

// soakLife is one process of the device.
type soakLife struct {
	dev   *Device
	stop  context.CancelFunc
	ended chan error

	rival bool
	mu    sync.Mutex
	dead  bool
	conns map[*soakConn]bool
}

func duration(s string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(s); err == nil {
		return d
	}
	return otherwise
}

func (w *soakWorld) play(t *testing.T) {
	c := w.s.with
	w.net = memnet.New()
	w.net.SetDelay(duration(c.Delay, 0))
	w.began = time.Now()
	sc := sim.DefaultConfig()
	sc.Layout, sc.Listen, sc.Hubs, sc.Move, sc.DisabledRefusal, sc.Polls = sim.LayoutLoopback, w.net.Listen, max(2, c.Hubs), c.Move, c.Refusal, c.Polls
	sc.SASGrace = 10 * time.Second
	if sc.RetryAfterAbsent = c.RetryAfter == nil; !sc.RetryAfterAbsent {
		sc.RetryAfter = time.Duration(*c.RetryAfter) * time.Second
	}
	cloud, err := sim.New(sc)
	if err == nil {
		err = cloud.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.cloud = cloud
	defer func() { _ = cloud.Close() }()
	events, cancel := cloud.Watch()
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
	m, err := model.Parse(w.model)
	if err != nil {
		t.Fatal(err)
	}
	info := cloud.Info()
	w.conf = plan{
		Shared: Shared{
			Agent: "soak", Roots: cloud.CAPool(), Rand: rand.New(rand.NewPCG(c.Seed, 7)),
		},
		Config: Config{
			ProvisioningHost: info.ProvisioningHost, ProvisioningTransport: dps.Transport(c.Transport),
			MethodTimeout: 25 * time.Second,
			DrainTimeout:  30 * time.Second,
			Failover:      failover.Options{Pipeline: failover.Pipeline(c.Pipeline), NoKnown: c.NoKnown},
			Outbox:        outbox.Options{MaxBytes: 4 << 20, SyncEvery: duration(c.SyncEvery, 0), Machine: "soak"},
			Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: duration(c.SASTTL, time.Hour)},
			Drain:         telemetry.DrainOptions{Window: c.Window, Order: c.order()},
		},
		Identity: Identity{
			DeviceID: "dev-1", IDScope: info.IDScope,
			Key:      base64.StdEncoding.EncodeToString(cloud.DeviceKey("dev-1")),
			StateDir: filepath.Join(w.dir, "0"),
		},
		does: does{
			Model: m, Telemetry: true, Reported: true, Desired: true, Methods: true, C2D: true,
			TelemetryInterval: duration(c.Interval, time.Second), ReportedInterval: 15 * time.Second,
		},
	}
	w.clock = newMachine(0)
	w.conf.Clock = w.clock.clock()
	for how, answer := range map[string]string{"portal": "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", "reset": ""} {
		l, err := w.net.Listen("tcp", how+":443")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		go w.intercept(l, answer)
	}
	todo := w.actions()
	for _, do := range todo {
		if do.at == 0 && strings.HasPrefix(do.what, "clock") { // it is wrong when the device starts
			do.run()
		}
	}
	w.start()
	for _, do := range todo {
		w.until(w.began.Add(do.at))
		w.trace("== %s", do.what)
		do.run()
	}
	w.heal()
	w.comeBack()
	w.halt()
	for _, l := range w.old {
		<-l.ended
	}
	w.check(info)
}

func soakTrace() bool { return os.Getenv("SOAK_TRACE") != "" }

func (w *soakWorld) trace(format string, args ...any) {
	if soakTrace() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.v.trace = append(w.v.trace, fmt.Sprintf("%9.3f %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...)))
	}
}

// action is something that is done at a time: a step of the schedule, or the end of one.
type action struct {
	at   time.Duration
	what string
	run  func()
}

// actions are the steps, and their ends, in order.
func (w *soakWorld) actions() (all []action) {
	for _, st := range w.s.steps {
		begin, end, lasts := w.action(st.what)
		if begin == nil {
			w.v.fault("a step that nobody understands: %s", st.what)
			continue
		}
		if times, pause := storm(st.what); times > 0 { // others go on meanwhile
			for n := range times {
				all = append(all, action{st.at + time.Duration(n)*pause, st.what, begin})
			}
		} else {
			all = append(all, action{st.at, st.what, begin})
		}
		if end == nil {
			end = func() {}
		}
		all = append(all, action{st.at + lasts, "end of " + st.what, end})
	}
	slices.SortStableFunc(all, func(a, b action) int { return int(a.at - b.at) })
	return all
}

// storm reads a step of that kind: how often the link is closed, and with what pauses. It is none if that is 0 times.
func storm(text string) (times int, pause time.Duration) {
	if f := strings.Fields(text); len(f) == 3 && f[0] == "storm" {
		times, _ = strconv.Atoi(f[1])
		pause, _ = time.ParseDuration(f[2])
	}
	return times, pause
}

// action reads a step. What the cloud refuses, because it makes no sense at that moment, does not happen.
func (w *soakWorld) action(what string) (begin, end func(), lasts time.Duration) {
	f := append(strings.Fields(what), "", "")
	lasts = duration(f[len(f)-3], 0)
	_, doc, _ := strings.Cut(what, " ")
	switch {
	case f[0] == "dps":
		var fault sim.DPSFault
		if json.Unmarshal([]byte(doc), &fault) != nil {
			return nil, nil, 0
		}
		return func() { w.try(w.cloud.FaultDPS(fault)) }, nil, time.Duration(fault.Seconds * float64(time.Second))
	case strings.HasPrefix(f[0], "hub-"):
		var fault sim.Fault
		if json.Unmarshal([]byte(doc), &fault) != nil {
			return nil, nil, 0
		}
		return func() { w.try(w.cloud.FaultHub(f[0], fault)) }, nil, time.Duration(fault.Seconds * float64(time.Second))
	case f[0] == "cut":
		each := func(do func(string)) func() {
			return func() {
				for _, addr := range w.addresses(f[1]) {
					do(addr)
				}
			}
		}
		return each(w.net.Cut), each(w.net.Mend), lasts
	case f[0] == "delay":
		return func() { w.net.SetDelay(duration(f[1], 0)) }, func() { w.net.SetDelay(duration(w.s.with.Delay, 0)) }, lasts
	case f[0] == "weather":
		jitter, loss := duration(f[1], 0), 0.0
		_, _ = fmt.Sscan(f[2], &loss)
		return func() { w.net.SetWeather(jitter, loss, w.s.with.Seed) }, func() { w.net.SetWeather(0, 0, 0) }, lasts
	case f[0] == "handover":
		return w.handOver, w.setPath("all", ""), lasts
	case f[0] == "path":
		return w.setPath(f[1], f[2]), w.setPath(f[1], ""), lasts
	case f[0] == "storm":
		times, pause := storm(what)
		return func() { w.try(w.cloud.Disconnect("dev-1")) }, nil, time.Duration(times) * pause
	case f[0] == "rival":
		return w.rival, func() { w.quiet() }, lasts
	case f[0] == "clock":
		off := duration(f[1], 0)
		if f[1] == "1970" {
			off = since1970()
		}
		return func() { w.clock.set(off) }, func() { w.clock.set(0) }, lasts
	case f[0] == "crash":
		return func() { w.crash(f[1] == "rst") }, w.start, lasts
	case f[0] == "restart":
		return w.halt, w.start, lasts
	case f[0] == "desired":
		return func() {
			w.try(w.cloud.PatchDesired("dev-1", fmt.Appendf(nil, `{"fanSpeed":%d}`, time.Since(w.began).Milliseconds())))
		}, nil, 0
	case f[0] == "c2d":
		return func() {
			_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`true`), Properties: map[string]string{"method-name": "setAlarm"}})
			w.try(err)
		}, nil, 0
	case f[0] == "method":
		return func() {
			go func() { _, _ = w.cloud.Method(context.Background(), "dev-1", "setAlarm", json.RawMessage(`true`)) }()
		}, nil, 0
	case f[0] == "device":
		id := "dev-1"
		enable := func() { w.try(w.cloud.Enable(id)) }
		switch f[1] {
		case "failover":
			return func() { w.try(w.cloud.Failover(id, lasts)) }, nil, lasts
		case "failback":
			return func() { w.try(w.cloud.Failback(id)) }, nil, 0
		case "disconnect":
			return func() { w.try(w.cloud.Disconnect(id)) }, nil, 0
		case "delete":
			return func() { w.try(w.cloud.Delete(id)) }, nil, 0
		case "disable":
			return func() { w.try(w.cloud.Disable(id)) }, enable, lasts
		case "identity":
			return func() { w.try(w.cloud.DisableIdentity(id)) }, enable, lasts
		case "block":
			return func() { w.try(w.cloud.Block(id)) }, func() { w.try(w.cloud.Unblock(id)) }, lasts
		}
	}
	return nil, nil, 0
}

// setPath makes new connections suffer.
func (w *soakWorld) setPath(where, how string) func() {
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, addr := range w.addresses(where) {
			w.paths[addr] = how
		}
	}
}

// handOver takes the device's address away: nothing that it sends arrives any more, on what is connected for good, and new dials fail.
func (w *soakWorld) handOver() {
	w.setPath("all", "unreachable")()
	if w.life == nil {
		return
	}
	w.life.mu.Lock()
	defer w.life.mu.Unlock()
	for c := range w.life.conns {
		c.gone.Store(true)
	}
}

// try notes what the cloud refuses to do.
func (w *soakWorld) try(err error) {
	if err != nil {
		w.trace("   not done: %v", err)
	}
}

// addresses are where a cut is felt.
func (w *soakWorld) addresses(what string) (all []string) {
	info := w.cloud.Info()
	if what == "dps" || what == "all" {
		all = append(all, info.DPS.MQTT, info.DPS.HTTPS)
	}
	for _, h := range info.Hubs {
		if what == h.Name || what == "all" {
			all = append(all, h.MQTT)
		}
	}
	return all
}

// heal ends all faults.
func (w *soakWorld) heal() {
	w.trace("== all is healed")
	for _, h := range w.cloud.Info().Hubs {
		w.try(w.cloud.HealHub(h.Name))
	}
	w.try(w.cloud.HealDPS())
	for _, addr := range w.addresses("all") {
		w.net.Mend(addr)
	}
	w.net.SetDelay(duration(w.s.with.Delay, 0))
	w.net.SetWeather(0, 0, 0)
	w.mu.Lock()
	clear(w.paths)
	w.mu.Unlock()
	w.quiet()
	w.clock.set(0)
	w.try(w.cloud.Enable("dev-1"))
	w.try(w.cloud.Unblock("dev-1"))
	w.start()
}

// bound is how long the first sample may take. Refusals, and silences that a living hub can explain, have waits of a minute by
// design (a link that was lost in a handover leaves a hub that answers others), and so has a hub that was dead for long; after anything
// else only DPS's own waits and a few seconds are left.
func (w *soakWorld) bound() time.Duration {
	if d := duration(w.s.with.BackWithin, 0); d > 0 {
		return d
	}
	text := w.s.String()
	for _, slow := range []string{"block", "disable", "identity", "unauthorized", "error500", "slow", "drop-puback", "cut", `"throttle"`, "portal", "rival", "storm", "weather", "handover", "clock"} {
		if strings.Contains(text, slow) {
			return backWithin
		}
	}
	total := time.Duration(0)
	for _, st := range w.s.steps {
		_, _, lasts := w.action(st.what)
		total += lasts
	}
	if total > 40*time.Second {
		return backWithin
	}
	r := 2 // what the client takes for an absent one
	if w.s.with.RetryAfter != nil {
		r = *w.s.with.RetryAfter
	}
	return 12*time.Second + w.conf.TelemetryInterval + time.Duration(2*(1+w.s.with.Polls)*r)*time.Second
}

// comeBack holds the device to its bounds.
func (w *soakWorld) comeBack() {
	healed, bound := time.Now(), w.bound()
	received := func() int64 { return w.cloud.Ledger("dev-1", false).Received }
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
	underWay := 2 + uint64(4*duration(w.s.with.Delay, 0)/w.conf.TelemetryInterval)
	for drained := time.Now(); w.life.dev.Status().Outbox.Queued > underWay; {
		if time.Since(drained) > drainedWithin {
			w.v.fault("%d samples still wait %v after the first one came", w.life.dev.Status().Outbox.Queued, drainedWithin)
			break
		}
		w.until(time.Now().Add(250 * time.Millisecond))
	}
	w.until(time.Now().Add(10 * time.Second))                                                 // and it stays
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
		if time.Since(since) > twinAnswer+twinRetryMax {
			w.v.fault("%s", strings.Join(open, "; "))
			break
		}
	}
}

// sessions are those that the device holds, with all hubs.
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

// open is what has not come to rest yet: a desired property without its acknowledgement, a message to the device that nobody dealt with.
func (w *soakWorld) open() (all []string) {
	d := w.state()
	w.mu.Lock()
	moved := w.moved
	w.mu.Unlock()
	if d.ConnectedHub != d.AssignedHub || moved.After(w.life.dev.Status().Since) { // DPS moved it, or its twin, without a word to the device
		return nil
	}
	t, err := w.cloud.Twin("dev-1")
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
	messages, _ := w.cloud.C2DMessages("dev-1") // none is none
	for _, m := range messages {
		if m.Hub == string(d.ConnectedHub) && (m.State == "enqueued" || m.State == "delivered") {
			all = append(all, fmt.Sprintf("a message to the device is still %s at %s", m.State, m.Hub))
		}
	}
	return all
}

// until lets time pass, and looks at what must hold at any time.
func (w *soakWorld) until(at time.Time) {
	for {
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
	if w.life == nil || w.life.dev.box == nil {
		return
	}
	s := w.life.dev.Status().Outbox
	gone := int64(s.LastSeq - s.Queued)
	if arrived := w.cloud.Ledger("dev-1", false).Distinct; gone > arrived {
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

// start runs the device as a process of its own, unless it runs.
func (w *soakWorld) start() {
	if w.life != nil {
		return
	}
	w.life = w.process(strconv.Itoa(w.lives), w.conf, false)
	w.rates = nil // a new process has a new budget
	synctest.Wait()
}

// process runs a device as one of its own. What it tells is traced under a name.
func (w *soakWorld) process(name string, c plan, rival bool) *soakLife {
	l := &soakLife{ended: make(chan error, 1), conns: map[*soakConn]bool{}, rival: rival}
	j := new(journal.Journal)
	j.Sink(func(e journal.Event) { w.trace("%s %s %s %s %s", name, e.Kind, e.Rule, e.Text, e.Error) })
	c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return w.dial(ctx, l, network, addr)
	}
	l.dev = c.device(j)
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	go func() { l.ended <- l.dev.Run(ctx) }()
	return l
}

// halt stops the device in order, if it runs.
func (w *soakWorld) halt() {
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

// rival starts another device with the same identity, on a machine of its own.
func (w *soakWorld) rival() {
	if w.other != nil {
		return
	}
	c := w.conf
	c.Telemetry, c.StateDir, c.Clock = false, filepath.Join(w.dir, "rival"), Clock{}
	c.Rand = rand.New(rand.NewPCG(w.s.with.Seed, 99))
	w.other = w.process("  rival", c, true)
}

// quiet ends the rival.
func (w *soakWorld) quiet() {
	if w.other != nil {
		w.other.stop()
		<-w.other.ended
		w.other = nil
	}
}

// crash ends the process as a kill does: its sockets are closed by the system, and what is in its files at that moment is what the
// next one finds.
func (w *soakWorld) crash(hard bool) {
	l := w.life
	if l == nil {
		return
	}
	synctest.Wait() // nobody is in the middle of a write
	w.look()
	w.budget()
	w.lives++
	next := filepath.Join(w.dir, strconv.Itoa(w.lives))
	if err := os.CopyFS(next, os.DirFS(w.conf.StateDir)); err != nil {
		w.v.fault("copying the state: %v", err)
	}
	w.conf.StateDir = next
	w.conf.Rand = rand.New(rand.NewPCG(w.s.with.Seed, uint64(7+w.lives)))
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
	l.stop() // what is left of it has no network
	w.old = append(w.old, l)
	w.life = nil
}

// budget holds a life to its registrations: five in hand, one back every five seconds.
func (w *soakWorld) budget() {
	if strings.Contains(w.s.String(), "rival") {
		return // which has a budget of its own
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

// check reads the books at the end.
func (w *soakWorld) check(info sim.Info) {
	l := w.cloud.Ledger("dev-1", true)
	w.v.samples = l.Distinct
	seen := map[int64]bool{}
	last, box := int64(0), ""
	for _, m := range l.Messages {
		id, digits, _ := strings.Cut(m.Mid, "-")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || box != "" && id != box {
			w.v.fault("a message with the id %q after those of %q", m.Mid, box)
		}
		if box = id; !seen[n] && n < last && !w.s.with.FreshFirst {
			w.v.fault("number %d came behind number %d", n, last)
		}
		seen[n] = true
		last = max(last, n)
		if gap := m.Properties["gap"]; gap != nil {
			w.v.fault("%s says that %s were dropped", m.Mid, *gap)
		}
	}
	for n := int64(1); n <= last; n++ {
		if !seen[n] {
			w.v.fault("number %d of %d is lost", n, last)
		}
	}
	if last == 0 {
		w.v.fault("nothing came at all")
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

// intercept is what stands in the way and answers itself, until its listener is closed.
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

// soakConn knows from outside when a connection becomes a session: the first application record that is too long for anything but a
// CONNECT with a token in it.
type soakConn struct {
	net.Conn
	w       *soakWorld
	l       *soakLife
	addr    string
	gone    atomic.Bool // what is written goes nowhere, TLS does not survive that
	session bool        // it has sent a CONNECT
	closed  bool        // guarded by w.mu, as session is
}

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

// TestSoak plays the schedules of SOAK_SEEDS: how many, or from:to.
func TestSoak(t *testing.T) {
	from, to := uint64(1), uint64(50)
	if v := os.Getenv("SOAK_SEEDS"); v != "" {
		first, last, isRange := strings.Cut(v, ":")
		if !isRange {
			first, last = "1", v
		}
		if _, err := fmt.Sscan(first+" "+last, &from, &to); err != nil {
			t.Fatalf("SOAK_SEEDS=%s: a number, or from:to", v)
		}
	}
	next := atomic.Uint64{}
	next.Store(from - 1)
	var mu sync.Mutex
	var backs []soakBack
	var samples int64
	began := time.Now()
	failures := atomic.Int64{}
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprintf("worker %d", i), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= to && failures.Load() < 10; seed = next.Add(1) {
					v := soak(t, draw(seed))
					for _, line := range v.trace {
						t.Log(line)
					}
					if len(v.faults) > 0 {
						failures.Add(1)
						report(t, seed, draw(seed), v)
					}
					mu.Lock()
					backs = append(backs, soakBack{seed, v.back})
					samples += v.samples
					mu.Unlock()
				}
			})
		}
	})
	slices.SortFunc(backs, func(a, b soakBack) int { return int(b.back - a.back) })
	if len(backs) > 0 {
		t.Logf("%d seeds in %v, %d samples; back after the last fault: median %v, p99 %v, longest %v", len(backs), time.Since(began).Round(time.Second),
			samples, backs[len(backs)/2].back, backs[len(backs)/100].back, backs[:min(8, len(backs))])
	}
}

type soakBack struct {
	seed uint64
	back time.Duration
}

func (b soakBack) String() string { return fmt.Sprintf("%v (seed %d)", b.back, b.seed) }

// report fails the test with the smallest schedule that still fails.
func report(t *testing.T, seed uint64, s schedule, v *verdict) {
	t.Helper()
	t.Errorf("seed %d: %s\n%s", seed, strings.Join(v.faults, "\n  "), s)
	small, small2 := shrink(t, s)
	if small2 == nil {
		t.Errorf("seed %d does not fail again", seed)
		return
	}
	t.Errorf("seed %d, shrunk; keep it as internal/device/testdata/soak/<what it is about>.txt:\n# %s\n%s", seed, strings.Join(small2.faults, "\n# "), small)
}

// shrink drops steps, then settings, while the schedule still fails. Chance remains where goroutines race, so each is tried more than
// once.
func shrink(t *testing.T, s schedule) (schedule, *verdict) {
	t.Helper()
	fails := func(s schedule) *verdict {
		for range 3 {
			if v := soak(t, s); len(v.faults) > 0 {
				return v
			}
		}
		return nil
	}
	last := fails(s)
	if last == nil {
		return s, nil
	}
	for again := true; again; {
		again = false
		for i := range slices.Backward(s.steps) {
			less := s
			less.steps = slices.Delete(slices.Clone(s.steps), i, i+1)
			if v := fails(less); v != nil {
				s, last, again = less, v, true
			}
		}
	}
	three := 3
	for _, plain := range []func(c *soakConfig){
		func(c *soakConfig) { c.Interval = "" }, func(c *soakConfig) { c.RetryAfter = &three }, func(c *soakConfig) { c.Polls = 0 },
		func(c *soakConfig) { c.Hubs = 0 }, func(c *soakConfig) { c.SASTTL = "" }, func(c *soakConfig) { c.Pipeline = "" },
		func(c *soakConfig) { c.Transport = "" }, func(c *soakConfig) { c.NoKnown = false }, func(c *soakConfig) { c.Window = 0 },
		func(c *soakConfig) { c.FreshFirst = false }, func(c *soakConfig) { c.SyncEvery = "" }, func(c *soakConfig) { c.Move = "" },
		func(c *soakConfig) { c.Refusal = 0 }, func(c *soakConfig) { c.Delay = "" },
	} {
		less := s
		plain(&less.with)
		if v := fails(less); v != nil {
			s, last = less, v
		}
	}
	return s, last
}

// TestSoakSchedules plays the schedules that failed once.
func TestSoakSchedules(t *testing.T) {
	files, err := filepath.Glob("testdata/soak/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if one := os.Getenv("SOAK_FILE"); one != "" {
		files = []string{one}
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseSchedule(string(text))
			if err != nil {
				t.Fatal(err)
			}
			v := soak(t, s)
			for _, f := range v.faults {
				t.Error(f)
			}
			for _, line := range v.trace {
				t.Log(line)
			}
		})
	}
}

// TestNeighbour: however its chance falls, a device does not press a DPS that throttles, nor one that goes on naming a dead hub.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	retry := 5
	for name, v := range map[string]struct {
		during  time.Duration
		allowed int64
		harm    func(w *world)
	}{
		"throttling, retry-after 5": {20 * time.Second, 5, func(w *world) {
			w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSThrottle, RetryAfter: &retry}))
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		}},
		"stale": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
		}},
		"stale, and the hub accepts and closes": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultClose}))
		}},
		"stale, and the hub is a black hole": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole, DPSKnows: no()}))
		}},
		"stale, and the hub refuses the device": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultConnack5, DPSKnows: no()}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(10) {
				chance := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *plan) { c.Rand = rand.New(rand.NewPCG(seed, 3)) }}
				bubble(t, chance, func(t *testing.T, w *world) {
					w.run(2 * time.Minute)
					before := w.cloud.State().Totals.Registrations
					v.harm(w)
					w.run(v.during)
					if n := w.cloud.State().Totals.Registrations - before; n > v.allowed {
						t.Errorf("seed %d: %d registrations in %v", seed, n, v.during)
					}
					w.must(w.cloud.HealDPS())
					w.must(w.cloud.HealHub("hub-a"))
					w.run(90 * time.Second)
				})
			}
		})
	}
}

// order returns which samples the device sends first.
func (c soakConfig) order() telemetry.Order {
	if c.FreshFirst {
		return telemetry.FreshFirst
	}
	return telemetry.FIFO
}
