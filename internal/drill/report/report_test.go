package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// text writes a report in one form.
func text(t *testing.T, write func(io.Writer, Report) error, r Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fill puts a text into each string of a report that comes from outside. The text differs from
// place to place only by what vary makes of it, never in its length.
func fill(v reflect.Value, with string) {
	switch v.Kind() {
	case reflect.String:
		if v.Type() == reflect.TypeFor[string]() {
			v.SetString(with)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem(), with)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Type().Field(i).Name != "Speed" && v.Type().Field(i).Name != "Proof" {
				fill(v.Field(i), with)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i), with)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{with: with}))
	default:
	}
}

// filled is a report whose every text is the same.
func filled(with string) Report {
	r := brokenSample()
	c := Compare(sample(), r)
	r.Comparison = &c
	fill(reflect.ValueOf(&r).Elem(), with)
	return r
}

// hostile are texts that a device, a hub or a scenario file may have.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</title></svg><script>x</script>`, `]]><x/>`, `{{.R.Reason}} | a | b`,
	`'onmouseover='alert(1)`, `</style><style>*{display:none}`, `&lt;b&gt;&#60;`, `javascript:alert(1)`, "a\nb\r\n# c\n\n| d |", `<!-- --><!--`, `[x](javascript:alert(1))`,
	"\x1b[2J\x00\x7f", "\xff\xfe\x80", "\u202eevil\u2066", "￾￿", strings.Repeat("<b>", 60),
}

var tag = regexp.MustCompile(`<[^>]*>`)

// TestTextsFromOutsideNeverBecomeMarkup fills each text of a report with what an attacker would
// choose. The page has the same tags as with harmless texts of the same length.
func TestTextsFromOutsideNeverBecomeMarkup(t *testing.T) {
	for _, evil := range hostile {
		kind := filled(strings.Repeat("x", utf8.RuneCountInString(plainText(evil, 1000))))
		bad := filled(evil)
		want, got := tag.FindAllString(text(t, HTML, kind), -1), tag.FindAllString(text(t, HTML, bad), -1)
		if !slices.Equal(got, want) {
			t.Errorf("%q: the page has %d tags instead of %d", evil, len(got), len(want))
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Errorf("tag %d is %s, not %s", i, got[i], want[i])
					break
				}
			}
		}
		pipes := func(s string) (n int) {
			for line := range strings.Lines(s) {
				if n++; strings.HasPrefix(line, "|") {
					n += 1000 * (strings.Count(line, "|") - strings.Count(line, `\|`))
				}
			}
			return n
		}
		if a, b := text(t, Markdown, bad), text(t, Markdown, kind); pipes(a) != pipes(b) || tag.MatchString(a) || regexp.MustCompile(`[^\\]\]\(`).MatchString(a) {
			t.Errorf("%q changes the shape of the Markdown text", evil)
		}
		if err := wellFormed(Picture(bad)); err != nil {
			t.Errorf("%q: the picture: %v", evil, err)
		}
		if err := wellFormed([]byte(text(t, JUnit, bad))); err != nil {
			t.Errorf("%q: junit.xml: %v", evil, err)
		}
	}
}

