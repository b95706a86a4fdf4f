package failover

import "time"

const (
	minHedge     = 250 * time.Millisecond // shortest time that a dial may take before DPS is asked
	connackHedge = 5 * time.Second        // the same for CONNACK, once TLS is up
	askFirstWait = 10 * time.Second       // how long DPS may take before the hub is dialled anyway

	// stableAfter is how long a link must be up, and have carried a PUBACK, to clear the counters.
	stableAfter = time.Minute

	// A device has so many immediate dials in hand, and gets one back every so often. So a link
	// that comes and goes is not dialled again at once without end.
	quickSize  = 10
	quickEvery = 2 * time.Second
)

var quickAllowed = allowance{quickSize, quickEvery}

// homeWay is the way to the hub that DPS named last, or to the cached one.
type homeWay struct {
	attempt
	fresh     bool      // CONNACK 5 has been answered with a fresh token already
	ask       bool      // the next dial is accompanied by a question to DPS
	contested bool      // waiting for DPS to say whether this is a fight
	hedgeAt   time.Time // when to ask DPS because the hub is slow; zero: not
	hedgeWhy  Signal
	quick     budget // immediate dials after a lost link
}

// settleOn makes host the assigned hub. What was known about the dials of the one before is
// forgotten.
func (w *homeWay) settleOn(a attempt) { *w = homeWay{attempt: a, quick: w.quick} }

// hedge plans the question to DPS for the case that the dial is slow.
func (w *homeWay) hedge(at time.Time, why Signal) { w.hedgeAt, w.hedgeWhy = at, why }

func (w *homeWay) noHedge() { w.hedgeAt = time.Time{} }

// tlsUp takes note that a dial has got through TLS. Now only CONNACK may be slow.
func (w *homeWay) tlsUp(now time.Time) {
	w.tls = true
	if !w.hedgeAt.IsZero() {
		w.hedge(now.Add(connackHedge), ConnackPending)
	}
}

// dialHome dials the assigned hub, and plans or asks the question to DPS that goes with it.
func (m *Machine) dialHome(now time.Time) {
	w := &m.home
	w.contested = false
	m.dial(now, &w.attempt)
	if m.o.NoDPS {
		return
	}
	if w.ask {
		w.ask = false
		m.ask(now)
	}
	if m.dps.phase == quiet {
		delay := m.o.HedgeDelay
		if delay <= 0 {
			delay = max(minHedge, 3*m.hub(w.host).took)
		}
		w.hedge(now.Add(delay), NothingHeard)
	}
}

// askedLate asks DPS because the dial of the assigned hub is slow.
func (m *Machine) askedLate(now time.Time) {
	m.home.noHedge()
	if r := m.rule(m.home.hedgeWhy, nil); r.Action == AskDPS {
		m.decided(r, m.home.host, nil, 0)
		m.ask(now)
	}
}

// homeUp puts the link to the assigned hub to work.
func (m *Machine) homeUp(now time.Time, e Up) {
	m.home.linkUp(now)
	m.home.fresh = false
	h := m.hub(m.home.host)
	h.took, h.hold, h.refusals = e.Took, false, 0
	m.home.noHedge()
	m.trouble = time.Time{}
	m.calmDPS()
	m.dropSide(true)
	m.emit(Serve{ID: e.ID})
	m.keep(now)
}

// homeFailed follows a failed dial of the assigned hub.
func (m *Machine) homeFailed(now time.Time, e DialFailed) {
	w, host := &m.home, m.home.host
	h := m.hub(host)
	h.hold = w.tls
	w.noHedge()
	r := m.rule(e.Signal, func(c When) bool {
		return c == First && !w.fresh || c == Pipelined && m.o.Pipeline == PipelineAuto && !h.sequential
	})
	if e.Signal == Connack5 {
		m.refused(host)
	}
	if e.ID == m.dps.named {
		m.stoodBy(now, m.dps.spoke)
	}
	m.fight.dialFailed(e.Signal)
	switch r.Action {
	case Stop:
		return
	case Sequential:
		h.sequential = true // the state keeps it only if it works, see below
		m.decided(r, host, e.Err, 0)
		m.dialHome(now)
		return
	case Renew:
		m.decided(r, host, e.Err, 0)
		m.dialHome(now)
		return
	case FreshToken:
		w.fresh = true
		m.decided(r, host, e.Err, 0)
		m.ask(now)
		m.dialHome(now)
		return
	default: // wait first
	}
	if h.sequential && !m.state.sequential(host) {
		h.sequential = false // the careful way failed as well, so the other way was not to blame
	}
	wait := m.waitAtHome(now, h, e.Signal)
	m.decided(r, host, e.Err, wait)
	w.waitUntil(now.Add(wait))
	if r.Action == BackOff {
		w.ask = true
		return
	}
	m.ask(now)
}

// homeLost follows the end of the link to the assigned hub.
func (m *Machine) homeLost(now time.Time, e Lost) {
	w := &m.home
	h, lived := m.hub(w.host), now.Sub(w.at)
	h.deaf = h.deaf || e.Signal == LinkUnacked
	m.trouble, w.down = now, now
	if e.Acked && lived >= stableAfter {
		h.fails = 0
	}
	r := m.rule(m.fight.linkEnded(e.Signal, lived), func(c When) bool { return c == Fought && m.fight.named })
	switch {
	case r.Action == Stop:
		w.rest()
		return
	case r.Action == SlowDown:
		wait := max(0, fightEvery-lived)
		m.emit(Decided{Decision{Rule: r, Host: w.host, Err: e.Err, Wait: wait, Anew: !m.fight.on}})
		m.fight.on = true
		w.fresh = false
		w.waitUntil(now.Add(wait))
		return
	case r.Action == AskFirst && m.o.NoDPS:
		// There is no DPS to ask, so dial once more, as after any loss.
		m.fight.named = true
		r = m.rule(e.Signal, nil)
	case r.Action == AskFirst:
		m.decided(r, w.host, e.Err, askFirstWait)
		w.fresh, w.contested = false, true
		w.waitUntil(now.Add(askFirstWait))
		m.ask(now)
		return
	}
	var wait time.Duration
	if r.Action != Renew {
		wait = m.waitAfterLink(now, h, e.Acked)
	}
	m.decided(r, w.host, e.Err, wait)
	w.fresh = false
	w.waitUntil(now.Add(wait))
	if wait == 0 {
		m.dialHome(now)
	}
	switch r.Action {
	case Reprovision, FreshToken, AskDPS:
		m.ask(now)
	case BackOff:
		w.ask = true
	default: // the dial alone; DPS is asked after the hedge delay
		if wait == 0 && r.Action != Renew {
			m.openDPS(now)
		}
	}
}
