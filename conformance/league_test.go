package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestACellOfTheLeagueHidesNoBadRound: the median stands beside the extremes, a round in which the
// device did not come back is the worst, and the worst loss counts.
func TestACellOfTheLeagueHidesNoBadRound(t *testing.T) {
	s := time.Second
	for _, x := range []struct {
		rounds []outcome
		want   string
	}{
		{[]outcome{{back: 3 * s}, {back: 3 * s}, {back: 3 * s}}, "3.0 s | 0"},
		{[]outcome{{back: 5 * s, lost: 2}, {back: 1 * s, lost: 9}, {back: 3 * s}}, "3.0 s (1.0 s to 5.0 s) | 9"},
		{[]outcome{{back: -1, lost: 7}, {back: 1 * s}, {back: 2 * s}}, "2.0 s (1.0 s to more than 8 min) | 7"},
		{[]outcome{{back: -1}, {back: -1}, {back: 2 * s}}, "more than 8 min (2.0 s to more than 8 min) | 0"},
		{[]outcome{{back: -1}, {back: -1}, {back: -1, lost: 1}}, "more than 8 min | 1"},
	} {
		if got := cell(x.rounds); got != x.want {
			t.Errorf("%v: %q, not %q", x.rounds, got, x.want)
		}
	}
}

// TestInsertKeepsWhatIsAround: the text of a table is replaced, and a document without its marks is
// refused.
func TestInsertKeepsWhatIsAround(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	const begin, end = "a\n<!-- x: begin -->\n", "<!-- x: end -->\nb\n"
	if err := os.WriteFile(file, []byte(begin+"old\n"+end), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := insert(file, "x", "new\n"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(file); string(b) != begin+"new\n"+end {
		t.Errorf("%s", b)
	}
	if insert(file, "y", "new\n") == nil {
		t.Error("a document without the marks is accepted")
	}
}
