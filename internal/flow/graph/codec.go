package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// encoder and decoder are for what the journal and the checkpoints keep: numbers as varints of
// Go's encoding/binary, texts and bytes behind their length.
type encoder struct{ b []byte }

func (e *encoder) uint(n uint64) { e.b = binary.AppendUvarint(e.b, n) }
func (e *encoder) int(n int64)   { e.b = binary.AppendVarint(e.b, n) }
func (e *encoder) text(s string) { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) bytes(p []byte) {
	if p == nil { // no bytes and empty bytes differ
		e.uint(0)
		return
	}
	e.uint(uint64(len(p)) + 1)
	e.b = append(e.b, p...)
}
func (e *encoder) time(t node.Time) {
	e.int(t.Nanos)
	e.uint(t.Counter)
	e.text(t.Node)
}
func (e *encoder) bit(flags *uint64, n int, on bool) {
	if on {
		*flags |= 1 << n
	}
}

type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) fail() {
	d.b, d.failed = nil, true
}

func (d *decoder) fixed32() uint32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	n := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return n
}

func putFixed32(b []byte, n uint32) { binary.LittleEndian.PutUint32(b, n) }

func (d *decoder) uint() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) int() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[size:]
	return n
}

// take returns the next n bytes, which are not copied.
func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) text() string { return string(d.take(d.uint())) }

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n == 0 {
		return nil
	}
	return d.take(n - 1)
}

func (d *decoder) time() node.Time {
	return node.Time{Nanos: d.int(), Counter: d.uint(), Node: d.text()}
}

// count returns a number of things that each have a byte at least.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (e *encoder) message(m *node.Message) {
	var flags uint64
	e.bit(&flags, 0, m.TopicSet)
	e.bit(&flags, 1, m.Retain)
	e.bit(&flags, 2, m.Text)
	e.bit(&flags, 3, m.Snapshot != nil)
	e.bit(&flags, 4, !m.Expires.IsZero())
	e.uint(flags)
	e.time(m.Time)
	for _, s := range [...]string{m.Topic, m.InputTopic, m.ContentType, m.Schema, m.ID, m.ResponseTopic} {
		e.text(s)
	}
	e.bytes(m.Correlation)
	e.bytes(m.Key)
	e.uint(uint64(len(m.Properties)))
	for i := range m.Properties {
		e.text(m.Properties[i].Key)
		e.text(m.Properties[i].Value)
	}
	if s := m.Snapshot; s != nil {
		e.text(s.Format)
		e.uint(uint64(s.Width))
		e.uint(uint64(s.Height))
		e.bytes(s.Frame)
	}
	if !m.Expires.IsZero() {
		e.int(m.Expires.Unix())
		e.uint(uint64(m.Expires.Nanosecond()))
	}
	e.bytes(m.Payload)
}

// message decodes a message, which shares the bytes of the decoder.
func (d *decoder) message() (m node.Message) {
	flags := d.uint()
	m.TopicSet, m.Retain, m.Text = flags&1 != 0, flags&2 != 0, flags&4 != 0
	m.Time = d.time()
	for _, s := range [...]*string{&m.Topic, &m.InputTopic, &m.ContentType, &m.Schema, &m.ID, &m.ResponseTopic} {
		*s = d.text()
	}
	m.Correlation, m.Key = d.bytes(), d.bytes()
	if n := d.count(); n > 0 {
		m.Properties = make([]node.Property, n)
		for i := range m.Properties {
			m.Properties[i] = node.Property{Key: d.text(), Value: d.text()}
		}
	}
	if flags&8 != 0 {
		m.Snapshot = &node.Snapshot{Format: d.text(), Width: uint32(d.uint()), Height: uint32(d.uint()), Frame: d.bytes()}
	}
	if flags&16 != 0 {
		m.Expires = time.Unix(d.int(), int64(d.uint())).UTC()
	}
	m.Payload = d.bytes()
	return m
}

// event is a record of the journal.
type event struct {
	source string // of a message
	m      node.Message
	fronts map[string]node.Time // of a tick, by source
	nodes  []string             // of a flush
}

func (x *event) isMessage() bool { return x.fronts == nil && x.nodes == nil }

const (
	messageEvent = 1
	tickEvent    = 2
	flushEvent   = 3
)

func appendMessage(b []byte, source string, m *node.Message) []byte {
	e := encoder{b: b}
	e.uint(messageEvent)
	e.text(source)
	e.message(m)
	return e.b
}

func appendTick(b []byte, sources []SourceNode, fronts []node.Time) []byte {
	e := encoder{b: b}
	e.uint(tickEvent)
	e.uint(uint64(len(fronts)))
	for i, t := range fronts {
		e.text(sources[i].Name)
		e.time(t)
	}
	return e.b
}

func appendFlush(b []byte, nodes []string) []byte {
	e := encoder{b: b}
	e.uint(flushEvent)
	e.uint(uint64(len(nodes)))
	for _, name := range nodes {
		e.text(name)
	}
	return e.b
}

func decodeEvent(b []byte) (x event, err error) {
	d := decoder{b: b}
	switch kind := d.uint(); kind {
	case messageEvent:
		x.source = d.text()
		x.m = d.message()
	case tickEvent:
		x.fronts = map[string]node.Time{}
		for range d.count() {
			x.fronts[d.text()] = d.time()
		}
	case flushEvent:
		x.nodes = []string{}
		for range d.count() {
			x.nodes = append(x.nodes, d.text())
		}
	default:
		return x, fmt.Errorf("it is of the unknown kind %d", kind)
	}
	if d.failed || len(d.b) > 0 {
		return x, errors.New("its bytes make no sense")
	}
	return x, nil
}

