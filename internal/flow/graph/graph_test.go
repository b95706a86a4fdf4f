package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

func TestMessagesComeOutInOrderAndAreAcknowledgedWhenTheyAreSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		g, stop := start(t, chain(in, out, mapFunc(func(m *node.Message) error { m.Payload = append([]byte("x"), m.Payload...); return nil })), Options{})
		defer stop()
		in.give(text("1"), text("2"), text("3"))
		synctest.Wait()
		equalAll(t, "got", out.bodies(), "x1", "x2", "x3")
		equal(t, "acknowledged", in.ackedCount(), 0)
		equal(t, "in flight", g.Status().InFlight, 3)
		out.open()
		equal(t, "acknowledged", in.ackedCount(), 3)
		s := g.Status()
		if s.In != 3 || s.Out != 3 || s.InFlight != 0 || s.InFlightBytes != 0 || s.State != Running || s.Text != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestAMessageForTwoDestinationsIsAcknowledgedWhenBothHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, a, b := newHand(), newFar(), newFar()
		a.shut, b.shut = true, true
		p := Plan{
			Name: "g", Sources: []SourceNode{{"in", in}}, Destinations: []DestinationNode{{Name: "a", Destination: a}, {Name: "b", Destination: b}},
			Edges: []Edge{{From: "in", To: "a"}, {From: "in", To: "b"}},
		}
		_, stop := start(t, p, Options{})
		defer stop()
		in.give(text("1"))
		synctest.Wait()
		a.open()
		equal(t, "acknowledged", in.ackedCount(), 0)
		b.open()
		equal(t, "acknowledged", in.ackedCount(), 1)
		if x, y := a.ids()[0], b.ids()[0]; x == y || !strings.HasSuffix(x, "/0") || !strings.HasSuffix(y, "/1") {
			t.Errorf("ids %q and %q", x, y)
		}
	})
}

func TestBackPressureReachesTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		p := chain(in, out)
		p.Settings.MaxMessages = 10
		g, stop := start(t, p, Options{})
		defer stop()
		given := 0
		go func() {
			for i := range 100 {
				in.give(text(strconv.Itoa(i)))
				given++
			}
		}()
		synctest.Wait()
		equal(t, "in flight", g.Status().InFlight, 10)
		equal(t, "handed in", given, 11) // the source has one more in hand
		out.open()
		synctest.Wait()
		equal(t, "handed in", given, 100)
		equal(t, "acknowledged", in.ackedCount(), 100)
		for i, s := range out.bodies() {
			equal(t, "order", s, strconv.Itoa(i))
		}
	})
}

func TestAMessageThatFailsIsDroppedCountedAndSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		var said logs
		dir := t.TempDir()
		dead, err := OpenDeadLetters(dir, 0, said.add)
		if err != nil {
			t.Fatal(err)
		}
		p := chain(in, out,
			mapFunc(func(m *node.Message) error {
				switch string(m.Payload) {
				case "error":
					return errTest
				case "panic":
					panic("oh")
				}
				return nil
			}),
			filterFunc(func(m *node.Message) (bool, error) { return string(m.Payload) != "filtered", nil }))
		p.Destinations[0].Prepare = func(m *node.Message) error {
			switch string(m.Payload) {
			case "no topic":
				return errTest
			case "prepare panics":
				panic("oh")
			}
			return nil
		}
		g, stop := start(t, p, Options{Log: said.add, DeadLetters: dead})
		defer stop()
		for range 100 {
			in.give(text("error"), text("panic"))
		}
		in.give(text("filtered"), text("no topic"), text("prepare panics"), text("good"))
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "good")
		equal(t, "acknowledged", in.ackedCount(), 204)
		s := g.Status()
		if s.Errors != 202 || s.Dropped != 1 || s.InFlight != 0 || s.State != Running {
			t.Errorf("%+v", s)
		}
		equal(t, "said", len(said.all), 4)
		time.Sleep(burstPause)
		in.give(text("error"))
		synctest.Wait()
		equal(t, "said again", said.count("99 more"), 1)
		if err := dead.Close(); err != nil {
			t.Error(err)
		}
		lines := readLetters(t, dir)
		if n := uint64(len(lines)) + dead.Missed(); n != 203 {
			t.Errorf("%d letters, %d missed", len(lines), dead.Missed())
		}
		if l := lines[0]; l.Graph != "g" || l.Node != "op1" || l.Reason != "failed" || l.Error != "no good" || l.Text == nil || *l.Text != "error" || l.Topic != "t" {
			t.Errorf("%+v", l)
		}
	})
}

