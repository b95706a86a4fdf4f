package device

import (
	"testing"
	"time"

	"hubhop/internal/journal"
	"hubhop/internal/sim"
)

const roundTrip = 50 * time.Millisecond

// carried waits for the next link that carries telemetry, and says how long that took.
func (w *world) carried(limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	time.Sleep(limit)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == journal.Acknowledged && e.Time.After(began) {
			return e.Time.Sub(began)
		}
	}
	w.t.Fatalf("no PUBACK in %v", limit)
	return 0
}

// TestRoundTrips counts them: nothing else takes time here.
func TestRoundTrips(t *testing.T) {
	setup := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *Config) { c.TelemetryInterval = 10 * time.Millisecond }}
	t.Run("from a start with a cached hub to the first PUBACK", func(t *testing.T) {
		bubble(t, setup, func(_ *testing.T, w *world) {
			w.run(time.Second)
			w.halt()
			w.net.SetDelay(roundTrip / 2)
			w.start()
			if took := w.carried(2 * time.Second); took != 3*roundTrip { // TCP, TLS, and all the rest
				w.t.Errorf("%v", took)
			}
		})
	})
	t.Run("whole failover", func(t *testing.T) {
		bubble(t, setup, func(_ *testing.T, w *world) {
			w.run(time.Second)
			w.net.SetDelay(roundTrip / 2)
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
			// The reset takes half of one to be heard. The old hub refuses in one; DPS takes TCP, TLS, register and one poll; the new hub TCP, TLS, and all the rest.
			if took := w.carried(2 * time.Second); took > 8*roundTrip+roundTrip/2 {
				w.t.Errorf("%v", took)
			}
			w.decided("D01", "H02", "H07", "D01")
		})
	})
}
