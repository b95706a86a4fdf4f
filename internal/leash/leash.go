// Package leash has a context for what lives long and mostly rests. A context of the standard
// library keeps its channel and its list of children once it has had them. A leash keeps nothing
// while nobody works under it.
package leash

import (
	"context"
	"sync"
	"time"
)

// Leash is a context that its owner ends. The zero value has not ended. It must not be copied after
// its first use. Its methods may be called from any goroutine.
//
// Work under a leash should use [Under], because a leash whose Done was called keeps a channel.
type Leash struct {
	mu    sync.Mutex
	ended bool
	done  chan struct{}
	first *follower // what is called at the end
}

// follower is a function that is called at the end of a leash.
type follower struct {
	f            func()
	next, before *follower
}

// End ends the leash and all work under it. Work under it hears that before End returns. Only the
// first call counts.
func (l *Leash) End() {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.ended = true
	if l.done != nil {
		close(l.done)
	}
	first := l.first
	l.first = nil
	l.mu.Unlock()
	for f := first; f != nil; f = f.next {
		f.f()
	}
}

// Err returns [context.Canceled] when the leash has ended.
func (l *Leash) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return context.Canceled
	}
	return nil
}

// Done returns a channel that is closed when the leash ends.
func (l *Leash) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.ended {
			close(l.done)
		}
	}
	return l.done
}

// Deadline returns no time: a leash has none.
func (l *Leash) Deadline() (at time.Time, ok bool) { return at, false }

// Value returns nil: a leash carries no values.
func (l *Leash) Value(any) any { return nil }

// AfterFunc calls f when the leash ends, at once if it has ended. f must not block. stop keeps f
// from being called, and reports whether it has. Package context uses this method, so that a
// context below a leash needs no goroutine.
func (l *Leash) AfterFunc(f func()) (stop func() bool) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		f()
		return func() bool { return false }
	}
	defer l.mu.Unlock()
	one := &follower{f: f, next: l.first}
	if l.first != nil {
		l.first.before = one
	}
	l.first = one
	return func() bool { return l.drop(one) }
}

// drop forgets a follower. It returns false if the follower was called or dropped before.
func (l *Leash) drop(one *follower) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended || l.first != one && one.before == nil:
		return false
	case one.before == nil:
		l.first = one.next
	default:
		one.before.next = one.next
	}
	if one.next != nil {
		one.next.before = one.before
	}
	one.next, one.before = nil, nil
	return true
}

// Under returns a context for work under parent. cancel ends it, and must be called. If parent is a
// leash, nothing of the context is left behind then.
func Under(parent context.Context) (ctx context.Context, cancel context.CancelFunc) {
	l, ok := parent.(*Leash)
	if !ok {
		return context.WithCancel(parent)
	}
	ctx, end := context.WithCancel(context.Background())
	stop := l.AfterFunc(end)
	return ctx, func() { stop(); end() }
}
