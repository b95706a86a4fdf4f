package target

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Site says where the device finds its cloud, and who it is there.
type Site struct {
	device.Identity                 // StateDir is set for each run
	ProvisioningHost string         // host or host:port
	Roots            *x509.CertPool // that the device trusts
	Environ          []string       // that tells a program in any language all this
}

// Who runs the device under test.
type Who interface {
	// lacks is drill.Target.Lacks for what the device has to do.
	lacks(n drill.Need) string

	// party makes the device. It has not been started.
	party(p drill.Plan, at Site) (party, error)

	// arrival is drill.World.Arrival.
	arrival() func(sim.Message) drill.Arrival
}

// party is a device that a target has made and closes.
type party interface {
	drill.Party
	close() error
}

// speaking makes a device for a cloud without a ledger: one whose outbox is the proof.
func speaking(who Who, p drill.Plan, at Site, cloud string) (party, error) {
	made, err := who.party(p, at)
	if err != nil {
		return nil, err
	}
	if _, speaks := made.Look(); !speaks {
		return nil, errors.Join(fmt.Errorf("a program in another language is judged by a ledger, and %s has none; use the embedded device, or play it on hubhop sim", cloud), made.close())
	}
	return made, nil
}

// elsewhere says what every target of this package lacks, and what its device lacks.
func elsewhere(n drill.Need, who Who) string {
	switch n {
	case drill.NeedPaths, drill.NeedWeather:
		return "the way to the cloud is a real network here; the embedded target has one that can be broken"
	case drill.NeedVirtual:
		return "time is real here"
	case drill.NeedOthers:
		return "one device takes part here"
	case drill.NeedCloudSetup:
		return "the cloud is as it is"
	case drill.NeedCerts:
		return "nobody here issues certificates"
	default:
		return who.lacks(n)
	}
}

// unseen says why Azure cannot judge what only a simulator counts. It returns "" for everything
// else.
func unseen(n drill.Need) string {
	why := ""
	switch n {
	case drill.NeedNamedHubs:
		why = "Azure calls its hubs by other names"
	case drill.NeedLedger:
		why = "Azure does not say which messages have arrived"
	case drill.NeedCounts:
		why = "Azure does not say how often devices ask it"
	default:
		return ""
	}
	return why + "; the embedded target and a hubhop sim that runs can judge it"
}

// Inner is a device of this process, in real time.
type Inner struct {
	Shared device.Shared // how it behaves; where it connects is the target's business

	// App makes the application of one life of the device, with so much time between two samples.
	App func(interval time.Duration, chance *rand.Rand) device.App
}

func (*Inner) lacks(n drill.Need) string {
	if n == drill.NeedKill {
		return "this process cannot kill a device that is a part of it; name a program with --device external"
	}
	return ""
}

func (*Inner) arrival() func(sim.Message) drill.Arrival { return nil }

func (in *Inner) party(p drill.Plan, at Site) (party, error) {
	if at.DeviceID == "" {
		return nil, errors.New("the device has no id")
	}
	interval := time.Second
	if d, err := time.ParseDuration(p.With.Interval); err == nil {
		interval = d
	}
	o := inside.LocalOptions{
		Shared: in.Shared, Identity: at.Identity, Dir: filepath.Join(p.Dir, "device"), Rival: filepath.Join(p.Dir, "rival"),
		App:   func(chance *rand.Rand) device.App { return in.App(interval, chance) },
		Paced: p.With.Paced, Seed: p.With.Seed, Real: true, Heard: p.Heard,
	}
	o.Shared.Roots, o.Shared.Config.ProvisioningHost = at.Roots, at.ProvisioningHost
	inside.Configure(&o.Shared.Config, p.With)
	return inner{inside.NewLocal(o)}, nil
}

// inner is a device of this process.
type inner struct{ *inside.Local }

func (i inner) close() error {
	i.Stop()
	i.Close()
	return nil
}
