// Package graph runs a data flow graph: messages of sources go through operators to destinations,
// in order, none is lost, and memory is bounded.
//
// One goroutine runs the operators of a graph, one message after the other, each through all nodes
// that it comes to, in topological order. So the order of a source is kept on every way through the
// graph. Sources and destinations have goroutines of their own.
//
// A message is acknowledged to its source when all that has come of it is safe: at each destination
// it went to, or dropped for a reason that is counted. A graph that remembers something
// ([Plan.Stateful]) writes messages to a journal and acknowledges them then. After a crash it goes
// on from its last checkpoint, and gives out the same outputs under the same ids. For that, the
// operators see nothing but the journal: the messages, and the ticks of the clock that moved the
// logical time of idle sources.
//
// Where to read: plan.go has what a graph is made of, core.go the way of one message, timed.go what
// waits for logical time, graph.go and queue.go the goroutines, the windows and the
// acknowledgements, journal.go what survives a crash, change.go what survives a change of the plan,
// offline.go a graph without all that.
package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
)

// Options are what a graph needs of its surroundings.
type Options struct {
	// Dir keeps the journal and the checkpoint of a graph that is Stateful. No other graph may use
	// it. It is made if it is missing.
	Dir string
	FS  disk.FS          // the disk; nil: the real one
	Now func() time.Time // the wall clock, which dates messages; nil: time.Now
	// Log, which may be nil, takes what a person should read, a line each. Many equal events are
	// one line.
	Log func(text string)
	// Stage, which may be nil, hears how long a message was in a stage: "queue" from the source to
	// the operators, "journal" until it was on the disk, "operators", and "destination" until it
	// was safe there.
	Stage func(stage string, took time.Duration)
	// DeadLetters, which may be nil, keeps the messages that failed.
	DeadLetters *DeadLetters
	// Remake, which may be nil, makes an operator of an older plan again, of its Recipe. With it, a
	// changed plan loses nothing of what the older one held.
	Remake func(node, recipe string) (op any, err error)
}

// Graph is a graph that can run once.
type Graph struct {
	plan Plan
	opt  Options
	core *core
	runs *core // core, or that of the plan before until the change is over; the operators' alone
	set  Settings
	j    *journal // nil: the graph remembers nothing

	queues  []*queue
	wake    chan struct{} // of the operators
	done    chan struct{} // Run has returned
	bursts  bursts
	failed  atomic.Pointer[failure] // the last message that failed; nil: none has
	outputs []output                // of the messages under way, for the operators alone
	last    []time.Time             // when each source handed in its last message
	anchor  []instant               // when each source's frontier was where it is
	looked  instant                 // when the operators have last emptied the inbox
	dead    []time.Time             // since when a source is not live; zero: it is
	live    []func() bool           // of sources that say so; nil: not
	refs    [maxTurn]int32          // outputs of each message of a turn
	current int32                   // the message of the turn
	spare   []arrival               // room for the inbox
	acks    []ack                   // of the operators
	tickets []uint64                // of the operators
	quit    context.CancelFunc      // ends Run; set by Run
	busy    time.Time               // the last turn
	fat     bool                    // there is memory to give back
	steady  func() time.Time        // a clock that is never set

	mu        sync.Mutex
	room      sync.Cond // there is room, or someone who waits for it must look
	waiting   int       // of those
	blocked   []int     // calls of take that wait, by source
	inbox     []arrival
	asleep    bool // the operators wait for wake
	inFlight  int  // messages that were taken and are not safe
	bytes     int  // of those
	held      int
	crowded   string // why nothing is taken although there is room; empty: no reason
	roots     []root
	free      []int32
	gen       uint32 // of new roots
	older     int    // roots of an older generation
	waits     bool   // a checkpoint waits for those
	journaled int64
	in, out   uint64
	state     State
	trouble   map[string]string // of nodes that have failed
	full      string
	notices   []string // what was lost, most of it at the start
	lost      uint64   // what the errors of the status are beside the drops
	draining  bool
	next      *shape             // what it is stopped for; nil: for no other plan, or that is done
	sources   int                // that run
	stop      context.CancelFunc // of the sources
}

// arrival is a message that was taken.
type arrival struct {
	node.Delivery
	src   int32
	size  int
	taken int64 // nanoseconds since 1970
	lost  bool  // it is no message for the journal
}

// output is a message on its way to a destination.
type output struct {
	m    node.Message
	dest int
	of   int32 // which message of the turn it came of
}

