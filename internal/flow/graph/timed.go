package graph

import (
	"fmt"
	"slices"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// What waits for logical time: delays, accumulations, windows.

func isZero(t node.Time) bool { return t == node.Time{} }

// hold lets a delay say until when a message waits.
func (c *core) hold(i int, it item) {
	v := &c.vertices[i]
	at, err := v.delay.Delay(it.m, it.m.Time)
	if err != nil {
		c.lose(i, Failed, err, it.m)
		return
	}
	if at.Before(it.m.Time) {
		at = it.m.Time
	}
	front := c.current(v)
	if at.Before(front) {
		if c.isLate(i, it.m) {
			return
		}
		at = front
		if len(v.holds) > 0 {
			at = v.holds[0].at
		}
	}
	it.m.Time = at
	if !front.Before(at) {
		c.forward(v, 0, it)
		return
	}
	c.arrived++
	h := &hold{at: at, order: c.arrived, m: *it.m}
	v.pushHold(h)
	c.held += it.m.Size()
	c.leaves = append(c.leaves, leaf{hold: h, origin: it.origin, vertex: i})
}

func (v *vertex) pushHold(h *hold) {
	i, _ := slices.BinarySearchFunc(v.holds, h, func(a, b *hold) int {
		if n := a.at.Compare(b.at); n != 0 {
			return n
		}
		return -1 // it came before
	})
	v.holds = slices.Insert(v.holds, i, h)
}

// isLate counts a message that comes behind the frontier, and says whether it is dropped.
func (c *core) isLate(i int, m *node.Message) bool {
	c.late.Add(1)
	if c.set.Late == DropLate {
		c.lose(i, Late, nil, m)
		return true
	}
	return false
}

// An accumulation folds so many messages, or bytes of them, at once.
const (
	foldMessages = 64
	foldBytes    = 256 << 10
)

// gather adds a message to those of its logical time.
func (c *core) gather(i int, it item) {
	v := &c.vertices[i]
	at := it.m.Time
	if front := c.current(v); at.Before(front) {
		if c.isLate(i, it.m) {
			return
		}
		at = front
		if len(v.groups) > 0 {
			at = v.groups[0].at
		}
		it.m.Time = at
	}
	n, found := slices.BinarySearchFunc(v.groups, at, func(g *group, at node.Time) int { return g.at.Compare(at) })
	if !found {
		g := &group{at: at, staged: node.Message{
			Time: at, Topic: it.m.Topic, TopicSet: it.m.TopicSet, ContentType: it.m.ContentType, Schema: it.m.Schema,
		}}
		v.groups = slices.Insert(v.groups, n, g)
	}
	g := v.groups[n]
	g.items = append(g.items, *it.m)
	size := it.m.Size()
	g.bytes += size
	c.held += size
	if len(g.items) >= foldMessages || g.bytes >= foldBytes {
		c.fold(i, g)
	}
}

// fold lets an accumulation take the messages that a group has collected. If it fails, they are
// lost, and what there was before stays.
func (c *core) fold(i int, g *group) {
	if len(g.items) == 0 {
		return
	}
	before, why := g.staged, Failed
	err := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				why, err = Panicked, fmt.Errorf("the operator panics: %.300v", p)
			}
		}()
		return c.vertices[i].accumulate.Accumulate(&g.staged, g.items)
	}()
	if err != nil {
		g.staged = before
		for k := range g.items {
			c.lose(i, why, err, &g.items[k])
		}
	} else {
		g.folded = true
	}
	c.held += len(g.staged.Payload) - len(before.Payload) - g.bytes
	clear(g.items)
	g.items, g.bytes = g.items[:0], 0
}

// collect adds a message to a window.
func (c *core) collect(i int, it item) {
	v := &c.vertices[i]
	if it.m.Time.Before(v.closed) {
		if c.isLate(i, it.m) {
			return
		}
		it.m.Time = c.current(v)
	}
	v.stuck = false
	if err := v.window.Add(it.m, it.m.Time, v.emitted); err != nil {
		c.lose(i, Failed, err, it.m)
	}
}

