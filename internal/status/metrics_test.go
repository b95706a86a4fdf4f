package status

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// known is what a device of these tests knows before anything happens.
var known = Known{
	Version: "v1", GoVersion: "go1", Rules: []string{"H01", "H07"}, Drops: []string{"link reset"}, Registrations: []string{"DPS 429"},
	Problems: []string{"degraded"}, Methods: []string{"echo"},
}

// family is a family of series, as a scrape has it.
type family struct {
	kind   string
	labels []string
	series map[string]float64 // by label values; of a histogram the number of observations
}

// families scrapes metrics.
func families(t *testing.T, m *Metrics) map[string]family {
	t.Helper()
	all := map[string]family{}
	gathered, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range gathered {
		f := family{kind: strings.ToLower(g.GetType().String()), series: map[string]float64{}}
		for _, one := range g.GetMetric() {
			var values []string
			f.labels = nil
			for _, l := range one.GetLabel() {
				f.labels, values = append(f.labels, l.GetName()), append(values, l.GetValue())
			}
			f.series[strings.Join(values, " ")] = one.GetCounter().GetValue() + one.GetGauge().GetValue() + float64(one.GetHistogram().GetSampleCount())
		}
		all[g.GetName()] = f
	}
	return all
}

// full are metrics with everything that makes series, flows and assets included.
func full() *Metrics {
	m := NewMetrics(known)
	m.Show(func() (View, Figures) {
		return View{Flows: []Flow{{Name: "f", State: "running"}}, Assets: []Asset{{Name: "a", State: "ok"}}}, Figures{}
	})
	m.FlowStage("map", time.Millisecond)
	return m
}

func TestDocumentHasEverySeriesAndNoOther(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(hubhop_\\w+)` \\| (\\w+) \\|([^|]*)\\| ([^|]+) \\| (snapshot|record|timing) \\|$").FindAllStringSubmatch(string(text), -1) {
		labels := regexp.MustCompile(`\w+`).FindAllString(row[3], -1)
		slices.Sort(labels)
		if documented[row[1]] != "" {
			t.Errorf("docs/metrics.md has %s twice", row[1])
		}
		documented[row[1]] = fmt.Sprint(row[2], labels)
	}
	if rows := strings.Count(string(text), "\n| `hubhop_"); rows != len(documented) {
		t.Errorf("docs/metrics.md has %d rows, and %d of them can be read", rows, len(documented))
	}
	served := map[string]string{}
	for name, f := range families(t, full()) {
		if strings.HasPrefix(name, "hubhop_") {
			served[name] = fmt.Sprint(f.kind, f.labels)
		}
	}
	if len(served) < 35 {
		t.Errorf("%d families, fewer than 35", len(served))
	}
	for name, is := range served {
		if documented[name] != is {
			t.Errorf("%s is %s; docs/metrics.md says %q", name, is, documented[name])
		}
	}
	for name := range documented {
		if served[name] == "" {
			t.Errorf("docs/metrics.md has %s, which is not served", name)
		}
	}
}

// TestEachSeriesIsExplainedAlone: Prometheus shows the help of one series without that of the one
// before it.
func TestEachSeriesIsExplainedAlone(t *testing.T) {
	pointing := regexp.MustCompile(`(?i)^[^:;,]*\b(they|them|those|these|the same)\b`) // behind a comma it means what stands before
	all, err := full().registry.Gather()
	if err != nil || len(all) < 35 {
		t.Fatal(len(all), err)
	}
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "hubhop_") && (f.GetHelp() == "" || pointing.MatchString(f.GetHelp())) {
			t.Errorf("%s: %q", f.GetName(), f.GetHelp())
		}
	}
}

// TestOutageIsTheTimeWithoutALink, also while the device stops: then it may still have its link.
func TestOutageIsTheTimeWithoutALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		time.Sleep(time.Minute)
		for _, x := range []struct {
			state State
			hub   string
			want  float64
		}{
			{Connected, "hub-a", 0}, {Provisional, "hub-a", 0}, {Stopping, "hub-a", 0},
			{Connecting, "", 60}, {Waiting, "", 60}, {Refused, "", 60}, {Stopping, "", 60},
		} {
			m := NewMetrics(known)
			m.Show(func() (View, Figures) { return View{State: x.state, Hub: x.hub, Since: began}, Figures{} })
			if got := families(t, m)["hubhop_outage_seconds"].series[""]; got != x.want {
				t.Errorf("%s on %q: %g s, not %g", x.state, x.hub, got, x.want)
			}
		}
	})
}

