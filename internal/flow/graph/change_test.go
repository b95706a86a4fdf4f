package graph

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// The rules of these tests: a map in front, and behind it operators of a kind that remembers
// something, in a version. Version 0 has none. A recipe is <kind> <version> <number of the
// operator>.

func ruledOps(kind string, version int) []any {
	length := time.Duration(3+2*version) * time.Second
	switch {
	case kind == "front":
		return []any{mapFunc(func(*node.Message) error { return nil })}
	case version == 0:
		return nil
	case kind == "window":
		return []any{&tumbling{length: length}}
	case kind == "early":
		return []any{&tumbling{length: length, most: 3}}
	case kind == "accumulate":
		return []any{tumble(length), foldFunc(join)}
	}
	return memory[kind]()
}

func remake(_, recipe string) (any, error) {
	var kind string
	var version, i int
	if _, err := fmt.Sscan(recipe, &kind, &version, &i); err != nil {
		return nil, err
	}
	return ruledOps(kind, version)[i], nil
}

func ruled(s node.Source, d node.Destination, kind string, front, version int) Plan {
	p := chain(s, d)
	p.Edges = nil
	last := "in"
	add := func(kind string, version int) {
		for i, op := range ruledOps(kind, version) {
			recipe := fmt.Sprint(kind, " ", version, " ", i)
			name := fmt.Sprint(kind, i)
			p.Operators = append(p.Operators, OperatorNode{Name: name, Op: op, Config: recipe, Recipe: recipe})
			p.Edges = append(p.Edges, Edge{From: last, To: name})
			last = name
		}
	}
	add("front", front)
	add(kind, version)
	p.Edges = append(p.Edges, Edge{From: last, To: "out"})
	return p
}

// story is a graph whose rules change on one disk.
type story struct {
	t    *testing.T
	in   *hand
	out  *far
	disk *memdisk.FS
	said logs
	g    *Graph
	stop func()
}

func newStory(t *testing.T) *story {
	return &story{t: t, in: newHand(), out: newFar(), disk: memdisk.New()}
}

func (s *story) options() Options {
	o := crashOptions(s.disk)
	o.Log, o.Remake = s.said.add, remake
	return o
}

// run starts the graph with a kind of rules.
func (s *story) run(kind string, front, version int) {
	p := ruled(s.in, s.out, kind, front, version)
	p.Settings = crashSettings
	s.g, s.stop = start(s.t, p, s.options())
	synctest.Wait()
}

// killAndForgetRules kills the graph and starts it with other rules; nobody has the old ones.
func (s *story) killAndForgetRules(kind string, front, version int) {
	synctest.Wait()
	killed := s.disk.Killed()
	s.stop()
	s.disk = killed
	o := s.options()
	o.Remake = nil
	p := ruled(s.in, s.out, kind, front, version)
	p.Settings = crashSettings
	s.g, s.stop = start(s.t, p, o)
}

// change takes over other rules while the graph runs, or, if it is stopped meanwhile, at its start.
func (s *story) change(isLive bool, kind string, front, version int) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	if isLive {
		s.g.StopFor(ctx, ruled(nil, nil, kind, front, version))
	} else {
		s.g.Stop(ctx)
	}
	s.stop()
	s.run(kind, front, version)
}

// whole lets all windows close.
func (s *story) whole() []string {
	s.in.give(at(sec(1000), "end"))
	synctest.Wait()
	if g := s.g.Status(); g.InFlight != 0 || g.Errors != 0 || g.Text != "" {
		s.t.Errorf("at the end: %+v", g)
	}
	return slices.DeleteFunc(s.out.bodies(), func(body string) bool { return strings.HasPrefix(body, "end") })
}

func (s *story) uniqueIDs() {
	s.t.Helper()
	ids := s.out.ids()
	slices.Sort(ids)
	equal(s.t, fmt.Sprintf("different ids among %q", ids), len(slices.Compact(ids)), len(s.out.ids()))
}

