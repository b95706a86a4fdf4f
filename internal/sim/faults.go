package sim

import (
	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// DPSFault is what goes wrong with DPS.
type DPSFault struct {
	Kind       string  `json:"kind"`
	Seconds    float64 `json:"seconds,omitempty"`
	RetryAfter *int    `json:"retryAfter,omitempty"` // throttle: seconds; without it Config.RetryAfter counts
	DelayMs    int     `json:"delayMs,omitempty"`    // slow: before every answer, default 1000
	WhenOver   string  `json:"whenOver,omitempty"`   // blackhole: connections that waited are "answer"ed (default) or "reset"
}

// The kinds of DPS faults. Down and blackhole hit the whole HTTPS address, so the IoT Central façade goes with them.
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