// TestFirstScrapeHasEverySeriesOfKnownLabels compares the first scrape with one after everything
// that is known has happened: no series is new.
func TestFirstScrapeHasEverySeriesOfKnownLabels(t *testing.T) {
	m := NewMetrics(known)
	first := families(t, m)
	for _, kind := range journal.Kinds {
		m.Take(journal.Event{Kind: kind, Rule: "H07", Signal: "link reset", Name: "degraded", From: "hub-a", Outage: time.Second})
	}
	m.Take(journal.Event{Kind: journal.Decision, Rule: "H01", Signal: "DPS 429", Error: "429"})
	for _, status := range []int{0, 200, 400, 500, 503, 504} {
		m.Answered("echo", status, time.Second)
	}
	m.Dialled(time.Second, true)
	m.Dialled(time.Second, false)
	then := families(t, m)
	if len(first) < 35 {
		t.Errorf("the first scrape has %d families", len(first))
	}
	changed := 0
	for name, f := range then {
		if !strings.HasPrefix(name, "hubhop_") {
			continue
		}
		for labels, value := range f.series {
			before, there := first[name].series[labels]
			if !there {
				t.Errorf("%s{%s} was not in the first scrape", name, labels)
			}
			if value != before {
				changed++
			}
		}
	}
	if changed < 40 {
		t.Errorf("only %d series have changed", changed)
	}
}

func TestEachRecordCountsWhereItBelongs(t *testing.T) {
	for _, c := range []struct {
		event journal.Event
		want  map[string]float64 // series beside hubhop_events_total
	}{
		{journal.Event{Kind: journal.Connected}, map[string]float64{"hubhop_links_total": 1}},
		{journal.Event{Kind: journal.Connected, Outage: time.Second}, map[string]float64{"hubhop_links_total": 1, "hubhop_recovery_seconds": 1}},
		{journal.Event{Kind: journal.Connected, Outage: time.Second, From: "a", Rule: "H07"},
			map[string]float64{"hubhop_links_total": 1, "hubhop_recovery_seconds": 1, "hubhop_failovers_total H07": 1}},
		{journal.Event{Kind: journal.Connected, From: "a"}, map[string]float64{"hubhop_links_total": 1, "hubhop_failovers_total none": 1}},
		{journal.Event{Kind: journal.Renewed, Outage: time.Second}, map[string]float64{"hubhop_links_total": 1, "hubhop_token_renewals_total": 1}},
		{journal.Event{Kind: journal.Renewed, From: "a", Rule: "D01"},
			map[string]float64{"hubhop_links_total": 1, "hubhop_token_renewals_total": 1, "hubhop_failovers_total D01": 1}},
		{journal.Event{Kind: journal.Lost, Signal: "link reset"}, map[string]float64{"hubhop_link_drops_total link reset": 1}},
		{journal.Event{Kind: journal.Decision, Rule: "H07", Hub: "a", Signal: "connection refused", Error: "x"}, map[string]float64{"hubhop_decisions_total H07": 1}},
		{journal.Event{Kind: journal.Decision, Rule: "D08", Signal: "DPS 429", Error: "x"},
			map[string]float64{"hubhop_decisions_total D08": 1, "hubhop_dps_registrations_total DPS 429": 1}},
		{journal.Event{Kind: journal.Assigned}, map[string]float64{"hubhop_dps_registrations_total assigned": 1, "hubhop_dps_assign_seconds": 1}},
		{journal.Event{Kind: journal.AssignedAgain}, map[string]float64{"hubhop_dps_registrations_total assigned": 1, "hubhop_dps_assign_seconds": 1}},
		{journal.Event{Kind: journal.BacklogSent}, map[string]float64{"hubhop_backlog_sent_seconds": 1}},
		{journal.Event{Kind: journal.OutboxProblem, Name: "degraded"}, map[string]float64{"hubhop_outbox_problems_total degraded": 1}},
		{journal.Event{Kind: journal.Bug}, map[string]float64{"hubhop_bugs_total": 1}},
		{journal.Event{Kind: journal.Resumed}, map[string]float64{"hubhop_suspensions_total": 1}},
		{journal.Event{Kind: journal.Warning}, nil},
		{journal.Event{Kind: "of another version"}, nil},
	} {
		m := NewMetrics(known)
		before := families(t, m)
		m.Take(c.event)
		got := map[string]float64{}
		for name, f := range families(t, m) {
			for labels, value := range f.series {
				if by := value - before[name].series[labels]; by != 0 && name != "hubhop_events_total" && strings.HasPrefix(name, "hubhop_") {
					got[strings.TrimSpace(name+" "+labels)] = by
				}
			}
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%+v counts as %v, not %v", c.event, got, c.want)
		}
	}
}

