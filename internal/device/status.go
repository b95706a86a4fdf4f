package device

import (
	"errors"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// State says in one word how a device stands to its cloud.
type State string

// The states.
const (
	Connected   State = "connected"   // a link is at work
	Provisional State = "provisional" // a link to a known hub is at work, which DPS has not confirmed
	Connecting  State = "connecting"  // no link; a dial or a registration is under way
	Waiting     State = "waiting"     // no link; the next try has its time
	Refused     State = "refused"     // no link; the cloud refuses the device until a person acts
	Stopping    State = "stopping"    // the device is to stop
)

// Status is what a device looks like from outside. Counts are since the start.
type Status struct {
	Device      string
	State       State
	Started     time.Time // zero before Run
	Hub         string    // of the link that is up, else empty
	Provisional bool
	Since       time.Time // of the link, or of its loss; before the first link, of the start
	Why         *Why      // the last failure, also after the recovery; nil: there was none
	Also        string    // in an outage: the cause of the other one of hub and DPS, if that fails too; else empty
	NextTry     time.Time // zero: there is a link, or a try is under way

	Failovers    uint64 // how often a link came up on another hub than the one before
	LastFailover *Failover

	Registrations uint64    // that DPS has answered or counted; one that did not reach DPS is none
	AssignedAt    time.Time // when DPS last named a hub; zero: it has not
	StillNamed    string    // that hub, if it had failed since the last link and none has come up since; else empty

	Made        uint64 // samples made
	Skipped     uint64 // samples that were due and not made
	Bad         uint64 // inputs that were no samples
	Repeated    uint64 // messages that were sent once more
	PerSecond   float64
	Outbox      outbox.Stats
	OldestAge   time.Duration // of the sample that waits longest; 0: none waits
	OutboxBytes int64         // what the outbox may hold
	Commands    Commands

	RTT      time.Duration // from a message to its acknowledgement on the link that is up, smoothed
	InFlight int           // messages on that link without an acknowledgement
	Window   int           // how many there may be

	ClockTrusted bool
	ClockOffset  time.Duration // how far the device's time is ahead of the machine's clock

	// Expires is when the certificate ends, or the token of the link that is up; zero: not known.
	Expires time.Time

	Trouble []string // a sentence for each file of the state directory that cannot be read or written now; Outbox has the outbox's own
}

// Why says why there is no link, or why there was none the last time.
type Why struct {
	Rule     string // of the decision table
	Signal   string // what happened
	Action   string // what the device does about it
	Text     string // a sentence
	Cause    string // the part of it that says where it happened and what
	Hint     string // what a person can do
	Evidence string // the error as it came
	Person   bool   // it goes on until a person acts
	At       time.Time
}

// Failover is a change from one hub to another.
type Failover struct {
	From, To string
	Rule     string        // of the failure that began it; of the last decision if nothing had failed
	Took     time.Duration // from the loss of the old link to the new one; 0 if there was no gap
	At       time.Time     // when the new link was up
}

// standing is what the session has told of the device's way to its cloud. Device.mu guards it. What
// it points to never changes.
type standing struct {
	Hub         string // of the link at work
	Provisional bool
	down        bool // why is of this outage
	failed      bool // rule is of a failure
	refused     bool // DPS has refused the device until a person acts, and has not named a hub since
	failovers   uint32
	Since       time.Time
	started     moment

	last         string // the hub of the link before, or of this one
	why          *Why
	rule         string // of the last decision since the last link, or of the last failure of a hub
	stillNamed   string // the hub that DPS has named although it had failed since the last link
	ofHub, ofDPS string // the causes in this outage: of the hub that failed last, and of DPS until it names one
	lastFailover *Failover

	assigned      moment
	registrations uint32
}

// moment is a time in eight bytes; 0: there is none.
type moment int64

func (m *moment) set(t time.Time) { *m = moment(t.UnixNano()) }

func (m moment) time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(m))
}

// begin notes the start of a device.
func (s *standing) begin(d *Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Since = time.Now()
	s.started.set(s.Since)
}

// upLocked notes a link that is at work. It returns the hub before and the rule that began the move
// if the device has moved; else both are empty.
func (s *standing) upLocked(n failover.Note, now time.Time, outage time.Duration) (from, rule string) {
	if s.last != "" && s.last != n.Host {
		from, rule = s.last, s.rule
		s.failovers++
		s.lastFailover = &Failover{From: from, To: n.Host, Rule: rule, Took: outage, At: now}
	}
	s.Hub, s.last, s.Provisional, s.Since = n.Host, n.Host, n.Provisional, now
	s.rule, s.stillNamed, s.ofHub, s.ofDPS, s.failed, s.down, s.refused = "", "", "", "", false, false, false
	return from, rule
}

