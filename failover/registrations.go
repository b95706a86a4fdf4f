package failover

import "time"

const (
	// A device has so many registrations in hand, and gets one back every so often.
	budgetSize  = 5
	budgetEvery = 5 * time.Second

	// How long DPS may be silent in a registration. The time doubles with each silence.
	minPatience = 5 * time.Second
	maxPatience = 30 * time.Second

	// A device may open so many connections to DPS ahead of a registration, and one more every so
	// often. So a link that comes and goes does not make it connect there all day.
	aheadSize  = 3
	aheadEvery = time.Minute
	aheadFor   = 6 * time.Second // how long one is held: by then the slowest hedge has asked
)

// question says what happens between a device and DPS.
type question uint8

const (
	quiet   question = iota // nothing
	planned                 // a registration will start at a given time
	asking                  // a registration is under way
)

// registrations is the machine's side of DPS: at most one registration at a time, and what it knows
// about when the next one may start. Its phase changes only in rest, waitUntil and begin.
type registrations struct {
	phase      question
	id         int       // of the registration that is under way
	at         time.Time // planned: when to ask
	notBefore  time.Time // what DPS, or the wait after its last answer, forbids
	fails      int       // registrations in a row that were lost and replaced
	silent     int       // silences in a row
	stale      int       // times in a row that DPS stood by a hub that did not work
	named      int       // the dial that DPS has asked for or confirmed; if it fails, DPS's word was stale
	spoke      time.Time // when DPS last named a hub
	since      time.Time // when DPS was first out of reach; zero: it is not
	cannotHelp bool      // DPS cannot be reached or has throttled us: known hubs may be tried
	sequential bool      // DPS is spoken to one packet at a time
	budget     budget    // registrations
	ahead      budget    // connections before it is known whether a registration follows
	heldUntil  time.Time // until when such a connection is held; zero: none is
}

var (
	registrationsAllowed = allowance{budgetSize, budgetEvery}
	aheadAllowed         = allowance{aheadSize, aheadEvery}
)

func newRegistrations() registrations {
	return registrations{budget: budget{allowed: &registrationsAllowed}, ahead: budget{allowed: &aheadAllowed}}
}

// rest ends what is under way.
func (d *registrations) rest() { d.phase = quiet }

// waitUntil plans the next registration.
func (d *registrations) waitUntil(at time.Time) { d.phase, d.at = planned, at }

// begin starts a registration, which may use a connection that was opened ahead.
func (d *registrations) begin(id int) { d.phase, d.id, d.heldUntil = asking, id, time.Time{} }

// asks reports whether id is the registration that is under way.
func (d *registrations) asks(id int) bool { return d.phase == asking && d.id == id }

// recovered forgets the failures: DPS, or the assigned hub itself, has answered.
func (d *registrations) recovered() {
	d.rest()
	d.fails, d.silent, d.since, d.cannotHelp = 0, 0, time.Time{}, false
}

// patience is how long DPS may be silent.
func (d *registrations) patience() time.Duration {
	return min(minPatience<<min(d.silent, 4), maxPatience)
}

// ask starts a registration: now, or as soon as DPS's own word, the wait after its last answer and
// the budget allow it.
func (m *Machine) ask(now time.Time) {
	d := &m.dps
	if m.o.NoDPS || d.phase == asking || m.home.phase == up {
		return
	}
	at := now
	if d.notBefore.After(at) {
		at = d.notBefore
	}
	if w := d.budget.wait(now); w > 0 {
		// A fleet that began together gets its registrations back together; chance keeps it from
		// asking together.
		if t := now.Add(w + jitter(budgetSpread, m.o.Rand)); t.After(at) {
			at = t
		}
	}
	if at.After(now) {
		d.waitUntil(at)
		return
	}
	d.budget.take(now)
	m.home.noHedge()
	m.lastID++
	d.begin(m.lastID)
	m.emit(Register{ID: d.id, Patience: d.patience(), Sequential: m.o.Pipeline == PipelineOff || d.sequential})
}

// assigned obeys DPS's answer, which is authoritative.
func (m *Machine) assigned(now time.Time, e Assigned) {
	d := &m.dps
	d.recovered()
	d.notBefore, d.spoke = time.Time{}, now
	m.pardoned()
	m.know(now, e)
	if m.side.phase != up && m.side.host != e.Hub {
		m.dropSide(false)
	}
	switch {
	case m.side.phase != idle && m.side.host == e.Hub:
		m.sideIsHome(now)
	case m.home.host == e.Hub && m.home.phase == dialing:
		r := m.rule(AssignedDialling, nil)
		m.decided(r, e.Hub, nil, 0)
		if r.Action == Move { // not in our table; but a table is obeyed
			m.emit(GiveUp{m.home.id})
			m.dialHome(now)
		}
		d.named = m.home.id
	case m.home.host == e.Hub && m.home.phase == up: // the link was faster
	case m.home.host == e.Hub && m.home.contested:
		m.home.contested = false
		m.fight.confirmed()
		m.dialAgain(now, AssignedContested)
	case m.home.host == e.Hub:
		m.stoodBy(now, now)
		m.dialAgain(now, AssignedFailing)
	default:
		m.moved(now, e.Hub)
	}
}

