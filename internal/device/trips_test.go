package device

import (
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

const (
	roundTrip  = 50 * time.Millisecond
	dpsAddress = "127.0.0.1:8883"
)

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
	setup := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *plan) { c.TelemetryInterval = 10 * time.Millisecond }}
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
	for name, v := range map[string]struct {
		fault     sim.Fault
		halves    int // of a round trip
		decisions []string
	}{
		// The reset takes half of one to be heard. The old hub refuses in one, in which DPS takes
		// TCP; then TLS, register and one poll; the new hub TCP, TLS, and all the rest.
		"whole failover, refused": {sim.Fault{Kind: sim.FaultKill}, 1 + 2*(1+3+3), []string{"D01", "H02", "H07", "D01"}},
		// The old hub answers in three, in which DPS takes TCP and TLS; then register and one poll.
		"whole failover, CONNACK 3": {sim.Fault{Kind: sim.FaultConnack3}, 1 + 2*(3+2+3), []string{"D01", "H02", "H17", "D01"}},
		"whole failover, CONNACK 5": {sim.Fault{Kind: sim.FaultConnack5}, 1 + 2*(3+2+3), []string{"D01", "H02", "H18", "D01"}},
	} {
		for _, transport := range []dps.Transport{dps.MQTT, dps.HTTPS} {
			t.Run(name+", "+string(transport), func(t *testing.T) {
				setup := setup
				before := setup.device
				setup.device = func(c *plan) { before(c); c.ProvisioningTransport = transport }
				bubble(t, setup, func(_ *testing.T, w *world) {
					w.run(time.Second)
					w.net.SetDelay(roundTrip / 2)
					w.must(w.cloud.FaultHub("hub-a", v.fault))
					if took := w.carried(2 * time.Second); took != time.Duration(v.halves)*roundTrip/2 {
						w.t.Errorf("%v", took)
					}
					w.decided(v.decisions...)
				})
			})
		}
	}
	t.Run("link reset, same hub", func(t *testing.T) {
		bubble(t, setup, func(t *testing.T, w *world) {
			w.run(time.Second)
			before := w.cloud.State().Totals.Registrations
			w.net.SetDelay(roundTrip / 2)
			knocks := w.net.Dials(dpsAddress)
			w.must(w.cloud.Disconnect("dev-1"))
			if took := w.carried(2 * time.Second); took != 3*roundTrip+roundTrip/2 { // half of one until it is heard
				t.Errorf("%v", took)
			}
			if n := w.cloud.State().Totals.Registrations - before; n != 0 {
				t.Errorf("%d registrations for a hub that is well", n)
			}
			if w.net.Dials(dpsAddress) != knocks+1 || w.net.Open(dpsAddress) != 0 {
				t.Errorf("%d connections to DPS, %d of them still open", w.net.Dials(dpsAddress)-knocks, w.net.Open(dpsAddress))
			}
		})
	})
}
