package failover

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Options set how a machine behaves. The zero value is the default behaviour.
type Options struct {
	HedgeDelay time.Duration // how long an attempt may be slow before DPS is asked too; 0 = the larger of 250 ms and 3 × this hub's last dial that worked
	NoKnown    bool          // --known-hubs=false
	NoDPS      bool          // one pinned hub
	Pipeline   Pipeline
	Table      []Rule // nil = Rules
	Rand       *rand.Rand
}

// Pipeline says how CONNECT and what follows it are sent.
type Pipeline string

// The ways: in one write, one by one, or in one write until a hub has shown that it minds.
const (
	PipelineAuto Pipeline = "auto"
	PipelineOn   Pipeline = "on"
	PipelineOff  Pipeline = "off"
)

const (
	minHedge      = 250 * time.Millisecond
	connackHedge  = 5 * time.Second // TLS up, CONNACK pending
	stableAfter   = time.Minute     // a link that was up so long and carried a PUBACK clears the counters
	budgetSize    = 5               // registrations in hand
	budgetEvery   = 5 * time.Second // one back
	quickSize     = 10              // immediate dials in hand, so that a link that comes and goes is not redialled without end
	quickEvery    = 2 * time.Second // one back
	minPatience   = 5 * time.Second // with a silent DPS; doubles
	maxPatience   = 30 * time.Second
	conflictWait  = 2 * time.Second // the SDKs' answer to 409
	defaultRetry  = 2 * time.Second // 429 without retry-after
	maxReregister = 2               // doublings of the wait before a registration that replaces a lost one: below 2 s
	maxKnown      = 8
	maxKnownAge   = 30 * 24 * time.Hour
	staleSpacing  = 250 * time.Millisecond // between questions while DPS stands by a dead hub; doubles
	staleFirstMin = 2 * time.Second        // at most so far apart in the first minute

	aheadSize  = 3               // connections to DPS opened ahead in hand, so that a flapping link does not knock there all day
	aheadEvery = time.Minute     // one back
	aheadFor   = 6 * time.Second // one is held so long: by then the slowest hedge has asked

	strikeWithin = 10 * time.Second // a link that the peer closes so soon after it was up may have lost to another client
	maxStrikes   = 3                // after so many in a row, with no other failure in between, DPS is asked
	askFirstWait = 10 * time.Second
	fightEvery   = time.Minute // in a fight the hub is dialled once in this time
)

// Event is what a machine is told. The set is closed.
//
//sumtype:decl
type Event interface{ event() }

// The events. ID is that of the effect they answer.
type (
	// Start begins: with the cached hub if there is one, else at DPS.
	Start struct{}
	// TLSUp says that an attempt has got through TCP and TLS.
	TLSUp struct{ ID int }
	// Up says that an attempt has become a link, and how long that took.
	Up struct {
		ID   int
		Took time.Duration
	}
	// DialFailed is the end of an attempt.
	DialFailed struct {
		ID     int
		Signal Signal
		Err    error
	}
	// Lost is the end of a link. Acked says that it had carried a PUBACK.
	Lost struct {
		ID     int
		Signal Signal
		Err    error
		Acked  bool
	}
	// Assigned is DPS's decision.
	Assigned struct {
		ID            int
		Hub, DeviceID string
		Substatus     string
	}
	// RegisterFailed is the end of a registration without a decision.
	RegisterFailed struct {
		ID         int
		Signal     Signal
		Err        error
		RetryAfter time.Duration // negative: DPS did not say
		Counted    bool          // a registration reached DPS
	}
	// Tick says that NextWake has come.
	Tick struct{}
)

func (Start) event()          {}
func (TLSUp) event()          {}
func (Up) event()             {}
func (DialFailed) event()     {}
func (Lost) event()           {}
func (Assigned) event()       {}
func (RegisterFailed) event() {}
func (Tick) event()           {}

// Effect is what a machine wants done. The set is closed.
//
//sumtype:decl
type Effect interface{ effect() }

