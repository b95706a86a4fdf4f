package window

import (
	"math"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// shown is a device as a server of its status sees it.
type shown struct {
	d     *device.Device
	o     Options
	flows Flows // nil: there are none
}

// View is for GET /status.
func (s shown) View() status.View { return s.view(s.d.Status()) }

// reading is for GET /metrics.
func (s shown) reading() (status.View, status.Figures) {
	d := s.d.Status()
	return s.view(d), figures(d)
}

func (s shown) view(d device.Status) status.View {
	v := status.View{
		Version: s.o.Version, Device: d.Device, State: status.State(d.State), Started: d.Started, Hub: d.Hub, Since: d.Since, Transport: "mqtt",
		NextTry: moment(d.NextTry), Failovers: d.Failovers,
		Outbox: status.Outbox{
			Queued: d.Outbox.Queued, Bytes: d.Outbox.QueuedBytes, OldestAgeSeconds: rounded(d.OldestAge.Seconds(), 1000), LastSeq: d.Outbox.LastSeq,
			Dropped: d.Outbox.Dropped + d.Outbox.Damaged, Quarantined: d.Outbox.Quarantined,
			Degraded: d.Outbox.Degraded || d.Outbox.Unreadable || d.Outbox.AcksNotSaved,
		},
		Telemetry: status.Telemetry{Made: d.Made, Acknowledged: d.Outbox.Acked, Repeated: d.Repeated, PerSecond: rounded(d.PerSecond, 100)},
		Commands: status.Commands{
			Methods: d.Commands.Methods,
			C2D:     d.Commands.C2DHandled + d.Commands.C2DFailed + d.Commands.C2DRepeated,
			Desired: d.Commands.DesiredApplied + d.Commands.DesiredFailed + d.Commands.DesiredRemoved,
			Failed:  d.Commands.MethodsFailed + d.Commands.C2DFailed + d.Commands.DesiredFailed,
		},
		Link:       status.Link{RTTMs: rounded(d.RTT.Seconds()*1000, 1000), InFlight: d.InFlight, Window: d.Window},
		DPS:        status.DPS{Registrations: d.Registrations, LastAt: moment(d.AssignedAt), StillNames: d.StillNamed},
		Clock:      status.Clock{Trusted: d.ClockTrusted, OffsetMs: d.ClockOffset.Milliseconds()},
		Credential: status.Credential{Kind: s.o.Credential, Expires: moment(d.Expires)},
		Flows:      []status.Flow{}, Assets: []status.Asset{},
	}
	if w := d.Why; w != nil {
		if d.State == device.Refused {
			d.Also = "" // the hubs refuse it because DPS does
		}
		v.Why = &status.Why{Rule: w.Rule, Signal: w.Signal, Action: w.Action, Text: w.Text, Cause: w.Cause, Also: d.Also, Hint: w.Hint, Evidence: w.Evidence, At: w.At}
	}
	if f := d.LastFailover; f != nil {
		v.LastFailover = &status.Failover{From: f.From, To: f.To, Rule: f.Rule, TookMs: f.Took.Milliseconds(), At: f.At}
	}
	faults := d.Trouble
	if d.Outbox.Err != nil {
		faults = append([]string{d.Outbox.Err.Error()}, faults...)
	}
	v.Outbox.Text = strings.Join(faults, "; ")
	if s.flows != nil {
		v.Flows = s.flows.Flows()
	}
	return v
}

// Beats is for GET /healthz.
func (s shown) Beats() (all []status.Beat) {
	for _, b := range s.d.Beats() {
		all = append(all, status.Beat(b))
	}
	if s.flows != nil {
		all = append(all, s.flows.Beat())
	}
	return all
}

// alone is a process that runs data flows and has no hub, as a server of its status sees it.
type alone struct {
	name    string
	started time.Time
	o       Options
	flows   Flows
}

// View is for GET /status.
func (a alone) View() status.View {
	return status.View{Version: a.o.Version, Device: a.name, State: status.Local, Started: a.started, Since: a.started, Transport: "none",
		Clock: status.Clock{Trusted: true}, Credential: status.Credential{Kind: "none"}, Flows: a.flows.Flows(), Assets: []status.Asset{}}
}

func (a alone) reading() (status.View, status.Figures) { return a.View(), status.Figures{} }

// Beats is for GET /healthz.
func (a alone) Beats() []status.Beat { return []status.Beat{a.flows.Beat()} }

// moment is nil for no time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// rounded cuts a number to parts of one.
func rounded(f, parts float64) float64 { return math.Round(f*parts) / parts }
