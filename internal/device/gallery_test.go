package device

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// gallery_test.go at the root lists the defects of other clients. The tests here cover those
// defects that no other test covers.

// TestIntervalsAreWhatTheySay: telemetry comes each 5 s and reported properties each 15 s, as the
// defaults say.
func TestIntervalsAreWhatTheySay(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.TelemetryInterval = 5 * time.Second }}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		version := w.twin("reported")["$version"].(float64)
		w.run(10 * time.Minute)
		l := w.cloud.Ledger("dev-1", true)
		for i := 3; i < len(l.Messages); i++ {
			if gap := l.Messages[i].At.Sub(l.Messages[i-1].At); gap < 4990*time.Millisecond || gap > 5010*time.Millisecond {
				t.Fatalf("message %d came %v after the one before", i, gap)
			}
		}
		if n := w.twin("reported")["$version"].(float64) - version; n != 40 {
			t.Errorf("%v reports in ten minutes, not 40", n)
		}
	})
}

// TestLargePayloads: 100 KB there and back.
func TestLargePayloads(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		big, err := json.Marshal(strings.Repeat("x", 100_000))
		w.must(err)
		r, err := w.cloud.Method(t.Context(), "dev-1", "echo", big)
		if err != nil || r.Status != 200 || string(r.Payload) != string(big) {
			t.Errorf("%d, %d bytes, %v", r.Status, len(r.Payload), err)
		}
	})
}

// TestFailoversLeakNothing: a hundred failovers leave as many goroutines and connections as there
// were.
func TestFailoversLeakNothing(t *testing.T) {
	bubble(t, setup{cloud: func(c *sim.Config) { c.RetryAfter = 0 }}, func(t *testing.T, w *world) {
		w.run(time.Minute)
		before := runtime.NumGoroutine()
		for range 50 {
			w.must(w.cloud.Failover("dev-1", 0))
			w.on("hub-b", time.Minute)
			w.run(20 * time.Second)
			w.must(w.cloud.Failback("dev-1"))
			w.on("hub-a", time.Minute)
			w.run(20 * time.Second)
		}
		after := runtime.NumGoroutine()
		for i := 0; i < 20 && after > before; i++ { // one that is about to end is no leak
			w.run(time.Second)
			after = runtime.NumGoroutine()
		}
		if after > before {
			t.Errorf("%d goroutines before, %d after", before, after)
		}
		for _, addr := range []string{"127.0.0.1:8883", "127.0.0.2:8883", "127.0.0.3:8883"} {
			want := 0
			if addr == "127.0.0.2:8883" {
				want = 1
			}
			if n := w.net.Open(addr); n != want {
				t.Errorf("%d connections to %s are open", n, addr)
			}
		}
		if n := w.cloud.State().Totals.Registrations; n > 110 {
			t.Errorf("%d registrations for 100 failovers", n)
		}
	})
}

// TestBurstsOfDesiredChanges: changes are applied in order, the last value wins, and each change is
// acknowledged at its own version or a later one.
func TestBurstsOfDesiredChanges(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		for i := range 200 {
			w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(fmt.Sprintf(`{"fanSpeed":%d}`, i))))
		}
		w.run(5 * time.Second)
		if got := w.acknowledged("fanSpeed"); got != "199 200 201" {
			t.Errorf("acknowledged %s", got)
		}
		last := -1
		for _, text := range w.texts(journal.DesiredChange) {
			var n int
			_, _ = fmt.Sscanf(text, "desired fanSpeed set to %d", &n)
			if n < last {
				t.Fatalf("%d was applied after %d", n, last)
			}
			last = n
		}
	})
}

// TestEveryPathLivesOnAfterReconnects: after many links, on the same hub and on others, every path
// still works.
func TestEveryPathLivesOnAfterReconnects(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		for i := range 12 {
			switch i % 3 {
			case 0, 1:
				w.must(w.cloud.Disconnect("dev-1"))
			case 2:
				w.must(w.cloud.Failover("dev-1", 0))
				w.run(20 * time.Second)
				w.must(w.cloud.Failback("dev-1"))
			}
			w.run(30 * time.Second)
			w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(fmt.Sprintf(`{"fanSpeed":%d}`, i))))
			r, err := w.cloud.Method(t.Context(), "dev-1", "echo", json.RawMessage(`1`))
			if err != nil || r.Status != 200 {
				t.Fatalf("after %d reconnects: method %v %v", i+1, r, err)
			}
			_, err = w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"08:00:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
			w.must(err)
			w.run(2 * time.Second)
			if got := w.acknowledged("fanSpeed"); !strings.HasPrefix(got, fmt.Sprintf("%d 200", i)) {
				t.Fatalf("after %d reconnects: acknowledged %s", i+1, got)
			}
		}
		messages, err := w.cloud.C2DMessages("dev-1")
		w.must(err)
		for _, m := range messages {
			if m.State != sim.C2DCompleted {
				t.Errorf("%+v", m)
			}
		}
	})
}

// TestHubWithAForeignCertificateIsNotBelieved: a server that cannot prove to be the hub is not
// believed, and the device goes on.
func TestHubWithAForeignCertificateIsNotBelieved(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.halt()
		roots := w.config.Roots
		w.config.Roots = nil // the system's, which do not know the simulator
		had := w.cloud.Ledger("dev-1", false).Received
		w.start()
		w.run(5 * time.Minute)
		if n := w.cloud.Ledger("dev-1", false).Received; n != had {
			t.Fatalf("%d messages went to a hub that proved nothing", n-had)
		}
		seen := false
		for _, text := range w.texts(journal.Decision) {
			seen = seen || strings.Contains(text, "--ca-file")
		}
		if !seen {
			t.Error("nobody is told about --ca-file")
		}
		w.halt()
		w.config.Roots = roots
		w.start()
		w.on("hub-a", time.Minute)
	})
}

// TestNobodySkipsVerification: the words that would switch it off stand nowhere in the source.
func TestNobodySkipsVerification(t *testing.T) {
	word := "Insecure" + "SkipVerify"
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "dist" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), word) {
			t.Errorf("%s speaks of %s", path, word)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
