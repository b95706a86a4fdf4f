package play

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// act is one step of the run, or one repetition of a step.
type act struct {
	step   *scenario.Step
	name   string
	scenes []scene
	lasts  time.Duration // of what it does

	began  time.Time
	struck time.Time // when it has done what it does at once
	over   time.Time // when what it does is over
	until  time.Time // it does not end before
	done   bool
	ended  time.Time

	who      []*member // who must be back
	before   []standing
	returned []arrival // of each of who; zero: not back yet
	told     bool      // that all of them are back
	quiet    time.Time // of the newest sample, or the beginning
	gap      time.Duration
	noise    time.Time  // of the first sample that arrived after it has struck; zero: none
	totals   sim.Totals // in the beginning
	hopes    []*hope
	orders   []*order
}

// standing is how far a device was when a step began.
type standing struct {
	made   uint64 // the last seq
	newest uint64 // that had arrived
	again  uint64
	moves  uint64
	dials  uint64
}

// arrival is where and when a sample arrived.
type arrival struct {
	at  time.Time
	hub string
}

// script makes the steps of the run.
func (p *player) script() error {
	places := map[string]bool{}
	for _, h := range p.w.Hubs {
		places[h] = true
	}
	for i := range p.s.Steps {
		step := &p.s.Steps[i]
		played, err := scenes(step, p.chaos)
		if err != nil {
			return err
		}
		for _, s := range played {
			if strings.HasPrefix(s.where, "hub-") && len(places) > 0 && !places[s.where] {
				return fmt.Errorf("line %d: there is no %s here; there are %s", s.line, s.where, strings.Join(p.w.Hubs, ", "))
			}
		}
		times := max(1, step.Repeat)
		for n := range times {
			a := &act{step: step, name: step.Name, scenes: played}
			if times > 1 {
				a.name = fmt.Sprintf("%s (%d of %d)", step.Name, n+1, times)
			}
			for _, s := range played {
				a.lasts = max(a.lasts, s.at+s.Lasts)
			}
			p.acts = append(p.acts, a)
		}
	}
	return nil
}

// start begins a step.
func (p *player) start(a *act) {
	a.began = time.Now()
	a.over = a.began.Add(a.lasts)
	a.until = a.began.Add(max(a.step.Lasts, a.lasts))
	a.quiet = a.began
	a.who = p.members[:1]
	var texts []string
	for _, s := range a.scenes {
		if s.all {
			a.who = p.members
		}
		if len(texts) < 10 {
			texts = append(texts, s.text)
		}
	}
	for _, m := range a.who {
		a.before = append(a.before, p.standing(m))
	}
	a.returned = make([]arrival, len(a.who))
	if state, err := p.w.Cloud.State(p.ctx); err == nil {
		a.totals = state.Totals
	}
	p.mu.Lock()
	clear(p.rules)
	p.mu.Unlock()
	p.emit(report.Entry{Kind: report.StepOn, Step: a.name, Text: strings.Join(texts, "; ")})
	a.hopes = p.hopes(a)
	moving := -1 // the scene that the device must come back from
	if a.step.Expect.Back > 0 {
		moving = max(0, slices.IndexFunc(a.scenes, func(s scene) bool { return s.fault }))
	}
	for i := range a.scenes {
		s := &a.scenes[i]
		move := moving == i
		begin := func(ctx context.Context) { p.play(ctx, a, s, move) }
		if s.at > 0 {
			p.later(a.began.Add(s.at), false, begin)
			continue
		}
		begin(p.ctx)
	}
	if a.step.Expect.BackOnceOver > 0 {
		p.later(a.over, false, func(context.Context) { p.overNow(a) })
	}
	a.struck = time.Now()
	if !p.w.Ledger { // it is not known when a sample arrived, so only those count that are made from now on
		for i, m := range a.who {
			a.before[i].made = p.standing(m).made
		}
	}
	p.running = append(p.running, a)
}

// standing is how far a device is.
func (p *player) standing(m *member) standing {
	s := standing{newest: m.newest, again: m.again, moves: m.moves, made: m.newest}
	if look, ok := m.party.Look(); ok {
		s.made, s.dials = max(s.made, look.Outbox.LastSeq), look.Dials
	}
	return s
}

// overNow lets the recovery of a step begin when what it does is over.
func (p *player) overNow(a *act) {
	where, what := "device", "outage"
	if len(a.scenes) > 0 {
		where, what = a.scenes[0].where, a.scenes[0].what
	}
	e := report.Entry{Kind: report.FaultOn, Step: a.name, Where: where, Fault: what + " over", Move: true, BudgetMs: a.step.Expect.BackOnceOver.Milliseconds(), Early: p.works(a)}
	p.emit(e)
	e.Kind, e.Move, e.BudgetMs, e.Early = report.FaultOff, false, 0, false
	p.emit(e)
}

// works says that the device has come back while the step goes on, or was never away: its samples
// have arrived since the step began, and the next one is not late.
func (p *player) works(a *act) bool {
	p.read(p.ctx)
	m := a.who[0]
	look, speaks := m.party.Look()
	due := 2 * drill.Span(p.c.Interval, time.Second)
	return m.last.After(a.struck) && time.Since(m.last) <= max(due, time.Second) && (!speaks || look.Hub != "")
}