func TestNamesFromOutsideAreBounded(t *testing.T) {
	m := NewMetrics(known)
	hub := ""
	m.Show(func() (View, Figures) { return View{Hub: hub}, Figures{} })
	for i := range 1000 {
		m.Answered(fmt.Sprintf("junk-%d", i), 404, 0)
		m.Answered("echo", 200+i, 0)
		hub = fmt.Sprintf("hub-%d", i)
		families(t, m)
	}
	m.Answered("\xff\xfe"+strings.Repeat("ü", 1000), 404, 0)
	m.Answered("echo", 200, 0)
	all := families(t, m)
	methods := all["hubhop_methods_total"].series
	if methods["other 404"] != 901 {
		t.Errorf("%v calls of other methods, not 901", methods["other 404"])
	}
	if methods["echo 200"] != 2 {
		t.Errorf("%v calls of the known method echo", methods["echo 200"])
	}
	if n := len(methods); n > 101+27 {
		t.Errorf("%d series of methods", n)
	}
	if got := slices.Collect(maps.Keys(all["hubhop_link_info"].series)); !slices.Equal(got, []string{"other "}) {
		t.Errorf("the link is %q", got)
	}
	if hostile := NewMetrics(known); hostile != nil {
		hostile.Answered("\xff\xfe"+strings.Repeat("ü", 1000), 404, 0)
		for labels := range families(t, hostile)["hubhop_methods_total"].series {
			if len(labels) > maxLabel+40 {
				t.Errorf("a label of %d bytes", len(labels))
			}
		}
	}
}

func TestFlowsBeyondTheBoundShareASeries(t *testing.T) {
	m := NewMetrics(known)
	if f := families(t, m)["hubhop_flow_in_total"]; f.series != nil {
		t.Errorf("without flows there is %v", f.series)
	}
	flows := []Flow{{Name: "twice", In: 1}, {Name: "twice", In: 2}}
	for i := range 150 {
		flows = append(flows, Flow{Name: fmt.Sprint("flow-", i), In: 10})
	}
	m.Show(func() (View, Figures) { return View{Flows: flows}, Figures{} })
	got := families(t, m)["hubhop_flow_in_total"].series
	if len(got) != maxNames+1 || got["twice"] != 3 || got["other"] != 510 {
		t.Errorf("%d series, twice %v, other %v", len(got), got["twice"], got["other"])
	}
}

// scraped is what a client of the handler gets.
func scraped(t testing.TB, h http.Handler, accept string) (text, kind string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String(), w.Header().Get("Content-Type")
}

func TestHandlerSpeaksBothFormats(t *testing.T) {
	m := full()
	text, kind := scraped(t, m.Handler(), "application/openmetrics-text;version=1.0.0")
	if !strings.HasPrefix(kind, "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%s\n%s", kind, text)
	}
	text, kind = scraped(t, m.Handler(), "text/plain")
	if !strings.HasPrefix(kind, "text/plain") || !strings.Contains(text, "\nhubhop_connected 0\n") {
		t.Errorf("%s\n%s", kind, text)
	}
}

