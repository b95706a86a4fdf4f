package drill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

const testBox = "00000000000000ab"

// run writes the entries of a drill by hand.
type run struct {
	at  time.Time
	all []report.Entry
}

func newRun() *run {
	r := &run{at: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}
	r.add(report.Entry{Kind: report.Began, Begin: &report.Begin{Format: report.Format, Scenario: "one-kill", Device: "dev-1", Target: "embedded", Seed: 7,
		Speed: "virtual", Client: "hubhop test", Hubs: []string{"hub-a", "hub-b"}, Names: map[string]string{"127.0.0.2": "hub-a", "127.0.0.3": "hub-b"}, RTOMs: 5000}})
	return r
}

func (r *run) add(e report.Entry) {
	e.At = r.at
	r.all = append(r.all, e)
}

func (r *run) event(after time.Duration, e journal.Event) {
	r.at = r.at.Add(after)
	e.Time, e.Device = r.at, "dev-1"
	r.add(report.Entry{Kind: report.Happened, Event: &e})
}

// arrive lets samples arrive, one each 100 ms.
func (r *run) arrive(hub string, first, last uint64) {
	for seq := first; seq <= last; seq++ {
		r.at = r.at.Add(100 * time.Millisecond)
		r.add(report.Entry{Kind: report.Arrived, Hub: hub, ID: fmt.Sprintf("%s-%d", testBox, seq)})
	}
}

// oneKill is a run in which a hub dies and the device comes back on the other one after 1.2 s.
func oneKill() *run {
	r := newRun()
	r.event(time.Second, journal.Event{Kind: journal.Connected, Hub: "127.0.0.2", Text: "connected to 127.0.0.2"})
	r.event(0, journal.Event{Kind: journal.Acknowledged, Hub: "127.0.0.2"})
	r.arrive("hub-a", 1, 50)
	r.add(report.Entry{Kind: report.StepOn, Step: "kill", Text: "hub-a dies"})
	r.add(report.Entry{Kind: report.FaultOn, Step: "kill", Where: "hub-a", Fault: "kill rst", Move: true})
	r.event(2*time.Millisecond, journal.Event{Kind: journal.Lost, Hub: "127.0.0.2", Error: "reset", Text: "link lost"})
	r.event(0, journal.Event{Kind: journal.Decision, Hub: "127.0.0.2", Rule: "H07", Action: "reprovision", Error: "refused", Text: "127.0.0.2: refused"})
	r.add(report.Entry{Kind: report.Gauge, State: &report.State{Made: 60, Backlog: 10}})
	r.event(time.Second, journal.Event{Kind: journal.Assigned, Hub: "127.0.0.3"})
	r.event(150*time.Millisecond, journal.Event{Kind: journal.Connected, Hub: "127.0.0.3"})
	r.event(48*time.Millisecond, journal.Event{Kind: journal.Acknowledged, Hub: "127.0.0.3"})
	r.arrive("hub-b", 50, 120) // the first of them again
	r.add(report.Entry{Kind: report.Asked, Step: "kill", Name: "echo"})
	r.add(report.Entry{Kind: report.Answered, Step: "kill", Name: "echo"})
	r.add(report.Entry{Kind: report.Expected, Expectation: &report.Expectation{Step: "kill", Text: "back on hub-b within 5 s", Held: true, Seen: "1.2 s"}})
	r.add(report.Entry{Kind: report.FaultOff, Step: "kill", Where: "hub-a", Fault: "kill rst"})
	r.add(report.Entry{Kind: report.StepOff, Step: "kill"})
	r.add(report.Entry{Kind: report.Holds, Outbox: &report.Outbox{ID: testBox, LastSeq: 120}})
	r.add(report.Entry{Kind: report.Gauge, State: &report.State{Made: 120, Counted: true}})
	return r
}

