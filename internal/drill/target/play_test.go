package target

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/play"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
)

// fast is planned-failover without its waits, because here time is real.
const fast = `
name: fast
title: moves only
device: {interval: 100ms}
steady: {lasts: 1s}
budget: {rto: 20s, rpo: 0}
steps:
  - name: away
    do: [{failover: {}}]
    expect: {back: 20s, drained: 20s, lost: 0}
  - name: home
    do: [failback]
    expect: {back: 20s, lost: 0}
`

func parsed(t *testing.T, text string) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("fast.yaml", []byte(text))
	ok(t, "scenario", err)
	return s
}

// played plays a scenario on a target, and returns its report. It may be called by any goroutine.
func played(t *testing.T, s *scenario.Scenario, target drill.Target, device string) report.Report {
	t.Helper()
	rec, err := drill.NewRecord("", nil, time.Now())
	if err = errors.Join(err, play.Check(s, "fast.yaml", target, false, 1)); err != nil {
		t.Error(err)
		return report.Report{}
	}
	r := play.Run{Scenario: s, Target: target, Device: device, Seed: 1, Take: rec.Take}
	began := time.Now()
	rep, err := rec.Close(r.Play(t.Context()), began)
	if err != nil {
		t.Error(err)
	}
	return rep
}

// TestMovesArePlayedOnEveryTarget: a scenario of moves passes on plain hubs, on IoT Central and on
// a simulator that runs, with the device of this process. On the first two there is no ledger, and
// the device's outbox is the proof.
func TestMovesArePlayedOnEveryTarget(t *testing.T) {
	c := newCloud(t)
	info := c.Info()
	app := &central.Application{Host: strings.TrimPrefix(info.Central.URL, "https://"), Token: info.Central.APIToken, Client: c.client}
	for id, target := range map[string]drill.Target{
		"on-hubs":      plainHubs(t, c, "on-hubs"),
		"on-central":   &Central{Mover: app, Host: app.Host, Who: insider(t), Site: c.site("on-central")},
		"on-simulator": &Simulator{Control: &drill.Control{URL: info.Control}, Who: insider(t), Site: c.site("on-simulator")},
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			rep := played(t, parsed(t, fast), target, "")
			if rep.Verdict != report.Passed || len(rep.Recoveries) != 2 || rep.Samples.Received == 0 || rep.Samples.Lost != 0 {
				t.Errorf("%s: %s; %+v %+v", rep.Verdict, rep.Reason, rep.Samples, rep.Recoveries)
			}
			if by := map[bool]string{true: report.ByLedger, false: report.ByAcknowledgements}[id == "on-simulator"]; rep.Proof != by {
				t.Errorf("it says that it was judged by %s", rep.Proof)
			}
		})
	}
}

