package graph

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// core is a graph without goroutines, clocks and disks: messages and ticks go in, outputs come out,
// and both depend on nothing else. So a replay of the same input gives the same output.
type core struct {
	name     string
	set      Settings
	vertices []vertex // in topological order
	sources  []int    // vertex of each source
	dests    []int    // vertex of each destination
	timed    []int    // vertices that wait for logical time

	// emit takes an output. Its message is valid until emit returns.
	emit func(dest int, m *node.Message)
	// drop, which may be nil, hears of each message that leaves the graph without an output.
	drop func(Drop, *node.Message)

	fronts  []node.Time // frontier of each source; zero: it has handed in nothing yet
	arrived uint64      // counts what is held, for the order of arrival
	held    int         // bytes of that

	// The event under way:
	pos     position
	until   node.Time // what is due by then is given out now; zero: nothing is
	origins []origin
	leaves  []leaf
	arena   arena
	buf     []byte // room for ids

	former map[string]naming // of nodes that older plans had
	made   Plan              // whose operators this core has to close; empty: their owner does

	counts  [][reasons]atomic.Uint64 // of each vertex
	late    atomic.Uint64            // messages that came behind the frontier
	clamped atomic.Uint64            // messages whose clock was far ahead
	undated atomic.Uint64            // messages whose __ts is no time
}

type vertexKind uint8

const (
	merge vertexKind = iota
	source
	mapper
	filter
	branch
	delay
	accumulate
	window
	destination
)

// vertex is a node of the graph.
type vertex struct {
	name string
	kind vertexKind
	end  int // of a source or a destination: which one

	mapper     node.Map
	filter     node.Filter
	branch     node.Branch
	delay      node.Delay
	accumulate node.Accumulate
	window     node.Window
	saver      node.Stateful
	prepare    func(*node.Message) error

	outs [2][]int // by arm: none or false, true
	from []int    // sources that lead here

	in   []item // waits to be processed
	next int    // of those

	holds  []*hold   // of a delay: by time, then by arrival
	groups []*group  // of an accumulation: by time
	closed node.Time // a window has given out all that ends by then
	stuck  bool      // a window does not close what it says is due
	naming

	emitted func(*node.Message) // what a window gives its output to
}

// naming is the last time that an output was named after, and how many outputs were.
type naming struct {
	named node.Time
	count int
}

// item is a message on its way, and what it comes of.
type item struct {
	m      *node.Message
	origin int
}

// hold is a message that a delay holds.
type hold struct {
	at    node.Time
	order uint64
	m     node.Message
	id    string // of its outputs
}

// group is what an accumulation has of one logical time.
type group struct {
	at     node.Time
	staged node.Message
	folded bool
	items  []node.Message
	bytes  int
}

// origin is what outputs are named after.
type origin struct {
	base   string    // the id so far; empty: made of vertex and what of it
	vertex int       // that made it
	at     node.Time // the end of a window; zero: the position of the event names it
	suffix bool      // outputs are numbered even if there is one only
	first  int       // the number of the first one
	count  int
}

// leaf is what has come out of an event: an output, or what a delay holds.
type leaf struct {
	dest   int
	m      *node.Message
	hold   *hold // instead of an output; nil: none
	origin int
	vertex int
}

// position names an event for ever.
type position struct {
	text string // of a source's own, or of a record in the journal; empty: none
	box  string // and this before it, with a dash; empty: nothing
	seq  uint64
}

func (p position) appendTo(b []byte) []byte {
	if p.text != "" {
		return append(b, p.text...)
	}
	b = append(append(b, p.box...), '-')
	return strconv.AppendUint(b, p.seq, 10)
}

// A message that nothing else names is named after the process and a count. run is drawn anew by
// each process, so that the names of its messages are its own.
var (
	run      = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	numbered atomic.Uint64
)

// arena is memory for copies of messages, for one event.
type arena struct {
	chunks [][]node.Message
	used   int
}

const chunk = 16

