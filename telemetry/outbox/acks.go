package outbox

import (
	"slices"
	"sort"
)

// span is a run of places in the line, both ends included.
type span struct{ first, last uint64 }

// acks knows which places have left the line: all below the cursor, and a few spans above it. What it costs depends on how far out of
// order places leave, never on how many are queued.
type acks struct {
	cursor uint64
	spans  []span // ascending, neither overlapping nor adjacent, all above the cursor
	above  uint64 // places in spans
}

// maxSpans bounds how far out of order a drainer may acknowledge: 64 KiB of memory.
const maxSpans = 4096

// next returns the first place from pos on that has not left.
func (a *acks) next(pos uint64) uint64 {
	pos = max(pos, a.cursor)
	i := sort.Search(len(a.spans), func(i int) bool { return a.spans[i].last >= pos })
	if i < len(a.spans) && a.spans[i].first <= pos {
		return a.spans[i].last + 1
	}
	return pos
}

// whole says that all places of a segment have left.
func (a *acks) whole(s *segment) bool { return a.next(s.base) >= s.end }

func (a *acks) has(pos uint64) bool { return a.next(pos) != pos }

// open returns the parts of a span that have not left.
func (a *acks) open(s span) []span {
	var open []span
	for pos := a.next(s.first); pos <= s.last; {
		last := s.last
		i := sort.Search(len(a.spans), func(i int) bool { return a.spans[i].first > pos })
		if i < len(a.spans) {
			last = min(last, a.spans[i].first-1)
		}
		open = append(open, span{pos, last})
		pos = a.next(last + 1)
	}
	return open
}

// joins says that the place would not need a span of its own.
func (a *acks) joins(pos uint64) bool {
	return pos <= a.cursor || a.has(pos) || a.has(pos-1) || a.has(pos+1)
}

// add lets a span leave and returns how many places of it had not left before.
func (a *acks) add(s span) (fresh uint64) {
	s.first = max(s.first, a.cursor)
	if s.first > s.last {
		return 0
	}
	fresh = s.last - s.first + 1
	i := sort.Search(len(a.spans), func(i int) bool { return a.spans[i].last+1 >= s.first })
	j := i
	for ; j < len(a.spans) && a.spans[j].first <= s.last+1; j++ {
		old := a.spans[j]
		a.above -= old.last - old.first + 1
		if both := min(s.last, old.last) + 1; both > max(s.first, old.first) {
			fresh -= both - max(s.first, old.first)
		}
	}
	if j > i {
		s.first, s.last = min(s.first, a.spans[i].first), max(s.last, a.spans[j-1].last)
	}
	if s.first <= a.cursor {
		a.cursor = s.last + 1
		a.spans = slices.Delete(a.spans, i, j)
		return fresh
	}
	a.above += s.last - s.first + 1
	a.spans = slices.Replace(a.spans, i, j, s)
	return fresh
}
