package hub

import "time"

// Traffic says how the link does now: the smoothed time from a message to its acknowledgement, 0
// before the first; how many messages are in flight; and how many may be.
func (l *Link) Traffic() (rtt time.Duration, inFlight, window int) { return l.session.Traffic() }
