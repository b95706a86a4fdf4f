package provisioning

import (
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// DPSFault is what goes wrong with DPS.
type DPSFault struct {
	Kind       string  `json:"kind"`
	Seconds    float64 `json:"seconds,omitempty"`
	RetryAfter *int    `json:"retryAfter,omitempty"` // throttle: seconds; without it Config.RetryAfter counts
	DelayMs    int     `json:"delayMs,omitempty"`    // slow: before every answer, default 1000
	WhenOver   string  `json:"whenOver,omitempty"`   // blackhole: connections that waited are "answer"ed (default) or "reset"
}

// The kinds of DPS faults. DPSDown and DPSBlackhole hit the whole HTTPS address, and IoT Central is
// on that, too.
const (
	DPSDown         = "down"         // dials are refused
	DPSBlackhole    = "blackhole"    // connections are accepted, nothing is answered
	DPSDrop         = "drop"         // the connection is closed in the middle of a registration
	DPSThrottle     = "throttle"     // 429
	DPSError500     = "error500"     // 500
	DPSStuck        = "stuck"        // assigning for ever
	DPSSlow         = "slow"         // answers are late
	DPSUnauthorized = "unauthorized" // 401 for everybody
	DPSStray        = "stray"        // MQTT: every answer is preceded by one to a question nobody asked, and comes twice
)

func (f *DPSFault) check() error {
	if err := iothub.CheckKind(f.Kind, DPSDown, DPSBlackhole, DPSDrop, DPSThrottle, DPSError500, DPSStuck, DPSSlow, DPSUnauthorized, DPSStray); err != nil {
		return err
	}
	if r := f.RetryAfter; r != nil && (*r < 0 || *r > iothub.MaxFaultSeconds) {
		return azure.Errorf(400, "", "retryAfter is %d, must be 0 to %d", *r, iothub.MaxFaultSeconds)
	}
	if err := iothub.CheckWhenOver(f.WhenOver, f.Kind, DPSBlackhole); err != nil {
		return err
	}
	return iothub.CheckTimes(f.Seconds, f.DelayMs)
}

// Fault makes DPS misbehave.
func (p *Service) Fault(f DPSFault) error {
	if err := f.check(); err != nil {
		return err
	}
	err := iothub.FaultError(p.faults.Begin(f, f.Kind, f.Seconds, func() error {
		var m wire.Mode
		how := wire.Keep
		switch f.Kind {
		case DPSDown:
			m.Door, how = wire.DoorShut, wire.RST
		case DPSBlackhole:
			m.Mute, m.Resets = true, f.WhenOver == iothub.WaitingReset
		}
		for _, e := range p.endpoints() {
			if err := e.Enter(m, how, "fault "+f.Kind); err != nil {
				_ = p.undo()
				return azure.Errorf(409, "", "DPS: %v", err)
			}
		}
		return nil
	}, p.undo))
	if err == nil {
		iothub.FaultBegun(p.log, p.config.Tell, "dps", f.Kind, f.Seconds)
	}
	return err
}

// Heal ends the fault of DPS, if it has one.
func (p *Service) Heal() error { return iothub.FaultError(p.faults.End(p.undo)) }

// FaultKind returns the kind of DPS's fault, "" if it has none.
func (p *Service) FaultKind() string { return p.faults.Kind() }

func (p *Service) undo() error {
	for _, e := range p.endpoints() {
		if err := e.Enter(wire.Mode{}, wire.Keep, ""); err != nil {
			return azure.Errorf(409, "", "DPS cannot come back: %v", err)
		}
	}
	return nil
}

// faulty returns the answer that a fault gives to every request, and whether there is such a fault.
func (p *Service) faulty(fault *wire.ActiveFault[DPSFault]) (a answer, hit bool) {
	switch {
	case is(fault, DPSThrottle):
		a = p.throttled(p.config.RetryAfter)
		if r := fault.Fault.RetryAfter; r != nil {
			a.retryAfter = fmt.Sprint(*r)
		}
		a.refused = "throttled: fault " + DPSThrottle
	case is(fault, DPSError500):
		a = p.refusal(&dpsError{code: 500000, text: "Internal server error.", why: "fault " + DPSError500})
	case is(fault, DPSUnauthorized):
		a = p.refusal(&dpsError{code: 401000, text: "Unauthorized", why: "fault " + DPSUnauthorized})
	default:
		return answer{}, false
	}
	return a, true
}

func is(fault *wire.ActiveFault[DPSFault], kind string) bool {
	return fault != nil && fault.Kind == kind
}

func delayOf(fault *wire.ActiveFault[DPSFault]) time.Duration {
	if is(fault, DPSSlow) {
		return iothub.DelayOr(fault.Fault.DelayMs, 1000)
	}
	return 0
}
