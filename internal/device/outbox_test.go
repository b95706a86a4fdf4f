package device

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// about are the outbox's events of one kind.
func (w *world) about(kind outbox.Kind) (all []journal.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == journal.OutboxProblem && e.Name == kind.String() {
			all = append(all, e)
		}
	}
	return all
}

func last[T any](all []T) (x T) {
	if len(all) > 0 {
		x = all[len(all)-1]
	}
	return x
}

// TestDropsAreToldEverywhere: an outage lasts longer than the outbox has room. Every sample that
// the policy drops is counted, reported in few events, summed up at the return and at the end, and
// announced to consumers.
func TestDropsAreToldEverywhere(t *testing.T) {
	for name, limit := range map[string]func(*plan){
		"by size": func(c *plan) { c.Outbox.MaxBytes = 64 << 10 },
		"by age":  func(c *plan) { c.Outbox.MaxAge = time.Minute },
		"by age, in whole segments": func(c *plan) {
			c.Outbox.MaxAge, c.Outbox.MaxBytes = time.Minute, 4<<20
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := setup{device: func(c *plan) {
				c.TelemetryInterval = 100 * time.Millisecond
				limit(c)
			}}
			bubble(t, s, func(t *testing.T, w *world) {
				w.gives = true
				w.run(10 * time.Second)
				w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
				w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
				w.run(10 * time.Minute)
				w.must(w.cloud.HealDPS())
				w.must(w.cloud.HealHub("hub-a"))
				w.on("hub-a", 2*time.Minute)
				w.run(2 * time.Minute)
				s := w.dev.Status().Outbox
				w.halt()
				missing := w.nothingUntold().Announced
				if missing < 3000 || s.Dropped < missing || s.Dropped > missing+64 {
					t.Errorf("%d samples are missing, %d were dropped", missing, s.Dropped)
				}
				events, told := w.about(outbox.Dropped), uint64(0)
				for _, e := range events {
					told += e.Lost
				}
				if told != s.Dropped || len(events) > 2*13 {
					t.Errorf("%d events tell of %d dropped samples, not %d", len(events), told, s.Dropped)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				end := last(w.events)
				if end.Kind != journal.Stopped || end.Lost != s.Dropped || !strings.HasSuffix(end.Text, fmt.Sprintf(", %d dropped", s.Dropped)) {
					t.Errorf("the end: %+v", end)
				}
				i := slices.IndexFunc(w.events, func(e journal.Event) bool { return e.Kind == journal.Connected && e.Outage > time.Minute })
				if up := w.events[i]; strings.HasPrefix(name, "by size") && up.Lost == 0 || up.Lost > s.Dropped || !strings.HasSuffix(up.Text, fmt.Sprintf(", %d lost", up.Lost)) {
					t.Errorf("the return: %+v", up)
				}
			})
		})
	}
}

// poisoned are messages that no hub takes, with the reason in a few words.
var poisoned = map[string]message.Message{
	"IoT Hub takes":  {Body: make([]byte, 262_144)},
	"bytes with its": {Body: make([]byte, 262_143-10), Properties: map[string]string{"n": "0123456789"}},
	"without a name": {Body: []byte("x"), Properties: map[string]string{"": "v"}},
	"not UTF-8 text": {Body: []byte("x"), Properties: map[string]string{"n": "\xff"}},
	"make a topic":   {Body: []byte("x"), Properties: map[string]string{"n": strings.Repeat("%", 30_000)}},
	"its packet":     {Body: make([]byte, 220_000), Properties: map[string]string{"n": strings.Repeat("%", 20_000)}},
}

