package device

import (
	"context"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// TestStartedDeviceAtRestHasOneGoroutine: devices that were started with Start, and that have all
// five paths on, wait in one goroutine each, the reader of the link. It is so again after each has
// been on the other hub. They end when their context does, without an error.
func TestStartedDeviceAtRestHasOneGoroutine(t *testing.T) {
	const devices = 5
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(time.Minute + 1234*time.Millisecond)
		before := ours()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		dir, ended := virtual.Dir(t), make(chan error, devices)
		for i := range devices {
			c := w.config
			c.DeviceID = fmt.Sprintf("idle-%d", i)
			c.Key = base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(c.DeviceID))
			c.StateDir, c.Rand = dir, nil
			w.must(c.device(new(journal.Journal)).Start(ctx, func(err error) { ended <- err }))
		}
		atRest := func(when string) {
			t.Helper()
			w.run(time.Minute + 1234*time.Millisecond)
			if n := len(ours()) - len(before); n != devices {
				t.Errorf("%s: %d goroutines for %d devices at rest:\n%s", when, n, devices, strings.Join(ours(), "\n\n"))
			}
			for i := range devices {
				if n := w.cloud.Ledger(fmt.Sprintf("idle-%d", i), false).Distinct; n == 0 {
					t.Errorf("%s: device %d has sent nothing", when, i)
				}
			}
		}
		atRest("after the start")
		for i := range devices {
			w.must(w.cloud.Failover(fmt.Sprintf("idle-%d", i), 0))
		}
		atRest("on the other hub")
		stop()
		for range devices {
			w.must(<-ended)
		}
		synctest.Wait()
		if n := len(ours()) - len(before); n > 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// ours returns the stacks of all goroutines of devices but that of the world's own.
func ours() (all []string) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		for _, room := range []string{"internal/device.(*Device)", "internal/device.(*life)", "hubhop/failover.", "hubhop/telemetry", "hubhop/hub.", "internal/mqtt.(*Session)"} {
			if strings.Contains(stack, room) && !strings.Contains(stack, "internal/device.(*world)") {
				all = append(all, stack)
				break
			}
		}
	}
	return all
}

// TestStartReportsWhatCannotBeOpened: a device that cannot be opened is not started, and nobody is
// told of an end.
func TestStartReportsWhatCannotBeOpened(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(time.Second)
		twin := w.config.device(new(journal.Journal))
		err := twin.Start(t.Context(), func(error) { t.Error("the end of a device that was not started") })
		if err == nil {
			t.Fatal("two devices have one directory")
		}
		w.run(time.Second)
	})
}

// TestStartedDeviceOutlivesAPanicOfItsSession: a panic in the session of a device that nobody waits
// for is reported, and another session begins.
func TestStartedDeviceOutlivesAPanicOfItsSession(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c, bugs := w.config, 0
		c.DeviceID = "started"
		c.Key = base64.StdEncoding.EncodeToString(w.cloud.DeviceKey(c.DeviceID))
		c.StateDir, c.Rand = virtual.Dir(t), nil
		j := new(journal.Journal)
		j.Sink(func(e journal.Event) {
			switch e.Kind {
			case journal.Bug:
				bugs++
			case journal.Connected:
				if bugs == 0 {
					panic("the observer fails")
				}
			default:
			}
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		w.must(c.device(j).Start(ctx, func(err error) { ended <- err }))
		w.run(time.Minute)
		if bugs != 1 {
			t.Errorf("%d bugs were reported", bugs)
		}
		if w.cloud.Ledger("started", false).Distinct == 0 {
			t.Error("nothing has arrived")
		}
		stop()
		w.must(<-ended)
	})
}