// The effects.
type (
	// Dial starts an attempt. Early says that the first messages may leave with CONNECT; otherwise they wait until it is served.
	Dial struct {
		ID                int
		Host, DeviceID    string
		Sequential, Early bool
	}
	// GiveUp ends an attempt or a link at once, with a reset.
	GiveUp struct{ ID int }
	// Retire ends a link in order: another one has taken over.
	Retire struct{ ID int }
	// Serve puts a link to work; whatever was at work before stops first.
	Serve struct {
		ID          int
		Provisional bool // a known hub that DPS has not confirmed
	}
	// Register starts a registration. Patience is how long DPS may be silent.
	Register struct {
		ID         int
		Patience   time.Duration
		Sequential bool
	}
	// CancelRegister ends it: it is not needed any more.
	CancelRegister struct{ ID int }
	// OpenDPS opens a connection to DPS and says nothing on it: a registration may follow, and then uses it.
	OpenDPS struct{}
	// CloseDPS ends that connection: no registration came.
	CloseDPS struct{}
	// Save keeps the machine's State: the assignment has changed.
	Save struct{}
	// Decided tells of a decision.
	Decided struct{ Decision }
)

func (Dial) effect()           {}
func (GiveUp) effect()         {}
func (Retire) effect()         {}
func (Serve) effect()          {}
func (Register) effect()       {}
func (CancelRegister) effect() {}
func (OpenDPS) effect()        {}
func (CloseDPS) effect()       {}
func (Save) effect()           {}
func (Decided) effect()        {}

// Decision is one row of the table applied to something that happened.
type Decision struct {
	Rule Rule
	Host string        // the hub concerned; empty for DPS
	Err  error         // what happened, if it was an error
	Wait time.Duration // until the next try that the action speaks of; 0 is at once
	Anew bool          // SlowDown: this decision begins the slow mode
}

type phase uint8

const (
	idle    phase = iota
	waiting       // until at
	dialing
	up
)

// attempt is one way to a hub: at most one try or link at a time.
type attempt struct {
	phase phase
	id    int
	host  string
	// at is when to dial (waiting) or since when it is up. While dialing, one that is still to come is the wait of the series that backs
	// off: this dial has come ahead of it, and if it fails, the rest of that wait goes on.
	at    time.Time
	fresh bool // CONNACK 5 has been answered with a fresh token already
	ask   bool // the next dial is accompanied by DPS at once
	tls   bool // dialing: TCP and TLS are through

	contested bool // waiting for DPS to say whether this is a fight

	down time.Time // when this way lost its link or was first dialled; zero: it has a link, or was never tried
}

// hubMemory is what a machine remembers of one hub.
type hubMemory struct {
	fails      int           // failures in a row since a stable link, without refused dials
	refusals   int           // refused dials in a row
	took       time.Duration // the last dial that worked
	sequential bool          // only the careful way has worked
	hold       bool          // it let the last attempt in as far as TLS and no further, so it gets no messages before it has accepted a session
	deaf       bool          // it has withheld a PUBACK for good: perhaps it drops what comes before its CONNACK, so it gets nothing then any more
}

// Machine decides. It is a function from events to effects: the same events at the same times with the same chance give the same
// effects. It is not safe for concurrent use; a [Session] owns it.
//
// There are three ways to a link. home is the hub DPS named last (or the cached one). side is a known hub, tried only while DPS
// cannot help. Registrations run beside both. Exactly one link is served; a link to home always takes over from one to side.
type Machine struct {
	o       Options
	state   State
	unsaved bool // state has a change that the next Save will keep
	lastID  int
	hubs    map[string]*hubMemory

	home, side attempt
	sideTried  map[string]bool // in this round
	sideRounds int
	sideMind   bool      // a dial of this round failed in another way than by a refusal
	hedgeAt    time.Time // when DPS is to be asked because home is slow; zero: not
	hedgeWhy   Signal

	dps struct {
		phase      phase // idle, waiting, dialing (asking)
		id         int
		at         time.Time // waiting: when to ask
		notBefore  time.Time // what DPS, or its backoff, forbids
		fails      int       // registrations in a row that were lost and replaced
		silent     int       // silences in a row
		stale      int       // times in a row that it stood by a hub that had just failed, or fails then
		named      int       // the attempt that it has sent us to, or confirmed under way: should that fail, its word was stale
		spoke      time.Time // when it last named a hub
		since      time.Time // when it was first out of reach; zero: it is not
		cannotHelp bool      // it cannot be reached or has throttled us: known hubs may be tried
		sequential bool
	}
	fight   fight
	trouble time.Time // since when there has been no link; zero: there is one
	held    time.Time // until when a connection to DPS is held ready; zero: none is
	budget  bucket    // registrations
	quick   bucket    // immediate dials
	ahead   bucket    // connections to DPS before it is known whether a registration follows
	out     []Effect
}

