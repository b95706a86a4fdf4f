package failover

import (
	"math/rand/v2"
	"time"
)

const (
	backoffMin = 500 * time.Millisecond
	backoffMax = time.Minute

	// atFirst is the first part of an outage. Most outages are over within it, so the waits in it
	// are short.
	atFirst = time.Minute

	// The longest waits between dials that are answered by a reset, within atFirst and later.
	refusedDialMax  = 2 * time.Second
	refusedDialLate = 10 * time.Second

	// The shortest and the longest wait between registrations that DPS refuses, within atFirst.
	refusalMin = 1600 * time.Millisecond
	refusalMax = 2 * time.Second

	// startSpread is the time within which a new run asks DPS first, if DPS had refused the device
	// for long before.
	startSpread = budgetEvery

	// budgetSpread is the time within which a device uses a registration that its budget gives
	// back. Chance chooses the moment, so that the devices of a fleet do not ask together.
	budgetSpread = time.Second
)

// backoff is full jitter below a doubling cap: below 0.5 s for n = 0, below 60 s from n = 7 on.
func backoff(n int, rnd *rand.Rand) time.Duration {
	top := backoffMax
	if n < 7 {
		top = min(top, backoffMin<<n)
	}
	return jitter(top, rnd)
}

// redial returns the cap of the wait after a dial that was answered by a reset. It is small because
// such a dial costs next to nothing and the hub may be back at any moment. It doubles from 0.5 s to
// 2 s in the first minute of an outage, and to 10 s later. n counts these dials; lasted is the
// outage so far.
func redial(n int, lasted time.Duration) time.Duration {
	limit := refusedDialMax
	if lasted >= atFirst {
		limit = refusedDialLate
	}
	return min(limit, backoffMin<<min(n, 7))
}

// refusal returns the wait after an answer of DPS without an assignment and without a retry-after.
// lasted is how long DPS has given such answers. In the first minute the wait is 1.6 to 2 s, so
// that at most 2 s pass between the end of a short trouble and the next try; see
// docs/adr/0010-waits-in-a-short-trouble.md. Later it is half to all of the time since that minute,
// at most 60 s, so it about doubles each time.
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

// spread is jitter in the upper half below top. Each answer of DPS costs a registration, and a
// device has few in hand, so several short waits in a row must not use them up.
func spread(top time.Duration, rnd *rand.Rand) time.Duration {
	return top/2 + jitter(top/2, rnd)
}

// dpsRetry is the wait between connections to a DPS that cannot be reached. It is any time below a
// cap that grows with lasted, the time since DPS was first out of reach: from 0.5 s to 1.5 s in the
// first minute, then by a second each quarter of a minute, up to 60 s.
func dpsRetry(lasted time.Duration, rnd *rand.Rand) time.Duration {
	top := 500*time.Millisecond + lasted/60
	if lasted > time.Minute {
		top = min(backoffMax, 1500*time.Millisecond+(lasted-time.Minute)/15)
	}
	return jitter(top, rnd)
}