// wellFormed parses XML to its end.
func wellFormed(doc []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(doc)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestThePageNeedsNothingElse looks for whatever a browser would load or run.
func TestThePageNeedsNothingElse(t *testing.T) {
	for _, r := range []Report{sample(), brokenSample(), long(500)} {
		page := text(t, HTML, r)
		for _, never := range []string{"<script", "<link", "<img", "<iframe", "src=", "@import", "javascript:", " on"} {
			if never == " on" {
				if m := regexp.MustCompile(`<[^>]* on[a-z]+=`).FindString(page); m != "" {
					t.Errorf("the page has a handler: %s", m)
				}
			} else if strings.Contains(page, never) {
				t.Errorf("the page has %q", never)
			}
		}
		for _, url := range regexp.MustCompile(`url\([^)]*\)|https?://[^"< ]*`).FindAllString(page, -1) {
			if url != "http://www.w3.org/2000/svg" && url != "url(#hh-hatch)" {
				t.Errorf("the page names %s", url)
			}
		}
		if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline'`) || !strings.Contains(page, "@media print") ||
			!strings.Contains(page, "@page{size:A4") || !strings.Contains(page, "prefers-color-scheme:dark") {
			t.Error("the page lacks its policy, or the look for paper or the dark")
		}
	}
}

// TestThePageBeginsWithTheVerdict finds the verdict, the reason and the four figures before
// anything else, and each recovery and expectation behind them.
func TestThePageBeginsWithTheVerdict(t *testing.T) {
	for _, r := range []Report{sample(), brokenSample()} {
		_, body, _ := strings.Cut(text(t, HTML, r), "<body>")
		last := 0
		for _, part := range []string{strings.ToUpper(string(r.Verdict)) + "</strong>", escape(r.Reason, 1000), "Slowest recovery", "Samples lost", "Arrived again", "Expectations met",
			`<svg class="hh"`, "Recovery after each fault", "What the scenario expects", "<h2>Ledger", "<h2>The run", "drill verify history"} {
			at := strings.Index(body, part)
			if at < last {
				t.Errorf("%q stands at %d, and what belongs before it at %d", part, at, last)
			}
			last = at
		}
		for _, x := range r.Recoveries {
			row := regexp.MustCompile(`<th scope="row">` + regexp.QuoteMeta(x.Step) + `</th><td class="a">` + regexp.QuoteMeta(x.Fault) + `</td>.*`).FindString(body)
			if want := known(x.FirstPubackMs); row == "" || !x.Open && !strings.Contains(row, "<b>"+want+"</b>") || x.Open && !strings.Contains(row, "<b>never</b>") {
				t.Errorf("the recovery of %s: %s", x.Step, row)
			}
		}
		for _, x := range r.Expectations {
			if !strings.Contains(body, "<td>"+escape(x.Text, 300)+"</td><td>"+escape(x.Seen, 300)+"</td>") {
				t.Errorf("the expectation %q is missing", x.Text)
			}
		}
		if text := text(t, Markdown, r); !strings.HasPrefix(text, "# "+strings.ToUpper(string(r.Verdict))+": The giant lizard\n\n"+md(r.Reason)+"\n") {
			t.Errorf("the Markdown text begins with %.200s", text)
		}
	}
}

// TestAPageIsSmall gives a report as much as a drill can have, with long texts.
func TestAPageIsSmall(t *testing.T) {
	r := long(4000)
	if n := len(text(t, HTML, r)); n >= maxPage {
		t.Errorf("%d bytes", n)
	}
	fill(reflect.ValueOf(&r).Elem(), strings.Repeat(`"<&`, 2000))
	page := text(t, HTML, r)
	if len(page) >= maxPage || !strings.Contains(page, "more are in report.json.") {
		t.Errorf("with long texts %d bytes", len(page))
	}
	if n := len(Picture(r)); n >= maxPage {
		t.Errorf("the picture has %d bytes", n)
	}
	if !strings.Contains(text(t, HTML, long(1000)), "600 more are in report.json.") {
		t.Error("the page does not say what it leaves out")
	}
}

// TestThePictureIsTheSameEachTime draws twice, and reads the document.
func TestThePictureIsTheSameEachTime(t *testing.T) {
	for _, r := range []Report{sample(), brokenSample(), long(300), {}, {Series: &Series{StepMs: -5, Points: make([]Point, 9)}}} {
		a := Picture(r)
		if !bytes.Equal(a, Picture(r)) {
			t.Error("two pictures of one report differ")
		}
		if err := wellFormed(a); err != nil {
			t.Error(err)
		}
	}
	p := string(Picture(sample()))
	for _, want := range []string{">hub-a<", ">hub-b<", ">dps<", ">kill rst<", ">blackhole<", ">H07<", ">3.01 s<", ">3.41 s<", ">PASSED<", "prefers-color-scheme:dark"} {
		if !strings.Contains(p, want) {
			t.Errorf("the picture lacks %s", want)
		}
	}
}

// TestJUnitNamesAreStable compares the names of a run that passed with those of one that failed,
// and counts what the attributes say.
func TestJUnitNamesAreStable(t *testing.T) {
	type suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Suite    struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Class   string `xml:"classname,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
				Error *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	read := func(r Report) (s suites, names, failed []string, faulty int) {
		if err := xml.Unmarshal([]byte(text(t, JUnit, r)), &s); err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Suite.Cases {
			names = append(names, c.Name)
			if c.Failure != nil {
				failed = append(failed, c.Name+": "+c.Failure.Message)
			}
			if c.Error != nil {
				faulty++
			}
			if c.Class != "drill.giant-lizard" {
				t.Errorf("%q is of the class %q", c.Name, c.Class)
			}
		}
		if s.Tests != len(names) || s.Failures != len(failed) || s.Errors != faulty || s.Suite.Name != "drill.giant-lizard" {
			t.Errorf("%+v", s)
		}
		return s, names, failed, faulty
	}
	_, good, none, _ := read(sample())
	_, bad, failed, _ := read(brokenSample())
	if !slices.Equal(good, bad) || good[0] != "verdict" || len(good) != 9 {
		t.Errorf("%q and %q", good, bad)
	}
	want := []string{"verdict: 3 of 900 samples never arrived at any hub: 00000000000000ab-121..123", "no more samples lost than the budget allows: 3 samples were lost, and 0 may be",
		"kill hub-a: back after kill rst: 3 samples were lost", "silence: back after blackhole: telemetry flowed again after 12 s, and the budget is 10 s",
		"failover: back after failover: telemetry did not flow again until the end of the run", "kill hub-a: back on hub-b within 10 s: seen: never"}
	if len(none) > 0 || !slices.Equal(failed, want) {
		t.Errorf("%q and %q", none, failed)
	}
	own := sample()
	own.Recoveries[0].BudgetMs, own.Recoveries[1].BudgetMs, own.RTO.BudgetMs = 2000, 20_000, 3100
	want = []string{"kill hub-a: back after kill rst: telemetry flowed again after 3.01 s, and the budget is 2.0 s",
		"silence: back after blackhole: telemetry flowed again after 3.41 s, and the budget is 3.1 s"}
	if _, _, failed, _ := read(own); !slices.Equal(failed, want) {
		t.Errorf("with bounds of their own: %q", failed)
	}
	u := sample()
	u.Verdict = Unknown
	if _, _, failed, faulty := read(u); faulty != 1 || len(failed) != 0 {
		t.Errorf("unknown: %d errors, %q", faulty, failed)
	}
	twice := sample()
	twice.Expectations = append(twice.Expectations, twice.Expectations[0])
	if _, names, _, _ := read(twice); names[len(names)-1] != "kill hub-a: back on hub-b within 10 s (2)" {
		t.Errorf("%q", names)
	}
}

// schema compiles the published schema.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile("../../../docs/drill-report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReportsFitTheirSchema validates reports, and changes each value so that it does not fit.
func TestReportsFitTheirSchema(t *testing.T) {
	s := schema(t)
	c := Compare(sample(), brokenSample())
	whole := brokenSample()
	whole.Comparison = &c
	bare := Report{Verdict: Passed, Recoveries: []Recovery{}, Expectations: []Expectation{}}
	for _, r := range []Report{sample(), whole, long(50), bare} {
		if err := valid(s, text(t, JSON, r)); err != nil {
			t.Errorf("%v", err)
		}
	}
	good := text(t, JSON, whole)
	for _, change := range [][2]string{{`"verdict": "failed"`, `"verdict": "good"`}, {`"made": 900`, `"made": -1`}, {`"made": 900`, `"made": "900"`}, {`"reason":`, `"why":`},
		{`"budgetMs":`, `"budget":`}, {`"startedAt": "2000-01-01T00:00:00Z"`, `"startedAt": "yesterday"`}, {`"held": false`, `"held": "no"`}, {`"firstPubackMs":`, `"puback":`}} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good || valid(s, bad) == nil {
			t.Errorf("%s fits, or is not there", change[1])
		}
	}
}

func valid(s *jsonschema.Schema, doc string) error {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(doc))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// TestTheSchemaHasEachField compares the properties of the schema with the fields of the types, in
// both directions.
func TestTheSchemaHasEachField(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/drill-report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	var compare func(path string, typ reflect.Type, node map[string]any)
	compare = func(path string, typ reflect.Type, node map[string]any) {
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if some, ok := node["anyOf"].([]any); ok {
			node = some[1].(map[string]any)
		}
		switch {
		case typ.Kind() == reflect.Slice:
			items, _ := node["items"].(map[string]any)
			compare(path+"[]", typ.Elem(), items)
		case typ.Kind() == reflect.Struct && typ != reflect.TypeFor[time.Time]():
			props, _ := node["properties"].(map[string]any)
			var names, required []string
			for f := range typ.Fields() {
				name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
				if name == "" {
					continue
				}
				n++
				names = append(names, name)
				if !strings.Contains(options, "omit") {
					required = append(required, name)
				}
				sub, ok := props[name].(map[string]any)
				if !ok {
					t.Errorf("%s.%s is not in the schema", path, name)
					continue
				}
				compare(path+"."+name, f.Type, sub)
			}
			for name := range props {
				if !slices.Contains(names, name) {
					t.Errorf("the schema has %s.%s, and the type has not", path, name)
				}
			}
			var asks []string
			for _, r := range node["required"].([]any) {
				asks = append(asks, r.(string))
			}
			slices.Sort(asks)
			slices.Sort(required)
			if !slices.Equal(asks, required) {
				t.Errorf("%s: the schema requires %q, and %q are always there", path, asks, required)
			}
		}
	}
	compare("$", reflect.TypeFor[Report](), doc)
	if n < 80 {
		t.Errorf("%d fields were compared", n)
	}
}

// TestAComparisonSaysWhatIsBetter compares both ways.
func TestAComparisonSaysWhatIsBetter(t *testing.T) {
	there, back := Compare(sample(), brokenSample()), Compare(brokenSample(), sample())
	if there.Better != 0 || there.Worse != 7 || back.Better != 7 || back.Worse != 0 {
		t.Errorf("%d better and %d worse; back %d and %d", there.Better, there.Worse, back.Better, back.Worse)
	}
	for i, r := range there.Rows {
		if b := back.Rows[i]; r.What != b.What || r.Then != b.Now || r.Sign != -b.Sign {
			t.Errorf("%+v and %+v", r, b)
		}
	}
	other := sample()
	other.Client, other.Scenario, other.RTO.WorstMs = "azure-iot-device 1.18 (Node.js)", "rolling-restart", 3440
	c := Compare(other, sample())
	if c.Rows[0] != (Row{What: "scenario", Then: "rolling-restart", Now: "giant-lizard", Note: "differs"}) {
		t.Errorf("%+v", c.Rows[0])
	}
	if i := slices.IndexFunc(c.Rows, func(r Row) bool { return r.What == "slowest recovery" }); c.Rows[i].Sign != 0 {
		t.Errorf("30 ms of 3.4 s are a difference: %+v", c.Rows[i])
	}
	r := sample()
	r.Comparison = &c
	for name, write := range map[string]func(io.Writer, Report) error{"page": HTML, "text": Markdown} {
		if s := text(t, write, r); !strings.Contains(s, "azure-iot-device 1.18 (Node.js)") || !strings.Contains(s, "hubhop 0.11.0") {
			t.Errorf("the %s does not name both programs", name)
		}
	}
}

// TestReadTakesWhatJSONWrites reads a report back, and refuses what is none.
func TestReadTakesWhatJSONWrites(t *testing.T) {
	for _, r := range []Report{sample(), brokenSample()} {
		r.Series.told, r.Series.waiting = 0, 0
		back, err := Read(strings.NewReader(text(t, JSON, r)))
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%v", err)
		}
	}
	for _, bad := range []string{"", "{}", "[]", "null", `{"verdict":"good"}`, `{"verdict":7}`, "<html>", `{"verdict":"passed","seed":-1}`} {
		if _, err := Read(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "no report.json of a drill") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := Read(io.LimitReader(endless{}, maxReport+2)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file without end: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// FuzzRead shows whatever report a file has.
func FuzzRead(f *testing.F) {
	for _, r := range []Report{sample(), brokenSample(), {Verdict: Unknown}} {
		doc, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	f.Add([]byte(`{"verdict":"passed","series":{"stepMs":9223372036854775807,"points":[{"arrived":18446744073709551615}]},"endedAt":"9999-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"verdict":"passed","faults":[{"fromMs":-9223372036854775808,"untilMs":9223372036854775807}],"recoveries":[{"atMs":9223372036854775807,"firstPubackMs":1}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		r, err := Read(bytes.NewReader(doc))
		if err != nil {
			return
		}
		c := Compare(r, r)
		if c.Better+c.Worse != 0 {
			t.Errorf("a report is better or worse than itself: %+v", c)
		}
		r.Comparison = &c
		if n := len(text(t, HTML, r)); n >= maxPage {
			t.Errorf("the page has %d bytes", n)
		}
		_ = text(t, Markdown, r)
		if err := wellFormed(Picture(r)); err != nil {
			t.Error(err)
		}
		if err := wellFormed([]byte(text(t, JUnit, r))); err != nil {
			t.Error(err)
		}
	})
}