// root is a message of which something is not safe yet.
type root struct {
	refs   int32
	gen    uint32
	bytes  int
	from   node.Receiver
	ticket uint64
	taken  int64
}

// ack is an acknowledgement that is due.
type ack struct {
	from   node.Receiver
	ticket uint64
}

// maxTurn is how many messages the operators process before they hand the outputs on.
const maxTurn = 64

// New makes a graph of a plan. Its errors name each node that is at fault.
func New(p Plan, o Options) (*Graph, error) {
	c, err := p.compile()
	if err != nil {
		return nil, err
	}
	g := &Graph{
		plan: p, opt: o, core: c, set: c.set, wake: make(chan struct{}, 1), done: make(chan struct{}),
		state: Stopped, trouble: map[string]string{}, steady: time.Now,
		last: make([]time.Time, len(p.Sources)), anchor: make([]instant, len(p.Sources)), live: make([]func() bool, len(p.Sources)), dead: make([]time.Time, len(p.Sources)), blocked: make([]int, len(p.Sources)),
	}
	g.room.L = &g.mu
	for i, s := range p.Sources {
		if s.Source == nil {
			return nil, fmt.Errorf("graph %s: node %s has no source", p.Name, s.Name)
		}
		if l, ok := s.Source.(interface{ Live() bool }); ok {
			g.live[i] = l.Live
		}
	}
	for i, d := range p.Destinations {
		if d.Destination == nil {
			return nil, fmt.Errorf("graph %s: node %s has no destination", p.Name, d.Name)
		}
		g.queues = append(g.queues, newQueue(g, i, d))
	}
	if p.Stateful() && o.Dir == "" {
		return nil, fmt.Errorf("graph %s remembers messages, so it needs a directory for its journal", p.Name)
	}
	if g.opt.FS == nil {
		g.opt.FS = disk.Real()
	}
	if o.Dir != "" {
		g.j = &journal{g: g}
	}
	g.runs, c.emit, c.drop = c, g.emit, g.dropped
	return g, nil
}

// emit takes an output of the message under way.
func (g *Graph) emit(dest int, m *node.Message) {
	g.outputs = append(g.outputs, output{m: *m, dest: dest, of: g.current})
	g.refs[g.current]++
}

// now is for pauses and ages: nobody sets that clock.
func (g *Graph) now() time.Time { return g.steady() }

// instant is now by both clocks.
func (g *Graph) instant() instant {
	now := g.now()
	if g.opt.Now != nil {
		return instant{now, g.opt.Now().UnixNano()}
	}
	return instant{now, now.UnixNano()}
}

func (g *Graph) log(text string) {
	if g.opt.Log != nil {
		g.opt.Log(text)
	}
}

// Run runs the graph until ctx ends or Stop is called. It may be called once. What fails is tried
// again, so an error of Run says that the graph was started twice. At its end the operators that
// are an io.Closer are closed.
func (g *Graph) Run(ctx context.Context) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	taking, stop := context.WithCancel(ctx)
	defer stop()
	g.mu.Lock()
	if g.stop != nil {
		g.mu.Unlock()
		return fmt.Errorf("graph %s has been started already", g.plan.Name)
	}
	g.stop, g.quit, g.state = stop, quit, Running
	if g.draining {
		quit() // Stop came first: there is nothing to complete
	}
	g.mu.Unlock()
	defer close(g.done)
	defer g.close()

	var all sync.WaitGroup
	defer all.Wait()
	defer quit() // before that
	for _, q := range g.queues {
		all.Go(func() { g.supervise(ctx, q.name, func(ctx context.Context) error { return q.run(ctx) }) })
	}
	if g.j != nil && !g.j.start(ctx) {
		return nil
	}
	now := g.instant() // no source could say anything before, so none was silent
	for i := range g.last {
		g.spoke(i, now)
	}
	g.looked = now
	g.mu.Lock()
	g.sources = len(g.plan.Sources)
	g.mu.Unlock()
	for i, s := range g.plan.Sources {
		all.Go(func() {
			defer g.sourceEnded()
			g.supervise(taking, s.Name, func(ctx context.Context) error {
				return s.Source.Run(ctx, func(d node.Delivery) bool { return g.take(ctx, i, d) })
			})
		})
	}
	g.operate(ctx)
	return nil
}

// close ends what Run has left.
func (g *Graph) close() {
	if g.j != nil {
		g.j.close()
	}
	g.plan.Close(g.notClosed)
	g.runs.made.Close(g.notClosed)
	g.mu.Lock()
	g.state = Stopped
	g.mu.Unlock()
}

