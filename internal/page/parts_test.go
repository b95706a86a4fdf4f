package page_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/page"
)

// openParts opens a page whose modules a test imports. /silent is a stream of events that says
// nothing after its beginning, and /mute takes a request and never answers.
func openParts(t *testing.T) *tab {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/page/", page.Device())
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") })
	mux.HandleFunc("/favicon.ico", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/silent", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(": beat\n\n"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/mute", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return openPage(t, s.URL+"/", desktop)
}

// TestSilentServerCountsAsAway reads a stream whose server accepts and then says nothing, as behind
// a broken network. The page hangs up and asks again.
func TestSilentServerCountsAsAway(t *testing.T) {
	b := openParts(t)
	told := value[[]string](b, `import("/page/net.js").then(({ Stream }) => new Promise((done) => {
		const told = [];
		const tell = (what) => { told.push(what); if (told.length === 3) done(told); };
		new Stream("/silent", { open: () => tell("open"), away: () => tell("away"), event: () => tell("event") }, undefined, 50);
	}))`)
	if !reflect.DeepEqual(told, []string{"open", "away", "open"}) {
		t.Error(told)
	}
}

// TestMuteServerIsTold reads a stream whose server takes the request and never answers. The page
// says so, hangs up and asks again.
func TestMuteServerIsTold(t *testing.T) {
	b := openParts(t)
	told := value[[]string](b, `import("/page/net.js").then(({ Stream }) => new Promise((done) => {
		const told = [];
		const tell = (what) => { told.push(what); if (told.length === 2) done(told); };
		new Stream("/mute", { open: () => tell("open"), away: tell, event: () => tell("event") }, undefined, 60_000, 50);
	}))`)
	sentence := "The server takes requests and does not answer within 0.05 s."
	if !reflect.DeepEqual(told, []string{sentence, sentence}) {
		t.Error(told)
	}
}

// TestNumbersAreWrittenAsPeopleSayThem holds the words for times and sizes.
func TestNumbersAreWrittenAsPeopleSayThem(t *testing.T) {
	b := openParts(t)
	for expression, want := range map[string]string{
		`duration(0)`: "0.0 ms", `duration(0.0021)`: "2.1 ms", `duration(0.042)`: "42 ms", `duration(0.31)`: "0.31 s", `duration(9.9)`: "9.9 s", `duration(12.4)`: "12 s",
		`duration(119.4)`: "119 s", `duration(125)`: "2 min 5 s", `duration(3600)`: "1 h", `duration(12000)`: "3 h 20 min", `duration(180000)`: "2 d 2 h", `duration(-1)`: "0.0 ms",
		`bytes(0)`: "0 bytes", `bytes(999)`: "999 bytes", `bytes(96000)`: "96.0 kB", `bytes(2.5e9)`: "2.5 GB", `bytes(9e15)`: "9,000.0 TB",
		`count(1234567)`: "1,234,567", `rate(0)`: "0", `rate(0.2)`: "0.2", `rate(9.96)`: "10.0", `rate(1234.5)`: "1,235",
		`plural(1, "device")`: "1 device", `plural(0, "device")`: "0 devices", `doing(1, "sample", "waits", "wait")`: "1 sample waits", `doing(2000, "sample", "waits", "wait")`: "2,000 samples wait",
		`clock("nonsense")`: "–", `String(fitting(61, [60, 300]))`: "300", `String(fitting(1e9, [60, 300]))`: "300",
	} {
		if got := value[string](b, `import("/page/ui.js").then(({ duration, bytes, count, rate, plural, doing, clock, fitting }) => `+expression+`)`); got != want {
			t.Errorf("%s is %q, not %q", expression, got, want)
		}
	}
}

// TestHistoryKnowsWhatTheEventsTell tells the history events, in the orders that there are, and a
// status. Times are seconds.
func TestHistoryKnowsWhatTheEventsTell(t *testing.T) {
	type object = map[string]any
	up := func(at float64, hub string) object { return object{"kind": "connected", "at": at, "hub": hub} }
	lost := func(at float64, hub string) object {
		return object{"kind": "link-lost", "at": at, "hub": hub, "signal": "link reset", "error": "read: reset"}
	}
	decision := func(at float64, rule, signal string) object {
		return object{"kind": "decision", "at": at, "rule": rule, "signal": signal}
	}
	b := openParts(t)
	for name, v := range map[string]struct {
		events []object
		view   object // its times are seconds too
		spans  string
		moves  string
	}{
		"a failover": {
			events: []object{{"kind": "started", "at": 1}, up(2, "a"), lost(10, "a"), decision(10, "H02", "link reset"), decision(11, "H07", "connection refused"), up(14, "b")},
			spans:  "a 2-10, b 14-", moves: "10 a>b H02 link reset 4s",
		},
		"back on the same hub": {
			events: []object{up(2, "a"), lost(10, "a"), decision(10, "H01", "link closed"), up(10.5, "a")},
			spans:  "a 2-10, a 10.5-", moves: "10 a>a H01 link closed 0.5s",
		},
		"an outage that lasts": {
			events: []object{up(2, "a"), lost(10, "a")},
			view:   object{"hub": "", "since": 10},
			spans:  "a 2-10", moves: "10 a> read: reset lasts",
		},
		"the beginning is not kept any more": {
			events: []object{{"kind": "method", "at": 5}, lost(10, "a"), decision(10, "H02", "link reset"), up(14, "b")},
			spans:  "a 5-10, b 14-", moves: "10 a>b H02 link reset 4s",
		},
		"the loss is not kept any more": {
			events: []object{{"kind": "connected", "at": 14, "hub": "b", "from": "a", "rule": "H07", "outageNs": 4e9}},
			spans:  "b 14-", moves: "10 a>b H07  4s",
		},
		"no event is kept": {
			view:  object{"hub": "b", "since": 14, "lastFailover": object{"from": "a", "to": "b", "rule": "H07", "tookMs": 4000, "at": 14}},
			spans: "b 14-", moves: "10 a>b H07  4s",
		},
		"status and events tell the same": {
			events: []object{up(2, "a"), lost(10, "a"), decision(10, "H07", "connection refused"), up(14, "b")},
			view:   object{"hub": "b", "since": 14, "lastFailover": object{"from": "a", "to": "b", "rule": "H07", "tookMs": 4000, "at": 14}},
			spans:  "a 2-10, b 14-", moves: "10 a>b H07 connection refused 4s",
		},
		"a renewed token is no interruption": {
			events: []object{up(2, "a"), {"kind": "token-renewed", "at": 9, "hub": "a"}, {"kind": "acknowledged", "at": 9, "routine": true}},
			spans:  "a 2-", moves: "",
		},
		"a restart of the program": {
			events: []object{up(2, "a"), lost(10, "a"), {"kind": "started", "at": 20}, up(21, "b")},
			spans:  "a 2-10, b 21-", moves: "",
		},
		"times that make no sense": {
			events: []object{{"kind": "connected", "hub": "a"}},
			view:   object{"hub": "a", "since": "never", "lastFailover": object{"at": "never"}},
			spans:  "", moves: "",
		},
	} {
		events, _ := json.Marshal(v.events)
		view, _ := json.Marshal(v.view)
		got := value[[]string](b, `import("/page/history.js").then(({ History }) => {
			const base = Date.parse("2026-11-30T12:00:00Z");
			const time = (s) => (typeof s === "number" ? new Date(base + s * 1000).toISOString() : s);
			const seconds = (at) => (at === null ? "" : String((at - base) / 1000));
			const h = new History();
			for (const e of `+string(events)+` ?? []) h.hear({ ...e, time: time(e.at) });
			const v = `+string(view)+`;
			if (v !== null) h.see({ ...v, since: time(v.since), lastFailover: v.lastFailover && { ...v.lastFailover, at: time(v.lastFailover.at) } });
			return [
				h.spans.map((s) => s.hub + " " + seconds(s.from) + "-" + seconds(s.to)).join(", "),
				h.moves.map((m) => [seconds(m.at), m.from + ">" + (m.to ?? ""), m.rule, m.cause, m.took === null ? "lasts" : m.took / 1000 + "s"].filter((s, i) => s || i === 3).join(" ")).join(", "),
			];
		})`)
		if got[0] != v.spans || got[1] != v.moves {
			t.Errorf("%s: the links are %q, not %q; the interruptions %q, not %q", name, got[0], v.spans, got[1], v.moves)
		}
	}
}
