package play

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// cripples are devices that break their promise, by what is wrong with them.
var cripples = map[string]func(*inside.Spoilt){
	// It takes a message out of the outbox when a link has it, and not when the hub has acknowledged
	// it.
	"ack early": func(s *inside.Spoilt) {
		s.Device.Identity.OpenOutbox = func(dir string, o outbox.Options) (device.Outbox, error) { return virtual.OpenHasty(dir, o) }
	},
	// It asks DPS only when the dial of the known hub has failed.
	"hedge off": func(s *inside.Spoilt) {
		s.Device.Shared.Config.Failover.HedgeDelay = 10 * time.Hour
		s.Device.Shared.Config.Failover.Table = tableWith(nil, map[failover.Signal]failover.Action{failover.LinkSilent: failover.Reconnect})
	},
	// It waits for DPS, and does not try the hub that it knows.
	"known hub forgotten": func(s *inside.Spoilt) { s.Device.Shared.Config.Failover.NoKnown = true },
	// It dials again at once, whatever went wrong.
	"no backoff": func(s *inside.Spoilt) {
		s.Device.Shared.Config.Failover.Table = tableWith(map[failover.Action]failover.Action{failover.Reprovision: failover.FreshToken, failover.BackOff: failover.FreshToken}, nil)
	},
	"desired ignored":       cripple(func(a *device.App) { a.Off.Desired = true }),
	"methods ignored":       cripple(func(a *device.App) { a.Off.Methods = true }),
	"messages ignored":      cripple(func(a *device.App) { a.Off.C2D = true }),
	"fresh first":           func(s *inside.Spoilt) { s.Device.Shared.Config.Drain.Order = telemetry.FreshFirst },
	"an outbox of a second": func(s *inside.Spoilt) { s.Device.Shared.Config.Outbox.MaxAge = time.Second },
}

// cripple changes the application.
func cripple(change func(*device.App)) func(*inside.Spoilt) {
	return func(s *inside.Spoilt) {
		app := s.Device.App
		s.Device.App = func(chance *rand.Rand) device.App {
			a := app(chance)
			change(&a)
			return a
		}
	}
}

// tableWith is the decision table with other actions.
func tableWith(actions map[failover.Action]failover.Action, signals map[failover.Signal]failover.Action) []failover.Rule {
	all := append([]failover.Rule(nil), failover.Rules...)
	for i := range all {
		if a, ok := actions[all[i].Action]; ok {
			all[i].Action = a
		}
		if a, ok := signals[all[i].Signal]; ok {
			all[i].Action = a
		}
	}
	return all
}

// TestEveryScenarioCanFail plays each scenario with devices that break their promise in a way that
// the scenario is there to find.
func TestEveryScenarioCanFail(t *testing.T) {
	all := library(t)
	type trial struct{ scenario, cripple, want string }
	trials := []trial{
		{"giant-lizard", "hedge off", "telemetry flowed again in"},
		{"giant-lizard", "desired ignored", `expected desired {"fanSpeed":1200} acknowledged within 5s, but the device has reported fanSpeed not at all`},
		{"giant-lizard", "methods ignored", "expected method echo answered within 2s, but device drill-1 is not online, or does not listen for methods"},
		{"giant-lizard", "messages ignored", "expected message setAlarm answered within 5s, but the message is still enqueued"},
		{"giant-lizard", "fresh first", "arrived behind samples that are newer"},
		{"dps-outage-during-hub-outage", "known hub forgotten", "expected back on hub-a within 12s, but nothing came for 12s"},
		{"dps-outage-during-hub-outage", "no backoff", "expected at most 300 dials, but there were"},
		{"flapping-hub", "no backoff", "expected at most 40 dials, but there were"},
		{"giant-lizard", "no backoff", "the lizard kills hub-a: expected at most 60 dials, but there were"},
		{"mobile-black-hole", "no backoff", "another network: expected at most 60 dials, but there were"},
		{"operator-block-unblock", "no backoff", "the device is blocked for 10 min: expected at most 120 dials, but there were"},
		{"rolling-restart", "no backoff", "expected at most 60 dials, but there were"},
		{"scope-move", "no backoff", "expected at most 60 dials, but there were"},
		{"throttling", "no backoff", "expected at most 140 dials, but there were"},
		{"dps-outage-during-hub-outage", "hedge off", "expected back on hub-a within 12s, but"},
		{"flapping-hub", "hedge off", "the hub falls silent: expected back on hub-b within 10s, but"},
		{"mobile-black-hole", "hedge off", "the hub falls silent, and the link works: expected back on hub-b within 12s, but"},
		{"rolling-restart", "hedge off", "vanishes: expected a sample at least every 8s, but"},
		{"operator-block-unblock", "an outbox of a second", "were given up"},
	}
	for name, s := range all {
		if desires(s) && name != "giant-lizard" && (!slow[name] || os.Getenv("LONG_TESTS") != "") {
			trials = append(trials, trial{name, "desired ignored", `expected desired {"fanSpeed":1100} acknowledged within`})
		}
	}
	if os.Getenv("LONG_TESTS") != "" {
		trials = append(trials, trial{"certificate-expiry", "no backoff", "nobody is let in: expected at most 10000 dials, but there were"})
	}
	for name := range all {
		if !slow[name] || os.Getenv("LONG_TESTS") != "" && name != "72-hours-dark" {
			trials = append(trials, trial{name, "ack early", "never arrived at any hub"})
		}
	}
	for _, c := range trials {
		t.Run(c.scenario+", "+c.cripple, func(t *testing.T) {
			target := insideTarget(t)
			target.Spoil = cripples[c.cripple]
			rep := drilled(t, all[c.scenario], target)
			if text := findings(rep); rep.Verdict != report.Failed || !strings.Contains(text, c.want) {
				t.Errorf("%s: %s\n%s\nand not %q", rep.Verdict, rep.Reason, text, c.want)
			}
		})
	}
}