// StopFor ends Run as Stop does, to begin again with another plan. What the operators hold that
// this plan has not is given out first. What is not safe when ctx ends, the next Run gives out.
func (g *Graph) StopFor(ctx context.Context, next Plan) {
	s := next.shape()
	g.mu.Lock()
	g.next = &s
	g.mu.Unlock()
	g.Stop(ctx)
}

// notClosed tells of an operator that could not be closed.
func (g *Graph) notClosed(err error) { g.log(fmt.Sprintf("flow %s: %v", g.plan.Name, err)) }

// Stop ends Run: the sources stop first, then everything that was taken is completed. When ctx ends
// before that, the rest is left unacknowledged, or in the journal. What a window holds stays there.
// Stop returns when Run has returned; at once if Run was not called yet, and then Run ends at once.
func (g *Graph) Stop(ctx context.Context) {
	g.mu.Lock()
	stop, quit := g.stop, g.quit
	g.draining = true
	g.wakeLocked()
	g.mu.Unlock()
	if stop == nil {
		return
	}
	stop()
	select {
	case <-g.done:
	case <-ctx.Done():
		quit()
		<-g.done
	}
}

// supervise runs a source or a destination again and again until ctx ends, with a pause that grows.
func (g *Graph) supervise(ctx context.Context, name string, run func(context.Context) error) {
	pause := g.set.RetryMin
	var well *time.Timer
	defer func() {
		if well != nil {
			well.Stop()
		}
	}()
	for ctx.Err() == nil {
		began := g.now()
		err := g.guard(ctx, run)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it has ended, for no reason that it gives")
		}
		if g.now().Sub(began) > g.set.RetryMax {
			pause = g.set.RetryMin
		}
		wait := pause/2 + rand.N(pause/2+1)
		text := fmt.Sprintf("node %s has failed and is started again in %v: %v", name, wait.Round(time.Millisecond), err)
		g.ill(name, text)
		if more, ok := g.bursts.open(name+"\x00run", g.now()); ok {
			if more > 0 {
				text += fmt.Sprintf("; it has failed %d times more since this was last said", more)
			}
			g.log("flow " + g.plan.Name + ": " + text)
		}
		if well != nil {
			well.Stop()
		}
		sleep(ctx, wait)
		pause = min(2*pause, g.set.RetryMax)
		// It is well again when it has run for a while: until then the text stands.
		well = time.AfterFunc(g.set.RetryMin, func() { g.well(name) })
	}
}

// ill notes what is wrong with a part of the graph, and well takes it back.
func (g *Graph) ill(name, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trouble[name] = text
}

func (g *Graph) well(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.trouble, name)
}

// guard makes an error of a panic.
func (g *Graph) guard(ctx context.Context, run func(context.Context) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panics: %.300v, at %.2000s", p, debug.Stack())
		}
	}()
	return run(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// rouse lets everybody look again who waits for room.
func (g *Graph) rouse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room.Broadcast()
}

// take takes a message of a source as soon as there is room. It returns false when ctx has ended.
func (g *Graph) take(ctx context.Context, src int, d node.Delivery) bool {
	size := d.Message.Size()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.waitForRoom(ctx, src, size) {
		return false
	}
	g.inbox = append(g.inbox, arrival{Delivery: d, src: int32(src), size: size, taken: g.instant().wall})
	g.inFlight++
	g.bytes += size
	g.in++
	g.wakeLocked()
	return true
}

// waitForRoom returns when so many bytes may be taken; false when ctx has ended. src is the source
// that waits; -1: the journal. g.mu is held, and released meanwhile.
func (g *Graph) waitForRoom(ctx context.Context, src, size int) bool {
	return g.waitUntil(ctx, src, func() bool {
		return (src < 0 || g.crowded == "") &&
			(g.inFlight == 0 || g.inFlight < g.set.MaxMessages && g.bytes+size <= g.set.MaxBytes)
	})
}

// waitUntil returns when something is so that g.mu guards; false when ctx has ended. src is the
// source that waits; -1: the journal. g.mu is held, and released meanwhile.
func (g *Graph) waitUntil(ctx context.Context, src int, isSo func() bool) bool {
	if ctx.Err() != nil || isSo() {
		return ctx.Err() == nil
	}
	// The end of ctx itself must wake us: one that it comes of ends a moment earlier, and whoever
	// looks at ctx in between waits for ever.
	defer context.AfterFunc(ctx, g.rouse)()
	g.waiting++
	defer func() { g.waiting-- }()
	if src >= 0 {
		g.blocked[src]++
		defer func() { g.blocked[src]-- }()
	}
	for ctx.Err() == nil && !isSo() {
		g.room.Wait()
	}
	return ctx.Err() == nil
}

