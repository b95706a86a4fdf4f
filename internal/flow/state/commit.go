package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

const (
	mostTogether = 1024    // bounds the requests of one commit
	mostBytes    = 1 << 20 // bounds their keys and values, but for the last one
	// closing is how long Close waits for a disk that does not answer.
	closing = 5 * time.Second
)

// request is one operation on its way: first what is asked, then the answer.
type request struct {
	kind  byte
	key   string
	value []byte
	set   SetOptions

	count   int
	version node.Time
	err     error
	done    chan struct{}
}

// line is where requests wait. While some do, one goroutine leads: it makes the changes of all that
// wait durable in one append, again and again, until nobody waits.
type line struct {
	mu      sync.Mutex
	waiting []*request
	led     bool
	ended   chan struct{} // made by close; closed when nobody leads any more
	stop    func()        // set by the leader: gives up the append under way
}

// do answers a request. It returns when the answer is durable, or when ctx ends. The caller may
// then write to the value again, although the request may still be under way.
func (s *Store) do(ctx context.Context, r *request) (count int, version node.Time, err error) {
	if r.key == "" {
		return 0, node.Time{}, ErrKeyLength
	}
	n := len(r.key) + len(r.value)
	if r.set.Fence != nil {
		n += len(r.set.Fence.Node)
	}
	if n > MaxEntry {
		return 0, node.Time{}, fmt.Errorf("%w: key, value and fencing token have %d bytes, the most is %d", ErrQuota, n, MaxEntry)
	}
	if r.set.At.Wall().After(time.Now().Add(skew)) {
		return 0, node.Time{}, ErrFuture
	}
	r.value = append([]byte{}, r.value...)
	r.done = make(chan struct{})
	if !s.line.enter(r, s.lead) {
		return 0, node.Time{}, ErrClosed
	}
	select {
	case <-r.done:
		return r.count, r.version, r.err
	case <-ctx.Done():
		s.line.leave(r)
		return 0, node.Time{}, ctx.Err()
	}
}

// enter lets a request wait, and starts a leader if there is none. It returns false after close.
func (l *line) enter(r *request, lead func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		return false
	}
	l.waiting = append(l.waiting, r)
	if !l.led {
		l.led = true
		go lead()
	}
	return true
}

// leave takes a request out, unless its commit is under way.
func (l *line) leave(r *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(w *request) bool { return w == r })
}

// next returns the requests of the next commit. Without one, nobody leads any more.
func (l *line) next() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, 0
	for n < len(l.waiting) && n < mostTogether && (n == 0 || bytes < mostBytes) {
		bytes += len(l.waiting[n].key) + len(l.waiting[n].value)
		n++
	}
	together := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	if n == 0 {
		l.led, l.waiting = false, nil
		if l.ended != nil {
			close(l.ended)
		}
	}
	return together
}

// close lets nobody enter any more, gives those who wait a moment to become durable, and returns
// when nobody leads.
func (l *line) close() {
	l.mu.Lock()
	if l.ended != nil {
		l.mu.Unlock()
		return
	}
	l.ended = make(chan struct{})
	led := l.led
	l.mu.Unlock()
	if !led {
		return
	}
	last := time.AfterFunc(closing, func() {
		l.mu.Lock()
		stop := l.stop
		l.mu.Unlock()
		stop()
	})
	defer last.Stop()
	<-l.ended
}

// lead makes requests durable until none waits.
func (s *Store) lead() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s.line.mu.Lock()
	s.line.stop = stop
	s.line.mu.Unlock()
	for {
		together := s.line.next()
		if len(together) == 0 {
			return
		}
		s.commit(ctx, together)
		s.shrink(ctx)
	}
}

// commit decides requests one after the other, appends their changes together, and publishes them.
func (s *Store) commit(ctx context.Context, together []*request) {
	now := time.Now()
	p := pending{store: s, now: now, changed: map[string]*entry{}, bytes: s.bytes}
	for _, r := range together {
		p.decide(r)
	}
	err := s.appendAll(ctx, p.changes)
	if err == nil {
		s.publish(&p)
	}
	for _, r := range together {
		if err != nil && r.err == nil {
			r.err, r.count = err, 0
		}
		close(r.done)
	}
}

// appendAll makes changes durable.
func (s *Store) appendAll(ctx context.Context, changes []change) error {
	if s.log == nil || len(changes) == 0 {
		return nil
	}
	ms := make([]message.Message, len(changes))
	for i := range changes {
		ms[i].Body = changes[i].append(nil)
	}
	err := s.log.AppendDurable(ctx, ms...)
	switch {
	case err == nil:
		first := s.log.Last() - uint64(len(changes)) + 1 // nobody else appends
		for i := range changes {
			changes[i].pos = first + uint64(i)
		}
		return nil
	case errors.Is(err, outbox.ErrClosed) || ctx.Err() != nil:
		return ErrClosed
	default:
		return fmt.Errorf("state store: %w", err)
	}
}

