package graph

import (
	"context"
	"strconv"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// sink completes everything at once.
type sink struct{}

func (sink) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (sink) Send(_ context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	to.Done(tickets, nil)
	return len(ms), nil
}

// hurried hands in so many messages and waits until all are acknowledged.
type hurried struct {
	n     int
	m     node.Message
	acked int
	done  chan struct{}
}

func (s *hurried) Run(ctx context.Context, take func(node.Delivery) bool) error {
	for i := range s.n {
		if !take(node.Delivery{Message: s.m, From: s, Ticket: uint64(i)}) {
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

func (s *hurried) Acked(tickets []uint64) {
	if s.acked += len(tickets); s.acked == s.n {
		close(s.done)
	}
}

// BenchmarkEngine is what the engine costs for each message, sources and destinations left out.
func BenchmarkEngine(b *testing.B) {
	pass := filterFunc(func(*node.Message) (bool, error) { return true, nil })
	for _, x := range []struct {
		name    string
		ops     []any
		journal bool
	}{
		{"passthrough", nil, false},
		{"filter", []any{pass}, false},
		{"ten operators", []any{pass, pass, pass, pass, pass, pass, pass, pass, pass, pass}, false},
		{"drop", []any{filterFunc(func(*node.Message) (bool, error) { return false, nil })}, false},
		{"journal", []any{pass, nothing{}}, true},
		{"window of 1000", []any{&counter{}}, true},
	} {
		for _, size := range []int{100} {
			b.Run(x.name+"/"+strconv.Itoa(size), func(b *testing.B) {
				m := text("")
				m.Payload = make([]byte, size)
				in := &hurried{n: b.N, m: m, done: make(chan struct{})}
				o := Options{}
				if x.journal {
					o.Dir = b.TempDir()
				}
				b.ReportAllocs()
				_, stop := start(b, chain(in, sink{}, x.ops...), o)
				<-in.done
				b.StopTimer()
				stop()
			})
		}
	}
}

// nothing remembers nothing, and gets a journal for it.
type nothing struct{}

func (nothing) Map(*node.Message) error { return nil }
func (nothing) Save(out []byte) []byte  { return out }
func (nothing) Restore([]byte) error    { return nil }

// counter is a window that closes at 1,000 messages.
type counter struct{ n int }

func (c *counter) Add(m *node.Message, _ node.Time, emit func(*node.Message)) error {
	if c.n++; c.n == 1000 {
		c.n = 0
		emit(m)
	}
	return nil
}
func (c *counter) Advance(node.Time, func(*node.Message)) {}
func (c *counter) Flush(func(*node.Message))              {}
func (c *counter) Due() (node.Time, bool)                 { return node.Time{}, false }
func (c *counter) Save(out []byte) []byte                 { return out }
func (c *counter) Restore([]byte) error                   { return nil }

// BenchmarkOffline is the core alone.
func BenchmarkOffline(b *testing.B) {
	b.ReportAllocs()
	n := 0
	x, err := NewOffline(chain(nil, nil, filterFunc(func(*node.Message) (bool, error) { return true, nil })), func(string, node.Message) { n++ }, nil)
	if err != nil {
		b.Fatal(err)
	}
	m := timed(1, "x")
	for b.Loop() {
		if err := x.Feed("in", m, "p"); err != nil {
			b.Fatal(err)
		}
	}
}
