package target

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"crypto/tls"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/model"
)

// patience is how long a test waits for what must come about.
const patience = 30 * time.Second

var worlds atomic.Int64

// cloud is a simulator on real sockets, on loopback addresses of its own.
type cloud struct {
	*sim.Sim
	t      *testing.T
	events <-chan sim.Event
	client *http.Client
}

func newCloud(t *testing.T) *cloud {
	conf := sim.DefaultConfig()
	if conf.Layout != sim.LayoutLoopback {
		t.Skip("each hub needs a loopback address of its own")
	}
	conf.BaseAddress = fmt.Sprintf("127.%d.%d.%d", 200+os.Getpid()/250%50, 1+os.Getpid()%250, 10*worlds.Add(1))
	conf.ControlAddr, conf.RetryAfter, conf.HTTPSPort = "127.0.0.1:0", 0, 8443
	s, err := sim.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	events, unwatch := s.Watch()
	t.Cleanup(func() { unwatch(); _ = s.Close() })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CAPool(), MinVersion: tls.VersionTLS12}}}
	t.Cleanup(client.CloseIdleConnections)
	return &cloud{s, t, events, client}
}

// site is where a device finds the cloud.
func (c *cloud) site(id string) Site {
	info := c.Info()
	return Site{Identity: device.Identity{DeviceID: id, IDScope: info.IDScope, Key: base64.StdEncoding.EncodeToString(c.DeviceKey(id))},
		ProvisioningHost: info.ProvisioningHost, Roots: c.CAPool()}
}

// until waits for an event after which something holds.
func (c *cloud) until(what string, holds func() bool) {
	c.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !holds() {
		select {
		case <-c.events:
		case <-limit.C:
			c.t.Fatalf("%s: not within %v; %+v", what, patience, c.State())
		}
	}
}

// telemetry waits until new telemetry of a device comes to a hub.
func (c *cloud) telemetry(id, hub string) {
	c.t.Helper()
	had := c.Ledger(id, false).Hubs[hub]
	c.until("telemetry on "+hub, func() bool { return c.Ledger(id, false).Hubs[hub] > had })
}

// insider is a device of this process with ten samples a second.
func insider(t *testing.T) *Inner {
	text, err := os.ReadFile("../../../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	shared := device.Shared{Config: device.DefaultConfig()}
	return &Inner{Shared: shared, App: func(interval time.Duration, chance *rand.Rand) device.App {
		o := sample.DefaultOptions()
		o.Interval, o.Rand, o.Model = interval, chance, m
		return sample.App(o)
	}}
}

// opened opens a target with a device of ten samples a second, and starts the device.
func opened(t *testing.T, target drill.Target) *drill.World {
	t.Helper()
	w, err := target.Open(t.Context(), drill.Plan{Dir: t.TempDir(), With: drill.Settings{Interval: "100ms"}})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	shut := w.Close
	w.Close = func() error {
		if closed {
			return nil
		}
		closed = true
		return shut()
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("closed: %v", err)
		}
	})
	w.Devices[0].Start()
	return w
}

// ok fails the test at an error.
func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// within is a context for a request.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
