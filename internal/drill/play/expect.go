package play

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// fate says what became of something that was hoped for.
type fate int

const (
	open fate = iota
	held
	unmet
)

// hope is one expectation of a step.
type hope struct {
	text  string
	bound bool      // it is a bound for the whole step, so it holds only when all others are decided
	count bool      // it is a bound that counts, so what exceeds it stays: it fails at once
	from  time.Time // before this time there is nothing to see
	look  func() (f fate, seen string)
	done  bool
}

// waits says whether the step waits for something that is measured, and how long it is until then.
func (a *act) waits() (waits bool, until time.Duration) {
	until = coarseTick
	for _, h := range a.hopes {
		if !h.done && !h.bound {
			waits, until = true, min(until, max(fineTick, time.Until(h.from)))
		}
	}
	return waits, until
}

// defaultAnswer is how long a command may take, unless its step says otherwise.
const defaultAnswer = time.Minute

// hopes are the expectations of a step.
func (p *player) hopes(a *act) (all []*hope) {
	e := &a.step.Expect
	from := a.began
	add := func(bound bool, text string, look func() (fate, string)) {
		all = append(all, &hope{text: text, bound: bound, from: from, look: look})
	}
	if e.Back > 0 {
		add(false, backText("back", e.Back, e.On), func() (fate, string) { return p.isBack(a, a.began, e.Back, e.On) })
	}
	if e.BackOnceOver > 0 {
		from = a.over
		add(false, backText("back once it is over", e.BackOnceOver, e.On), func() (fate, string) { return p.isBack(a, a.over, e.BackOnceOver, e.On) })
	}
	if e.Drained > 0 {
		add(false, "the backlog gone within "+short(e.Drained), func() (fate, string) { return p.isDrained(a, e.Drained) })
	}
	if e.Silent > 0 {
		from = a.began.Add(e.Silent)
		add(false, "no sample for "+short(e.Silent), func() (fate, string) { return p.isSilent(a, e.Silent) })
	}
	from = a.began
	for _, s := range a.scenes {
		if c := s.command; c != nil {
			within := orElse(e.Answered, defaultAnswer)
			word := "answered"
			if c.desired != nil {
				within, word = orElse(e.Acknowledged, defaultAnswer), "acknowledged"
			}
			add(false, fmt.Sprintf("%s %s within %s", c.name, word, short(within)), func() (fate, string) { return p.isAnswered(a, c, within) })
		}
	}
	most := func(text string, bound *uint64, now func() uint64) {
		if bound != nil {
			add(true, fmt.Sprintf("at most %d %s", *bound, text), func() (fate, string) {
				n := now()
				return fateOf(n <= *bound), fmt.Sprintf("there were %d", n)
			})
			all[len(all)-1].count = true
		}
	}
	if e.Gap > 0 {
		add(true, "a sample at least every "+short(e.Gap), func() (fate, string) {
			longest := max(a.gap, time.Since(a.quiet))
			return fateOf(longest <= e.Gap), fmt.Sprintf("the longest time without one was %s", short(longest.Round(time.Millisecond)))
		})
	}
	most("messages again", e.Duplicates, func() uint64 { return a.who[0].again - a.before[0].again })
	most("moves to another hub", e.Moves, func() uint64 { return a.who[0].moves - a.before[0].moves })
	most("questions to DPS", e.Registrations, func() uint64 { n, _ := p.totals(a); return n })
	most("connections to hubs", e.Connects, func() uint64 { _, n := p.totals(a); return n })
	most("dials", e.Dials, func() uint64 { look, _ := a.who[0].party.Look(); return look.Dials - a.before[0].dials })
	for _, rule := range e.Rules {
		add(true, "the decision "+rule, func() (fate, string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			var taken []string
			for r := range p.rules {
				taken = append(taken, r)
			}
			slices.Sort(taken)
			return fateOf(p.rules[rule]), "the device decided by " + orNothing(strings.Join(taken, ", "))
		})
	}
	return all
}

func orNothing(s string) string {
	if s == "" {
		return "no rule"
	}
	return s
}

func fateOf(good bool) fate {
	if good {
		return held
	}
	return unmet
}

func backText(text string, within time.Duration, on string) string {
	if on != "" {
		text += " on " + on
	}
	return text + " within " + short(within)
}

// settle looks at the expectations of all steps that are under way, and says whether one has ended.
func (p *player) settle() (ended bool) {
	for _, a := range p.running {
		p.tellBack(a)
		for _, h := range a.hopes {
			if !h.done && !h.bound {
				p.decide(a, h)
			}
		}
		if waits, _ := a.waits(); waits || time.Until(a.until) > 0 {
			continue
		}
		for _, h := range a.hopes {
			if !h.done {
				p.decide(a, h)
			}
		}
		a.done, a.ended, ended = true, time.Now(), true
		p.emit(report.Entry{Kind: report.StepOff, Step: a.name})
	}
	p.running = slices.DeleteFunc(p.running, func(a *act) bool { return a.done })
	return ended
}

