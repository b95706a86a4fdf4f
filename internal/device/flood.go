package device

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// kind is what the events of a flood have in common.
type kind struct {
	most int                          // events that are told one by one in each span
	span time.Duration                // from the first event on
	rest func(n uint64) journal.Event // tells of n things that were not told one by one
}

// floods are the floods of a device. One is made when its first event comes.
type floods struct {
	emit func(journal.Event)

	counted atomic.Pointer[commandCounts] // nil: there was no command

	mu     sync.Mutex
	all    *flood // the newest
	closed bool
}

// tell emits an event that is about n things, or keeps their number for the end of the span.
func (f *floods) tell(k *kind, n uint64, e journal.Event) {
	f.count(&e)
	f.of(k).tell(n, e)
}

// of returns the flood of a kind.
func (f *floods) of(k *kind) *flood {
	f.mu.Lock()
	defer f.mu.Unlock()
	for one := f.all; one != nil; one = one.next {
		if one.kind == k {
			return one
		}
	}
	f.all = &flood{kind: k, emit: f.emit, closed: f.closed, next: f.all}
	return f.all
}

// close emits the sums that are left. From now on every event is emitted at once.
func (f *floods) close() {
	f.mu.Lock()
	f.closed = true
	var all []*flood
	for one := f.all; one != nil; one = one.next {
		all = append(all, one)
	}
	f.mu.Unlock()
	for _, one := range slices.Backward(all) {
		one.close()
	}
}

// flood lets the first events of a kind through and sums up the others, because thousands of events
// of one kind are one piece of news. Every event that it counts is in a sum that is emitted in the
// end.
type flood struct {
	*kind
	emit func(journal.Event)
	next *flood // in floods.all; set once

	mu     sync.Mutex
	timer  *time.Timer // nil: no span has begun
	told   int
	held   uint64
	closed bool
}

// tell emits an event that is about n things, or keeps their number for the end of the span.
func (f *flood) tell(n uint64, e journal.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		f.emit(e)
		return
	}
	if f.timer == nil {
		f.told, f.timer = 0, bulkheads{f.emit}.after(f.span, "events", f.end)
	}
	if f.told == f.most {
		f.held += n
		return
	}
	f.told++
	f.emit(e)
}

// end is the end of a span.
func (f *flood) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = nil
	f.sumUp()
}

// close emits the sums that are left. From now on every event is emitted at once.
func (f *flood) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	f.sumUp()
}

// sumUp is called with mu held, also to emit, so that nothing comes behind what follows close.
func (f *flood) sumUp() {
	if f.held > 0 {
		f.emit(f.rest(f.held))
		f.held = 0
	}
}
