package drill

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// The bounds of what a Tally keeps. What is beyond them is counted, except recoveries: a run with
// more of them has no verdict.
const (
	mostRecoveries = 4000
	mostSpans      = 4000 // of faults, and of links
	mostMarks      = 400
	mostSteps      = 4000
	mostHubs       = 100
	mostBoxes      = 100
	silent         = 3 * time.Second // a device without a journal has no link when nothing arrives for so long
)

// Tally makes the report of a drill, and its verdict, from the entries of the run. The same entries
// always make the same report, so a verdict can be repeated from a history; see [Repeat].
type Tally struct {
	judge    Judge
	begin    report.Begin
	began    time.Time
	now      time.Time // of the newest entry
	rep      report.Report
	counted  bool
	made     uint64 // if counted
	spoiled  string
	unheld   []report.Expectation
	open     []*recovery // in order of their faults
	faults   map[string]int
	link     int  // index of the link that is up, -1: none
	fell     bool // the link was lost, and no decision is known since
	outages  int  // that are over
	marked   int  // outages before the newest mark
	speaks   bool // the device has a journal that we read
	hubs     map[string]*report.Account
	boxes    map[string]*ends
	lastSeen time.Time // of an arrival
}

// recovery is one that is measured.
type recovery struct {
	report.Recovery
	at     time.Time // of the fault
	over   time.Time // the fault's end; zero while it is on
	where  string
	down   bool              // it is known that the link is lost
	linked bool              // there is a link since then
	done   bool              // telemetry flows
	before map[string]uint64 // by outbox id: the greatest seq that arrived before the fault
}

// ends are the first and the last id of an outbox that arrived, and the greatest seq.
type ends struct {
	first, last string
	newest      uint64
}

// NewTally returns a tally that has seen nothing.
func NewTally() *Tally {
	return &Tally{link: -1, faults: map[string]int{}, hubs: map[string]*report.Account{}, boxes: map[string]*ends{}}
}

// Take takes in one entry.
func (t *Tally) Take(e report.Entry) {
	if e.At.After(t.now) {
		t.now = e.At
	}
	switch e.Kind {
	case report.Began:
		t.start(e)
	case report.StepOn:
		if len(t.rep.Steps) < mostSteps {
			t.rep.Steps = append(t.rep.Steps, report.Step{Name: e.Step, Text: e.Text, AtMs: t.ms(e.At), Held: true})
		}
	case report.StepOff:
		if s := t.step(e.Step); s != nil {
			s.TookMs = t.ms(e.At) - s.AtMs
		}
	case report.FaultOn:
		t.faultOn(e)
	case report.FaultOff:
		t.faultOff(e)
	case report.Returned:
		t.returned(e)
	case report.Happened:
		t.speaks = true
		t.event(e.At, *e.Event)
	case report.Arrived:
		t.arrived(e)
	case report.Gauge:
		t.rep.Series.Wait(e.At.Sub(t.began), e.State.Backlog)
		if e.State.Counted {
			t.counted, t.made = true, e.State.Made
			t.judge.Made(t.made)
		}
	case report.Asked:
		t.rep.Commands.Sent++
	case report.Answered:
		t.rep.Commands.Answered++
	case report.Expected:
		x := *e.Expectation
		t.rep.Expectations = append(t.rep.Expectations, x)
		if x.Held {
			break
		}
		t.unheld = append(t.unheld, x)
		if s := t.step(x.Step); s != nil {
			s.Held = false
		}
	case report.Holds:
		t.holds(*e.Outbox)
	case report.Objected:
		t.judge.Object(Kind(e.Finding.Kind), "%s", e.Finding.Text)
	case report.Spoiled:
		t.spoil("%s", e.Text)
	case report.Ended: // what the run concluded; Repeat compares it
		t.rep.WallMs = e.End.WallMs
	}
}