// memories are all that a graph remembers.
type memories struct {
	arrived uint64
	fronts  []front
	nodes   []memo
	former  map[string]naming
}

type front struct {
	source string
	at     node.Time
}

// memo is what a node remembers.
type memo struct {
	name    string
	saved   []byte // by the operator; nil: nothing
	waiting int    // messages that it holds, as far as it says
	closed  node.Time
	naming
	holds  []*hold
	groups []*group
}

// recall returns what the graph remembers.
func (c *core) recall() (m memories) {
	m.arrived, m.former = c.arrived, c.former
	for i, v := range c.sources {
		m.fronts = append(m.fronts, front{c.vertices[v].name, c.fronts[i]})
	}
	for i := range c.vertices {
		v := &c.vertices[i]
		n := memo{name: v.name, closed: v.closed, naming: v.naming, holds: v.holds, groups: v.groups, waiting: len(v.holds)}
		if v.saver != nil {
			n.saved = v.saver.Save([]byte{})
		}
		if w, ok := v.window.(interface{ Held() int }); ok {
			n.waiting += w.Held()
		}
		for _, g := range v.groups {
			n.waiting += len(g.items)
		}
		m.nodes = append(m.nodes, n)
	}
	return m
}

func (e *encoder) memories(m *memories) {
	e.uint(m.arrived)
	e.uint(uint64(len(m.fronts)))
	for _, f := range m.fronts {
		e.text(f.source)
		e.time(f.at)
	}
	e.uint(uint64(len(m.nodes)))
	for i := range m.nodes {
		n := &m.nodes[i]
		e.text(n.name)
		e.bytes(n.saved)
		e.uint(uint64(n.waiting))
		e.time(n.closed)
		e.naming(n.naming)
		e.uint(uint64(len(n.holds)))
		for _, h := range n.holds {
			e.time(h.at)
			e.uint(h.order)
			e.text(h.id)
			e.message(&h.m)
		}
		e.uint(uint64(len(n.groups)))
		for _, g := range n.groups {
			e.time(g.at)
			e.message(&g.staged)
			var folded uint64
			e.bit(&folded, 0, g.folded)
			e.uint(folded)
			e.uint(uint64(len(g.items)))
			for k := range g.items {
				e.message(&g.items[k])
			}
		}
	}
	e.uint(uint64(len(m.former)))
	for _, name := range slices.Sorted(maps.Keys(m.former)) {
		e.text(name)
		e.naming(m.former[name])
	}
}

func (e *encoder) naming(n naming) {
	e.time(n.named)
	e.uint(uint64(n.count))
}

func (d *decoder) naming() naming { return naming{d.time(), int(d.uint())} }

// memories decodes what a graph remembered. An old checkpoint does not say how many sources and
// nodes there are, but they are as many as this core has; of others c may be nil.
func (d *decoder) memories(c *core, isOld bool) (m memories) {
	m.arrived = d.uint()
	var sources, nodes int
	if isOld {
		sources, nodes = len(c.sources), len(c.vertices)
	} else {
		sources = d.count()
	}
	for range sources {
		m.fronts = append(m.fronts, front{d.text(), d.time()})
	}
	if !isOld {
		nodes = d.count()
	}
	for range nodes {
		n := memo{name: d.text(), saved: d.bytes()}
		if !isOld {
			n.waiting = int(d.uint())
		}
		n.closed, n.naming = d.time(), d.naming()
		for range d.count() {
			h := &hold{at: d.time(), order: d.uint(), id: d.text()}
			h.m = d.message()
			n.holds = append(n.holds, h)
		}
		for range d.count() {
			g := &group{at: d.time(), staged: d.message()}
			g.folded = d.uint() == 1
			for range d.count() {
				g.items = append(g.items, d.message())
				g.bytes += g.items[len(g.items)-1].Size()
			}
			n.groups = append(n.groups, g)
		}
		m.nodes = append(m.nodes, n)
	}
	m.former = map[string]naming{}
	if !isOld {
		for range d.count() {
			m.former[d.text()] = d.naming()
		}
	}
	return m
}

// take puts back what a graph remembered, into a core that has seen no message: of the nodes that
// are the same, all; of the others, what their outputs were named after. It returns what could not
// be put back.
func (c *core) take(m memories, isSame func(name string) bool) (errs []error) {
	c.arrived, c.former = m.arrived, map[string]naming{}
	for _, f := range m.fronts {
		if at := c.index(f.source); at >= 0 && c.vertices[at].kind == source {
			c.fronts[c.vertices[at].end] = f.at
		}
	}
	for name, n := range m.former {
		c.goOnFrom(name, n)
	}
	for i := range m.nodes {
		n := &m.nodes[i]
		c.goOnFrom(n.name, n.naming)
		at := c.index(n.name)
		if at < 0 || !isSame(n.name) {
			continue
		}
		v := &c.vertices[at]
		if v.saver != nil && n.saved != nil {
			if err := restoreOperator(v.saver, n.saved); err != nil {
				errs = append(errs, fmt.Errorf("node %s cannot read what it has saved: %w", n.name, err))
			}
		}
		v.closed, v.holds, v.groups = n.closed, n.holds, n.groups
		for _, h := range n.holds {
			c.held += h.m.Size()
		}
		for _, g := range n.groups {
			c.held += len(g.staged.Payload) + g.bytes
		}
	}
	return errs
}

// goOnFrom lets a node go on with the numbers of its outputs. One that is gone may come back.
func (c *core) goOnFrom(node string, n naming) {
	if isZero(n.named) {
		return
	}
	if at := c.index(node); at >= 0 {
		c.vertices[at].naming = n
	} else {
		c.former[node] = n
	}
}

func restoreOperator(s node.Stateful, saved []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panics: %.300v", p)
		}
	}()
	return s.Restore(saved)
}
