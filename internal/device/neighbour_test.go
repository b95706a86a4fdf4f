package device

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestNeighbour: however its chance falls, a device does not press a DPS that throttles, nor one
// that goes on naming a dead hub.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	retry := 5
	for name, v := range map[string]struct {
		during  time.Duration
		allowed int64
		harm    func(w *world)
	}{
		"throttling, retry-after 5": {20 * time.Second, 5, func(w *world) {
			w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSThrottle, RetryAfter: &retry}))
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		}},
		"stale": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
		}},
		"stale, and the hub accepts and closes": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultClose}))
		}},
		"stale, and the hub is a black hole": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole, DPSKnows: no()}))
		}},
		"stale, and the hub refuses the device": {30 * time.Second, 11, func(w *world) {
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultConnack5, DPSKnows: no()}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(10) {
				chance := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *plan) { c.Rand = rand.New(rand.NewPCG(seed, 3)) }}
				bubble(t, chance, func(t *testing.T, w *world) {
					w.run(2 * time.Minute)
					before := w.cloud.State().Totals.Registrations
					v.harm(w)
					w.run(v.during)
					if n := w.cloud.State().Totals.Registrations - before; n > v.allowed {
						t.Errorf("seed %d: %d registrations in %v", seed, n, v.during)
					}
					w.must(w.cloud.HealDPS())
					w.must(w.cloud.HealHub("hub-a"))
					w.run(90 * time.Second)
				})
			}
		})
	}
}