// publish shows durable changes to readers and watchers.
func (s *Store) publish(p *pending) {
	s.mu.Lock()
	for i := range p.changes {
		s.apply(&p.changes[i])
	}
	var watchers []*watcher
	for w := range s.watchers {
		watchers = append(watchers, w)
	}
	s.mu.Unlock()
	if len(watchers) == 0 {
		return
	}
	for i := range p.changes {
		c := &p.changes[i]
		for _, w := range watchers {
			if w.key == c.key {
				w.tell(Change{Key: c.key, Data: c.data, Deleted: c.kind == opDel, Version: c.version})
			}
		}
	}
}

// apply puts a change into memory. s.mu is held, or nobody else knows the store yet.
func (s *Store) apply(c *change) {
	if old := s.entries[c.key]; old != nil {
		s.bytes -= size(c.key, old)
	}
	if !c.version.Before(s.newest.version) {
		s.newest = change{kind: c.kind, key: c.key, version: c.version, pos: c.pos}
	}
	if c.kind == opDel {
		delete(s.entries, c.key)
		return
	}
	s.revision++
	e := &entry{data: c.data, version: c.version, fence: c.fence, expires: c.expires, revision: s.revision, pos: c.pos}
	s.entries[c.key] = e
	s.bytes += size(c.key, e)
}

// pending is what a commit has decided so far. Later requests of the same commit see it.
type pending struct {
	store   *Store
	now     time.Time
	changed map[string]*entry // nil: deleted
	changes []change
	bytes   int64
	swept   bool // what has expired was deleted already
}

// get returns the entry of a key as the next request sees it, nil if there is none.
func (p *pending) get(key string) *entry {
	e, ok := p.changed[key]
	if !ok {
		e = p.store.entries[key] // the leader alone changes entries, so it reads them without the lock
	}
	if e == nil || e.dead(p.now) {
		return nil
	}
	return e
}

// decide answers one request, and notes its change.
func (p *pending) decide(r *request) {
	e := p.get(r.key)
	if e != nil {
		r.version = e.version
		if e.fence != nil {
			switch {
			case r.set.Fence == nil:
				r.err = ErrNeedFence
				return
			case r.set.Fence.Before(*e.fence):
				r.err = ErrLowFence
				return
			}
		}
	}
	switch r.kind {
	case opSet:
		if r.set.If == IfAbsent && e != nil || r.set.If == IfAbsentEqual && e != nil && !bytes.Equal(e.data, r.value) {
			return
		}
		p.put(r)
	case opDel, opDelIf:
		if e == nil {
			return
		}
		if r.kind == opDelIf && !bytes.Equal(e.data, r.value) {
			r.count = -1
			return
		}
		r.count, r.version = 1, p.store.clock.next(p.now, r.set.At)
		p.note(change{kind: opDel, key: r.key, version: r.version}, nil)
	}
}

// put notes a Set, unless there is no room for it.
func (p *pending) put(r *request) {
	n := entry{data: r.value}
	if r.set.Fence != nil {
		fence := *r.set.Fence
		n.fence = &fence
	}
	if now := p.now.UnixNano(); r.set.Expires > 0 && int64(r.set.Expires) <= math.MaxInt64-now { // else it is for ever
		n.expires = now + int64(r.set.Expires)
	}
	if p.bytes+size(r.key, &n)-p.counted(r.key) > p.store.most {
		p.sweep()
		if p.bytes+size(r.key, &n)-p.counted(r.key) > p.store.most {
			r.err, r.version = ErrQuota, node.Time{}
			return
		}
	}
	n.version = p.store.clock.next(p.now, r.set.At)
	r.count, r.version = 1, n.version
	p.note(change{kind: opSet, key: r.key, data: n.data, version: n.version, fence: n.fence, expires: n.expires}, &n)
}

// counted returns what a key counts at the moment, expired or not.
func (p *pending) counted(key string) int64 {
	e, ok := p.changed[key]
	if !ok {
		e = p.store.entries[key]
	}
	if e == nil {
		return 0
	}
	return size(key, e)
}

// note adds a change to the commit.
func (p *pending) note(c change, e *entry) {
	p.bytes -= p.counted(c.key)
	if e != nil {
		p.bytes += size(c.key, e)
	}
	p.changed[c.key] = e
	p.changes = append(p.changes, c)
}

// sweep deletes all that has expired, once in a commit.
func (p *pending) sweep() {
	if p.swept {
		return
	}
	p.swept = true
	for key, e := range p.store.entries {
		if _, ok := p.changed[key]; !ok && e.dead(p.now) {
			p.note(change{kind: opDel, key: key, version: p.store.clock.next(p.now, node.Time{})}, nil)
		}
	}
}