func readLetters(t *testing.T, dir string) (all []letter) {
	t.Helper()
	for _, name := range []string{"deadletter.old.jsonl", "deadletter.jsonl"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var l letter
			if err := json.Unmarshal(line, &l); err != nil {
				t.Errorf("%v: %s", err, line)
			}
			all = append(all, l)
		}
	}
	return all
}

// A dead letter shows its payload as it is, so that a person can read it.
func TestDeadLettersAreReadable(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDeadLetters(dir, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{`{"t":21.0,"unit":"<C>"}`, "21 °C", "\xff\x00", ""} {
		d.keep("g", Drop{Node: "n", Err: errors.New("no")}, &node.Message{Payload: []byte(payload)}, time.Unix(0, 0))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "deadletter.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	want := []string{`"payload":{"t":21.0,"unit":"<C>"}}`, `"payloadText":"21 °C"}`, `"payloadBase64":"/wA="}`, `"payloadText":""}`}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, not %d: %s", len(lines), len(want), b)
	}
	for i := range want {
		if !strings.HasSuffix(lines[i], want[i]) {
			t.Errorf("%s does not end in %s", lines[i], want[i])
		}
	}
}

func TestDeadLettersAreBoundedAndADiskThatFailsStopsNothing(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDeadLetters(dir, 20_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := text(strings.Repeat("x", 500))
	for range 200 {
		if err := d.append(fmt.Appendf(nil, "%s\n", m.Payload)); err != nil {
			t.Fatal(err)
		}
	}
	bytes := int64(0)
	for _, name := range []string{"deadletter.old.jsonl", "deadletter.jsonl"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	if bytes > 20_000 || bytes < 9_000 {
		t.Errorf("%d bytes are kept", bytes)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	var said logs
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad, err := OpenDeadLetters(filepath.Join(dir, "file"), 0, said.add)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		bad.keep("g", Drop{Node: "n", Reason: Failed, Err: errTest}, &m, time.Now())
	}
	_ = bad.Close()
	bad.keep("g", Drop{}, &m, time.Now())
	equal(t, "missed", bad.Missed(), 11)
	equal(t, "said", len(said.all), 1)
}

// TestAMessageThatCannotBeKeptIsNotSaidToBe, in the log as in the status: nobody finds it there.
func TestAMessageThatCannotBeKeptIsNotSaidToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newHand()
		var said logs
		dead, err := OpenDeadLetters(t.TempDir(), 1000, said.add)
		if err != nil {
			t.Fatal(err)
		}
		fail := mapFunc(func(*node.Message) error { return errTest })
		g, stop := start(t, chain(in, newFar(), fail), Options{Log: said.add, DeadLetters: dead})
		for _, x := range []struct{ payload, want string }{
			{strings.Repeat("x", 500), "it could not be kept in " + dead.file()},
			{"short", "it is kept in " + dead.file()},
		} {
			in.give(text(x.payload))
			synctest.Wait()
			if s := g.Status().LastError; !strings.Contains(s, x.want) || said.count(x.want) != 1 {
				t.Errorf("%.10s: the status says %q, and the log %q; want %q", x.payload, s, said.all, x.want)
			}
			time.Sleep(burstPause)
		}
		stop()
		if err := dead.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsExpiredIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.window = 1
		out.shut = true
		g, stop := start(t, chain(in, out), Options{})
		defer stop()
		in.give(text("1"), text("2"))
		synctest.Wait()
		soon := text("soon")
		soon.Expires = time.Now().Add(time.Second)
		later := text("later")
		later.Expires = time.Now().Add(time.Hour)
		in.give(soon, later)
		time.Sleep(time.Minute)
		out.open()
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1", "2", "later")
		equal(t, "acknowledged", in.ackedCount(), 4)
		if s := g.Status(); s.Dropped != 1 || len(s.Drops) != 1 || s.Drops[0] != (Count{"out", Expired, 1}) {
			t.Errorf("%+v", s)
		}
	})
}

