package device

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

// following keeps both sides of the twin equal while a link is served. Its goroutine runs only when
// there is something to do: at the beginning, for changes of desired properties, and when a
// reported property is due.
type following struct {
	w       *duty
	whole   bool  // the document was read on this link, and every change since was dealt with
	version int64 // of the desired properties that were dealt with

	mu      sync.Mutex
	running bool // the goroutine runs, or ends after the next look at the fields below
	changes bool // changes of desired properties may wait at the link
	due     bool // a reported property may be due
	ended   bool
	timer   *time.Timer // of the next reported property; nil: none was ever due
}

// wake lets the goroutine run. changes says that changes of desired properties wait.
func (f *following) wake(changes bool) {
	f.mu.Lock()
	f.changes = f.changes || changes
	start := !f.running
	f.running = true
	f.mu.Unlock()
	if start {
		f.w.start("twin", f.serve)
	}
}

// tick is called when a reported property is due.
func (f *following) tick() {
	f.mu.Lock()
	f.due = true
	f.mu.Unlock()
	f.wake(false)
}

// stop ends the timer.
func (f *following) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	if f.timer != nil {
		f.timer.Stop()
	}
}

// next says what there is to do. If there is nothing, the goroutine must end.
func (f *following) next() (changes, due, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changes, due = f.changes, f.due
	f.changes, f.due = false, false
	if more = changes || due; more {
		return changes, due, more
	}
	f.running, f.whole = false, true
	left := f.w.d.twin.untilDue()
	switch {
	case f.ended || left >= never/2:
	case f.timer == nil:
		f.timer = f.w.d.after(left, "twin", f.tick)
	default:
		f.timer.Reset(left)
	}
	return false, false, false
}

// serve does what there is to do. After an error that does not end the link it reads the document
// again, after a pause: the error stops the twin only.
func (f *following) serve(ctx context.Context) error {
	for told := ""; ; {
		err := f.follow(ctx)
		if err == nil {
			return nil
		}
		if _, ended := errors.AsType[*hub.Error](err); ended || ctx.Err() != nil {
			return err
		}
		if text := fmt.Sprintf("the twin: %s; everything else goes on", plain.Line(err.Error(), maxBugText)); text != told {
			told = text
			f.w.d.warn(f.w.l.Host(), text)
		}
		if err := pause(ctx, twinRetryMax); err != nil {
			return err
		}
	}
}

// follow makes both sides equal, and then deals with the changes of both until there is none.
func (f *following) follow(ctx context.Context) (err error) {
	t, l := &f.w.d.twin, f.w.l.Link
	whole := f.whole
	f.whole = false // until it is so again
	if !whole {
		if f.version, err = t.reconcile(ctx, l, 0); err != nil {
			return err
		}
		t.schedule()
		f.mu.Lock()
		f.changes = true // the link tells of the next one only when all were taken
		f.mu.Unlock()
	}
	for {
		changes, due, more := f.next()
		if !more {
			return nil
		}
		if changes {
			if err := f.takeChanges(ctx); err != nil {
				return err
			}
		}
		if due {
			if err := t.reportDue(ctx, l); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// takeChanges deals with the changes that wait at the link, and with those that come meanwhile. It
// reads the document at most once for all of them.
func (f *following) takeChanges(ctx context.Context) (err error) {
	t, l := &f.w.d.twin, f.w.l.Link
	missed, ask := false, false
	for all := l.TakeDesired(); all != nil; all = l.TakeDesired() {
		for _, c := range all {
			switch {
			case !c.Missed && c.Version != 0 && c.Version <= f.version: // the document contained this change already
			case missed || c.Missed || c.Version != f.version+1: // a change was missed, or the hub counts anew: read the document
				missed = true
			default:
				f.version = c.Version
				more, err := t.change(ctx, l, c)
				if err != nil {
					return err
				}
				ask = ask || more
			}
		}
	}
	if missed {
		f.version = 0
	}
	if missed || ask {
		f.version, err = t.reconcile(ctx, l, f.version)
	}
	return err
}
