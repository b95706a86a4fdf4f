package hub

// queue holds values of one kind until they are taken. Its owner's lock guards it.
type queue[T interface{ Size() int }] struct {
	items []T
	taken int  // number of items taken last
	bytes int  // of items, and of the items taken last, which stay in memory until the next take
	held  int  // bytes of the items taken last
	awake bool // somebody takes, or was told to
}

// put adds item. It returns false if there is no room; an empty queue has room for any item.
func (q *queue[T]) put(item T) bool {
	n := len(q.items) + q.taken
	if n > 0 && (n >= maxQueued || q.bytes+item.Size() > maxQueuedBytes) {
		return false
	}
	q.items = append(q.items, item)
	q.bytes += item.Size()
	return true
}

// replace removes all items and adds item.
func (q *queue[T]) replace(item T) {
	q.items, q.bytes = append([]T(nil), item), q.held+item.Size()
}

// wake reports whether somebody must be told to take: something waits, and nobody was told since
// the last take that returned nil.
func (q *queue[T]) wake() bool {
	if q.awake || len(q.items) == 0 {
		return false
	}
	q.awake = true
	return true
}

// take returns and removes all items. The caller must be done with the items of the last take.
func (q *queue[T]) take() []T {
	items := q.items
	q.bytes -= q.held
	q.items, q.taken, q.held = nil, len(items), q.bytes
	q.awake = items != nil
	return items
}
