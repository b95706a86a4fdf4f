//go:build linux

package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/state"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
)

func compileOperator(t *testing.T, kind string, settings ...string) any {
	t.Helper()
	var all []transform.Setting
	for i := 0; i < len(settings); i += 2 {
		all = append(all, transform.Setting{Key: settings[i], Value: settings[i+1]})
	}
	op, err := transform.Compile(kind, "1.1.0", all, transform.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// operators measures the native operators and the engine without any endpoint.
func (b *flowBench) operators(t *testing.T) (all []number) {
	out := b.out
	const calls = 200_000
	message := node.Message{Topic: "sensors/1/t", Payload: []byte(reading + "7}")}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	filter := compileOperator(t, "filter", "rules", `{"filter":[{"inputs":["temperature"],"expression":"$1 > 100"},{"inputs":["humidity"],"expression":"$1 > 95"}]}`).(node.Filter)
	five := compileOperator(t, "map", "rules", fiveRules).(node.Map)
	window := compileOperator(t, "window", "count", `{"type":"messageCount","maxMessageCount":1000,"boundaryMessage":"messageInCurrent"}`, "rules",
		`{"accumulate":[{"inputs":["temperature"],"output":"average","expression":"average($1)"},{"inputs":["temperature"],"output":"lowest","expression":"min($1)"},`+
			`{"inputs":["temperature"],"output":"highest","expression":"max($1)"},{"inputs":["temperature"],"output":"count","expression":"count($1)"}]}`).(node.Window)
	at := node.TimeOf(time.Unix(1e9, 0))
	out.head("one operator alone, a message of 200 bytes", "messages/s of a core", "µs", "allocations")
	for _, x := range []struct {
		name string
		goal float64
		do   func(i int)
	}{
		{"filter with two rules", 500_000, func(int) { _, err := filter.Filter(&message); must(err) }},
		{fiveFields, 300_000, func(int) { m := message; must(five.Map(&m)) }},
		{"window of 1,000 messages with four results", 500_000, func(int) { at.Nanos++; must(window.Add(&message, at, func(*node.Message) {})) }},
	} {
		cpu, allocations := each(calls, x.do)
		out.add(x.name, short(1e6/cpu), fmt.Sprintf("%.3f", cpu), short(allocations))
		all = append(all, number{"messages/s of a core, one native operator alone: " + x.name, calls, nil, figure{1e6 / cpu}, atLeast(x.goal)})
	}
	out.head("the engine, its operator does nothing", "µs of processor time per message", "allocations")
	for _, x := range []struct {
		name string
		op   any
	}{{"without a journal", idleMap{}}, {"with a journal, durable", rememberingMap{}}} {
		cpu, allocations := engine(t, message, x.op)
		out.add(x.name, fmt.Sprintf("%.3f", cpu), short(allocations))
	}
	return all
}

// idleMap does nothing; rememberingMap has a state, so its graph has a journal.
type (
	idleMap        struct{}
	rememberingMap struct{ idleMap }
)

func (idleMap) Map(*node.Message) error       { return nil }
func (rememberingMap) Save(out []byte) []byte { return out }
func (rememberingMap) Restore([]byte) error   { return nil }

// engine measures a graph whose source hands in at once and whose destination has room for all.
func engine(t *testing.T, m node.Message, op any) (cpu, allocations float64) {
	t.Helper()
	const messages = 200_000
	p := graph.Plan{Name: "engine", Sources: []graph.SourceNode{}, Operators: []graph.OperatorNode{{Name: "op", Op: op}},
		Destinations: []graph.DestinationNode{{Name: "out", Destination: everything{}}}, Edges: []graph.Edge{{From: "in", To: "op"}, {From: "op", To: "out"}}}
	s := &supply{m: m, rounds: make(chan int), done: make(chan struct{})}
	p.Sources = append(p.Sources, graph.SourceNode{Name: "in", Source: s})
	x, err := graph.New(p, graph.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = x.Run(ctx) })
	defer running.Wait()
	defer stop()
	cpu, allocations = each(1, func(int) {
		s.rounds <- messages
		<-s.done
	})
	return cpu / messages, allocations / messages
}

// supply hands in as many messages as it is told, and says when all are acknowledged.
type supply struct {
	m      node.Message
	rounds chan int
	owed   atomic.Int64
	done   chan struct{}
}

func (s *supply) Run(ctx context.Context, take func(node.Delivery) bool) error {
	for {
		select {
		case n := <-s.rounds:
			s.owed.Store(int64(n))
			for i := range n {
				if !take(node.Delivery{Message: s.m, From: s, Ticket: uint64(i)}) {
					return nil
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *supply) Acked(tickets []uint64) {
	if s.owed.Add(-int64(len(tickets))) == 0 {
		s.done <- struct{}{}
	}
}

// everything is a destination that completes all at once.
type everything struct{}

func (everything) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (everything) Send(_ context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	to.Done(tickets, nil)
	return len(ms), nil
}

// throttles shows what more rules cost a message. The last rule is the one that fits.
func (b *flowBench) throttles(t *testing.T) []number {
	b.out.head("rules of throttle, for a message that the last one fits", "µs", "for a message that none fits")
	for _, n := range []int{1, 10, 100, 1000} {
		var rules []string
		for i := range n {
			rules = append(rules, fmt.Sprintf(`{"topic":"factory/+/line-%d/#","maxMessagesPerSecond":10}`, i))
		}
		op := compileOperator(t, "throttle", "throttle", `{"perTopicThrottles":[`+strings.Join(rules, ",")+`]}`).(node.Filter)
		var times []string
		for _, topic := range []string{fmt.Sprintf("factory/7/line-%d/temperature", n-1), "office/7/line-0/temperature"} {
			m := node.Message{Topic: topic}
			cpu, _ := each(20_000, func(int) { _, _ = op.Filter(&m) })
			times = append(times, fmt.Sprintf("%.3f", cpu))
		}
		b.out.add(append([]string{fmt.Sprint(n)}, times...)...)
	}
	return nil
}

// stateStore measures gets and durable sets.
func stateStore(t *testing.T) []number {
	s, err := state.Open(t.TempDir(), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const keys, producers, sets = 1000, 64, 1000
	key := func(i int) string { return fmt.Sprintf("device-%d", i%keys) }
	value := []byte(strings.Repeat("v", 100))
	var best float64
	for range 3 {
		began := time.Now()
		var all sync.WaitGroup
		for p := range producers {
			all.Go(func() {
				for i := range sets {
					if _, _, err := s.Set(t.Context(), key(p*sets+i), value, state.SetOptions{}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		best = max(best, producers*sets/time.Since(began).Seconds())
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = key(i)
	}
	cpu, _ := each(200_000, func(i int) { s.Get(names[i%keys]) })
	return []number{
		{"gets/s of the state store", 200_000, nil, figure{1e6 / cpu}, atLeast(100_000)},
		{fmt.Sprintf("durable sets/s of 100 B, %d producers", producers), producers * sets, nil, figure{best}, atLeast(20_000)},
	}
}