// countEvery is how often the bounds that count are looked at. Some targets have to be asked.
const countEvery = time.Second

// exceeded says whether more has happened than may. It tells of the bounds that fail. A device that
// never pauses would otherwise keep the drill busy until its step ends, which may be a day away.
func (p *player) exceeded() bool {
	if time.Since(p.counted) < countEvery {
		return false
	}
	p.counted = time.Now()
	if d := p.s.Budget.Duplicates; d != nil && p.main().again > *d {
		p.failed = true // lateHopes tells it
	}
	for _, a := range p.running {
		for _, h := range a.hopes {
			if !h.count || h.done {
				continue
			}
			if f, _ := h.look(); f == unmet {
				p.decide(a, h)
			}
		}
	}
	return p.failed
}

// decide looks at one expectation, and tells what became of it.
func (p *player) decide(a *act, h *hope) {
	f, seen := h.look()
	if f == open {
		return
	}
	h.done = true
	p.expected(a.name, h.text, f == held, seen)
	if f == unmet && (h.count || !h.bound) {
		p.failed = true // what follows would begin in the wrong state
	}
}

func (p *player) expected(step, text string, good bool, seen string) {
	p.emit(report.Entry{Kind: report.Expected, Step: step, Expectation: &report.Expectation{Step: step, Text: text, Held: good, Seen: seen}})
}

// tellBack tells when all are back, once.
func (p *player) tellBack(a *act) {
	last, ok := a.back()
	e := a.step.Expect
	if !ok || a.told || e.Back == 0 && e.BackOnceOver == 0 {
		return
	}
	a.told = true
	p.emit(report.Entry{At: last.at, Kind: report.Returned, Step: a.name, Hub: last.hub})
}

// isBack says whether every device is back.
func (p *player) isBack(a *act, since time.Time, within time.Duration, on string) (fate, string) {
	last, ok := a.back()
	switch {
	case ok && last.at.Sub(since) > within:
		return unmet, fmt.Sprintf("it came back on %s after %s", last.hub, took(last.at.Sub(since)))
	case ok && on != "" && last.hub != on:
		return unmet, fmt.Sprintf("it came back on %s", last.hub)
	case ok:
		return held, fmt.Sprintf("a sample on %s after %s", last.hub, took(last.at.Sub(since)))
	case time.Since(since) > within:
		return unmet, fmt.Sprintf("nothing came for %s (%s)", short(within), p.troubles())
	}
	return open, ""
}

func took(d time.Duration) string { return short(max(0, d.Round(time.Millisecond))) }

// isDrained says whether nothing waits any more.
func (p *player) isDrained(a *act, within time.Duration) (fate, string) {
	last, ok := a.back()
	if !ok {
		return open, ""
	}
	look, ok := a.who[0].party.Look()
	if !ok {
		return unmet, "the device does not say what waits"
	}
	since := time.Since(last.at)
	switch {
	case look.Outbox.Queued <= p.fewWait():
		return held, fmt.Sprintf("it was gone after %s", took(since))
	case since > within:
		return unmet, fmt.Sprintf("%d samples still wait", look.Outbox.Queued)
	}
	return open, ""
}

// isSilent says whether no sample has arrived since the step began.
func (p *player) isSilent(a *act, lasts time.Duration) (fate, string) {
	if since := a.noise.Sub(a.began); !a.noise.IsZero() && since <= lasts {
		return unmet, fmt.Sprintf("a sample arrived after %s", took(since))
	}
	if time.Since(a.began) > lasts {
		return held, "none arrived"
	}
	return open, ""
}

// order is a command under way.
type order struct {
	*command
	sent time.Time
	done bool // guarded by player.mu, as the fields below are
	took time.Duration
	err  error // why the answer is not good
}

// order sends a command, and waits for its answer in the background.
func (p *player) order(a *act, c *command) {
	o := &order{command: c, sent: time.Now()}
	a.orders = append(a.orders, o)
	within := orElse(a.step.Expect.Answered, defaultAnswer)
	if c.desired != nil {
		within = orElse(a.step.Expect.Acknowledged, defaultAnswer)
	}
	p.emit(report.Entry{Kind: report.Asked, Step: a.name, Name: c.name})
	p.working.Go(func() {
		ctx, cancel := context.WithTimeout(p.calls, within)
		defer cancel()
		err := p.ask(ctx, c)
		p.mu.Lock()
		o.done, o.took, o.err = true, time.Since(o.sent), err
		p.mu.Unlock()
		if err == nil {
			p.emit(report.Entry{Kind: report.Answered, Step: a.name, Name: c.name})
		}
	})
}

// isAnswered says what became of a command.
func (p *player) isAnswered(a *act, c *command, within time.Duration) (fate, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range a.orders {
		switch {
		case o.command != c || !o.done:
		case o.err != nil:
			return unmet, o.err.Error()
		case o.took > within:
			return unmet, "it was after " + took(o.took)
		default:
			return held, "it was after " + took(o.took)
		}
	}
	return open, ""
}

