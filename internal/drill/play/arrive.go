package play

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// arrived takes in one message.
func (p *player) arrived(m *member, a drill.Arrival, hub string, at time.Time) {
	if a.ID == "" { // it is no sample
		m.others++
		return
	}
	seen := m.books.Arrived(a.ID, a.Gap)
	box, seq, _ := outbox.SplitID(a.ID)
	switch {
	case m.judge != nil:
		m.judge.Arrived(a)
	default:
		p.emit(report.Entry{At: at, Kind: report.Arrived, Hub: hub, ID: a.ID, Gap: a.Gap})
	}
	if seen == audit.Again {
		m.again++
	}
	if box != m.box {
		m.box, m.newest = box, 0
	}
	if m.hub != hub && m.hub != "" {
		m.moves++
	}
	m.newest, m.hub, m.last, m.total = max(m.newest, seq), hub, at, m.total+1
	for _, x := range p.running {
		x.arrived(m, seq, arrival{at, hub})
	}
}

// arrived takes in one message while the step is under way.
func (a *act) arrived(m *member, seq uint64, where arrival) {
	if m == a.who[0] && where.at.After(a.quiet) {
		a.gap, a.quiet = max(a.gap, where.at.Sub(a.quiet)), where.at
	}
	if m == a.who[0] && where.at.After(a.struck) && a.noise.IsZero() {
		a.noise = where.at
	}
	for i, who := range a.who {
		if who != m || !a.returned[i].at.IsZero() {
			continue
		}
		switch e := a.step.Expect; {
		case e.BackOnceOver > 0:
			if !where.at.Before(a.over) && seq > a.before[i].newest {
				a.returned[i] = where
			}
		case seq > a.before[i].made && where.at.After(a.struck):
			a.returned[i] = where
		}
	}
}

// back says when the last of the devices was back, and on which hub; false if one is not.
func (a *act) back() (last arrival, ok bool) {
	for _, x := range a.returned {
		if x.at.IsZero() {
			return last, false
		}
		if !x.at.Before(last.at) {
			last = x
		}
	}
	return last, true
}

// steadyLasts is how long a steady state must hold.
func (p *player) steadyLasts() time.Duration {
	return orElse(p.s.Steady.Lasts, max(5*time.Second, p.steadyGap()))
}

// steadyGap is the longest time without a sample in a steady state.
func (p *player) steadyGap() time.Duration {
	return orElse(p.s.Steady.Gap, max(3*drill.Span(p.c.Interval, time.Second), 3*time.Second))
}

// orElse is d, unless that is 0.
func orElse(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// steady waits for the steady state, and says whether it came about. It tells that as an
// expectation of its own step.
func (p *player) steady(name string) bool {
	s := p.s.Steady
	gap := p.steadyGap()
	backlog := p.fewWait()
	within, lasts := orElse(s.Within, 2*time.Minute), p.steadyLasts()
	p.emit(report.Entry{Kind: report.StepOn, Step: name, Text: "nothing is broken"})
	defer func() { p.emit(report.Entry{Kind: report.StepOff, Step: name}) }()
	began := time.Now()
	good := began // since when nothing was wrong
	for {
		if !p.look() {
			return false
		}
		now := time.Now()
		if text := p.unsteady(gap, backlog); text != "" {
			p.wrong, good = text, now
		}
		held := now.Sub(good) >= lasts
		if !held && now.Sub(began) < within+lasts {
			p.wait(fineTick)
			continue
		}
		x := report.Expectation{Step: name, Held: held, Seen: "so it was",
			Text: fmt.Sprintf("a sample at least every %s and at most %d waiting, for %s", short(gap), backlog, short(lasts))}
		if !held {
			x.Seen = fmt.Sprintf("it was not so within %s: %s (%s)", short(within), p.wrong, p.troubles())
		}
		p.emit(report.Entry{Kind: report.Expected, Step: name, Expectation: &x})
		return held
	}
}

// fewWait is how many samples may wait when nothing is broken.
func (p *player) fewWait() uint64 {
	const few = 5 // that are being sent
	if p.s.Steady.Backlog > 0 {
		return p.s.Steady.Backlog
	}
	const trips = 4 // of which a sample may need two there and two back, if the hub is slow
	span := time.Second + trips*drill.Span(p.c.Delay, 0)
	return few + uint64(span/max(time.Millisecond, drill.Span(p.c.Interval, time.Second)))
}

// unsteady says what is wrong with one of the devices now; "" for nothing.
func (p *player) unsteady(gap time.Duration, backlog uint64) string {
	for _, m := range p.members {
		look, ok := m.party.Look()
		switch {
		case m.last.IsZero():
			return "no sample has arrived"
		case time.Since(m.last) > gap:
			return fmt.Sprintf("no sample has arrived for %s", short(time.Since(m.last).Round(10*time.Millisecond)))
		case ok && look.Hub == "":
			return "there is no link"
		case ok && look.Outbox.Queued > backlog:
			return fmt.Sprintf("%d samples wait", look.Outbox.Queued)
		}
	}
	return ""
}

// assigned says which hub DPS has assigned to each device.
func (p *player) assigned() map[string]string {
	state, err := p.w.Cloud.State(p.ctx)
	if err != nil {
		return nil // the target does not say
	}
	homes := map[string]string{}
	for _, d := range state.Devices {
		homes[d.ID] = string(d.AssignedHub)
	}
	return homes
}

// restoreLimit is how long putting everything back may take on a cloud that is real.
const restoreLimit = 30 * time.Second

// restore puts back what the run has changed. The second call does nothing.
func (p *player) restore() {
	if p.putBack || p.w == nil || len(p.members) == 0 {
		return
	}
	p.putBack = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), restoreLimit)
	defer cancel()
	failed := func(what string, err error) {
		if err != nil {
			p.object(drill.Misconduct, "%s could not be put back: %v", what, err)
		}
	}
	for _, x := range p.plan { // what would end later ends now
		if x.end {
			x.do(ctx)
		}
	}
	p.plan = nil
	t, c := p.touched, p.w.Cloud
	if t.hubs["all"] {
		failed("the cloud", drill.Heal(ctx, c))
	}
	for hub := range t.hubs {
		if hub != "all" {
			failed(hub, c.HealHub(ctx, hub))
		}
	}
	if t.by[drill.NeedDPSFaults] {
		failed("DPS", c.HealDPS(ctx))
	}
	if n := p.w.Network; n != nil && (t.by[drill.NeedPaths] || t.by[drill.NeedWeather]) {
		n.Mend("all")
		n.SetPath("all", "")
		n.ResetDelay()
		n.SetWeather(0, 0)
	}
	for _, m := range p.members {
		p.restoreDevice(ctx, m, failed)
	}
	p.endFaults(func(openFault) bool { return true })
}

