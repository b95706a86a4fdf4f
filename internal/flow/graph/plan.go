package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// Plan says what a graph is made of.
type Plan struct {
	Name         string // begins the ids of outputs, so it should never change
	Sources      []SourceNode
	Operators    []OperatorNode
	Destinations []DestinationNode
	Edges        []Edge
	Settings     Settings
}

// Close closes the operators that are an [io.Closer]. No graph may run with them. failed, which may
// be nil, hears of each that could not be closed.
func (p Plan) Close(failed func(error)) {
	for _, o := range p.Operators {
		c, ok := o.Op.(io.Closer)
		if !ok {
			continue
		}
		if err := c.Close(); err != nil && failed != nil {
			failed(fmt.Errorf("closing node %s: %w", o.Name, err))
		}
	}
}

// SourceNode is where messages come in.
type SourceNode struct {
	Name   string
	Source node.Source // may be nil for [NewOffline]
}

// OperatorNode does something to messages.
type OperatorNode struct {
	Name string
	// Op is a node.Map, Filter, Branch, Delay, Accumulate or Window. Nil concatenates: it passes on
	// what comes in by any of its edges.
	Op any
	// Config is what Op was made of, such as its kind, version and rules. If it changes, the state
	// that the operator has saved is of no use any more.
	Config string
	// Recipe is what [Options].Remake can make such an operator of when Config has changed; empty:
	// nothing can.
	Recipe string
}

// DestinationNode is where messages go out.
type DestinationNode struct {
	Name        string
	Destination node.Destination // may be nil for [NewOffline]
	// Prepare, which may be nil, makes a message ready for this destination: its topic, its
	// headers. The message has its ID by then. An error drops the message.
	Prepare func(*node.Message) error
}

// Arm is an output of a node.
type Arm uint8

// The arms. A node that branches has True and False, all others have None.
const (
	None Arm = iota
	True
	False
)

func (a Arm) String() string { return [...]string{"output", "output.true", "output.false"}[min(a, 2)] }

// Edge leads messages from a node, or from an arm of one, to another node.
type Edge struct {
	From, To string
	Arm      Arm
}

// LatePolicy is what becomes of a message whose window has closed.
type LatePolicy uint8

// The policies.
const (
	NextWindow LatePolicy = iota // it counts for the window that is open now
	DropLate                     // it is dropped
)

// Settings bound a graph. A zero field means its default.
type Settings struct {
	MaxMessages   int // taken from sources and not yet safe; default 1,000
	MaxBytes      int // of those, as [node.Message.Size] counts; default 8 MiB
	MaxHeld       int // bytes that delays and accumulations hold; default 16 MiB
	MaxPayload    int // bytes of one payload; default and, with a journal, at most 1,000,000
	MaxProperties int // of one message; default 1,000
	MaxName       int // bytes of a topic, a content type or a property's key; default 65,535
	MaxHeader     int // bytes of all properties of a message together; default 256 KiB

	// A source that has handed in nothing for so long is idle: then the wall clock moves its
	// logical time; default 1 s. What holds up the graph does not count: a disk, a slow operator,
	// no room, a machine that sleeps. A source that has failed, or with a method Live() bool that
	// returns false, is not idle for another minute, because what waits behind a broken connection
	// is older than the clock.
	Idle time.Duration
	Late LatePolicy

	JournalBytes int64 // about as many bytes of a journal wait for a checkpoint at most; default 64 MiB

	// RetryMin and RetryMax bound the pause before a source or a destination that has ended with an
	// error is started again; defaults 1 s and 1 min.
	RetryMin, RetryMax time.Duration
}

const maxJournaled = 1_000_000 // bytes of a payload that a record of the journal holds, with room for the rest

func (s Settings) withDefaults() Settings {
	def := func(n *int, d int) {
		if *n == 0 {
			*n = d
		}
	}
	def(&s.MaxMessages, 1000)
	def(&s.MaxBytes, 8<<20)
	def(&s.MaxHeld, 16<<20)
	def(&s.MaxPayload, maxJournaled)
	def(&s.MaxProperties, 1000)
	def(&s.MaxName, 65535)
	def(&s.MaxHeader, 256<<10)
	if s.Idle == 0 {
		s.Idle = time.Second
	}
	if s.JournalBytes == 0 {
		s.JournalBytes = 64 << 20
	}
	if s.RetryMin == 0 {
		s.RetryMin = time.Second
	}
	if s.RetryMax == 0 {
		s.RetryMax = time.Minute
	}
	return s
}

