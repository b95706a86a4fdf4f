package graph

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// This file says what a graph still remembers after its plan has changed.
//
// A checkpoint contains the plan that wrote it. If the graph starts with another plan, it makes the
// operators of the old one again, and lets them process what is in the journal. Then those that
// have changed give out what they hold, and those that have not hand it on to the new plan. The
// first checkpoint of the new plan is written when all outputs of the old one are safe, and nothing
// is taken before that. Until then the disk has the old checkpoint and the journal. So a crash at
// any moment leads to the same outputs under the same ids.

// shape is a plan as a checkpoint keeps it.
type shape struct {
	Sources      []string
	Operators    []operatorShape
	Destinations []string
	Edges        []Edge
}

type operatorShape struct {
	Name, Kind, Config string
	Recipe             string `json:",omitempty"`
}

func (p Plan) shape() (s shape) {
	for _, x := range p.Sources {
		s.Sources = append(s.Sources, x.Name)
	}
	for _, o := range p.Operators {
		s.Operators = append(s.Operators, operatorShape{o.Name, fmt.Sprintf("%T", o.Op), o.Config, o.Recipe})
	}
	for _, d := range p.Destinations {
		s.Destinations = append(s.Destinations, d.Name)
	}
	s.Edges = p.Edges
	return s
}

func (s *shape) encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has nothing but texts and numbers
	}
	return b
}

// inputs are the edges that lead to a node, in an order that does not depend on the plan's.
func (s *shape) inputs(name string) (all []Edge) {
	for _, e := range s.Edges {
		if e.To == name {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Edge) int {
		return cmp.Or(strings.Compare(a.From, b.From), cmp.Compare(a.Arm, b.Arm))
	})
	return all
}

// changed returns the names of the operators that another plan has not, or not with the same
// configuration and inputs.
func (s *shape) changed(next *shape) (names []string) {
	for _, o := range s.Operators {
		isSame := slices.Contains(next.Operators, o) && slices.Equal(s.inputs(o.Name), next.inputs(o.Name))
		if !isSame {
			names = append(names, o.Name)
		}
	}
	return names
}

// oldCore makes the core of an old plan. Its destinations are those of the graph with their names.
// What was to go to one that is gone goes to one that has come: perhaps it is the same under
// another name. If none has come, it is lost.
func (g *Graph) oldCore(s *shape) (*core, error) {
	p := Plan{Name: g.plan.Name, Edges: s.Edges, Settings: g.plan.Settings}
	for _, name := range s.Sources {
		p.Sources = append(p.Sources, SourceNode{Name: name})
	}
	for _, o := range s.Operators {
		op, err := g.remake(o)
		if err != nil {
			p.Close(nil)
			return nil, err
		}
		p.Operators = append(p.Operators, OperatorNode{Name: o.Name, Op: op})
	}
	var come []int
	for i, d := range g.plan.Destinations {
		if !slices.Contains(s.Destinations, d.Name) {
			come = append(come, i)
		}
	}
	place, gone := make([]int, len(s.Destinations)), 0
	for i, name := range s.Destinations {
		at := slices.IndexFunc(g.plan.Destinations, func(d DestinationNode) bool { return d.Name == name })
		if at < 0 && len(come) > 0 {
			at = come[min(gone, len(come)-1)]
			gone++
		}
		d := DestinationNode{Name: name}
		if at >= 0 {
			d.Prepare = g.plan.Destinations[at].Prepare
		}
		place[i] = at
		p.Destinations = append(p.Destinations, d)
	}
	c, err := p.compile()
	if err != nil {
		p.Close(nil)
		return nil, err
	}
	c.emit = func(dest int, m *node.Message) {
		if place[dest] < 0 {
			why := fmt.Errorf("the graph has no destination %s any more", s.Destinations[dest])
			c.lose(c.dests[dest], Orphaned, why, m)
			return
		}
		g.emit(place[dest], m)
	}
	c.drop = func(d Drop, m *node.Message) {
		g.core.count(d)
		g.dropped(d, m)
	}
	c.made = p
	return c, nil
}

// remake makes an operator of its recipe.
func (g *Graph) remake(o operatorShape) (op any, err error) {
	if o.Kind == fmt.Sprintf("%T", nil) {
		return nil, nil
	}
	if g.opt.Remake == nil || o.Recipe == "" {
		return nil, fmt.Errorf("node %s has no recipe", o.Name)
	}
	op, err = g.opt.Remake(o.Name, o.Recipe)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", o.Name, err)
	}
	if kind := fmt.Sprintf("%T", op); kind != o.Kind {
		return nil, fmt.Errorf("node %s is made as %s, and was %s", o.Name, kind, o.Kind)
	}
	return op, nil
}

// isOpen says whether one of some nodes holds something.
func (c *core) isOpen(names []string) bool {
	return slices.ContainsFunc(c.timed, func(i int) bool {
		_, _, ok := c.vertices[i].due()
		return ok && slices.Contains(names, c.vertices[i].name)
	})
}

// flush lets some nodes give out all that they hold, in topological order.
func (c *core) flush(names []string, p position) {
	c.pos = p
	for i := range c.vertices {
		c.work(i)
		if slices.Contains(names, c.vertices[i].name) {
			c.pour(i)
		}
	}
	c.finish()
}

// pour gives out all that a vertex holds.
func (c *core) pour(i int) {
	v := &c.vertices[i]
	for len(v.holds)+len(v.groups) > 0 {
		c.letOut(i)
	}
	if v.kind != window {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			m := node.Message{Time: c.current(v)}
			c.lose(i, Panicked, fmt.Errorf("the window panics: %.300v", p), &m)
		}
	}()
	v.window.Flush(v.emitted)
}

