package device

import (
	"context"
	"sync"
)

// tally counts running goroutines. Unlike with a WaitGroup, a caller may wait with a limit, and
// more may be started meanwhile.
type tally struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to 0; nil when nobody waits
}

func (t *tally) run(b bulkheads, f func()) {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
	b.spawn("methods", func() {
		defer t.done()
		f()
	})
}

func (t *tally) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// running returns how many run now.
func (t *tally) running() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// wait returns when nothing runs, or ctx ends.
func (t *tally) wait(ctx context.Context) {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// slots bounds the methods that run at a time, by number and by bytes.
type slots struct {
	mu    sync.Mutex
	n     int
	bytes int
}

// enter takes a slot if there is one. If nothing else runs, there always is one.
func (s *slots) enter(bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n > 0 && (s.n >= maxMethods || s.bytes+bytes > maxPayloads) {
		return false
	}
	s.n++
	s.bytes += bytes
	return true
}

func (s *slots) leave(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	s.bytes -= bytes
}
