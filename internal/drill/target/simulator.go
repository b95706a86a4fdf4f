package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Simulator is a simulator on real sockets: one that runs in another process, behind its control
// API, or one that it starts for each run.
type Simulator struct {
	Control *drill.Control // of the one that runs; nil: a simulator is started for each run
	Who     Who
	Site    Site // of a simulator that runs; of one that is started, only the device id counts
}

// Name is the target's name in reports.
func (t *Simulator) Name() string {
	if t.Control == nil {
		return "embedded"
	}
	return t.Control.URL
}

// Lacks says what the target cannot do.
func (t *Simulator) Lacks(n drill.Need) string {
	switch n {
	case drill.NeedHubFaults, drill.NeedDPSFaults, drill.NeedMoves, drill.NeedOperator, drill.NeedMethods, drill.NeedMail, drill.NeedTwin:
		return ""
	case drill.NeedCloudSetup:
		if t.Control == nil {
			return ""
		}
		return "a simulator that runs is as it was started"
	default:
		return elsewhere(n, t.Who)
	}
}

// Open finds the simulator, or starts it, and makes the device.
func (t *Simulator) Open(ctx context.Context, p drill.Plan) (*drill.World, error) {
	if t.Control == nil {
		return t.start(p)
	}
	state, err := t.Control.State(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; does hubhop sim run, and is %s its control address?", err, t.Control.URL)
	}
	site := t.Site
	if p.Device != "" {
		site.DeviceID = p.Device
	}
	before, err := t.Control.Ledger(ctx, site.DeviceID, 0)
	if err != nil {
		return nil, err
	}
	w := &drill.World{Cloud: &since{t.Control, before.Received}, Ledger: true, Arrival: t.Who.arrival(), Names: map[string]string{},
		Facts: map[string]string{"simulator": t.Control.URL}}
	for _, h := range state.Hubs {
		w.Hubs, w.Names[h.Host] = append(w.Hubs, h.Name), h.Name
	}
	device, err := t.Who.party(p, site)
	if err != nil {
		return nil, err
	}
	w.Devices = []drill.Party{device}
	w.Close = func() error {
		err := device.close()
		within, cancel := afterwards(ctx)
		defer cancel()
		return errors.Join(err, t.putBack(within, state, site.DeviceID))
	}
	return w, nil
}

// putBack ends the faults that the simulator did not have before, and deletes the device if the
// drill has brought it there. A device that keeps its link is somebody else's: the program of the
// drill has ended.
func (t *Simulator) putBack(ctx context.Context, before sim.State, device string) error {
	now, err := t.Control.State(ctx)
	if err != nil {
		return err
	}
	had := map[string]bool{}
	for _, h := range before.Hubs {
		had[h.Name] = h.Fault != ""
	}
	for _, h := range now.Hubs {
		if h.Fault != "" && !had[h.Name] {
			err = errors.Join(err, t.Control.HealHub(ctx, h.Name))
		}
	}
	if now.DPS.Fault != "" && before.DPS.Fault == "" {
		err = errors.Join(err, t.Control.HealDPS(ctx))
	}
	isIt := func(d sim.DeviceState) bool { return d.ID == device }
	if slices.ContainsFunc(before.Devices, isIt) || !slices.ContainsFunc(now.Devices, isIt) {
		return err
	}
	used, failed := t.used(ctx, device)
	if failed == nil && !used {
		failed = t.Control.Act(ctx, device, drill.Delete)
	}
	return errors.Join(err, failed)
}

// linkEnds is how long a simulator may take to see that a link of a program that has ended is over.
const linkEnds = 5 * time.Second

// used says whether a device keeps its link for linkEnds. It returns an error if the simulator has
// not said by then whether the device has one.
func (t *Simulator) used(ctx context.Context, device string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, linkEnds)
	defer cancel()
	watch := &drill.Mover{Control: t.Control}
	linked := false // when it was last seen
	for {
		at, err := watch.Where(ctx, device)
		if err == nil && !at.Connected {
			return false, nil
		}
		if err == nil {
			linked = true
			err = watch.Changed(ctx)
		}
		switch {
		case linked && ctx.Err() != nil:
			return true, nil
		case err != nil:
			return false, fmt.Errorf("the simulator does not say whether the device %s has a link; if nobody uses it, delete it there: %w", device, err)
		}
	}
}

// since is a simulator whose ledger begins where it stood when the drill began.
type since struct {
	*drill.Control
	received int64
}

func (s *since) Ledger(ctx context.Context, device string, behind int64) (sim.Ledger, error) {
	l, err := s.Control.Ledger(ctx, device, behind+s.received)
	l.Received -= s.received
	return l, err
}

// start starts a simulator for one run, on loopback addresses that no other one has.
func (t *Simulator) start(p drill.Plan) (*drill.World, error) {
	conf := inside.CloudConfig(p.With)
	conf.ControlAddr = "127.0.0.1:0"
	if conf.Layout = sim.DefaultConfig().Layout; conf.Layout == sim.LayoutLoopback {
		conf.BaseAddress = fmt.Sprintf("127.%d.%d.1", 100+os.Getpid()/250%100, 1+os.Getpid()%250)
	}
	cloud, err := sim.New(conf)
	if err != nil {
		return nil, err
	}
	if err := cloud.Start(); err != nil {
		return nil, err
	}
	dir := filepath.Join(p.Dir, "cloud")
	if err := errors.Join(os.MkdirAll(dir, 0o700), cloud.WriteFiles(dir)); err != nil {
		return nil, errors.Join(err, cloud.Close())
	}
	info := cloud.Info()
	site := t.Site
	site.DeviceID = p.Device
	if site.DeviceID == "" {
		site.DeviceID = startedDevice
	}
	site.IDScope, site.ProvisioningHost, site.Roots = info.IDScope, info.ProvisioningHost, cloud.CAPool()
	if site.Environ, err = info.Environ(dir); err != nil {
		return nil, errors.Join(err, cloud.Close())
	}
	device, err := t.Who.party(p, site)
	if err != nil {
		return nil, errors.Join(err, cloud.Close())
	}
	w := &drill.World{Devices: []drill.Party{device}, Cloud: drill.Embedded(cloud), Ledger: true, Arrival: t.Who.arrival(),
		Names: map[string]string{}, Facts: map[string]string{"network": "loopback", "control": info.Control}}
	for _, h := range info.Hubs {
		w.Hubs, w.Names[h.Host] = append(w.Hubs, h.Name), h.Name
	}
	w.Close = func() error { return errors.Join(device.close(), cloud.Close()) }
	return w, nil
}

// startedDevice is the id of the device under test of a simulator that was started for it.
const startedDevice = "drill-1"
