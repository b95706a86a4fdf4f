package device

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestTwoDevicesOfOneIdentity: a hub keeps the newest link of an identity only, so two clients that
// both come back at once keep each other from working for ever. The first of them that finds out
// says so once and leaves room for the other. When one is gone, all is well.
func TestTwoDevicesOfOneIdentity(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(2 * time.Minute)
		before := w.cloud.State().Totals
		rival := w.config
		rival.StateDir, rival.Telemetry, rival.Rand = t.TempDir(), false, nil
		j := new(journal.Journal)
		var warned []string
		var waits []journal.Event
		j.Sink(func(e journal.Event) {
			switch {
			case e.Kind == journal.Warning:
				warned = append(warned, e.Text)
			case e.Rule == "H25":
				waits = append(waits, e)
			}
		})
		other := rival.device(j)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- other.Run(ctx) }()

		w.run(9 * time.Minute)
		after := w.cloud.State().Totals
		// A few until it is clear, then two a minute: one of the slow client, and one of the other
		// that it has displaced.
		if n := after.Connects - before.Connects; n > 6+2*9 || n < 9 {
			t.Errorf("%d connects in nine minutes of a fight", n)
		}
		if n := after.Registrations - before.Registrations; n > 3 {
			t.Errorf("%d registrations in nine minutes of a fight", n)
		}
		named := 0
		for _, text := range append(w.texts(journal.Warning), warned...) {
			if strings.Contains(text, "two clients use the identity dev-1") {
				named++
			}
		}
		if named != 1 {
			t.Errorf("named %d times; decided %v, warned %q", named, w.decisions(), warned)
		}

		for _, e := range w.all(journal.Decision) {
			if e.Rule == "H25" {
				waits = append(waits, e)
			}
		}
		if len(waits) < 5 {
			t.Errorf("%d waits of a fight were told", len(waits))
		}
		for _, e := range waits { // a decision with an error is a warning in the log
			if e.Error == "" || e.Wait < 50*time.Second || !strings.Contains(e.Text, journal.Duration(e.Wait)) || !strings.Contains(e.Text, "another client") {
				t.Errorf("%+v does not say why and for how long", e)
			}
		}

		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.on("hub-a", 2*time.Minute)
		w.run(10 * time.Minute)
		w.forget()
		w.must(w.cloud.Disconnect("dev-1")) // a close like any other again
		if took := w.on("hub-a", time.Minute); took > 1100*time.Millisecond {
			t.Errorf("back after %v", took)
		}
		w.decided("H01")
	})
}

// TestNoFight: links that end within seconds one after the other, for other reasons than a second
// client, are dialled again at once, and the log does not speak of a second client.
func TestNoFight(t *testing.T) {
	flap := func(closes string, down time.Duration) func(w *world) {
		return func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, Close: closes, DPSKnows: new(false)}))
			w.run(down)
			w.must(w.cloud.HealHub("hub-a"))
		}
	}
	ends := 0
	for name, v := range map[string]struct {
		times int
		pause time.Duration
		end   func(w *world)
	}{
		"a hub that closes twice, resets once": {12, 2 * time.Second, func(w *world) {
			if ends++; ends%3 == 0 {
				flap("rst", 0)(w)
				return
			}
			w.must(w.cloud.Disconnect("dev-1"))
		}},
		"closed by an operator":               {4, 2 * time.Second, func(w *world) { w.must(w.cloud.Disconnect("dev-1")) }},
		"closed by an operator now and then":  {20, 12 * time.Second, func(w *world) { w.must(w.cloud.Disconnect("dev-1")) }},
		"a hub that resets and is there":      {10, 2 * time.Second, flap("rst", 0)},
		"a hub that resets and refuses":       {10, 2 * time.Second, flap("rst", 300*time.Millisecond)},
		"a hub that closes and refuses":       {10, 2 * time.Second, flap("fin", 300*time.Millisecond)},
		"a hub that closes and is slow to be": {10, 5 * time.Second, flap("fin", 1500*time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				w.run(2 * time.Minute)
				w.net.SetDelay(5 * time.Millisecond)
				for range v.times {
					v.end(w)
					// At retry-after 3 s DPS has the last word on the third; the sample that
					// follows is at most a second away, and so is the next dial.
					if took := w.on("hub-a", 10*time.Second); took > 6*time.Second {
						t.Errorf("back after %v", took)
					}
					w.run(v.pause)
				}
				for _, text := range w.texts(journal.Warning) {
					t.Error(text)
				}
				for _, e := range w.all(journal.Decision) {
					if e.Rule == "H25" {
						t.Errorf("taken for a fight: %+v", e)
					}
				}
			})
		})
	}
}
