package graph

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// patience is how long a source may be without its connection before it counts as idle all the
// same.
const patience = time.Minute

// instant is a time by two clocks: the steady one, for what lasts, and the wall clock, which people
// and programs set.
type instant struct {
	time.Time
	wall int64 // nanoseconds since 1970
}

// lead returns how much farther than the time that has passed since an instant the wall clock has
// gone: it was set, or the machine slept.
func (m instant) lead(since instant) time.Duration {
	return time.Duration(m.wall-since.wall) - m.Sub(since.Time)
}

// isAstray says that a frontier is farther ahead of the wall clock than a message may be: the clock
// was set back. Then what comes is behind the frontier, and does not move it.
func isAstray(front node.Time, now instant) bool { return front.Nanos > now.wall+int64(maxAhead) }

// reach returns when the wall clock moves the frontier of an idle source to a logical time: at the
// pace of the clock from the highest time that it has handed in, since the time is as far behind
// the clock as it was then. ok is false if the source is not idle at that moment, as far as can be
// told; then it is to be asked again at the time that is returned.
//
// If the wall clock was set back, time goes on at half its pace until the clock has caught up: so
// windows close meanwhile. If it was set ahead, or the machine slept, the source has a while to say
// so itself.
func (g *Graph) reach(src int, at node.Time, now instant) (when time.Time, ok bool) {
	if g.isBusy(src) {
		g.spoke(src, now)
		return now.Add(g.set.Idle), false
	}
	switch isDead := g.isDead(src); {
	case !isDead && !g.dead[src].IsZero():
		g.dead[src], g.last[src] = time.Time{}, now.Time // what has waited comes now
	case isDead && g.dead[src].IsZero():
		g.dead[src] = now.Time
	}
	if d := g.dead[src]; !d.IsZero() && now.Sub(d) < patience {
		g.spoke(src, now)
		return now.Add(g.set.Idle), false
	}
	front := g.core.fronts[src]
	if isZero(front) {
		when = now.Add(time.Duration(sub(at.Nanos, now.wall)))
	} else {
		d, anchor := time.Duration(sub(at.Nanos, front.Nanos)), g.anchor[src]
		when = anchor.Add(d)
		if isAstray(front, now) {
			when = when.Add(d)
		} else if lead := now.lead(anchor); lead > g.set.Idle {
			when = earliest(when, latest(anchor.Add(d-lead), g.last[src].Add(patience)))
		}
	}
	return latest(when, g.last[src].Add(g.set.Idle)), true
}

// goOn returns the logical time of an idle source now, and the anchor of that.
func (g *Graph) goOn(src int, now instant) (to node.Time, anchor instant) {
	front, anchor := g.core.fronts[src], g.anchor[src]
	if isZero(front) {
		return node.Time{Nanos: now.wall}, now
	}
	d, lead := now.Sub(anchor.Time), now.lead(anchor)
	switch {
	case isAstray(front, now):
		d /= 2
	case lead <= g.set.Idle:
	case now.Sub(g.last[src]) < patience:
		return node.Time{Nanos: front.Nanos + int64(d)}, instant{now.Time, anchor.wall + int64(d)}
	default:
		d += lead
	}
	return node.Time{Nanos: front.Nanos + int64(d)}, now
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// isDead says that a source has failed and is to be started again, or that it has no connection.
func (g *Graph) isDead(src int) bool {
	g.mu.Lock()
	isIll := g.trouble[g.plan.Sources[src].Name] != ""
	g.mu.Unlock()
	return isIll || g.live[src] != nil && !g.live[src]()
}

func (g *Graph) isDraining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}

// spoke notes that a source is not silent, whatever its last message was.
func (g *Graph) spoke(src int, now instant) { g.last[src], g.anchor[src] = now.Time, now }

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
func (g *Graph) nextTick(now instant) (next time.Time, ok bool) {
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

// nextLook returns how long it is until the operators must look at the clock although nothing
// comes.
func (g *Graph) nextLook() (pause time.Duration, ok bool) {
	now := g.instant()
	next, ok := g.nextTick(now)
	if rest := g.busy.Add(restAfter); g.fat && rest.After(now.Time) && (!ok || rest.Before(next)) {
		next, ok = rest, true
	}
	if g.j != nil {
		if at, due := g.j.nextCheckpoint(); due && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return max(next.Sub(now.Time), 0), ok
}

// slept learns that the operators were to wake up at a time. If they wake up much later, the
// process was held up, and so were the sources: what they have to say comes now.
func (g *Graph) slept(until time.Time) {
	now := g.now()
	late := now.Sub(until)
	if late <= g.set.Idle/2 {
		return
	}
	for src := range g.last {
		a := g.anchor[src]
		g.last[src], g.anchor[src] = now, instant{a.Add(late), a.wall + int64(late)}
	}
}

// tick moves the logical time of idle sources to what the wall clock said at a moment, if that lets
// something out. All that was taken by then has been processed: what a source has handed in since
// is no silence. It returns false when ctx has ended.
func (g *Graph) tick(ctx context.Context, now instant) bool {
	if at, ok := g.nextTick(now); !ok || at.After(now.Time) {
		return true
	}
	fronts := slices.Clone(g.core.fronts)
	for src := range fronts {
		front := fronts[src]
		if when, ok := g.reach(src, front, now); !ok || when.After(now.Time) {
			continue
		}
		if to, anchor := g.goOn(src, now); front.Before(to) {
			fronts[src], g.anchor[src] = to, anchor
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
