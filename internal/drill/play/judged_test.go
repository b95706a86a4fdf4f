package play

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	"github.com/hubhop-iot/hubhop/internal/drill/target"
)

// TestEachKeyThatAsksSaysWhoCanJudgeIt: a key that nobody thought of would hold on a target that
// does not count it.
func TestEachKeyThatAsksSaysWhoCanJudgeIt(t *testing.T) {
	var keys []string
	for name, part := range map[string]any{"expect": scenario.Expect{}, "budget": scenario.Budget{}, "steady": scenario.Steady{}, "stop": scenario.Stop{}} {
		for f := range reflect.TypeOf(part).Fields() {
			if key := f.Tag.Get("key"); key != "" {
				keys = append(keys, name+"."+key)
			}
		}
	}
	slices.Sort(keys)
	if said := slices.Sorted(maps.Keys(judgedBy)); !slices.Equal(said, keys) {
		t.Errorf("the language has %q\nand judgedBy %q", keys, said)
	}
}

// TestWhatATargetCannotJudgeIsRefusedByItsKey: also in the parts of a scenario that are no steps.
func TestWhatATargetCannotJudgeIsRefusedByItsKey(t *testing.T) {
	s := written(t, "steady: {backlog: 9}", "stop: {backlog: 90, givenUp: 0}", "budget: {duplicates: 7}",
		"steps:", "- name: calm", "  lasts: 1s", "  expect: {dials: 9}")
	blind := unable{insideTarget(t), []drill.Need{drill.NeedOutbox, drill.NeedLedger}}
	err := Check(s, "test.yaml", blind, true, 1)
	for _, want := range []string{":3: steady.backlog needs a device that says", ":9: expect.dials needs", ":4: stop.backlog needs", ":4: stop.givenUp needs", ":5: budget.duplicates needs a ledger"} {
		if err == nil || !strings.Contains(err.Error(), "test.yaml"+want) {
			t.Errorf("%v\nand not %q", err, want)
		}
	}
	if err := Check(s, "test.yaml", insideTarget(t), true, 1); err != nil {
		t.Error(err)
	}
}

// unseen is a target whose cloud has no ledger, as Azure has none.
func unseen(t *testing.T, spoil func(*inside.Spoilt)) *watched {
	w := &watched{Target: insideTarget(t), world: func(w *drill.World) { w.Ledger = false }}
	w.Spoil = spoil
	return w
}

// TestWithoutALedgerTheReportSaysByWhatItIsJudged: nobody knows in which order the samples arrived.
func TestWithoutALedgerTheReportSaysByWhatItIsJudged(t *testing.T) {
	rep := played(t, t.Context(), written(t, "steps: [{name: calm, lasts: 5s, expect: {gap: 2s, lost: 0}}]"), unseen(t, nil))
	if rep.Verdict != report.Passed || rep.Proof != report.ByAcknowledgements || !strings.Contains(rep.Reason, "as the device counts its acknowledgements") {
		t.Errorf("%s: %s, by %s", rep.Verdict, rep.Reason, rep.Proof)
	}
}

// TestWhatAnOutboxGivesUpHasNotArrived: without a ledger, the samples that have left the outbox
// count as arrived, but not those that it dropped.
func TestWhatAnOutboxGivesUpHasNotArrived(t *testing.T) {
	s := written(t, "device: {interval: 100ms}", "steps:",
		"- {name: dark, do: [fault: {hub: hub-a, kind: kill, dpsKnows: false, for: 30s}], expect: {backOnceOver: 60s, lost: 0}}")
	rep := played(t, t.Context(), s, unseen(t, cripples["an outbox of a second"]))
	var lost report.Expectation
	for _, x := range rep.Expectations {
		if x.Text == "at most 0 samples lost" {
			lost = x
		}
	}
	var n int
	if _, err := fmt.Sscanf(lost.Seen, "%d were", &n); err != nil || lost.Held || n < 200 || n > 310 {
		t.Errorf("%+v", lost)
	}
	if rep.Verdict != report.Failed || !strings.Contains(findings(rep), "were given up") {
		t.Errorf("%s: %s", rep.Verdict, findings(rep))
	}
	if rep := played(t, t.Context(), s, unseen(t, nil)); rep.Verdict != report.Passed {
		t.Errorf("an outbox that keeps all: %s: %s", rep.Verdict, findings(rep))
	}
}

