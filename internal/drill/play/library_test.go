package play

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// insideTarget is the embedded target with the sample application.
func insideTarget(t *testing.T) *inside.Target {
	model := virtual.Model(t)
	shared := device.Shared{Agent: "drill", Config: device.DefaultConfig()}
	shared.Config.Link = hub.DefaultOptions()
	shared.Config.Outbox = outbox.Options{MaxBytes: outbox.DefaultMaxBytes}
	return &inside.Target{Shared: shared, App: func(interval time.Duration, chance *rand.Rand) device.App {
		return sample.App(sample.Options{Model: model, Interval: interval, ReportedInterval: 15 * time.Second, Rand: chance})
	}}
}

// drilled plays a scenario in virtual time.
func drilled(t *testing.T, s *scenario.Scenario, target *inside.Target) report.Report {
	t.Helper()
	rec, err := drill.NewRecord("", func(e report.Entry) {
		if testing.Verbose() && e.Kind != report.Arrived && e.Kind != report.Gauge {
			text := e.Text
			if e.Event != nil {
				text = string(e.Event.Kind) + " " + e.Event.Rule + " " + e.Event.Text
			}
			if e.Expectation != nil {
				text = e.Expectation.Text + ": " + e.Expectation.Seen
			}
			t.Log(e.At.Format("02 15:04:05.000"), e.Kind, e.Step, e.Fault, text)
		}
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := Run{Scenario: s, Target: target, Seed: 1, Virtual: true, Take: rec.Take}
	began := time.Now()
	ended := r.Play(t.Context())
	rep, err := rec.Close(ended, began)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s in %v: %s; %s, worst %d ms", s.Name, time.Since(began).Round(time.Millisecond), rep.Verdict, rep.Reason, rep.RTO.WorstMs)
	return rep
}

func library(t *testing.T) map[string]*scenario.Scenario {
	files, err := filepath.Glob("../../../scripts/scenarios/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	all := map[string]*scenario.Scenario{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := scenario.Parse(filepath.Base(f), text)
		if err != nil {
			t.Fatal(err)
		}
		if s.Name+".yaml" != filepath.Base(f) {
			t.Errorf("%s is called %s", f, s.Name)
		}
		all[s.Name] = s
	}
	return all
}

// slow are the scenarios that are played only if LONG_TESTS is set.
var slow = map[string]bool{"72-hours-dark": true, "week-of-renewals": true, "certificate-expiry": true}

// TestLibraryPasses plays each scenario that hubhop ships.
func TestLibraryPasses(t *testing.T) {
	for name, s := range library(t) {
		t.Run(name, func(t *testing.T) {
			if slow[name] && os.Getenv("LONG_TESTS") == "" {
				t.Skip("it takes long; make drills plays it")
			}
			if rep := drilled(t, s, insideTarget(t)); rep.Verdict != report.Passed {
				t.Errorf("%s: %s\n%s", rep.Verdict, rep.Reason, findings(rep))
			}
		})
	}
}
