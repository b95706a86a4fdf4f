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
		g.last[src], g.anchor[src] = now, now
		return now.Add(g.set.Idle), false
	}
	if live := g.live[src]; live != nil {
		switch dead := !live(); {
		case !dead && !g.dead[src].IsZero():
			g.dead[src], g.last[src] = time.Time{}, now // what has waited comes now
		case dead && g.dead[src].IsZero():
			g.dead[src] = now
		}
		if d := g.dead[src]; !d.IsZero() && now.Sub(d) < patience {
			g.last[src], g.anchor[src] = now, now
			return now.Add(g.set.Idle), false
		}
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
	return g.blocked[src] > 0 && g.crowded != "held"
}

// nextTick returns when the wall clock lets something out that is held, if no message comes.
func (g *Graph) nextTick(now time.Time) (next time.Time, ok bool) {
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

// nextLook returns when the operators must look at the clock although nothing comes.
func (g *Graph) nextLook() (next time.Time, ok bool) {
	now := g.now()
	next, ok = g.nextTick(now)
	if rest := g.busy.Add(restAfter); g.fat && rest.After(now) && (!ok || rest.Before(next)) {
		next, ok = rest, true
	}
	if g.j != nil {
		if at, due := g.j.nextCheckpoint(); due && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return next, ok
}

// tick moves the logical time of idle sources to what the wall clock says, if that lets something
// out. It returns false when ctx has ended.
func (g *Graph) tick(ctx context.Context) bool {
	now := g.now()
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
