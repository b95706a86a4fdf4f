package failover

import "time"

// sideWay is the way to a known hub. It is used only while DPS cannot help, one hub after the
// other.
type sideWay struct {
	attempt
	tried  map[string]bool // in this round; nil: none
	rounds int
	minded bool // a dial of this round failed in another way than by a refusal
}

// trySide dials the next known hub, if DPS cannot help. When all have been dialled it plans another
// round.
func (m *Machine) trySide(now time.Time) {
	w := &m.side
	if m.o.NoKnown || !m.dps.cannotHelp || w.phase != idle || m.home.phase == up {
		return
	}
	m.forgetOld(now)
	fresh := false // a hub is left to try, in this round or the next
	for _, k := range m.state.KnownHubs {
		if k.Host == m.home.host || k.Refused {
			continue
		}
		fresh = true
		if !w.tried[k.Host] {
			if w.tried == nil {
				w.tried = map[string]bool{}
			}
			w.tried[k.Host] = true
			w.attempt = attempt{host: k.Host}
			m.dial(now, &w.attempt)
			return
		}
	}
	clear(w.tried)
	if fresh {
		wait := backoff(w.rounds, m.o.Rand)
		if !w.minded { // all of them refused the dial
			wait = jitter(redial(w.rounds, now.Sub(m.trouble)), m.o.Rand)
		}
		w.attempt, w.minded = attempt{}, false
		w.waitUntil(now.Add(wait))
		w.rounds++
	}
}

// nextRound begins another round of the known hubs.
func (m *Machine) nextRound(now time.Time) {
	m.side.attempt = attempt{}
	m.trySide(now)
}

// sideUp puts the link to a known hub to work until DPS has spoken.
func (m *Machine) sideUp(now time.Time, e Up) {
	m.side.linkUp(now)
	h := m.hub(m.side.host)
	h.took, h.hold, h.refusals = e.Took, false, 0
	m.side.rounds = 0
	m.trouble = time.Time{}
	m.emit(Serve{ID: e.ID, Provisional: true})
}

// sideFailed follows a failed dial of a known hub: the next one is tried, or another round later.
func (m *Machine) sideFailed(now time.Time, e DialFailed) {
	w, host := &m.side, m.side.host
	m.hub(host).hold = w.tls
	if e.Signal == Connack5 {
		m.refused(host)
	}
	r := m.rule(e.Signal, nil)
	m.decided(r, host, e.Err, 0)
	w.minded = w.minded || e.Signal != DialRefused
	w.attempt = attempt{}
	if r.Action != Stop {
		m.trySide(now)
	}
}

// sideLost follows the end of a provisional link: everything is tried again.
func (m *Machine) sideLost(now time.Time, e Lost) {
	w, host := &m.side, m.side.host
	w.attempt = attempt{}
	r := m.rule(e.Signal, nil)
	if r.Action == Stop {
		return
	}
	if r.Action == Renew {
		m.decided(r, host, e.Err, 0)
		w.host = host
		m.dial(now, &w.attempt)
		return
	}
	m.trouble = now
	m.decided(r, host, e.Err, 0)
	w.tried = map[string]bool{host: true}
	if m.home.phase == waiting {
		m.dialHome(now)
	}
	m.ask(now)
	m.trySide(now)
}

// dropSide ends the way to a known hub: a link in order if inOrder, because another link takes over
// from it, else with a reset.
func (m *Machine) dropSide(inOrder bool) {
	switch w := &m.side; {
	case w.phase == up && inOrder:
		m.emit(Retire{w.id})
	case w.phase == up || w.phase == dialing:
		m.emit(GiveUp{w.id})
	}
	m.side = sideWay{}
}
