package graph

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// patience is how long a source may be without its connection before it counts as idle all the same.
const patience = time.Minute

// reach returns when the wall clock moves the frontier of an idle source to a logical time: at the
// pace of the clock from the highest time that it has handed in, since the time is as far behind the
// clock as it was then. ok is false if the source is not idle at that moment, as far as can be told;
// then it is to be asked again at the time that is returned.
func (g *Graph) reach(src int, at node.Time, now time.Time) (when time.Time, ok bool) {
	if g.isBusy(src) {
		g.spoke(src, now)
		return now.Add(g.set.Idle), false
	}
	switch isDead := g.isDead(src); {
	case !isDead && !g.dead[src].IsZero():
		g.dead[src], g.last[src] = time.Time{}, now // what has waited comes now
	case isDead && g.dead[src].IsZero():
		g.dead[src] = now
	}
	if d := g.dead[src]; !d.IsZero() && now.Sub(d) < patience {
		g.spoke(src, now)
		return now.Add(g.set.Idle), false
	}
	when = at.Wall()
	if front := g.core.fronts[src]; !isZero(front) {
		when = g.anchor[src].Add(time.Duration(sub(at.Nanos, front.Nanos)))
	}
	if idle := g.last[src].Add(g.set.Idle); when.Before(idle) {
		when = idle
	}
	return when, true
}

// isDead says that a source has failed and is to be started again, or that it has no connection.
func (g *Graph) isDead(src int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.trouble[g.plan.Sources[src].Name] != "" || g.live[src] != nil && !g.live[src]()
}

func (g *Graph) isDraining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}

// spoke notes that a source is not silent, whatever its last message was.
func (g *Graph) spoke(src int, now time.Time) { g.last[src], g.anchor[src] = now, now }

// sub subtracts without overflow.
func sub(a, b int64) int64 {
	if d := a - b; (d < 0) == (a < b) {
		return d
	} else if a < b {
		return math.MinInt64
	}
	return math.MaxInt64
}

// isBusy says that a source has more than it may hand in, so that it is not idle although it hands
// in nothing. If the graph is full of what waits for time, time must go on.
func (g *Graph) isBusy(src int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isBusyLocked(src)
}

func (g *Graph) isBusyLocked(src int) bool { return g.blocked[src] > 0 && g.crowded != "held" }

// nextTick returns when the wall clock lets something out that is held, if no message comes. While
// the graph is being stopped it lets out nothing: the sources are silent because they were told to.
func (g *Graph) nextTick(now time.Time) (next time.Time, ok bool) {
	if g.isDraining() {
		return next, false
	}
	for _, i := range g.core.timed {
		v := &g.core.vertices[i]
		at, pass, isOpen := v.due()
		if !isOpen {
			continue
		}
		if pass {
			at = node.Time{Nanos: at.Nanos + 1}
		}
		var when time.Time
		for _, src := range v.from {
			if !g.core.fronts[src].Before(at) {
				continue
			}
			if t, _ := g.reach(src, at, now); t.After(when) {
				when = t
			}
		}
		if !ok || when.Before(next) {
			next, ok = when, true
		}
	}
	return next, ok
}

// nextLook returns how long it is until the operators must look at the clock although nothing comes.
func (g *Graph) nextLook() (pause time.Duration, ok bool) {
	now := g.now()
	next, ok := g.nextTick(now)
	if rest := g.busy.Add(restAfter); g.fat && rest.After(now) && (!ok || rest.Before(next)) {
		next, ok = rest, true
	}
	if g.j != nil {
		if at, due := g.j.nextCheckpoint(); due && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return max(next.Sub(now), 0), ok
}

// slept learns that the operators were to wake up at a time. If they wake up much later, the process
// was held up, and so were the sources: what they have to say comes now.
func (g *Graph) slept(until time.Time) {
	now := g.now()
	late := now.Sub(until)
	if late <= g.set.Idle/2 {
		return
	}
	for src := range g.last {
		g.last[src], g.anchor[src] = now, g.anchor[src].Add(late)
	}
}

// tick moves the logical time of idle sources to what the wall clock said at a moment, if that lets
// something out. All that was taken by then has been processed: what a source has handed in since is
// no silence. It returns false when ctx has ended.
func (g *Graph) tick(ctx context.Context, now time.Time) bool {
	if at, ok := g.nextTick(now); !ok || at.After(now) {
		return true
	}
	fronts := slices.Clone(g.core.fronts)
	for src := range fronts {
		front := fronts[src]
		if when, ok := g.reach(src, front, now); !ok || when.After(now) {
			continue
		}
		to := node.TimeOf(now)
		if !isZero(front) {
			to = node.Time{Nanos: front.Nanos + int64(now.Sub(g.anchor[src]))}
		}
		if front.Before(to) {
			fronts[src], g.anchor[src] = to, now
		}
	}
	var p position
	if g.j != nil {
		var ok bool
		if p, ok = g.j.appendTick(ctx, fronts); !ok {
			return false
		}
	}
	g.current = 0
	g.core.tick(fronts, p)
	g.publish(nil)
	return true
}