func (t *Tally) start(e report.Entry) {
	b := *e.Begin
	t.begin, t.began = b, e.At
	a := b.Allow
	t.judge.Allow = Allowance{Reordered: a.Reordered, GivenUp: a.GivenUp, Waiting: a.Waiting, Outboxes: a.Outboxes, Foreign: a.Foreign}
	t.rep = report.Report{
		Scenario: b.Scenario, Seed: b.Seed, StartedAt: e.At, Device: b.Device, Target: b.Target, Title: b.Title, Description: b.Description,
		Speed: b.Speed, RanAt: b.RanAt, Proof: cmp.Or(b.Proof, report.ByLedger), Client: b.Client, Versions: b.Versions, Environment: b.Environment, Hubs: slices.Clone(b.Hubs),
		Recoveries: []report.Recovery{}, Expectations: []report.Expectation{}, Series: &report.Series{},
		RTO: report.RTO{BudgetMs: b.RTOMs}, RPO: report.RPO{Budget: b.RPO},
	}
	for _, h := range b.Hubs {
		t.hub(h)
	}
}

// ms returns the offset of a time.
func (t *Tally) ms(at time.Time) int64 { return at.Sub(t.began).Milliseconds() }

func (t *Tally) spoil(format string, a ...any) {
	if t.spoiled == "" {
		t.spoiled = fmt.Sprintf(format, a...)
	}
}

// step returns the newest step of a name.
func (t *Tally) step(name string) *report.Step {
	for i := range slices.Backward(t.rep.Steps) {
		if t.rep.Steps[i].Name == name {
			return &t.rep.Steps[i]
		}
	}
	return nil
}

// hub returns the account of a hub. It returns nil if there are too many.
func (t *Tally) hub(name string) *report.Account {
	a := t.hubs[name]
	if a == nil && name != "" && len(t.hubs) < mostHubs {
		a = &report.Account{Hub: name}
		t.hubs[name] = a
		if !slices.Contains(t.rep.Hubs, name) {
			t.rep.Hubs = append(t.rep.Hubs, name)
		}
	}
	return a
}

// name returns the name of a hub that an event names by its host.
func (t *Tally) name(host string) string { return cmp.Or(t.begin.Names[host], host) }

// short writes the hubs' names instead of their hosts.
func (t *Tally) short(text string) string { return t.begin.Short(text) }

func (t *Tally) faultOn(e report.Entry) {
	if len(t.rep.Faults) < mostSpans {
		t.faults[e.Step+"\x00"+e.Where+"\x00"+e.Fault] = len(t.rep.Faults)
		t.rep.Faults = append(t.rep.Faults, report.Span{Where: e.Where, What: e.Fault, Step: e.Step, FromMs: t.ms(e.At), UntilMs: -1})
	}
	if !e.Move {
		return
	}
	if len(t.open) == mostRecoveries {
		t.spoil("the run has more than %d faults that a device has to come back from, and they cannot all be judged", mostRecoveries)
		return
	}
	r := &recovery{Recovery: report.Recovery{Step: e.Step, Fault: e.Fault, From: t.at(), AtMs: t.ms(e.At), BudgetMs: e.BudgetMs, Early: e.Early}, at: e.At, where: e.Where, before: map[string]uint64{}}
	r.down = t.speaks && t.link < 0
	for box, x := range t.boxes {
		r.before[box] = x.newest
	}
	t.open = append(t.open, r)
}

// at returns the name of the hub that the device was on last.
func (t *Tally) at() string {
	if n := len(t.rep.Links); n > 0 {
		return t.rep.Links[n-1].Where
	}
	return ""
}

func (t *Tally) faultOff(e report.Entry) {
	key := e.Step + "\x00" + e.Where + "\x00" + e.Fault
	if i, ok := t.faults[key]; ok {
		t.rep.Faults[i].UntilMs = t.ms(e.At)
		delete(t.faults, key)
	}
	for _, r := range t.open {
		if r.Step == e.Step && r.Fault == e.Fault && r.where == e.Where && r.over.IsZero() {
			r.over = e.At
		}
	}
}

