package failover

import (
	"math/rand/v2"
	"time"
)

// The waits between tries. Two more stand with what they belong to: askFirstWait in home.go,
// fightEvery in fight.go. Budgets add to them: budget.go, and their sizes in registrations.go and
// home.go. Package dps bounds the waits that DPS asks for.
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

	conflictWait = 2 * time.Second // after a 409, as the SDKs of Microsoft wait
	defaultRetry = 2 * time.Second // after a 429 without retry-after

	// maxReregister is how often the wait doubles before a registration that replaces a lost one.
	// That wait stays below 2 s.
	maxReregister = 2

	// The time between two questions while DPS stands by a dead hub. It doubles, and in the first
	// minute it is at most staleFirstMin.
	staleSpacing  = 250 * time.Millisecond
	staleFirstMin = 2 * time.Second

	// startSpread is the longest time until a new run asks DPS for the first time, if DPS had
	// refused the device for long before.
	startSpread = budgetEvery

	// budgetSpread is the time within which a device uses a registration that its budget gives
	// back. Chance chooses the moment, so that the devices of a fleet do not ask together.
	budgetSpread = time.Second
)

// waitAtDPS returns how long to wait before DPS is asked again, and takes note of whether known
// hubs may be tried meanwhile.
func (m *Machine) waitAtDPS(now time.Time, action Action, e RegisterFailed) (wait time.Duration) {
	d, refused := &m.dps, now.Sub(m.state.RefusedSince)
	switch action {
	case RetryDPS:
		if d.since.IsZero() {
			d.since = now
		}
		if e.Signal == DPSSilent {
			d.silent++
		}
		if e.Signal == DPSEarly {
			d.sequential = m.o.Pipeline == PipelineAuto
		}
		d.cannotHelp = true
		return dpsRetry(now.Sub(d.since), m.o.Rand) // such a DPS has said nothing about a wait
	case RetryAfter:
		if wait = defaultRetry; refused >= atFirst {
			wait = refusal(refused, m.o.Rand)
		}
		d.cannotHelp = true
	case Reregister:
		// Spread, so that the registrations in hand outlast a short trouble.
		if wait = spread(backoffMin<<min(d.fails, maxReregister), m.o.Rand); refused >= atFirst {
			wait = refusal(refused, m.o.Rand)
		}
		d.fails++
		if e.Signal == DPSConflict {
			wait += conflictWait
		}
	default: // BackOffDPS, BackOffKnown, and whatever a changed table may say
		wait = refusal(refused, m.o.Rand)
		d.cannotHelp = action == BackOffKnown
	}
	if e.RetryAfter >= 0 {
		wait = e.RetryAfter
	}
	return wait
}

// stoodBy spaces the questions to a DPS that stands by a hub that does not work: asked again at
// once, it would only say the same again.
func (m *Machine) stoodBy(now, spoke time.Time) {
	m.dps.stale++
	top := staleSpacing << min(m.dps.stale, 8)
	limit := staleFirstMin
	if !m.trouble.IsZero() && now.Sub(m.trouble) > time.Minute {
		limit = backoffMax
	}
	m.dps.notBefore = spoke.Add(spread(min(top, limit), m.o.Rand))
}

// waitAtHome returns how long to wait before the next dial. A dial that DPS asked for comes ahead
// of the planned one and does not count: the rest of the planned wait goes on. Otherwise a hub that
// refuses dials for a second while DPS stands by it would be dialled as seldom as after many
// failures.
func (m *Machine) waitAtHome(now time.Time, h *hubMemory, s Signal) time.Duration {
	planned := m.home.at.Sub(now)
	switch {
	case s == DialRefused: // cuts short a longer wait that an earlier failure has left
		if top := redial(h.refusals, now.Sub(m.home.down)); planned <= 0 || planned > top {
			h.refusals++
			return jitter(top, m.o.Rand)
		}
	case planned <= 0:
		h.fails++
		return backoff(h.fails-1, m.o.Rand)
	}
	return planned
}

// waitAfterLink returns how long to wait before the hub of a lost link is dialled again: not at all
// after a link that carried a PUBACK, as long as quick dials are in hand.
func (m *Machine) waitAfterLink(now time.Time, h *hubMemory, acked bool) (wait time.Duration) {
	if acked {
		wait = m.home.quick.takeAhead(now)
	} else {
		wait = backoff(h.fails, m.o.Rand)
		m.home.quick.takeWithin(now, wait)
	}
	h.fails++
	return wait
}

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

// spread is any time between half of top and top. It is never short, because each answer of DPS
// costs a registration, and a device has few in hand.
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