// decidedLocked notes a decision. e is the event that tells it.
func (s *standing) decidedLocked(n failover.Note, e *journal.Event, cause, hint string) {
	r := n.Decision.Rule
	isFailure := n.Err != nil && r.Signal != failover.TokenRenewal
	if isFailure && n.Host != "" || !s.failed {
		s.rule, s.failed = r.ID, isFailure
	}
	if !isFailure {
		return
	}
	if e, ok := errors.AsType[*dps.Error](n.Err); ok && n.Host == "" && e.Counted {
		s.registrations++
	}
	switch {
	case n.Host == "":
		s.refused, s.ofDPS = e.Person, cause
	case s.refused && !e.Person:
		return // the hubs refuse it too, and that is no news
	case !r.Signal.EndsLink(): // else the next dial shows whether the hub fails too
		s.ofHub = cause
	}
	s.down, s.why = true, &Why{Rule: r.ID, Signal: e.Signal, Action: e.Action, Text: e.Text, Cause: cause, Hint: hint, Evidence: n.Err.Error(), Person: e.Person, At: time.Now()}
}

// Status returns a snapshot. It may be called at any time, also before Run and after it. It waits
// for nobody, but for a moment for the disk.
func (d *Device) Status() Status {
	d.mu.Lock()
	st, box, home := d.standing, d.box, d.home
	d.mu.Unlock()
	s := Status{
		Device: d.id.DeviceID, Started: st.started.time(), Hub: st.Hub, Provisional: st.Provisional, Since: st.Since, Why: st.why,
		Failovers: uint64(st.failovers), LastFailover: st.lastFailover, Registrations: uint64(st.registrations), AssignedAt: st.assigned.time(), StillNamed: st.stillNamed,
		Made: d.counters.Made.Load(), Skipped: d.counters.Skipped.Load(), Bad: d.counters.Bad.Load(),
		Repeated: d.traffic.Repeated(), PerSecond: d.traffic.PerSecond(), OutboxBytes: d.c.Outbox.MaxBytes, Commands: d.floods.commands(),
	}
	if st.Hub == "" {
		s.NextTry = d.sleeping()
	}
	if s.Also = st.ofHub; st.why != nil && st.why.Cause == s.Also {
		s.Also = st.ofDPS
	}
	s.State = st.state(d.stopping.Load(), s.NextTry)
	if box != nil {
		s.Outbox = box.Stats()
		if s.Outbox.Queued > 0 {
			s.OldestAge = d.oldestAge(box, s.Outbox.Acked+gone(s.Outbox)+s.Outbox.Quarantined)
		}
	}
	if home != nil {
		s.Trouble = home.Trouble()
	}
	if l := d.serves(); l != nil && st.Hub != "" {
		s.RTT, s.InFlight, s.Window = l.Traffic()
		s.Expires = l.Expires()
	}
	if c := d.id.Certificate; c != nil && c.Leaf != nil {
		s.Expires = c.Leaf.NotAfter
	}
	s.ClockTrusted, s.ClockOffset = d.time.Trusted()
	return s
}

// state says in one word how the device stands.
func (s *standing) state(stopping bool, next time.Time) State {
	switch {
	case stopping:
		return Stopping
	case s.Hub != "" && s.Provisional:
		return Provisional
	case s.Hub != "":
		return Connected
	case s.down && s.why.Person:
		return Refused
	case !next.IsZero():
		return Waiting
	default:
		return Connecting
	}
}

// Beat is what a loop of the device says of itself.
type Beat struct {
	Loop string
	Busy time.Time // since when it works on one thing; zero: it rests
	Due  time.Time // when it wants to go on by itself, at rest; zero: when something happens
}

// Beats returns the beats of the device's loops. None of them turns by a timer of its own: a loop
// at rest waits on purpose, also for as long as an outage lasts. Beats takes no lock that a loop
// holds while it works.
func (d *Device) Beats() []Beat {
	beats := []Beat{
		{Loop: "samples", Due: d.shared.start().sampler.Due()},
		{Loop: "journal", Busy: d.shared.Journal.Busy()},
	}
	if s := d.current.Load(); s != nil {
		busy, due := s.Beat()
		beats = append(beats, Beat{Loop: "session", Busy: busy, Due: due})
	}
	return beats
}
