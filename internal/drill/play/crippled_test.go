package play

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// cripples are devices that break their promise, by what is wrong with them.
var cripples = map[string]func(*inside.Spoilt){
	// It takes a message out of the outbox when a link has it, and not when the hub has
	// acknowledged it.
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

// The four weaknesses that each scenario is played with.
const (
	ackEarly       = "ack early"
	hedgeOff       = "hedge off"
	noBackoff      = "no backoff"
	desiredIgnored = "desired ignored"
)

// trial is a scenario that is played with a broken device, and what the drill must say.
type trial struct{ scenario, cripple, want string }

// trials are the scenarios of the library with the weaknesses that they find. What is missing here
// of the four weaknesses stands in blind.
var trials = slices.Concat(
	finds("72-hours-dark", "the hub falls silent: expected back on hub-b within 13s, but",
		"the hub is away, and DPS goes on naming it: expected at most 80 dials, but there were", "the cloud speaks to it: "+acknowledged),
	finds("certificate-expiry", "the hub falls silent: expected back on hub-b within 14s, but",
		"the hub restarts, and nobody is let in: expected at most 7000 dials, but there were", "the cloud speaks to it: "+acknowledged),
	finds("dps-outage-during-hub-outage", "hub-b falls silent, and hub-a works: expected back on hub-a within 12s, but",
		"hub-a dies for 45 s: expected at most 300 dials, but there were", "the cloud speaks to it on hub-a: "+acknowledged),
	finds("flapping-hub", "the hub falls silent: expected back on hub-b within 10s, but",
		"the hub is away for 3 s (1 of 12): expected at most 40 dials, but there were", "the cloud speaks to it on hub-b: "+acknowledged),
	finds("giant-lizard", "hub-a falls silent: expected back on hub-b within 12s, but",
		"the lizard kills hub-a: expected at most 60 dials, but there were", `the cloud speaks to it on hub-b: expected desired {"fanSpeed":1200} acknowledged within 5s, but`),
	finds("mobile-black-hole", "the hub falls silent, and the link works: expected back on hub-b within 12s, but",
		"another network: expected at most 60 dials, but there were", `the link is bad, and must be kept: expected desired {"fanSpeed":1100} acknowledged within 30s, but`),
	finds("operator-block-unblock", "its hub falls silent: expected back on hub-b within 10s, but",
		"the device is blocked for 10 min: expected at most 120 dials, but there were", "the cloud speaks to it: "+acknowledged),
	finds("planned-failover", "", "", ""),
	finds("rolling-restart", "hub-a vanishes: expected a sample at least every 8s, but",
		"hub-a restarts (1 of 2): expected at most 60 dials, but there were", "the cloud speaks to it: "+acknowledged),
	finds("scope-move", "the hub of all falls silent: expected back on hub-b within 10s, but",
		"all are moved away: expected at most 60 dials, but there were", "the cloud speaks on hub-b: "+acknowledged),
	finds("seeded-chaos", "its hub falls silent: expected back within 18s, but",
		"its hub is away, and DPS goes on naming it: expected at most 150 dials, but there were", `the cloud speaks to it: expected desired {"fanSpeed":1100} acknowledged within 30s, but`),
	finds("throttling", "the hub falls silent: expected back on hub-b within 14s, but",
		"DPS is throttled while the hub is away: expected at most 140 dials, but there were", "the cloud speaks to it: "+acknowledged),
	finds("week-of-renewals", "the hub falls silent on the first day: expected back on hub-b within 14s, but",
		"the hub is away on the first day, and DPS goes on naming it: expected at most 140 dials, but there were", "the cloud speaks to it on its first day: "+acknowledged),
	[]trial{
		{"giant-lizard", "methods ignored", "expected method echo answered within 2s, but device drill-1 is not online, or does not listen for methods"},
		{"giant-lizard", "messages ignored", "expected message setAlarm answered within 5s, but the message is still enqueued"},
		{"giant-lizard", "fresh first", "arrived behind samples that are newer"},
		{"dps-outage-during-hub-outage", "known hub forgotten", "expected back on hub-a within 12s, but nothing came for 12s"},
		{"operator-block-unblock", "an outbox of a second", "were given up"},
		{"planned-failover", "an outbox of a second", "were given up"},
	},
)

const acknowledged = `expected desired {"fanSpeed":1100} acknowledged within 5s, but the device has reported fanSpeed not at all`

// blind says why a scenario finds none of the weaknesses that are missing in trials.
var blind = map[string]string{
	"planned-failover": "every target must be able to play it, so it breaks nothing, sends no desired change, and looks at nothing that an external program does not show. " +
		"It finds a device that loses, gives up or reorders samples, or that does not follow its operator in a minute",
}

// finds are the trials of one scenario with the four weaknesses; "" where it cannot find one.
func finds(scenario, hedge, backoff, desired string) (all []trial) {
	for _, t := range []trial{{scenario, ackEarly, "never arrived at any hub"}, {scenario, hedgeOff, hedge}, {scenario, noBackoff, backoff}, {scenario, desiredIgnored, desired}} {
		if t.want != "" {
			all = append(all, t)
		}
	}
	return all
}

// TestEveryScenarioCanFail plays each scenario with devices that break their promise in a way that
// the scenario is there to find, and reads the sentence of the verdict.
func TestEveryScenarioCanFail(t *testing.T) {
	long := os.Getenv("LONG_TESTS")
	all := library(t)
	played := map[string]bool{} // scenarios and weaknesses
	for _, c := range trials {
		if slow[c.scenario] && long == "" || c.scenario == "72-hours-dark" && c.cripple == ackEarly && long != "all" {
			continue // make drills and make drills-all play it
		}
		if racing.On && played[c.scenario] && played[c.cripple] {
			continue // a run takes ten times as long then: each scenario and each weakness is played once
		}
		played[c.scenario], played[c.cripple] = true, true
		t.Run(c.scenario+", "+c.cripple, func(t *testing.T) {
			target := insideTarget(t)
			target.Spoil = cripples[c.cripple]
			rep := drilled(t, all[c.scenario], target)
			if rep.Verdict != report.Failed || !strings.Contains(rep.Reason, c.want) {
				t.Errorf("%s: %s\n%s\nand not %q", rep.Verdict, rep.Reason, findings(rep), c.want)
			}
		})
	}
}

const (
	docFile    = "../../../docs/drill.md"
	tableBegin = "## Which weakness each scenario finds\n"
	tableEnd   = "## The language\n"
)

// TestTheDocumentSaysWhichWeaknessEachScenarioFinds holds a part of docs/drill.md to the trials.
func TestTheDocumentSaysWhichWeaknessEachScenarioFinds(t *testing.T) {
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), tableBegin)
	old, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("docs/drill.md lacks one of its marks")
	}
	intro, _, _ := strings.Cut(old, "\n| scenario |")
	want := intro + weaknesses(t)
	if *update {
		if err := os.WriteFile(docFile, []byte(head+tableBegin+want+tableEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != want {
		t.Error("the table of weaknesses is not that of the trials; go test ./internal/drill/play -run TheDocument -update writes it")
	}
}

// weaknesses is the table of the trials: by which step each scenario finds each weakness.
func weaknesses(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n| scenario | samples acknowledged before a hub has them | no second way while a dial hangs | no pause between dials | desired properties ignored |\n|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(library(t))) {
		row, found := "| `"+name+"`", 0
		for _, weakness := range []string{ackEarly, hedgeOff, noBackoff, desiredIgnored} {
			cell := "–"
			if i := slices.IndexFunc(trials, func(x trial) bool { return x.scenario == name && x.cripple == weakness }); i >= 0 {
				found++
				step, _, _ := strings.Cut(trials[i].want, ": expected")
				if cell = "step “" + step + "”"; weakness == ackEarly {
					cell = "the samples that never arrived"
				}
			}
			row += " | " + cell
		}
		if more := slices.ContainsFunc(trials, func(x trial) bool {
			return x.scenario == name && !slices.Contains([]string{ackEarly, hedgeOff, noBackoff, desiredIgnored}, x.cripple)
		}); found < 2 && !more || (found == 4) == (blind[name] != "") {
			t.Errorf("%s finds %d weaknesses, and blind says %q", name, found, blind[name])
		}
		b.WriteString(row + " |\n")
	}
	b.WriteString("\n")
	for _, name := range slices.Sorted(maps.Keys(blind)) {
		fmt.Fprintf(&b, "`%s` cannot find more: %s.\n\n", name, blind[name])
	}
	return b.String()
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
