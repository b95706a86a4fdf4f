package device

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// ages says how long each sample of the given messages was on its way, from its making to the hub.
func (w *world) ages(messages []sim.Message) (all []time.Duration) {
	w.t.Helper()
	for _, m := range messages {
		made, err := time.Parse(time.RFC3339, m.CreationTime)
		w.must(err)
		all = append(all, m.At.Sub(made))
	}
	return all
}

// TestRenewalHardlyDelaysTelemetry: with a round trip of 50 ms, each of a thousand renewals delays
// telemetry for less than 300 ms. Nothing is sent twice, no link is lost, DPS is not asked, and the
// renewals of devices do not fall on the same moments.
func TestRenewalHardlyDelaysTelemetry(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Link.TokenLife = 5 * time.Second }}, func(t *testing.T, w *world) {
		w.on("hub-a", 10*time.Second)
		w.net.SetDelay(25 * time.Millisecond)
		w.run(10 * time.Second)
		before := len(w.cloud.Ledger("dev-1", true).Messages)
		w.forget()
		w.run(2500 * time.Second)
		var gaps, apart []time.Duration
		w.mu.Lock()
		var last time.Time
		for _, e := range w.events {
			if e.Kind == journal.Renewed {
				gaps = append(gaps, e.Outage)
				if !last.IsZero() {
					apart = append(apart, e.Time.Sub(last))
				}
				last = e.Time
			}
		}
		w.mu.Unlock()
		if len(gaps) < 1000 {
			t.Fatalf("%d renewals", len(gaps))
		}
		slices.Sort(gaps)
		if p99 := gaps[len(gaps)*99/100]; p99 > 300*time.Millisecond {
			t.Errorf("no link for %v at p99", p99)
		}
		slices.Sort(apart)
		if spread := apart[len(apart)-1] - apart[0]; spread < 300*time.Millisecond {
			t.Errorf("all renewals came between %v and %v after the one before", apart[0], apart[len(apart)-1])
		}
		ages := w.ages(w.cloud.Ledger("dev-1", true).Messages[before:])
		slices.Sort(ages)
		if p99 := ages[len(ages)*99/100]; p99 > 275*time.Millisecond { // the PUBACK takes 25 ms more
			t.Errorf("samples took %v at p99", p99)
		}
		t.Logf("%d renewals: no link for %v at p99; samples took %v at p99, %v at most",
			len(gaps), gaps[len(gaps)*99/100], ages[len(ages)*99/100], ages[len(ages)-1])
		if n := w.cloud.Ledger("dev-1", false).Duplicates; n != 0 {
			t.Errorf("%d messages were sent again", n)
		}
		if n := w.count(journal.Lost); n != 0 {
			t.Errorf("the link was lost %d times", n)
		}
		if n := w.cloud.State().Totals.Registrations; n != 1 {
			t.Errorf("%d registrations", n)
		}
	})
}

// TestRenewalWaitsForMethods: a method that runs when the token nears its end still answers over
// the link on which it came. Telemetry does not wait for it.
func TestRenewalWaitsForMethods(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Link.TokenLife = 5 * time.Minute }}, func(t *testing.T, w *world) {
		w.net.SetDelay(time.Millisecond) // so that the old link is read to its end before the new one is there, as on any real network
		w.dev.handle("slow", func(context.Context, json.RawMessage) (json.RawMessage, error) {
			time.Sleep(20 * time.Second)
			return json.RawMessage(`"done"`), nil
		})
		w.on("hub-a", 10*time.Second)
		before := len(w.cloud.Ledger("dev-1", true).Messages)
		for w.count(journal.Renewed) < 4 {
			if r, err := w.cloud.Method(t.Context(), "dev-1", "slow", nil); err != nil || r.Status != 200 {
				t.Fatalf("answered %d, %v", r.Status, err)
			}
			w.run(time.Second)
		}
		if ages := w.ages(w.cloud.Ledger("dev-1", true).Messages[before:]); slices.Max(ages) > time.Second {
			t.Errorf("a sample waited %v for a method", slices.Max(ages))
		}
		if n := w.count(journal.Lost); n != 0 {
			t.Errorf("the link was lost %d times", n)
		}
	})
}

// TestRenewalBeforeTheTokenEnds: a method outlasts a short token. The link is renewed in time all
// the same, because the hub would close it at the token's end and so interrupt telemetry.
func TestRenewalBeforeTheTokenEnds(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute} {
		t.Run(ttl.String(), func(t *testing.T) {
			bubble(t, setup{cloud: func(c *sim.Config) { c.SASGrace = 0 }, device: func(c *plan) {
				c.Link.TokenLife, c.MethodTimeout, c.TelemetryInterval = ttl, 5*time.Minute, 100*time.Millisecond
			}}, func(t *testing.T, w *world) {
				w.net.SetDelay(time.Millisecond)
				hang := make(chan struct{})
				w.dev.handle("hang", func(context.Context, json.RawMessage) (json.RawMessage, error) { <-hang; return nil, nil })
				w.on("hub-a", 10*time.Second)
				w.run(time.Second)
				before := len(w.cloud.Ledger("dev-1", true).Messages)
				ctx, stop := context.WithCancel(t.Context())
				go func() { _, _ = w.cloud.Method(ctx, "dev-1", "hang", nil) }()
				w.run(ttl * 3)
				stop()
				if renewed, lost := w.count(journal.Renewed), w.count(journal.Lost); renewed < 2 || lost != 0 {
					t.Errorf("%d renewals, %d losses; decided %v", renewed, lost, w.decisions())
				}
				l := w.cloud.Ledger("dev-1", true)
				if l.Duplicates != 0 {
					t.Errorf("%d messages were sent again", l.Duplicates)
				}
				if ages := w.ages(l.Messages[before:]); slices.Max(ages) > 300*time.Millisecond {
					t.Errorf("a sample waited %v for a method that does not end", slices.Max(ages))
				}
				close(hang)
				w.run(time.Second)
			})
		})
	}
}

