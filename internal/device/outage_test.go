package device

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// TestDeviceFollowsThePublishedStory plays the story that IoT Central has published, in eight
// steps. The device starts, DPS directs it to A, and it sends telemetry. A dies, and the socket
// breaks. DPS directs it to B, and it sends telemetry there. A is back, the device is moved home,
// and sends telemetry to A.
func TestDeviceFollowsThePublishedStory(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.on("hub-a", 10*time.Second)
		w.decided("D01")
		w.run(5 * time.Minute)
		w.forget()
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		if took := w.on("hub-b", 10*time.Second); took > 3100*time.Millisecond {
			w.t.Errorf("telemetry on B after %v; DPS asks for 3 s", took)
		}
		w.decided("H02", "H07", "D01")
		w.run(5 * time.Minute)
		w.forget()
		w.must(w.cloud.HealHub("hub-a"))
		w.must(w.cloud.Failback("dev-1"))
		w.on("hub-a", 10*time.Second)
		w.decided("H01", "H17", "D01")
		w.run(time.Minute)
	})
}

// TestAutomaticReturn: a failover with a time to live ends by itself.
func TestAutomaticReturn(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.run(2 * time.Minute)
		w.must(w.cloud.Failover("dev-1", 5*time.Minute))
		w.on("hub-b", 10*time.Second)
		w.run(4 * time.Minute)
		if d := w.cloud.Ledger("dev-1", false); d.Hubs["hub-b"] < 200 {
			w.t.Errorf("hub-b had %d messages", d.Hubs["hub-b"])
		}
		w.run(time.Minute)
		w.on("hub-a", 10*time.Second)
		w.run(time.Minute)
	})
}

// outages are faults of a hub that DPS knows of: whatever the device sees, it is on the other hub
// soon, and nothing is lost.
func TestDeviceIsSoonOnTheHubThatDPSNames(t *testing.T) {
	for name, v := range map[string]struct {
		fault     sim.Fault
		limit     time.Duration
		decisions []string
	}{
		"reset, then refused":         {sim.Fault{Kind: sim.FaultKill}, 3100 * time.Millisecond, []string{"H02", "H07", "D01"}},
		"closed politely, refused":    {sim.Fault{Kind: sim.FaultKill, Close: "fin"}, 3100 * time.Millisecond, []string{"H01", "H07", "D01"}},
		"black hole":                  {sim.Fault{Kind: sim.FaultBlackhole}, 6500 * time.Millisecond, []string{"H03", "D01"}},
		"reset, then CONNACK 3":       {sim.Fault{Kind: sim.FaultConnack3}, 3100 * time.Millisecond, []string{"H02", "H17", "D01"}},
		"closed, then CONNACK 3":      {sim.Fault{Kind: sim.FaultConnack3, Close: "fin"}, 3100 * time.Millisecond, []string{"H01", "H17", "D01"}},
		"reset, then CONNACK 5":       {sim.Fault{Kind: sim.FaultConnack5}, 3100 * time.Millisecond, []string{"H02", "H18", "H19", "D01"}},
		"closed, then CONNACK 5":      {sim.Fault{Kind: sim.FaultConnack5, Close: "fin"}, 3100 * time.Millisecond, []string{"H01", "H18", "H19", "D01"}},
		"DPS learns of it after 10 s": {sim.Fault{Kind: sim.FaultKill, DPSLagSeconds: 10}, 18 * time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(_ *testing.T, w *world) {
				w.run(2 * time.Minute)
				w.forget()
				w.must(w.cloud.FaultHub("hub-a", v.fault))
				if took := w.on("hub-b", 5*time.Minute); took > v.limit {
					w.t.Errorf("telemetry on hub-b after %v", took)
				}
				if v.decisions != nil {
					w.decided(v.decisions...)
				}
				w.run(2 * time.Minute)
			})
		})
	}
}

// TestDeviceWaitsForAHubThatAcceptsAndCloses: DPS does not know of the fault and goes on naming the
// hub. The device comes back when the hub does.
func TestDeviceWaitsForAHubThatAcceptsAndCloses(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.run(2 * time.Minute)
		w.forget()
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultClose}))
		w.run(20 * time.Second)
		if got := w.decisions(); got[0] != "H02" || len(got) < 4 {
			w.t.Errorf("decided %v", got)
		}
		w.must(w.cloud.HealHub("hub-a"))
		if took := w.on("hub-a", time.Minute); took > 10*time.Second {
			w.t.Errorf("back after %v", took)
		}
		w.run(time.Minute)
	})
}

