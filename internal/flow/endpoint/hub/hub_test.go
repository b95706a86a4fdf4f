package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// stored is an outbox that a test can hold up.
type stored struct {
	mu      sync.Mutex
	batches [][]message.Message
	values  map[string]json.RawMessage
	reports int
	refuse  func([]message.Message) error
	gate    chan struct{} // nil: nothing waits
}

func (s *stored) Append(ctx context.Context, ms ...message.Message) error {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		if err := s.refuse(ms); err != nil {
			return err
		}
	}
	ms = slices.Clone(ms)
	for i := range ms {
		ms[i].Properties = maps.Clone(ms[i].Properties)
	}
	s.batches = append(s.batches, ms)
	return nil
}

// converted makes a message for the outbox, with nothing left from another one.
func converted(m *node.Message, component string, arrived time.Time) (out message.Message, lost []string, err error) {
	d := Destination{p: place{component: component}}
	lost, err = d.convert(&out, m, arrived)
	return out, lost, err
}

func (s *stored) Report(_ context.Context, values map[string]json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range values {
		if name == "refused" {
			return &fault{"the disk holds 32 KB"}
		}
	}
	s.reports++
	if s.values == nil {
		s.values = map[string]json.RawMessage{}
	}
	maps.Copy(s.values, values)
	return nil
}

func (s *stored) bodies() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, batch := range s.batches {
		for _, m := range batch {
			all = append(all, string(m.Body))
		}
	}
	return all
}

// completed notes what became of tickets.
type completed struct {
	mu   sync.Mutex
	safe []uint64
	bad  map[uint64]string
}

func (c *completed) Done(tickets []uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.safe = append(c.safe, tickets...)
		return
	}
	if c.bad == nil {
		c.bad = map[uint64]string{}
	}
	for _, t := range tickets {
		c.bad[t] = err.Error()
	}
}

func send(t *testing.T, d *Destination, to node.Completion, from uint64, payloads ...string) {
	t.Helper()
	var ms []node.Message
	var tickets []uint64
	for i, p := range payloads {
		ms, tickets = append(ms, node.Message{Payload: []byte(p)}), append(tickets, from+uint64(i))
	}
	if n, err := d.Send(t.Context(), ms, to, tickets); err != nil || n != len(ms) {
		t.Fatalf("Send: %d, %v", n, err)
	}
}

// start runs a destination until the test ends.
func start(t *testing.T, o Options) *Destination {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return d
}