// desires says whether a scenario changes desired properties.
func desires(s *scenario.Scenario) bool {
	for _, step := range s.Steps {
		for _, a := range step.Do {
			if a.Desired != nil {
				return true
			}
		}
	}
	return false
}

// findings are the reasons why a verdict is not good, a line each.
func findings(rep report.Report) string {
	var all []string
	for _, f := range rep.Findings {
		all = append(all, f.Text)
	}
	return strings.Join(all, "\n")
}

// TestABoundThatIsExceededEndsTheRunAtOnce: the step would last for weeks.
func TestABoundThatIsExceededEndsTheRunAtOnce(t *testing.T) {
	for bound, do := range map[string]string{
		"dials: 50":         "block: {for: 500h}",
		"registrations: 20": "block: {for: 500h}",
		"connects: 5":       "storm: {times: 1000, every: 1h}",
		"moves: 0":          "failover: {for: 500h}",
	} {
		t.Run(bound, func(t *testing.T) {
			s := written(t, "steps:", "- {name: weeks, lasts: 500h, do: ["+do+"], expect: {"+bound+"}}", "- {name: never, lasts: 1h}")
			target := insideTarget(t)
			if strings.HasPrefix(bound, "dials") {
				target.Spoil = cripples["no backoff"]
			}
			rep := played(t, t.Context(), s, target)
			_, n, _ := strings.Cut(bound, ": ")
			if text := findings(rep); rep.Verdict != report.Failed || !strings.Contains(text, "weeks: expected at most "+n+" ") {
				t.Errorf("%s: %s", rep.Verdict, text)
			}
			if took := rep.EndedAt.Sub(rep.StartedAt); took > 20*time.Hour {
				t.Errorf("the run lasted %v after all", took)
			}
		})
	}
}

// TestADeviceThatNeverPausesDoesNotStopTheClock plays every way in which a dial can fail with a
// device that dials again at once.
func TestADeviceThatNeverPausesDoesNotStopTheClock(t *testing.T) {
	lines := []string{"device: {interval: 1s}", "steps:"}
	for _, how := range []string{"nxdomain", "no-dns", "unreachable", "refused", "portal", "reset", "hang"} {
		lines = append(lines, "- {name: "+how+", do: [path: {place: all, how: "+how+", for: 2s}, disconnect], expect: {backOnceOver: 2m}}")
	}
	target := insideTarget(t)
	target.Spoil = cripples["no backoff"]
	if rep := played(t, t.Context(), written(t, lines...), target); len(rep.Steps) != 9 {
		t.Errorf("%d steps: %s", len(rep.Steps), findings(rep))
	}
}
