//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// figure is what was measured: one value, or many of the same kind.
type figure []float64

// milliseconds makes a figure of durations.
func milliseconds(all []time.Duration) figure {
	f := make(figure, len(all))
	for i, d := range all {
		f[i] = d.Seconds() * 1000
	}
	return f
}

// quantile is the smallest value that a share q of all does not exceed.
func (f figure) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(f))
	for i, v := range sorted {
		if float64(i+1) >= q*float64(len(sorted)) {
			return v
		}
	}
	return 0
}

func (f figure) median() float64 { return f.quantile(0.5) }
func (f figure) p99() float64    { return f.quantile(0.99) }

// String is the value, or the median and the 99th percentile.
func (f figure) String() string {
	switch len(f) {
	case 0:
		return "–"
	case 1:
		return short(f[0])
	}
	return short(f.median()) + " / " + short(f.p99())
}

// short writes a value with as many digits as say something.
func short(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// ratio is a to b, where there is a b.
func ratio(a, b float64) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// goal is what one value of a figure must reach.
type goal struct {
	of    string // median or p99, or nothing where there is but one value
	least bool   // the value must be as large as the limit; otherwise it must not be larger
	limit float64
}

func p99AtMost(limit float64) goal    { return goal{of: "p99", limit: limit} }
func medianAtMost(limit float64) goal { return goal{of: "median", limit: limit} }
func atMost(limit float64) goal       { return goal{limit: limit} }
func atLeast(limit float64) goal      { return goal{least: true, limit: limit} }

func (g goal) met(f figure) bool {
	if len(f) == 0 {
		return false
	}
	v := f[0]
	switch g.of {
	case "median":
		v = f.median()
	case "p99":
		v = f.p99()
	}
	if g.least {
		return v >= g.limit
	}
	return v <= g.limit
}

func (g goal) String() string {
	sign := "≤ "
	if g.least {
		sign = "≥ "
	}
	return strings.TrimSpace(g.of + " " + sign + short(g.limit))
}

// number is a row of the numbers to reach.
type number struct {
	what        string
	n           int // how often it was measured, or happened
	floor, ours figure
	goal        goal
}

// numbers writes them as a table.
func (r *rows) numbers(all []number) {
	r.head("what", "n", "floor", "ours", "goal", "reached", "ours to floor")
	for _, x := range all {
		reached := "yes"
		if !x.goal.met(x.ours) {
			reached = "**no**"
		}
		r.add(x.what, fmt.Sprint(x.n), x.floor.String(), x.ours.String(), x.goal.String(), reached, ratio(x.ours.median(), x.floor.median()))
	}
}

// rows is a Markdown text of tables. What is added shows on the terminal, too.
type rows struct{ strings.Builder }

// head begins a table.
func (r *rows) head(cells ...string) {
	fmt.Fprintf(r, "\n| %s |\n|---|%s\n", strings.Join(cells, " | "), strings.Repeat("---:|", len(cells)-1))
}

func (r *rows) add(cells ...string) {
	fmt.Fprintf(r, "| %s |\n", strings.Join(cells, " | "))
	fmt.Fprintln(os.Stderr, strings.Join(cells, "  "))
}

// measured begins a text with where and when, and how to have it again.
func measured(how string) *rows {
	r := new(rows)
	fmt.Fprintf(r, "Measured %s on %s, %d of %d cores for everything together, %s, %s; the disk is %s; the load was %s before.\n\n    %s\n", time.Now().Format(time.DateOnly),
		cpuName(), runtime.GOMAXPROCS(0), runtime.NumCPU(), kernel(), runtime.Version(), fileSystem(os.TempDir()), load, how)
	return r
}

// load is the load average of the last minute before anything was measured: what else the machine
// did.
var load = func() string {
	text, _ := os.ReadFile("/proc/loadavg")
	minute, _, _ := strings.Cut(string(text), " ")
	return minute
}()

func cpuName() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), ":"))
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(text))
}

