package device

import "sync"

// maxQueued is far more than a hub ever sends at once: it holds back C2D messages while 50 are unacknowledged.
const maxQueued = 1024

// queue is a line between two goroutines of a link, so that the link's other business does not wait for a slow handler.
type queue[T any] struct {
	mu    sync.Mutex
	items []T
	ready chan struct{} // one slot: there is something
}

func newQueue[T any]() *queue[T] { return &queue[T]{ready: make(chan struct{}, 1)} }

// put is false when the line is full: whoever fills it is not what it says it is.
func (q *queue[T]) put(item T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) >= maxQueued {
		return false
	}
	q.items = append(q.items, item)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

// take returns everything that is in line.
func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}