func TestAMessageBecomesWhatTheHubKnows(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	arrived := at.Add(time.Hour)
	props := func(pairs ...string) (ps []node.Property) {
		for i := 0; i < len(pairs); i += 2 {
			ps = append(ps, node.Property{Key: pairs[i], Value: pairs[i+1]})
		}
		return ps
	}
	for name, c := range map[string]struct {
		in        node.Message
		component string
		want      message.Message
		lost      []string
	}{
		"user properties keep their names, and the id is the message's": {
			in:   node.Message{ID: "g/n/7", Time: node.TimeOf(at), ContentType: "text/plain", Payload: []byte("x"), Properties: props("type", "a.b", "id", "g/n/7", "source", "s")},
			want: message.Message{Body: []byte("x"), ContentType: "text/plain", Created: at, Properties: map[string]string{"type": "a.b", "id": "g/n/7", "source": "s"}},
		},
		"reserved names are left out without a word": {
			in:   node.Message{Time: node.TimeOf(at), Payload: []byte("1"), Properties: props("__ts", "1:0:a", "$.mid", "x", "__srcId", "y", "unit", "C")},
			want: message.Message{Body: []byte("1"), Created: at, Properties: map[string]string{"unit": "C"}},
		},
		"what a hub cannot carry is left out and counted": {
			in:   node.Message{Time: node.TimeOf(at), Payload: []byte("1"), Properties: props("", "1", "a\x00", "1", "b", "\xff", "iothub-x", "1", "gap", "1-1", "ok", "1", "ok", "2")},
			want: message.Message{Body: []byte("1"), Created: at, Properties: map[string]string{"ok": "1"}},
			lost: []string{"", "a\x00", "b", "iothub-x", "gap", "ok"},
		},
		"a payload of JSON without a content type is said to be JSON": {
			in:   node.Message{Time: node.TimeOf(at), Payload: []byte(" {\"a\":1}")},
			want: message.Message{Body: []byte(" {\"a\":1}"), ContentType: "application/json", ContentEncoding: "utf-8", Created: at},
		},
		"a brace alone is no JSON": {
			in:   node.Message{Time: node.TimeOf(at), Payload: []byte("{")},
			want: message.Message{Body: []byte("{"), Created: at},
		},
		"a content type names its encoding": {
			in:   node.Message{Time: node.TimeOf(at), Payload: []byte("x"), ContentType: "text/csv; charset=iso-8859-1"},
			want: message.Message{Body: []byte("x"), ContentType: "text/csv; charset=iso-8859-1", ContentEncoding: "iso-8859-1", Created: at},
		},
		"JSON of any kind is utf-8": {
			in:   node.Message{Time: node.TimeOf(at), Payload: []byte("{}"), ContentType: "application/cloudevents+json"},
			want: message.Message{Body: []byte("{}"), ContentType: "application/cloudevents+json", ContentEncoding: "utf-8", Created: at},
		},
		"a message without a time was created when it came": {
			in:        node.Message{Payload: []byte("1")},
			component: "pump1",
			want:      message.Message{Body: []byte("1"), Component: "pump1", Created: arrived},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, lost, err := converted(&c.in, c.component, arrived)
			if err != nil || !reflect.DeepEqual(got, c.want) || !slices.Equal(lost, c.lost) {
				t.Errorf("got %+v, lost %q, %v\nwant %+v, lost %q", got, lost, err, c.want, c.lost)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	for text, ok := range map[string]bool{
		"telemetry": true, "telemetry/pump_1": true, "property": true,
		"": false, "telemetry/": false, "telemetry/a/b": false, "telemetry/1a": false, "property/x": false, "Telemetry": false, "telemetry/é": false,
	} {
		if err := CheckPlace(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAMessageThatIsTooLargeIsRefusedAndItsNeighboursArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, to := &stored{}, &completed{}
		d := start(t, Options{Intake: box, Place: "telemetry"})
		send(t, d, to, 0, "1", strings.Repeat("x", 256<<10), "2")
		synctest.Wait()
		if got := box.bodies(); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("stored %d messages", len(got))
		}
		if !slices.Equal(to.safe, []uint64{0, 2}) || !strings.Contains(to.bad[1], "IoT Hub takes") {
			t.Errorf("safe %v, bad %v", to.safe, to.bad)
		}
	})
}

func TestPropertiesThatEscapeToMoreThanATopicAreRefused(t *testing.T) {
	m := node.Message{Payload: []byte("1"), Properties: []node.Property{{Key: "k", Value: strings.Repeat("ä", 12000)}}}
	if _, _, err := converted(&m, "", time.Time{}); err == nil || !strings.Contains(err.Error(), "as a hub wants them") {
		t.Errorf("got %v", err)
	}
}

func TestWhileOneBatchIsSyncedTheNextOneCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, to := &stored{gate: make(chan struct{})}, &completed{}
		d := start(t, Options{Intake: box, Place: "telemetry"})
		send(t, d, to, 0, "first")
		synctest.Wait()
		var want []string
		for i := range 50 {
			send(t, d, to, uint64(1+i), fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
		}
		synctest.Wait()
		if len(to.safe) != 0 {
			t.Errorf("%d messages are said to be safe before the sync", len(to.safe))
		}
		close(box.gate)
		synctest.Wait()
		if len(box.batches) != 2 || !slices.Equal(box.bodies(), append([]string{"first"}, want...)) || len(to.safe) != 51 {
			t.Errorf("%d commits of %v, %d safe", len(box.batches), box.bodies(), len(to.safe))
		}
	})
}

func TestASenderWaitsWhileThereIsNoRoomAndMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, to := &stored{gate: make(chan struct{})}, &completed{}
		d := start(t, Options{Intake: box, Place: "telemetry"})
		const all = 3 * maxQueued
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for i := range all {
				send(t, d, to, uint64(i), fmt.Sprint(i))
			}
		}()
		synctest.Wait()
		d.mu.Lock()
		n := len(d.queue)
		d.mu.Unlock()
		if n > maxQueued {
			t.Errorf("%d messages in the queue", n)
		}
		select {
		case <-sent:
			t.Error("nothing waited")
		default:
		}
		close(box.gate)
		<-sent
		synctest.Wait()
		if len(box.bodies()) != all || !slices.IsSorted(to.safe) || len(to.safe) != all {
			t.Errorf("%d stored, %d safe", len(box.bodies()), len(to.safe))
		}
	})
}

func TestASenderThatIsStoppedSaysHowManyWereTaken(t *testing.T) {
	d, err := New(Options{Intake: &stored{}, Place: "telemetry"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	ms, tickets := make([]node.Message, maxQueued+5), make([]uint64, maxQueued+5)
	if n, err := d.Send(ctx, ms, &completed{}, tickets); n != maxQueued || !errors.Is(err, context.Canceled) {
		t.Errorf("took %d, %v", n, err)
	}
}

func TestAnOutboxThatRefusesForNowIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		box, to := &stored{refuse: func([]message.Message) error {
			if tries++; tries < 4 {
				return errors.New("no space left on device")
			}
			return nil
		}}, &completed{}
		d := start(t, Options{Intake: box, Place: "telemetry"})
		send(t, d, to, 0, "1")
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries != 4 || len(to.safe) != 1 || to.bad != nil {
			t.Errorf("%d tries, safe %v, bad %v", tries, to.safe, to.bad)
		}
	})
}

