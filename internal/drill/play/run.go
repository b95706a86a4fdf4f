// Package play plays scenarios on targets: it breaks what a scenario says, waits for what must come
// about, puts everything back, and tells all of it as entries of a report. It judges only whether
// single expectations hold; the verdict is made of the entries, by a [drill.Tally].
package play

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/bubble"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// Run is one run of a scenario on a target.
type Run struct {
	Scenario *scenario.Scenario
	Target   drill.Target
	Device   string // id of the device under test; "": the target chooses
	Seed     uint64
	Virtual  bool // time is virtual; [Check] says whether the target can do that

	// Began is what the beginning of a virtual run is called. Zero: the run is in the year 2000, as
	// the clocks in it say.
	Began time.Time

	Client      string            // the program under test, for the report
	Versions    map[string]string // for the report
	Environment map[string]string // for the report

	// Take is told of everything that happens, such as [drill.Record.Take]. One call comes after
	// the other.
	Take func(report.Entry)
}

// Play plays the scenario, and puts everything back, whatever happens: also when ctx ends, and when
// a step fails or panics. It tells Take what came of it, and returns the time of the run at its
// end. What is wrong is in the report that is made of the entries.
func (r *Run) Play(ctx context.Context) (ended time.Time) {
	p := &player{r: r, s: r.Scenario, outer: ctx, rules: map[string]bool{}, touched: touched{map[string]bool{}, map[drill.Need]bool{}}}
	p.c, p.chaos = settings(r.Scenario, r.Seed)
	if !r.Virtual {
		p.ctx = ctx
		p.run()
		return time.Now()
	}
	if err := bubble.Run(func() {
		if !r.Began.IsZero() {
			p.shift = time.Until(r.Began.Round(0)) // without the reading of the real clock
		}
		p.ctx = context.Background() // a context of the real world would stop the time
		p.run()
		ended = time.Now().Add(p.shift)
	}); err != nil {
		p.spoil("the drill itself failed: %v", err)
	}
	if ended.IsZero() {
		ended = p.latest
	}
	return ended
}

// player plays one run. A field without another guard belongs to the goroutine that plays.
type player struct {
	r      *Run
	s      *scenario.Scenario
	c      drill.Settings
	chaos  drill.Schedule
	outer  context.Context // whose end breaks the run off; it may be of the real world
	ctx    context.Context // of the world
	calls  context.Context // of the commands
	hangUp func()          // ends the commands under way
	shift  time.Duration   // between the clock and what is told

	w       *drill.World
	kept    *keeper // the cloud of w
	dir     string
	members []*member
	homes   map[string]string // hub that DPS had assigned in the beginning, by device
	zero    time.Time         // the beginning of the steps
	acts    []*act            // all steps, the repeated ones included
	running []*act            // those that have begun and not ended
	plan    []timed           // what is to be done, in order of time
	faults  []openFault       // that have not ended
	touched touched
	counted time.Time // when the bounds that count were looked at
	failed  bool      // the rest of the steps is not played
	putBack bool      // everything has been put back
	wrong   string    // with the steady state that was waited for last
	away    bool      // the cloud is gone, so nobody takes what the devices hold
	working sync.WaitGroup

	mu     sync.Mutex // guards what follows, and the calls of Take
	begun  bool
	early  []report.Entry // told before the run began
	latest time.Time
	rules  map[string]bool // rows of the decision table that were taken since the step began
	why    string          // what the device has said of its last failure since it was connected
	broken string          // why there is no proof; "" while there is one
}

// timed is something that is to be done at a time.
type timed struct {
	at  time.Time
	end bool // it ends something, so it is done also when the run is broken off
	do  func(ctx context.Context)
}

// openFault is a fault that has not ended.
type openFault struct{ step, where, what string }

// touched says what may have to be put back.
type touched struct {
	hubs map[string]bool     // by name; "all" stands for all of them
	by   map[drill.Need]bool // by what the scenes have used
}