// TestDeadHubThatDPSStandsByIsAwaited: DPS goes on naming the dead hub. The device asks DPS within
// its budget, and is back soon after the hub is.
func TestDeadHubThatDPSStandsByIsAwaited(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.run(2 * time.Minute)
		before := w.cloud.State().Totals.Registrations
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
		w.run(30 * time.Second)
		if asked := w.cloud.State().Totals.Registrations - before; asked > 11 {
			w.t.Errorf("%d registrations in 30 s of a DPS that stands by a dead hub", asked)
		}
		w.must(w.cloud.HealHub("hub-a"))
		if took := w.on("hub-a", time.Minute); took > 8*time.Second {
			w.t.Errorf("back after %v", took)
		}
		w.run(time.Minute)
	})
}

// TestKnownHubServesWhileDPSIsDown: the hub dies while DPS is out of reach. A device that knows no
// other hub waits for both. A device that knows another one is there at once, and DPS's answer
// confirms it later.
func TestKnownHubServesWhileDPSIsDown(t *testing.T) {
	t.Run("no other hub is known", func(t *testing.T) {
		bubble(t, setup{}, func(_ *testing.T, w *world) {
			w.run(2 * time.Minute)
			w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
			w.run(10 * time.Minute)
			w.must(w.cloud.HealDPS())
			w.on("hub-b", 2*time.Minute)
			w.run(time.Minute)
		})
	})
	t.Run("the other hub is known", func(t *testing.T) {
		fast := setup{device: func(c *plan) { c.TelemetryInterval = 100 * time.Millisecond }}
		bubble(t, fast, func(_ *testing.T, w *world) {
			// The device left hub-a when that was dead, so nobody disabled it there.
			w.run(time.Minute)
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
			w.on("hub-b", 10*time.Second)
			w.must(w.cloud.HealHub("hub-a"))
			w.run(2 * time.Minute)

			w.forget()
			w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
			w.must(w.cloud.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill}))
			if took := w.on("hub-a", time.Minute); took > 600*time.Millisecond {
				w.t.Errorf("on the known hub after %v; decisions %v", took, w.decisions())
			}
			if s := w.dev.Status(); !s.Provisional {
				w.t.Error("the link is not called provisional")
			}
			w.must(w.cloud.HealDPS())
			w.run(30 * time.Second)
			if s := w.dev.Status(); s.Provisional || w.count(journal.Confirmed) != 1 {
				w.t.Errorf("not confirmed: %+v", s)
			}
		})
	})
}

// TestDeviceIsSoonBackAfterAShortTrouble: the hub dies, and DPS or the other hub has a trouble for
// two seconds. Whatever chance says, the device is back within two seconds and a failover after the
// end of that trouble.
func TestDeviceIsSoonBackAfterAShortTrouble(t *testing.T) {
	const short = 2.0 // s
	for name, amiss := range map[string]func(w *world) error{
		"DPS refuses":                      func(w *world) error { return w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown, Seconds: short}) },
		"DPS drops registrations":          func(w *world) error { return w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDrop, Seconds: short}) },
		"DPS does not know of it":          nil,
		"the new hub refuses":              func(w *world) error { return w.newHub(sim.FaultKill, short) },
		"the new hub answers CONNACK 3":    func(w *world) error { return w.newHub(sim.FaultConnack3, short) },
		"the new hub answers CONNACK 5":    func(w *world) error { return w.newHub(sim.FaultConnack5, short) },
		"the new hub lets in and hangs up": func(w *world) error { return w.newHub(sim.FaultClose, short) },
	} {
		t.Run(name, func(t *testing.T) {
			var all []time.Duration
			for seed := range uint64(8) {
				setup := setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }, device: func(c *plan) {
					c.TelemetryInterval, c.Rand = 50*time.Millisecond, rand.New(rand.NewPCG(seed, 1))
				}}
				bubble(t, setup, func(t *testing.T, w *world) {
					w.run(time.Second)
					w.net.SetDelay(roundTrip / 2)
					before := w.cloud.State().Totals.Registrations
					fault := sim.Fault{Kind: sim.FaultKill}
					if amiss == nil {
						fault.DPSLagSeconds = short
					} else {
						w.must(amiss(w))
					}
					w.must(w.cloud.FaultHub("hub-a", fault))
					took := w.on("hub-b", time.Minute) - short*time.Second
					if all = append(all, took); took > 2*time.Second+8*roundTrip {
						t.Errorf("seed %d: back %v after the trouble's end; decided %v", seed, took, w.decisions())
					}
					if n := w.cloud.State().Totals.Registrations - before; n > 5 {
						t.Errorf("seed %d: %d registrations", seed, n)
					}
				})
			}
			slices.Sort(all)
			t.Logf("back %v after its end in the middle, %v at most", all[len(all)/2], all[len(all)-1])
		})
	}
}

