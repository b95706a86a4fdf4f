package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const box = "0123456789abcdef"

func message(seq uint64, hub string, l line) arrival {
	b, _ := json.Marshal(l)
	return arrival{Mid: fmt.Sprintf("%s-%d", box, seq), Hub: hub, Body: b}
}

// good is a run of three lives: what they were given, and what arrived. Lines 101 to 110 and 181 to 185 died in the pipes of killed devices.
func good() (arrived []arrival, lives []life) {
	seq := uint64(0)
	for i, l := range []struct{ first, took, last uint64 }{{1, 100, 110}, {111, 180, 185}, {186, 300, 300}} {
		lives = append(lives, life{l.first, l.last})
		for n := l.first; n <= l.took; n++ {
			seq++
			arrived = append(arrived, message(seq, []string{"hub-a", "hub-b"}[i%2], line{i, n}))
		}
	}
	return arrived, lives
}

// verdict is what a book says of a run whose outbox has numbered 285 samples.
func verdict(arrived []arrival, lives []life) []string {
	b := book{window: 4}
	for _, a := range arrived {
		b.add(a)
	}
	b.conclude(285, lives)
	return b.faults
}

func TestGoodRun(t *testing.T) {
	arrived, lives := good()
	if faults := verdict(arrived, lives); len(faults) > 0 {
		t.Error(faults)
	}
	again := slices.Insert(slices.Clone(arrived), 200, arrived[196:200]...) // a window was repeated
	if faults := verdict(again, lives); len(faults) > 0 {
		t.Error(faults)
	}
}

// Every way in which a sample can be lost, moved, changed or invented is found.
func TestBookFindsFaults(t *testing.T) {
	told := "5-7"
	for want, change := range map[string]func(a []arrival) []arrival{
		"seqs 51 to 51 never arrived":              func(a []arrival) []arrival { return slices.Delete(a, 50, 51) },
		"seqs 1 to 3 never arrived":                func(a []arrival) []arrival { return a[3:] },
		"seqs 281 to 285 never arrived":            func(a []arrival) []arrival { return a[:280] },
		"seqs 1 to 285 never arrived":              func([]arrival) []arrival { return nil },
		"-10 arrived behind 11":                    func(a []arrival) []arrival { a[9], a[10] = a[10], a[9]; return a },
		"-1 arrived behind 285":                    func(a []arrival) []arrival { return append(a[1:], a[0]) },
		"more than 4 messages were repeated":       func(a []arrival) []arrival { return slices.Insert(a, 200, slices.Clone(a[195:200])...) },
		"names two samples":                        func(a []arrival) []arrival { return slices.Insert(a, 5, message(5, "hub-a", line{0, 6})) },
		"is of another outbox":                     func(a []arrival) []arrival { a[7].Mid = "f" + a[7].Mid[1:]; return a },
		`says that 5-7 were dropped`:               func(a []arrival) []arrival { a[7].Properties = map[string]*string{"gap": &told}; return a },
		"is none of the device's":                  func(a []arrival) []arrival { a[7].Mid = ""; return a },
		"body 7 is none of":                        func(a []arrival) []arrival { a[7].Body = json.RawMessage("7"); return a },
		"seq 286 has arrived, but the outbox says": func(a []arrival) []arrival { return append(a, message(286, "hub-a", line{2, 301})) },
		"which was never written":                  func(a []arrival) []arrival { a[284] = message(285, "hub-a", line{2, 301}); return a },
		"not all lines between them became":        func(a []arrival) []arrival { return lineGone(a, 20) },
		"lines 111 to 111 of life 1 never became":  func(a []arrival) []arrival { return lineGone(a, 100) },
		"not the last line, 300 of life 2":         func(a []arrival) []arrival { return lineGone(a, 284) },
		"but the one before it is line":            func(a []arrival) []arrival { a[30].Body = a[20].Body; return a },
	} {
		arrived, lives := good()
		faults := verdict(change(arrived), lives)
		if !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("nobody says %q, but %q", want, faults)
		}
	}
}

// lineGone makes a run in which the sample at index i was lost before it had a seq, and the later ones have its and theirs less one.
func lineGone(a []arrival, i int) []arrival {
	for ; i+1 < len(a); i++ {
		a[i].Body = a[i+1].Body
	}
	return append(a[:i], message(uint64(i+1), "hub-a", line{2, 299}))
}

// An event may repeat a window; events that overlap may repeat one each; what comes after they are over counts anew.
func TestRepeatsPerEvent(t *testing.T) {
	arrived, _ := good()
	b := book{window: 4}
	at := 0
	next := func(n int) {
		for range n {
			b.add(arrived[at])
			at++
		}
	}
	repeat := func(n int) {
		for _, a := range arrived[at-n : at] {
			b.add(a)
		}
	}
	next(10)
	b.event(12)
	repeat(4)
	next(2) // lines that were written before it
	if b.calm() {
		t.Error("over before a line has come that was written after it")
	}
	next(1)
	if !b.calm() {
		t.Error("not over")
	}
	b.event(20)
	repeat(4)
	b.event(22)
	repeat(4)
	next(12)
	if !b.calm() || len(b.faults) > 0 || b.worst != 4 || b.repeats != 12 {
		t.Errorf("calm %v, faults %v, worst %d, repeats %d", b.calm(), b.faults, b.worst, b.repeats)
	}
	b.event(b.newest)
	repeat(5)
	next(2)
	if len(b.faults) != 1 {
		t.Errorf("faults %v", b.faults)
	}
}

func TestMovesAndLoss(t *testing.T) {
	arrived, _ := good()
	b := book{window: 4}
	for i, a := range arrived {
		if i < 40 || i > 42 {
			b.add(a)
		}
	}
	if b.moves != 2 || b.lost(285) != 3 || b.lost(290) != 8 {
		t.Errorf("%d moves, %d and %d lost", b.moves, b.lost(285), b.lost(290))
	}
}