// scratched is a device whose disk destroys a few samples while the device is off.
type scratched struct{ drill.Party }

func (p scratched) Start() {
	look, _ := p.Look()
	files, err := filepath.Glob(filepath.Join(look.Dir, "*.seg")) // none before the first start
	for _, name := range files {
		b, failed := os.ReadFile(name)
		if failed == nil {
			clear(b[len(b)/2:][:1000])
			failed = os.WriteFile(name, b, 0o600)
		}
		err = errors.Join(err, failed)
	}
	if err != nil {
		panic(err)
	}
	p.Party.Start()
}

// TestWithoutALedgerAsManySamplesAreGivenUpAsWithOne: also those that an outbox gives up before the
// first look at a process, fewer than the process before had given up, and those that the disk
// destroys.
func TestWithoutALedgerAsManySamplesAreGivenUpAsWithOne(t *testing.T) {
	s := written(t, "device: {interval: 10ms}", "steps:",
		"- {name: dark, do: [fault: {hub: hub-a, kind: kill, dpsKnows: false}], lasts: 10s}",
		"- {name: off, do: [restart: {for: 5s}], lasts: 10s}",
		"- {name: light, do: [heal: all], expect: {back: 60s}}")
	for name, c := range map[string]struct {
		spoil func(*inside.Spoilt)
		party func(drill.Party) drill.Party
	}{
		"for age":     {spoil: cripples["an outbox of a second"], party: func(p drill.Party) drill.Party { return p }},
		"by the disk": {party: func(p drill.Party) drill.Party { return scratched{p} }},
	} {
		t.Run(name, func(t *testing.T) {
			var given [2]int
			for i, ledger := range []bool{true, false} {
				w := &watched{Target: insideTarget(t), world: func(w *drill.World) { w.Ledger, w.Devices[0] = ledger, c.party(w.Devices[0]) }}
				w.Spoil = c.spoil
				rep := played(t, t.Context(), s, w)
				n := rep.Samples
				given[i] = int(n.Made + n.Duplicated - n.Received)
			}
			// The last sample may be on its way, and samples differ in length.
			if given[0] < 10 || given[1] < given[0]-3 || given[1] > given[0]+3 {
				t.Errorf("%d by the ledger, and %d without one", given[0], given[1])
			}
		})
	}
}

// TestABacklogAndDuplicatesAreFound: the cloud is slower than the samples come, and a device is
// killed while acknowledgements are under way.
func TestABacklogAndDuplicatesAreFound(t *testing.T) {
	s := written(t, "device: {interval: 10ms, window: 1}", "cloud: {delay: 20ms}", "steady: {backlog: 100000}", "steps:",
		"- {name: slow, do: [disconnect], expect: {back: 10s, drained: 10s}}")
	if rep := played(t, t.Context(), s, insideTarget(t)); rep.Verdict != report.Failed || !strings.Contains(findings(rep), "samples still wait") {
		t.Errorf("%s: %s", rep.Verdict, findings(rep))
	}
	s = written(t, "device: {interval: 10ms}", "cloud: {delay: 20ms}", "steps:",
		"- {name: crash, do: [crash: {for: 3s}], expect: {backOnceOver: 20s, duplicates: 0}}")
	if rep := played(t, t.Context(), s, insideTarget(t)); rep.Verdict != report.Failed || !strings.Contains(findings(rep), "expected at most 0 messages again, but") {
		t.Errorf("%s: %s", rep.Verdict, findings(rep))
	}
}