// newHub lets the hub that DPS will name be out of order, while DPS goes on naming it.
func (w *world) newHub(kind string, seconds float64) error {
	return w.cloud.FaultHub("hub-b", sim.Fault{Kind: kind, Seconds: seconds, DPSKnows: no()})
}

// TestDPSThrottles: exactly when it said, and not more often.
func TestDPSThrottles(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.run(2 * time.Minute)
		w.forget()
		retry := 5
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSThrottle, RetryAfter: &retry, Seconds: 19}))
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		before := w.cloud.State().Totals.Registrations
		if took := w.on("hub-b", time.Minute); took < 23*time.Second || took > 24*time.Second {
			w.t.Errorf("telemetry on B after %v: four times 5 s, then the 3 s of the registration", took)
		}
		if asked := w.cloud.State().Totals.Registrations - before; asked > 5 {
			w.t.Errorf("%d registrations", asked)
		}
		w.run(time.Minute)
	})
}

// TestDPSInTrouble: everything else that DPS can do wrong ends, and then so does the outage.
func TestDPSInTrouble(t *testing.T) {
	for name, v := range map[string]struct {
		fault sim.DPSFault
		rule  string
		limit time.Duration // after the fault's end
	}{
		"stuck":        {sim.DPSFault{Kind: sim.DPSStuck, Seconds: 60}, "D01", 10 * time.Second},
		"error 500":    {sim.DPSFault{Kind: sim.DPSError500, Seconds: 20}, "D09", 70 * time.Second},
		"drops":        {sim.DPSFault{Kind: sim.DPSDrop, Seconds: 20}, "D07", 9 * time.Second},
		"black hole":   {sim.DPSFault{Kind: sim.DPSBlackhole, Seconds: 20}, "D05", 35 * time.Second},
		"down":         {sim.DPSFault{Kind: sim.DPSDown, Seconds: 20}, "D04", 5 * time.Second},
		"slow":         {sim.DPSFault{Kind: sim.DPSSlow, DelayMs: 4000, Seconds: 60}, "D01", 15 * time.Second},
		"unauthorised": {sim.DPSFault{Kind: sim.DPSUnauthorized, Seconds: 20}, "D10", 70 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(_ *testing.T, w *world) {
				w.run(2 * time.Minute)
				w.forget()
				w.must(w.cloud.FaultDPS(v.fault))
				w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
				began := time.Now()
				w.on("hub-b", 10*time.Minute)
				if late := time.Since(began) - time.Duration(v.fault.Seconds*float64(time.Second)); late > v.limit {
					w.t.Errorf("telemetry on B %v after the fault's end", late)
				}
				seen := false
				for _, id := range w.decisions() {
					seen = seen || id == v.rule
				}
				if !seen {
					w.t.Errorf("%s was not applied: %v", v.rule, w.decisions())
				}
				w.run(time.Minute)
			})
		})
	}
}

// TestNewHubRefusesAtFirst: DPS is right, but its hub needs a moment.
func TestNewHubRefusesAtFirst(t *testing.T) {
	for name, kind := range map[string]string{"CONNACK 3": sim.FaultConnack3, "CONNACK 5": sim.FaultConnack5, "refused": sim.FaultKill} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(_ *testing.T, w *world) {
				w.run(2 * time.Minute)
				w.must(w.cloud.FaultHub("hub-b", sim.Fault{Kind: kind, Seconds: 10, DPSKnows: no()}))
				w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
				if took := w.on("hub-b", 2*time.Minute); took > 18*time.Second {
					w.t.Errorf("telemetry on B after %v", took)
				}
				w.run(time.Minute)
			})
		})
	}
}

