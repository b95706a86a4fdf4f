package drill

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

func lineMessage(seq uint64, hub string, l Line) sim.Message {
	b, _ := json.Marshal(l)
	return sim.Message{Mid: fmt.Sprintf("%s-%d", box, seq), Hub: hub, Body: b}
}

// good is a run of three lives: what they were given, and what arrived. Lines 101 to 110 and 181 to
// 185 died in the pipes of killed devices.
func good() (arrived []sim.Message, lives []Life) {
	seq := uint64(0)
	for i, l := range []struct{ first, took, last uint64 }{{1, 100, 110}, {111, 180, 185}, {186, 300, 300}} {
		lives = append(lives, Life{l.first, l.last})
		for n := l.first; n <= l.took; n++ {
			seq++
			arrived = append(arrived, lineMessage(seq, []string{"hub-a", "hub-b"}[i%2], Line{i, n}))
		}
	}
	return arrived, lives
}

// bookOf is the verdict of a book on a run whose outbox has numbered 285 samples.
func bookOf(arrived []sim.Message, lives []Life) Verdict {
	b := Book{Window: 4}
	for _, a := range arrived {
		b.Add(a)
	}
	b.Numbered(box, 285)
	return b.Conclude(lives)
}

// TestBookPassesAGoodRun also if a window of messages came twice.
func TestBookPassesAGoodRun(t *testing.T) {
	arrived, lives := good()
	if v := bookOf(arrived, lives); v.Outcome != Passed {
		t.Error(v.Findings)
	}
	again := slices.Insert(slices.Clone(arrived), 200, arrived[196:200]...)
	if v := bookOf(again, lives); v.Outcome != Passed {
		t.Error(v.Findings)
	}
}

// TestBookFindsEveryFault loses, moves, changes and invents samples.
func TestBookFindsEveryFault(t *testing.T) {
	told := "5-7"
	for want, v := range map[string]struct {
		kind   Kind
		change func(a []sim.Message) []sim.Message
	}{
		"1 of 285 samples never arrived at any hub: " + box + "-51":                            {Lost, func(a []sim.Message) []sim.Message { return slices.Delete(a, 50, 51) }},
		"between seq 50, line 50 of life 0, and seq 52, line 52 of life 0, 1 seqs are missing": {Lost, func(a []sim.Message) []sim.Message { return slices.Delete(a, 50, 51) }},
		"3 of 285 samples never arrived at any hub: " + box + "-1..3":                          {Lost, func(a []sim.Message) []sim.Message { return a[3:] }},
		"5 of 285 samples never arrived at any hub: " + box + "-281..285":                      {Lost, func(a []sim.Message) []sim.Message { return a[:280] }},
		"285 of 285 samples never arrived at any hub: " + box + "-1..285":                      {Lost, func([]sim.Message) []sim.Message { return nil }},
		"-10 arrived behind":                       {Reordered, func(a []sim.Message) []sim.Message { a[9], a[10] = a[10], a[9]; return a }},
		"-1 arrived behind":                        {Reordered, func(a []sim.Message) []sim.Message { return append(a[1:], a[0]) }},
		"more than 4 messages were repeated":       {Repeated, func(a []sim.Message) []sim.Message { return slices.Insert(a, 200, slices.Clone(a[195:200])...) }},
		"names two samples":                        {Content, func(a []sim.Message) []sim.Message { return slices.Insert(a, 5, lineMessage(5, "hub-a", Line{0, 6})) }},
		"is of another outbox":                     {OtherOutbox, func(a []sim.Message) []sim.Message { a[7].Mid = "f" + a[7].Mid[1:]; return a }},
		"says that 5-7 were given up":              {GivenUp, func(a []sim.Message) []sim.Message { a[7].Properties = map[string]*string{"gap": &told}; return a }},
		"has an id that no outbox makes":           {Foreign, func(a []sim.Message) []sim.Message { a[7].Mid = ""; return a }},
		"body 7 is none of":                        {Content, func(a []sim.Message) []sim.Message { a[7].Body = json.RawMessage("7"); return a }},
		"seq 286 has arrived, and 285 is the last": {Reused, func(a []sim.Message) []sim.Message { return append(a, lineMessage(286, "hub-a", Line{2, 301})) }},
		"is none of the device's":                  {Content, func(a []sim.Message) []sim.Message { return append(a, lineMessage(1<<26+1, "hub-a", Line{2, 301})) }},
		"which was never written":                  {Content, func(a []sim.Message) []sim.Message { a[284] = lineMessage(285, "hub-a", Line{2, 301}); return a }},
		"not all lines between them became":        {Content, func(a []sim.Message) []sim.Message { return lineGone(a, 20) }},
		"lines 111 to 111 of life 1 never became":  {Content, func(a []sim.Message) []sim.Message { return lineGone(a, 100) }},
		"not the last line, 300 of life 2":         {Content, func(a []sim.Message) []sim.Message { return lineGone(a, 284) }},
		"but the one before it is line":            {Content, func(a []sim.Message) []sim.Message { a[30].Body = a[20].Body; return a }},
	} {
		arrived, lives := good()
		got := bookOf(v.change(arrived), lives)
		if got.Outcome != Failed || !slices.ContainsFunc(got.Findings, func(f Finding) bool { return f.Kind == v.kind && strings.Contains(f.Text, want) }) {
			t.Errorf("%s: nobody says %q, but %q", got.Outcome, want, got.Texts())
		}
	}
}