// fight is the evidence that another client uses the same identity. In that case the hub closes
// this client's link in order whenever the other client connects, and lets this client in whenever
// it dials. A hub in trouble does not look like this: it resets links, or refuses some of the
// dials.
type fight struct {
	strikes int  // links to home in a row that the hub closed in order soon after they were up
	named   bool // DPS has confirmed the hub after maxStrikes: the next strike proves the fight
	on      bool // the hub is dialled once a minute only
}

// NewMachine returns a machine that knows what the last run left.
func NewMachine(o Options, cached State) *Machine {
	if o.Table == nil {
		o.Table = Rules
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if o.Pipeline == "" {
		o.Pipeline = PipelineAuto
	}
	m := &Machine{o: o, state: cached, hubs: map[string]*hubMemory{}, sideTried: map[string]bool{},
		budget: newBucket(budgetSize, budgetEvery), quick: newBucket(quickSize, quickEvery),
		ahead: newBucket(aheadSize, aheadEvery)}
	for _, k := range cached.KnownHubs {
		m.hub(k.Host).sequential = k.Sequential
	}
	return m
}

// State is what the next run should know.
func (m *Machine) State() State {
	s := m.state
	s.KnownHubs = slices.Clone(s.KnownHubs)
	return s
}

// NextWake is when the machine wants a Tick; zero for never.
func (m *Machine) NextWake() time.Time {
	var next time.Time
	consider := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	consider(m.hedgeAt)
	consider(m.held)
	for _, a := range []*attempt{&m.home, &m.side} {
		if a.phase == waiting {
			consider(a.at)
		}
	}
	if m.dps.phase == waiting {
		consider(m.dps.at)
	}
	return next
}

// Step takes one event. Events of attempts, links and registrations that the machine has given up are ignored.
func (m *Machine) Step(now time.Time, e Event) []Effect {
	m.out = nil
	switch e := e.(type) {
	case Start:
		m.trouble = now
		m.resume(now)
		if m.state.AssignedHub != "" {
			m.home = attempt{host: m.state.AssignedHub}
			m.dial(now, &m.home)
		} else {
			m.ask(now)
		}
	case TLSUp:
		for _, a := range []*attempt{&m.home, &m.side} {
			if e.ID == a.id && a.phase == dialing {
				a.tls = true
			}
		}
		if e.ID == m.home.id && m.home.phase == dialing && !m.hedgeAt.IsZero() {
			m.hedgeAt, m.hedgeWhy = now.Add(connackHedge), ConnackPending
		}
	case Up:
		m.up(now, e)
	case DialFailed:
		switch {
		case e.ID == m.home.id && m.home.phase == dialing:
			m.hub(m.home.host).hold = m.home.tls
			m.homeFailed(now, e)
		case e.ID == m.side.id && m.side.phase == dialing:
			m.hub(m.side.host).hold = m.side.tls
			m.sideFailed(now, e)
		}
	case Lost:
		switch {
		case e.ID == m.home.id && m.home.phase == up:
			m.homeLost(now, e)
		case e.ID == m.side.id && m.side.phase == up:
			m.sideLost(now, e)
		}
	case Assigned:
		if e.ID == m.dps.id && m.dps.phase == dialing {
			m.assigned(now, e)
		}
	case RegisterFailed:
		if e.ID == m.dps.id && m.dps.phase == dialing {
			m.registerFailed(now, e)
		}
	case Tick:
		m.tick(now)
	}
	return m.out
}

func (m *Machine) tick(now time.Time) {
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if due(m.hedgeAt) {
		why := m.hedgeWhy
		m.hedgeAt = time.Time{}
		if r := m.rule(why, nil); r.Action == AskDPS {
			m.decided(r, m.home.host, nil, 0)
			m.ask(now)
		}
	}
	for _, a := range []*attempt{&m.home, &m.side} {
		if a.phase == waiting && due(a.at) {
			if a == &m.side {
				m.side = attempt{}
				m.trySide(now)
				continue
			}
			m.dial(now, a)
		}
	}
	if m.dps.phase == waiting && due(m.dps.at) {
		m.dps.phase = idle
		m.ask(now)
	}
	if due(m.held) {
		m.closeDPS()
	}
}

// up takes over a new link.
func (m *Machine) up(now time.Time, e Up) {
	switch {
	case e.ID == m.home.id && m.home.phase == dialing:
		m.home.phase, m.home.at, m.home.fresh, m.home.down = up, now, false, time.Time{}
		h := m.hub(m.home.host)
		h.took, h.hold, h.refusals = e.Took, false, 0
		m.hedgeAt, m.trouble = time.Time{}, time.Time{}
		m.calmDPS()
		m.dropSide(true)
		m.emit(Serve{ID: e.ID})
		m.keep(now)
	case e.ID == m.side.id && m.side.phase == dialing:
		m.side.phase, m.side.at, m.side.down = up, now, time.Time{}
		h := m.hub(m.side.host)
		h.took, h.hold, h.refusals = e.Took, false, 0
		m.sideRounds = 0
		m.trouble = time.Time{}
		m.emit(Serve{ID: e.ID, Provisional: true})
	}
}

// homeFailed is the end of an attempt on the assigned hub.
func (m *Machine) homeFailed(now time.Time, e DialFailed) {
	h := m.hub(m.home.host)
	host := m.home.host
	m.hedgeAt = time.Time{}
	r := m.rule(e.Signal, func(w When) bool {
		return w == First && !m.home.fresh || w == Pipelined && m.o.Pipeline == PipelineAuto && !h.sequential
	})
	if e.Signal == Connack5 {
		m.refused(host)
	}
	if e.ID == m.dps.named {
		m.stoodBy(now, m.dps.spoke)
	}
	if e.Signal != ClosedEarly {
		// In a fight the hub accepts each dial. It closes one early only if the other client
		// connects at that moment. Any other failure means that the hub is in trouble.
		m.fight = fight{}
	}
	switch r.Action {
	case Stop:
		return
	case Sequential:
		h.sequential = true // remembered if it works, see below
		m.decided(r, host, e.Err, 0)
		m.dial(now, &m.home)
		return
	case Renew:
		m.decided(r, host, e.Err, 0)
		m.dial(now, &m.home)
		return
	case FreshToken:
		m.home.fresh = true
		m.decided(r, host, e.Err, 0)
		m.ask(now)
		m.dial(now, &m.home)
		return
	default: // wait first
	}
	if h.sequential && !m.state.sequential(host) {
		h.sequential = false // the careful way failed as well, so the other way was not to blame
	}
	// Dials that DPS asked for stand beside the series of those that back off and leave it alone: else a hub that refuses for a second
	// while DPS stands by it would have to be waited for as after many.
	wait := m.home.at.Sub(now)
	switch {
	case e.Signal == DialRefused: // cuts short a longer wait that an earlier failure has left
		top := redial(h.refusals, now.Sub(m.home.down))
		if wait <= 0 || wait > top {
			wait = jitter(top, m.o.Rand)
			h.refusals++
		}
	case wait <= 0:
		wait = backoff(h.fails, m.o.Rand)
		h.fails++
	}
	m.decided(r, host, e.Err, wait)
	m.home.phase, m.home.at = waiting, now.Add(wait)
	if r.Action == BackOff {
		m.home.ask = true
		return
	}
	m.ask(now)
}

// homeLost is the end of the link to the assigned hub.
func (m *Machine) homeLost(now time.Time, e Lost) {
	h := m.hub(m.home.host)
	h.deaf = h.deaf || e.Signal == LinkUnacked
	m.trouble, m.home.down = now, now
	if e.Acked && now.Sub(m.home.at) >= stableAfter {
		h.fails = 0
	}
	signal := m.contest(now, e.Signal)
	r := m.rule(signal, func(w When) bool { return w == Fought && m.fight.named })
	switch {
	case r.Action == Stop:
		m.home.phase = idle
		return
	case r.Action == SlowDown:
		wait := max(0, fightEvery-now.Sub(m.home.at))
		m.emit(Decided{Decision{Rule: r, Host: m.home.host, Err: e.Err, Wait: wait, Anew: !m.fight.on}})
		m.fight.on = true
		m.home.phase, m.home.at, m.home.fresh = waiting, now.Add(wait), false
		return
	case r.Action == AskFirst && m.o.NoDPS: // nobody can be asked: dial once more, as after any loss
		m.fight.named = true
		r = m.rule(e.Signal, nil)
	case r.Action == AskFirst:
		m.decided(r, m.home.host, e.Err, askFirstWait)
		m.home.phase, m.home.at, m.home.fresh, m.home.contested = waiting, now.Add(askFirstWait), false, true
		m.ask(now)
		return
	}
	wait := time.Duration(0)
	if r.Action != Renew {
		if wait = m.quick.wait(now); !e.Acked {
			wait = backoff(h.fails, m.o.Rand)
		}
		m.quick.take(now.Add(wait))
		h.fails++
	}
	m.decided(r, m.home.host, e.Err, wait)
	m.home.fresh = false
	m.home.phase, m.home.at = waiting, now.Add(wait)
	if wait == 0 {
		m.dial(now, &m.home)
	}
	switch r.Action {
	case Reprovision, FreshToken, AskDPS:
		m.ask(now)
	case BackOff:
		m.home.ask = true
	default: // the dial alone, DPS after the hedge delay
		if wait == 0 && r.Action != Renew {
			m.openDPS(now)
		}
	}
}

// contest counts links in a row that the hub has closed in order soon after they were up. After
// maxStrikes it turns the signal into LinkContested: the device was moved, or another client uses
// its identity, and only DPS can tell which. A link that lived longer than strikeWithin ends the
// count and the slow mode; one that ended in another way, and not by plan, ends the count.
func (m *Machine) contest(now time.Time, s Signal) Signal {
	f := &m.fight
	if now.Sub(m.home.at) > strikeWithin {
		*f = fight{}
	}
	if s != LinkClosed && s != TokenRenewal && !f.on { // only a hub that is unwell does that
		*f = fight{}
	}
	if s != LinkClosed || now.Sub(m.home.at) > strikeWithin {
		return s
	}
	if f.strikes++; f.strikes < maxStrikes {
		return s
	}
	return LinkContested
}

// sideFailed is the end of an attempt on a known hub: the next one, or another round later.
func (m *Machine) sideFailed(now time.Time, e DialFailed) {
	host := m.side.host
	if e.Signal == Connack5 {
		m.refused(host)
	}
	r := m.rule(e.Signal, nil)
	m.decided(r, host, e.Err, 0)
	m.sideMind = m.sideMind || e.Signal != DialRefused
	m.side = attempt{}
	if r.Action != Stop {
		m.trySide(now)
	}
}

// sideLost is the end of a provisional link: everything is tried again.
func (m *Machine) sideLost(now time.Time, e Lost) {
	host := m.side.host
	m.side = attempt{}
	r := m.rule(e.Signal, nil)
	if r.Action == Stop {
		return
	}
	if r.Action == Renew {
		m.decided(r, host, e.Err, 0)
		m.side.host = host
		m.dial(now, &m.side)
		return
	}
	m.trouble = now
	m.decided(r, host, e.Err, 0)
	m.sideTried = map[string]bool{host: true}
	if m.home.phase == waiting {
		m.dial(now, &m.home)
	}
	m.ask(now)
	m.trySide(now)
}

// assigned takes DPS's answer, which is authoritative.
func (m *Machine) assigned(now time.Time, e Assigned) {
	d := &m.dps
	d.phase, d.fails, d.silent, d.since, d.cannotHelp = idle, 0, 0, time.Time{}, false
	d.notBefore, d.spoke = time.Time{}, now
	m.pardoned()
	m.know(now, e)
	if m.side.phase != up && m.side.host != e.Hub {
		m.dropSide(false)
	}
	switch {
	case m.side.phase != idle && m.side.host == e.Hub: // the provisional hub is the right one
		m.decided(m.rule(AssignedDialling, nil), e.Hub, nil, 0)
		m.fight = fight{} // the evidence was about the previous hub
		if m.home.phase == dialing {
			m.emit(GiveUp{m.home.id})
		}
		m.home, m.side = m.side, attempt{}
		m.hedgeAt = time.Time{}
		if m.home.phase == up {
			m.emit(Serve{ID: m.home.id})
			m.keep(now)
		}
	case m.home.host == e.Hub && m.home.phase == dialing:
		r := m.rule(AssignedDialling, nil)
		m.decided(r, e.Hub, nil, 0)
		if r.Action == Move { // not in our table; but a table is obeyed
			m.emit(GiveUp{m.home.id})
			m.dial(now, &m.home)
		}
		d.named = m.home.id
	case m.home.host == e.Hub && m.home.phase == up: // the link was faster
	case m.home.host == e.Hub && m.home.contested:
		// Fewer strikes mean that another failure has reset the count while DPS was asked.
		m.home.contested, m.fight.named = false, m.fight.strikes >= maxStrikes
		r := m.rule(AssignedContested, nil)
		m.decided(r, e.Hub, nil, 0)
		if r.Action == DialNow {
			m.dial(now, &m.home)
		}
	case m.home.host == e.Hub:
		m.stoodBy(now, now)
		r := m.rule(AssignedFailing, nil)
		m.decided(r, e.Hub, nil, 0)
		if r.Action == DialNow {
			m.dial(now, &m.home)
		}
	default:
		d.stale = 0
		m.fight = fight{} // the device was moved
		r := m.rule(AssignedOther, nil)
		m.decided(r, e.Hub, nil, 0)
		if r.Action != Move {
			return
		}
		if m.home.phase == dialing || m.home.phase == up {
			m.emit(GiveUp{m.home.id})
		}
		m.home = attempt{host: e.Hub}
		m.dial(now, &m.home)
		d.named = m.home.id
	}
}

// stoodBy spaces the questions to a DPS that stands by a hub that does not work: asked again at once it would only say so again.
func (m *Machine) stoodBy(now, spoke time.Time) {
	m.dps.stale++
	top := staleSpacing << min(m.dps.stale, 8)
	limit := staleFirstMin
	if !m.trouble.IsZero() && now.Sub(m.trouble) > time.Minute {
		limit = backoffMax
	}
	m.dps.notBefore = spoke.Add(spread(min(top, limit), m.o.Rand))
}

// registerFailed is a registration without an answer.
func (m *Machine) registerFailed(now time.Time, e RegisterFailed) {
	d := &m.dps
	d.phase = idle
	if !e.Counted {
		m.budget.giveBack()
	}
	r := m.rule(e.Signal, nil)
	var wait time.Duration
	d.cannotHelp = false
	if e.Signal != DPSSilent {
		d.silent = 0
	}
	if e.Signal != DPSUnreachable && e.Signal != DPSSilent {
		d.since = time.Time{}
	} else {
		m.fight = fight{} // DPS is out of reach too, so this is no fight
	}
	if r.Action != Stop && r.Action != RetryDPS && m.state.RefusedSince.IsZero() {
		m.state.RefusedSince = now
		defer m.emit(Save{}) // the last effect, because a disk may be slow
	}
	refused := now.Sub(m.state.RefusedSince)
	said := e.RetryAfter >= 0
	switch r.Action {
	case Stop:
		return
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
		wait = dpsRetry(now.Sub(d.since), m.o.Rand)
		d.cannotHelp = true
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
		d.cannotHelp = r.Action == BackOffKnown
	}
	if said && r.Action != RetryDPS {
		wait = e.RetryAfter
	}
	d.notBefore = now.Add(wait)
	m.decided(r, "", e.Err, wait)
	m.ask(now)
	if d.cannotHelp {
		m.trySide(now)
	} else if m.side.phase != up {
		m.dropSide(false)
	}
}

// ask sees to it that DPS is asked: now, or as soon as its own word, the backoff and the budget allow.
func (m *Machine) ask(now time.Time) {
	d := &m.dps
	if m.o.NoDPS || d.phase == dialing || m.home.phase == up {
		return
	}
	at := now
	if d.notBefore.After(at) {
		at = d.notBefore
	}
	if w := m.budget.wait(now); w > 0 {
		// A fleet that began together gets its registrations back together; chance keeps it from
		// asking together.
		if t := now.Add(w + jitter(budgetSpread, m.o.Rand)); t.After(at) {
			at = t
		}
	}
	if at.After(now) {
		d.phase, d.at = waiting, at
		return
	}
	m.budget.take(now)
	m.hedgeAt, m.held = time.Time{}, time.Time{}
	m.lastID++
	d.phase, d.id = dialing, m.lastID
	m.emit(Register{ID: d.id, Patience: min(minPatience<<min(d.silent, 4), maxPatience),
		Sequential: m.o.Pipeline == PipelineOff || d.sequential})
}

// openDPS lets a registration that may follow find its connection open. Only what a registration could use at once is opened.
func (m *Machine) openDPS(now time.Time) {
	d := &m.dps
	if m.o.NoDPS || !m.held.IsZero() || d.phase != idle || d.notBefore.After(now) || m.budget.wait(now) > 0 || !m.ahead.take(now) {
		return
	}
	m.held = now.Add(aheadFor)
	m.emit(OpenDPS{})
}

func (m *Machine) closeDPS() {
	if !m.held.IsZero() {
		m.held = time.Time{}
		m.emit(CloseDPS{})
	}
}

// calmDPS ends what was under way there: the assigned hub has answered.
func (m *Machine) calmDPS() {
	d := &m.dps
	m.closeDPS()
	if d.phase == dialing {
		m.emit(CancelRegister{d.id})
	}
	d.phase, d.fails, d.silent, d.stale, d.since, d.cannotHelp = idle, 0, 0, 0, time.Time{}, false
	m.pardoned()
}

// resume continues the last run's waits: if DPS has refused the device for long, a restart must not
// begin again with short ones.
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

// pardoned forgets since when DPS has refused the device. keep saves that with the next link.
func (m *Machine) pardoned() {
	if !m.state.RefusedSince.IsZero() {
		m.state.RefusedSince, m.unsaved = time.Time{}, true
	}
}

// dial starts a try on the way a.
func (m *Machine) dial(now time.Time, a *attempt) {
	m.lastID++
	a.phase, a.id, a.tls, a.contested = dialing, m.lastID, false, false
	if a.down.IsZero() {
		a.down = now
	}
	h, other := m.hub(a.host), &m.side
	if a == other {
		other = &m.home
	}
	careful := m.o.Pipeline == PipelineOff || m.o.Pipeline == PipelineAuto && h.sequential
	alone := other.phase != dialing && other.phase != up // else the messages wait until one of the two has won
	m.emit(Dial{ID: a.id, Host: a.host, DeviceID: m.state.deviceID(a.host), Sequential: careful, Early: alone && !careful && !h.hold && !h.deaf})
	if a != &m.home || m.o.NoDPS {
		return
	}
	if a.ask {
		a.ask = false
		m.ask(now)
	}
	if m.dps.phase == idle {
		hedge := m.o.HedgeDelay
		if hedge <= 0 {
			hedge = max(minHedge, 3*h.took)
		}
		m.hedgeAt, m.hedgeWhy = now.Add(hedge), NothingHeard
	}
}

// trySide tries the next known hub, one at a time, while DPS cannot help.
func (m *Machine) trySide(now time.Time) {
	if m.o.NoKnown || !m.dps.cannotHelp || m.side.phase != idle || m.home.phase == up {
		return
	}
	m.forgetOld(now)
	fresh := false // somebody is left to try, in this round or the next
	for _, k := range m.state.KnownHubs {
		if k.Host == m.home.host || k.Refused {
			continue
		}
		fresh = true
		if !m.sideTried[k.Host] {
			m.sideTried[k.Host] = true
			m.side = attempt{host: k.Host}
			m.dial(now, &m.side)
			return
		}
	}
	m.sideTried = map[string]bool{}
	if fresh {
		wait := backoff(m.sideRounds, m.o.Rand)
		if !m.sideMind { // all of them refused the dial
			wait = jitter(redial(m.sideRounds, now.Sub(m.trouble)), m.o.Rand)
		}
		m.side, m.sideMind = attempt{phase: waiting, at: now.Add(wait)}, false
		m.sideRounds++
	}
}

// dropSide ends the way to a known hub; in order if another link takes over from it.
func (m *Machine) dropSide(inOrder bool) {
	switch {
	case m.side.phase == up && inOrder:
		m.emit(Retire{m.side.id})
	case m.side.phase == up || m.side.phase == dialing:
		m.emit(GiveUp{m.side.id})
	}
	m.side, m.sideTried, m.sideRounds, m.sideMind = attempt{}, map[string]bool{}, 0, false
}

// know remembers that DPS assigned a hub.
func (m *Machine) know(now time.Time, e Assigned) {
	known := slices.DeleteFunc(m.state.KnownHubs, func(k KnownHub) bool { return k.Host == e.Hub })
	k := KnownHub{Host: e.Hub, DeviceID: e.DeviceID, AssignedAt: now, Sequential: m.state.sequential(e.Hub)}
	m.state.KnownHubs = append([]KnownHub{k}, known...)
	if len(m.state.KnownHubs) > maxKnown {
		m.state.KnownHubs = m.state.KnownHubs[:maxKnown]
	}
	m.state.Substatus = e.Substatus
	m.forgetOld(now)
}

func (m *Machine) forgetOld(now time.Time) {
	m.state.KnownHubs = slices.DeleteFunc(m.state.KnownHubs, func(k KnownHub) bool {
		return k.Host != m.home.host && now.Sub(k.AssignedAt) > maxKnownAge
	})
}

// refused notes a CONNACK 5: a hub that says so is not tried as a known hub until DPS assigns it again.
func (m *Machine) refused(host string) {
	for i := range m.state.KnownHubs {
		if k := &m.state.KnownHubs[i]; k.Host == host && !k.Refused {
			k.Refused = true
			m.emit(Save{})
		}
	}
}

// keep makes the hub that works the cached one.
func (m *Machine) keep(now time.Time) {
	s := &m.state
	changed := m.unsaved
	if s.AssignedHub != m.home.host {
		changed = true
		s.AssignedHub, s.DeviceID, s.AssignedAt = m.home.host, s.deviceID(m.home.host), now
	}
	for i := range s.KnownHubs {
		if k := &s.KnownHubs[i]; k.Host == m.home.host {
			seq := m.hub(k.Host).sequential
			changed = changed || k.Refused || k.Sequential != seq
			k.Refused, k.Sequential = false, seq
		}
	}
	if changed {
		m.unsaved = false
		m.emit(Save{})
	}
}

func (m *Machine) hub(host string) *hubMemory {
	h := m.hubs[host]
	if h == nil {
		h = &hubMemory{}
		m.hubs[host] = h
	}
	return h
}

func (m *Machine) rule(s Signal, holds func(When) bool) Rule {
	if holds == nil {
		holds = func(When) bool { return false }
	}
	return find(m.o.Table, s, holds)
}

func (m *Machine) emit(e Effect) { m.out = append(m.out, e) }

func (m *Machine) decided(r Rule, host string, err error, wait time.Duration) {
	m.emit(Decided{Decision{Rule: r, Host: host, Err: err, Wait: wait}})
}
