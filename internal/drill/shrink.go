package drill

import "slices"

// Shrink makes a failing schedule smaller: it drops steps, then settings, while the schedule still
// fails. fails plays a schedule. Chance remains where goroutines race, so Shrink lets each schedule
// pass three times before it believes that it does. It returns false if the schedule does not fail
// again.
func Shrink(s Schedule, fails func(Schedule) bool) (smaller Schedule, again bool) {
	tried := func(s Schedule) bool {
		for range 3 {
			if fails(s) {
				return true
			}
		}
		return false
	}
	if !tried(s) {
		return s, false
	}
	for dropped := true; dropped; {
		dropped = false
		for i := range slices.Backward(s.Steps) {
			less := s
			less.Steps = slices.Delete(slices.Clone(s.Steps), i, i+1)
			if tried(less) {
				s, dropped = less, true
			}
		}
	}
	three := 3
	for _, plain := range []func(c *Settings){
		func(c *Settings) { c.Interval = "" }, func(c *Settings) { c.RetryAfter = &three }, func(c *Settings) { c.Polls = 0 },
		func(c *Settings) { c.Hubs = 0 }, func(c *Settings) { c.SASTTL = "" }, func(c *Settings) { c.Pipeline = "" },
		func(c *Settings) { c.Transport = "" }, func(c *Settings) { c.NoKnown = false }, func(c *Settings) { c.Window = 0 },
		func(c *Settings) { c.FreshFirst = false }, func(c *Settings) { c.SyncEvery = "" }, func(c *Settings) { c.Move = "" },
		func(c *Settings) { c.Refusal = 0 }, func(c *Settings) { c.Delay = "" },
	} {
		less := s
		plain(&less.With)
		if tried(less) {
			s = less
		}
	}
	return s, true
}
