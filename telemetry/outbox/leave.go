package outbox

import (
	"fmt"
	"slices"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// maxSpans bounds how far out of order a drainer may acknowledge: 64 KiB of memory.
const maxSpans = 4096

// Ack takes records that have arrived out of the line for good, by their positions. The order does
// not matter, and a position that has left already is passed over. When Ack returns, the
// acknowledgements survive the process; they are synced within a second. A position that was never
// in the line is an error, and so is one that is too far out of order to be remembered. The other
// positions of the call leave all the same.
func (b *Box) Ack(positions ...uint64) error {
	defer b.report()
	b.lockCursor()
	defer b.unlockCursor()
	b.mu.Lock()
	var failed error
	before := b.acked
	for i := 0; i < len(positions); {
		run := runs.Of(positions[i], positions[i])
		for i++; i < len(positions) && positions[i] == run.Last+1; i++ {
			run.Last++
		}
		if err := b.ackRun(run); err != nil && failed == nil {
			failed = err
		}
	}
	changed := b.acked > before
	b.mu.Unlock()
	if changed {
		b.saveSoon()
	}
	return failed
}

// ackRun lets a run of positions leave because their records arrived. b.mu is held.
func (b *Box) ackRun(run runs.Span) error {
	var failed error
	if run.Last >= b.next {
		failed = b.mayLeave(run.Last)
		run.Last = b.next - 1
	}
	for ; run.First <= run.Last; run.First++ {
		err := b.mayLeave(run.First)
		if err == nil {
			break
		}
		failed = err
	}
	if run.First > run.Last {
		return failed
	}
	if len(b.gaps) > 0 {
		for pos := run.First; pos <= run.Last; pos++ {
			if !b.acks.Has(pos) {
				b.gaps.told(pos)
			}
		}
	}
	b.acked += b.leave(run)
	return failed
}

// mayLeave returns an error if a caller may not name a position. b.mu is held.
func (b *Box) mayLeave(pos uint64) error {
	switch {
	case b.closed:
		return ErrClosed
	case pos == 0 || pos >= b.next:
		return fmt.Errorf("outbox: there is no record at place %d: the last one is at %d", pos, b.next-1)
	case len(b.acks.Spans) >= maxSpans && !b.acks.Joins(pos):
		return fmt.Errorf("outbox: the record at place %d cannot leave before older ones do: %d are missing in between", pos, maxSpans)
	}
	return nil
}

// leave takes positions out of the line, and wakes those who wait for that. It returns how many had
// not left before. b.mu is held.
func (b *Box) leave(s runs.Span) (fresh uint64) {
	before := b.oldest()
	fresh = b.acks.Add(s)
	if b.ring != nil {
		b.ring.popTo(min(b.acks.Next(b.ring.base), b.ring.end()))
		b.room.fire()
	}
	if b.oldest() != before || b.wholeIn(s) {
		b.room.fire()
	}
	if b.isEmpty() {
		b.empty.fire()
	}
	return fresh
}

// wholeIn says whether a segment that a span touches has no queued record any more. b.mu is held.
func (b *Box) wholeIn(s runs.Span) bool {
	for i := b.segmentIndex(s.First); i < len(b.segs) && b.segs[i].Base <= s.Last; i++ {
		if b.segs[i].isIn(&b.acks) {
			return true
		}
	}
	return false
}

// miss lets positions of one outbox id leave whose records did not arrive, and makes a gap of them.
// It returns how many had not left before, and the first and the last seq of those. b.mu is held.
func (b *Box) miss(id format.ID, firstSeq uint64, s runs.Span) (n, first, last uint64) {
	b.gaps.untold(s)
	for _, x := range b.acks.Open(s) {
		from, to := firstSeq+(x.First-s.First), firstSeq+(x.Last-s.First)
		b.gaps.add(id, from, to, b.isDead)
		if n == 0 {
			first = from
		}
		n, last = n+x.Count(), to
	}
	b.leave(s)
	return n, first, last
}

// isDead says that no record can come any more that could announce a gap. b.mu is held.
func (b *Box) isDead(g format.Gap) bool {
	if g.ID == b.id || b.ring != nil && g.ID == b.ring.id {
		return false
	}
	return !slices.ContainsFunc(b.segs, func(s *segment) bool {
		return s.ID == g.ID && s.end > b.acks.Cursor && s.end > s.Base && s.seqAt(s.end-1) > g.Last
	})
}

// drop lets positions leave by the policy. They belong to one segment, or to the ring. b.mu is
// held.
func (b *Box) drop(s runs.Span, why string) {
	id, seq := b.nameOf(s.First)
	n, first, last := b.miss(id, seq, s)
	if n == 0 {
		return
	}
	b.dropped += n
	b.problem(Problem{
		Kind: Dropped, ID: id.String(), First: first, Last: last, Messages: n,
		Text: fmt.Sprintf("%d of the oldest messages were dropped %s", n, why),
	})
}

// count returns how many records are in the line. b.mu is held.
func (b *Box) count() uint64 { return b.next + b.unsynced - b.acks.Cursor - b.acks.Above }