// restoreDevice puts back what was done to a device.
func (p *player) restoreDevice(ctx context.Context, m *member, failed func(string, error)) {
	t, id := p.touched, m.party.ID()
	if t.by[drill.NeedOperator] {
		failed("the device "+id, errors.Join(p.w.Cloud.Act(ctx, id, drill.Enable), p.w.Cloud.Act(ctx, id, drill.Unblock)))
	}
	if t.by[drill.NeedClock] {
		m.party.SetClock(0)
	}
	if t.by[drill.NeedRival] {
		m.party.StopRival()
	}
	if t.by[drill.NeedProcess] && m == p.main() {
		m.party.Start()
	}
	p.returnHome(ctx, id, failed)
	failed("the desired properties of "+id, p.kept.putBack(ctx, id)) // where it is at home
}

// returnHome moves a device to the hub where it was in the beginning.
func (p *player) returnHome(ctx context.Context, id string, failed func(string, error)) {
	home, known := p.homes[id]
	state, err := p.w.Cloud.State(ctx)
	if !known || err != nil {
		return
	}
	for _, d := range state.Devices {
		if d.ID == id && string(d.AssignedHub) != home {
			failed("the device "+id, p.w.Cloud.Act(ctx, id, drill.Failback))
		}
	}
}

// finish stops the devices, and tells what they have left.
func (p *player) finish() {
	p.halt()
	if p.brokenOff() { // there is no proof, so the further devices need not be judged
		p.members = p.members[:1]
	}
	for _, m := range p.members {
		look, ok := m.party.Look()
		if !ok {
			continue
		}
		if m == p.main() {
			p.holds(look)
			continue
		}
		if err := m.judge.Holds(look.Dir); err != nil {
			p.spoil("the outbox of %s cannot be read: %v", m.party.ID(), err)
		}
	}
	p.read(context.WithoutCancel(p.ctx))
	for _, m := range p.members[1:] {
		v := m.judge.Verdict(false)
		for _, f := range v.Findings {
			p.object(f.Kind, "%s: %s", m.party.ID(), f.Text)
		}
	}
	if m := p.main(); m.total == 0 && m.others > 0 {
		p.spoil("none of the %d messages of %s is a sample that can be counted: they do not have the field with their number", m.others, m.party.ID())
	}
	p.lateHopes()
}

// brokenOff says that there is no use in waiting: nobody wants to know what comes, or nothing
// comes.
func (p *player) brokenOff() bool { return p.away || p.outer.Err() != nil }

// halt waits for the commands under way, and stops all devices, all at once: while one of a fleet
// sends its backlog, the others would make theirs longer. A run that is broken off does not wait
// for a backlog if the cloud is gone or time is virtual.
func (p *player) halt() {
	if p.brokenOff() {
		p.hangUp()
	}
	p.working.Wait()
	var all sync.WaitGroup
	for _, m := range p.members {
		stop := m.party.Stop
		if l, ok := m.party.(drill.Leaver); ok && p.brokenOff() && (p.away || p.r.Virtual) {
			stop = l.Leave
		}
		all.Go(stop)
	}
	all.Wait()
}

// holds tells what the outbox of the device holds at the end.
func (p *player) holds(look drill.Look) {
	if look.Err != nil {
		p.object(drill.Misconduct, "the device ended with an error: %v", look.Err)
	}
	if look.Dir == "" {
		return
	}
	o, err := drill.OutboxOf(look.Dir)
	if err != nil {
		p.spoil("the outbox of the device cannot be read: %v", err)
		return
	}
	p.emit(report.Entry{Kind: report.Holds, Outbox: o})
	p.emit(report.Entry{Kind: report.Gauge, State: &report.State{Made: look.Made, Backlog: look.Outbox.Queued, Counted: true}})
	if err := p.main().books.Holds(look.Dir); err != nil {
		p.spoil("the outbox of the device cannot be read: %v", err)
	}
}

// close ends the world.
func (p *player) close() {
	if p.w != nil {
		p.halt()
		if err := p.w.Close(); err != nil {
			p.object(drill.Misconduct, "the target could not be closed: %v", err)
		}
	}
	if p.dir != "" {
		removeAll(p.dir)
	}
}

// totals are how often devices have asked DPS and connected since the step began.
func (p *player) totals(a *act) (registrations, connects uint64) {
	state, err := p.w.Cloud.State(p.ctx)
	if err != nil {
		return 0, 0
	}
	since := func(now, then int64) uint64 { return uint64(max(0, now-then)) }
	t, was := state.Totals, a.totals
	return since(t.Registrations, was.Registrations), since(t.Connects, was.Connects)
}