// eachWay plays a story with a change while the graph runs, and with one while it does not.
func eachWay(t *testing.T, play func(s *story, isLive bool)) {
	for name, isLive := range map[string]bool{"live": true, "at the start": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStory(t)
				play(s, isLive)
				s.stop()
			})
		})
	}
}

func TestAChangeInFrontOfAWindowLeavesItOpen(t *testing.T) {
	for _, kind := range []string{"window", "accumulate"} {
		t.Run(kind, func(t *testing.T) {
			eachWay(t, func(s *story, isLive bool) {
				s.run(kind, 0, 1)
				s.in.give(at(sec(0), "1"), at(sec(1), "2"))
				synctest.Wait()
				s.change(isLive, kind, 1, 1)
				s.in.give(at(sec(2), "3"))
				equalAll(s.t, "out", s.whole(), "1+2+3")
			})
		})
	}
}

func TestAChangedWindowGivesOutWhatItHoldsFirst(t *testing.T) {
	for _, kind := range []string{"window", "accumulate"} {
		t.Run(kind, func(t *testing.T) {
			eachWay(t, func(s *story, isLive bool) {
				s.run(kind, 0, 1) // 5 s
				s.in.give(at(sec(10), "1"), at(sec(11), "2"))
				synctest.Wait()
				s.change(isLive, kind, 0, 2) // 7 s
				equalAll(s.t, "at the change", s.out.bodies(), "1+2")
				s.in.give(at(sec(12), "3"), at(sec(13), "4"))
				equalAll(s.t, "out", s.whole(), "1+2", "3+4")
				s.uniqueIDs()
			})
		})
	}
}

func TestTheEarlyAndTheLaterResultOfAWindowHaveDifferentIDs(t *testing.T) {
	for _, between := range []int{2, 0} { // another window, and none at all
		t.Run(fmt.Sprint("version ", between), func(t *testing.T) {
			eachWay(t, func(s *story, isLive bool) {
				s.run("window", 0, 1)
				s.in.give(at(sec(10), "1"))
				synctest.Wait()
				s.change(isLive, "window", 0, between)
				s.change(isLive, "window", 0, 1)
				s.in.give(at(sec(11), "2"))
				equalAll(s.t, "out", s.whole(), "1", "2")
				equalAll(s.t, "ids", s.out.ids(), "g/window0/1999-12-31T00:00:15Z/0", "g/window0/1999-12-31T00:00:15Z/1")
			})
		})
	}
}

func TestAWindowThatIsRemovedGivesOutWhatItHolds(t *testing.T) {
	eachWay(t, func(s *story, isLive bool) {
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"), at(sec(11), "2"))
		synctest.Wait()
		s.change(isLive, "window", 0, 0)
		s.in.give(at(sec(12), "3"))
		equalAll(s.t, "out", s.whole(), "1+2", "3")
		s.uniqueIDs()
	})
}

func TestAKilledGraphProcessesItsJournalByTheOldRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"), at(sec(15), "2"), at(sec(16), "3"))
		synctest.Wait()
		equalAll(t, "before", s.out.bodies(), "1")
		killed := s.disk.Killed()
		s.stop()
		s.disk = killed
		s.run("window", 0, 2)
		equalAll(t, "out", s.out.bodies(), "1", "1", "2+3")
		equal(t, "id", s.out.ids()[1], s.out.ids()[0])
		s.stop()
	})
}

func TestNothingIsTakenUntilTheOldRulesAreDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"))
		synctest.Wait()
		s.out.shut = true
		s.change(true, "window", 0, 2) // in vain
		time.Sleep(slowChange)
		synctest.Wait()
		if g := s.g.Status(); g.In != 0 || g.State != Failing || !strings.Contains(g.Text, "before the change") {
			t.Errorf("%+v", g)
		}
		s.stop()
		s.out.owed = nil
		s.run("window", 0, 1) // somebody has thought better of it
		s.out.open()
		s.in.give(at(sec(11), "2"))
		equalAll(t, "out", s.whole(), "1", "1", "1", "2")
		ids := s.out.ids()
		if len(ids) != 4 {
			s.stop()
			t.Fatalf("ids: %q", ids)
		}
		equal(t, "the second id", ids[1], ids[0])
		equal(t, "the third id", ids[2], ids[0])
		if ids[3] == ids[0] {
			t.Errorf("two results have the id %s", ids[0])
		}
		s.stop()
	})
}