func (s Settings) validate(journal bool) error {
	for _, x := range []struct {
		name string
		n    int64
	}{
		{"MaxMessages", int64(s.MaxMessages)}, {"MaxBytes", int64(s.MaxBytes)}, {"MaxHeld", int64(s.MaxHeld)}, {"MaxPayload", int64(s.MaxPayload)},
		{"MaxProperties", int64(s.MaxProperties)}, {"MaxName", int64(s.MaxName)}, {"MaxHeader", int64(s.MaxHeader)}, {"Idle", int64(s.Idle)},
		{"JournalBytes", s.JournalBytes}, {"RetryMin", int64(s.RetryMin)}, {"RetryMax", int64(s.RetryMax - s.RetryMin)},
	} {
		if x.n < 0 {
			return fmt.Errorf("the setting %s is too small: it must not be below 0, and RetryMax not below RetryMin", x.name)
		}
	}
	if journal && s.MaxPayload > maxJournaled {
		return fmt.Errorf("the setting MaxPayload is %d: a graph with a journal takes payloads of at most %d bytes", s.MaxPayload, maxJournaled)
	}
	return nil
}

// Stateful says whether the graph remembers something from one message to the next, so that it
// needs a journal.
func (p Plan) Stateful() bool {
	return slices.ContainsFunc(p.Operators, func(o OperatorNode) bool { return isStateful(o.Op) })
}

func isStateful(op any) bool {
	switch op.(type) {
	case node.Stateful, node.Delay, node.Accumulate, node.Window:
		return true
	}
	return false
}