// member is one device of the run.
type member struct {
	party  drill.Party
	stage  drill.Stage
	behind int64 // messages of the ledger that were read
	books  audit.Audit
	judge  *drill.Judge // of a further device; nil: the report judges

	hub    string // of the newest message
	last   time.Time
	newest uint64 // the greatest seq that arrived
	box    string // outbox id of the newest message
	again  uint64
	moves  uint64
	total  uint64
	others uint64 // messages that are no samples

	gone    uint64 // samples that its outboxes have given up so far; for a cloud without a ledger
	missing uint64 // of those, which no arrival has told yet
}

// emit tells an entry. Entries before the beginning wait for it.
func (p *player) emit(e report.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.At.IsZero() {
		e.At = time.Now()
	}
	e.At = e.At.Add(p.shift)
	if !e.Until.IsZero() {
		e.Until = e.Until.Add(p.shift)
	}
	if e.Event != nil && !e.Event.Time.IsZero() {
		event := *e.Event
		event.Time = event.Time.Add(p.shift)
		e.Event = &event
	}
	if e.At.After(p.latest) {
		p.latest = e.At
	}
	if !p.begun && e.Kind != report.Began {
		p.early = append(p.early, e)
		return
	}
	p.r.Take(e)
	if e.Kind == report.Began {
		p.begun = true
		for _, e := range p.early {
			p.r.Take(e)
		}
		p.early = nil
	}
}

// heard hears the journal of the device under test.
func (p *player) heard(e journal.Event) {
	p.emit(report.Entry{At: e.Time, Kind: report.Happened, Event: &e})
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case journal.Connected: // what was wrong before is over
		p.why = ""
	case journal.Lost:
		p.why = e.Text
	case journal.Decision:
		if e.Rule != "" {
			p.rules[e.Rule] = true
		}
		if e.Error != "" {
			p.why = e.Text
		}
	default:
	}
}

// spoil says that there is no proof.
func (p *player) spoil(format string, a ...any) {
	p.mu.Lock()
	first := p.broken == ""
	if first {
		p.broken = fmt.Sprintf(format, a...)
	}
	text := p.broken
	begun := p.begun
	p.mu.Unlock()
	if !begun {
		p.begin()
	}
	if first {
		p.emit(report.Entry{Kind: report.Spoiled, Text: text})
	}
}

func (p *player) spoiled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken != ""
}

// object tells a finding that no other entry shows.
func (p *player) object(kind drill.Kind, format string, a ...any) {
	p.emit(report.Entry{Kind: report.Objected, Finding: &report.Finding{Kind: string(kind), Text: fmt.Sprintf(format, a...)}})
}

// run plays from the beginning to the end.
func (p *player) run() {
	defer func() {
		if bug := recover(); bug != nil {
			p.spoil("the drill itself failed: %v\n%s", bug, debug.Stack())
		}
	}()
	p.calls, p.hangUp = context.WithCancel(p.ctx)
	defer p.close()
	defer p.hangUp()
	defer func() { // after a panic, too
		if bug := recover(); bug != nil {
			p.spoil("the drill itself failed: %v\n%s", bug, debug.Stack())
		}
		p.restore()
	}()
	if !p.open() {
		return
	}
	if p.steps() {
		p.restore()
		if !p.steady("steady state after") {
			p.failed = true
		}
	} else {
		p.restore()
	}
	p.finish()
}

// open sets up the world, and says whether the steps can begin.
func (p *player) open() bool {
	var err error
	if p.dir, err = workDir(p.s); err != nil {
		p.spoil("there is no place for the files of the run: %v", err)
		return false
	}
	others := p.s.Device.Others
	p.w, err = p.r.Target.Open(p.ctx, drill.Plan{Device: p.r.Device, Others: others, With: p.c, Dir: p.dir, Heard: p.heard})
	if err != nil {
		p.spoil("the target %s could not be set up: %v", p.r.Target.Name(), err)
		return false
	}
	p.kept = &keeper{Cloud: p.w.Cloud}
	p.w.Cloud = p.kept
	if len(p.w.Devices) == 0 {
		p.spoil("there is no device to look at")
		return false
	}
	for i, party := range p.w.Devices {
		m := &member{party: party, stage: drill.Stage{Device: party.ID(), Cloud: p.w.Cloud, Network: p.w.Network, Process: party, Refused: p.refused}}
		if i > 0 {
			m.judge = &drill.Judge{}
		}
		p.members = append(p.members, m)
	}
	if err := p.script(); err != nil {
		p.spoil("%v", err)
		return false
	}
	p.begin()
	for _, m := range p.members {
		m.party.Start()
	}
	if !p.steady("steady state before") {
		if !p.spoiled() {
			p.spoil("there was no steady state before the first step, so nothing was broken, and nothing is proved: a sample must come at least every %s, and %s (%s)",
				short(p.steadyGap()), p.wrong, p.troubles())
		}
		return false
	}
	p.homes = p.assigned()
	return true
}

