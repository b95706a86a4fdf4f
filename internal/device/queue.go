package device

import "sync"

// queue is an unbounded line between two goroutines of a link; what may stand in it is bounded by the link's inbox.
type queue[T any] struct {
	mu    sync.Mutex
	items []T
	ready chan struct{} // one slot: there is something
}

func newQueue[T any]() *queue[T] { return &queue[T]{ready: make(chan struct{}, 1)} }

func (q *queue[T]) put(item T) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns everything that is in line.
func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}