// TestSlowReaderHoldsUpNobody has a scrape whose reader takes nothing, and counts meanwhile.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := full()
		stuck := &stuckWriter{begun: make(chan struct{}), release: make(chan struct{})}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			m.Handler().ServeHTTP(stuck, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		}()
		<-stuck.begun
		for i := range 200 {
			m.Take(journal.Event{Kind: journal.Decision, Rule: fmt.Sprint("new-", i)})
			m.Answered(fmt.Sprint("new-", i), 200, time.Second)
		}
		time.Sleep(sharedFor)
		if text, _ := scraped(t, m.Handler(), ""); !strings.Contains(text, `hubhop_decisions_total{rule="new-199"} 1`) {
			t.Error("another scrape lacks what happened meanwhile")
		}
		close(stuck.release)
		<-ended
	})
}

// TestScrapesOfOneMomentReadTheDeviceOnce has a thousand of them, and then one more.
func TestScrapesOfOneMomentReadTheDeviceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics(known)
		var reads atomic.Int64
		m.Show(func() (View, Figures) { return View{Outbox: Outbox{Queued: uint64(reads.Add(1))}}, Figures{} })
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if text, _ := scraped(t, m.Handler(), ""); !strings.Contains(text, "\nhubhop_backlog_messages 1\n") {
					t.Error("a scrape of the same moment differs")
				}
			})
		}
		all.Wait()
		time.Sleep(sharedFor)
		if text, _ := scraped(t, m.Handler(), ""); !strings.Contains(text, "\nhubhop_backlog_messages 2\n") {
			t.Error("a later scrape is old")
		}
	})
}

// TestFiguresOfTheProcessAreReadSeldom scrapes again and again: the costly figures are read once in
// their span, and all of them are in every answer.
func TestFiguresOfTheProcessAreReadSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		desc := prometheus.NewDesc("process_reads", "How often it was read.", nil, nil)
		source := prometheus.CollectorFunc(func(to chan<- prometheus.Metric) {
			reads++
			to <- prometheus.MustNewConstMetric(desc, gauge, float64(reads))
		})
		registry := prometheus.NewRegistry()
		registry.MustRegister(&remembered{Collector: source, span: processFor})
		reads = 0 // the registry has read it to know what there is
		for i := range 11 {
			families, err := registry.Gather()
			must(t, err)
			if want, got := float64(1+i/5), families[0].GetMetric()[0].GetGauge().GetValue(); got != want {
				t.Errorf("after %d s the figure is %v, not %v", i, got, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// stuckWriter is a response that nobody reads until it is released.
type stuckWriter struct {
	httptest.ResponseRecorder
	begun, release chan struct{}
	once           bool
}

func (w *stuckWriter) Header() http.Header { return http.Header{} }

func (w *stuckWriter) Write(b []byte) (int, error) {
	if !w.once {
		w.once = true
		close(w.begun)
	}
	<-w.release
	return len(b), nil
}

// BenchmarkScrape is a scrape for which everything is read; BenchmarkSharedScrape one that gets the
// answer to another.
func BenchmarkScrape(b *testing.B) {
	m := ofAllRules()
	b.ReportAllocs()
	for b.Loop() {
		m.answers.all[1] = nil
		scraped(b, m.Handler(), "application/openmetrics-text;version=1.0.0")
	}
}

func BenchmarkSharedScrape(b *testing.B) {
	m := ofAllRules()
	b.ReportAllocs()
	for b.Loop() {
		scraped(b, m.Handler(), "application/openmetrics-text;version=1.0.0")
	}
}

// ofAllRules are metrics with as many rules as the decision table has.
func ofAllRules() *Metrics {
	k := known
	for i := range 55 {
		k.Rules = append(k.Rules, fmt.Sprint("X", i))
	}
	return NewMetrics(k)
}

func BenchmarkObserve(b *testing.B) {
	m := NewMetrics(known)
	b.Run("append", func(b *testing.B) {
		for b.Loop() {
			m.Appended(30 * time.Microsecond)
		}
	})
	b.Run("puback", func(b *testing.B) {
		for b.Loop() {
			m.Acknowledged(30 * time.Millisecond)
		}
	})
	b.Run("method", func(b *testing.B) {
		for b.Loop() {
			m.Answered("echo", 200, time.Millisecond)
		}
	})
}
