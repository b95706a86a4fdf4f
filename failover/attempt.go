package failover

import "time"

// phase says what happens on a way to a hub.
type phase uint8

const (
	idle    phase = iota // nothing
	waiting              // it will be dialled at a given time
	dialing
	up // there is a link
)

// attempt is a way to a hub. It has at most one dial or link at a time. Its phase changes only in
// rest, waitUntil, dial and linkUp.
type attempt struct {
	phase phase
	id    int
	host  string
	// at is the time of the next dial (waiting), or the time when the link came up (up). While
	// dialing, a time in the future is that of a dial that this one has come ahead of: if this one
	// fails, the rest of that wait goes on.
	at  time.Time
	tls bool // dialing: TCP and TLS are through
	// down is when this way lost its link, or was first dialled. Zero: it has a link, or was never
	// dialled.
	down time.Time
}

// rest ends what happens on the way.
func (a *attempt) rest() { a.phase = idle }

// waitUntil plans the next dial.
func (a *attempt) waitUntil(at time.Time) { a.phase, a.at = waiting, at }

// dial begins a dial.
func (a *attempt) dial(now time.Time, id int) {
	a.phase, a.id, a.tls = dialing, id, false
	if a.down.IsZero() {
		a.down = now
	}
}

// linkUp makes the dial a link.
func (a *attempt) linkUp(now time.Time) { a.phase, a.at, a.down = up, now, time.Time{} }

// dials reports whether id is the dial that is under way.
func (a *attempt) dials(id int) bool { return a.phase == dialing && a.id == id }

// linked reports whether id is the link that is up.
func (a *attempt) linked(id int) bool { return a.phase == up && a.id == id }

// hubMemory is what a machine remembers of one hub until it stops.
type hubMemory struct {
	host       string
	fails      int           // failures in a row since a stable link, without refused dials
	refusals   int           // refused dials in a row
	took       time.Duration // the last dial that worked
	sequential bool          // the hub has only worked one packet at a time
	// hold: the last attempt came as far as TLS and no further. So the hub gets no messages before
	// it has accepted a session.
	hold bool
	// deaf: the hub has withheld a PUBACK for good. Perhaps it drops what comes before its CONNACK.
	// So it gets no messages before that any more.
	deaf bool
}

func (m *Machine) hub(host string) *hubMemory {
	for _, h := range m.hubs {
		if h.host == host {
			return h
		}
	}
	h := &hubMemory{host: host}
	m.hubs = append(m.hubs, h)
	return h
}

// dial starts a dial of the hub of a, which is the way home or the one aside.
func (m *Machine) dial(now time.Time, a *attempt) {
	m.lastID++
	a.dial(now, m.lastID)
	h, other := m.hub(a.host), &m.side.attempt
	if a == other {
		other = &m.home.attempt
	}
	careful := m.o.Pipeline == PipelineOff || m.o.Pipeline == PipelineAuto && h.sequential
	// With two ways under way, the messages wait until one of the two has won.
	alone := other.phase != dialing && other.phase != up
	m.emit(Dial{ID: a.id, Host: a.host, DeviceID: m.state.deviceID(a.host), Sequential: careful,
		Early: alone && !careful && !h.hold && !h.deaf})
}