// returned ends the recoveries of a step. Not every fault ends the link, and a device that was
// killed does not tell of its end.
func (t *Tally) returned(e report.Entry) {
	for _, r := range t.open {
		if r.Step == e.Step && !r.done && !e.At.Before(r.at) {
			r.done, r.To, r.FirstPubackMs = true, cmp.Or(e.Hub, r.To), r.since(e.At)
		}
	}
}

// event takes in what the device's journal tells.
func (t *Tally) event(at time.Time, e journal.Event) {
	if !e.Time.IsZero() {
		at = e.Time
	}
	switch e.Kind {
	case journal.Connected:
		t.linkUp(t.ms(at), t.name(e.Hub), e.Provisional)
		t.outages++
	case journal.Lost, journal.Stopped:
		t.linkDown(t.ms(at))
		t.fell = true
	case journal.Decision:
		if e.Error != "" || t.fell { // the others only name the next step
			t.mark(at, e)
		}
		t.fell = false
	default:
	}
	for _, r := range t.open {
		if !r.done && !at.Before(r.at) {
			r.event(at, e, t.name(e.Hub))
		}
	}
}

// since returns the milliseconds from the fault to a time, at least 1: 0 says that something did
// not happen.
func (r *recovery) since(at time.Time) int64 { return max(at.Sub(r.at).Milliseconds(), 1) }

// event takes in what the device did after the fault.
func (r *recovery) event(at time.Time, e journal.Event, hub string) {
	since := r.since(at)
	switch e.Kind {
	case journal.Lost:
		r.detect(since)
		r.linked = false // not the link that counts
	case journal.Decision:
		if e.Error != "" {
			r.detect(since)
		}
		if r.down {
			r.Rule = cmp.Or(r.Rule, e.Rule)
		}
	case journal.Assigned, journal.AssignedAgain:
		if r.down && r.AssignedMs == 0 {
			r.AssignedMs = since
		}
	case journal.Connected:
		if r.down {
			r.linked, r.ConnectedMs, r.To = true, since, hub
		}
	case journal.Acknowledged:
		if r.linked {
			r.done, r.FirstPubackMs = true, since
		}
	default:
	}
}

func (r *recovery) detect(since int64) {
	if !r.down { // else there was nothing left to notice
		r.DetectedMs = since
	}
	r.down = true
}

// mark notes a decision. Decisions that repeat themselves in one outage become one mark.
func (t *Tally) mark(at time.Time, e journal.Event) {
	hub := t.name(e.Hub)
	if n := len(t.rep.Decisions); n > 0 {
		last := &t.rep.Decisions[n-1]
		if n == mostMarks || t.marked == t.outages && last.Hub == hub && last.Rule == e.Rule && last.Action == e.Action {
			last.Times = max(last.Times, 1) + max(e.Times, 1)
			return
		}
	}
	t.marked = t.outages
	if e.Error == "" && e.Signal != "" { // the loss of the link has told why
		e.Text = fmt.Sprintf("%s: %s; %s", hub, e.Signal, e.Action)
	}
	t.rep.Decisions = append(t.rep.Decisions, report.Mark{AtMs: t.ms(at), Hub: hub, Rule: e.Rule, Action: e.Action, Text: t.short(e.Text), Times: e.Times})
}

func (t *Tally) linkUp(ms int64, hub string, provisional bool) {
	t.linkDown(ms)
	t.hub(hub)
	if len(t.rep.Links) == mostSpans { // a picture of so many would show nothing; the end counts
		t.rep.Links = slices.Delete(t.rep.Links, 0, mostSpans/2)
	}
	t.link = len(t.rep.Links)
	t.rep.Links = append(t.rep.Links, report.Span{Where: hub, FromMs: ms, UntilMs: -1, Provisional: provisional})
}