// TestWriteReplacesFilesWhole writes over an earlier report, and leaves it where the disk is full.
func TestWriteReplacesFilesWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "report")
	if err := Write(dir, brokenSample()); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, sample()); err != nil {
		t.Fatal(err)
	}
	names := func() (all []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	want := slices.Sorted(slices.Values(Files))
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no disk that is always full")
	}
	if err := os.Symlink("/dev/full", filepath.Join(dir, "report.html.part")); err != nil {
		t.Fatal(err)
	}
	err := Write(dir, brokenSample())
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "report.html is not written") {
		t.Errorf("%v", err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil || !bytes.Contains(page, []byte("PASSED")) {
		t.Errorf("the earlier page is gone: %v", err)
	}
	doc, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil || !bytes.Contains(doc, []byte(`"verdict": "failed"`)) {
		t.Errorf("the other files are not written: %v", err)
	}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("%q are left", got)
	}
	if err := Write("/dev/null/x", sample()); err == nil || !strings.Contains(err.Error(), "name another directory") {
		t.Errorf("%v", err)
	}
}

// TestASeriesCountsEverything adds over a long time, and compares the sums.
func TestASeriesCountsEverything(t *testing.T) {
	for _, lasts := range []time.Duration{time.Second, time.Minute, time.Hour, 72 * time.Hour, 10_000 * time.Hour} {
		var s Series
		want := uint64(0)
		for i := range 5000 {
			at := lasts / 5000 * time.Duration(i)
			s.Arrive(at, at+lasts/1000, uint64(i%7))
			s.Wait(at, uint64(i%11))
			want += uint64(i % 7)
		}
		got := uint64(0)
		for _, p := range s.Points {
			got += p.Arrived
			if p.Backlog > 10 {
				t.Fatalf("%v: a backlog of %d", lasts, p.Backlog)
			}
		}
		if got != want || len(s.Points) > maxPoints || len(s.Points) < 5 || int64(len(s.Points))*s.StepMs < lasts.Milliseconds() {
			t.Errorf("%v: %d of %d in %d points of %d ms", lasts, got, want, len(s.Points), s.StepMs)
		}
	}
	var s Series
	s.Wait(0, 40)
	s.Wait(time.Millisecond, 30)
	s.Arrive(time.Second, time.Second, 30)
	s.Wait(time.Second, 0)
	if n := len(s.Points); s.Points[n-1].Backlog != 0 || s.Points[n-2].Backlog != 30 || s.Points[0].Backlog != 40 {
		t.Errorf("%+v", s.Points)
	}
}

