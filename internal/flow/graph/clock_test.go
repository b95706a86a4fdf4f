package graph

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// setClock is a wall clock that a test sets.
type setClock struct{ by atomic.Int64 }

func (c *setClock) set(by time.Duration) { c.by.Store(int64(by)) }
func (c *setClock) now() time.Time       { return time.Now().Add(time.Duration(c.by.Load())) }

// chatter lets a source hand in an undated message twice a second.
func chatter(h *hand, howLong time.Duration) {
	for range howLong / (500 * time.Millisecond) {
		h.give(text("x"))
		time.Sleep(500 * time.Millisecond)
	}
	synctest.Wait()
}

func TestWindowsCloseAlthoughTheClockWasSetBack(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var clock setClock
			clock.set(2 * time.Hour)
			in, out := newHand(), newFar()
			o := testJournal(t)
			o.Now = clock.now
			g, stop := start(t, chain(in, out, &tumbling{length: 10 * time.Second}), o)
			chatter(in, time.Minute)
			equal(t, "windows before", len(out.bodies()), 5)
			clock.set(0)
			if restarts {
				stop()
				in = newHand()
				g, stop = start(t, chain(in, out, &tumbling{length: 10 * time.Second}), o)
			}
			defer func() { stop() }()
			chatter(in, time.Minute)
			if n := len(out.bodies()); n < 7 {
				t.Errorf("%d windows in the minute after, want 2 at least", n-5)
			}
			chatter(in, 5*time.Hour)
			late := g.Status().Late
			chatter(in, time.Hour)
			equal(t, "late when the clock has caught up", g.Status().Late-late, 0)
			time.Sleep(time.Minute)
			synctest.Wait()
			all := strings.Join(out.bodies(), "+")
			equal(t, "messages in windows", strings.Count(all, "x"), 2*(60+60+6*60*60))
		})
	}
}

// startTwo runs a graph with a window of ten seconds behind two sources.
func startTwo(t *testing.T, clock *setClock, a, b *hand, out *far) (*Graph, func()) {
	t.Helper()
	p := chain(a, out, &tumbling{length: 10 * time.Second})
	p.Sources = append(p.Sources, SourceNode{Name: "other", Source: b})
	p.Edges = append(p.Edges, Edge{From: "other", To: "op1"})
	o := testJournal(t)
	o.Now = clock.now
	return start(t, p, o)
}

func TestASilentSourceFollowsAClockThatWasSetAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock setClock
		a, b, out := newHand(), newHand(), newFar()
		g, stop := startTwo(t, &clock, a, b, out)
		defer stop()
		b.give(text("x"))
		chatter(a, time.Minute)
		clock.set(50 * 365 * 24 * time.Hour) // a device without a clock of its own has asked for the time
		before := len(out.bodies())
		chatter(a, 30*time.Second)
		if n := len(out.bodies()) - before; n > 1 {
			t.Errorf("%d windows have closed although the source may yet say something", n)
		}
		chatter(a, patience)
		if n := len(out.bodies()) - before; n < 8 {
			t.Errorf("%d windows in a minute and a half", n)
		}
		b.give(text("x"))
		synctest.Wait()
		equal(t, "late", g.Status().Late, 0)
	})
}

func TestAMachineThatSleptHearsWhatItsSourcesKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock setClock
		a, b, out := newHand(), newHand(), newFar()
		g, stop := startTwo(t, &clock, a, b, out)
		defer stop()
		began := time.Now()
		a.give(at(began, "1"))
		time.Sleep(2 * time.Second)
		clock.set(time.Hour) // a clock that only goes on does not while the machine sleeps
		b.give(text("x"))
		time.Sleep(5 * time.Second) // the connection of the first source is made anew
		a.give(at(began.Add(6*time.Second), "2"), at(began.Add(16*time.Second), "3"))
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1+2")
		equal(t, "late", g.Status().Late, 0)
	})
}