func (t *Tally) linkDown(ms int64) {
	if t.link >= 0 {
		t.rep.Links[t.link].UntilMs = ms
		t.link = -1
	}
}

// arrived takes in a message, or a run of messages.
func (t *Tally) arrived(e report.Entry) {
	last := e.Until
	if last.Before(e.At) {
		last = e.At
	}
	hub, first, end := t.hub(e.Hub), e.ID, ""
	var n, again, late uint64
	e.Messages(func(id string) {
		n++
		seq, seen := t.judge.Arrived(Arrival{ID: id, Gap: e.Gap, Device: t.begin.Device})
		switch seen {
		case audit.Again:
			again++
		case audit.Late:
			late++
		default:
		}
		end = id
		if box, _, ok := outbox.SplitID(id); ok && seq > 0 {
			t.edge(box, id, seq, e.At)
		}
	})
	if hub != nil {
		hub.Received, hub.Distinct, hub.Duplicated, hub.Reordered = hub.Received+n, hub.Distinct+n-again, hub.Duplicated+again, hub.Reordered+late
		hub.First, hub.Last = cmp.Or(hub.First, first), end
	}
	t.rep.Series.Arrive(e.At.Sub(t.began), last.Sub(t.began), n)
	for _, r := range slices.Backward(t.open) {
		if !r.at.After(e.At) {
			r.Duplicated += again
			break
		}
	}
	if !t.speaks {
		t.guess(e, last)
	}
	t.lastSeen = last
}

// edge notes the first and the last id of an outbox, and what came before each fault.
func (t *Tally) edge(box, id string, seq uint64, at time.Time) {
	x := t.boxes[box]
	if x == nil {
		if len(t.boxes) == mostBoxes {
			return
		}
		x = &ends{first: id}
		t.boxes[box] = x
	}
	x.last, x.newest = id, max(x.newest, seq)
	for _, r := range slices.Backward(t.open) {
		if !r.at.After(at) {
			break
		}
		r.before[box] = max(r.before[box], seq) // it is told only now
	}
}

// guess draws from arrivals what the device itself does not tell: its links, and when it is back.
func (t *Tally) guess(e report.Entry, last time.Time) {
	if t.link >= 0 && (t.rep.Links[t.link].Where != e.Hub || e.At.Sub(t.lastSeen) > silent) {
		t.linkDown(t.ms(t.lastSeen))
	}
	if t.link < 0 {
		t.linkUp(t.ms(e.At), e.Hub, false)
	}
	for _, r := range t.open {
		if r.done || last.Before(r.at) {
			continue
		}
		at := e.At
		if e.Hub == r.From { // it may count only when the fault is over
			if r.over.IsZero() || last.Before(r.over) {
				continue
			}
			if at.Before(r.over) {
				at = r.over
			}
		}
		if at.Before(r.at) {
			at = r.at
		}
		r.done, r.To, r.FirstPubackMs = true, e.Hub, at.Sub(r.at).Milliseconds()
	}
}

func (t *Tally) holds(o report.Outbox) {
	c := audit.Contents{ID: o.ID, LastSeq: o.LastSeq, Held: o.Held}
	for _, list := range []struct {
		to   *[]outbox.Range
		from []string
	}{{&c.Queued, o.Queued}, {&c.Gaps, o.Gaps}, {&c.Aside, o.Aside}} {
		for _, text := range list.from {
			r, ok := audit.SplitRange(text)
			if !ok {
				t.spoil("what the outbox holds cannot be read: %q is no range of message ids", text)
				return
			}
			*list.to = append(*list.to, r)
		}
	}
	t.judge.Contains(c)
}

// OutboxOf looks into the outbox in dir, as an entry of the kind Holds wants it.
func OutboxOf(dir string) (*report.Outbox, error) {
	c, err := audit.Look(dir)
	if err != nil {
		return nil, err
	}
	texts := func(ranges []outbox.Range) (all []string) {
		for _, r := range ranges {
			all = append(all, r.String())
		}
		return all
	}
	return &report.Outbox{ID: c.ID, LastSeq: c.LastSeq, Held: c.Held, Queued: texts(c.Queued), Gaps: texts(c.Gaps), Aside: texts(c.Aside)}, nil
}

