// Package queue is what waits in front of a destination that sends in batches: a line of messages
// that is bounded in number and in bytes. What the destination has taken counts until it has
// completed it, so the bound is one of all that the destination has in hand.
package queue

import (
	"context"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// The bounds of a queue whose Limits have none.
const (
	DefaultMessages = 4096
	DefaultBytes    = 4 << 20
)

// Limits bound a queue. The zero value is the usual one.
type Limits struct {
	Messages int // 0: DefaultMessages
	Bytes    int // by node.Message.Size; 0: DefaultBytes. One message alone may have more
}

// Item is a message in hand, with those who want to know what became of it.
type Item struct {
	Message node.Message
	To      node.Completion
	Ticket  uint64
	size    int
}

// Queue is the line. Make one with New. One goroutine takes, and any may put.
type Queue struct {
	limits Limits

	mu      sync.Mutex
	waiting []Item
	count   int  // of messages in hand, waiting or taken
	bytes   int  // of those
	refused bool // a message had no room since the last Complete
	ready   chan struct{}
	room    chan struct{}
}

// New returns an empty queue.
func New(l Limits) *Queue {
	if l.Messages == 0 {
		l.Messages = DefaultMessages
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	return &Queue{limits: l, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// Put puts messages behind the others, as [node.Destination] wants it of Send: it waits for room
// until ctx ends, and returns how many messages it took.
func (q *Queue) Put(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (n int, err error) {
	for {
		n += q.put(ms[n:], to, tickets[n:])
		if n == len(ms) {
			return n, nil
		}
		select {
		case <-q.room:
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
}

// put puts as many messages as there is room for.
func (q *Queue) put(ms []node.Message, to node.Completion, tickets []uint64) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range ms {
		size := ms[i].Size()
		if q.count > 0 && (q.count >= q.limits.Messages || q.bytes+size > q.limits.Bytes) {
			q.refused = true
			signal(q.ready)
			break
		}
		q.waiting = append(q.waiting, Item{Message: ms[i], To: to, Ticket: tickets[i], size: size})
		q.count++
		q.bytes += size
		n++
	}
	if n > 0 {
		signal(q.ready)
	}
	return n
}

// Ready is received from when messages wait. It may also be received from when none does.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// Take appends the oldest messages that wait to into: at most most of them, and at least one if one
// waits. It does not wait.
func (q *Queue) Take(into []Item, most int) []Item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(most, len(q.waiting))
	into = append(into, q.waiting[:n]...)
	left := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[left:]) // drops what they refer to
	q.waiting = q.waiting[:left]
	if left > 0 {
		signal(q.ready)
	}
	return into
}

// Full says whether nothing more can be put before something is completed. A destination that waits
// for more messages would wait in vain.
func (q *Queue) Full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) == 0 && (q.count >= q.limits.Messages || q.refused)
}

// Complete says what became of messages that were taken, and makes their room free. It calls a
// Completion once for all its messages that stand side by side.
func (q *Queue) Complete(items []Item, err error) {
	var tickets []uint64
	bytes := 0
	for i := range items {
		bytes += items[i].size
		tickets = append(tickets, items[i].Ticket)
		if i+1 == len(items) || items[i+1].To != items[i].To {
			items[i].To.Done(tickets, err)
			tickets = tickets[:0]
		}
	}
	q.mu.Lock()
	q.count -= len(items)
	q.bytes -= bytes
	q.refused = false
	q.mu.Unlock()
	signal(q.room)
}

// signal lets the next receive go on.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