func (a *arena) copy(m *node.Message) *node.Message {
	i, j := a.used/chunk, a.used%chunk
	if i == len(a.chunks) {
		a.chunks = append(a.chunks, make([]node.Message, chunk))
	}
	a.used++
	a.chunks[i][j] = *m
	return &a.chunks[i][j]
}

func (a *arena) reset() {
	for i := range a.chunks {
		n := min(a.used-i*chunk, chunk)
		if n <= 0 {
			break
		}
		clear(a.chunks[i][:n])
	}
	a.used = 0
	if len(a.chunks) > 4 {
		a.chunks = a.chunks[:1:1]
	}
}

// prepareVertex makes what a vertex needs to be run.
func (c *core) prepareVertex(i int) {
	v := &c.vertices[i]
	if v.kind == window {
		v.emitted = func(m *node.Message) { c.emerge(i, m) }
	}
	if len(c.counts) < len(c.vertices) {
		c.counts = make([][reasons]atomic.Uint64, len(c.vertices))
	}
}

// feed processes a message of a source. The caller has set its time. It is the core's to change.
func (c *core) feed(src int, m *node.Message, p position) {
	c.pos = p
	at := c.sources[src]
	if why := c.set.check(m); why != nil {
		c.lose(at, TooLarge, why, m)
		return
	}
	if c.fronts[src].Before(m.Time) {
		c.fronts[src] = m.Time
		if len(c.timed) > 0 {
			c.fire()
		}
	}
	id, isNamed := nameOf(m)
	m.ID = ""
	c.origins = append(c.origins, origin{base: id, vertex: at, suffix: !isNamed})
	c.forward(&c.vertices[at], 0, item{m, len(c.origins) - 1})
	c.sweep(at + 1)
	if len(c.timed) > 0 {
		c.fire()
	}
	c.finish()
}

// nameOf returns the id that a message came in with: that of a CloudEvent.
func nameOf(m *node.Message) (id string, ok bool) {
	if m.ID != "" {
		return m.ID, true
	}
	attributes := 0
	for i := range m.Properties {
		switch p := &m.Properties[i]; p.Key {
		case "id":
			id = p.Value
		case "specversion", "type", "source":
			attributes++
		}
	}
	if id == "" || attributes < 3 {
		return "", false
	}
	return id, true
}

// tick moves the frontiers of sources.
func (c *core) tick(fronts []node.Time, p position) {
	c.pos = p
	for i, t := range fronts {
		if c.fronts[i].Before(t) {
			c.fronts[i] = t
		}
	}
	c.fire()
	c.finish()
}

// check says why a message is too large for a graph.
func (s *Settings) check(m *node.Message) error {
	if len(m.Payload) > s.MaxPayload {
		return fmt.Errorf("the payload has %d bytes: at most %d", len(m.Payload), s.MaxPayload)
	}
	if m.Snapshot != nil && len(m.Snapshot.Frame) > s.MaxPayload {
		return fmt.Errorf("the picture has %d bytes: at most %d", len(m.Snapshot.Frame), s.MaxPayload)
	}
	if len(m.Properties) > s.MaxProperties {
		return fmt.Errorf("the message has %d properties: at most %d", len(m.Properties), s.MaxProperties)
	}
	if max(len(m.Topic), len(m.ContentType), len(m.ResponseTopic), len(m.Schema), len(m.Correlation), len(m.Key)) > s.MaxName {
		return fmt.Errorf("topic, content type, response topic, schema, correlation data or key have more than %d bytes", s.MaxName)
	}
	if len(m.Properties) == 0 {
		return nil
	}
	bytes := 0
	for i := range m.Properties {
		if len(m.Properties[i].Key) > s.MaxName {
			return fmt.Errorf("the key of a property has %d bytes: at most %d", len(m.Properties[i].Key), s.MaxName)
		}
		bytes += len(m.Properties[i].Key) + len(m.Properties[i].Value)
	}
	if bytes > s.MaxHeader {
		return fmt.Errorf("the properties have %d bytes together: at most %d", bytes, s.MaxHeader)
	}
	return nil
}