func TestWhatWasForADestinationThatIsGoneGoesToTheNewOne(t *testing.T) {
	for _, hasNew := range []bool{true, false} {
		t.Run(fmt.Sprint(hasNew), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStory(t)
				p := ruled(s.in, s.out, "window", 0, 1)
				kept := newFar()
				p.Destinations = append(p.Destinations, DestinationNode{Name: "kept", Destination: kept})
				p.Edges = append(p.Edges, Edge{From: "front0", To: "kept"})
				_, stop := start(t, p, s.options())
				s.in.give(at(sec(10), "1"))
				synctest.Wait()
				stop()
				next := newFar()
				p = ruled(newHand(), kept, "window", 0, 0)
				p.Destinations[0].Name, p.Edges[1].To = "kept", "kept"
				if hasNew {
					p.Destinations = append(p.Destinations, DestinationNode{Name: "new", Destination: next})
					p.Edges = append(p.Edges, Edge{From: "front0", To: "new"})
				}
				g, stop := start(t, p, s.options())
				synctest.Wait()
				if hasNew {
					equalAll(t, "out", next.bodies(), "1")
					equal(t, "errors", g.Status().Errors, 0)
				} else {
					equal(t, "errors", g.Status().Errors, 1)
					equal(t, "said", s.said.count("no destination out any more"), 1)
				}
				stop()
			})
		})
	}
}

// TestWhatAChangeLosesCountsAtOnce, though the change may wait for hours for another destination.
func TestWhatAChangeLosesCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		kept := newFar()
		kept.shut = true
		p := ruled(s.in, s.out, "window", 0, 1)
		p.Destinations = append(p.Destinations, DestinationNode{Name: "kept", Destination: kept})
		p.Edges = append(p.Edges, Edge{From: "front0", To: "kept"})
		_, stop := start(t, p, s.options())
		s.in.give(at(sec(10), "1"))
		synctest.Wait()
		stop()
		kept.owed = nil
		p = ruled(newHand(), kept, "window", 0, 0)
		p.Destinations[0].Name, p.Edges[1].To = "kept", "kept"
		g, stop := start(t, p, s.options())
		time.Sleep(slowChange)
		synctest.Wait()
		if g := g.Status(); g.InFlight != 1 || g.Errors != 1 || len(g.Drops) != 1 || g.Drops[0].Node != "in" {
			t.Errorf("while the change waits: %+v", g)
		}
		kept.open()
		synctest.Wait()
		if g := g.Status(); g.InFlight != 0 || g.Errors != 1 || g.Text != "" {
			t.Errorf("when the change is over: %+v", g)
		}
		stop()
	})
}

// TestASourceIsNotSilentWhileAChangeWaits: it is not even asked then. What it has to say comes
// afterwards, for the windows that are open.
func TestASourceIsNotSilentWhileAChangeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.out.shut = true
		now := time.Now()
		_, stop := start(t, ruled(s.in, s.out, "window", 0, 1), s.options()) // 5 s
		s.in.give(at(now, "1"), at(now.Add(5*time.Second), "2"))
		synctest.Wait()
		stop()
		s.out.owed = nil
		g, stop := start(t, ruled(s.in, s.out, "window", 1, 1), s.options())
		time.Sleep(time.Minute)
		equal(t, "state", g.Status().State, Failing)
		s.out.open()
		synctest.Wait()
		s.in.give(at(now.Add(6*time.Second), "3"), at(now.Add(time.Minute), "end"))
		synctest.Wait()
		equalAll(t, "out", s.out.bodies(), "1", "1", "2+3")
		equal(t, "late", g.Status().Late, 0)
		stop()
	})
}

