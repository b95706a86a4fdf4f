package play

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
)

// update says that the picture is to be written.
var update = flag.Bool("update", false, "write docs/failover.svg")

// TestThePictureInTheReadmeIsUpToDate plays the scenario of docs/failover.svg in virtual time, and
// compares the pictures. Each link, fault, decision and word must be there. The flag -update writes
// the picture.
func TestThePictureInTheReadmeIsUpToDate(t *testing.T) {
	text, err := os.ReadFile("testdata/failover.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := scenario.Parse("failover.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	rep := drilled(t, s, insideTarget(t))
	if rep.Verdict != report.Passed || len(rep.Recoveries) != 4 {
		t.Fatalf("%s: %s, %d recoveries", rep.Verdict, rep.Reason, len(rep.Recoveries))
	}
	drawn := string(report.Picture(rep))
	path := filepath.Join("..", "..", "..", "docs", "failover.svg")
	if *update {
		if err := os.WriteFile(path, []byte(drawn), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text := differs(string(stored), drawn); text != "" {
		t.Errorf("docs/failover.svg is out of date: %s\nmake picture writes it again", text)
	}
	for _, change := range [][2]string{{`class="link" x="`, `class="link" x="1`}, {">kill<", ">kiln<"}, {"PASSED", "FAILED"}, {`class="rate" d="M104 292`, `class="rate" d="M104 292V222H900`}, {">H03<", ">H13<"}, {"H03 after", "H03 before"}} {
		changed := strings.Replace(drawn, change[0], change[1], 1)
		if changed == drawn || differs(changed, drawn) == "" {
			t.Errorf("the comparison does not see %s become %s", change[0], change[1])
		}
	}
}

var (
	chart  = regexp.MustCompile(`<path class="(?:rate|stock)" d="([^"]*)"/>`)
	number = regexp.MustCompile(`\d+(?:\.\d+)?`)
)

// differs says how two pictures differ, apart from a few hundredths of a second and a sample: what
// happens at the same instant of virtual time happens in any order.
func differs(a, b string) string {
	lines := func(s string) []string { return strings.Split(chart.ReplaceAllString(s, "<chart>"), "\n") }
	x, y := lines(a), lines(b)
	for i := range min(len(x), len(y)) {
		if !alike(x[i], y[i]) {
			return x[i] + "\nis now\n" + y[i]
		}
	}
	charts, others := chart.FindAllStringSubmatch(a, -1), chart.FindAllStringSubmatch(b, -1)
	if len(x) != len(y) || len(charts) != len(others) || len(charts) != 2 {
		return "it has other parts"
	}
	for i := range charts {
		was, is := parts(charts[i][1]), parts(others[i][1])
		if at := apart(was, is) + apart(is, was); at != "" {
			return "chart " + strconv.Itoa(i+1) + " differs at " + at
		}
	}
	return ""
}

// apart returns where a chart has a height that the other one has nowhere near, or "". What is told
// once a second may be told a second later.
func apart(chart, other []part) string {
	const seconds, samples = 22, 18 // pixels: two seconds, and what a device makes in one
	for at := 140.0; at < 915; at += 4 {
		least, most := math.Inf(1), math.Inf(-1)
		for near := at - seconds; near <= at+seconds; near++ {
			h := height(other, near)
			least, most = min(least, h), max(most, h)
		}
		if h := height(chart, at); h < least-samples || h > most+samples {
			return num(at)
		}
	}
	return ""
}

// alike says whether two lines have the same words, and about the same numbers.
func alike(a, b string) bool {
	x, y := number.FindAllString(a, -1), number.FindAllString(b, -1)
	if number.ReplaceAllString(a, "0") != number.ReplaceAllString(b, "0") {
		return false
	}
	for i := range x {
		was, _ := strconv.ParseFloat(x[i], 64)
		is, _ := strconv.ParseFloat(y[i], 64)
		if math.Abs(was-is) > max(0.1, min(0.03*was, 3)) {
			return false
		}
	}
	return true
}

func num(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

var pathPart = regexp.MustCompile(`([MVHZ])([\d.]*)(?: ([\d.]*))?`)

// part is one part of a path: its verb and its numbers.
type part struct {
	verb string
	a, b float64
}

// parts reads a path of horizontal and vertical lines.
func parts(path string) (all []part) {
	for _, c := range pathPart.FindAllStringSubmatch(path, -1) {
		a, _ := strconv.ParseFloat(c[2], 64)
		b, _ := strconv.ParseFloat(c[3], 64)
		all = append(all, part{c[1], a, b})
	}
	return all
}

// height returns where a path is at x.
func height(path []part, x float64) (y float64) {
	for _, p := range path {
		switch p.verb {
		case "M":
			y = p.b
		case "V":
			y = p.a
		case "H":
			if p.a >= x {
				return y
			}
		default:
		}
	}
	return y
}
