package failover

import (
	"math/rand/v2"
	"time"
)

const (
	backoffMin = 500 * time.Millisecond
	backoffMax = time.Minute

	atFirst         = time.Minute     // an outage is young for so long: most are over by then
	refusedDialMax  = 2 * time.Second // between dials that are answered by a reset, at first
	refusedDialLate = 10 * time.Second
	refusalMin      = 1600 * time.Millisecond // between registrations that DPS refuses, at first
	refusalMax      = 2 * time.Second
	startSpread     = budgetEvery // a new run of a device that DPS has refused for long asks within it
	budgetSpread    = time.Second // behind a registration that the budget has just given back
)

// backoff is full jitter below a doubling cap: below 0.5 s for n = 0, below 60 s from n = 7 on.
func backoff(n int, rnd *rand.Rand) time.Duration {
	top := backoffMax
	if n < 7 {
		top = min(top, backoffMin<<n)
	}
	return jitter(top, rnd)
}

// redial is the cap of the wait behind a dial that was answered by a reset. Such a dial costs next to nothing, and the hub that refuses
// it may be back at any moment: the cap doubles from 0.5 s to 2 s while the outage is young, and to 10 s later. n counts these dials.
func redial(n int, lasted time.Duration) time.Duration {
	limit := refusedDialMax
	if lasted >= atFirst {
		limit = refusedDialLate
	}
	return min(limit, backoffMin<<min(n, 7))
}

// refusal is the wait behind a registration that DPS answered without an assignment, when DPS did not say how long to wait. lasted is for
// how long it has answered so. At first it is 1.6 to 2 s, which leaves at most 2 s between the end of a short trouble and the next
// try; see docs/adr/0010-waits-in-a-short-trouble.md. After a minute it grows with the time that has passed, which doubles it each time, up to 60 s.
func refusal(lasted time.Duration, rnd *rand.Rand) time.Duration {
	if lasted < atFirst {
		return refusalMin + jitter(refusalMax-refusalMin, rnd)
	}
	return spread(min(backoffMax, max(2*refusalMax, lasted-atFirst)), rnd)
}

// jitter is any time below top.
func jitter(top time.Duration, rnd *rand.Rand) time.Duration {
	return time.Duration(rnd.Int64N(int64(top)))
}

// spread is jitter in the upper half below top: of registrations that DPS answers, wrongly or not, so few are in hand that short waits
// one after the other must not use them up at once.
func spread(top time.Duration, rnd *rand.Rand) time.Duration {
	return top/2 + jitter(top/2, rnd)
}

// dpsRetry is the wait between connections to a DPS that cannot be reached, by how long that has lasted: full jitter below 0.5 s,
// growing to 1.5 s in the first minute, then by a second each quarter of a minute to 60 s.
func dpsRetry(lasted time.Duration, rnd *rand.Rand) time.Duration {
	top := 500*time.Millisecond + lasted/60
	if lasted > time.Minute {
		top = min(backoffMax, 1500*time.Millisecond+(lasted-time.Minute)/15)
	}
	return jitter(top, rnd)
}

// bucket is a budget: so many in hand, one back every so often. The zero time is a full bucket.
type bucket struct {
	size  float64
	every time.Duration
	level float64
	at    time.Time
}

func newBucket(size int, every time.Duration) bucket {
	return bucket{size: float64(size), level: float64(size), every: every}
}

func (b *bucket) fill(now time.Time) {
	if !b.at.IsZero() {
		b.level = min(b.size, b.level+float64(now.Sub(b.at))/float64(b.every))
	}
	b.at = now
}

// wait is how long it takes until one is in hand, 0 if one is.
func (b *bucket) wait(now time.Time) time.Duration {
	b.fill(now)
	if b.level >= 1 {
		return 0
	}
	return time.Duration((1-b.level)*float64(b.every)) + 1
}

// take uses one up if there is one.
func (b *bucket) take(now time.Time) bool {
	if b.wait(now) > 0 {
		return false
	}
	b.level--
	return true
}

func (b *bucket) giveBack() { b.level = min(b.size, b.level+1) }
