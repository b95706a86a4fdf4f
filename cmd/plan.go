package cmd

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/pemfile"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// dpsBurst is how many registrations a process may make at once.
const dpsBurst = 100

// plan is what the settings make of a device.
type plan struct {
	shared device.Shared
	id     device.Identity
	sample sample.Options
}

// defaultPlan is the plan without any flag. Each default stands in the package that it belongs to.
func defaultPlan() plan {
	return plan{shared: device.Shared{Config: device.DefaultConfig()}, sample: sample.DefaultOptions()}
}

// device turns the settings into all that a device is made of. It reports every fault, with its key
// and the next step.
func (s *settings) device(agent string) (plan, error) {
	p, err := s.behaviour(agent)
	faults := []error{err}
	switch {
	case s.hub || !s.runs:
		faults = append(faults, s.identity(&p.id))
	case s.flows == "":
		faults = append(faults, errors.New("hub is false, so there is nothing to run; give --flows with a directory of data flows"))
	default:
		p.id.DeviceID, _, err = s.name()
		faults = append(faults, err)
	}
	if p.id.PinnedHub == "" {
		faults = append(faults, cli.CheckHost("provisioning-host", p.shared.Config.ProvisioningHost))
	}
	if p.id.Certificate != nil {
		if why := pemfile.Invalid(p.id.Certificate, s.cert, time.Now()); why != "" {
			s.warn(why)
		}
	}
	if p.shared.Roots, err = s.roots(); err != nil {
		faults = append(faults, err)
	}
	if p.id.StateDir, err = s.stateDirectory(); err != nil {
		faults = append(faults, err)
	}
	return p, errors.Join(faults...)
}

// behaviour completes the plan by everything but who the device is and where it lives.
func (s *settings) behaviour(agent string) (plan, error) {
	p := s.plan
	c := &p.shared.Config
	p.shared.Agent, p.shared.DialContext, p.shared.Clock = agent, s.env.DialContext, clock.System()
	p.sample.Input = s.env.Stdin
	// The values of a host are not in the built-in model, so a user who named no model must not be
	// warned of them.
	p.sample.Unmodelled = p.sample.Source == sample.Host && s.modelFile == ""
	if s.flows != "" { // what the flows append is always sent, and never dropped for room
		if s.sources["telemetry-source"] == "" || p.sample.Off.Telemetry {
			p.sample.Source = sample.None
		}
		p.sample.Off.Telemetry, c.Outbox.Full = false, outbox.Block
	}
	c.TracePackets = s.logLevel == zerolog.LevelTraceValue
	c.Outbox.Machine = machineID()
	if s.drainOrder == "fresh-first" {
		c.Drain.Order = telemetry.FreshFirst
	}
	if s.outboxFull == "block" || s.outboxFull == "" && p.sample.Source == sample.Stdin {
		c.Outbox.Full = outbox.Block
	}
	faults := []error{c.Validate(), p.sample.Validate()}
	for _, key := range []string{"provisioning-transport", "telemetry-source", "drain-order", "pipeline", "outbox-full"} {
		// Without a value, outbox-full goes by the source.
		if f := s.fs.Lookup(key); key != "outbox-full" || f.Value.String() != "" {
			faults = append(faults, rules.CheckChoice(f))
		}
	}
	if c.TraceBodies && !c.TracePackets {
		faults = append(faults, errors.New("log-bodies shows what MQTT packets carry, and only log-level trace tells of packets; give both"))
	}
	if s.dpsRate < 1 {
		faults = append(faults, fmt.Errorf("dps-rate must be at least 1, it is %d", s.dpsRate))
	} else {
		perSecond := rate.Limit(float64(s.dpsRate) / 60)
		p.shared.DPSLimit, p.shared.DPSOpenLimit = rate.NewLimiter(perSecond, dpsBurst), rate.NewLimiter(perSecond, dpsBurst)
	}
	m, err := s.model()
	if err != nil {
		faults = append(faults, err)
	}
	p.sample.Model = m
	return p, errors.Join(faults...)
}

// machineID returns a text that differs between machines, so that the outbox notices a copied
// directory.
func machineID() string {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return dps.Fingerprint("machine " + strings.TrimSpace(string(b)))
		}
	}
	host, _ := os.Hostname()
	return dps.Fingerprint("host " + host)
}