// TestPoisonDoesNotBlockTheLine: among good messages are some that no hub takes, one of each kind
// and one at the end. They go to the quarantine, the messages behind them go on, and consumers
// learn of the gap.
func TestPoisonDoesNotBlockTheLine(t *testing.T) {
	kinds := slices.Sorted(maps.Keys(poisoned))
	fill := func(c *plan) { // what a producer other than a source of telemetry has left
		box, err := outbox.Open(home.OutboxDir(c.StateDir, c.DeviceID), outbox.Options{Machine: c.Outbox.Machine})
		if err != nil {
			panic(err)
		}
		for _, kind := range kinds {
			for _, m := range []message.Message{{Body: []byte(`{"good":1}`)}, poisoned[kind]} {
				if err := box.TryAppend(m); err != nil {
					t.Error(err)
				}
			}
		}
		if err := box.Close(); err != nil {
			t.Error(err)
		}
		c.Once = true
	}
	bubble(t, setup{device: fill}, func(t *testing.T, w *world) {
		w.gives = true
		if err := <-w.ended; err != nil { // running once it ends when nothing is queued
			t.Error(err)
		}
		w.dev = nil
		account := w.nothingUntold()
		if n := uint64(len(kinds)); account.Distinct != n || account.SetAside != n || account.Announced != n || account.Queued != 0 {
			t.Errorf("%+v", account)
		}
		i := 0
		for q, err := range outbox.ReadQuarantine(home.OutboxDir(w.config.StateDir, "dev-1")) {
			w.must(err)
			want := poisoned[kinds[i]]
			if _, seq, _ := outbox.SplitID(q.ID); seq != uint64(2*i+2) || len(q.Body) != len(want.Body) || !strings.Contains(q.Why, kinds[i]) {
				t.Errorf("%s: %s, %d bytes, %s", kinds[i], q.ID, len(q.Body), q.Why)
			}
			i++
		}
		if i != len(kinds) {
			t.Errorf("%d in the quarantine", i)
		}
		if events := w.about(outbox.Quarantined); len(events) != 6 || events[5].Lost != 1 || !strings.Contains(events[0].Text, "can never be sent") {
			t.Errorf("five events and a sum: %+v", events)
		}
		if end := last(w.texts(journal.Stopped)); !strings.Contains(end, ", 6 set aside") {
			t.Error(end)
		}
	})
}

// TestLineThatNoHubTakesIsSetAside: a line of standard input that Lines accepts may be too large
// with its properties.
func TestLineThatNoHubTakesIsSetAside(t *testing.T) {
	big := `{"x":"` + strings.Repeat("y", telemetry.MaxLine-8) + `"}`
	bubble(t, setup{device: func(c *plan) {
		c.Source, c.Input, c.Outbox.Full = "stdin", strings.NewReader("{\"n\":1}\n"+big+"\n{\"n\":3}\n"), outbox.Block
	}}, func(t *testing.T, w *world) {
		w.gives = true
		if err := <-w.ended; err != nil {
			t.Error(err)
		}
		w.dev = nil
		if a := w.nothingUntold(); a.Distinct != 2 || a.SetAside != 1 {
			t.Errorf("%+v", a)
		}
	})
}

// TestFloodOfBadLines: each bad line is counted, and only a few have events of their own.
func TestFloodOfBadLines(t *testing.T) {
	const bad = 10_000
	input := io.MultiReader(strings.NewReader(strings.Repeat("not json\n", bad)), strings.NewReader("{}\n"))
	bubble(t, setup{device: func(c *plan) { c.Source, c.Input, c.Outbox.Full = "stdin", input, outbox.Block }}, func(t *testing.T, w *world) {
		dev := w.dev
		if err := <-w.ended; err != nil {
			t.Error(err)
		}
		w.dev = nil
		if n := dev.counters.Bad.Load(); n != bad {
			t.Errorf("%d counted", n)
		}
		all := w.texts(journal.BadLine)
		if len(all) != 6 || !strings.HasPrefix(all[4], "line 5: ") || all[5] != "9995 more inputs were no samples and were skipped" {
			t.Errorf("%d events, the last ones %q", len(all), all[max(0, len(all)-3):])
		}
		if end := last(w.texts(journal.Stopped)); !strings.HasSuffix(end, ", 10000 skipped as no sample") {
			t.Error(end)
		}
	})
}

// TestFloodIsAFewEventsAndASum: a span begins with an event. The first events in it are reported,
// and the others are one sum at the end of the span or of the device.
func TestFloodIsAFewEventsAndASum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		f := flood{emit: func(e journal.Event) { told = append(told, e.Text) },
			kind: &kind{2, time.Second, func(n uint64) journal.Event { return journal.Event{Text: fmt.Sprint("+", n)} }}}
		one := func(n uint64) { f.tell(n, journal.Event{Text: fmt.Sprint(n)}) }
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if !slices.Equal(told, want) {
				t.Errorf("told %v, want %v", told, want)
			}
			told = nil
		}
		one(1)
		expect("1")
		one(2)
		one(3)
		one(4)
		expect("2")
		time.Sleep(time.Second)
		expect("+7")
		time.Sleep(time.Minute)
		expect()
		one(5)
		time.Sleep(2 * time.Second)
		expect("5")
		one(6)
		one(7)
		one(8)
		f.close()
		expect("6", "7", "+8")
		one(9)
		one(10)
		one(11)
		time.Sleep(time.Minute)
		expect("9", "10", "11")
	})
}
