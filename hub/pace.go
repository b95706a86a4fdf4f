package hub

import "time"

// How often telemetry is sent decides how soon a silent link is tested. If a sample comes every few
// seconds, the link is tested soon after the hub was last heard, so that a broken path does not
// hold up many samples. If samples are rare, the keep-alive tests the link, because a device on a
// battery, or one that pays for each byte, should send nothing more.
const (
	steadyWithin = 16 * time.Second // longest time between two samples of a steady link: 15 s, and a little for late ones
	steadyPing   = 2 * time.Second  // after the last packet of the hub
	sameBatch    = time.Second      // messages so soon after each other count as one sample
	paceMemory   = 8                // times between samples that are remembered
)

// pace measures how often a device sends telemetry. It is measured because the configured interval
// says nothing about lines on standard input.
type pace struct {
	gaps [paceMemory]time.Duration // between samples, the latest ones
	n    int                       // gaps taken so far
	last time.Time                 // when telemetry was last sent on this link; zero: never
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

// steady says whether telemetry has been sent steadily until now. since is when the link began.
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

// next returns the pace for the next link, without the time between the links, in which nothing is
// sent.
func (p *pace) next() pace { return pace{gaps: p.gaps, n: p.n} }