// TestBlockedDeviceKeepsItsAssignment: a device that its operator has blocked backs off, keeps its
// assignment, loses nothing, and is back when it is unblocked.
func TestBlockedDeviceKeepsItsAssignment(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.run(2 * time.Minute)
		w.forget()
		w.must(w.cloud.Block("dev-1"))
		before := w.cloud.State().Totals
		w.run(30 * time.Minute)
		after := w.cloud.State().Totals
		if n := after.Registrations - before.Registrations; n > 80 || n < 5 {
			w.t.Errorf("%d registrations in half an hour", n)
		}
		if n := after.Connects - before.Connects; n > 120 {
			w.t.Errorf("%d connects in half an hour", n)
		}
		seen := map[string]bool{}
		for _, id := range w.decisions() {
			seen[id] = true
		}
		if !seen["H17"] || !seen["D11"] {
			w.t.Errorf("decided %v", w.decisions())
		}
		w.must(w.cloud.Unblock("dev-1"))
		w.on("hub-a", 2*time.Minute)
		w.run(2 * time.Minute)
	})
}

// TestFlapping: the operator moves the device to and fro, faster than any counter resets.
func TestFlapping(t *testing.T) {
	bubble(t, setup{}, func(_ *testing.T, w *world) {
		w.run(time.Minute)
		for range 10 {
			w.must(w.cloud.Failover("dev-1", 0))
			w.on("hub-b", 30*time.Second)
			w.must(w.cloud.Failback("dev-1"))
			w.on("hub-a", 30*time.Second)
		}
		w.run(time.Minute)
	})
}

// TestTwinThatCountsFromOneAgainIsFollowed: a hub that comes back with a new twin counts its
// versions from 1 again. The values decide what has changed, not the versions.
func TestTwinThatCountsFromOneAgainIsFollowed(t *testing.T) {
	bubble(t, setup{cloud: func(c *sim.Config) { c.Move = sim.MoveDelete }}, func(_ *testing.T, w *world) {
		w.run(time.Minute)
		for speed := range 5 {
			b, _ := json.Marshal(map[string]int{"fanSpeed": 1000 + speed})
			w.must(w.cloud.PatchDesired("dev-1", b))
			w.run(10 * time.Second)
		}
		if got := w.acknowledged("fanSpeed"); got != "1004 200 6" {
			w.t.Errorf("acknowledged %s", got)
		}
		w.must(w.cloud.Failover("dev-1", 0))
		w.on("hub-b", 30*time.Second)
		w.run(10 * time.Second)
		version := w.twin("desired")["$version"].(float64)
		if version >= 6 {
			w.t.Fatalf("the new twin is at version %v: this test is about one that starts anew", version)
		}
		if got := w.acknowledged("fanSpeed"); got != "1004 200 1" {
			w.t.Errorf("on the new hub: acknowledged %s", got)
		}
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":7}`)))
		w.run(10 * time.Second)
		if got := w.acknowledged("fanSpeed"); got != "7 200 2" {
			w.t.Errorf("a change at a lower version than one seen before: acknowledged %s", got)
		}
	})
}

// TestFreshSamplesGoFirstAfterAnOutage: after an hour without any hub, thousands of samples wait.
// The newest one is among the first that arrive, and so is every sample that is made from then on.
// Those that waited come behind them, in their order, and nothing is lost.
func TestFreshSamplesGoFirstAfterAnOutage(t *testing.T) {
	fresh := setup{device: func(c *plan) { c.Drain.Order, c.Drain.Window = telemetry.FreshFirst, 8 }}
	bubble(t, fresh, func(_ *testing.T, w *world) {
		w.run(time.Minute)
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		before := len(w.cloud.Ledger("dev-1", true).Messages)
		w.run(time.Hour)
		w.must(w.cloud.HealDPS())
		w.on("hub-b", 2*time.Minute)
		w.run(time.Minute)
		messages := w.cloud.Ledger("dev-1", true).Messages[before:]
		var seqs []int
		for _, m := range messages {
			var seq int
			_, digits, _ := strings.Cut(m.Mid, "-")
			_, err := fmt.Sscan(digits, &seq)
			w.must(err)
			seqs = append(seqs, seq)
		}
		if len(seqs) < 3600 || seqs[0] < 3600 {
			w.t.Fatalf("%d arrived, the first of them number %d", len(seqs), seqs[0])
		}
		// Two streams, each in order: from the first on, and from the first of the backlog on.
		newest, oldest := seqs[0]-1, 0
		for i, seq := range seqs {
			switch {
			case seq > newest:
				newest = seq
			case seq > oldest && seq < seqs[0]:
				oldest = seq
			default:
				w.t.Fatalf("number %d came in place %d, behind %d and %d", seq, i, newest, oldest)
			}
		}
	})
}
