package clock

import (
	"context"
	"time"
)

// source is a server that is asked for the time. All devices that would ask the same one share it,
// so that one question serves them all. Each source has its own pauses, because one that never
// answers must not keep devices from another one that does.
type source struct {
	whom       string        // its address; never changes
	turn       chan struct{} // held by the goroutine that asks; guards the next two
	unanswered int           // questions in a row
	told       bool          // that they are

	round uint64 // of looks in which somebody has begun to ask; Clock.watching guards it

	// Clock.mu guards these.
	users  int           // open devices
	asked  time.Duration // Running at the last question; 0: there was none
	urgent time.Duration // Running before which nobody asks
	casual time.Duration // and nobody without a reason
	fails  int           // questions without an answer, in a row
}

func newSource(whom string) *source { return &source{whom: whom, turn: make(chan struct{}, 1)} }

// openLocked lets the device share its source with others.
func (e *Epochs) openLocked() {
	k := e.Clock
	if k.sources == nil {
		k.sources = map[string]*source{}
	}
	if shared := k.sources[e.source.whom]; shared != nil {
		e.source = shared
	}
	k.sources[e.source.whom] = e.source
	e.source.users++
}

// closeLocked takes that back.
func (e *Epochs) closeLocked() {
	if e.source.users--; e.source.users <= 0 {
		delete(e.sources, e.source.whom)
	}
}

// Ask asks the cloud for the time, unless the time is known or the same source was asked just now.
// ask puts the question, and hears the answer. reason says that something has failed as with a
// wrong clock.
//
// If ask fails, complain is called, once until ask works. Without a reason, two conditions must
// hold too. It is the second failure in a row, because a failover may hit DPS for a moment. And
// something speaks against the system clock, because many networks close that port and most clocks
// are right.
func (e *Epochs) Ask(ctx context.Context, reason bool, ask func(context.Context) error, complain func(error)) {
	s := e.source
	select { // a second caller gets the answer to the first one's question
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-s.turn }()
	if !e.due(reason) {
		return
	}
	err := ask(ctx)
	switch {
	case err == nil:
		s.unanswered, s.told = 0, false
		return
	case ctx.Err() != nil:
		return
	}
	if s.unanswered++; !s.told && (reason || s.unanswered > 1 && e.suspect()) {
		s.told = true
		complain(err)
	}
}

// Wanted reports at a look whether the cloud should be asked for the time, although there is no
// reason to doubt it.
func (e *Epochs) Wanted(r *Round) bool {
	r.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wantedLocked(false, r.running)
}

// wantedLocked reports whether the cloud should be asked for the time. Without a reason to doubt
// the time, it should be asked only if it has never answered, or if the system clock was set since.
// With such a reason it should be asked again, because its answer may have been wrong.
func (e *Epochs) wantedLocked(reason bool, running time.Duration) bool {
	k, s := e.Clock, e.source
	ago := running - k.heard
	stale := k.astray && ago >= askAgain || reason && ago >= doubtAgain
	known := !k.truth.IsZero() && !k.doubt && !stale
	return !known && running >= s.urgent && (reason || running >= s.casual || s.asked < k.anew)
}

// due says whether to ask; the caller then asks.
func (e *Epochs) due(reason bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, running := e.lookLocked()
	if !e.wantedLocked(reason, running) {
		return false
	}
	s := e.source
	if s.asked < e.anew {
		s.fails = 0
	}
	s.asked, s.urgent, s.casual = running, running+askEvery, running+min(firstAsk<<min(s.fails, 10), maxAskWait)
	s.fails++
	return true
}