func TestOnlyTheMessageThatTheOutboxRefusesFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, to := &stored{refuse: func(ms []message.Message) error {
			for _, m := range ms {
				if string(m.Body) == "bad" {
					return &fault{"it does not fit"}
				}
			}
			return nil
		}}, &completed{}
		d := start(t, Options{Intake: box, Place: "telemetry"})
		send(t, d, to, 0, "1", "bad", "2")
		synctest.Wait()
		if !slices.Equal(box.bodies(), []string{"1", "2"}) || !slices.Equal(to.safe, []uint64{0, 2}) || to.bad[1] != "it does not fit" {
			t.Errorf("stored %v, safe %v, bad %v", box.bodies(), to.safe, to.bad)
		}
	})
}

func TestReportedPropertiesAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, to := &stored{}, &completed{}
		var told []string
		d, err := New(Options{Twin: box, Place: "property", Log: func(text string) { told = append(told, text) }})
		if err != nil {
			t.Fatal(err)
		}
		send(t, d, to, 0, `{"a":1,"b":{"c":2}}`, `[1]`, `{"a":3,"x.y":1,"__ts":"z"}`, `{"pump":{"__t":"c","speed":5}}`, `{"refused":1}`, `{"x.y":2}`)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = d.Run(ctx) }()
		synctest.Wait()
		want := map[string]json.RawMessage{"a": json.RawMessage("3"), "b": json.RawMessage(`{"c":2}`), "pump*speed": json.RawMessage("5")}
		if !reflect.DeepEqual(box.values, want) {
			t.Errorf("reported %s", box.values)
		}
		if !slices.Equal(to.safe, []uint64{0, 2, 3, 5}) || len(to.bad) != 2 {
			t.Errorf("safe %v, bad %v", to.safe, to.bad)
		}
		if d.Lost() != 2 || len(told) != 1 {
			t.Errorf("%d names were left out, told %q", d.Lost(), told)
		}
		box.reports = 0
		send(t, d, to, 10, `{"a":4}`, `{"a":5}`, `{"a":6}`)
		synctest.Wait()
		if box.reports != 1 || string(box.values["a"]) != "6" {
			t.Errorf("%d reports, a is %s", box.reports, box.values["a"])
		}
	})
}

func FuzzConvert(f *testing.F) {
	f.Add("id", "v", "application/json", []byte("{}"))
	f.Add("__x", "\xff", "a/b; charset=\x00", []byte("[1"))
	f.Fuzz(func(t *testing.T, key, value, contentType string, payload []byte) {
		m := node.Message{ContentType: contentType, Payload: payload, Properties: []node.Property{{Key: key, Value: value}, {Key: "x", Value: key}}}
		if got, _, err := converted(&m, "", time.Now()); err == nil && len(got.Body)+len(key) > maxMessage+len(key) {
			t.Errorf("%d bytes are said to fit", len(got.Body))
		}
		_, _, _ = properties(payload)
	})
}

func TestNothingOfOneMessageIsInTheNextOne(t *testing.T) {
	s, c := &stored{}, &completed{}
	d := start(t, Options{Intake: s, Place: "telemetry"})
	for i, m := range []node.Message{
		{ID: "1", Payload: []byte("1"), ContentType: "text/plain; charset=utf-8", Properties: []node.Property{{Key: "a", Value: "b"}}},
		{Payload: make([]byte, maxMessage+1), Properties: []node.Property{{Key: "large", Value: "yes"}}},
		{ID: "2", Payload: []byte("2")},
		{Payload: []byte("3")},
	} {
		if _, err := d.Send(t.Context(), []node.Message{m}, c, []uint64{uint64(i)}); err != nil {
			t.Fatal(err)
		}
		for {
			c.mu.Lock()
			done := len(c.safe) + len(c.bad)
			c.mu.Unlock()
			if done == i+1 {
				break
			}
			runtime.Gosched()
		}
	}
	var got []string
	for _, batch := range s.batches {
		for _, m := range batch {
			got = append(got, fmt.Sprint(string(m.Body), m.ContentType, m.ContentEncoding, m.Properties))
		}
	}
	want := []string{"1text/plain; charset=utf-8utf-8map[a:b id:1]", "2map[id:2]", "3map[]"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// BenchmarkDestination is what a message costs here, an outbox left out.
func BenchmarkDestination(b *testing.B) {
	c := make(counted, 1)
	d, err := New(Options{Intake: nowhere{}, Place: "telemetry"})
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(b.Context())
	running.Go(func() { _ = d.Run(ctx) })
	ms, tickets := make([]node.Message, 64), make([]uint64, 64)
	for i := range ms {
		ms[i] = node.Message{ID: "flow/in/1", Topic: "sensors/1/t", Payload: []byte(`{"deviceId":"press-017","temperature":71.25,"humidity":40,"vibration":{"x":0.01,"y":0.02},"status":"running"}`)}
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = d.Send(ctx, ms, c, tickets)
		for n := 0; n < len(ms); {
			n += <-c
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ms)), "ns/msg")
	stop()
	running.Wait()
}

type nowhere struct{}

func (nowhere) Append(context.Context, ...message.Message) error { return nil }

type counted chan int

func (c counted) Done(tickets []uint64, _ error) { c <- len(tickets) }