func TestLostRulesAreSaidWithWhatTheyHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"), at(sec(11), "2"))
		time.Sleep(5 * time.Second) // a checkpoint has them
		s.in.give(at(sec(12), "3"))
		s.killAndForgetRules("window", 0, 2)
		s.in.give(at(sec(1000), "end"))
		synctest.Wait()
		equalAll(t, "out", s.out.bodies(), "3")
		for _, text := range []string{s.g.Status().Text, strings.Join(s.said.all, "\n")} {
			if !strings.Contains(text, "window0") || !strings.Contains(text, "2 messages") {
				t.Errorf("it says %q", text)
			}
		}
		equal(t, "state", s.g.Status().State, Running)
		equal(t, "errors", s.g.Status().Errors, 2)
		s.stop()
	})
}

func TestWithoutTheOldRulesTheOtherNodesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"))
		time.Sleep(5 * time.Second) // a checkpoint has it
		s.in.give(at(sec(11), "2"))
		s.killAndForgetRules("window", 1, 1)
		equalAll(t, "out", s.whole(), "1+2")
		equal(t, "said", s.said.count("all nodes go on"), 1)
		s.stop()
	})
}

// TestAChangeThatIsKilledGivesTheSameOutputs: the process is killed before each call of the disk
// while rules change, and is started with the new rules, or with the old ones again.
func TestAChangeThatIsKilledGivesTheSameOutputs(t *testing.T) {
	for name, to := range map[string][2]int{"in front": {1, 1}, "the window": {0, 2}, "both": {1, 2}, "no window": {0, 0}} {
		for _, kind := range []string{"window", "accumulate", "delay"} {
			for _, isLive := range []bool{true, false} {
				t.Run(fmt.Sprint(name, "/", kind, "/", isLive), func(t *testing.T) { killTheChange(t, kind, to, isLive) })
			}
		}
	}
}

func killTheChange(t *testing.T, kind string, to [2]int, isLive bool) {
	var all []moment
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run(kind, 0, 1)
		note := func(_ int, op, name string) error {
			m := moment{call: op + " " + name, disk: s.disk.Copied(), acked: map[uint64]bool{}, received: s.out.byID()}
			s.in.mu.Lock()
			for _, n := range s.in.acked {
				m.acked[n] = true
			}
			s.in.mu.Unlock()
			all = append(all, m)
			return nil
		}
		for n := uint64(1); n <= crashMessages; n++ {
			if n == 9 {
				s.disk.SetFault(note)
			}
			if n == 13 {
				s.change(isLive, kind, to[0], to[1])
			}
			s.in.give(crashMessage(n))
			synctest.Wait()
			if n == 7 || n == 16 {
				time.Sleep(2 * time.Second) // time for a checkpoint
			}
		}
		s.disk.SetFault(nil)
		s.whole()
		s.stop()
	})
	some := sample{every: few(2, 19)}
	for i := range all {
		m := &all[i]
		if !some.has(m.call) {
			continue
		}
		for _, back := range [][2]int{to, {0, 1}} {
			m.changeAgain(t, kind, back)
			if t.Failed() {
				t.Fatalf("moment %d of %d, before %s, then front %d and version %d", i, len(all), m.call, back[0], back[1])
			}
		}
	}
	t.Logf("%d moments of %d", some.taken, len(all))
}

