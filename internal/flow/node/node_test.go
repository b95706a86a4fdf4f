package node

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestLogicalTimeIsReadWithAndWithoutPadding(t *testing.T) {
	want := Time{Nanos: 1758255553000 * 1e6, Counter: 7, Node: "df"}
	for _, text := range []string{"1758255553000:7:df", "001758255553000:00007:df"} {
		got, err := ParseTime(text)
		if err != nil || got != want {
			t.Errorf("ParseTime(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	if got := want.String(); got != "001758255553000:00007:df" {
		t.Errorf("String() = %q", got)
	}
	if got, err := ParseTime("1:2:a:b"); err != nil || got.Node != "a:b" {
		t.Errorf("a node id with a colon: %v, %v", got, err)
	}
}

func TestFaultyLogicalTimeIsAnErrorThatShowsIt(t *testing.T) {
	for _, text := range []string{"", "1", "1:2", "x:0:n", "-1:0:n", "1:-1:n", "1:x:n", "99999999999999999999:0:n", strings.Repeat("9", 1<<16)} {
		if got, err := ParseTime(text); err == nil {
			t.Errorf("ParseTime(%.20q) = %v, want an error", text, got)
		} else if len(err.Error()) > 300 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}

func TestLogicalTimesAreOrderedByClockThenCounterThenNode(t *testing.T) {
	order := []Time{{}, {Nanos: 1}, {Nanos: 1, Counter: 1}, {Nanos: 1, Counter: 1, Node: "a"}, {Nanos: 1, Counter: 1, Node: "b"}, {Nanos: 2}}
	for i, a := range order {
		for j, b := range order {
			if a.Before(b) != (i < j) {
				t.Errorf("%v before %v: %v", a, b, a.Before(b))
			}
		}
	}
}

func TestTimesThatDoNotFitBecomeTheNearestThatDo(t *testing.T) {
	if got := TimeOf(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)); got.Nanos != math.MaxInt64 {
		t.Error(got)
	}
	if got := TimeOf(time.Time{}); got.Nanos != math.MinInt64 {
		t.Error(got)
	}
}

func FuzzParseTime(f *testing.F) {
	f.Add("1758255553000:0:df")
	f.Fuzz(func(t *testing.T, text string) {
		at, err := ParseTime(text)
		if err != nil {
			return
		}
		if again, err := ParseTime(at.String()); err != nil || again != at {
			t.Errorf("%q became %v, then %v, %v", text, at, again, err)
		}
	})
}
