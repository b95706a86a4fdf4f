package failover

import (
	"time"

	"golang.org/x/time/rate"
)

// budget limits how often something is done: size times at once, and then once more each interval.
// It starts full, and costs no memory before its first use.
type budget struct {
	allowed *allowance
	limiter *rate.Limiter // nil: not used yet
}

// allowance is how large a budget is, and how often one is given back.
type allowance struct {
	size  int
	every time.Duration
}

func (b *budget) limit() *rate.Limiter {
	if b.limiter == nil {
		b.limiter = rate.NewLimiter(rate.Every(b.allowed.every), b.allowed.size)
	}
	return b.limiter
}

// wait is how long it takes until one is in hand, 0 if one is.
func (b *budget) wait(now time.Time) time.Duration {
	if b.limiter == nil {
		return 0
	}
	r := b.limiter.ReserveN(now, 1)
	defer r.CancelAt(now)
	return r.DelayFrom(now)
}

// take uses one up, if one is in hand.
func (b *budget) take(now time.Time) bool { return b.limit().AllowN(now, 1) }

// takeAhead uses one up, also one that is not in hand yet, and returns how long it takes until it
// is.
func (b *budget) takeAhead(now time.Time) time.Duration {
	return b.limit().ReserveN(now, 1).DelayFrom(now)
}

// takeWithin uses one up that will be in hand after wait, if there will be one.
func (b *budget) takeWithin(now time.Time, wait time.Duration) {
	if r := b.limit().ReserveN(now, 1); r.DelayFrom(now) > wait {
		r.CancelAt(now)
	}
}

// giveBack undoes a take. A limiter never holds more than its size.
func (b *budget) giveBack(now time.Time) { b.limit().AllowN(now, -1) }
