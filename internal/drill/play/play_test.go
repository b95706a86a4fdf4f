package play

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// written reads a scenario of a test.
func written(t *testing.T, lines ...string) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("test.yaml", []byte("name: test\ntitle: a test\n"+strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// everything uses each action of the language.
var everything = []string{
	"device: {interval: 500ms, certificate: 100h, others: 1}",
	"cloud: {hubs: 3, retryAfter: 1s}",
	"steps:",
	"- {name: fault, do: [fault: {hub: hub-a, kind: kill, close: fin}], expect: {back: 10s, on: hub-b, drained: 10s, lost: 0, duplicates: 20, rules: [H07], moves: 1}}",
	"- {name: heal, do: [heal: all, failback: ], expect: {back: 10s, on: hub-a}}",
	"- {name: dps, do: [dps: {kind: throttle, retryAfter: 2s, for: 5s}], expect: {gap: 2s, registrations: 0}}",
	"- {name: cut, do: [cut: {place: hub-a, for: 10s}], expect: {backOnceOver: 90s, silent: 2s}}",
	"- {name: delay, after: 5s, do: [delay: {by: 100ms, for: 10s}], expect: {gap: 2s, connects: 2}}",
	"- {name: weather, do: [weather: {jitter: 200ms, loss: 0.01, for: 10s}], expect: {gap: 5s}}",
	"- {name: handover, do: [handover: {for: 2s}], expect: {backOnceOver: 90s}}",
	"- {name: path, after: 5s, do: [path: {place: all, how: hang, for: 5s}, disconnect], expect: {backOnceOver: 90s}}",
	"- {name: failover, after: 5s, do: [failover: {for: 20s, devices: all}], expect: {backOnceOver: 90s, on: hub-a}}",
	"- {name: storm, after: 5s, do: [storm: {times: 3, every: 2s}], expect: {gap: 10s}}",
	"- {name: disable, after: 5s, do: [disable: {for: 10s}], expect: {silent: 10s, backOnceOver: 90s}}",
	"- {name: identity, after: 5s, do: [disableIdentity: {for: 10s}], expect: {silent: 10s, backOnceOver: 90s}}",
	"- {name: out, after: 5s, do: [block, disable], expect: {silent: 10s}}",
	"- {name: enable, do: [enable, unblock], expect: {back: 90s}}",
	"- {name: block, after: 5s, do: [block: {for: 10s}], expect: {silent: 10s, backOnceOver: 90s}}",
	"- {name: delete, after: 5s, do: [delete], expect: {back: 90s}}",
	"- {name: commands, after: 5s, do: [method: {name: echo, payload: [1, 2]}, message: {name: setAlarm, payload: '07:30:00'}, desired: {fanSpeed: 7}], expect: {answered: 5s, acknowledged: 5s}}",
	"- {name: rate, do: [rate: 20], lasts: 10s, expect: {gap: 200ms}}",
	"- {name: none, do: [rate: 0], lasts: 1s}",
	"- {name: quiet, lasts: 10s, expect: {silent: 10s}}",
	"- {name: slow, do: [rate: 2], lasts: 10s, expect: {gap: 1s}}",
	"- {name: crash, do: [crash: {close: fin, for: 3s}], expect: {backOnceOver: 90s, lost: 0}}",
	"- {name: restart, after: 5s, do: [restart: {for: 3s}], expect: {backOnceOver: 90s, lost: 0, duplicates: 0}}",
	"- {name: halt, after: 5s, do: [halt], lasts: 5s}",
	"- {name: start, do: [start], expect: {back: 90s}}",
	"- {name: clock, after: 5s, do: [clock: {ahead: -2h, for: 20s}], expect: {backOnceOver: 90s}}",
	"- {name: rival, after: 5s, do: [rival: {for: 10s}], expect: {backOnceOver: 2m}}",
	"- {name: certificate, after: 2m, do: [newCertificate: {life: 50h}], expect: {back: 90s, dials: 50}}",
}

func TestEachActionAndExpectationWorks(t *testing.T) {
	s := written(t, everything...)
	for _, part := range []reflect.Type{reflect.TypeFor[scenario.Action](), reflect.TypeFor[scenario.Expect]()} {
		for f := range part.Fields() {
			used := f.Name == "Pos" || f.Name == "Chaos"
			for i := range s.Steps {
				for _, a := range s.Steps[i].Do {
					used = used || part == reflect.TypeFor[scenario.Action]() && !reflect.ValueOf(a).FieldByIndex(f.Index).IsZero()
				}
				used = used || part == reflect.TypeFor[scenario.Expect]() && !reflect.ValueOf(s.Steps[i].Expect).FieldByIndex(f.Index).IsZero()
			}
			if !used {
				t.Errorf("the test does not use %s.%s", part.Name(), f.Name)
			}
		}
	}
	if rep := drilled(t, s, insideTarget(t)); rep.Verdict != report.Passed {
		t.Errorf("%s: %s\n%s", rep.Verdict, rep.Reason, findings(rep))
	}
}

// watched is a target that looks at its cloud before it is closed.
type watched struct {
	*inside.Target
	cloud   func(drill.Cloud) drill.Cloud // changes the cloud; nil: nothing does
	world   func(*drill.World)            // changes the world; nil: nothing does
	spoil   func(*inside.Spoilt)
	closing func()   // is called before the world is closed; may be nil
	left    []string // what was not put back
}

func (w *watched) Open(ctx context.Context, p drill.Plan) (*drill.World, error) {
	made, err := w.Target.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	cloud, closing := made.Cloud, made.Close
	if w.cloud != nil {
		made.Cloud = w.cloud(cloud)
	}
	if w.world != nil {
		w.world(made)
	}
	made.Close = func() error {
		w.look(cloud)
		if w.closing != nil {
			w.closing()
		}
		return closing()
	}
	return made, nil
}

// look notes what is not as it was in the beginning.
func (w *watched) look(c drill.Cloud) {
	state, err := c.State(context.Background())
	note := func(wrong bool, format string, a ...any) {
		if wrong {
			w.left = append(w.left, fmt.Sprintf(format, a...))
		}
	}
	note(err != nil, "no state: %v", err)
	note(state.DPS.Fault != "", "DPS has the fault %s", state.DPS.Fault)
	for _, h := range state.Hubs {
		note(h.Fault != "", "%s has the fault %s", h.Name, h.Fault)
	}
	for _, d := range state.Devices {
		note(!d.Enabled, "%s is disabled", d.ID)
		note(d.Blocked, "%s is blocked", d.ID)
		note(d.AssignedHub != "hub-a", "%s is on %s", d.ID, d.AssignedHub)
	}
}

// played plays a scenario on a target, and returns the report.
func played(t *testing.T, ctx context.Context, s *scenario.Scenario, target drill.Target) report.Report { //nolint:revive // a test comes first
	t.Helper()
	rec, err := drill.NewRecord("", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := Run{Scenario: s, Target: target, Seed: 1, Virtual: true, Take: rec.Take}
	rep, err := rec.Close(r.Play(ctx), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// broken breaks everything, and then expects what cannot be.
var broken = []string{
	"device: {others: 2}",
	"steps:",
	"- name: all breaks",
	"  do:",
	"  - fault: {hub: hub-a, kind: kill}",
	"  - dps: {kind: down}",
	"  - failover: {for: 100h, devices: all}",
	"  - block: {for: 100h}",
	"  - disable: {for: 100h}",
	"  - cut: {place: all, for: 100h}",
	"  - path: {place: all, how: hang, for: 100h}",
	"  - clock: {ahead: 5h, for: 100h}",
	"  - rival: {for: 100h}",
	"  - restart: {for: 100h}",
	"  expect: {back: 10s}",
}

func TestEverythingIsPutBackAfterAStepThatFails(t *testing.T) {
	w := &watched{Target: insideTarget(t)}
	rep := played(t, t.Context(), written(t, broken...), w)
	if rep.Verdict != report.Failed || !strings.Contains(findings(rep), "expected back within 10s, but nothing came for 10s") {
		t.Errorf("%s: %s", rep.Verdict, findings(rep))
	}
	if len(w.left) > 0 {
		t.Errorf("not put back: %q", w.left)
	}
}

func TestEverythingIsPutBackWhenTheRunIsBrokenOff(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	w := &watched{Target: insideTarget(t)}
	w.cloud = func(c drill.Cloud) drill.Cloud {
		return &hooked{Cloud: c, fault: func() { cancel(errors.New("somebody pressed Ctrl-C")) }}
	}
	rep := played(t, ctx, written(t, broken...), w)
	if rep.Verdict != report.Unknown || !strings.Contains(rep.Reason, "somebody pressed Ctrl-C") {
		t.Errorf("%s: %s", rep.Verdict, rep.Reason)
	}
	if len(w.left) > 0 {
		t.Errorf("not put back: %q", w.left)
	}
}

// TestARunThatIsBrokenOffWaitsForNoBacklog: a fleet makes more samples than it can send. One device
// after the other would send for as long as it may, while the others go on. A command is under way,
// too, and has an hour.
func TestARunThatIsBrokenOffWaitsForNoBacklog(t *testing.T) {
	s := written(t, "device: {interval: 10ms, window: 1, others: 4}", "cloud: {delay: 20ms}", "steady: {backlog: 100000, lasts: 5s}",
		"steps:", "- {name: a command, at: 0s, do: [cut: {place: hub-a, for: 100h}, method: {name: echo}], expect: {answered: 1h}}",
		"- {name: all breaks, at: 1s, do: [dps: {kind: down}]}")
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{Target: insideTarget(t)}
	w.cloud = func(c drill.Cloud) drill.Cloud { return &hooked{Cloud: c, fault: cancel} }
	var off time.Time
	late := 0
	rec, err := drill.NewRecord("", func(e report.Entry) {
		switch {
		case e.Kind == report.Spoiled:
			off = e.At
		case e.Kind == report.Arrived && !off.IsZero() && e.At.After(off.Add(time.Second)):
			late++
		}
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := Run{Scenario: s, Target: w, Seed: 1, Virtual: true, Take: rec.Take}
	took := r.Play(ctx).Sub(off)
	if off.IsZero() || took > 35*time.Second || late > 0 {
		t.Errorf("broken off at %v, it went on for %v, and %d samples arrived", off, took, late)
	}
	if _, err := rec.Close(off, off); err != nil {
		t.Error(err)
	}
	if len(w.left) > 0 {
		t.Errorf("not put back: %q", w.left)
	}
}

func TestEverythingIsPutBackAfterAPanic(t *testing.T) {
	w := &watched{Target: insideTarget(t)}
	w.cloud = func(c drill.Cloud) drill.Cloud {
		return &hooked{Cloud: c, fault: func() { panic("the drill has a bug") }}
	}
	rep := played(t, t.Context(), written(t, broken...), w)
	if rep.Verdict != report.Unknown || !strings.Contains(rep.Reason, "the drill has a bug") {
		t.Errorf("%s: %s", rep.Verdict, rep.Reason)
	}
	if len(w.left) > 0 {
		t.Errorf("not put back: %q", w.left)
	}
}

// hooked is a cloud that does something when DPS breaks.
type hooked struct {
	drill.Cloud
	fault func()
}

func (h *hooked) FaultDPS(ctx context.Context, f sim.DPSFault) error {
	err := h.Cloud.FaultDPS(ctx, f)
	h.fault()
	return err
}

// forgetful is a cloud without a ledger.
type forgetful struct{ drill.Cloud }

func (forgetful) Ledger(context.Context, string, int64) (sim.Ledger, error) {
	return sim.Ledger{}, errors.New("there is no ledger")
}

// truncated is a cloud whose ledger has forgotten its beginning.
type truncated struct{ drill.Cloud }

func (c truncated) Ledger(ctx context.Context, device string, behind int64) (sim.Ledger, error) {
	l, err := c.Cloud.Ledger(ctx, device, behind)
	if behind == 0 && len(l.Messages) > 0 {
		l.Messages = l.Messages[1:]
	}
	return l, err
}

func TestWithoutAProofTheVerdictIsUnknown(t *testing.T) {
	s := written(t, "steps: [{name: calm, lasts: 5s, expect: {gap: 2s}}]")
	for want, w := range map[string]*watched{
		"there is no ledger":            {cloud: func(c drill.Cloud) drill.Cloud { return forgetful{c} }},
		"the cloud has forgotten":       {cloud: func(c drill.Cloud) drill.Cloud { return truncated{c} }},
		"there is no device to look at": {world: func(w *drill.World) { w.Devices = nil }},
		"nothing was broken":            {spoil: func(s *inside.Spoilt) { s.Device.Identity.Key = "bm8=" }},
	} {
		t.Run(want, func(t *testing.T) {
			w.Target = insideTarget(t)
			w.Spoil = w.spoil
			if rep := played(t, t.Context(), s, w); rep.Verdict != report.Unknown || !strings.Contains(rep.Reason, want) {
				t.Errorf("%s: %s", rep.Verdict, rep.Reason)
			}
		})
	}
}

func TestAConditionStopsTheRun(t *testing.T) {
	dies := "steps: [{name: dies, do: [fault: {hub: hub-a, kind: blackhole, dpsKnows: false, for: 10h}], expect: {silent: 9h}}]"
	for stop, want := range map[string]string{
		"gap: 1m":     "no sample has arrived for 1m",
		"backlog: 50": "samples wait, and 50 may",
		"lasts: 2m":   "it has lasted 2m",
	} {
		rep := played(t, t.Context(), written(t, dies, "stop: {"+stop+"}"), insideTarget(t))
		if took := rep.EndedAt.Sub(rep.StartedAt); rep.Verdict != report.Failed || !strings.Contains(findings(rep), want) || took > time.Hour {
			t.Errorf("%s: after %v %s: %s", stop, took, rep.Verdict, findings(rep))
		}
	}
	target := insideTarget(t)
	target.Spoil = func(s *inside.Spoilt) { s.Device.Shared.Config.Outbox.MaxAge = time.Minute }
	rep := played(t, t.Context(), written(t, dies, "stop: {givenUp: 10}"), target)
	if took := rep.EndedAt.Sub(rep.StartedAt); !strings.Contains(findings(rep), "samples, and 10 may be") || took > time.Hour {
		t.Errorf("after %v %s: %s", took, rep.Verdict, findings(rep))
	}
}

// unable is a target that lacks something.
type unable struct {
	drill.Target
	needs []drill.Need
}

func (u unable) Lacks(n drill.Need) string {
	if slices.Contains(u.needs, n) {
		return "it is not made for that"
	}
	return ""
}

func TestWhatATargetLacksIsRefusedWithItsLine(t *testing.T) {
	s := written(t, everything...)
	for need, want := range map[drill.Need]string{
		drill.NeedVirtual: ":1: it needs virtual time", drill.NeedOthers: ":1: it needs further devices", drill.NeedCerts: ":1: it needs a device with a certificate",
		drill.NeedHubFaults: ":6: it needs faults of hubs", drill.NeedOutbox: ":6: expect.drained needs a device that says", drill.NeedDPSFaults: ":7: it needs faults of DPS",
		drill.NeedPaths: ":9: it needs faults of the way", drill.NeedWeather: ":10: it needs delayed", drill.NeedMoves: ":7: it needs moves",
		drill.NeedOperator: ":13: it needs acts", drill.NeedMethods: ":22: it needs direct", drill.NeedMail: ":22: it needs cloud-to-device", drill.NeedTwin: ":22: it needs desired",
		drill.NeedLoad: ":23: it needs a device whose rate", drill.NeedKill: ":27: it needs a device that can be killed", drill.NeedProcess: ":27: it needs a device that can be stopped",
		drill.NeedClock: ":31: it needs", drill.NeedRival: ":32: it needs another program", drill.NeedNamedHubs: ":6: expect.on needs hubs",
		drill.NeedLedger: ":6: expect.duplicates needs a ledger", drill.NeedCounts: ":8: expect.registrations needs a cloud that counts",
	} {
		err := Check(s, "test.yaml", unable{insideTarget(t), []drill.Need{need}}, true, 1)
		if err == nil || !strings.Contains(err.Error(), "test.yaml"+want) || !strings.Contains(err.Error(), "it is not made for that") {
			t.Errorf("%s: %v", need, err)
		}
	}
	if err := Check(s, "test.yaml", insideTarget(t), true, 1); err != nil {
		t.Error(err)
	}
}

func TestTheHistoryRepeatsTheVerdict(t *testing.T) {
	for _, cripple := range []string{"", "ack early"} {
		dir := t.TempDir()
		rec, err := drill.NewRecord(dir, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		target := insideTarget(t)
		target.Spoil = cripples[cripple]
		r := Run{Scenario: library(t)["giant-lizard"], Target: target, Seed: 3, Virtual: true, Began: time.Now(), Take: rec.Take}
		rep, err := rec.Close(r.Play(t.Context()), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(dir, report.HistoryFile))
		if err != nil {
			t.Fatal(err)
		}
		again, err := drill.Repeat(f)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		for _, x := range rep.Recoveries {
			i := slices.IndexFunc(r.Scenario.Steps, func(s scenario.Step) bool { return s.Name == x.Step })
			if asked := r.Scenario.Steps[i].Expect.Back.Milliseconds(); asked == 0 || x.BudgetMs != asked {
				t.Errorf("%s: the step asks for %d ms, and the report says %d", x.Step, asked, x.BudgetMs)
			}
		}
		a, b := asJSON(t, rep), asJSON(t, again)
		if a != b || (rep.Verdict == report.Passed) != (cripple == "") {
			t.Errorf("%q: the run says\n%s\nthe history says\n%s", cripple, a, b)
		}
		if age := time.Since(rep.StartedAt); age < 0 || age > time.Hour {
			t.Errorf("the run began %v ago", age)
		}
	}
}

func asJSON(t *testing.T, r report.Report) string {
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheSameSeedMeansTheSameChaos(t *testing.T) {
	s := library(t)["seeded-chaos"]
	faults := func(seed uint64) (all []string) {
		rec, err := drill.NewRecord("", nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		rep, err := rec.Close((&Run{Scenario: s, Target: insideTarget(t), Seed: seed, Virtual: true, Take: rec.Take}).Play(t.Context()), time.Now())
		if err != nil || rep.Verdict != report.Passed {
			t.Errorf("seed %d: %s (%v)", seed, rep.Reason, err)
		}
		for _, f := range rep.Faults {
			all = append(all, f.Where+" "+f.What)
		}
		return all
	}
	if a, b, other := faults(5), faults(5), faults(6); len(a) == 0 || !reflect.DeepEqual(a, b) || reflect.DeepEqual(a, other) {
		t.Errorf("seed 5: %q, then %q; seed 6: %q", a, b, other)
	}
}

func TestARunTakesRealTimeWhereItSaysSo(t *testing.T) {
	target := insideTarget(t)
	target.Real = true
	s := written(t, "device: {interval: 50ms}", "steady: {lasts: 1s, gap: 1s}", "cloud: {retryAfter: 0s}",
		"steps: [{name: it is closed, do: [disconnect], expect: {back: 5s, lost: 0}}]")
	rec, err := drill.NewRecord("", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	rep, err := rec.Close((&Run{Scenario: s, Target: target, Seed: 1, Take: rec.Take}).Play(t.Context()), time.Now())
	if err != nil || rep.Verdict != report.Passed || rep.Speed != "real" || rep.StartedAt.Before(began) {
		t.Errorf("%s, %s: %s (%v)", rep.Speed, rep.Verdict, findings(rep), err)
	}
}

// TestATargetThatKeepsItsOwnCloudIsSaidSo: the scenario is played all the same, and a person knows
// what to start for the cloud that it describes.
func TestATargetThatKeepsItsOwnCloudIsSaidSo(t *testing.T) {
	last := "steps: [{name: one, lasts: 1s}]"
	described := written(t, "cloud: {hubs: 3, retryAfter: none, polls: 2, delay: 20ms, move: delete, refusal: connack5}", last)
	running := unable{insideTarget(t), []drill.Need{drill.NeedCloudSetup}}
	azure := unable{insideTarget(t), []drill.Need{drill.NeedCloudSetup, drill.NeedHubFaults}}
	for _, x := range []struct {
		name string
		s    *scenario.Scenario
		t    drill.Target
		want string
	}{
		{"a simulator", described, running, "test.yaml:3: the cloud is not set up as the scenario says: it is not made for that; " +
			"start it with hubhop sim --hubs 3 --retry-after none --polls 2 --move delete --disabled-refusal 5; only the embedded target has a network with a delay"},
		{"a simulator and a time", written(t, "cloud: {retryAfter: 3s}", last), running, "test.yaml:3: the cloud is not set up as the scenario says: it is not made for that; " +
			"start it with hubhop sim --retry-after 3s"},
		{"a cloud of Azure", described, azure, "test.yaml:3: the cloud is not set up as the scenario says: it is not made for that; the embedded target sets it up, or leave it out"},
		{"the embedded target", described, insideTarget(t), ""},
		{"a scenario that says nothing", written(t, last), running, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			if got := CloudNote(x.s, "test.yaml", x.t); got != x.want {
				t.Errorf("%q, not %q", got, x.want)
			}
			if err := Check(x.s, "test.yaml", x.t, true, 1); err != nil {
				t.Error(err)
			}
		})
	}
}

// mortal is a target whose cloud is killed in the middle of the run.
type mortal struct {
	*inside.Target
	killed *time.Time
}

func (m mortal) Open(ctx context.Context, p drill.Plan) (*drill.World, error) {
	w, err := m.Target.Open(ctx, p)
	if err == nil {
		w.Cloud = mortalCloud{w.Cloud, m.killed}
	}
	return w, err
}

type mortalCloud struct {
	drill.Cloud
	killed *time.Time
}

func (m mortalCloud) FaultDPS(ctx context.Context, f sim.DPSFault) error {
	defer func() { *m.killed = time.Now() }()
	return m.Cloud.FaultDPS(ctx, f)
}

func (m mortalCloud) Ledger(ctx context.Context, device string, behind int64) (sim.Ledger, error) {
	if !m.killed.IsZero() {
		return sim.Ledger{}, drill.ErrAway
	}
	return m.Cloud.Ledger(ctx, device, behind)
}

// TestARunWhoseCloudIsKilledEndsAtOnce: nobody will take what the device holds, nor answer a
// command, so nothing is waited for.
func TestARunWhoseCloudIsKilledEndsAtOnce(t *testing.T) {
	s := written(t, "device: {interval: 1s}", "steps:",
		"- {name: all hubs are gone, do: [fault: {hub: hub-a, kind: kill}, fault: {hub: hub-b, kind: kill}], lasts: 10s}",
		"- {name: and now all, do: [method: {name: echo}, dps: {kind: down}], lasts: 10m}")
	var killed time.Time
	rep := played(t, t.Context(), s, mortal{insideTarget(t), &killed})
	if rep.Verdict != report.Unknown || !strings.Contains(rep.Reason, "the simulator does not answer") {
		t.Errorf("%s: %s", rep.Verdict, rep.Reason)
	}
	if took := rep.EndedAt.Sub(killed); took > 3*time.Second {
		t.Errorf("the run ended %v after its cloud", took)
	}
}

// TestADeviceThatIsBackBeforeTheEndHasNoRecoveryTime: it fled to the other hub, so the time from
// the end of the fault to its next sample says nothing.
func TestADeviceThatIsBackBeforeTheEndHasNoRecoveryTime(t *testing.T) {
	for name, x := range map[string]struct {
		dpsKnows string
		early    bool
		reason   string
	}{
		"it has fled":    {"true", true, "every one of them received, in order"},
		"it had to wait": {"false", false, "back after the fault in "},
	} {
		t.Run(name, func(t *testing.T) {
			rep := played(t, t.Context(), written(t, "device: {interval: 1s}", "steps:",
				"- {name: away, do: [fault: {hub: hub-a, kind: kill, for: 30s, dpsKnows: "+x.dpsKnows+"}], expect: {backOnceOver: 20s}}"), insideTarget(t))
			if rep.Verdict != report.Passed || len(rep.Recoveries) != 1 || !strings.Contains(rep.Reason, x.reason) {
				t.Fatalf("%s: %s; %+v", rep.Verdict, rep.Reason, rep.Recoveries)
			}
			if r := rep.Recoveries[0]; r.Early != x.early || (r.FirstPubackMs == 0) != x.early || (rep.RTO.WorstMs == 0) != x.early {
				t.Errorf("%+v, worst %d ms", r, rep.RTO.WorstMs)
			}
			if x.early && strings.Contains(rep.Reason, "back after") {
				t.Error(rep.Reason)
			}
		})
	}
}