// TestAFoldNamesEachMessage folds arrivals with holes, repetitions, other hubs and other entries,
// and gets the same ids in the same order.
func TestAFoldNamesEachMessage(t *testing.T) {
	var in, out []string
	var entries []Entry
	f := Fold{Out: func(e Entry) {
		entries = append(entries, e)
		if e.Kind != Arrived {
			out = append(out, string(e.Kind))
			return
		}
		e.Messages(func(id string) { out = append(out, e.Hub+" "+id) })
	}}
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	arrive := func(hub, id, gap string) {
		in = append(in, hub+" "+id)
		f.Take(Entry{At: at, Kind: Arrived, Hub: hub, ID: id, Gap: gap})
	}
	for i := range 400_000 {
		at = at.Add(10 * time.Microsecond)
		switch {
		case i%1000 == 0:
			in = append(in, string(Asked))
			f.Take(Entry{At: at, Kind: Asked})
		case i%777 == 0:
			arrive("hub-b", fmt.Sprintf("00000000000000ab-%d", i/2), "")
		case i%5001 == 0:
			arrive("hub-a", fmt.Sprintf("00000000000000ab-%d", i), "3-5")
		case i%3001 == 0:
			arrive("hub-a", "not-an-id", "")
		default:
			arrive("hub-a", fmt.Sprintf("00000000000000ab-%d", i), "")
		}
	}
	f.Flush()
	if !slices.Equal(in, out) {
		t.Errorf("%d and %d", len(in), len(out))
	}
	if len(entries) > 3000 {
		t.Errorf("%d entries are left of %d", len(entries), len(in))
	}
}

