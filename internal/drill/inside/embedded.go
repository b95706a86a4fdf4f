// Package inside is the target of drills that needs nothing but this process: a simulated cloud,
// the devices, and a network in memory between them, with real TLS and MQTT. Its time may be
// virtual. Its [Local] is a device of this process for other targets, too.
package inside

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Target is the target that needs nothing but this process: a simulated cloud, devices, and a
// network in memory between them, with real TLS and MQTT. Its time may be virtual.
type Target struct {
	Shared device.Shared // how the devices behave, unless the scenario says otherwise

	// App makes the application of one life of a device, with so much time between two samples.
	App func(interval time.Duration, chance *rand.Rand) device.App

	Real bool // time is real

	// Spoil breaks the world before the devices start. Tests use it, because a drill that cannot
	// fail proves nothing.
	Spoil func(*Spoilt)
}

// Spoilt is what [Target] has set up, before its devices are made.
type Spoilt struct {
	Sim    *sim.Sim
	Net    *memnet.Net
	Device LocalOptions // of the device under test
}

// embeddedName is the name of the target in reports.
const embeddedName = "embedded"

// defaultDevice is the id of the device under test, unless it is given one.
const defaultDevice = "drill-1"

// Name is the target's name in reports.
func (*Target) Name() string { return embeddedName }

// Lacks says what the target cannot do.
func (t *Target) Lacks(n drill.Need) string {
	if t.Real && (n == drill.NeedVirtual || n == drill.NeedKill) {
		return "it is possible in virtual time only (--speed virtual)"
	}
	return ""
}

// Open sets up cloud, network and devices.
func (t *Target) Open(_ context.Context, p drill.Plan) (*drill.World, error) {
	wire := memnet.New()
	conf := CloudConfig(p.With)
	conf.Layout, conf.Listen = sim.LayoutLoopback, wire.Listen
	cloud, err := sim.New(conf)
	if err != nil {
		return nil, err
	}
	if err := cloud.Start(); err != nil {
		return nil, err
	}
	w := &world{sim: cloud}
	if err := w.open(t, p, wire); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w.made, nil
}

// CloudConfig is the cloud as the settings want it.
func CloudConfig(c drill.Settings) sim.Config {
	conf := sim.DefaultConfig()
	conf.Hubs, conf.Move, conf.DisabledRefusal, conf.Polls = max(2, c.Hubs), c.Move, c.Refusal, c.Polls
	conf.SASGrace = 10 * time.Second
	if conf.RetryAfterAbsent = c.RetryAfter == nil; !conf.RetryAfterAbsent {
		conf.RetryAfter = time.Duration(*c.RetryAfter) * time.Second
	}
	return conf
}

// world is a world of [Target].
type world struct {
	sim     *sim.Sim
	way     *way
	devices []*Local
	made    *drill.World
}

// open does what Open does, for a cloud that has been started.
func (w *world) open(t *Target, p drill.Plan, wire *memnet.Net) (err error) {
	info := w.sim.Info()
	w.made = &drill.World{Cloud: drill.Embedded(w.sim), Ledger: true, Names: map[string]string{}, Close: w.close,
		Facts: map[string]string{"network": "in memory"}}
	places := map[string][]string{"dps": {info.DPS.MQTT, info.DPS.HTTPS}, "all": {info.DPS.MQTT, info.DPS.HTTPS}}
	for _, h := range info.Hubs {
		places[h.Name] = []string{h.MQTT, h.HTTPS}
		places["all"] = append(places["all"], h.MQTT, h.HTTPS)
		w.made.Hubs, w.made.Names[h.Host] = append(w.made.Hubs, h.Name), h.Name
	}
	if w.way, err = newWay(wire, places, drill.Span(p.With.Delay, 0), p.With.Seed); err != nil {
		return err
	}
	w.made.Network = w.way
	spoilt := &Spoilt{Sim: w.sim, Net: wire}
	for i := range 1 + p.Others {
		id := p.Device
		if id == "" {
			id = defaultDevice
		}
		if i > 0 {
			id = fmt.Sprintf("%s-other-%d", id, i)
		}
		o, err := w.options(t, p, id, i)
		if err != nil {
			return err
		}
		if i == 0 && t.Spoil != nil {
			spoilt.Device = o
			t.Spoil(spoilt)
			o = spoilt.Device
		}
		l := NewLocal(o)
		w.devices = append(w.devices, l)
		w.made.Devices = append(w.made.Devices, &party{Local: l, sim: w.sim})
	}
	return nil
}

// options are those of one device.
func (w *world) options(t *Target, p drill.Plan, id string, n int) (LocalOptions, error) {
	info, c := w.sim.Info(), p.With
	o := LocalOptions{
		Shared: t.Shared, Dir: filepath.Join(p.Dir, fmt.Sprint(n)), Rival: filepath.Join(p.Dir, "rival"),
		Paced: c.Paced, Seed: c.Seed + uint64(n), Real: t.Real,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.way.dial(ctx, network, addr, n == 0)
		},
		App:      func(chance *rand.Rand) device.App { return t.App(drill.Span(c.Interval, time.Second), chance) },
		Identity: device.Identity{DeviceID: id, IDScope: info.IDScope},
	}
	if n == 0 && p.Heard != nil {
		o.Heard = func(e journal.Event) { p.Heard(e) }
	}
	o.Shared.Roots, o.Shared.Config.ProvisioningHost = w.sim.CAPool(), info.ProvisioningHost
	Configure(&o.Shared.Config, c)
	if life := drill.Span(c.Certificate, 0); life > 0 {
		cert, err := w.sim.DeviceCertificate(id, life)
		o.Identity.Certificate = &cert
		return o, err
	}
	o.Identity.Key = base64.StdEncoding.EncodeToString(w.sim.DeviceKey(id))
	return o, nil
}

// Configure makes a device as the settings want it.
func Configure(conf *device.Config, c drill.Settings) {
	conf.ProvisioningTransport = dps.Transport(c.Transport)
	conf.DrainTimeout = 30 * time.Second
	conf.Failover.Pipeline, conf.Failover.NoKnown = failover.Pipeline(c.Pipeline), c.NoKnown
	conf.Outbox.SyncEvery, conf.Outbox.Machine = drill.Span(c.SyncEvery, 0), "drill"
	if c.OutboxBytes > 0 {
		conf.Outbox.MaxBytes = c.OutboxBytes
	}
	conf.Outbox.Full = outbox.DropOldest
	conf.Link.TokenLife = drill.Span(c.SASTTL, time.Hour)
	conf.Drain.Window = c.Window
	if c.FreshFirst {
		conf.Drain.Order = telemetry.FreshFirst
	}
}

// close ends everything.
func (w *world) close() error {
	for _, l := range w.devices {
		l.Stop()
		l.Close()
	}
	if w.way != nil {
		w.way.Close()
	}
	return w.sim.Close()
}

// party is a device of [Target].
type party struct {
	*Local
	sim *sim.Sim
}

// Certify gives the device a new certificate, for its next start.
func (p *party) Certify(life time.Duration) error {
	cert, err := p.sim.DeviceCertificate(p.ID(), life)
	if err == nil {
		p.Identify(func(id *device.Identity) { id.Certificate = &cert })
	}
	return err
}
