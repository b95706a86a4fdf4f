package drill

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// box is the outbox id of these tests.
const box = "0123456789abcdef"

// inOrder is what arrives of a good run with n samples.
func inOrder(n int) (all []Arrival) {
	for seq := range n {
		all = append(all, Arrival{ID: fmt.Sprintf("%s-%d", box, seq+1)})
	}
	return all
}

// TestEveryObjectionFailsTheVerdict changes a good run of 20 samples in each way that a device can
// break its promise, and holds the judge to the finding. Where it can be allowed, it passes with
// that.
func TestEveryObjectionFailsTheVerdict(t *testing.T) {
	for name, v := range map[string]struct {
		change func(a []Arrival) []Arrival
		made   uint64
		want   Kind
		says   string
		allow  Allowance // zero: nothing allows it
	}{
		"a sample is lost": {func(a []Arrival) []Arrival { return slices.Delete(a, 4, 6) }, 20, Lost,
			"2 of 20 samples never arrived at any hub: " + box + "-5..6", Allowance{}},
		"all samples are lost": {func([]Arrival) []Arrival { return nil }, 20, Lost,
			"20 of 20 samples never arrived at any hub: " + box + "-1..20", Allowance{}},
		"the newest sample is lost": {func(a []Arrival) []Arrival { return a[:19] }, 20, Lost, "1 of 20 samples never", Allowance{}},
		"a sample never got a seq":  {func(a []Arrival) []Arrival { return a }, 21, Lost, "1 of 21 samples never arrived", Allowance{}},
		"nothing was made":          {func([]Arrival) []Arrival { return nil }, 0, NoSamples, "no sample was made", Allowance{}},
		"two samples change places": {func(a []Arrival) []Arrival { a[3], a[4] = a[4], a[3]; return a }, 20, Reordered,
			box + "-4 arrived behind samples that are newer", Allowance{Reordered: true}},
		"a gap is announced": {func(a []Arrival) []Arrival { a = slices.Delete(a, 4, 6); a[4].Gap = "5-6"; return a }, 20, GivenUp,
			box + "-7 says that 5-6 were given up", Allowance{GivenUp: true}},
		"an id is no outbox's": {func(a []Arrival) []Arrival { return append(a, Arrival{ID: "4711"}) }, 20, Foreign,
			`the message "4711" has an id that no outbox makes`, Allowance{Foreign: true}},
		"a message has no id": {func(a []Arrival) []Arrival { return append(a, Arrival{}) }, 20, Foreign, `the message ""`, Allowance{Foreign: true}},
		"another outbox": {func(a []Arrival) []Arrival { return append(a, Arrival{ID: "00000000000000aa-1"}) }, 20, OtherOutbox,
			"00000000000000aa-1 is of another outbox than " + box, Allowance{Outboxes: true}},
		"an id will be used again": {func(a []Arrival) []Arrival { return append(a, inOrder(23)[22]) }, 20, Reused,
			"seq 23 has arrived, and 20 is the last that it knows of", Allowance{}},
	} {
		t.Run(name, func(t *testing.T) {
			judged := func(allow Allowance) Verdict {
				j := Judge{Allow: allow}
				j.Numbered(box, min(v.made, 20))
				j.Made(v.made)
				for _, a := range v.change(inOrder(20)) {
					j.Arrived(a)
				}
				return j.Verdict(false)
			}
			got := judged(Allowance{})
			if got.Outcome != Failed || !errors.Is(got.Err(), ErrVerdict) || got.Findings[0].Kind != v.want || !strings.Contains(got.Reason, v.says) {
				t.Errorf("%s: %s; %+v", got.Outcome, got.Reason, got.Findings)
			}
			if v.allow != (Allowance{}) {
				if got := judged(v.allow); got.Outcome != Passed || got.Err() != nil {
					t.Errorf("allowed, and yet %s: %+v", got.Outcome, got.Findings)
				}
			}
		})
	}
}

// TestGoodRunPasses lets every message arrive twice: at-least-once delivery is kept.
func TestGoodRunPasses(t *testing.T) {
	var j Judge
	j.Numbered(box, 20)
	j.Made(20)
	for _, a := range append(inOrder(20), inOrder(20)...) {
		j.Arrived(a)
	}
	if v := j.Verdict(false); v.Outcome != Passed || v.Err() != nil || v.Distinct != 20 || v.Repeats != 20 || v.Messages != 40 ||
		v.Reason != "20 samples made, every one of them received, in order" {
		t.Errorf("%+v", v)
	}
}

// TestFindingsAreBounded counts what it does not name.
func TestFindingsAreBounded(t *testing.T) {
	var j Judge
	for range 3 * maxFindings {
		j.Arrived(Arrival{ID: "?"})
	}
	j.Numbered(box, 0)
	if v := j.Verdict(false); len(v.Findings) != maxFindings || v.More != 2*maxFindings || v.Foreign != 3*maxFindings {
		t.Errorf("%d findings and %d more, %d foreign", len(v.Findings), v.More, v.Foreign)
	}
}