// forward passes a message on to all that an arm leads to.
func (c *core) forward(v *vertex, arm int, it item) {
	outs := v.outs[arm]
	for i, to := range outs {
		m := it.m
		if i+1 < len(outs) {
			m = c.arena.copy(m)
		}
		c.vertices[to].in = append(c.vertices[to].in, item{m, it.origin})
	}
}

// sweep processes everything that waits, in topological order. If c.until is set, vertices also
// give out what is due by then.
func (c *core) sweep(first int) {
	for i := first; i < len(c.vertices); i++ {
		c.work(i)
		if v := &c.vertices[i]; !isZero(c.until) && v.kind >= delay && v.kind <= window {
			c.release(i, c.until)
		}
	}
}

// work processes what waits for a vertex.
func (c *core) work(i int) {
	v := &c.vertices[i]
	if len(v.in) == 0 {
		return
	}
	for v.next < len(v.in) {
		c.process(i)
	}
	clear(v.in)
	v.in, v.next = v.in[:0], 0
}

// process runs an operator on what waits for it, until the operator panics.
func (c *core) process(i int) {
	v := &c.vertices[i]
	defer func() {
		if p := recover(); p != nil {
			c.lose(i, Panicked, fmt.Errorf("the operator panics: %.300v", p), v.in[v.next-1].m)
		}
	}()
	for v.next < len(v.in) {
		it := v.in[v.next]
		v.next++
		switch v.kind {
		case merge:
			c.forward(v, 0, it)
		case mapper:
			if err := v.mapper.Map(it.m); err != nil {
				c.lose(i, Failed, err, it.m)
				continue
			}
			c.forward(v, 0, it)
		case filter:
			switch pass, err := v.filter.Filter(it.m); {
			case err != nil:
				c.lose(i, Failed, err, it.m)
			case !pass:
				c.lose(i, Filtered, nil, it.m)
			default:
				c.forward(v, 0, it)
			}
		case branch:
			arm, err := v.branch.Branch(it.m, it.m.Time)
			n := 0
			if arm {
				n = 1
			}
			switch {
			case err != nil:
				c.lose(i, Failed, err, it.m)
			case len(v.outs[n]) == 0:
				c.lose(i, Filtered, nil, it.m)
			default:
				c.forward(v, n, it)
			}
		case delay:
			c.hold(i, it)
		case accumulate:
			c.gather(i, it)
		case window:
			c.collect(i, it)
		case destination:
			c.leaves = append(c.leaves, leaf{dest: v.end, m: it.m, origin: it.origin, vertex: i})
		case source:
		}
	}
}

// finish names what has come out of an event, and hands the outputs over.
func (c *core) finish() {
	for i := range c.leaves {
		c.origins[c.leaves[i].origin].count++
	}
	for i := range c.origins {
		o := &c.origins[i]
		if v := &c.vertices[o.vertex]; !isZero(o.at) && o.at == v.named {
			v.count += o.count
		}
	}
	for i := range c.leaves {
		l := &c.leaves[i]
		o := &c.origins[l.origin]
		b := c.buf[:0]
		if o.base != "" {
			b = append(b, o.base...)
		} else {
			if isZero(o.at) && c.pos.text == "" && c.pos.box == "" {
				c.pos = position{box: run, seq: numbered.Add(1)} // one for all outputs of the message
			}
			b = append(append(append(b, c.name...), '/'), c.vertices[o.vertex].name...)
			b = append(b, '/')
			if isZero(o.at) {
				b = c.pos.appendTo(b)
			} else {
				b = o.at.Wall().AppendFormat(b, time.RFC3339Nano)
			}
		}
		if o.suffix || o.count > 1 {
			b = strconv.AppendInt(append(b, '/'), int64(o.first), 10)
			o.first++
		}
		c.buf = b
		if l.hold != nil {
			l.hold.id = string(b)
			continue
		}
		l.m.ID = string(b)
		c.output(l)
	}
	clear(c.leaves)
	clear(c.origins)
	c.leaves, c.origins = c.leaves[:0], c.origins[:0]
	c.arena.reset()
}