// record writes a run's history, and returns it and the report.
func (r *run) record(t *testing.T) (string, report.Report) {
	t.Helper()
	dir := t.TempDir()
	rec, err := NewRecord(dir, nil, r.at)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.all {
		rec.Take(e)
	}
	rep, err := rec.Close(r.at, r.at.Add(3*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, report.HistoryFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(text), rep
}

// TestAStepsOwnBoundStandsBesideTheRTO gives the recovery of 1.2 s bounds of its own. The verdict
// goes by the RTO, and by the expectation that the step's bound is.
func TestAStepsOwnBoundStandsBesideTheRTO(t *testing.T) {
	for own, rto := range map[int64]int64{12_000: 5000, 1000: 5000, 2000: 0, 12_001: 1000} {
		kill := oneKill()
		kill.all[0].Begin.RTOMs = rto
		for i := range kill.all {
			if kill.all[i].Kind == report.FaultOn {
				kill.all[i].BudgetMs = own
			}
		}
		_, r := kill.record(t)
		if len(r.Recoveries) != 1 || r.Recoveries[0].BudgetMs != own || r.RTO.BudgetMs != rto {
			t.Errorf("own %d, RTO %d: %+v", own, rto, r.Recoveries)
		}
		if slow := rto > 0 && rto < 1200; slow != (r.Verdict == report.Failed) {
			t.Errorf("own %d, RTO %d: %s: %s", own, rto, r.Verdict, r.Reason)
		}
	}
}

// TestWhatHappensAtOnceIsNotTakenForNever loses the link in the same millisecond as the fault, or
// never.
func TestWhatHappensAtOnceIsNotTakenForNever(t *testing.T) {
	for want, events := range map[int64][]journal.Event{
		1: {{Kind: journal.Lost, Hub: "127.0.0.2", Error: "reset"}, {Kind: journal.Assigned, Hub: "127.0.0.3"}, {Kind: journal.Connected, Hub: "127.0.0.3"}, {Kind: journal.Acknowledged, Hub: "127.0.0.3"}},
		0: nil,
	} {
		r := newRun()
		r.event(time.Second, journal.Event{Kind: journal.Connected, Hub: "127.0.0.2"})
		r.add(report.Entry{Kind: report.FaultOn, Step: "kill", Where: "hub-a", Fault: "kill rst", Move: true})
		for _, e := range events {
			r.event(0, e)
		}
		_, rep := r.record(t)
		if len(rep.Recoveries) != 1 {
			t.Fatalf("%+v", rep.Recoveries)
		}
		x := rep.Recoveries[0]
		if got := [4]int64{x.DetectedMs, x.AssignedMs, x.ConnectedMs, x.FirstPubackMs}; got != [4]int64{want, want, want, want} {
			t.Errorf("%v, want %d", got, want)
		}
	}
}

// TestATallyMeasuresARecovery reads each time and count of a run off its report.
func TestATallyMeasuresARecovery(t *testing.T) {
	_, r := oneKill().record(t)
	if r.Verdict != report.Passed || r.Reason != "120 samples made, every one of them received, in order; back after the fault in 1.2 s" {
		t.Errorf("%s: %s", r.Verdict, r.Reason)
	}
	want := report.Recovery{Step: "kill", Fault: "kill rst", From: "hub-a", To: "hub-b", DetectedMs: 2, AssignedMs: 1002, ConnectedMs: 1152, FirstPubackMs: 1200,
		Duplicated: 1, AtMs: 6000, Rule: "H07"}
	if len(r.Recoveries) != 1 || r.Recoveries[0] != want {
		t.Errorf("%+v", r.Recoveries)
	}
	if s := (report.Samples{Made: 120, Received: 121, Duplicated: 1}); r.Samples != s {
		t.Errorf("%+v", r.Samples)
	}
	if len(r.Links) != 2 || r.Links[0] != (report.Span{Where: "hub-a", FromMs: 1000, UntilMs: 6002}) || r.Links[1].Where != "hub-b" || r.Links[1].UntilMs != 14300 {
		t.Errorf("links %+v", r.Links)
	}
	if len(r.Faults) != 1 || r.Faults[0].FromMs != 6000 || r.Faults[0].UntilMs != 14300 {
		t.Errorf("faults %+v", r.Faults)
	}
	if len(r.Decisions) != 1 || r.Decisions[0].Text != "hub-a: refused" || r.Decisions[0].Rule != "H07" {
		t.Errorf("decisions %+v", r.Decisions)
	}
	sum := uint64(0)
	for _, p := range r.Series.Points {
		sum += p.Arrived
	}
	if sum != 121 || r.Series.Points[30].Backlog != 10 {
		t.Errorf("series %+v", r.Series)
	}
	if len(r.Ledger) != 3 || r.Ledger[0].Received != 50 || r.Ledger[1].Received != 71 || r.Ledger[1].Duplicated != 1 || r.Ledger[2].Distinct != 120 {
		t.Errorf("ledger %+v", r.Ledger)
	}
}

// TestATallySaysWhatWentWrong breaks a run in each way, and asks for the right word and sentence.
func TestATallySaysWhatWentWrong(t *testing.T) {
	drop := func(kinds ...report.EntryKind) func(*run) {
		return func(r *run) {
			r.all = slices.DeleteFunc(r.all, func(e report.Entry) bool { return slices.Contains(kinds, e.Kind) })
		}
	}
	without := func(id string) func(*run) {
		return func(r *run) {
			r.all = slices.DeleteFunc(r.all, func(e report.Entry) bool { return e.ID == testBox+"-"+id })
		}
	}
	for name, c := range map[string]struct {
		change  func(*run)
		outcome report.Outcome
		reason  string
	}{
		"a sample is missing":     {without("77"), report.Failed, "1 of 120 samples never arrived at any hub: " + testBox + "-77"},
		"the last one is missing": {without("120"), report.Failed, "1 of 120 samples never arrived at any hub: " + testBox + "-120"},
		"nothing arrived":         {drop(report.Arrived), report.Failed, "120 of 120 samples never arrived"},
		"a command has no answer": {drop(report.Answered), report.Failed, "0 of 1 commands were answered"},
		"the budget is too small": {func(r *run) { r.all[0].Begin.RTOMs = 1100 }, report.Failed, `kill: after the fault "kill rst" telemetry flowed again in 1.2 s, and the budget is 1.1 s`},
		"an expectation is not held": {func(r *run) {
			r.add(report.Entry{Kind: report.Expected, Expectation: &report.Expectation{Step: "kill", Text: "lost = 0", Seen: "2 were"}})
		}, report.Failed, "kill: expected lost = 0, but 2 were"},
		"the proof failed": {func(r *run) { r.add(report.Entry{Kind: report.Spoiled, Text: "the ledger is gone"}) }, report.Unknown, "the ledger is gone"},
		"a finding of the runner": {func(r *run) {
			r.add(report.Entry{Kind: report.Objected, Finding: &report.Finding{Kind: "misconduct", Text: "the device ended"}})
		}, report.Failed, "the device ended"},
		"the device is not back": {func(r *run) {
			seen := 0
			r.all = slices.DeleteFunc(r.all, func(e report.Entry) bool {
				if e.Kind == report.Happened && e.Event.Kind == journal.Acknowledged {
					seen++
				}
				return e.Kind == report.Happened && e.Event.Kind == journal.Acknowledged && seen == 2
			})
		}, report.Failed, `kill: after the fault "kill rst" the device did not come back in the 8.3 s until the end of the run`},
		"samples wait in the end": {func(r *run) {
			r.all = slices.DeleteFunc(r.all, func(e report.Entry) bool { return e.Kind == report.Holds || e.ID == testBox+"-120" })
			r.add(report.Entry{Kind: report.Holds, Outbox: &report.Outbox{ID: testBox, LastSeq: 120, Queued: []string{testBox + "-120"}}})
		}, report.Failed, "1 of 120 samples still wait in the outbox"},
		"the outbox cannot be read": {func(r *run) {
			r.add(report.Entry{Kind: report.Holds, Outbox: &report.Outbox{ID: testBox, LastSeq: 120, Gaps: []string{"3-5"}}})
		}, report.Unknown, `what the outbox holds cannot be read: "3-5" is no range`},
		"one may be lost": {func(r *run) { without("77")(r); r.all[0].Begin.RPO = 1 }, report.Passed, "120 samples made, 1 lost of the 1 that may be"},
	} {
		t.Run(name, func(t *testing.T) {
			r := oneKill()
			c.change(r)
			text, rep := r.record(t)
			if rep.Verdict != c.outcome || !strings.HasPrefix(rep.Reason, c.reason) {
				t.Errorf("%s: %s", rep.Verdict, rep.Reason)
			}
			if (VerdictError(rep) == nil) != (c.outcome == report.Passed) {
				t.Errorf("the error is %v", VerdictError(rep))
			}
			again, err := Repeat(strings.NewReader(text))
			if err != nil || again.Verdict != rep.Verdict || again.Reason != rep.Reason || *again.History != *rep.History {
				t.Errorf("repeated: %s: %s, %v", again.Verdict, again.Reason, err)
			}
		})
	}
}

// TestADeviceWithoutAJournalIsJudgedByWhatArrives leaves all events out.
func TestADeviceWithoutAJournalIsJudgedByWhatArrives(t *testing.T) {
	r := oneKill()
	r.all = slices.DeleteFunc(r.all, func(e report.Entry) bool {
		return e.Kind == report.Happened || e.Kind == report.Gauge || e.Kind == report.Holds
	})
	_, rep := r.record(t)
	if rep.Verdict != report.Passed || len(rep.Recoveries) != 1 || rep.Recoveries[0].FirstPubackMs != 1300 || rep.Recoveries[0].To != "hub-b" {
		t.Errorf("%s: %s: %+v", rep.Verdict, rep.Reason, rep.Recoveries)
	}
	if len(rep.Links) != 2 || rep.Links[1].Where != "hub-b" {
		t.Errorf("%+v", rep.Links)
	}
}

// TestAChangedHistoryProvesNothing changes, takes away, doubles and moves each line, and cuts the
// file behind each byte of its last lines.
func TestAChangedHistoryProvesNothing(t *testing.T) {
	text, _ := oneKill().record(t)
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	refused := func(name, history string) {
		t.Helper()
		rep, err := Repeat(strings.NewReader(history))
		if err != nil || rep.Verdict != report.Unknown || !strings.Contains(rep.Reason, "line ") {
			t.Errorf("%s: %s: %s, %v", name, rep.Verdict, rep.Reason, err)
		}
	}
	for i := range lines {
		refused(fmt.Sprintf("without line %d", i+1), strings.Join(slices.Delete(slices.Clone(lines), i, i+1), ""))
		refused(fmt.Sprintf("line %d twice", i+1), strings.Join(slices.Insert(slices.Clone(lines), i, lines[i]), ""))
		if i > 0 {
			moved := slices.Clone(lines)
			moved[i-1], moved[i] = moved[i], moved[i-1]
			refused(fmt.Sprintf("line %d before the one before it", i+1), strings.Join(moved, ""))
		}
		edited := slices.Clone(lines)
		edited[i] = strings.Replace(edited[i], `"at":"2000`, `"at":"2001`, 1)
		refused(fmt.Sprintf("line %d of another year", i+1), strings.Join(edited, ""))
	}
	for cut := len(text) - 700; cut < len(text)-1; cut++ {
		refused(fmt.Sprintf("cut at %d", cut), text[:cut])
	}
	refused("with a line more", text+lines[3])
	if rep, err := Repeat(strings.NewReader(text)); err != nil || rep.Verdict != report.Passed {
		t.Errorf("unchanged: %s: %s, %v", rep.Verdict, rep.Reason, err)
	}
}

// TestNewSumsDoNotHideALostSample forges histories: it changes the entries and makes new sums. The
// end of the run then says something else than the lines.
func TestNewSumsDoNotHideALostSample(t *testing.T) {
	text, _ := oneKill().record(t)
	var all []report.Entry
	if _, err := report.ReadHistory(strings.NewReader(text), func(e report.Entry) { all = append(all, e) }); err != nil {
		t.Fatal(err)
	}
	arrival := slices.IndexFunc(all, func(e report.Entry) bool { return e.Kind == report.Arrived })
	for name, forge := range map[string]func([]report.Entry) []report.Entry{
		"a run of messages is gone":    func(a []report.Entry) []report.Entry { return slices.Delete(a, arrival, arrival+1) },
		"a run came twice":             func(a []report.Entry) []report.Entry { return slices.Insert(a, arrival, a[arrival]) },
		"a run is shorter":             func(a []report.Entry) []report.Entry { a[arrival].Last--; return a },
		"two runs have changed places": func(a []report.Entry) []report.Entry { a[arrival], a[arrival+1] = a[arrival+1], a[arrival]; return a },
		"an expectation was not held": func(a []report.Entry) []report.Entry {
			for _, e := range a {
				if e.Kind == report.Expected {
					e.Expectation.Held = false
				}
			}
			return a
		},
		"the end says that it failed": func(a []report.Entry) []report.Entry { a[len(a)-1].End.Verdict = report.Failed; return a },
		"more samples were made": func(a []report.Entry) []report.Entry {
			for _, e := range a {
				if e.Kind == report.Gauge && e.State.Counted {
					e.State.Made++
				}
			}
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			h := report.NewHistory(&b)
			var mine []report.Entry
			if _, err := report.ReadHistory(strings.NewReader(text), func(e report.Entry) { mine = append(mine, e) }); err != nil {
				t.Fatal(err)
			}
			for _, e := range forge(mine) {
				h.Take(e)
			}
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			rep, err := Repeat(&b)
			if err != nil || rep.Verdict == report.Passed || !strings.Contains(rep.Reason, "and its end says") {
				t.Errorf("%s: %s, %v", rep.Verdict, rep.Reason, err)
			}
		})
	}
}

// TestAHistoryIsProvedThoughItsSentenceIsWordedInAnotherWay writes the end as another version of
// the program words it.
func TestAHistoryIsProvedThoughItsSentenceIsWordedInAnotherWay(t *testing.T) {
	text, _ := oneKill().record(t)
	var b bytes.Buffer
	h := report.NewHistory(&b)
	if _, err := report.ReadHistory(strings.NewReader(text), func(e report.Entry) {
		if e.End != nil {
			e.End.Reason = "all is well"
		}
		h.Take(e)
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "all is well") {
		t.Fatal("the history has no end")
	}
	rep, err := Repeat(&b)
	if err != nil || rep.Verdict != report.Passed || !strings.Contains(rep.Reason, "every one of them received") {
		t.Errorf("%s: %s, %v", rep.Verdict, rep.Reason, err)
	}
}

// FuzzRepeat reads any text as a history.
func FuzzRepeat(f *testing.F) {
	f.Add("{}\n")
	f.Add(`{"n":1,"at":"2000-01-01T00:00:00Z","kind":"began","begin":{"format":1},"sum":"0000000000000000"}` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		rep, err := Repeat(strings.NewReader(text))
		if err == nil && rep.Verdict == report.Passed {
			t.Skip("it is a history")
		}
		again := NewTally() // the tally itself, whatever the sums say
		for line := range strings.Lines(text) {
			var e report.Entry
			if json.Unmarshal([]byte(line), &e) == nil && report.Orderly(e) == nil {
				again.Take(e)
			}
		}
		_ = again.Report()
	})
}

// TestAHistoryThatIsNotWrittenLeavesNothingBehind: what is half written proves nothing, and takes
// room.
func TestAHistoryThatIsNotWrittenLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, report.HistoryFile, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	rec, err := NewRecord(dir, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	rec.Take(report.Entry{At: time.Now(), Kind: report.Began, Begin: &report.Begin{Format: report.Format}})
	if _, err := rec.Close(time.Now(), time.Now()); err == nil || !strings.Contains(err.Error(), "the history is not written") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, unfinished)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there: %v", unfinished, err)
	}
}