// boxed makes an outbox with n samples, of which the first so many have left it, and lets look see
// it while it is open.
func boxed(t *testing.T, n, left int, look func(dir, id string)) (dir, id string) {
	t.Helper()
	dir = t.TempDir()
	b, err := outbox.Open(dir, outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := b.Append(t.Context(), message.Message{Body: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	for pos := range left {
		if err := b.Ack(uint64(pos + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if look != nil {
		look(dir, b.ID())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, b.ID()
}

// ledgerOf is a ledger with a text.
func ledgerOf(text string) func() (*Ledger, error) {
	return func() (*Ledger, error) { return &Ledger{"test", io.NopCloser(strings.NewReader(text))}, nil }
}

// lines is a ledger of a device's messages with the given seqs.
func lines(device, id string, seqs ...int) func() (*Ledger, error) {
	var text strings.Builder
	for _, n := range seqs {
		fmt.Fprintf(&text, "{\"deviceId\":%q,\"messageId\":\"%s-%d\"}\n", device, id, n)
	}
	return ledgerOf(text.String())
}

// TestVerifyFailsForLossAndReuse judges an outbox of eight samples, of which five have left it.
func TestVerifyFailsForLossAndReuse(t *testing.T) {
	dir, id := boxed(t, 8, 5, nil)
	for name, v := range map[string]struct {
		open    func() (*Ledger, error)
		partial bool
		kind    Kind // "" is passed
		lost    uint64
	}{
		"all have arrived":         {lines("d1", id, 1, 2, 3, 4, 5), false, "", 0},
		"one again, one behind":    {lines("d1", id, 1, 2, 4, 3, 5, 5), false, "", 0},
		"one is lost":              {lines("d1", id, 1, 2, 4, 5), false, Lost, 1},
		"the last one is lost":     {lines("d1", id, 1, 2, 3, 4), false, Lost, 1},
		"nothing has arrived":      {ledgerOf(`{"messages":[]}`), false, Lost, 5},
		"the beginning is lost":    {lines("d1", id, 3, 4, 5), false, Lost, 2},
		"the beginning is unknown": {lines("d1", id, 3, 4, 5), true, "", 0},
		"and says so":              {ledgerOf(`{"truncated":true,"messages":[{"mid":"` + id + `-4"},{"mid":"` + id + `-5"}]}`), false, "", 0},
		"a newer one has arrived":  {lines("d1", id, 1, 2, 3, 4, 5, 12), false, Reused, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Verify(dir, "d1", v.open, false, v.partial)
			if err != nil {
				t.Fatal(err)
			}
			if passed := got.Outcome == Passed; passed != (v.kind == "") || passed != (got.Err() == nil) || got.Lost != v.lost ||
				!passed && got.Findings[0].Kind != v.kind {
				t.Errorf("%s, %d lost: %+v", got.Outcome, got.Lost, got.Findings)
			}
		})
	}
}

// TestVerifyOfARunningDeviceNeedsAFreshLedger: in a ledger that is older than the look into the
// outbox, the newest samples are in flight. In a fresh one they are lost.
func TestVerifyOfARunningDeviceNeedsAFreshLedger(t *testing.T) {
	boxed(t, 8, 5, func(dir, id string) {
		for stale, want := range map[bool]Outcome{true: Passed, false: Failed} {
			if v, err := Verify(dir, "d1", lines("d1", id, 1, 2, 3), stale, false); err != nil || v.Outcome != want {
				t.Errorf("stale %v: %s, %v", stale, v.Outcome, err)
			}
		}
		holed := lines("d1", id, 1, 3, 4)
		if v, err := Verify(dir, "d1", holed, true, false); err != nil || v.Outcome != Failed || v.Lost != 1 {
			t.Errorf("a hole below what has arrived: %s, %d lost, %v", v.Outcome, v.Lost, err)
		}
	})
}

// TestWaitingSamplesFailADeviceThatHasEnded: what should have been sent and was not is an objection
// of its own.
func TestWaitingSamplesFailADeviceThatHasEnded(t *testing.T) {
	dir, id := boxed(t, 8, 5, nil)
	for _, allowed := range []bool{false, true} {
		j := Judge{Allow: Allowance{Waiting: allowed}}
		if err := j.Holds(dir); err != nil {
			t.Fatal(err)
		}
		for seq := range 5 {
			j.Arrived(Arrival{ID: fmt.Sprintf("%s-%d", id, seq+1)})
		}
		v := j.Verdict(false)
		if allowed != (v.Outcome == Passed) || !allowed && (v.Findings[0].Kind != Waiting || v.Reason != "3 of 8 samples still wait in the outbox") {
			t.Errorf("allowed %v: %s: %+v", allowed, v.Outcome, v.Findings)
		}
	}
}

// TestVerifyOfNothingIsNoVerdict: what cannot be judged is an error, and never passes.
func TestVerifyOfNothingIsNoVerdict(t *testing.T) {
	dir, id := boxed(t, 8, 5, nil)
	gone := errors.New("it is gone")
	for name, v := range map[string]struct {
		dir  string
		open func() (*Ledger, error)
		is   error
		says string
	}{
		"no outbox":                {t.TempDir() + "/none", lines("d1", id, 1), fs.ErrNotExist, ""},
		"the ledger does not open": {dir, func() (*Ledger, error) { return nil, gone }, gone, ""},
		"no JSON":                  {dir, ledgerOf("mid: 1"), ErrLedger, "test: behind message 0"},
		"cut off":                  {dir, ledgerOf(`{"messages":[{"mid":"` + id + `-1"},{"m`), ErrLedger, "behind message 1"},
		"another device's":         {dir, lines("d2", id, 1, 2, 3, 4, 5), ErrLedger, "none of the 5 messages in test is of the device d1"},
		"no ids":                   {dir, ledgerOf(`{"deviceId":"d1","messageId":"4711"}`), ErrLedger, "none of the 1 messages in test has an id"},
		"it breaks off": {dir, func() (*Ledger, error) {
			return &Ledger{"test", io.NopCloser(io.MultiReader(strings.NewReader(`{"mid":"a"}`), iotest.ErrReader(gone)))}, nil
		}, gone, "behind message 1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Verify(v.dir, "d1", v.open, false, false)
			wants := errors.Is(v.is, ErrLedger)
			if !errors.Is(err, v.is) || !strings.Contains(err.Error(), v.says) || errors.Is(err, ErrLedger) != wants {
				t.Errorf("%s, %v", got.Outcome, err)
			}
		})
	}
}