// flushChanged gives out what the operators hold that another plan has not. The journal says so
// first: a replay gives it out at the same place. It returns false when ctx has ended.
func (g *Graph) flushChanged(ctx context.Context, before, next *shape) bool {
	names := before.changed(next)
	if !g.runs.isOpen(names) {
		return true
	}
	p, ok := g.j.appendFlush(ctx, names)
	if !ok {
		return false
	}
	g.current = 0
	g.runs.flush(names, p)
	g.publish(nil)
	return true
}

// slowChange is how long a change may take before the status says what it waits for.
const slowChange = 10 * time.Second

// past is what a checkpoint has.
type past struct {
	shape  shape // of its plan; empty if it is an old one
	isOld  bool  // it does not say what its plan was
	isSame bool  // the plan is that of the graph
	state  []byte
}

// resume puts back what the graph remembered. If the plan has changed and the operators of the old
// one can be made again, they run until change.
func (j *journal) resume(p *past) {
	g := j.g
	d := decoder{b: p.state}
	m := d.memories(g.core, p.isOld)
	say := func(text string) { g.log("flow " + g.plan.Name + ": " + text) }
	if d.failed || len(d.b) > 0 {
		g.damaged(1, "the checkpoint makes no sense: the graph has forgotten what it remembered")
		j.stale = true
		return
	}
	c, isSame := g.core, func(string) bool { return true }
	if !p.isSame {
		next := g.plan.shape()
		changed := p.shape.changed(&next)
		old, err := g.oldCore(&p.shape)
		if err == nil {
			say("the graph has changed: " + changeText(remembering(m, changed)))
			c, j.shape, g.runs = old, p.shape, old
		} else {
			isSame = func(name string) bool { return !slices.Contains(changed, name) }
			j.forgotten(changed, m, err)
		}
	}
	for _, err := range c.take(m, isSame) {
		say(fmt.Sprintf("%v: it begins anew", err))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = c.held
}

// remembering returns those of some nodes that remember something.
func remembering(m memories, names []string) (some []string) {
	for i := range m.nodes {
		n := &m.nodes[i]
		if slices.Contains(names, n.name) && (n.saved != nil || len(n.holds)+len(n.groups) > 0) {
			some = append(some, n.name)
		}
	}
	return some
}

func changeText(names []string) string {
	if len(names) == 0 {
		return "all nodes go on with what they remember"
	}
	return "the nodes " + strings.Join(names, ", ") +
		" begin anew when they have given out what they hold; the others go on with what they remember"
}

// forgotten tells what is lost with the rules of an old plan.
func (j *journal) forgotten(changed []string, m memories, why error) {
	g := j.g
	j.stale = true
	changed = remembering(m, changed)
	if len(changed) == 0 {
		g.log("flow " + g.plan.Name + ": the graph has changed: " + changeText(nil))
		return
	}
	held := 0
	for i := range m.nodes {
		if slices.Contains(changed, m.nodes[i].name) {
			held += m.nodes[i].waiting
		}
	}
	text := fmt.Sprintf("the graph has changed, and its old rules cannot be had any more (%v): "+
		"the nodes %s begin anew and take what waits in the journal", why, strings.Join(changed, ", "))
	if held > 0 {
		text += fmt.Sprintf("; %d messages that they held are in no result", held)
		g.noticed(uint64(held), text)
	}
	g.log("flow " + g.plan.Name + ": " + text)
}

// change goes over to the plan of the graph from that of the checkpoint, which runs. It returns
// false when ctx has ended.
func (j *journal) change(ctx context.Context) bool {
	g := j.g
	old, next := g.runs, g.plan.shape()
	changed := j.shape.changed(&next)
	if !g.flushChanged(ctx, &j.shape, &next) {
		return false
	}
	if !j.awaitSafe(ctx) {
		return false
	}
	isSame := func(name string) bool { return !slices.Contains(changed, name) }
	for _, err := range g.core.take(old.recall(), isSame) {
		g.log(fmt.Sprintf("flow %s: %v: it begins anew", g.plan.Name, err))
	}
	g.core.late.Add(old.late.Load())
	old.made.Close(g.notClosed)
	g.runs, j.shape = g.core, next
	g.mu.Lock()
	g.held = g.core.held
	g.mu.Unlock()
	return j.settle(ctx)
}

// settle writes a checkpoint now, when all is safe. It returns false when ctx has ended.
func (j *journal) settle(ctx context.Context) bool {
	j.waits, j.stale, j.retry = nil, true, time.Time{}
	for j.checkpoint(); j.stale; j.checkpoint() {
		sleep(ctx, again)
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// awaitSafe returns when all is safe that has come out; false when ctx has ended.
func (j *journal) awaitSafe(ctx context.Context) bool {
	g := j.g
	isOver := false
	slow := time.AfterFunc(slowChange, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !isOver {
			g.trouble["change"] = "nothing is taken until all is safe that came of the rules before the change; " +
				"see to the destinations"
		}
	})
	defer slow.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	isSafe := g.waitUntil(ctx, -1, func() bool { return g.inFlight == 0 })
	isOver = true
	delete(g.trouble, "change")
	return isSafe
}

// count counts a message that left an older plan. At a node that is gone it counts at the first
// source.
func (c *core) count(d Drop) {
	at := c.index(d.Node)
	if at < 0 {
		at = c.sources[0]
	}
	c.counts[at][d.Reason].Add(1)
}

// index returns which vertex has a name; -1: none.
func (c *core) index(name string) int {
	return slices.IndexFunc(c.vertices, func(v vertex) bool { return v.name == name })
}
