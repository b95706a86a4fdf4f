package graph

import (
	"fmt"
	"math"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// Offline runs a graph without endpoints, goroutines, clocks and disks: for a trial, a test, or a
// replay. One goroutine may use it at a time.
type Offline struct {
	c       *core
	sources map[string]int
}

// NewOffline returns the graph of a plan whose sources and destinations need not be there. out gets
// each output with the name of its destination; drop, which may be nil, each message that leaves the
// graph without one. Both are called by Feed and by Close, and the messages are theirs.
func NewOffline(p Plan, out func(destination string, m node.Message), drop func(Drop, node.Message)) (*Offline, error) {
	c, err := p.compile()
	if err != nil {
		return nil, err
	}
	o := &Offline{c: c, sources: map[string]int{}}
	for i, s := range p.Sources {
		o.sources[s.Name] = i
	}
	c.emit = func(dest int, m *node.Message) { out(p.Destinations[dest].Name, *m) }
	if drop != nil {
		c.drop = func(d Drop, m *node.Message) { drop(d, *m) }
	}
	return o, nil
}

// Feed processes a message that a source hands in, and all that its logical time lets out. The
// message has its Time, see [EventTime]; pos, which may be empty, names it in the ids of its
// outputs.
func (o *Offline) Feed(source string, m node.Message, pos string) error {
	i, ok := o.sources[source]
	if !ok {
		return fmt.Errorf("graph %s has no source %q", o.c.name, source)
	}
	o.c.feed(i, &m, position{text: pos})
	return nil
}

// Close is the end of the input: it closes all windows, and gives out everything that is held. Then
// it closes nothing else: the operators belong to the caller.
func (o *Offline) Close() {
	end := make([]node.Time, len(o.c.fronts))
	for i := range end {
		end[i] = node.Time{Nanos: math.MaxInt64, Counter: math.MaxUint64}
	}
	o.c.tick(end, position{text: "end"})
}

// Late returns how many messages came behind the frontier so far.
func (o *Offline) Late() uint64 { return o.c.late.Load() }