// changeAgain goes on after a kill, and finds each message once, unless it was handed in twice.
func (m *moment) changeAgain(t *testing.T, kind string, to [2]int) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.disk = m.disk.Killed()
		s.run(kind, to[0], to[1])
		for n := uint64(1); n <= crashMessages; n++ {
			if !m.acked[n] {
				s.in.give(crashMessage(n))
			}
		}
		s.in.give(at(sec(1000), "end"), at(sec(2000), "end"))
		synctest.Wait()
		s.stop()
		ids, count := map[string]string{}, map[string]int{}
		note := func(id, payload string) {
			if before, ok := ids[id]; ok && before != payload {
				t.Errorf("%s was %q and is %q", id, before, payload)
			} else if !ok {
				for body := range strings.SplitSeq(strings.TrimSpace(payload), "+") {
					count[body]++
				}
			}
			ids[id] = payload
		}
		for id, payload := range m.received {
			note(id, payload)
		}
		for i := range s.out.got {
			note(s.out.got[i].ID, string(s.out.got[i].Payload))
		}
		for n := uint64(1); n <= crashMessages; n++ {
			body := fmt.Sprint(n)
			if count[body] == 0 || count[body] > 1 && m.acked[n] {
				t.Errorf("%s is there %d times", body, count[body])
			}
		}
	})
}

// TestAnOldCheckpointIsRead: testdata/checkpoint-1 was written by a version whose checkpoints do
// not say what their plan was. It covers two messages of a journal, which are in the window.
func TestAnOldCheckpointIsRead(t *testing.T) {
	old, err := os.ReadFile("testdata/checkpoint-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, isSame := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newStory(t)
			ops := []any{&tumbling{length: time.Hour}, &lastSeen{}}
			_, stop := start(t, chain(s.in, s.out, ops...), s.options())
			s.in.give(at(sec(1), "old"), at(sec(2), "older"))
			time.Sleep(5 * time.Second)
			stop()
			s.disk.Edit("/g/checkpoint", func([]byte) []byte { return old })
			p, want := chain(s.in, s.out, &tumbling{length: time.Hour}, &lastSeen{}), "old+older+new<"
			if !isSame {
				p.Operators[0].Config, want = "another", "new<"
			}
			_, stop = start(t, p, s.options())
			s.in.give(at(sec(3), "new"), at(sec(5000), "end"))
			time.Sleep(5 * time.Second)
			equalAll(t, "out", s.out.bodies(), want)
			stop()
			equal(t, "the new checkpoint", string(s.disk.File("/g/checkpoint").Data[:8]), checkpointMagic)
			if !isSame {
				equal(t, "said", s.said.count("has changed"), 1)
			}
		})
	}
}

func TestALiveChangeGivesOutToADestinationThatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"))
		synctest.Wait()
		p := ruled(nil, nil, "window", 0, 0)
		p.Destinations[0].Name, p.Edges[1].To = "another", "another"
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s.g.StopFor(ctx, p)
		equalAll(t, "out", s.out.bodies(), "1")
		s.stop()
	})
}

// closing is an operator that counts how often it is closed.
type closing struct {
	lastSeen
	closed *int
}

func (c *closing) Close() error { *c.closed++; return nil }

func TestOperatorsThatAreMadeAgainAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		plan := func(recipe string, op any) Plan {
			p := chain(s.in, s.out, op)
			p.Operators[0].Config, p.Operators[0].Recipe = recipe, recipe
			return p
		}
		first, again, second := 0, 0, 0
		o := s.options()
		o.Remake = func(string, string) (any, error) { return &closing{closed: &again}, nil }
		_, stop := start(t, plan("a", &closing{closed: &first}), o)
		synctest.Wait()
		stop()
		_, stop = start(t, plan("b", &closing{closed: &second}), o)
		synctest.Wait()
		equal(t, "closed by then", fmt.Sprint(first, again, second), "1 1 0")
		stop()
		equal(t, "closed", fmt.Sprint(first, again, second), "1 1 1")
	})
}

func TestAWindowWithOtherInputsGivesOutWhatItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		s.run("window", 0, 1)
		s.in.give(at(sec(10), "1"))
		synctest.Wait()
		s.stop()
		p := ruled(s.in, s.out, "window", 0, 1)
		p.Edges = append(p.Edges, Edge{From: "in", To: "window0"}) // so it is another question that it answers
		_, stop := start(t, p, s.options())
		synctest.Wait()
		equalAll(t, "out", s.out.bodies(), "1")
		stop()
	})
}