// TestALinkThatIsLostHasNotMoved: what the last link has acknowledged is seen when it is gone.
func TestALinkThatIsLostHasNotMoved(t *testing.T) {
	s := written(t, "device: {interval: 10ms}", "cloud: {delay: 20ms}", "steps:",
		"- {name: storm, do: [storm: {times: 20, every: 3s}], expect: {moves: 0, lost: 0}}")
	if rep := played(t, t.Context(), s, unseen(t, nil)); rep.Verdict != report.Passed {
		t.Errorf("%s: %s", rep.Verdict, findings(rep))
	}
}

// thoughtful is a cloud that thinks for two seconds before it moves a device.
type thoughtful struct{ drill.Cloud }

func (c thoughtful) Failover(ctx context.Context, device string, ttl time.Duration) error {
	time.Sleep(2 * time.Second)
	return c.Cloud.Failover(ctx, device, ttl)
}

// slowParty is a device whose look at itself takes a moment, as in real time.
type slowParty struct{ drill.Party }

func (p slowParty) Look() (drill.Look, bool) {
	time.Sleep(time.Millisecond)
	return p.Party.Look()
}

// TestADeviceIsNotBackBeforeItWasAway: without a ledger, what was acknowledged while the cloud was
// thinking is seen only when it has moved the device.
func TestADeviceIsNotBackBeforeItWasAway(t *testing.T) {
	w := unseen(t, nil)
	w.cloud = func(c drill.Cloud) drill.Cloud { return thoughtful{c} }
	w.world = func(w *drill.World) { w.Ledger, w.Devices[0] = false, slowParty{w.Devices[0]} }
	rep := played(t, t.Context(), written(t, "device: {interval: 100ms}", "steps:", "- {name: away, do: [failover: {}], expect: {back: 60s}}"), w)
	if rep.Verdict != report.Passed || !strings.Contains(rep.Expectations[1].Seen, "a sample on hub-b") {
		t.Errorf("%s: %+v", rep.Verdict, rep.Expectations)
	}
}

const (
	judgesBegin = "## What a target cannot judge\n"
	judgesEnd   = "## A scenario\n"
)

// TestTheDocumentSaysWhatATargetCannotJudge holds a table of docs/drill.md to the targets.
func TestTheDocumentSaysWhatATargetCannotJudge(t *testing.T) {
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), judgesBegin)
	old, tail, ok2 := strings.Cut(rest, judgesEnd)
	intro, _, ok3 := strings.Cut(old, "\n| key |")
	if !ok || !ok2 || !ok3 {
		t.Fatal("docs/drill.md lacks one of its marks")
	}
	want := intro + judgeTable(t)
	if *update {
		if err := os.WriteFile(docFile, []byte(head+judgesBegin+want+judgesEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != want {
		t.Errorf("the table is not that of the targets; go test ./internal/drill/play -run TheDocument -update writes it:\n%s", want)
	}
}

// judgeTable says for each key that not every target can judge who does.
func judgeTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n| key | `embedded` | a running `hubhop sim` | `central`, `hubs` | `--device external` on a running `hubhop sim` |\n|---|---|---|---|---|\n")
	hubs, app := &target.Hubs{Who: &target.Inner{}}, &target.Central{Who: &target.Inner{}}
	columns := []drill.Target{insideTarget(t), &target.Simulator{Control: &drill.Control{}, Who: &target.Inner{}}, app, &target.Simulator{Who: &target.Outer{}}}
	for _, key := range slices.Sorted(maps.Keys(judgedBy)) {
		need := judgedBy[key]
		if need == anywhere {
			continue
		}
		if (app.Lacks(need) == "") != (hubs.Lacks(need) == "") {
			t.Errorf("%s: central and hubs have one column, and differ", key)
		}
		b.WriteString("| `" + key + "` |")
		for _, c := range columns {
			cell := " judged |"
			if c.Lacks(need) != "" {
				cell = " refused |"
			}
			b.WriteString(cell)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	return b.String()
}