// workDir makes the directory for the files of a run. A directory in memory spares a virtual run
// the waits for a disk, if it has the room.
func workDir(s *scenario.Scenario) (string, error) {
	need := cmp.Or(int64(s.Device.OutboxBytes), outbox.DefaultMaxBytes)
	return os.MkdirTemp(memoryDir(need*2), "hubhop-drill-")
}

// begin tells what is run.
func (p *player) begin() {
	b := &report.Begin{
		Format: report.Format, Scenario: p.s.Name, Title: p.s.Title, Description: p.s.Description, Seed: p.r.Seed, Device: p.r.Device,
		Client: p.r.Client, Target: p.r.Target.Name(), Speed: "real", LastsMs: p.lasts().Milliseconds(),
		RTOMs: p.s.Budget.RTO.Milliseconds(), RPO: p.s.Budget.RPO, Versions: p.r.Versions, Environment: p.r.Environment,
		Allow: report.Allowance{Reordered: p.c.FreshFirst, GivenUp: p.s.Budget.RPO > 0},
	}
	if p.r.Virtual {
		b.Speed = "virtual"
	}
	if p.w != nil {
		if !p.w.Ledger {
			b.Proof = report.ByAcknowledgements
		}
		b.Hubs, b.Names = p.w.Hubs, p.w.Names
		for key, value := range p.w.Facts {
			if b.Environment == nil {
				b.Environment = map[string]string{}
			}
			b.Environment[key] = value
		}
	}
	if len(p.members) > 0 {
		b.Device = p.members[0].party.ID()
	}
	const most = 200
	for _, a := range p.acts {
		if len(b.Steps) < most {
			b.Steps = append(b.Steps, a.name)
		}
	}
	p.emit(report.Entry{Kind: report.Began, Begin: b})
}

// lasts is how long the run lasts at least.
func (p *player) lasts() time.Duration {
	sum := 2 * p.steadyLasts()
	for _, a := range p.acts {
		long := max(a.step.Lasts, a.lasts)
		if at := a.step.At; at != nil {
			sum = max(sum, p.steadyLasts()+*at+long)
			continue
		}
		if a.step.After != nil {
			sum += *a.step.After
		}
		sum += long
	}
	return sum
}

// refused notes what the cloud refuses to do.
func (p *player) refused(err error) {
	p.object(drill.Misconduct, "a step could not be done: %v", err)
	p.failed = true
}

// steps plays all steps, and says whether the run went on to their end.
func (p *player) steps() bool {
	p.zero = time.Now()
	next := 0
	for {
		if !p.look() {
			return false
		}
		if next < len(p.acts) && p.due(next) <= 0 {
			p.start(p.acts[next])
			next++
			continue // it may have taken time
		}
		ended := p.settle()
		if p.failed {
			return false
		}
		if ended {
			continue // the next step may begin
		}
		if next == len(p.acts) && len(p.plan) == 0 && len(p.running) == 0 {
			return true
		}
		wait := p.tick()
		if next < len(p.acts) {
			wait = min(wait, p.due(next))
		}
		if len(p.plan) > 0 {
			wait = min(wait, time.Until(p.plan[0].at))
		}
		p.wait(wait)
	}
}

// due says how long it is until a step begins. It is long if nobody knows.
func (p *player) due(i int) time.Duration {
	step := p.acts[i].step
	if step.At != nil {
		return time.Until(p.zero.Add(*step.At))
	}
	after := time.Duration(0)
	if step.After != nil {
		after = *step.After
	}
	if i == 0 {
		return time.Until(p.zero.Add(after))
	}
	if before := p.acts[i-1]; before.done {
		return time.Until(before.ended.Add(after))
	}
	return time.Hour
}

