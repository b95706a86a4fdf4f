package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
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
	fronts map[string]node.Time // of a tick, by source; nil: it is a message
}

const (
	messageEvent = 1
	tickEvent    = 2
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
	default:
		return x, fmt.Errorf("it is of the unknown kind %d", kind)
	}
	if d.failed || len(d.b) > 0 {
		return x, errors.New("its bytes make no sense")
	}
	return x, nil
}

// save appends all that the graph remembers.
func (c *core) save(e *encoder, p Plan) {
	e.uint(c.arrived)
	for i, s := range p.Sources {
		e.text(s.Name)
		e.time(c.fronts[i])
	}
	for i := range c.vertices {
		v := &c.vertices[i]
		var saved []byte
		if v.saver != nil {
			saved = v.saver.Save([]byte{})
		}
		e.text(v.name)
		e.bytes(saved)
		e.time(v.closed)
		e.time(v.named)
		e.uint(uint64(v.count))
		e.uint(uint64(len(v.holds)))
		for _, h := range v.holds {
			e.time(h.at)
			e.uint(h.order)
			e.text(h.id)
			e.message(&h.m)
		}
		e.uint(uint64(len(v.groups)))
		for _, g := range v.groups {
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
}

// restore puts back what save has saved, into a core of the same plan that has seen no message. It
// returns what could not be put back.
func (c *core) restore(d *decoder, p Plan) (errs []error) {
	c.arrived = d.uint()
	for i, s := range p.Sources {
		if name := d.text(); name != s.Name {
			return []error{fmt.Errorf("the checkpoint has a source %q instead of %q", name, s.Name)}
		}
		c.fronts[i] = d.time()
	}
	for i := range c.vertices {
		v := &c.vertices[i]
		if name := d.text(); name != v.name {
			return append(errs, fmt.Errorf("the checkpoint has a node %q instead of %q", name, v.name))
		}
		if saved := d.bytes(); v.saver != nil && saved != nil {
			if err := restoreOperator(v.saver, saved); err != nil {
				errs = append(errs, fmt.Errorf("node %s cannot read what it has saved: %w", v.name, err))
			}
		}
		v.closed, v.named, v.count = d.time(), d.time(), int(d.uint())
		for range d.count() {
			h := &hold{at: d.time(), order: d.uint(), id: d.text()}
			h.m = d.message()
			v.holds = append(v.holds, h)
			c.held += h.m.Size()
		}
		for range d.count() {
			g := &group{at: d.time(), staged: d.message()}
			g.folded = d.uint() == 1
			c.held += len(g.staged.Payload)
			for range d.count() {
				g.items = append(g.items, d.message())
				size := g.items[len(g.items)-1].Size()
				g.bytes += size
				c.held += size
			}
			v.groups = append(v.groups, g)
		}
	}
	if d.failed || len(d.b) > 0 {
		errs = append(errs, errors.New("the checkpoint makes no sense"))
	}
	return errs
}

func restoreOperator(s node.Stateful, saved []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panics: %.300v", p)
		}
	}()
	return s.Restore(saved)
}