// TestBookOfAMixedRunAllowsAnyOrder, but not more repeats in all than the events explain.
func TestBookOfAMixedRunAllowsAnyOrder(t *testing.T) {
	arrived, lives := good()
	mixed := func(repeats int) Verdict {
		b := Book{Window: 4, Judge: Judge{Allow: Allowance{Reordered: true}}}
		b.Event(0)
		b.Event(10)
		all := append(slices.Clone(arrived[140:]), arrived[:140]...)
		for _, a := range append(all, all[:repeats]...) {
			b.Add(a)
		}
		b.Numbered(box, 285)
		return b.Conclude(lives)
	}
	if v := mixed(8); v.Outcome != Passed {
		t.Error(v.Findings)
	}
	if v := mixed(9); v.Outcome != Failed || v.Findings[0].Kind != Repeated {
		t.Error(v.Findings)
	}
}

// lineGone makes a run in which the sample at index i was lost before it had a seq, and the later
// ones have its and theirs less one.
func lineGone(a []sim.Message, i int) []sim.Message {
	for ; i+1 < len(a); i++ {
		a[i].Body = a[i+1].Body
	}
	return append(a[:i], lineMessage(uint64(i+1), "hub-a", Line{2, 299}))
}

// TestRepeatsPerEvent: an event may repeat a window, and events that overlap may repeat one each.
// When they are over, the count begins anew.
func TestRepeatsPerEvent(t *testing.T) {
	arrived, _ := good()
	b := Book{Window: 4}
	at := 0
	next := func(n int) {
		for range n {
			b.Add(arrived[at])
			at++
		}
	}
	repeat := func(n int) {
		for _, a := range arrived[at-n : at] {
			b.Add(a)
		}
	}
	next(10)
	b.Event(12)
	repeat(4)
	next(2) // lines that were written before it
	if b.Calm() {
		t.Error("over before a line has come that was written after it")
	}
	next(1)
	if !b.Calm() {
		t.Error("not over")
	}
	b.Event(20)
	repeat(4)
	b.Event(22)
	repeat(4)
	next(12)
	if !b.Calm() || b.Failed() || b.Worst != 4 || b.Repeats != 12 {
		t.Errorf("calm %v, found %v, worst %d, repeats %d", b.Calm(), b.Found().Findings, b.Worst, b.Repeats)
	}
	b.Event(b.Newest)
	repeat(5)
	next(2)
	if v := b.Found(); v.Outcome != Failed || len(v.Findings) != 1 || v.Findings[0].Kind != Repeated {
		t.Errorf("%+v", v)
	}
}

// TestBookCountsMovesAndLoss drops three samples of a run in which the device moved twice.
func TestBookCountsMovesAndLoss(t *testing.T) {
	arrived, lives := good()
	for last, lost := range map[uint64]uint64{285: 3, 290: 8} {
		b := Book{Window: 4}
		for i, a := range arrived {
			if i < 40 || i > 42 {
				b.Add(a)
			}
		}
		b.Numbered(box, last)
		if v := b.Conclude(lives); b.Moves != 2 || v.Lost != lost {
			t.Errorf("%d moves, %d of %d lost", b.Moves, v.Lost, last)
		}
	}
}

// rollOf is the verdict of a roll on lines 1 to 5.
func rollOf(arrived []sim.Message) Verdict {
	r := NewRoll()
	for _, m := range arrived {
		r.Add(m)
	}
	return r.Conclude(5)
}

func five() (arrived []sim.Message) {
	for n := uint64(1); n <= 5; n++ {
		arrived = append(arrived, lineMessage(n, "hub-a", Line{N: n}))
	}
	return arrived
}

// TestRollPassesAGoodRun also if a message came twice, or a line came from another outbox.
func TestRollPassesAGoodRun(t *testing.T) {
	elsewhere := five()
	elsewhere[4].Mid = "00000000000000aa-1"
	for _, arrived := range [][]sim.Message{append(five(), five()[2]), elsewhere} {
		if v := rollOf(arrived); v.Outcome != Passed {
			t.Error(v.Findings)
		}
	}
}

// TestRollFindsEveryFault loses, doubles, gives up and invents lines.
func TestRollFindsEveryFault(t *testing.T) {
	told := "2-3"
	for want, change := range map[string]func(a []sim.Message) []sim.Message{
		"1 of 5 lines never arrived; the first is line 2": func(a []sim.Message) []sim.Message { return slices.Delete(a, 1, 2) },
		"1 of 5 samples never arrived at any hub":         func(a []sim.Message) []sim.Message { return slices.Delete(a, 1, 2) },
		"line 3 came as " + box + "-3 and as " + box + "-6": func(a []sim.Message) []sim.Message {
			return append(a, lineMessage(6, "hub-b", Line{N: 3}))
		},
		"says that 2-3 were given up": func(a []sim.Message) []sim.Message {
			a[4].Properties = map[string]*string{"gap": &told}
			return a
		},
		"is none of the device's": func(a []sim.Message) []sim.Message {
			return append(a, sim.Message{Mid: box + "-6", Body: []byte(`"?"`)})
		},
		"has an id that no outbox": func(a []sim.Message) []sim.Message { a[0].Mid = "x"; return a },
	} {
		v := rollOf(change(five()))
		if v.Outcome != Failed || !slices.ContainsFunc(v.Texts(), func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("%s: want a finding with %q, got %q", v.Outcome, want, v.Texts())
		}
	}
}
