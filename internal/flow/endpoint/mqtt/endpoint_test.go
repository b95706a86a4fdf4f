package mqtt

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// collector is the graph behind a source.
type collector struct {
	mu      sync.Mutex
	got     []node.Delivery
	changed chan struct{}
	hold    bool // messages are not acknowledged
}

// newSource makes a source of a configuration that must be right.
func newSource(t testing.TB, c Config, filters ...string) *Source {
	t.Helper()
	s, err := NewSource(c, filters)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newDestination makes a destination of a configuration that must be right.
func newDestination(t testing.TB, c Config) *Destination {
	t.Helper()
	d, err := NewDestination(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newCollector() *collector { return &collector{changed: make(chan struct{}, 1)} }

func (c *collector) take(d node.Delivery) bool {
	c.mu.Lock()
	c.got = append(c.got, d)
	hold := c.hold
	c.mu.Unlock()
	if !hold && d.From != nil {
		d.From.Acked([]uint64{d.Ticket})
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
	return true
}

func (c *collector) all() []node.Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]node.Delivery(nil), c.got...)
}

// until waits until ok holds for what has come.
func (c *collector) until(t testing.TB, what string, ok func(got []node.Delivery) bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for !ok(c.all()) {
		select {
		case <-c.changed:
		case <-late:
			t.Fatalf("%s: %d messages have come", what, len(c.all()))
		}
	}
}

// completions counts what a destination completes.
type completions struct {
	mu      sync.Mutex
	done    []uint64
	errs    []error
	changed chan struct{}
}

func newCompletions() *completions { return &completions{changed: make(chan struct{}, 1)} }

func (c *completions) Done(tickets []uint64, err error) {
	c.mu.Lock()
	c.done = append(c.done, tickets...)
	for range tickets {
		c.errs = append(c.errs, err)
	}
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *completions) until(t testing.TB, n int) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		have := len(c.done)
		c.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-c.changed:
		case <-late:
			t.Fatalf("%d of %d messages are completed", have, n)
		}
	}
}

// running is something with a Run, until stop.
type running struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

func start(t testing.TB, run func(ctx context.Context) error) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		if err := run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(r.stop)
	return r
}

func (r *running) stop() {
	r.cancel()
	<-r.ended
}

func plainConfig(t testing.TB, port int, client string) Config {
	c := Defaults()
	c.Name, c.Host, c.ClientID = "local", fmt.Sprintf("127.0.0.1:%d", port), client
	c.Log = func(_ bool, text string) { t.Log(client + ": " + text) }
	return c
}

// numbered returns n messages whose payloads are numbers.
func numbered(topic string, from, n int) ([]node.Message, []uint64) {
	ms, tickets := make([]node.Message, n), make([]uint64, n)
	for i := range n {
		ms[i] = node.Message{Topic: topic, Payload: strconv.AppendInt(nil, int64(from+i), 10)}
		tickets[i] = uint64(from + i)
	}
	return ms, tickets
}

func TestMessagesGoThroughMosquittoInOrder(t *testing.T) {
	port := freePort(t)
	newMosquitto(t, plainListener(port))
	s := newSource(t, plainConfig(t, port, "in"), "a/#")
	got := newCollector()
	start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
	endtest.Until(t, "the subscription", s.subscribed)
	d := newDestination(t, plainConfig(t, port, "out"))
	start(t, d.Run)
	const n = 10000
	done := newCompletions()
	ms, tickets := numbered("a/b", 0, n)
	if took, err := d.Send(t.Context(), ms, done, tickets); took != n || err != nil {
		t.Fatal(took, err)
	}
	done.until(t, n)
	got.until(t, "all messages", func(got []node.Delivery) bool { return len(got) >= n })
	for i, d := range got.all() {
		if string(d.Message.Payload) != strconv.Itoa(i) || d.Message.Topic != "a/b" {
			t.Fatalf("message %d is %q on %q", i, d.Message.Payload, d.Message.Topic)
		}
	}
}

// subscribed reports whether the broker has granted all filters that it does not refuse.
func (s *Source) subscribed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session != nil && len(s.asked) == 0 && len(s.granted)+len(s.refused) == len(s.filters)
}

// TestSubscriptionsAreRememberedWhereNoDirectoryIsYet: a graph that keeps no journal has no
// directory before its source writes there.
func TestSubscriptionsAreRememberedWhereNoDirectoryIsYet(t *testing.T) {
	c := plainConfig(t, 1, "in")
	c.StateFile = filepath.Join(t.TempDir(), "graphs", "bridge", "in.subscriptions.json")
	s := newSource(t, c, "a/#")
	s.remember([]string{"a/#"})
	if got := s.remembered(); !slices.Equal(got, []string{"a/#"}) {
		t.Errorf("remembered: %q", got)
	}
}

// TestClientIDsTellDevicesFlowsAndNodesApart, also where the parts could be read in two ways.
func TestClientIDsTellDevicesFlowsAndNodesApart(t *testing.T) {
	long := strings.Repeat("d", 200)
	seen := map[string][4]string{}
	for _, parts := range [][4]string{
		{"", "dev-1", "minutes", "sensors"}, {"", "dev-2", "minutes", "sensors"}, {"", "", "minutes", "sensors"}, {"plant-1", "dev-1", "minutes", "sensors"},
		{"", "a", "b-c", "d"}, {"", "a-b", "c", "d"}, {"", "a", "b", "c-d"}, {"", "a.b", "c", "d"},
		{"", "dev+1", "g", "n"}, {"", "dev#1", "g", "n"}, {"", "dev_1", "g", "n"}, {"", "dev/1", "g", "n"}, {"", "gerät", "g", "n"},
		{"", long, "g", "n"}, {"", long, "g", "m"}, {long, "", "g", "n"},
	} {
		id := ClientID(parts[0], parts[1], parts[2], parts[3])
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q both have the client id %s", parts, other, id)
		}
		seen[id] = parts
		if id != ClientID(parts[0], parts[1], parts[2], parts[3]) || len(id) > 128 || strings.ContainsAny(id, "+#/ ä") {
			t.Errorf("%q: %q", parts, id)
		}
	}
	if id := ClientID("", "dev-1", "minutes", "sensors"); id != "hubhop-dev-1.minutes.sensors" {
		t.Error(id)
	}
}
