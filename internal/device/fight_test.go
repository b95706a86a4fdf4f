package device

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// TestTwoDevicesOfOneIdentity: a hub keeps the newest link of an identity only, so two clients that both come back at once keep each
// other from working for ever. The first of them that finds out says so once and leaves room for the other. When one is gone, all is well.
func TestTwoDevicesOfOneIdentity(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(2 * time.Minute)
		before := w.cloud.State().Totals
		rival := w.config
		rival.StateDir, rival.Telemetry, rival.Rand = t.TempDir(), false, nil
		j := new(journal.Journal)
		var warned []string
		j.Sink(func(e journal.Event) {
			if e.Kind == journal.Warning {
				warned = append(warned, e.Text)
			}
		})
		other := New(rival, j)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- other.Run(ctx) }()

		w.run(9 * time.Minute)
		after := w.cloud.State().Totals
		// A few until it is clear, then two a minute: one of the slow client, and one of the other that it has displaced.
		if n := after.Connects - before.Connects; n > 6+2*9 || n < 9 {
			t.Errorf("%d connects in nine minutes of a fight", n)
		}
		if n := after.Registrations - before.Registrations; n > 3 {
			t.Errorf("%d registrations in nine minutes of a fight", n)
		}
		named := 0
		for _, text := range append(w.texts(journal.Warning), warned...) {
			if strings.Contains(text, "two clients use the identity dev-1") {
				named++
			}
		}
		if named != 1 {
			t.Errorf("named %d times; decided %v, warned %q", named, w.decisions(), warned)
		}

		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.on("hub-a", 2*time.Minute)
		w.run(10 * time.Minute)
		w.forget()
		w.must(w.cloud.Disconnect("dev-1")) // a close like any other again
		if took := w.on("hub-a", time.Minute); took > 1100*time.Millisecond {
			t.Errorf("back after %v", took)
		}
		w.decided("H01")
	})
}