// fileSystem is what a directory is on.
func fileSystem(dir string) string {
	text, _ := os.ReadFile("/proc/self/mounts")
	best, kind := "", "unknown"
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(dir, f[1]) && len(f[1]) >= len(best) {
			best, kind = f[1], f[2]
		}
	}
	return kind
}

// insert replaces what stands between the two comments of a name in a file.
func insert(path, name, text string) error {
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	from, to := bytes.Index(old, []byte(begin)), bytes.Index(old, []byte(end))
	if from < 0 || to < from {
		return fmt.Errorf("%s lacks the comments %q and %q", path, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(path, slices.Concat(old[:from+len(begin)], []byte(text), old[to:]), 0o644)
}

func TestFigure(t *testing.T) {
	hundred := make(figure, 100)
	for i := range hundred {
		hundred[(i*37)%100] = float64(i + 1) // in no order
	}
	for _, v := range []struct {
		f           figure
		median, p99 float64
		text        string
	}{
		{figure{7}, 7, 7, "7"},
		{figure{3, 1, 2}, 2, 3, "2 / 3"},
		{hundred, 50, 99, "50 / 99"},
		{append(slices.Clone(hundred), 101), 51, 100, "51 / 100"},
		{figure{0.123, 12.345, 1234.5}, 12.345, 1234.5, "12.3 / 1234"},
		{nil, 0, 0, "–"},
	} {
		if m, p := v.f.median(), v.f.p99(); m != v.median || p != v.p99 || v.f.String() != v.text {
			t.Errorf("of %v: median %v, p99 %v, %q", v.f, m, p, v.f)
		}
	}
	if hundred[37] != 2 {
		t.Error("a figure was sorted in place")
	}
}

func TestGoal(t *testing.T) {
	slow := figure{1, 1, 1, 9} // median 1, p99 9
	for _, v := range []struct {
		g    goal
		f    figure
		met  bool
		text string
	}{
		{medianAtMost(1), slow, true, "median ≤ 1"},
		{medianAtMost(0.5), slow, false, "median ≤ 0.50"},
		{p99AtMost(9), slow, true, "p99 ≤ 9"},
		{p99AtMost(8.9), slow, false, "p99 ≤ 8.90"},
		{atLeast(5), figure{5}, true, "≥ 5"},
		{atLeast(5), figure{4.9}, false, "≥ 5"},
		{atMost(0), figure{0}, true, "≤ 0"},
		{atMost(0), figure{1}, false, "≤ 0"},
		{atMost(0), nil, false, "≤ 0"}, // what was not measured has reached nothing
	} {
		if v.g.met(v.f) != v.met || v.g.String() != v.text {
			t.Errorf("%q and %v: reached %v, want %q and %v", v.g, v.f, !v.met, v.text, v.met)
		}
	}
}

func TestNumbersTable(t *testing.T) {
	var r rows
	r.numbers([]number{
		{"fast", 3, figure{2, 2, 2}, figure{4, 5, 6}, p99AtMost(6)},
		{"slow", 1, nil, figure{1}, atMost(0)},
	})
	want := "\n| what | n | floor | ours | goal | reached | ours to floor |\n|---|---:|---:|---:|---:|---:|---:|\n" +
		"| fast | 3 | 2 / 2 | 5 / 6 | p99 ≤ 6 | yes | 2.50 |\n" +
		"| slow | 1 | – | 1 | ≤ 0 | **no** | – |\n"
	if r.String() != want {
		t.Errorf("%s", &r)
	}
}

func TestInsert(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(path, []byte("a\n<!-- x: begin -->\nold\n<!-- x: end -->\n<!-- y: begin -->\nkept\n<!-- y: end -->\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := insert(path, "x", "new\n"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\n<!-- y: begin -->\nkept\n<!-- y: end -->\n"; err != nil || string(got) != want {
		t.Errorf("%s %v", got, err)
	}
	if err := insert(path, "z", "new\n"); err == nil {
		t.Error("a file without the comments was changed")
	}
}