// emerge takes what a window gives out.
func (c *core) emerge(i int, m *node.Message) {
	v := &c.vertices[i]
	m = c.arena.copy(m)
	if isZero(m.Time) {
		m.Time = c.current(v)
	}
	m.ID = ""
	c.forward(v, 0, item{m, c.ended(i, m.Time)})
}

// ended returns the origin of an output of a window that ends at a time. Windows with the same end
// share a count. One that ends before another one that has been given out is named after the event.
func (c *core) ended(i int, at node.Time) int {
	v := &c.vertices[i]
	at = node.Time{Nanos: at.Nanos}
	if v.named.Before(at) {
		v.named, v.count = at, 0
	}
	first := v.count
	if at != v.named {
		at, first = node.Time{}, 0
	}
	for k := range c.origins {
		if o := &c.origins[k]; o.vertex == i && o.at == at && o.base == "" {
			return k
		}
	}
	c.origins = append(c.origins, origin{vertex: i, at: at, suffix: true, first: first})
	return len(c.origins) - 1
}

// due returns when a vertex has something to give out, and whether the frontier must pass that time
// or only reach it.
func (v *vertex) due() (at node.Time, pass, ok bool) {
	switch {
	case v.kind == delay && len(v.holds) > 0:
		return v.holds[0].at, false, true
	case v.kind == accumulate && len(v.groups) > 0:
		return v.groups[0].at, true, true
	case v.kind == window && !v.stuck:
		at, ok = v.window.Due()
		return at, false, ok
	}
	return node.Time{}, false, false
}

// reached says whether a frontier lets out what is due.
func reached(front, at node.Time, pass bool) bool {
	n := front.Compare(at)
	return n > 0 || n == 0 && !pass
}

// fire gives out what the frontiers have reached: by logical time, and within one time in
// topological order.
func (c *core) fire() {
	for {
		var first node.Time
		found := false
		for _, i := range c.timed {
			v := &c.vertices[i]
			if at, pass, ok := v.due(); ok && (!found || at.Before(first)) && reached(c.frontier(v), at, pass) {
				first, found = at, true
			}
		}
		if !found {
			return
		}
		c.until = first
		c.sweep(0)
		c.until = node.Time{}
	}
}

// release gives out what a vertex has due by a time that its frontier has reached.
func (c *core) release(i int, until node.Time) {
	v := &c.vertices[i]
	front := c.frontier(v)
	for {
		at, pass, ok := v.due()
		if !ok || until.Before(at) || !reached(front, at, pass) {
			return
		}
		if v.kind == window {
			c.advance(i, at)
		} else {
			c.letOut(i)
		}
	}
}

// letOut gives out the earliest that a delay or an accumulation holds.
func (c *core) letOut(i int) {
	v := &c.vertices[i]
	if len(v.holds) > 0 {
		h := v.holds[0]
		v.holds[0] = nil
		v.holds = v.holds[1:]
		c.held -= h.m.Size()
		c.origins = append(c.origins, origin{base: h.id, vertex: i})
		c.forward(v, 0, item{c.arena.copy(&h.m), len(c.origins) - 1})
		return
	}
	g := v.groups[0]
	v.groups = v.groups[1:]
	c.fold(i, g)
	if g.folded {
		c.held -= len(g.staged.Payload)
		g.staged.Time = g.at
		c.emerge(i, &g.staged)
	}
}

// advance lets a window give out what ends by a time.
func (c *core) advance(i int, at node.Time) {
	v := &c.vertices[i]
	func() {
		defer func() {
			if p := recover(); p != nil {
				c.lose(i, Panicked, fmt.Errorf("the window panics: %.300v", p), &node.Message{Time: at})
			}
		}()
		v.window.Advance(at, v.emitted)
	}()
	if v.closed.Before(at) {
		v.closed = at
	}
	if again, ok := v.window.Due(); ok && !at.Before(again) {
		v.stuck = true
		c.lose(i, Failed, fmt.Errorf("the window does not close what ends at %v", again.Wall()), &node.Message{Time: at})
	}
}
