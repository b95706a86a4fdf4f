package device

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// TestManyDevicesOfOneProcess: what they ask DPS together, and how often they knock there in
// advance, stays within the process's rate, also when all start or are disconnected at one moment.
func TestManyDevicesOfOneProcess(t *testing.T) {
	const devices, perSecond, burst = 30, 1, 5
	asks, knocks := rate.NewLimiter(perSecond, burst), rate.NewLimiter(perSecond, burst)
	limit := setup{device: func(c *plan) { c.DPSLimit, c.DPSOpenLimit = asks, knocks }}
	bubble(t, limit, func(t *testing.T, w *world) {
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var ids []string
		for i := range devices {
			c := w.config
			c.DeviceID = fmt.Sprintf("many-%02d", i)
			c.Key = base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(c.DeviceID))
			c.StateDir, c.Rand = t.TempDir(), nil
			ids = append(ids, c.DeviceID)
			running.Go(func() { _ = c.device(new(journal.Journal)).Run(ctx) })
		}
		for s := range 40 {
			w.run(time.Second)
			if n := w.cloud.State().Totals.Registrations; n > burst+perSecond*int64(s+1) {
				t.Fatalf("%d registrations in %d s", n, s+1)
			}
		}
		online := func() (n int) {
			for _, h := range w.cloud.State().Hubs {
				n += h.Connections
			}
			return n
		}
		if n := online(); n != devices+1 {
			t.Fatalf("%d of %d devices are up", n, devices+1)
		}
		w.run(time.Minute)
		before, knocked := w.cloud.State().Totals.Registrations, w.net.Dials(dpsAddress)
		w.net.SetDelay(time.Millisecond)
		for _, id := range ids {
			w.must(w.cloud.Disconnect(id))
		}
		w.run(time.Second)
		if n := online(); n != devices+1 {
			t.Errorf("%d of %d devices are up again", n, devices+1)
		}
		if n := w.cloud.State().Totals.Registrations - before; n != 0 {
			t.Errorf("%d registrations for hubs that are well", n)
		}
		if n := w.net.Dials(dpsAddress) - knocked; n == 0 || n > burst+perSecond {
			t.Errorf("%d connections to DPS in advance", n)
		}
		stop()
		running.Wait()
	})
}