// TestWhatIsNotRefusedIsJudged: each expectation that cannot hold fails on every real target, or it
// is refused there with its key. None holds because nobody looks.
func TestWhatIsNotRefusedIsJudged(t *testing.T) {
	c := newCloud(t)
	info := c.Info()
	app := &central.Application{Host: strings.TrimPrefix(info.Central.URL, "https://"), Token: info.Central.APIToken, Client: c.client}
	targets := map[string]func(id string) drill.Target{
		"hubs": func(id string) drill.Target { return plainHubs(t, c, id) },
		"central": func(id string) drill.Target {
			return &Central{Mover: app, Host: app.Host, Who: insider(t), Site: c.site(id)}
		},
		"simulator": func(id string) drill.Target {
			return &Simulator{Control: &drill.Control{URL: info.Control}, Who: insider(t), Site: c.site(id)}
		},
	}
	var playing sync.WaitGroup // all at once: they wait most of the time
	defer playing.Wait()
	impossible := map[string]struct{ step, unmet, refused string }{
		"back":          {"do: [{failover: {}}], expect: {back: 1ms}", "expected back within 1ms", ""},
		"backOnceOver":  {"do: [{restart: {for: 100ms}}], expect: {backOnceOver: 1ms}", "expected back once it is over within 1ms", ""},
		"on":            {"do: [{failover: {}}], expect: {back: 20s, on: hub-a}", "it came back on hub-b", "hubs central"},
		"silent":        {"lasts: 5s, expect: {silent: 5s}", "expected no sample for 5s", ""},
		"gap":           {"lasts: 1s, expect: {gap: 1ms}", "expected a sample at least every 1ms", ""},
		"answered":      {"do: [{method: {name: nobody}}], expect: {answered: 20s}", "but the device answered 404", "central"},
		"acknowledged":  {"do: [{desired: {fanSpeed: 7}}], expect: {acknowledged: 1ms}", "acknowledged within 1ms, but", "central"},
		"moves":         {"do: [{failover: {}}], expect: {back: 20s, moves: 0}", "expected at most 0 moves", ""},
		"registrations": {"do: [{failover: {}}], expect: {back: 20s, registrations: 0}", "expected at most 0 questions to DPS", "hubs central"},
		"connects":      {"do: [{failover: {}}], expect: {back: 20s, connects: 0}", "expected at most 0 connections to hubs", "hubs central"},
		"dials":         {"do: [{failover: {}}], expect: {back: 20s, dials: 0}", "expected at most 0 dials", ""},
		"rules":         {"lasts: 1s, expect: {rules: [H99]}", "expected the decision H99", ""},
	}
	// These cannot fail without a slow cloud, an outbox that is too small, and a crash at the
	// wrong moment. The player's tests see them fail.
	keys := append(slices.Collect(maps.Keys(impossible)), "drained", "lost", "duplicates")
	for f := range reflect.TypeFor[scenario.Expect]().Fields() {
		if key := f.Tag.Get("key"); key != "" && !slices.Contains(keys, key) {
			t.Errorf("nobody sees expect.%s fail", key)
		}
	}
	for key, x := range impossible {
		for name, open := range targets {
			s := parsed(t, "name: fast\ntitle: what cannot be\ndevice: {interval: 100ms}\nsteady: {lasts: 1s}\nsteps:\n- {name: one, "+x.step+"}\n")
			target := open(strings.ToLower(key) + "-on-" + name)
			if strings.Contains(x.refused, name) {
				if err := play.Check(s, "fast.yaml", target, false, 1); err == nil || !strings.Contains(err.Error(), "fast.yaml:6: ") {
					t.Errorf("%s on %s is not refused: %v", key, name, err)
				}
				continue
			}
			playing.Go(func() {
				rep := played(t, s, target, "")
				unmet := slices.ContainsFunc(rep.Findings, func(f report.Finding) bool { return strings.Contains(f.Text, x.unmet) })
				if rep.Verdict != report.Failed || !unmet {
					t.Errorf("%s on %s: %s %+v", key, name, rep.Verdict, rep.Findings)
				}
			})
		}
	}
}

// desires changes what the device should do.
const desires = `
name: fast
title: another speed
device: {interval: 100ms}
steady: {lasts: 1s}
steps:
  - name: faster
    do: [{desired: {fanSpeed: 9}}]
    expect: {acknowledged: 20s}
`

// TestDesiredPropertiesOfACloudThatStaysArePutBack: first one that was not there, then one that
// was.
func TestDesiredPropertiesOfACloudThatStaysArePutBack(t *testing.T) {
	c := newCloud(t)
	for id, target := range map[string]drill.Target{
		"on-hubs":      plainHubs(t, c, "on-hubs"),
		"on-simulator": &Simulator{Control: &drill.Control{URL: c.Info().Control}, Who: insider(t), Site: c.site("on-simulator")},
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			if s, running := target.(*Simulator); running { // else the device is gone after the drill
				known := opened(t, s)
				c.telemetry(id, "hub-a")
				known.Devices[0].Stop()
			}
			for _, want := range []any{nil, json.Number("1234567")} {
				if want != nil {
					ok(t, "desire", c.PatchDesired(id, json.RawMessage(`{"fanSpeed":1234567}`)))
				}
				if rep := played(t, parsed(t, desires), target, ""); rep.Verdict != report.Passed {
					t.Errorf("%s: %s", rep.Verdict, rep.Reason)
				}
				twin, err := c.Twin(id)
				ok(t, "twin", err)
				if got := twin.Desired["fanSpeed"]; got != want {
					t.Errorf("fanSpeed is %v, and was %v", got, want)
				}
			}
		})
	}
}

// TestWhatATargetLacksIsRefusedWithItsLine: before the run begins.
func TestWhatATargetLacksIsRefusedWithItsLine(t *testing.T) {
	s := parsed(t, strings.Replace(fast, "do: [failback]", "do: [{fault: {hub: hub-a, kind: kill}}]", 1))
	for _, target := range []drill.Target{&Central{Who: &Inner{}}, &Hubs{Who: &Inner{}}} {
		err := play.Check(s, "fast.yaml", target, false, 1)
		if err == nil || !strings.Contains(err.Error(), "fast.yaml:12: it needs faults of hubs, and the target "+target.Name()+" has none: ") {
			t.Errorf("%v", err)
		}
		if err := play.Check(parsed(t, fast), "fast.yaml", target, true, 1); err == nil || !strings.Contains(err.Error(), "virtual time") {
			t.Errorf("%v", err)
		}
	}
	text, err := os.ReadFile("../../../scripts/scenarios/planned-failover.yaml")
	ok(t, "planned-failover", err)
	for _, target := range []drill.Target{&Central{Who: &Inner{}}, &Hubs{Who: &Inner{}}, &Simulator{Who: &Outer{}}} {
		ok(t, target.Name(), play.Check(parsed(t, string(text)), "planned-failover.yaml", target, false, 1))
	}
}

