//go:build linux

package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

const (
	idleDevices  = 1000
	idleInterval = 10 * time.Second // between two samples of such a device
	idleMore     = 8                // KiB that a device may need beside its link
)

// deviceFigures compares an idle device, with its outbox and its state directory, with the
// connection that it needs: all of a kind in one process, over TLS.
func deviceFigures(t *testing.T) []number {
	out := measured("make bench")
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	out.head(fmt.Sprintf("%d in one process, TLS, subscribed; a device with all five paths on, and a sample each %v", idleDevices, idleInterval),
		"bare program", "paho's client", "link alone", "device", "device, outbox in memory", "device to link")
	line := map[string]figures{}
	for _, role := range []string{"bare", "paho", "link", "device", deviceInMemory} {
		j := c.job(role, idleDevices, 0, 20*time.Second)
		j.Scope, j.DPS = c.info.IDScope, c.info.ProvisioningHost
		f, err := inProcess(j)
		if err != nil {
			t.Fatal(err)
		}
		line[role] = f
	}
	for _, row := range []struct {
		what  string
		value func(figures) float64
	}{
		{"KiB of RSS each", func(f figures) float64 { return f.KiB }},
		{"goroutines each", func(f figures) float64 { return f.Goroutines }},
		{"open files each", func(f figures) float64 { return f.Files }},
		{"ms of processor time each, a minute", func(f figures) float64 { return f.CPU }},
	} {
		cells := []string{row.what}
		for _, role := range []string{"bare", "paho", "link", "device", deviceInMemory} {
			cells = append(cells, short(row.value(line[role])))
		}
		out.add(append(cells, ratio(row.value(line["device"]), row.value(line["link"])))...)
	}
	write(t, "devices", out)
	link, ours := line["link"], line["device"]
	return []number{
		{fmt.Sprintf("KiB of RSS of an idle device, of %d in one process, all five paths on, a sample each %v; floor: its link alone; goal: %d KiB more",
			idleDevices, idleInterval, idleMore), idleDevices, figure{link.KiB}, figure{ours.KiB}, atMost(link.KiB + idleMore)},
		{"goroutines of each", idleDevices, figure{link.Goroutines}, figure{ours.Goroutines}, atMost(2)},
	}
}

// deviceInMemory is the role of a device of a fleet: its outbox is in memory.
const deviceInMemory = "device in memory"

// devices runs idle devices and says what each of them costs, but for the first: what a process
// needs for that one is not what each needs.
func (c *client) devices() (f figures, err error) {
	dir, err := os.MkdirTemp("", "bench-*")
	if err != nil {
		return f, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	text, err := os.ReadFile("../../failover.json")
	if err != nil {
		return f, err
	}
	m, err := model.Parse(text)
	if err != nil {
		return f, err
	}
	ready := make(chan string, len(c.Devices))
	j := new(journal.Journal)
	j.Sink(func(e journal.Event) {
		switch e.Kind {
		case journal.Acknowledged:
			ready <- e.Device
		case journal.Lost, journal.Bug, journal.OutboxProblem:
			fmt.Fprintln(os.Stderr, e.Device, e.Text)
		default:
		}
	})
	shared := &device.Shared{Agent: "bench", Roots: c.tls.RootCAs, Clock: clock.System(), Journal: j, Config: device.Config{
		ProvisioningHost: c.DPS, ProvisioningTransport: dps.MQTT,
		Link:          hub.Options{KeepAlive: time.Minute, TokenLife: time.Hour},
		Drain:         telemetry.DrainOptions{Window: 64},
		Outbox:        outbox.Options{MaxBytes: 64 << 20, Machine: "bench"},
		MethodTimeout: time.Second, DrainTimeout: time.Second,
	}}
	options := sample.Options{Model: m, Interval: idleInterval, ReportedInterval: time.Minute}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	failed := make(chan error, len(c.Devices))
	defer func() {
		stop()
		running.Wait()
		close(failed)
		for one := range failed {
			err = cmp.Or(err, one)
		}
	}()
	var rss int64
	var routines, files int
	// The devices start evenly over two intervals, those of the second between those of the first.
	// So each sample wakes the process by itself, however long it takes to connect. That is the
	// dearest case.
	n := time.Duration(len(c.Devices))
	step := 2 * (idleInterval + idleInterval/n) / n
	var starts time.Time
	for i, id := range slices.Sorted(maps.Keys(c.Devices)) {
		who := device.Identity{DeviceID: id, IDScope: c.Scope, Key: c.Devices[id], StateDir: dir}
		if c.Role == deviceInMemory {
			who.OpenOutbox = func(_ string, o outbox.Options) (device.Outbox, error) { return outbox.NewMemory(o) }
		}
		d := device.New(shared, who, sample.App(options))
		if i == 1 {
			starts = time.Now()
		}
		time.Sleep(time.Until(starts.Add(time.Duration(i) * step)))
		running.Add(1)
		err := d.Start(ctx, func(err error) {
			defer running.Done()
			if err != nil {
				failed <- err
			}
		})
		if err != nil {
			running.Done()
			return f, err
		}
		if i == 0 {
			if err := await(ready, failed); err != nil {
				return f, err
			}
			rss, routines, files = c.settled(), atRest(), openFiles()
		}
	}
	for range len(c.Devices) - 1 {
		if err := await(ready, failed); err != nil {
			return f, err
		}
	}
	time.Sleep(idleInterval)
	used, began := processorTime(), time.Now()
	time.Sleep(c.Duration)
	each := float64(len(c.Devices) - 1)
	f.CPU = (processorTime() - used).Seconds() * 1000 / each * (time.Minute.Seconds() / time.Since(began).Seconds())
	f.KiB = float64(c.settled()-rss) / 1024 / each
	f.Goroutines, f.Files = float64(atRest()-routines)/each, float64(openFiles()-files)/each
	return f, nil
}

// await waits for one more device whose telemetry flows. It returns at once if a device has ended.
func await(ready <-chan string, failed <-chan error) error {
	select {
	case <-ready:
		return nil
	case err := <-failed:
		return fmt.Errorf("a device has ended: %w", err)
	case <-time.After(time.Minute):
		return fmt.Errorf("no further device in a minute")
	}
}

// atRest is how many goroutines there are while nothing happens: in a second, some devices send a
// sample.
func atRest() int {
	least := runtime.NumGoroutine()
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		least = min(least, runtime.NumGoroutine())
	}
	return least
}

// openFiles is how many files and sockets this process has open.
func openFiles() int {
	all, _ := os.ReadDir("/proc/self/fd")
	return len(all)
}
