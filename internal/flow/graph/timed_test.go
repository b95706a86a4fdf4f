package graph

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// trial is a graph offline, and what came out of it.
type trial struct {
	*Offline
	out   []string // <destination> <second> <payload> <id>
	lost  []string // <node> <reason> <payload>
	plain []string // payloads
}

func try(t testing.TB, p Plan) *trial {
	t.Helper()
	x := &trial{}
	o, err := NewOffline(p, func(dest string, m node.Message) {
		x.out = append(x.out, fmt.Sprintf("%s %v %s %s", dest, m.Time.Wall().Sub(epoch).Seconds(), m.Payload, m.ID))
		x.plain = append(x.plain, string(m.Payload))
	}, func(d Drop, m node.Message) {
		x.lost = append(x.lost, fmt.Sprintf("%s %v %s", d.Node, d.Reason, m.Payload))
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Offline = o
	return x
}

func (x *trial) feed(t testing.TB, source string, ms ...node.Message) {
	t.Helper()
	for i, m := range ms {
		if err := x.Feed(source, m, fmt.Sprint(m.Time.Wall().Sub(epoch).Seconds(), "-", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADelayHoldsUntilTheFrontierReachesItsTime(t *testing.T) {
	x := try(t, chain(nil, nil, tumble(10*time.Second)))
	x.feed(t, "in", timed(1, "a"), timed(9, "b"), timed(9.9, "c"))
	equalAll(t, "before", x.plain)
	x.feed(t, "in", timed(10, "d"))
	equalAll(t, "at 10", x.out, "out 10 a g/in/1-0/0", "out 10 b g/in/9-1/0", "out 10 c g/in/9.9-2/0")
	x.Close()
	equalAll(t, "at the end", x.out[3:], "out 20 d g/in/10-0/0")
}

func TestADelayNeverMovesTimeBack(t *testing.T) {
	x := try(t, chain(nil, nil, delayFunc(func(_ *node.Message, at node.Time) (node.Time, error) {
		return node.Time{Nanos: at.Nanos - 1e9}, nil
	})))
	x.feed(t, "in", timed(5, "a"))
	equalAll(t, "out", x.out, "out 5 a g/in/5-0/0")
}

func TestAnAccumulationFoldsWhatHasOneLogicalTime(t *testing.T) {
	x := try(t, chain(nil, nil, tumble(10*time.Second), foldFunc(join)))
	x.feed(t, "in", timed(1, "a"), timed(2, "b"), timed(12, "c"), timed(35, "d"))
	equalAll(t, "out", x.out, "out 10 a+b g/op2/1999-12-31T00:00:10Z/0", "out 20 c g/op2/1999-12-31T00:00:20Z/0")
	x.Close()
	equalAll(t, "at the end", x.plain[2:], "d")
	equal(t, "late", x.Late(), 0)
}

func TestAnAccumulationIsNeverGivenNothingAndBeginsEmpty(t *testing.T) {
	x := try(t, chain(nil, nil, tumble(10*time.Second), foldFunc(func(s *node.Message, items []node.Message) error {
		if len(items) == 0 {
			t.Error("no items")
		}
		s.Payload = fmt.Appendf(nil, "%s[%d]", s.Payload, len(items))
		return nil
	})))
	for range foldMessages + 6 {
		x.feed(t, "in", timed(1, "a"))
	}
	x.feed(t, "in", timed(20, "b"))
	equalAll(t, "out", x.plain, "[64][6]")
}

func TestItemsThatCannotBeFoldedAreLostAndNothingElse(t *testing.T) {
	x := try(t, chain(nil, nil, tumble(10*time.Second), foldFunc(join)))
	x.feed(t, "in", timed(1, "bad"), timed(11, "a"), timed(21, "b"))
	equalAll(t, "out", x.plain, "a")
	equalAll(t, "lost", x.lost, "op2 failed bad")
}

func TestAWindowClosesWhenTheFrontierReachesItsEnd(t *testing.T) {
	x := try(t, chain(nil, nil, &tumbling{length: 10 * time.Second, most: 3}))
	x.feed(t, "in", timed(1, "a"), timed(2, "b"))
	equalAll(t, "open", x.plain)
	x.feed(t, "in", timed(3, "c"), timed(4, "d"), timed(20, "e")) // the third closes it early
	x.Close()
	equalAll(t, "out", x.out,
		"out 10 a+b+c g/op1/1999-12-31T00:00:10Z/0", "out 10 d g/op1/1999-12-31T00:00:10Z/1", "out 30 e g/op1/1999-12-31T00:00:30Z/0")
}

func TestLateMessagesCountForTheNextWindowOrAreDropped(t *testing.T) {
	for name, op := range map[string][]any{
		"window":     {&tumbling{length: 10 * time.Second}},
		"accumulate": {tumble(10 * time.Second), foldFunc(join)},
	} {
		for _, policy := range []LatePolicy{NextWindow, DropLate} {
			t.Run(fmt.Sprint(name, policy), func(t *testing.T) {
				ops := op
				if w, ok := op[0].(*tumbling); ok {
					ops = []any{&tumbling{length: w.length}}
				}
				p := chain(nil, nil, ops...)
				p.Settings.Late = policy
				x := try(t, p)
				x.feed(t, "in", timed(1, "a"), timed(12, "b"), timed(3, "late"), timed(11, "not late"))
				x.Close()
				want := []string{"a", "b+late+not late"}
				if policy == DropLate {
					want[1] = "b+not late"
					equal(t, "lost", len(x.lost), 1)
				}
				equalAll(t, "out", x.plain, want...)
				equal(t, "late", x.Late(), 1)
			})
		}
	}
}

func TestTheFrontierOfANodeIsTheLeastOfItsInputs(t *testing.T) {
	p := Plan{
		Name: "g", Sources: []SourceNode{{Name: "a"}, {Name: "b"}}, Destinations: []DestinationNode{{Name: "out"}},
		Operators: []OperatorNode{{Name: "w", Op: &tumbling{length: 10 * time.Second}}},
		Edges:     []Edge{{From: "a", To: "w"}, {From: "b", To: "w"}, {From: "w", To: "out"}},
	}
	x := try(t, p)
	x.feed(t, "a", timed(1, "a1"), timed(100, "a2"))
	x.feed(t, "b", timed(2, "b1"), timed(9, "b2"))
	equalAll(t, "out", x.plain)
	x.feed(t, "b", timed(10, "b3"))
	equalAll(t, "out", x.plain, "a1+b1+b2")
	x.Close()
	equalAll(t, "out", x.plain[1:], "b3", "a2")
}

func TestWithinOneTimeTheOrderIsTopologicalThenThatOfArrival(t *testing.T) {
	p := Plan{
		Name: "g", Sources: []SourceNode{{Name: "in"}}, Destinations: []DestinationNode{{Name: "out"}},
		Operators: []OperatorNode{
			{Name: "d2", Op: mapDelay("second")}, {Name: "d1", Op: mapDelay("first")},
		},
		Edges: []Edge{{From: "in", To: "d1"}, {From: "in", To: "d2"}, {From: "d1", To: "out"}, {From: "d2", To: "out"}},
	}
	x := try(t, p)
	x.feed(t, "in", timed(1, "a"), timed(1, "b"), timed(30, "c"))
	equalAll(t, "out", x.plain, "a second", "b second", "a first", "b first")
}

// mapDelay delays by ten seconds, and appends a word.
func mapDelay(word string) node.Delay {
	return delayFunc(func(m *node.Message, at node.Time) (node.Time, error) {
		m.Payload = fmt.Appendf(nil, "%s %s", m.Payload, word)
		return node.Time{Nanos: at.Nanos + 10e9}, nil
	})
}

func TestBothArmsMeetAgainInOrder(t *testing.T) {
	p := Plan{
		Name: "g", Sources: []SourceNode{{Name: "in"}}, Destinations: []DestinationNode{{Name: "out"}},
		Operators: []OperatorNode{
			{Name: "b", Op: branchFunc(func(m *node.Message, _ node.Time) (bool, error) { return m.Payload[0] == 'x', nil })},
			{Name: "m", Op: mapFunc(func(m *node.Message) error { m.Payload = []byte(strings.ToUpper(string(m.Payload))); return nil })},
			{Name: "c"},
		},
		Edges: []Edge{
			{From: "in", To: "b"}, {From: "b", To: "m", Arm: True}, {From: "b", To: "c", Arm: False}, {From: "m", To: "c"}, {From: "c", To: "out"},
		},
	}
	x := try(t, p)
	x.feed(t, "in", timed(1, "x1"), timed(1, "2"), timed(1, "x3"), timed(1, "4"))
	equalAll(t, "out", x.plain, "X1", "2", "X3", "4")
}

func TestTheWayOfAMessageIsItsOwn(t *testing.T) {
	p := Plan{
		Name: "g", Sources: []SourceNode{{Name: "in"}}, Destinations: []DestinationNode{{Name: "a"}, {Name: "b"}},
		Operators: []OperatorNode{{Name: "m", Op: mapFunc(func(m *node.Message) error { m.Topic = "changed"; return nil })}},
		Edges:     []Edge{{From: "in", To: "m"}, {From: "m", To: "a"}, {From: "in", To: "b"}},
	}
	topics := map[string]string{}
	o, err := NewOffline(p, func(d string, m node.Message) { topics[d] = m.Topic }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Feed("in", timed(1, "x"), ""); err != nil {
		t.Fatal(err)
	}
	equal(t, "a", topics["a"], "changed")
	equal(t, "b", topics["b"], "t")
}

func TestTheIDOfACloudEventIsKept(t *testing.T) {
	event := func(id string) node.Message {
		m := timed(1, "x")
		m.Properties = []node.Property{{Key: "specversion", Value: "1.0"}, {Key: "type", Value: "t"}, {Key: "source", Value: "s"}, {Key: "id", Value: id}}
		return m
	}
	one := try(t, chain(nil, nil))
	one.feed(t, "in", event("e1"))
	equalAll(t, "one output", one.out, "out 1 x e1")

	p := chain(nil, nil)
	p.Destinations = append(p.Destinations, DestinationNode{Name: "too"})
	p.Edges = append(p.Edges, Edge{From: "in", To: "too"})
	two := try(t, p)
	two.feed(t, "in", event("e2"))
	equalAll(t, "two outputs", two.out, "out 1 x e2/0", "too 1 x e2/1")

	plain := timed(1, "x")
	plain.Properties = []node.Property{{Key: "id", Value: "sensor-7"}} // names no event
	one.feed(t, "in", plain)
	equal(t, "a property id of something else", one.out[1], "out 1 x g/in/1-0/0")

	held := try(t, chain(nil, nil, tumble(10*time.Second)))
	held.feed(t, "in", event("e3"))
	held.Close()
	equalAll(t, "after a delay", held.out, "out 10 x e3")
}

func TestOutputsOfOneMessageHaveDifferentIDs(t *testing.T) {
	p := chain(nil, nil, tumble(10*time.Second))
	p.Edges = append(p.Edges, Edge{From: "in", To: "out"}) // at once and later
	x := try(t, p)
	x.feed(t, "in", timed(1, "x"), timed(1, "y"))
	x.Close()
	ids := map[string]bool{}
	for _, o := range x.out {
		ids[strings.Fields(o)[3]] = true
	}
	if len(ids) != 4 {
		t.Errorf("%q", x.out)
	}
}

func TestAWindowThatDoesNotCloseIsSaidAndEndsNothing(t *testing.T) {
	x := try(t, chain(nil, nil, &stubborn{}))
	x.feed(t, "in", timed(1, "a"), timed(20, "b"))
	x.Close()
	if !slices.ContainsFunc(x.lost, func(s string) bool { return strings.Contains(s, "failed") }) {
		t.Errorf("lost: %q", x.lost)
	}
}

type stubborn struct{ tumbling }

func (*stubborn) Due() (node.Time, bool)                 { return node.TimeOf(sec(10)), true }
func (*stubborn) Advance(node.Time, func(*node.Message)) {}
func (*stubborn) Flush(func(*node.Message))              {}

func TestPlansThatMakeNoSenseAreRefusedWithTheNode(t *testing.T) {
	for want, change := range map[string]func(*Plan){
		"two nodes have the name": func(p *Plan) { p.Operators[0].Name = "in" },
		"there is no such node":   func(p *Plan) { p.Edges[0].To = "nowhere" },
		"lead in a circle":        func(p *Plan) { p.Edges = append(p.Edges, Edge{From: "op1", To: "op1"}) },
		"has one output only":     func(p *Plan) { p.Edges[1].Arm = True },
		"nothing comes to node": func(p *Plan) {
			p.Operators = append(p.Operators, OperatorNode{Name: "x"})
			p.Edges = append(p.Edges, Edge{From: "x", To: "out"})
		},
		"nothing comes of node": func(p *Plan) {
			p.Operators = append(p.Operators, OperatorNode{Name: "x"})
			p.Edges = append(p.Edges, Edge{From: "in", To: "x"})
		},
		"is 0 kinds of operators":    func(p *Plan) { p.Operators[0].Op = 7 },
		"cannot save":                func(p *Plan) { p.Operators[0].Op = forgetfulWindow{} },
		"say which arm":              func(p *Plan) { p.Operators[0].Op = branchFunc(nil) },
		"is there twice":             func(p *Plan) { p.Edges = append(p.Edges, p.Edges[0]) },
		"needs a name":               func(p *Plan) { p.Name = "" },
		"a source and a destination": func(p *Plan) { p.Destinations = nil },
		"the setting MaxBytes":       func(p *Plan) { p.Settings.MaxBytes = -1 },
		"leads from a source":        func(p *Plan) { p.Edges = append(p.Edges, Edge{From: "out", To: "op1"}) },
		"at most 1000000 bytes":      func(p *Plan) { p.Operators[0].Op = &lastSeen{}; p.Settings.MaxPayload = 2 << 20 },
	} {
		p := chain(nil, nil, mapFunc(nil))
		change(&p)
		if _, err := NewOffline(p, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q: %v", want, err)
		}
	}
}

type forgetfulWindow struct{}

func (forgetfulWindow) Add(*node.Message, node.Time, func(*node.Message)) error { return nil }
func (forgetfulWindow) Advance(node.Time, func(*node.Message))                  {}
func (forgetfulWindow) Flush(func(*node.Message))                               {}
func (forgetfulWindow) Due() (node.Time, bool)                                  { return node.Time{}, false }

func TestAWindowClosesByTheWallClockWhenItsSourceIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		_, stop := start(t, chain(in, out, &tumbling{length: 10 * time.Second}), testJournal(t))
		defer stop()
		begin := time.Now() // a multiple of ten seconds
		in.give(text("1"))
		time.Sleep(3 * time.Second)
		in.give(text("2"))
		synctest.Wait()
		time.Sleep(time.Until(begin.Add(9999 * time.Millisecond)))
		synctest.Wait()
		equalAll(t, "before", out.bodies())
		time.Sleep(time.Millisecond)
		synctest.Wait()
		equalAll(t, "at 10 s", out.bodies(), "1+2")
	})
}

func TestTimeOfIdleSourcesGoesOnAtTheirOwnPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		_, stop := start(t, chain(in, out, &tumbling{length: 10 * time.Second}), testJournal(t))
		defer stop()
		old := time.Now().Add(-72 * time.Hour) // what a broker has kept, say
		in.give(at(old.Add(2*time.Second), "1"), at(old.Add(4*time.Second), "2"))
		synctest.Wait()
		time.Sleep(5 * time.Second)
		in.give(at(old.Add(9*time.Second), "3"))
		synctest.Wait()
		equalAll(t, "not late", out.bodies())
		time.Sleep(time.Second)
		synctest.Wait()
		equalAll(t, "a second later", out.bodies(), "1+2+3")
	})
}

func TestAClockFarAheadCountsAsNowAndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		g, stop := start(t, chain(in, out), Options{})
		defer stop()
		now := time.Now()
		bad := text("c")
		bad.Properties = []node.Property{{Key: "__ts", Value: "yesterday"}}
		in.give(at(now.Add(24*time.Hour), "a"), at(now.Add(59*time.Second), "b"), bad)
		synctest.Wait()
		equal(t, "clamped", g.Status().Clamped, 1)
		equal(t, "undated", g.Status().Undated, 1)
		equal(t, "a", out.got[0].Time, node.TimeOf(now))
		equal(t, "b", out.got[1].Time.Wall(), now.Add(59*time.Second).UTC())
		equal(t, "c", out.got[2].Time, node.TimeOf(now))
	})
}

func TestNothingRunsWhileNothingIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		g, stop := start(t, chain(in, out, &tumbling{length: time.Second}), testJournal(t))
		defer stop()
		in.give(text("1"))
		time.Sleep(time.Minute)
		synctest.Wait()
		looks := 0
		g.steady = func() time.Time { looks++; return time.Now() }
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		equal(t, "looks at the clock in a day", looks, 0)
	})
}