// askEvery is how soon a command is tried again that the cloud could not deliver.
const askEvery = 100 * time.Millisecond

// ask sends a command, again and again while the cloud cannot deliver it, and waits for its answer.
func (p *player) ask(ctx context.Context, c *command) error {
	m := p.main()
	id := m.party.ID()
	switch {
	case c.method != nil:
		return p.again(ctx, func() (bool, error) {
			r, err := p.w.Cloud.Method(ctx, id, c.method.Name, c.method.Payload)
			if err != nil {
				return false, err
			}
			if r.Status != 200 {
				return true, fmt.Errorf("the device answered %d %s", r.Status, r.Payload)
			}
			return true, nil
		})
	case c.message != nil:
		mid := ""
		return p.again(ctx, func() (bool, error) {
			var err error
			if mid == "" {
				mid, err = p.w.Cloud.Send(ctx, id, sim.C2D{Body: bodyOf(c.message.Payload), Properties: map[string]string{"method-name": c.message.Name}})
				return false, err
			}
			return settled(p.w.Cloud, ctx, id, mid)
		})
	}
	patch, err := json.Marshal(c.desired)
	if err != nil {
		return err
	}
	sent := false
	return p.again(ctx, func() (bool, error) {
		if !sent {
			err := p.w.Cloud.Desire(ctx, id, patch)
			sent = err == nil
			return errors.Is(err, errPutBack), err
		}
		t, err := p.w.Cloud.Twin(ctx, id)
		if err != nil {
			return false, err
		}
		return acknowledges(t, c.desired)
	})
}

func bodyOf(payload scenario.JSON) json.RawMessage {
	if len(payload) == 0 {
		return json.RawMessage("null")
	}
	return payload
}

// settled says whether the device has completed a message.
func settled(c drill.Cloud, ctx context.Context, id, mid string) (bool, error) { //nolint:revive // the cloud is the receiver here
	messages, err := c.Mail(ctx, id)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		switch {
		case m.Mid != mid:
		case m.State == sim.C2DCompleted:
			return true, nil
		case m.State == sim.C2DEnqueued || m.State == sim.C2DDelivered:
			return false, fmt.Errorf("the message is still %s", m.State)
		default:
			return true, fmt.Errorf("the message is %s", m.State)
		}
	}
	return false, errors.New("no hub knows the message any more")
}

// acknowledges says whether a twin acknowledges desired properties, with their values and code 200.
func acknowledges(t sim.Twin, desired map[string]scenario.JSON) (bool, error) {
	for name, want := range desired {
		ack, _ := t.Reported[name].(map[string]any)
		value, err := json.Marshal(ack["value"])
		if err != nil {
			return false, err
		}
		if ack == nil || !bytes.Equal(canonical(value), canonical(want)) || fmt.Sprint(ack["ac"]) != "200" {
			return false, fmt.Errorf("the device has reported %s %s", name, orNone(t.Reported[name]))
		}
	}
	return true, nil
}

func orNone(v any) string {
	if v == nil {
		return "not at all"
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// canonical writes JSON in one way.
func canonical(b []byte) []byte {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return b
	}
	out, _ := json.Marshal(v)
	return out
}

// again tries something until it is done or time is over. Then the error says what was wrong last.
func (p *player) again(ctx context.Context, try func() (done bool, err error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := errors.New("there was no answer")
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return last
		}
		done, err := try()
		if done {
			return err
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		if p.outer.Err() != nil {
			return last
		}
		timer.Reset(askEvery)
	}
}

// lateHopes decides what can be decided only when the run is over: what was lost in each step.
func (p *player) lateHopes() {
	m := p.main()
	var lost []lostRange
	for _, x := range m.books.Accounts(false) {
		for _, text := range slices.Concat(x.LostIDs, x.GapIDs) {
			if r, ok := audit.SplitRange(text); ok && r.ID == m.box {
				lost = append(lost, lostRange{r.First, r.Last})
			}
		}
	}
	for i, a := range p.acts {
		bound := a.step.Expect.Lost
		if bound == nil || a.began.IsZero() {
			continue
		}
		until := ^uint64(0)
		for _, next := range p.acts[i+1:] {
			if len(next.before) > 0 && !next.began.Equal(a.began) {
				until = next.before[0].newest
				break
			}
		}
		n := uint64(0)
		for _, r := range lost {
			n += r.within(a.before[0].newest+1, until)
		}
		p.expected(a.name, fmt.Sprintf("at most %d samples lost", *bound), n <= *bound, fmt.Sprintf("%d were", n))
	}
	if d := p.s.Budget.Duplicates; d != nil {
		p.expected("the whole run", fmt.Sprintf("at most %d messages again", *d), m.again <= *d, fmt.Sprintf("there were %d", m.again))
	}
}

// lostRange is a range of seqs that are lost.
type lostRange struct{ first, last uint64 }

// within counts the seqs of a range.
func (r lostRange) within(first, last uint64) uint64 {
	first, last = max(first, r.first), min(last, r.last)
	if first > last {
		return 0
	}
	return last - first + 1
}
