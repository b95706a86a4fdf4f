package device

import (
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestRefusalOfDPSStaysTheReasonWhileHubsRefuseToo blocks a device. DPS says why, and what a person
// can do; the hub says only CONNACK 3. When DPS is down, and when it names a hub, that is news.
func TestRefusalOfDPSStaysTheReasonWhileHubsRefuseToo(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.on("hub-a", 10*time.Second)
		w.must(w.cloud.Block("dev-1"))
		w.run(10 * time.Second)
		hubRefusals := 0
		for range 60 {
			w.run(time.Second)
			if s := w.dev.Status(); s.State != Refused || s.Why == nil || s.Why.Rule != "D11" || s.Why.Hint == "" {
				t.Fatalf("a blocked device is %s: %+v", s.State, s.Why)
			}
		}
		for _, rule := range w.decisions() {
			if rule == "H17" {
				hubRefusals++
			}
		}
		if hubRefusals < 2 {
			t.Errorf("the hub has refused %d times only: %v", hubRefusals, w.decisions())
		}
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		w.run(65 * time.Second)
		if s := w.dev.Status(); s.State == Refused || s.Why.Rule == "D11" {
			t.Errorf("while DPS is down the device is %s: %+v", s.State, s.Why)
		}
		w.must(w.cloud.HealDPS())
		w.must(w.cloud.Unblock("dev-1"))
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
		w.run(65 * time.Second)
		if s := w.dev.Status(); s.State == Refused || s.Why.Rule != "H07" {
			t.Errorf("with DPS well and the hub down the device is %s: %+v", s.State, s.Why)
		}
		w.must(w.cloud.HealHub("hub-a"))
		w.on("hub-a", time.Minute)
	})
}
