package device

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// values makes reported values of names and JSON texts.
func values(pairs ...string) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = json.RawMessage(pairs[i+1])
	}
	return all
}

func (w *world) reported() string {
	w.t.Helper()
	part := w.twin("reported")
	for name := range part {
		if strings.HasPrefix(name, "$") || name == "battery" {
			delete(part, name)
		}
	}
	b, err := json.Marshal(part)
	w.must(err)
	return string(b)
}

// TestWhatIsReportedThroughTheDeviceReachesTheTwin at once, and every value of a component beside
// its mark.
func TestWhatIsReportedThroughTheDeviceReachesTheTwin(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(20 * time.Second)
		w.must(w.dev.Report(t.Context(), values("firmware", `{"version": "1.2"}`, "pump*speed", "5")))
		w.run(time.Second)
		if got := w.reported(); got != `{"firmware":{"version":"1.2"},"pump":{"__t":"c","speed":5}}` {
			t.Errorf("the twin has %s", got)
		}
		w.must(w.dev.Report(t.Context(), values("firmware", "null", "pump*speed", "6")))
		w.run(time.Second)
		if got := w.reported(); got != `{"pump":{"__t":"c","speed":6}}` {
			t.Errorf("the twin has %s", got)
		}
	})
}

// TestWhatWasReportedGoesToEachHub: the twin of another hub is empty, and so is that of a device
// which was killed before it had a link.
func TestWhatWasReportedGoesToEachHub(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(20 * time.Second)
		w.must(w.dev.Report(t.Context(), values("firmware", `"1.2"`)))
		w.run(time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.on("hub-b", time.Minute)
		w.run(time.Second)
		if got := w.reported(); got != `{"firmware":"1.2"}` {
			t.Errorf("the twin of hub-b has %s", got)
		}
		w.halt()
		w.start()
		w.run(5 * time.Second)
		if got := w.reported(); got != `{"firmware":"1.2"}` {
			t.Errorf("after a restart the twin has %s", got)
		}
	})
}

// TestAReportIsOnTheDiskBeforeAnyLink: what was reported while no hub could be reached is in the
// device's directory when Report returns.
func TestAReportIsOnTheDiskBeforeAnyLink(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Telemetry = false }}, func(t *testing.T, w *world) {
		w.run(0) // the device is open, and DPS has not answered yet
		if w.count(journal.Connected) != 0 {
			t.Fatal("the device has a link already")
		}
		w.must(w.dev.Report(t.Context(), values("firmware", `"1.2"`)))
		b, err := os.ReadFile(w.dev.home.Path(home.ReportedFile))
		w.must(err)
		if !strings.Contains(string(b), `"firmware": "1.2"`) {
			t.Errorf("the file has %s", b)
		}
	})
}

// TestTooManyReportedPropertiesAreRefused, and nothing of that report is kept.
func TestTooManyReportedPropertiesAreRefused(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(20 * time.Second)
		w.must(w.dev.Report(t.Context(), values("a", "1")))
		err := w.dev.Report(t.Context(), values("a", "2", "b", `"`+strings.Repeat("x", 32<<10)+`"`))
		refused, ok := errors.AsType[*home.ReportError](err)
		if !ok || !refused.Permanent() {
			t.Errorf("got %v", err)
		}
		w.run(time.Second)
		if got := w.reported(); got != `{"a":1}` {
			t.Errorf("the twin has %s", got)
		}
	})
}

// TestAReportedPropertyOfTheAppBelongsToWhoReportsIt from then on.
func TestAReportedPropertyOfTheAppBelongsToWhoReportsIt(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(20 * time.Second)
		w.must(w.dev.Report(t.Context(), values("battery", "1.5")))
		w.run(time.Minute)
		if got := w.twin("reported")["battery"]; got != 1.5 {
			t.Errorf("the battery is %v", got)
		}
	})
}
