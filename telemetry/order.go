package telemetry

import "github.com/hubhop-iot/hubhop/telemetry/outbox"

// Order is which records a drain sends first.
type Order int

// The orders.
const (
	FIFO Order = iota // the oldest
	// FreshFirst sends two kinds of records first: those that are made while the link is up, and
	// the newest few of those that waited. The others, the backlog, get the rest of the window.
	// Each of the two streams keeps its order.
	FreshFirst
)

// streams is how far a drain has come: in the whole line, or in two parts of it.
type streams struct {
	backlog uint64 // the last position sent of the backlog, or of the whole line
	fresh   uint64 // the last position sent of the fresh ones
	split   uint64 // the first position that is fresh; 0: there is but one stream
}

// freshFirst splits the line behind a position; 0: not at all.
func freshFirst(behind uint64) streams {
	if behind == 0 {
		return streams{}
	}
	return streams{fresh: behind, split: behind + 1}
}

func (s *streams) isBacklog(pos uint64) bool { return pos < s.split }

// parts are where the next records come from, the first that has some.
func (s *streams) parts(into *[2]outbox.Part) []outbox.Part {
	if s.split == 0 {
		return append(into[:0], outbox.Part{After: s.backlog})
	}
	return append(into[:0], outbox.Part{After: s.fresh}, outbox.Part{After: s.backlog, Until: s.split})
}

func (s *streams) passed(pos uint64) {
	if s.split == 0 || s.isBacklog(pos) {
		s.backlog = pos
	} else {
		s.fresh = pos
	}
}
