package failover

import (
	"sync/atomic"
	"time"
)

// beat is what the loop of a session says of itself.
type beat struct {
	busy atomic.Pointer[time.Time] // nil: the loop rests
	due  atomic.Pointer[time.Time] // nil: it waits for no time
}

// begin says that the loop works from now on.
func (b *beat) begin() {
	now := time.Now()
	b.busy.Store(&now)
}

// rest says that the loop waits on purpose.
func (b *beat) rest() { b.busy.Store(nil) }

// plan says when the loop wants to go on by itself; zero for never.
func (b *beat) plan(next time.Time) {
	if next.IsZero() {
		b.due.Store(nil)
	} else {
		b.due.Store(&next)
	}
}

// Beat returns since when the loop of the session deals with one event, zero if it rests, and when
// it wants to go on by itself, zero if it waits for something to happen. A write of the state to a
// disk counts as rest: the loop waits for the disk.
func (s *Session[L]) Beat() (busy, due time.Time) {
	if t := s.beat.busy.Load(); t != nil {
		busy = *t
	}
	if t := s.beat.due.Load(); t != nil {
		due = *t
	}
	return busy, due
}
