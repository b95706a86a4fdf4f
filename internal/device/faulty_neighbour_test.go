package device

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// TestFaultyDevicesHarmNoNeighbour: in one process, the sources and handlers of many devices hang
// or panic. The other devices miss no sample, and all of them end when they are stopped.
func TestFaultyDevicesHarmNoNeighbour(t *testing.T) {
	const hang, fail, devices = 20, 30, 35 // the first numbers without that fault
	bubble(t, setup{}, func(t *testing.T, w *world) {
		ctx, stop := context.WithCancel(t.Context())
		release := make(chan struct{})
		shared := w.config.Shared
		shared.Config, shared.Journal = w.config.Config, new(journal.Journal)
		var running sync.WaitGroup
		name := func(i int) string { return fmt.Sprintf("neighbour-%02d", i) }
		for i := range devices {
			id := w.config.Identity
			id.DeviceID, id.StateDir = name(i), t.TempDir()
			id.Key = base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(id.DeviceID))
			fault := func() {
				if i < hang {
					<-release
				} else if i < fail {
					panic("a faulty neighbour")
				}
			}
			app := App{
				Sources: []telemetry.Source{telemetry.Every(10*time.Second, func(time.Time) ([]byte, error) {
					fault()
					return []byte(`{"n":1}`), nil
				})},
				Desired: map[string]Desired{"x": {Apply: func(context.Context, Request) (Ack, error) {
					fault()
					return Ack{}, nil
				}}},
				Reported: map[string]Reported{"y": {Every: time.Second, Read: func(context.Context, Request) (any, error) {
					fault()
					return i, nil
				}}},
			}
			d := New(&shared, id, app)
			running.Go(func() { _ = d.Run(ctx) })
		}
		w.run(30 * time.Second)
		for i := range devices {
			w.must(w.cloud.PatchDesired(name(i), []byte(`{"x":5}`)))
		}
		w.run(3 * time.Minute)
		for i := fail; i < devices; i++ {
			if n := len(w.cloud.Ledger(name(i), true).Messages); n < 20 {
				t.Errorf("device %d has sent %d samples", i, n)
			}
		}
		close(release)
		w.run(30 * time.Second)
		for i := range hang {
			if n := len(w.cloud.Ledger(name(i), true).Messages); n < 3 {
				t.Errorf("device %d has sent %d samples since its source goes on", i, n)
			}
		}
		stop()
		running.Wait()
	})
}