// sideIsHome follows DPS's word that the hub of the way aside is the right one.
func (m *Machine) sideIsHome(now time.Time) {
	m.decided(m.rule(AssignedDialling, nil), m.side.host, nil, 0)
	m.fight.over() // the evidence was about the previous hub
	if m.home.phase == dialing {
		m.emit(GiveUp{m.home.id})
	}
	m.home.settleOn(m.side.attempt)
	m.side.attempt = attempt{}
	if m.home.phase == up {
		m.emit(Serve{ID: m.home.id})
		m.keep(now)
	}
}

// dialAgain follows DPS's word that the assigned hub stays the right one, although it does not
// work.
func (m *Machine) dialAgain(now time.Time, s Signal) {
	r := m.rule(s, nil)
	m.decided(r, m.home.host, nil, 0)
	if r.Action == DialNow {
		m.dialHome(now)
	}
}

// moved follows DPS's word that another hub is the right one.
func (m *Machine) moved(now time.Time, hub string) {
	m.dps.stale = 0
	m.fight.over()
	r := m.rule(AssignedOther, nil)
	m.decided(r, hub, nil, 0)
	if r.Action != Move {
		return
	}
	if m.home.phase == dialing || m.home.phase == up {
		m.emit(GiveUp{m.home.id})
	}
	m.home.settleOn(attempt{host: hub})
	m.dialHome(now)
	m.dps.named = m.home.id
}

// registerFailed follows a registration that has brought no assignment.
func (m *Machine) registerFailed(now time.Time, e RegisterFailed) {
	d := &m.dps
	d.rest()
	if !e.Counted {
		d.budget.giveBack(now)
	}
	r := m.rule(e.Signal, nil)
	d.cannotHelp = false
	if e.Signal != DPSSilent {
		d.silent = 0
	}
	if e.Signal != DPSUnreachable && e.Signal != DPSSilent {
		d.since = time.Time{}
	} else {
		m.fight.over() // DPS is out of reach too, so this is no fight
	}
	if r.Action != Stop && r.Action != RetryDPS && m.state.RefusedSince.IsZero() {
		m.state.RefusedSince = now
		defer m.emit(Save{}) // the last effect, because a disk may be slow
	}
	if r.Action == Stop {
		return
	}
	wait := m.waitAtDPS(now, r.Action, e)
	d.notBefore = now.Add(wait)
	m.decided(r, "", e.Err, wait)
	m.ask(now)
	if d.cannotHelp {
		m.trySide(now)
	} else if m.side.phase != up {
		m.dropSide(false)
	}
}

// openDPS opens a connection for a registration that may follow, if one could follow at once.
func (m *Machine) openDPS(now time.Time) {
	d := &m.dps
	if m.o.NoDPS || !d.heldUntil.IsZero() || d.phase != quiet || d.notBefore.After(now) || d.budget.wait(now) > 0 || !d.ahead.take(now) {
		return
	}
	d.heldUntil = now.Add(aheadFor)
	m.emit(OpenDPS{})
}

func (m *Machine) closeDPS() {
	if !m.dps.heldUntil.IsZero() {
		m.dps.heldUntil = time.Time{}
		m.emit(CloseDPS{})
	}
}

// calmDPS ends what is under way between device and DPS: the assigned hub has answered.
func (m *Machine) calmDPS() {
	d := &m.dps
	m.closeDPS()
	if d.phase == asking {
		m.emit(CancelRegister{d.id})
	}
	d.recovered()
	d.stale = 0
	m.pardoned()
}

// resume continues the waits of the last run: if DPS has refused the device for long, a restart
// must not begin again with short ones.
func (m *Machine) resume(now time.Time) {
	if m.state.RefusedSince.After(now) { // a clock was wrong
		m.state.RefusedSince = now
	}
	if m.o.NoDPS || m.state.RefusedSince.IsZero() || now.Sub(m.state.RefusedSince) < atFirst {
		return
	}
	r, wait := m.rule(DPSRefusedBefore, nil), time.Duration(0)
	if r.Action == BackOffDPS {
		wait = jitter(startSpread, m.o.Rand)
	}
	m.dps.notBefore = now.Add(wait)
	m.decided(r, "", nil, wait)
}
