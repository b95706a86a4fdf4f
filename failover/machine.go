package failover

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Options set how a machine behaves. The zero value is the default behaviour.
type Options struct {
	// HedgeDelay is how long a dial may be slow before DPS is asked too. 0 stands for the larger of
	// 250 ms and three times this hub's last dial that worked.
	HedgeDelay time.Duration
	NoKnown    bool // --known-hubs=false
	NoDPS      bool // one pinned hub
	Pipeline   Pipeline
	Table      []Rule // nil = Rules
	Rand       *rand.Rand
}

// Validate returns an error for each option that is out of its bounds. The text begins with the
// option's name as it is spelled on the command line.
func (o Options) Validate() error {
	if o.HedgeDelay < 0 {
		return fmt.Errorf("hedge-delay must not be negative, it is %v", o.HedgeDelay)
	}
	return nil
}

// Pipeline says how CONNECT and what follows it are sent.
type Pipeline string

// The ways: in one write, one by one, or in one write until a hub has shown that it minds.
const (
	PipelineAuto Pipeline = "auto"
	PipelineOn   Pipeline = "on"
	PipelineOff  Pipeline = "off"
)

// Machine decides. It is a function from events to effects: the same events at the same times with
// the same chance give the same effects. It is not safe for concurrent use; a [Session] owns it.
//
// There are two ways to a link. home is the way to the hub that DPS named last (or to the cached
// one). side is the way to a known hub; it is tried only while DPS cannot help. Registrations run
// beside both. Exactly one link is served; a link to home always takes over from one to side.
type Machine struct {
	o       *Options
	state   State
	unsaved bool // state has a change that the next Save will keep
	lastID  int
	hubs    []*hubMemory
	home    homeWay
	side    sideWay
	dps     registrations
	fight   fight
	trouble time.Time // since when there has been no link; zero: there is one
	out     []Effect
}

// NewMachine returns a machine that knows what the last run left.
func NewMachine(o Options, cached State) *Machine { return newMachine(&o, cached) }

// newMachine keeps o, and puts the defaults into it.
func newMachine(o *Options, cached State) *Machine {
	if o.Table == nil {
		o.Table = Rules
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if o.Pipeline == "" {
		o.Pipeline = PipelineAuto
	}
	m := &Machine{o: o, state: cached, dps: newRegistrations()}
	m.home.quick = budget{allowed: &quickAllowed}
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
	consider(m.home.hedgeAt)
	consider(m.dps.heldUntil)
	if m.home.phase == waiting {
		consider(m.home.at)
	}
	if m.side.phase == waiting {
		consider(m.side.at)
	}
	if m.dps.phase == planned {
		consider(m.dps.at)
	}
	return next
}

// Step takes one event and returns what is to be done. It ignores events of attempts, links and
// registrations that the machine has given up.
func (m *Machine) Step(now time.Time, e Event) []Effect {
	m.out = nil
	switch e := e.(type) {
	case Start:
		m.start(now)
	case TLSUp:
		switch {
		case m.home.dials(e.ID):
			m.home.tlsUp(now)
		case m.side.dials(e.ID):
			m.side.tls = true
		}
	case Up:
		switch {
		case m.home.dials(e.ID):
			m.homeUp(now, e)
		case m.side.dials(e.ID):
			m.sideUp(now, e)
		}
	case DialFailed:
		switch {
		case m.home.dials(e.ID):
			m.homeFailed(now, e)
		case m.side.dials(e.ID):
			m.sideFailed(now, e)
		}
	case Lost:
		switch {
		case m.home.linked(e.ID):
			m.homeLost(now, e)
		case m.side.linked(e.ID):
			m.sideLost(now, e)
		}
	case Assigned:
		if m.dps.asks(e.ID) {
			m.assigned(now, e)
		}
	case RegisterFailed:
		if m.dps.asks(e.ID) {
			m.registerFailed(now, e)
		}
	case Tick:
		m.tick(now)
	}
	out := m.out
	m.out = nil
	return out
}

func (m *Machine) start(now time.Time) {
	m.trouble = now
	m.resume(now)
	if m.state.AssignedHub == "" {
		m.ask(now)
		return
	}
	m.home.settleOn(attempt{host: m.state.AssignedHub})
	m.dialHome(now)
}

// tick does what is due.
func (m *Machine) tick(now time.Time) {
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if due(m.home.hedgeAt) {
		m.askedLate(now)
	}
	if m.home.phase == waiting && due(m.home.at) {
		m.dialHome(now)
	}
	if m.side.phase == waiting && due(m.side.at) {
		m.nextRound(now)
	}
	if m.dps.phase == planned && due(m.dps.at) {
		m.dps.rest()
		m.ask(now)
	}
	if due(m.dps.heldUntil) {
		m.closeDPS()
	}
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