// TestRenewalOfAShortToken: PUBACKs take most of a second, as over a slow path or from a machine
// that is busy. The renewal of a short token waits for the PUBACKs of the messages in flight, so
// that nothing is sent twice.
func TestRenewalOfAShortToken(t *testing.T) {
	for _, ttl := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second} {
		t.Run(ttl.String(), func(t *testing.T) {
			bubble(t, setup{cloud: func(c *sim.Config) { c.SASGrace = 0 }, device: func(c *plan) {
				c.StateDir, c.Link.TokenLife, c.TelemetryInterval = virtual.Dir(t), ttl, 100*time.Millisecond
			}}, func(t *testing.T, w *world) {
				w.on("hub-a", 10*time.Second)
				w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultThrottle, DelayMs: 900}))
				w.run(2 * ttl)
				w.forget()
				before := w.cloud.Ledger("dev-1", false).Duplicates
				for w.count(journal.Renewed) < 20 {
					w.run(ttl)
				}
				if n := w.cloud.Ledger("dev-1", false).Duplicates - before; n != 0 {
					t.Errorf("%d messages were sent again in %d renewals", n, w.count(journal.Renewed))
				}
				if n := w.count(journal.Lost); n != 0 {
					t.Errorf("the link was lost %d times", n)
				}
				w.must(w.cloud.HealHub("hub-a"))
				w.run(5 * time.Second)
			})
		})
	}
}

// TestRenewalWaitsForTheSender: the token is to be renewed while the drain has read a record and
// not sent it yet. The record goes over the old link, which waits for its PUBACK, and is not sent
// twice.
func TestRenewalWaitsForTheSender(t *testing.T) {
	s := setup{device: func(c *plan) {
		c.TelemetryInterval, c.Outbox.MaxAge, c.Reported, c.Failover.Pipeline = 5*time.Second, 7*time.Second, false, failover.PipelineOff
	}}
	bubble(t, s, func(t *testing.T, w *world) {
		w.gives = true
		w.net.SetDelay(time.Millisecond)
		w.run(9 * time.Second)
		held := false
		w.dev.shared.Journal.Sink(func(e journal.Event) {
			if e.Kind != journal.OutboxProblem || held {
				return
			}
			// While the drain looks for messages to send, it reports samples that were too old.
			// Nothing else is reported in the next second, so nobody waits for the journal.
			w.dev.mu.Lock()
			l := w.dev.serves()
			w.dev.mu.Unlock()
			if held = l != nil; held {
				l.Hasten(time.Now().Add(10 * time.Second))
				time.Sleep(time.Second)
			}
		})
		for _, hub := range []string{"hub-a", "hub-b"} {
			w.must(w.cloud.FaultHub(hub, sim.Fault{Kind: sim.FaultKill}))
		}
		w.run(30 * time.Second)
		for _, hub := range []string{"hub-a", "hub-b"} {
			w.must(w.cloud.HealHub(hub))
		}
		w.run(time.Minute)
		if renewed := w.count(journal.Renewed); !held || renewed != 1 {
			t.Errorf("held back: %v; %d renewals", held, renewed)
		}
		if n := w.cloud.Ledger("dev-1", false).Duplicates; n != 0 {
			t.Errorf("%d messages were sent again", n)
		}
	})
}

// TestLinkThatDiesBeforeItsRenewalIsALoss: the hub dies while a renewal waits for a method. That is
// a loss, and DPS is asked as after any other loss.
func TestLinkThatDiesBeforeItsRenewalIsALoss(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Link.TokenLife = 5 * time.Minute }}, func(t *testing.T, w *world) {
		w.net.SetDelay(time.Millisecond) // so that the old link is read to its end before the new one is there, as on any real network
		w.dev.handle("slow", func(context.Context, json.RawMessage) (json.RawMessage, error) {
			time.Sleep(24 * time.Second)
			return nil, nil
		})
		w.run(239 * time.Second)
		for w.count(journal.Renewed) == 0 { // the renewal comes 240 to 270 s after the link
			if _, err := w.cloud.Method(t.Context(), "dev-1", "slow", nil); err != nil {
				t.Fatal(err)
			}
			w.run(time.Second)
		}
		w.forget()
		w.run(239 * time.Second)
		for range 4 { // so that one of them runs at any time from now on
			go func() { _, _ = w.cloud.Method(t.Context(), "dev-1", "slow", nil) }()
			w.run(10 * time.Second)
		}
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.on("hub-b", 10*time.Second)
		if w.count(journal.Renewed) != 0 || w.count(journal.Lost) != 1 {
			t.Errorf("%d renewals and %d losses; decided %v", w.count(journal.Renewed), w.count(journal.Lost), w.decisions())
		}
		w.run(time.Minute)
	})
}