// TestAFoldKeepsTheLastWord thins what a device shows of itself.
func TestAFoldKeepsTheLastWord(t *testing.T) {
	n, counted := 0, false
	f := Fold{Out: func(e Entry) { n, counted = n+1, e.State.Counted }}
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 259_200 { // 72 h
		at = at.Add(time.Second)
		f.Take(Entry{At: at, Kind: Gauge, State: &State{Made: uint64(10 * i), Backlog: uint64(i)}})
	}
	f.Take(Entry{At: at, Kind: Gauge, State: &State{Made: 1, Counted: true}})
	if n < 1000 || n > 10_000 || !counted {
		t.Errorf("%d are left, the last one counted: %v", n, counted)
	}
}

// TestNeitherOfTwoScenariosIsBetter compares a run with a worse one of another scenario.
func TestNeitherOfTwoScenariosIsBetter(t *testing.T) {
	other := brokenSample()
	other.Scenario = "rolling-restart"
	c := Compare(other, sample())
	if c.Better != 0 || c.Worse != 0 || len(c.Rows) < 6 {
		t.Errorf("%d better and %d worse in %d rows", c.Better, c.Worse, len(c.Rows))
	}
	for _, r := range c.Rows {
		if (r.Then != r.Now) != (r.Note == "differs") {
			t.Errorf("%+v", r)
		}
	}
}

// TestNothingIsClaimedOfARunOfWhichNothingIsKnown looks at the tiles of an unreadable history.
func TestNothingIsClaimedOfARunOfWhichNothingIsKnown(t *testing.T) {
	all := tiles(Report{Verdict: Unknown})
	if lost, met := all[1], all[3]; lost.Value != "–" || lost.Note != "nothing is known of any sample" || met.Note != "no command was sent" {
		t.Errorf("%+v, %+v", lost, met)
	}
}

// TestAHistoryOfLongNamesCanBeRead: JSON writes each character of the longest step name that a
// scenario can have with six.
func TestAHistoryOfLongNamesCanBeRead(t *testing.T) {
	var b bytes.Buffer
	h := NewHistory(&b)
	h.Take(Entry{Kind: Began, Begin: &Begin{Format: Format, Steps: []string{strings.Repeat("<", 1<<20)}}})
	h.Take(Entry{Kind: Ended, End: &End{}})
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err := ReadHistory(&b, func(Entry) {}); err != nil || p != h.Proof() {
		t.Errorf("%+v %v", p, err)
	}
}
