package scenario

import (
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// maxSteps bounds the steps of a run, the repeated ones included.
const maxSteps = 20_000

// check notes what is wrong although each value alone is right.
func (d *decoder) check(s *Scenario) {
	hubs := s.Cloud.Hubs
	if hubs == 0 {
		hubs = DefaultHubs
	}
	known := func(line int, key, place string) {
		if place != "" && place != "dps" && place != "all" && int(place[len(place)-1]-'a') >= hubs {
			d.fault(line, "%s: there is no %s; the cloud has %d hubs, hub-a to hub-%c (cloud.hubs says how many)", key, place, hubs, 'a'+hubs-1)
		}
	}
	names, total, chaos := map[string]int{}, 0, 0
	last := time.Duration(-1)
	for i := range s.Steps {
		step := &s.Steps[i]
		if first, twice := names[step.Name]; twice {
			d.fault(step.Line, "there is a step %q already in line %d; reports tell steps apart by their names", step.Name, first)
		}
		names[step.Name] = step.Line
		total += max(1, step.Repeat)
		switch {
		case step.At != nil && step.After != nil:
			d.fault(step.Line, "the step has at and after; it begins at one time only")
		case step.At != nil && step.Repeat > 1:
			d.fault(step.Line, "a step that is repeated has after, not at")
		case step.At != nil && *step.At < last:
			d.fault(step.Line, "the step begins at %v, and a step above it at %v; put steps in the order of their times", *step.At, last)
		}
		if step.At != nil {
			last = *step.At
		}
		if len(step.Do) == 0 && step.Lasts == 0 {
			d.fault(step.Line, "the step does nothing, and does not last; give it do or lasts")
		}
		for j := range step.Do {
			a := &step.Do[j]
			known(a.Line, "do", a.place())
			d.checkAction(s, a)
			if a.Chaos != nil {
				if chaos++; chaos > 1 || step.Repeat > 1 {
					d.fault(a.Line, "chaos is played once in a run; use another --seed for another schedule")
				}
			}
		}
		d.checkExpect(step, known)
	}
	if total > maxSteps {
		d.fault(s.Line, "the steps are done %d times in all, and at most %d times are allowed", total, maxSteps)
	}
}

// place returns the place that an action names; "" for none.
func (a *Action) place() string {
	switch {
	case a.Fault != nil:
		return a.Fault.Hub
	case a.Cut != nil:
		return a.Cut.Place
	case a.Path != nil:
		return a.Path.Place
	}
	return a.Heal
}

// lasts says whether an action takes time.
func (a *Action) lasts() bool {
	switch {
	case a.Fault != nil:
		return a.Fault.For > 0
	case a.DPS != nil:
		return a.DPS.For > 0
	}
	for _, l := range []*Lasting{a.Handover, a.Restart, a.Rival} {
		if l != nil {
			return true
		}
	}
	for _, b := range []*Ban{a.Disable, a.DisableIdentity, a.Block} {
		if b != nil && b.For > 0 {
			return true
		}
	}
	return a.Cut != nil || a.Delay != nil || a.Weather != nil || a.Path != nil || a.Storm != nil || a.Crash != nil || a.Clock != nil || a.Chaos != nil
}

func (d *decoder) checkAction(s *Scenario, a *Action) {
	if a.Renew != nil && s.Device.Certificate == 0 {
		d.fault(a.Line, "newCertificate needs a device with a certificate; device.certificate says how long the first one lives")
	}
	if r := a.DPS; r != nil && r.RetryAfter != nil && *r.RetryAfter%time.Second != 0 {
		d.fault(a.Line, "dps.retryAfter must be whole seconds; it is %v", *r.RetryAfter)
	}
	if f := a.Fault; f != nil {
		if f.Delay > 0 && f.Kind != "slow" && f.Kind != "throttle" {
			d.fault(a.Line, "fault.delay belongs to slow and throttle, and the kind is %s", f.Kind)
		}
		if f.WhenOver != "" && f.Kind != "blackhole" && f.Kind != "syndrop" {
			d.fault(a.Line, "fault.whenOver belongs to blackhole and syndrop, and the kind is %s", f.Kind)
		}
	}
	if f := a.DPS; f != nil {
		if f.Delay > 0 && f.Kind != "slow" {
			d.fault(a.Line, "dps.delay belongs to slow, and the kind is %s", f.Kind)
		}
		if f.RetryAfter != nil && f.Kind != "throttle" {
			d.fault(a.Line, "dps.retryAfter belongs to throttle, and the kind is %s", f.Kind)
		}
		if f.WhenOver != "" && f.Kind != "blackhole" {
			d.fault(a.Line, "dps.whenOver belongs to blackhole, and the kind is %s", f.Kind)
		}
	}
	if c := a.Clock; c != nil {
		if _, err := c.Off(time.Time{}); err != nil {
			d.fault(a.Line, "clock.ahead must be a duration such as -2h, or 1970; it is %s", strict.Quoted(c.Ahead))
		}
	}
}

func (d *decoder) checkExpect(step *Step, known func(line int, key, place string)) {
	e := &step.Expect
	line := e.Line
	if line == 0 {
		line = step.Line
	}
	known(line, "expect.on", e.On)
	does := func(is func(*Action) bool) bool {
		return slices.ContainsFunc(step.Do, func(a Action) bool { return is(&a) })
	}
	switch {
	case e.Back > 0 && e.BackOnceOver > 0:
		d.fault(line, "back and backOnceOver are two ways to count the same; give one")
	case e.On != "" && e.Back == 0 && e.BackOnceOver == 0:
		d.fault(line, "expect.on says which hub has the first sample again; it needs back or backOnceOver")
	case e.Drained > 0 && e.Back == 0 && e.BackOnceOver == 0:
		d.fault(line, "expect.drained counts from when the device is back; it needs back or backOnceOver")
	}
	if e.Answered > 0 && !does(func(a *Action) bool { return a.Method != nil || a.Message != nil }) {
		d.fault(line, "expect.answered needs a method or a message in the step")
	}
	if e.Acknowledged > 0 && !does(func(a *Action) bool { return a.Desired != nil }) {
		d.fault(line, "expect.acknowledged needs desired in the step")
	}
	if e.Gap > 0 && step.Lasts == 0 && e.Back == 0 && e.BackOnceOver == 0 && !does(func(a *Action) bool { return a.lasts() }) {
		d.fault(line, "expect.gap is about a time; give the step lasts or an expectation that takes time")
	}
}

// DefaultHubs is how many hubs there are, unless a scenario says otherwise.
const DefaultHubs = 2

// Off returns by how much the clock is ahead of the time now.
func (c *Clock) Off(now time.Time) (time.Duration, error) {
	if c.Ahead == "1970" {
		return time.Unix(20, 0).Sub(now), nil
	}
	return time.ParseDuration(c.Ahead)
}
