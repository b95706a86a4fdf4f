package hub

import "time"

// How often telemetry is sent decides how soon silence is looked for. Where a sample comes every few seconds a link is tested soon after
// it was heard last, so that a path that is gone does not cost the samples of many seconds. Where samples are rare, or none come, the
// keep-alive does that: a device on a battery, or one that pays for each byte, sends nothing of its own accord before.
const (
	steadyWithin = 16 * time.Second // between two samples, for a sample each 15 s that comes a little late
	steadyPing   = 2 * time.Second  // after the last packet of the hub
	sameBatch    = time.Second      // what is sent so soon after something else belongs to it
	paceMemory   = 8                // times between samples
)

// pace is what is known of how often a device sends telemetry. It is measured, because an interval that somebody has set says nothing of
// the lines that another program writes.
type pace struct {
	gaps [paceMemory]time.Duration // between samples, the latest ones
	n    int                       // of gaps that were ever taken
	last time.Time                 // when telemetry was sent on this link; zero: it was not
}

// sent notes telemetry.
func (p *pace) sent(now time.Time) {
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

// steady says that telemetry has come all the time lately, and is still coming; since is when the link began.
func (p *pace) steady(now, since time.Time) bool {
	if p.last.After(since) {
		since = p.last
	}
	longest := now.Sub(since)
	for _, gap := range p.gaps[:min(p.n, paceMemory)] {
		longest = max(longest, gap)
	}
	return p.n > 0 && longest <= steadyWithin
}

// next is the pace for a link that comes after this one: the time between them says nothing of it.
func (p *pace) next() pace { return pace{gaps: p.gaps, n: p.n} }
