package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The operators of the tests.
type (
	mapFunc    func(*node.Message) error
	filterFunc func(*node.Message) (bool, error)
	branchFunc func(*node.Message, node.Time) (bool, error)
	delayFunc  func(*node.Message, node.Time) (node.Time, error)
	foldFunc   func(*node.Message, []node.Message) error
)

func (f mapFunc) Map(m *node.Message) error                                { return f(m) }
func (f filterFunc) Filter(m *node.Message) (bool, error)                  { return f(m) }
func (f branchFunc) Branch(m *node.Message, at node.Time) (bool, error)    { return f(m, at) }
func (f delayFunc) Delay(m *node.Message, at node.Time) (node.Time, error) { return f(m, at) }
func (f foldFunc) Accumulate(s *node.Message, items []node.Message) error  { return f(s, items) }

// hand is a source that hands in what a test gives it, and notes what is acknowledged.
type hand struct {
	in chan node.Delivery

	mu    sync.Mutex
	acked []uint64
	next  uint64
}

func newHand() *hand { return &hand{in: make(chan node.Delivery)} }

func (h *hand) Run(ctx context.Context, take func(node.Delivery) bool) error {
	for {
		select {
		case d := <-h.in:
			if !take(d) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *hand) Acked(tickets []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = append(h.acked, tickets...)
}

func (h *hand) ackedCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.acked)
}

// give hands in payloads. Each message that has a time says so by __ts.
func (h *hand) give(ms ...node.Message) {
	for _, m := range ms {
		h.next++
		h.in <- node.Delivery{Message: m, From: h, Ticket: h.next}
	}
}

func text(s string) node.Message { return node.Message{Topic: "t", Payload: []byte(s)} }

func at(t time.Time, s string) node.Message {
	m := text(s)
	m.Properties = []node.Property{{Key: "__ts", Value: node.TimeOf(t).String()}}
	return m
}

// far is a destination that keeps what it gets, and completes it when it is open.
type far struct {
	mu     sync.Mutex
	cond   *sync.Cond
	got    []node.Message
	safe   []string // ids of those that were completed
	owed   []func()
	shut   bool // nothing is completed
	window int  // most that is owed; 0: no bound
	broken error
	kick   chan error // ends Run
}

func newFar() *far {
	f := &far{kick: make(chan error)}
	f.cond = sync.NewCond(&f.mu)
	return f
}

func (f *far) Run(ctx context.Context) error {
	select {
	case err := <-f.kick:
		f.mu.Lock()
		f.owed = nil
		f.cond.Broadcast()
		f.mu.Unlock()
		return err
	case <-ctx.Done():
		return nil
	}
}

func (f *far) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	defer context.AfterFunc(ctx, func() { f.mu.Lock(); f.cond.Broadcast(); f.mu.Unlock() })()
	var now []uint64
	n := 0
	f.mu.Lock()
	for i := range ms {
		for f.window > 0 && len(f.owed) >= f.window && ctx.Err() == nil {
			f.cond.Wait()
		}
		if ctx.Err() != nil {
			break
		}
		n++
		f.got = append(f.got, ms[i])
		ticket := tickets[i]
		if f.shut {
			id := ms[i].ID
			f.owed = append(f.owed, func() {
				f.mu.Lock()
				f.safe = append(f.safe, id)
				f.mu.Unlock()
				to.Done([]uint64{ticket}, nil)
			})
		} else {
			f.safe = append(f.safe, ms[i].ID)
			now = append(now, ticket)
		}
	}
	err := f.broken
	f.mu.Unlock()
	to.Done(now, err)
	if n < len(ms) {
		return n, ctx.Err()
	}
	return n, nil
}

// open completes what is owed, and everything from now on.
func (f *far) open() {
	f.mu.Lock()
	owed := f.owed
	f.owed, f.shut = nil, false
	f.cond.Broadcast()
	f.mu.Unlock()
	for _, done := range owed {
		done()
	}
}

func (f *far) bodies() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.got {
		all = append(all, string(f.got[i].Payload))
	}
	return all
}

func (f *far) ids() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.got {
		all = append(all, f.got[i].ID)
	}
	return all
}

// chain is a plan of operators one behind the other.
func chain(s node.Source, d node.Destination, ops ...any) Plan {
	p := Plan{Name: "g", Sources: []SourceNode{{Name: "in", Source: s}}, Destinations: []DestinationNode{{Name: "out", Destination: d}}}
	last := "in"
	for i, op := range ops {
		name := fmt.Sprintf("op%d", i+1)
		p.Operators = append(p.Operators, OperatorNode{Name: name, Op: op, Config: name})
		p.Edges = append(p.Edges, Edge{From: last, To: name})
		last = name
	}
	p.Edges = append(p.Edges, Edge{From: last, To: "out"})
	return p
}

// logs collects what a graph logs.
type logs struct {
	mu  sync.Mutex
	all []string
}

func (l *logs) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, s)
}

func (l *logs) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

// start runs a graph, changed before; the function that it returns ends it.
func start(t testing.TB, p Plan, o Options, change ...func(*Graph)) (*Graph, func()) {
	t.Helper()
	g, err := New(p, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(g)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	var once sync.Once
	return g, func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func equalAll(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

var errTest = errors.New("no good")

// testJournal is a directory on a disk in memory.
func testJournal(testing.TB) Options { return Options{Dir: "/g", FS: memdisk.New()} }
