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
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// TestAThousandRefusedDevices: a thousand devices of one process start while DPS answers 500, and
// each asks again within seconds. Their requests together stay within the rate of the process, and
// when DPS is well again all devices connect. A second start, after more than a minute of refusals,
// keeps to the rate too.
func TestAThousandRefusedDevices(t *testing.T) {
	t.Parallel()
	devices, perMinute, burst := 1000, 900, 100
	if racing.On {
		devices, perMinute, burst = devices/5, perMinute/5, burst/5
	}
	quiet := setup{device: func(c *plan) { c.Telemetry, c.Reported = false, false }}
	dir := virtual.Dir(t)
	bubble(t, quiet, func(t *testing.T, w *world) {
		w.run(time.Second)
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSError500}))
		start := func() (stop func()) {
			limit := rate.NewLimiter(rate.Limit(perMinute)/60, burst)
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			for i := range devices {
				c := w.config
				c.DeviceID = fmt.Sprintf("many-%03d", i)
				c.Key = base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(c.DeviceID))
				c.StateDir, c.Rand, c.DPSLimit = dir, nil, limit
				running.Go(func() { _ = c.device(new(journal.Journal)).Run(ctx) })
			}
			return func() { cancel(); running.Wait() }
		}
		asked := func() int64 { return w.cloud.State().Totals.Registrations }
		for life := range 2 {
			w.run(time.Second)
			before, began := asked(), time.Now()
			stop := start()
			for range []int{22, 7}[life] {
				w.run(3 * time.Second)
				if n, most := asked()-before, int64(burst)+int64(time.Since(began).Seconds()*float64(perMinute)/60)+1; n > most {
					t.Fatalf("life %d: %d registrations in %v, more than %d", life, n, time.Since(began), most)
				}
			}
			if n := asked() - before; life == 0 && n < int64(devices) {
				t.Errorf("%d registrations of %d devices", n, devices)
			}
			if life == 1 {
				w.must(w.cloud.HealDPS())
				w.run(2 * time.Minute)
				online := 0
				for _, h := range w.cloud.State().Hubs {
					online += h.Connections
				}
				if online != devices+1 {
					t.Errorf("%d of %d devices are up", online, devices+1)
				}
			}
			stop()
		}
	})
}
