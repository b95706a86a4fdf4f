package mqtt

import "time"

// How often messages are sent decides how soon a silent session is tested. If a message comes every
// few seconds, the session is tested soon after the peer was last heard, so that a broken path does
// not hold up many messages. If messages are rare, the keep-alive tests the session, because a
// device on a battery, or one that pays for each byte, should send nothing more.
const (
	// Longest time between two messages of a steady session: 15 s, and a little for late ones.
	steadyWithin = 16 * time.Second
	steadyPing   = 2 * time.Second // after the last packet of the peer
	sameBatch    = time.Second     // messages so soon after each other count as one
	paceMemory   = 8               // times between messages that are remembered
)

// Pace is a measure of how often messages are sent with QoS 1. It is measured because a configured
// interval says nothing about lines on standard input.
type Pace struct {
	gaps [paceMemory]time.Duration // between messages, the latest ones
	n    int                       // gaps taken so far
	last time.Time                 // when a message was last sent on this session; zero: never
}

// Measured reports whether at least two messages were sent.
func (p *Pace) Measured() bool { return p.n > 0 }

// sent notes that a message was sent.
func (p *Pace) sent(now time.Time) {
	switch gap := now.Sub(p.last); {
	case p.last.IsZero():
	case gap < sameBatch:
		return
	default:
		p.gaps[p.n%paceMemory] = gap
		p.n++
	}
	p.last = now
}

// steady reports whether messages have been sent steadily until now. since is when the session
// began.
func (p *Pace) steady(now, since time.Time) bool {
	if p.last.After(since) {
		since = p.last
	}
	longest := now.Sub(since)
	for _, gap := range p.gaps[:min(p.n, paceMemory)] {
		longest = max(longest, gap)
	}
	return p.n > 0 && longest <= steadyWithin
}

// next returns the pace for the next session. It leaves out the time between the sessions, in which
// nothing is sent.
func (p *Pace) next() Pace { return Pace{gaps: p.gaps, n: p.n} }