// Report says what the entries so far prove.
func (t *Tally) Report() report.Report {
	if t.rep.Series == nil { // nothing has begun
		t.start(report.Entry{At: t.now, Begin: &report.Begin{}})
		t.spoil("nothing was run")
	}
	v := t.judge.Verdict(false)
	v.Findings = slices.DeleteFunc(v.Findings, func(f Finding) bool { return f.Kind == Lost && v.Lost <= t.begin.RPO })
	r := t.rep
	r.EndedAt = t.now
	r.Links, r.Faults, r.Steps = slices.Clone(r.Links), slices.Clone(r.Faults), slices.Clone(r.Steps)
	for _, spans := range [][]report.Span{r.Links, r.Faults} {
		for i := range spans {
			if spans[i].UntilMs < 0 {
				spans[i].UntilMs = t.ms(t.now)
			}
		}
	}
	t.count(&r, &v)
	t.recoveries(&r, &v)
	for _, x := range t.unheld {
		v.Object(Unmet, "%s: expected %s, but %s", x.Step, x.Text, x.Seen)
	}
	if c := r.Commands; c.Answered < c.Sent {
		v.Object(Unanswered, "%d of %d commands were answered", c.Answered, c.Sent)
	}
	// The first finding is the reason. Samples wait because something else went wrong.
	slices.SortStableFunc(v.Findings, func(a, b Finding) int { return later(a) - later(b) })
	t.conclude(&r, &v)
	return r
}

// later is 1 for a finding that others explain.
func later(f Finding) int {
	if f.Kind == Waiting {
		return 1
	}
	return 0
}

// count fills in what was made and what arrived.
func (t *Tally) count(r *report.Report, v *Verdict) {
	s := report.Samples{Made: t.made, Received: v.Messages, Lost: v.Lost, Duplicated: v.Repeats}
	if !t.counted {
		s.Made = v.Distinct + v.Lost + v.Queued
	}
	if !t.judge.Allow.Waiting {
		s.Lost += v.Queued
	}
	for _, h := range r.Hubs {
		if a := t.hubs[h]; a != nil {
			r.Ledger = append(r.Ledger, *a)
		}
	}
	for _, x := range v.Accounts {
		s.Reordered += x.Reordered
		a := report.Account{Outbox: x.Outbox, Received: x.Arrived, Distinct: x.Distinct, Duplicated: x.Duplicated, Reordered: x.Reordered,
			Queued: x.Queued, Announced: x.Announced, Lost: x.Lost, LostIDs: strings.TrimPrefix(named(x.LostIDs), ": ")}
		if e := t.boxes[x.Outbox]; e != nil {
			a.First, a.Last = e.first, e.last
		}
		r.Ledger = append(r.Ledger, a)
	}
	if !t.counted && s.Made == 0 {
		v.Object(NoSamples, "no sample arrived")
	}
	r.Samples, r.RPO.Lost = s, s.Lost
	if r.RPO.Lost > r.RPO.Budget && v.Lost == 0 && v.Queued == 0 {
		v.Object(Lost, "%d samples were lost", s.Lost)
	}
}