// wakeLocked wakes the operators. g.mu is held.
func (g *Graph) wakeLocked() {
	if g.asleep {
		g.asleep = false
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}

// sourceEnded counts the sources that have stopped.
func (g *Graph) sourceEnded() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sources--
	g.wakeLocked()
}

// operate runs the operators until ctx ends, or until the graph is drained.
func (g *Graph) operate(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		g.mu.Lock()
		batch := g.inbox
		g.inbox, g.spare = g.spare, nil
		g.asleep = len(batch) == 0
		isDrained := g.draining && g.sources == 0 && len(batch) == 0 && g.inFlight == 0
		var next *shape
		if isDrained {
			next, g.next = g.next, nil
		}
		now := g.instant()
		wasSet := now.lead(g.looked) > g.set.Idle
		g.looked = now
		for src := range g.blocked {
			switch {
			case g.isBusyLocked(src):
				g.spoke(src, now)
			case wasSet:
				g.last[src] = now.Time
			}
		}
		g.mu.Unlock()
		if isDrained {
			if next == nil || g.j == nil || !g.flushChanged(ctx, &g.j.shape, next) {
				return
			}
			continue
		}
		if len(batch) > 0 {
			if !g.turn(ctx, batch) {
				return
			}
			clear(batch)
			g.spare = batch[:0]
		}
		if len(g.core.timed) > 0 && !g.tick(ctx, now) {
			return
		}
		if g.j != nil {
			g.j.checkpoint()
		}
		if len(batch) > 0 {
			g.busy = g.now()
			continue
		}
		g.rest()
		pause, ok := g.nextLook()
		if ok {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		began := g.now()
		select {
		case <-g.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		if ok {
			g.slept(began.Add(pause))
		}
	}
}

// restAfter is how long a graph has had nothing to do when it gives its memory back.
const restAfter = time.Second

// rest gives back the memory of a graph that has nothing to do, so that many idle ones cost
// nothing.
func (g *Graph) rest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fat = cap(g.inbox) > maxTurn || cap(g.spare) > maxTurn || cap(g.roots) > maxTurn || cap(g.outputs) > maxTurn
	for _, q := range g.queues {
		g.fat = g.fat || cap(q.items) > maxTurn
	}
	if !g.fat || len(g.inbox) > 0 || g.inFlight > 0 || g.now().Sub(g.busy) < restAfter {
		return
	}
	g.fat = false
	if g.j != nil {
		g.j.rest()
	}
	g.inbox, g.spare, g.roots, g.free, g.outputs, g.acks, g.tickets = nil, nil, nil, nil, nil, nil, nil
	for _, q := range g.queues {
		q.base += uint64(len(q.items))
		q.items, q.first, q.next = nil, 0, 0
	}
}

// turn processes messages that were taken. It returns false when ctx has ended.
func (g *Graph) turn(ctx context.Context, batch []arrival) bool {
	for i := range batch {
		a := &batch[i]
		g.core.date(&a.Message, time.Unix(0, a.taken))
	}
	if g.opt.Stage != nil {
		now := g.instant().wall
		for i := range batch {
			g.opt.Stage("queue", time.Duration(now-batch[i].taken))
		}
	}
	for len(batch) > 0 {
		n, ok := len(batch), true
		if g.j != nil {
			n, ok = g.j.append(ctx, batch)
		}
		if !ok {
			return false
		}
		for from := 0; from < n; from += maxTurn {
			g.process(batch[from:min(from+maxTurn, n)], from)
		}
		batch = batch[n:]
	}
	return true
}

// process lets the operators process some messages, and hands the outputs on. The first of them was
// the from-th that was appended to the journal.
func (g *Graph) process(turn []arrival, from int) {
	now := g.instant()
	for i := range turn {
		a := &turn[i]
		g.current = int32(i)
		if a.lost {
			continue
		}
		p := position{text: a.Position}
		if g.j != nil {
			p = g.j.position(from + i)
		}
		g.feed(a, p, now)
	}
	if g.opt.Stage != nil {
		each := g.now().Sub(now.Time) / time.Duration(len(turn))
		for range turn {
			g.opt.Stage("operators", each)
		}
	}
	g.publish(turn)
}

