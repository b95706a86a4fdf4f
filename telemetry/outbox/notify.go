package outbox

import (
	"context"
	"slices"
	"time"
)

// Watch is a reader that waits for a record in one of some parts. A reader keeps one and uses it
// again and again, so that a wait costs no memory.
type Watch struct {
	// Wake is called without a lock of the box, by the goroutine that appended or by that of a
	// timer. It must not block. It is set once.
	Wake func()

	// The box's own; Box.mu guards them:
	parts []Part
	room  [2]Part     // of parts, which are seldom more
	timer *time.Timer // looks again when something is to be tried again; nil: nothing is
}

// Watch calls w.Wake once, as soon as one of the parts has a record to read, or the box is closed.
// It may be called before Watch returns. If w waits already, it waits for these parts from now on.
// Read may still find that the record is damaged, too old, or cannot be read now; after that, the
// next Watch waits until it is time to try again.
func (b *Box) Watch(w *Watch, parts ...Part) {
	b.mu.Lock()
	b.unwatch(slices.Index(b.watches, w))
	w.parts = append(w.room[:0], parts...)
	b.watches = append(b.watches, w)
	b.rouse(len(b.watches) - 1)
	b.mu.Unlock()
	b.report()
}

// Unwatch takes back a Watch. It returns false if Wake has been called or is about to be.
func (b *Box) Unwatch(w *Watch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unwatch(slices.Index(b.watches, w))
}

// Wait waits as long as Watch does, and tries a failed disk again first. It returns ctx.Err() when
// ctx ends first, and ErrClosed after Close.
func (b *Box) Wait(ctx context.Context, parts ...Part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer b.report()
	b.mu.Lock()
	b.regainIfDue()
	b.unpark()
	_, isReady, _ := b.firstOf(parts)
	isReady = isReady && !b.closed
	b.mu.Unlock()
	if isReady {
		return nil
	}
	ready := make(chan struct{})
	w := &Watch{Wake: func() { close(ready) }}
	b.Watch(w, parts...)
	select {
	case <-ready:
	case <-ctx.Done():
		b.Unwatch(w)
		return ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	return nil
}

// rouse lets the watches from the n-th on be called that have something to read now, and sees to it
// that the others look again when they should. It is called after each change that lets a reader
// find more, or find it at another time. b.mu is held.
func (b *Box) rouse(n int) {
	for i := len(b.watches) - 1; i >= n; i-- {
		w := b.watches[i]
		_, ok, again := b.firstOf(w.parts)
		if ok || b.closed {
			b.unwatch(i)
			b.wakes = append(b.wakes, w.Wake)
			b.news.Store(true)
			continue
		}
		if again = b.nextTry(again); w.timer == nil && !again.IsZero() {
			pause := time.Until(again)
			if b.leading { // somebody tries it just now, perhaps, and a disk may take its time
				pause = max(pause, firstPause)
			}
			b.timers.Add(1)
			w.timer = time.AfterFunc(pause, func() { b.tryAgain(w) })
		}
	}
}

// nextTry returns when a reader that finds nothing should look again: at again, unless the disk or
// the quarantine is tried again sooner. Zero times are never. b.mu is held.
func (b *Box) nextTry(again time.Time) time.Time {
	if b.off != nil && (again.IsZero() || b.retryAt.Before(again)) {
		again = b.retryAt
	}
	if len(b.parked) > 0 && (again.IsZero() || b.parkedUntil.Before(again)) {
		again = b.parkedUntil
	}
	return again
}

// unwatch takes the i-th watch out; below 0 there is none. b.mu is held.
func (b *Box) unwatch(i int) bool {
	if i < 0 {
		return false
	}
	if t := b.watches[i].timer; t != nil && t.Stop() {
		b.timers.Done()
	}
	b.watches = slices.Delete(b.watches, i, i+1)
	return true
}

// tryAgain tries what could not be done before: without appends nobody else tries the disk again.
func (b *Box) tryAgain(w *Watch) {
	defer b.timers.Done() // last, so that nothing is reported after Close
	defer b.report()
	b.mu.Lock()
	defer b.mu.Unlock()
	w.timer = nil
	b.regainIfDue()
	b.unpark()
	if i := slices.Index(b.watches, w); i >= 0 {
		b.rouse(i)
	}
}

// callReaders calls those who may go on. No lock is held.
func (b *Box) callReaders() {
	b.mu.Lock()
	wakes := b.wakes
	b.wakes = nil
	b.mu.Unlock()
	for _, wake := range wakes {
		wake()
	}
}
