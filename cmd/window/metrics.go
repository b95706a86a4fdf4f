package window

import (
	"runtime"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/status"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// newMetrics returns the metrics of a device that will be made of shared, and lets them hear what
// happens to it.
func newMetrics(shared *device.Shared, o Options) *status.Metrics {
	k := status.Known{Version: o.Version, GoVersion: runtime.Version(), Methods: o.Methods}
	registrations := []string{failover.Unknown.String()}
	for _, r := range failover.Rules {
		k.Rules = append(k.Rules, r.ID)
		name := r.Signal.String()
		if r.Signal.EndsLink() && r.Signal != failover.TokenRenewal && !slices.Contains(k.Drops, name) {
			k.Drops = append(k.Drops, name)
		}
		if strings.HasPrefix(name, "DPS ") && !slices.Contains(registrations, name) {
			registrations = append(registrations, name)
		}
	}
	k.Registrations = registrations
	for kind := outbox.TornTail; kind <= outbox.Missing; kind++ {
		k.Problems = append(k.Problems, kind.String())
	}
	m := status.NewMetrics(k)
	shared.Journal.Sink(m.Take)
	shared.Timings = device.Timings{Dialled: m.Dialled, Acked: m.Acknowledged, Answered: m.Answered}
	shared.Config.Outbox.Appended, shared.Config.Outbox.Synced = m.Appended, m.Synced
	return m
}

// figures are what the metrics show beside the status.
func figures(s device.Status) status.Figures {
	return status.Figures{
		Dropped: s.Outbox.Dropped, Damaged: s.Outbox.Damaged, Quarantined: s.Outbox.Quarantined, Skipped: s.Skipped, Invalid: s.Bad,
		OutboxMax: s.OutboxBytes, Degraded: s.Outbox.Degraded, Unreadable: s.Outbox.Unreadable, AcksNotSaved: s.Outbox.AcksNotSaved, Troubles: len(s.Trouble),
		C2D:     map[string]uint64{status.Handled: s.Commands.C2DHandled, status.Failed: s.Commands.C2DFailed, status.Repeated: s.Commands.C2DRepeated},
		Desired: map[string]uint64{status.Applied: s.Commands.DesiredApplied, status.Failed: s.Commands.DesiredFailed, status.Removed: s.Commands.DesiredRemoved},
	}
}