const (
	fineTick   = 50 * time.Millisecond
	coarseTick = time.Minute
)

// tick is how long the player may be away: short while it waits for something that is measured.
func (p *player) tick() time.Duration {
	tick := coarseTick
	for _, a := range p.running {
		_, until := a.waits()
		tick = min(tick, until, max(fineTick, a.until.Sub(a.began)/1000))
	}
	if g := p.s.Stop.Gap; g > 0 {
		tick = min(tick, max(fineTick, g/4))
	}
	return tick
}

// wait lets time pass. It returns early when the run is broken off, and when more has happened than
// may.
func (p *player) wait(d time.Duration) {
	end := time.Now().Add(max(d, time.Millisecond))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for p.outer.Err() == nil && !p.exceeded() {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		timer.Reset(min(left, p.glance()))
		select {
		case <-timer.C:
		case <-p.ctx.Done():
		}
	}
}

// glance is how long the player may be away without a look at the real world, whose Ctrl-C cannot
// wake a virtual time: that of some samples, because a time in which many are made takes long.
func (p *player) glance() time.Duration {
	const samples = 100
	many := samples * drill.Span(p.c.Interval, time.Second) / time.Duration(1+p.s.Device.Others)
	return min(max(many, fineTick), 2*countEvery)
}

// look takes in what has happened, and does what is due. It returns false if the run is over before
// its end.
func (p *player) look() bool {
	if err := p.outer.Err(); err != nil {
		why := ""
		if cause := context.Cause(p.outer); !errors.Is(cause, context.Canceled) {
			why = ": " + cause.Error()
		}
		p.spoil("the run was broken off before its end%s", why)
	}
	if p.spoiled() {
		return false
	}
	for len(p.plan) > 0 && time.Until(p.plan[0].at) <= 0 {
		do := p.plan[0].do
		p.plan = p.plan[1:]
		do(p.ctx)
	}
	p.read(p.ctx)
	p.gauge()
	p.stops()
	return !p.failed && !p.spoiled()
}

// later plans something.
func (p *player) later(at time.Time, end bool, do func(context.Context)) {
	p.plan = append(p.plan, timed{at, end, do})
	slices.SortStableFunc(p.plan, func(a, b timed) int { return a.at.Compare(b.at) })
}

// main is the device under test.
func (p *player) main() *member { return p.members[0] }

// gauge tells what the device shows of itself, and looks whether it still runs.
func (p *player) gauge() {
	look, ok := p.main().party.Look()
	if ok {
		p.emit(report.Entry{Kind: report.Gauge, State: &report.State{Made: look.Made, Backlog: look.Outbox.Queued}})
	}
	if look.Err != nil {
		p.object(drill.Misconduct, "%v", look.Err)
		p.failed = true
	}
}

// stops looks at the conditions that end the run.
func (p *player) stops() {
	s, m := p.s.Stop, p.main()
	look, _ := m.party.Look()
	stop := func(format string, a ...any) {
		p.object(drill.Stopped, "the run was stopped: "+format, a...)
		p.failed = true
	}
	switch {
	case s.Gap > 0 && !m.last.IsZero() && time.Since(m.last) > s.Gap:
		stop("no sample has arrived for %s", short(s.Gap))
	case s.Backlog > 0 && look.Outbox.Queued > s.Backlog:
		stop("%d samples wait, and %d may", look.Outbox.Queued, s.Backlog)
	case s.GivenUp != nil && look.GivenUp > *s.GivenUp:
		stop("the outbox has given up %d samples, and %d may be", look.GivenUp, *s.GivenUp)
	case s.Lasts > 0 && !p.zero.IsZero() && time.Since(p.zero) > s.Lasts:
		stop("it has lasted %s", short(s.Lasts))
	}
}

// troubles says what is known of why the device does not work.
func (p *player) troubles() string {
	p.mu.Lock()
	why := p.why
	p.mu.Unlock()
	m := p.main()
	switch {
	case m.total == 0 && why == "":
		return "no sample of the device has arrived"
	case why == "":
		return "the device does not say why"
	}
	return "the device says: " + p.names(why)
}

// names writes the names of hubs instead of their hosts.
func (p *player) names(text string) string {
	return (&report.Begin{Names: p.w.Names}).Short(text)
}
