package failover

import (
	"time"

	"golang.org/x/time/rate"
)

// budget limits how often something is done: a number of times at once, and then one more each
// interval. It starts full.
type budget struct{ *rate.Limiter }

func newBudget(size int, every time.Duration) budget {
	return budget{rate.NewLimiter(rate.Every(every), size)}
}

// wait is how long it takes until one is in hand, 0 if one is.
func (b budget) wait(now time.Time) time.Duration {
	r := b.ReserveN(now, 1)
	defer r.CancelAt(now)
	return r.DelayFrom(now)
}

// take uses one up, if one is in hand.
func (b budget) take(now time.Time) bool { return b.AllowN(now, 1) }

// takeAhead uses one up, also one that is not in hand yet, and returns how long it takes until it
// is.
func (b budget) takeAhead(now time.Time) time.Duration { return b.ReserveN(now, 1).DelayFrom(now) }

// takeWithin uses one up that will be in hand after wait, if there will be one.
func (b budget) takeWithin(now time.Time, wait time.Duration) {
	if r := b.ReserveN(now, 1); r.DelayFrom(now) > wait {
		r.CancelAt(now)
	}
}

// giveBack undoes a take. A limiter never holds more than its size.
func (b budget) giveBack(now time.Time) { b.AllowN(now, -1) }