// feed processes one message. Its source begins to be silent now, and not when the message was
// taken: until the journal had it, the source may have had no more than it could leave
// unacknowledged.
func (g *Graph) feed(a *arrival, p position, now instant) {
	src := int(a.src)
	front := g.core.fronts[src]
	isAhead := front.Before(a.Message.Time)
	if isAhead || !isAstray(front, now) {
		g.last[src] = now.Time
	}
	if isAhead || now.wall-a.taken > int64(g.set.Idle/2) {
		g.anchor[src] = now
	}
	g.core.feed(src, &a.Message, p)
}

// clock returns the time if somebody wants to know how long things take.
func (g *Graph) clock() (now time.Time) {
	if g.opt.Stage != nil {
		now = g.now()
	}
	return now
}

// publish hands the outputs of a turn to the destinations, and acknowledges the messages that
// nothing has come of. What a tick gives out has no arrival.
func (g *Graph) publish(turn []arrival) {
	now := g.clock()
	g.mu.Lock()
	g.held = g.runs.held
	k := 0
	for i := range max(len(turn), 1) {
		r := root{refs: g.refs[i], gen: g.gen}
		g.refs[i] = 0
		if i < len(turn) {
			a := &turn[i]
			r.bytes, r.from, r.ticket, r.taken = a.size, a.From, a.Ticket, a.taken
		}
		if r.refs == 0 {
			if i < len(turn) {
				g.settle(&r, &g.acks)
			}
			continue
		}
		if i >= len(turn) {
			r.taken = g.instant().wall
			for _, o := range g.outputs[k:] {
				r.bytes += o.m.Size()
			}
			g.inFlight++
			g.bytes += r.bytes
		}
		at := g.plant(r)
		for ; k < len(g.outputs) && g.outputs[k].of == int32(i); k++ {
			g.queues[g.outputs[k].dest].push(&g.outputs[k].m, at, now)
		}
	}
	g.settled()
	g.mu.Unlock()
	clear(g.outputs)
	g.outputs = g.outputs[:0]
	g.tickets = acknowledge(g.acks, g.tickets)
	clear(g.acks)
	g.acks = g.acks[:0]
}

// plant keeps a root until it is settled. g.mu is held.
func (g *Graph) plant(r root) int32 {
	if n := len(g.free); n > 0 {
		at := g.free[n-1]
		g.free = g.free[:n-1]
		g.roots[at] = r
		return at
	}
	g.roots = append(g.roots, r)
	return int32(len(g.roots) - 1)
}

// complete says that an output of a root is safe, or will never be. g.mu is held.
func (g *Graph) complete(at int32, acks *[]ack) {
	r := &g.roots[at]
	r.refs--
	if r.refs > 0 {
		return
	}
	if r.gen != g.gen {
		g.older--
	}
	g.settle(r, acks)
	*r = root{}
	g.free = append(g.free, at)
}

// settle counts a message out. g.mu is held.
func (g *Graph) settle(r *root, acks *[]ack) {
	g.inFlight--
	g.bytes -= r.bytes
	if r.from != nil {
		*acks = append(*acks, ack{r.from, r.ticket})
	}
}

// settled lets those go on who wait for what was settled. g.mu is held.
func (g *Graph) settled() {
	g.crowded, g.full = "", ""
	if g.held > g.set.MaxHeld {
		g.crowded = "held"
		g.full = fmt.Sprintf("windows hold %d bytes, so nothing is taken until some close", g.held)
	} else if g.j != nil && g.journaled > g.set.JournalBytes {
		g.crowded = "journal"
		g.full = fmt.Sprintf("the journal has %d bytes that wait for their outputs to arrive, so nothing is taken", g.journaled)
	}
	if g.waiting > 0 && g.crowded == "" || g.waiting > 0 && g.inFlight == 0 {
		g.room.Broadcast()
	}
	if g.draining && g.inFlight == 0 || g.waits && g.older == 0 {
		g.wakeLocked()
	}
}

// acknowledge tells receivers what is safe. It returns the room that it used.
func acknowledge(acks []ack, tickets []uint64) []uint64 {
	for len(acks) > 0 {
		from := acks[0].from
		n := 0
		tickets = tickets[:0]
		for n < len(acks) && acks[n].from == from {
			tickets = append(tickets, acks[n].ticket)
			n++
		}
		from.Acked(tickets)
		acks = acks[n:]
	}
	return tickets[:0]
}