// TestTheLeagueCanBePlayed: its scenarios are right, and a program in another language can play
// them.
func TestTheLeagueCanBePlayed(t *testing.T) {
	files, err := filepath.Glob("../../../conformance/league/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		ok(t, file, err)
		s, err := scenario.Parse(filepath.Base(file), text)
		ok(t, file, err)
		ok(t, file, play.Check(s, file, &Simulator{Who: &Outer{Args: []string{"node"}}}, false, 1))
	}
}

// TestADeviceThatADrillHasBroughtIsGoneAfterIt: the simulator that runs knows the devices that it
// knew before, and no other.
func TestADeviceThatADrillHasBroughtIsGoneAfterIt(t *testing.T) {
	c := newCloud(t)
	target := func(id string) *Simulator {
		return &Simulator{Control: &drill.Control{URL: c.Info().Control}, Who: insider(t), Site: c.site(id)}
	}
	resident := opened(t, target("resident"))
	c.telemetry("resident", "hub-a")
	for _, id := range []string{"guest", "resident"} {
		if id == "resident" {
			resident.Devices[0].Stop() // it plays in a drill now, and stays known
		}
		w := opened(t, target(id))
		c.telemetry(id, "hub-a")
		w.Devices[0].Stop()
		ok(t, "close", w.Close())
		if got := c.State().Devices; len(got) != 1 || got[0].ID != "resident" {
			t.Errorf("after a drill with %s the simulator knows %+v", id, got)
		}
	}
	// Somebody has started the device meanwhile, and uses it.
	w := opened(t, target("another"))
	c.telemetry("another", "hub-a")
	w.Devices[0].Stop()
	theirs := opened(t, target("another"))
	c.telemetry("another", "hub-a")
	ok(t, "close", w.Close())
	if got := c.State().Devices; len(got) != 2 {
		t.Errorf("the simulator knows %+v", got)
	}
	theirs.Devices[0].Stop()
}

// TestADeviceWhoseLinkEndsLateIsGoneAfterTheDrill: a simulator may see the end of a program a
// moment after it. Here the program ends once the drill watches its link.
func TestADeviceWhoseLinkEndsLateIsGoneAfterTheDrill(t *testing.T) {
	c := newCloud(t)
	const id = "late"
	w := opened(t, &Simulator{Control: &drill.Control{URL: c.Info().Control}, Who: insider(t), Site: c.site(id)})
	before := c.State()
	before.Devices = nil
	c.telemetry(id, "hub-a")
	watched := &Simulator{Control: &drill.Control{URL: c.Info().Control}}
	var stopping sync.WaitGroup
	watched.Control.Client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if r.URL.Path == "/api/events" {
			stopping.Go(w.Devices[0].Stop)
		}
		return resp, err
	})
	ok(t, "put back", watched.putBack(within(t), before, id))
	stopping.Wait()
	if got := c.State().Devices; len(got) != 0 {
		t.Errorf("the simulator knows %+v", got)
	}
}

// TestADeviceOfWhichTheSimulatorDoesNotTellIsNotLeftWithoutAWord: here it gives no answer until the
// drill's time to put everything back is over.
func TestADeviceOfWhichTheSimulatorDoesNotTellIsNotLeftWithoutAWord(t *testing.T) {
	c := newCloud(t)
	const id = "untold"
	w := opened(t, &Simulator{Control: &drill.Control{URL: c.Info().Control}, Who: insider(t), Site: c.site(id)})
	c.telemetry(id, "hub-a")
	w.Devices[0].Stop()
	before := c.State()
	before.Devices = nil
	ctx, over := context.WithCancel(t.Context())
	silent := &Simulator{Control: &drill.Control{URL: c.Info().Control}}
	silent.Control.Client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/api/events" {
			over()
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	err := silent.putBack(ctx, before, id)
	if err == nil || !strings.Contains(err.Error(), "does not say whether the device "+id+" has a link; if nobody uses it, delete it there") {
		t.Errorf("%v", err)
	}
}

// roundTrip is a way to a server.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