// fingerprint names what the state of an old checkpoint belongs to: the operators, and the way to
// them.
func (p Plan) fingerprint() string {
	h := sha256.New()
	for _, s := range p.Sources {
		fmt.Fprintf(h, "source %q\n", s.Name)
	}
	for _, o := range p.Operators {
		fmt.Fprintf(h, "operator %q %T %q\n", o.Name, o.Op, o.Config)
	}
	for _, d := range p.Destinations {
		fmt.Fprintf(h, "destination %q\n", d.Name)
	}
	for _, e := range p.Edges {
		fmt.Fprintf(h, "edge %q %d %q\n", e.From, e.Arm, e.To)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// compile makes a core of a plan, or says all that is wrong with it.
func (p Plan) compile() (*core, error) {
	c := &core{name: p.Name, set: p.Settings.withDefaults()}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Name == "" {
		fault("a graph needs a name")
	}
	if len(p.Sources) == 0 || len(p.Destinations) == 0 {
		fault("a graph needs a source and a destination: there are %d and %d", len(p.Sources), len(p.Destinations))
	}
	index := map[string]int{}
	var all []vertex
	add := func(v vertex) {
		if v.name == "" {
			fault("a node needs a name")
		} else if _, twice := index[v.name]; twice {
			fault("two nodes have the name %q: give each its own", v.name)
		}
		index[v.name] = len(all)
		all = append(all, v)
	}
	for i, s := range p.Sources {
		add(vertex{name: s.Name, kind: source, end: i})
	}
	for _, o := range p.Operators {
		v, err := newOperator(o)
		if err != nil {
			fault("node %q: %w", o.Name, err)
		}
		add(v)
	}
	for i, d := range p.Destinations {
		add(vertex{name: d.Name, kind: destination, end: i, prepare: d.Prepare})
	}
	into := make([][]int, len(all)) // who leads to a node
	for _, e := range p.Edges {
		from, ok := index[e.From]
		to, ok2 := index[e.To]
		if !ok || !ok2 {
			fault("edge %s -> %s: there is no such node", e.From, e.To)
			continue
		}
		v := &all[from]
		arm := 0
		switch {
		case v.kind == destination || all[to].kind == source:
			fault("edge %s -> %s: an edge leads from a source or an operator to an operator or a destination", e.From, e.To)
			continue
		case v.kind == branch && e.Arm == None:
			fault("edge %s -> %s: %s branches: say which arm, %s.output.true or %s.output.false", e.From, e.To, e.From, e.From, e.From)
			continue
		case v.kind != branch && e.Arm != None:
			fault("edge %s.%v -> %s: %s has one output only", e.From, e.Arm, e.To, e.From)
			continue
		case e.Arm == True:
			arm = 1
		}
		if slices.Contains(v.outs[arm], to) {
			fault("edge %s -> %s is there twice", e.From, e.To)
			continue
		}
		v.outs[arm] = append(v.outs[arm], to)
		into[to] = append(into[to], from)
	}
	order, loop := sortNodes(all, into)
	if len(loop) > 0 {
		var names []string
		for _, i := range loop {
			names = append(names, all[i].name)
		}
		fault("the edges lead in a circle: see to %s", strings.Join(names, ", "))
	}
	reach := func(start func(vertex) bool, next func(int) []int) map[int]bool {
		seen, todo := map[int]bool{}, []int{}
		for i := range all {
			if start(all[i]) {
				seen[i], todo = true, append(todo, i)
			}
		}
		for len(todo) > 0 {
			i := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for _, j := range next(i) {
				if !seen[j] {
					seen[j], todo = true, append(todo, j)
				}
			}
		}
		return seen
	}
	onward := func(i int) []int { return slices.Concat(all[i].outs[0], all[i].outs[1]) }
	fed := reach(func(v vertex) bool { return v.kind == source }, onward)
	used := reach(func(v vertex) bool { return v.kind == destination }, func(i int) []int { return into[i] })
	for i := range all {
		switch {
		case !fed[i]:
			fault("nothing comes to node %q: no edges lead to it from a source", all[i].name)
		case !used[i]:
			fault("nothing comes of node %q: no edges lead from it to a destination", all[i].name)
		}
	}
	if err := c.set.validate(p.Stateful()); err != nil {
		fault("%w", err)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("graph %s: %w", p.Name, errors.Join(errs...))
	}
	c.sources = make([]int, len(p.Sources))
	c.fronts = make([]node.Time, len(p.Sources))
	c.dests = make([]int, len(p.Destinations))
	at := make([]int, len(all)) // where a node stands in the order
	for i, j := range order {
		at[j] = i
	}
	c.vertices = make([]vertex, len(all))
	for i, j := range order {
		v := all[j]
		for arm := range v.outs {
			for k, to := range v.outs[arm] {
				v.outs[arm][k] = at[to]
			}
			slices.Sort(v.outs[arm])
		}
		switch v.kind {
		case source:
			c.sources[v.end] = i
			v.from = []int{v.end}
		case destination:
			c.dests[v.end] = i
		default:
		}
		for _, before := range into[j] {
			v.from = append(v.from, c.vertices[at[before]].from...)
		}
		slices.Sort(v.from)
		v.from = slices.Compact(v.from)
		c.vertices[i] = v
		if v.kind == delay || v.kind == accumulate || v.kind == window {
			c.timed = append(c.timed, i)
		}
	}
	for i := range c.vertices {
		c.prepareVertex(i)
	}
	return c, nil
}

// newOperator finds out what an operator is.
func newOperator(o OperatorNode) (v vertex, err error) {
	v = vertex{name: o.Name, kind: merge}
	kinds := 0
	if x, ok := o.Op.(node.Map); ok {
		v.kind, v.mapper, kinds = mapper, x, kinds+1
	}
	if x, ok := o.Op.(node.Filter); ok {
		v.kind, v.filter, kinds = filter, x, kinds+1
	}
	if x, ok := o.Op.(node.Branch); ok {
		v.kind, v.branch, kinds = branch, x, kinds+1
	}
	if x, ok := o.Op.(node.Delay); ok {
		v.kind, v.delay, kinds = delay, x, kinds+1
	}
	if x, ok := o.Op.(node.Accumulate); ok {
		v.kind, v.accumulate, kinds = accumulate, x, kinds+1
	}
	if x, ok := o.Op.(node.Window); ok {
		v.kind, v.window, kinds = window, x, kinds+1
	}
	v.saver, _ = o.Op.(node.Stateful)
	switch {
	case o.Op != nil && kinds != 1:
		return v, fmt.Errorf("%T is %d kinds of operators: it must be one", o.Op, kinds)
	case v.kind == window && v.saver == nil:
		return v, fmt.Errorf("%T collects messages and cannot save them: it must be a node.Stateful", o.Op)
	}
	return v, nil
}

// sortNodes puts nodes into an order in which each edge leads forward; loop has those of a circle.
func sortNodes(all []vertex, into [][]int) (order, loop []int) {
	placed := make([]bool, len(all))
	for len(order) < len(all) {
		before := len(order)
		for i := range all {
			if !placed[i] && !slices.ContainsFunc(into[i], func(j int) bool { return !placed[j] }) {
				placed[i] = true
				order = append(order, i)
			}
		}
		if len(order) == before {
			for i := range all {
				if !placed[i] {
					loop = append(loop, i)
				}
			}
			return order, loop
		}
	}
	return order, nil
}