// recoveries fills in how the device came back, and objects to what took too long.
func (t *Tally) recoveries(r *report.Report, v *Verdict) {
	lost := t.lostAfter(v)
	for i, x := range t.open {
		one := x.Recovery
		one.Lost, one.Open = lost[i], !x.done
		if one.Early { // what is measured now is the time to the next sample
			one.DetectedMs, one.AssignedMs, one.ConnectedMs, one.FirstPubackMs = 0, 0, 0, 0
		}
		budget := r.RTO.BudgetMs // a step's own bound is an expectation, which is judged as such
		took := one.FirstPubackMs
		if one.Open {
			took = t.ms(t.now) - one.AtMs
			v.Object(NotBack, "%s: after the fault %q the device did not come back in the %s until the end of the run", one.Step, one.Fault, words(took))
		} else if budget > 0 && took > budget && !t.lateBack(one.Step) {
			v.Object(TooSlow, "%s: after the fault %q telemetry flowed again in %s, and the budget is %s", one.Step, one.Fault, words(took), words(budget))
		}
		r.RTO.WorstMs = max(r.RTO.WorstMs, took)
		r.Recoveries = append(r.Recoveries, one)
	}
}

// lateBack says that a step has asked for the device to be back and has not got it. Then that is
// the finding. What came later came when the run was over, and everything was put back.
func (t *Tally) lateBack(step string) bool {
	return slices.ContainsFunc(t.unheld, func(x report.Expectation) bool { return x.Step == step && strings.HasPrefix(x.Text, "back ") })
}

// lostAfter says how many of the lost samples were given a seq between each fault and the next one.
func (t *Tally) lostAfter(v *Verdict) []uint64 {
	sums := make([]uint64, len(t.open))
	if len(t.open) == 0 {
		return sums
	}
	for _, x := range v.Accounts {
		for _, text := range x.LostIDs {
			span, ok := audit.SplitRange(text)
			if !ok {
				continue
			}
			i := len(t.open) - 1 // the last fault before the sample; samples before the first one are its too
			for i > 0 && t.open[i].before[span.ID] >= span.First {
				i--
			}
			sums[i] += span.Count()
		}
	}
	return sums
}

func words(ms int64) string { return journal.Duration(time.Duration(ms) * time.Millisecond) }

// conclude says the verdict in one word and one sentence.
func (t *Tally) conclude(r *report.Report, v *Verdict) {
	passed := fmt.Sprintf("%d samples made, every one of them received", r.Samples.Made)
	switch {
	case r.Proof == report.ByAcknowledgements && r.Samples.Lost == 0:
		passed = fmt.Sprintf("%d samples made, none of them lost, as the device counts its acknowledgements", r.Samples.Made)
	case r.Samples.Lost > 0:
		passed = fmt.Sprintf("%d samples made, %d lost of the %d that may be", r.Samples.Made, r.Samples.Lost, r.RPO.Budget)
	case r.Samples.Made > r.Samples.Received-r.Samples.Duplicated:
		passed = fmt.Sprintf("%d samples made, none of them lost", r.Samples.Made)
	case r.Samples.Reordered == 0:
		passed += ", in order"
	}
	if n := r.Timed(); n == 1 {
		passed += "; back after the fault in " + words(r.RTO.WorstMs)
	} else if n > 1 {
		passed += fmt.Sprintf("; back after each of %d faults, at the latest in %s", n, words(r.RTO.WorstMs))
	}
	v.Close(passed)
	r.Verdict, r.Reason = report.Outcome(v.Outcome), v.Reason
	for _, f := range v.Findings {
		r.Findings = append(r.Findings, report.Finding{Kind: string(f.Kind), Text: f.Text})
	}
	if v.More > 0 {
		r.Findings = append(r.Findings, report.Finding{Kind: "more", Text: fmt.Sprintf("and %d more", v.More)})
	}
	if t.spoiled != "" {
		r.Verdict, r.Reason = report.Unknown, t.spoiled
	}
}

// End is what a run concludes that ends at a time.
func (t *Tally) End(at time.Time, wall time.Duration) *report.End {
	if at.After(t.now) {
		t.now = at
	}
	return endOf(t.Report(), wall)
}

func endOf(r report.Report, wall time.Duration) *report.End {
	return &report.End{Verdict: r.Verdict, Reason: r.Reason, Samples: r.Samples, WorstMs: r.RTO.WorstMs, WallMs: wall.Milliseconds()}
}
