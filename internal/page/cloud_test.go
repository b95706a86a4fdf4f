package page_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/page"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// startCloud starts a simulator with its page, on free ports. change may be nil.
func startCloud(t *testing.T, change func(*sim.Config)) *sim.Sim {
	t.Helper()
	conf := sim.DefaultConfig()
	conf.Layout, conf.ControlAddr, conf.RetryAfter, conf.Page = sim.LayoutPorts, "127.0.0.1:0", 0, page.Simulator()
	if change != nil {
		change(&conf)
	}
	cloud, err := sim.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	return cloud
}

// startDevices runs real devices until the test ends, or until the function is called. Each makes a
// sample at every interval.
func startDevices(t *testing.T, cloud *sim.Sim, interval time.Duration, ids ...string) (stop func()) {
	t.Helper()
	state := t.TempDir() // before the clean-up that stops the devices, so that it is removed behind it
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	shared := device.Shared{Config: device.DefaultConfig(), Agent: "test", Roots: cloud.CAPool(), Journal: new(journal.Journal)}
	shared.Config.ProvisioningHost = cloud.Info().ProvisioningHost
	if len(ids) > 100 {
		shared.Config.Outbox.SyncEvery = time.Second // the disk of a test need not bear a thousand devices
	}
	options := sample.Options{Model: virtual.Model(t), Interval: interval, ReportedInterval: time.Minute}
	for _, id := range ids {
		d := device.New(&shared, device.Identity{
			DeviceID: id, IDScope: cloud.Info().IDScope, StateDir: state, Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey(id)),
		}, sample.App(options))
		running.Go(func() {
			if err := d.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	return stop
}

// names returns ids from prefix-1 on.
func names(prefix string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s-%d", prefix, i+1))
	}
	return ids
}

// place is the selector of a hub's place on the stage.
func place(hub string) string { return fmt.Sprintf(`[data-hub="%s"]`, hub) }

// numberIn returns the number in a text such as 1,234.
func numberIn(t *testing.T, text string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(strings.ReplaceAll(text, ",", ""), &n); err != nil {
		t.Errorf("%q is no number", text)
	}
	return n
}
