package device

import "sync"

// The bounds of a queue, far above what a hub sends: it holds back C2D messages of 64 KB while 50
// are unacknowledged.
const (
	maxQueued      = 1024
	maxQueuedBytes = 4 << 20
)

// queue is a line between two goroutines of a link, so that the link's other business does not wait for a slow handler.
type queue[T interface{ Size() int }] struct {
	mu    sync.Mutex
	items []T
	taken int           // number of items taken last
	bytes int           // of items, and of the items taken last, which stay in memory until the next take
	held  int           // bytes of the items taken last
	ready chan struct{} // one slot: there is something
}

func newQueue[T interface{ Size() int }]() *queue[T] { return &queue[T]{ready: make(chan struct{}, 1)} }

// put adds item. It returns false if there is no room; an empty queue has room for any item.
func (q *queue[T]) put(item T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.items) + q.taken
	if n > 0 && (n >= maxQueued || q.bytes+item.Size() > maxQueuedBytes) {
		return false
	}
	q.putLocked(item)
	return true
}

// replace removes all items and adds item.
func (q *queue[T]) replace(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items, q.bytes = nil, q.held
	q.putLocked(item)
}

func (q *queue[T]) putLocked(item T) {
	q.items = append(q.items, item)
	q.bytes += item.Size()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns and removes all items. The caller must be done with the items of the last take.
func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.bytes -= q.held
	q.items, q.taken, q.held = nil, len(items), q.bytes
	return items
}