// play does one scene.
func (p *player) play(ctx context.Context, a *act, s *scene, move bool) {
	if s.command != nil {
		p.order(a, s.command)
		return
	}
	p.touch(s)
	e := report.Entry{Kind: report.FaultOn, Step: a.name, Where: s.where, Fault: s.what, Text: s.text, Move: move}
	if move {
		e.BudgetMs = a.step.Expect.Back.Milliseconds()
	}
	if s.fault || move {
		p.emit(e)
		p.faults = append(p.faults, openFault{e.Step, e.Where, e.Fault})
	}
	members := p.members[:1]
	if s.all {
		members = p.members
	}
	for n := range max(1, s.Times) {
		at := time.Duration(n) * s.Lasts / time.Duration(max(1, s.Times))
		do := func(ctx context.Context) {
			for _, m := range members {
				m.stage.Began = p.zero
				if err := s.Begin(ctx, &m.stage); err != nil {
					p.mayRefuse(a, s, err)
				}
			}
		}
		if at > 0 {
			p.later(time.Now().Add(at), false, do)
			continue
		}
		do(ctx)
	}
	end := func(ctx context.Context) {
		itself := s.where != "device" && s.where != "network" && s.Lasts > 0 // a cloud heals by itself
		if s.End != nil && !itself {
			for _, m := range members {
				if err := s.End(ctx, &m.stage); err != nil {
					p.mayRefuse(a, s, err)
				}
			}
		}
		p.endFaults(func(f openFault) bool { return f == openFault{e.Step, e.Where, e.Fault} })
	}
	switch {
	case s.Lasts > 0:
		p.later(time.Now().Add(s.Lasts), true, end)
	case s.what == "heal":
		p.endFaults(func(f openFault) bool {
			return f.where == s.where || s.where == "all" && f.where != "device" && f.where != "network"
		})
	case s.what == "enable" || s.what == "unblock":
		p.endFaults(func(f openFault) bool {
			return f.where == s.where && (s.what == "enable" && (f.what == "disable" || f.what == "identity") || s.what == "unblock" && f.what == "block")
		})
	case s.where == "device" && s.End == nil:
		end(ctx)
	}
}

// mayRefuse notes what the cloud refuses to do. A schedule of chaos may do what makes no sense at
// its moment, such as a disconnect of a device that is offline.
func (p *player) mayRefuse(a *act, s *scene, err error) {
	if slices.ContainsFunc(a.step.Do, func(x scenario.Action) bool { return x.Chaos != nil || x.Storm != nil }) {
		return
	}
	p.object(drill.Misconduct, "%s: %s could not be done: %v", a.name, s.text, err)
	p.failed = true
}

// endFaults tells the end of some faults.
func (p *player) endFaults(which func(openFault) bool) {
	p.faults = slices.DeleteFunc(p.faults, func(f openFault) bool {
		if !which(f) {
			return false
		}
		p.emit(report.Entry{Kind: report.FaultOff, Step: f.step, Where: f.where, Fault: f.what})
		return true
	})
}

// touch notes what a scene may leave behind.
func (p *player) touch(s *scene) {
	for _, n := range s.needs {
		p.touched.by[n] = true
		if n != drill.NeedHubFaults {
			continue
		}
		hub := "all" // a schedule of chaos may break anything
		if strings.HasPrefix(s.where, "hub-") {
			hub = s.where
		}
		p.touched.hubs[hub] = true
	}
}

// read takes in what has arrived.
func (p *player) read(ctx context.Context) {
	for i, m := range p.members {
		if !p.w.Ledger {
			p.readAcks(m)
			continue
		}
		l, err := p.w.Cloud.Ledger(ctx, m.party.ID(), m.behind)
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil:
			p.away = errors.Is(err, drill.ErrAway)
			p.spoil("the ledger cannot be read: %v", err)
			return
		case l.Truncated && m.behind > 0:
			p.spoil("the cloud has forgotten messages that the drill had not read")
			return
		}
		if m.behind == 0 && i == 0 && l.Received > int64(len(l.Messages)) {
			p.spoil("the cloud has forgotten messages of the device %s: use another device, or another simulator", m.party.ID())
			return
		}
		m.behind += int64(len(l.Messages))
		for _, x := range l.Messages {
			as := drill.ArrivalOf
			if p.w.Arrival != nil {
				as = p.w.Arrival
			}
			p.arrived(m, as(x), x.Hub, x.At)
		}
	}
}

// readAcks takes what has left the outbox for what has arrived, where there is no ledger. What the
// outbox has given up has not: the oldest samples, in most cases.
func (p *player) readAcks(m *member) {
	look, ok := m.party.Look()
	box := look.Outbox
	if !ok || box.ID == "" {
		return
	}
	m.missing += look.GivenUp - m.gone
	m.gone = look.GivenUp
	hub := cmp.Or(p.w.Names[look.Hub], look.Hub, m.hub) // a link that is lost has not moved
	last := box.LastSeq - min(box.LastSeq, box.Queued)
	first := m.newest + 1
	next := first + min(m.missing, last+1-min(first, last+1))
	for n := next; n <= last; n++ {
		a := drill.Arrival{ID: fmt.Sprintf("%s-%d", box.ID, n)}
		if m.missing > 0 {
			a.Gap, m.missing = fmt.Sprintf("%d-%d", first, n-1), 0
		}
		p.arrived(m, a, hub, time.Now())
	}
}
