package graph

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// queue is the line of outputs to one destination: those that wait to be sent, and those that were
// sent and are not safe yet. It is bounded by what is in flight in the graph.
type queue struct {
	g      *Graph
	name   string
	vertex int
	dest   node.Destination
	wake   chan struct{}

	// Graph.mu guards these:
	items []outbound
	first int    // of items that is not done
	next  int    // of items that is not sent
	base  uint64 // the ticket of items[0]
	idle  bool   // the sender waits for wake
}

// outbound is an output.
type outbound struct {
	m    node.Message
	root int32
	done bool
	at   time.Time // when it came; zero: nobody wants to know
}

func newQueue(g *Graph, i int, d DestinationNode) *queue {
	return &queue{g: g, name: d.Name, vertex: g.core.dests[i], dest: d.Destination, wake: make(chan struct{}, 1), base: 1}
}

// push appends an output. g.mu is held.
func (q *queue) push(m *node.Message, root int32, at time.Time) {
	q.items = append(q.items, outbound{m: *m, root: root, at: at})
	if q.idle {
		q.idle = false
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// trim forgets the outputs at the front that are done. g.mu is held.
func (q *queue) trim() {
	for q.first < len(q.items) && q.items[q.first].done {
		q.first++
	}
	q.next = max(q.next, q.first)
	switch {
	case q.first == len(q.items):
		q.base += uint64(q.first)
		q.items = q.items[:0]
	case q.first >= maxTurn && q.first > len(q.items)/2:
		q.base += uint64(q.first)
		n := copy(q.items, q.items[q.first:])
		clear(q.items[n:])
		q.items = q.items[:n]
	default:
		return
	}
	q.next -= q.first
	q.first = 0
}

// run runs the destination, and sends it everything that is not done, from the oldest on.
func (q *queue) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	q.g.mu.Lock()
	q.next = q.first
	q.g.mu.Unlock()
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel()
	var failed error
	sender.Go(func() {
		failed = q.g.guard(ctx, q.send)
		cancel()
	})
	err := q.dest.Run(ctx)
	cancel()
	sender.Wait()
	return errors.Join(err, failed)
}

// A sender hands over so many messages, or about so many bytes, at once.
const (
	sendMessages = 64
	sendBytes    = 256 << 10
)

// send hands outputs to the destination until ctx ends, or until it fails.
func (q *queue) send(ctx context.Context) error {
	var ms []node.Message
	var tickets, expired []uint64
	for {
		if !q.await(ctx) {
			return nil
		}
		now, bytes := time.Unix(0, q.g.instant().wall), 0
		ms, tickets, expired = ms[:0], tickets[:0], expired[:0]
		q.g.mu.Lock()
		for ; q.next < len(q.items) && len(ms) < sendMessages && bytes < sendBytes; q.next++ {
			o := &q.items[q.next]
			switch {
			case o.done:
			case !o.m.Expires.IsZero() && !now.Before(o.m.Expires):
				expired = append(expired, q.base+uint64(q.next))
			default:
				ms, tickets = append(ms, o.m), append(tickets, q.base+uint64(q.next))
				bytes += len(o.m.Payload)
			}
		}
		q.g.mu.Unlock()
		if len(expired) > 0 {
			q.finish(expired, Expired, nil)
		}
		if len(ms) == 0 {
			continue
		}
		n, err := q.dest.Send(ctx, ms, q, tickets)
		clear(ms)
		if err != nil || n < len(ms) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("it took %d messages of %d: %w", n, len(ms), err)
		}
	}
}

// await returns when there is something to send; false when ctx has ended.
func (q *queue) await(ctx context.Context) bool {
	for ctx.Err() == nil {
		q.g.mu.Lock()
		q.idle = q.next == len(q.items)
		idle := q.idle
		q.g.mu.Unlock()
		if !idle {
			return true
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return false
}

// Done learns from the destination what became of outputs.
func (q *queue) Done(tickets []uint64, err error) {
	switch {
	case err == nil:
		q.finish(tickets, 0, nil)
	case errors.Is(err, node.ErrExpired):
		q.finish(tickets, Expired, nil)
	default:
		q.finish(tickets, Refused, err)
	}
}

// scratch is room for one call of finish.
type scratch struct {
	acks    []ack
	tickets []uint64
	lost    []node.Message
	took    []time.Duration
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// finish completes outputs: they are safe, or lost for a reason that is not 0.
func (q *queue) finish(tickets []uint64, why Reason, err error) {
	s := scratches.Get().(*scratch)
	g := q.g
	now := g.clock()
	g.mu.Lock()
	for _, t := range tickets {
		i := t - q.base
		if t < q.base || i >= uint64(len(q.items)) || q.items[i].done {
			continue // somebody says it twice
		}
		o := &q.items[i]
		switch {
		case why != 0:
			s.lost = append(s.lost, o.m)
		default:
			g.out++
			if !o.at.IsZero() {
				s.took = append(s.took, now.Sub(o.at))
			}
		}
		g.complete(o.root, &s.acks)
		*o = outbound{done: true}
	}
	q.trim()
	g.settled()
	g.mu.Unlock()
	for i := range s.lost {
		g.core.lose(q.vertex, why, err, &s.lost[i])
	}
	for _, took := range s.took {
		g.opt.Stage("destination", took)
	}
	s.tickets = acknowledge(s.acks, s.tickets)
	clear(s.acks)
	clear(s.lost)
	s.acks, s.lost, s.took = s.acks[:0], s.lost[:0], s.took[:0]
	scratches.Put(s)
}