// TestWhatADestinationFindsExpiredIsDroppedOnPurpose: it is neither safe nor an error.
func TestWhatADestinationFindsExpiredIsDroppedOnPurpose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		g, stop := start(t, chain(in, out), Options{})
		defer stop()
		out.broken = fmt.Errorf("broker: %w", node.ErrExpired)
		in.give(text("1"))
		synctest.Wait()
		equal(t, "acknowledged", in.ackedCount(), 1)
		if s := g.Status(); s.Out != 0 || s.Dropped != 1 || s.Errors != 0 || len(s.Drops) != 1 || s.Drops[0] != (Count{"out", Expired, 1}) {
			t.Errorf("%+v", s)
		}
	})
}

func TestADestinationThatRefusesAMessageLosesOnlyThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		g, stop := start(t, chain(in, out), Options{})
		defer stop()
		out.broken = errTest
		in.give(text("1"))
		synctest.Wait()
		out.broken = nil
		in.give(text("2"))
		synctest.Wait()
		equal(t, "acknowledged", in.ackedCount(), 2)
		if s := g.Status(); s.Out != 1 || s.Errors != 1 || s.Drops[0].Reason != Refused {
			t.Errorf("%+v", s)
		}
	})
}

func TestADestinationThatFailsIsStartedAgainAndGetsWhatIsNotSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		var said logs
		g, stop := start(t, chain(in, out), Options{Log: said.add})
		defer stop()
		out.shut = true
		in.give(text("1"), text("2"))
		synctest.Wait()
		out.kick <- errTest
		synctest.Wait()
		if s := g.Status(); s.State != Failing || !strings.Contains(s.Text, "node out has failed") || s.OldestAge != 0 {
			t.Errorf("%+v", s)
		}
		in.give(text("3"))
		out.mu.Lock()
		out.shut = false
		out.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1", "2", "1", "2", "3")
		equal(t, "acknowledged", in.ackedCount(), 3)
		time.Sleep(2 * time.Second)
		if s := g.Status(); s.State != Running || s.Text != "" {
			t.Errorf("%+v", s)
		}
		equal(t, "said", len(said.all), 1)
	})
}

// failing is a source that fails so many times, or panics.
type failing struct {
	*hand
	times  int
	began  []time.Time
	panics bool
}

func (f *failing) Run(ctx context.Context, take func(node.Delivery) bool) error {
	f.began = append(f.began, time.Now())
	if f.times--; f.times >= 0 {
		if f.panics {
			panic("oh")
		}
		return errTest
	}
	return f.hand.Run(ctx, take)
}

func TestASourceThatFailsIsStartedAgainMoreAndMoreSlowly(t *testing.T) {
	for _, panics := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			in, out := &failing{hand: newHand(), times: 8, panics: panics}, newFar()
			p := chain(in, out)
			p.Settings.RetryMax = 10 * time.Second
			_, stop := start(t, p, Options{})
			defer stop()
			in.give(text("1"))
			synctest.Wait()
			equalAll(t, "out", out.bodies(), "1")
			for i := 1; i < len(in.began); i++ {
				pause, most := in.began[i].Sub(in.began[i-1]), min(time.Second<<(i-1), 10*time.Second)
				if pause < most/2 || pause > most {
					t.Errorf("pause %d: %v, want %v to %v", i, pause, most/2, most)
				}
			}
		})
	}
}

func TestStopCompletesWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		g, stop := start(t, chain(in, out), Options{})
		defer stop()
		in.give(text("1"), text("2"))
		synctest.Wait()
		stopped := make(chan struct{})
		go func() {
			g.Stop(t.Context())
			close(stopped)
		}()
		time.Sleep(time.Minute)
		select {
		case <-stopped:
			t.Error("Stop has left messages")
		default:
		}
		out.open()
		<-stopped
		equal(t, "acknowledged", in.ackedCount(), 2)
		equal(t, "state", g.Status().State, Stopped)
	})
}

func TestStopLeavesWhatCannotBeCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		g, stop := start(t, chain(in, out), Options{})
		defer stop()
		in.give(text("1"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g.Stop(ctx)
		equal(t, "acknowledged", in.ackedCount(), 0)
		if err := g.Run(t.Context()); err == nil {
			t.Error("a graph runs twice")
		}
	})
}

func TestSourcesThatWaitForRoomEndWithTheGraph(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			out := newFar()
			out.shut = true
			p := Plan{Name: "g", Destinations: []DestinationNode{{Name: "out", Destination: out}}}
			p.Settings.MaxMessages = 1
			for i := range 100 {
				in := &flood{hand: newHand(), make: func(int) node.Message { return text("x") }}
				p.Sources = append(p.Sources, SourceNode{Name: strconv.Itoa(i), Source: in})
				p.Edges = append(p.Edges, Edge{From: strconv.Itoa(i), To: "out"})
			}
			g, stop := start(t, p, Options{})
			synctest.Wait()
			equal(t, "sources that wait", g.waiting, 100)
			stop() // hangs if one of them does not hear of it
		})
	}
}

func TestASourceThatWaitsForRoomEndsWithItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		p := chain(in, out)
		p.Settings.MaxMessages = 1
		g, stop := start(t, p, Options{})
		defer stop()
		in.give(text("1"))
		synctest.Wait() // the source has it, and the graph too
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if g.take(ctx, 0, node.Delivery{Message: text("2")}) {
			t.Error("a message was taken without room")
		}
	})
}

// flood hands in messages as fast as it can.
type flood struct {
	*hand
	make  func(i int) node.Message
	taken int
}

func (f *flood) Run(ctx context.Context, take func(node.Delivery) bool) error {
	for i := 0; take(node.Delivery{Message: f.make(i), From: f, Ticket: uint64(i)}); i++ {
		f.taken++
	}
	return nil
}

func TestASourceThatIsFasterThanTheGraphFillsItsWindowAndNoMore(t *testing.T) {
	for name, make := range map[string]func(i int) node.Message{
		"large payloads": func(int) node.Message { return text(strings.Repeat("x", 900_000)) },
		"many small":     func(int) node.Message { return text("x") },
		"many properties": func(int) node.Message {
			m := text("x")
			for range 900 {
				m.Properties = append(m.Properties, node.Property{Key: "k", Value: strings.Repeat("v", 100)})
			}
			return m
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, remembers := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					in, out := &flood{hand: newHand(), make: make}, newFar()
					out.shut = true
					var ops []any
					o := Options{}
					if remembers {
						ops, o = []any{mapDelay("")}, testJournal(t)
					}
					p := chain(in, out, ops...)
					p.Settings.MaxHeld, p.Settings.MaxBytes = 1<<20, 2<<20
					p.Settings.JournalBytes = 8 << 20
					g, stop := start(t, p, o)
					defer stop()
					time.Sleep(time.Hour)
					synctest.Wait()
					s := g.Status()
					// What was held comes out at once, so it may all be in flight, with the window
					// beside it.
					if s.InFlight > 1000 || s.InFlightBytes+s.Held > 1<<20+2<<20+1<<20 || s.Journal > 16<<20 {
						t.Errorf("%+v", s)
					}
					if in.taken > 15_000 {
						t.Errorf("%d messages were taken, and nothing has left", in.taken)
					}
				})
			}
		})
	}
}

func TestMessagesBeyondTheLimitsAreDroppedWithAReason(t *testing.T) {
	for want, m := range map[string]node.Message{
		"the payload has 1000001 bytes": text(strings.Repeat("x", 1_000_001)),
		"has 10000 properties":          {Properties: make([]node.Property, 10_000)},
		"the key of a property has":     {Properties: []node.Property{{Key: strings.Repeat("k", 65536)}}},
		"have more than 65535 bytes":    {Topic: strings.Repeat("t", 65536)},
		"bytes together":                {Properties: []node.Property{{Value: strings.Repeat("v", 300_000)}}},
		"the picture has 2000000 bytes": {Snapshot: &node.Snapshot{Frame: make([]byte, 2_000_000)}},
	} {
		for _, remembers := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				in, out := newHand(), newFar()
				var said logs
				o := Options{}
				var ops []any
				if remembers {
					o, ops = testJournal(t), []any{&lastSeen{}}
				}
				o.Log = said.add
				g, stop := start(t, chain(in, out, ops...), o)
				defer stop()
				in.give(m, text("good"))
				synctest.Wait()
				equal(t, "out", g.Status().Out, 1)
				equal(t, "acknowledged", in.ackedCount(), 2)
				if said.count(want) != 1 {
					t.Errorf("want %q: %q", want, said.all)
				}
			})
		}
	}
}

func TestStagesAreTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		var mu sync.Mutex
		stages := map[string]int{}
		o := testJournal(t)
		o.Stage = func(stage string, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			stages[stage]++
		}
		_, stop := start(t, chain(in, out, &lastSeen{}), o)
		defer stop()
		in.give(text("1"), text("2"))
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for _, s := range []string{"queue", "journal", "operators", "destination"} {
			equal(t, s, stages[s], 2)
		}
	})
}

func TestADayOfAWindowIsFlat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		g, stop := start(t, chain(in, out, &tumbling{length: time.Minute}), testJournal(t))
		defer stop()
		began := time.Now()
		for time.Since(began) < 24*time.Hour {
			in.give(text("x"))
			time.Sleep(20 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		equal(t, "windows", len(out.got), 24*60)
		for _, body := range out.bodies() {
			equal(t, "messages of a window", strings.Count(body, "x"), 3)
		}
		s := g.Status()
		if s.InFlight != 0 || s.Journal != 0 || s.Held != 0 || s.Late != 0 || len(g.roots) > maxTurn || cap(g.queues[0].items) > maxTurn {
			t.Errorf("%+v", s)
		}
	})
}

func TestADeadConnectionIsNoIdleSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := &connection{hand: newHand()}, newFar()
		g, stop := start(t, chain(in, out, &tumbling{length: 10 * time.Second}), testJournal(t))
		defer stop()
		now := time.Now()
		in.up.Store(true)
		in.give(at(now, "1"))
		synctest.Wait()
		in.up.Store(false)
		time.Sleep(30 * time.Second)
		in.up.Store(true)
		in.give(at(now.Add(2*time.Second), "2"), at(now.Add(31*time.Second), "3")) // what the broker has kept
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1+2")
		equal(t, "late", g.Status().Late, 0)
		in.up.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		equalAll(t, "after a long time", out.bodies(), "1+2", "3")
	})
}

// TestASourceIsAskedWithoutTheLockOfTheGraph: one that waits for the graph, to hand in a message,
// say, would wait for ever otherwise.
func TestASourceIsAskedWithoutTheLockOfTheGraph(t *testing.T) {
	g, err := New(chain(&connection{hand: newHand()}, newFar()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	isFree := false
	g.live[0] = func() bool {
		if isFree = g.mu.TryLock(); isFree {
			g.mu.Unlock()
		}
		return true
	}
	equal(t, "dead", g.isDead(0), false)
	equal(t, "free", isFree, true)
	g.ill("in", "no good")
	equal(t, "dead in trouble", g.isDead(0), true)
}

type connection struct {
	*hand
	up atomic.Bool
}

func (c *connection) Live() bool { return c.up.Load() }

// TestAStopThatComesBeforeRunEndsIt at once: a flow may be started and stopped in the same moment,
// before its goroutine runs. With a journal as without.
func TestAStopThatComesBeforeRunEndsIt(t *testing.T) {
	for name, o := range map[string]Options{"without a journal": {}, "with a journal": testJournal(t)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, out := newHand(), newFar()
				out.shut = true
				g, err := New(chain(in, out), o)
				if err != nil {
					t.Fatal(err)
				}
				g.Stop(t.Context())
				ended := make(chan error)
				go func() { ended <- g.Run(context.Background()) }()
				select {
				case err := <-ended:
					if err != nil || g.Status().State != Stopped {
						t.Errorf("%v, the state is %v", err, g.Status().State)
					}
				case <-time.After(time.Hour):
					t.Fatal("it runs for an hour")
				}
			})
		})
	}
}