// output makes a message ready for its destination, and hands it over.
func (c *core) output(l *leaf) {
	v := &c.vertices[l.vertex]
	if v.prepare != nil {
		if err := c.callPrepare(v, l.m); err != nil {
			why := Unroutable
			if errors.Is(err, errPanic) {
				why = Panicked
			}
			c.lose(l.vertex, why, err, l.m)
			return
		}
	}
	if err := c.set.check(l.m); err != nil {
		c.lose(l.vertex, TooLarge, err, l.m)
		return
	}
	c.emit(l.dest, l.m)
}

var errPanic = errors.New("panics")

func (c *core) callPrepare(v *vertex, m *node.Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("making the message ready %w: %.300v", errPanic, p)
		}
	}()
	return v.prepare(m)
}

// Reason says why a message has left the graph without an output.
type Reason uint8

// The reasons. Those before Failed are on purpose.
const (
	Filtered   Reason = iota // an operator has dropped it
	Expired                  // nobody wants it any more
	Late                     // its window has closed, and the policy is DropLate
	Failed                   // an operator gave an error
	Panicked                 // an operator panicked
	TooLarge                 // it exceeds a limit of Settings
	Unroutable               // it could not be made ready for its destination
	Refused                  // its destination will never take it
	Orphaned                 // its source or its destination is no longer part of the graph

	reasons
)

// String returns a name for a metric or a log.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return [...]string{"filtered", "expired", "late", "failed", "panicked", "too large", "unroutable", "refused", "orphaned"}[r]
}

// IsError says that the message was not to be dropped.
func (r Reason) IsError() bool { return r >= Failed }

// Drop is a message that left the graph without an output.
type Drop struct {
	Node   string
	Reason Reason
	Err    error // nil: on purpose
}

// lose counts a message that leaves the graph at a vertex.
func (c *core) lose(i int, why Reason, err error, m *node.Message) {
	c.counts[i][why].Add(1)
	if c.drop != nil {
		c.drop(Drop{Node: c.vertices[i].name, Reason: why, Err: err}, m)
	}
}

// EventTime returns the logical time of a message: that of its property __ts, else its own, else
// that of its arrival. ok is false if there is a __ts that is none. A node id that is no text of
// UTF-8 counts as faulty.
func EventTime(m *node.Message, arrival time.Time) (at node.Time, ok bool) {
	if text, isDated := m.Get("__ts"); isDated {
		at, err := node.ParseTime(text)
		if err == nil && len(at.Node) <= 256 && utf8.ValidString(at.Node) {
			return at, true
		}
		if m.Time != (node.Time{}) {
			return m.Time, false
		}
		return node.TimeOf(arrival), false
	}
	if m.Time != (node.Time{}) {
		return m.Time, true
	}
	return node.TimeOf(arrival), true
}

// maxAhead is how far a message's clock may be ahead of ours (Microsoft's page "MQTT broker state
// store protocol", where such clocks are refused).
const maxAhead = time.Minute

// date sets the logical time of a message that has just arrived.
func (c *core) date(m *node.Message, arrival time.Time) {
	at, ok := EventTime(m, arrival)
	if !ok {
		c.undated.Add(1)
	}
	if limit := node.TimeOf(arrival.Add(maxAhead)); at.Nanos > limit.Nanos {
		c.clamped.Add(1)
		at = node.TimeOf(arrival)
	}
	m.Time = at
}

// frontier returns the logical time that all sources of a vertex have reached.
func (c *core) frontier(v *vertex) node.Time {
	least := c.fronts[v.from[0]]
	for _, src := range v.from[1:] {
		if c.fronts[src].Before(least) {
			least = c.fronts[src]
		}
	}
	return least
}

// current is the frontier, but not beyond what is given out now.
func (c *core) current(v *vertex) node.Time {
	front := c.frontier(v)
	if !isZero(c.until) && c.until.Before(front) {
		return c.until
	}
	return front
}
