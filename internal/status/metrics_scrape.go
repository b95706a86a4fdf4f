package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reading is what one scrape has read.
type reading struct {
	View
	Figures
	m   *Metrics
	now time.Time
}

// scrape reads the figures that have an owner, once for each scrape.
type scrape struct {
	m     *Metrics
	known Known
}

// figure is a family of series that is read at a scrape.
type figure struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	read       func(r *reading, put func(value float64, labels ...string))
}

// Results of cloud-to-device messages and of desired properties.
const (
	Handled  = "handled"  // the message had its effect
	Applied  = "applied"  // the value is in use
	Failed   = "failed"   // no effect
	Repeated = "repeated" // it was handled before
	Removed  = "removed"  // the property is not desired any more
)

var (
	c2dResults     = []string{Handled, Failed, Repeated}
	desiredResults = []string{Applied, Failed, Removed}
)

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// one makes a family of a single series.
func one(name, help string, kind prometheus.ValueType, value func(r *reading) float64) figure {
	return figure{name, help, kind, nil, func(r *reading, put func(float64, ...string)) { put(value(r)) }}
}

// figures are the families that are read at a scrape, flows and assets excepted.
var figures = []figure{
	one("connected", "1 while a link to a hub is at work.", gauge, func(r *reading) float64 { return yes(r.Hub != "") }),
	one("ready", "1 while /readyz answers 200: a link is at work and the device does not stop.", gauge, func(r *reading) float64 { return yes(r.State.Linked()) }),
	{"state", "1 for the state in which the device is, 0 for the others.", gauge, []string{"state"}, func(r *reading, put func(float64, ...string)) {
		for _, s := range States {
			put(yes(r.State == s), string(s))
		}
	}},
	{"device_info", "1; the label is the id of the device.", gauge, []string{"device"}, func(r *reading, put func(float64, ...string)) {
		put(1, asLabel(r.Device))
	}},
	{"link_info", "1; the labels name the hub of the link and its transport, none without a link.", gauge, []string{"hub", "transport"}, func(r *reading, put func(float64, ...string)) {
		if r.Hub == "" {
			put(1, noName, noName)
			return
		}
		put(1, r.m.hubs.of(r.Hub), asLabel(r.Transport))
	}},
	one("started_timestamp_seconds", "When the device started in this process.", gauge, func(r *reading) float64 { return unix(r.Started) }),
	one("link_since_timestamp_seconds", "Since when there is a link, or since when there is none.", gauge, func(r *reading) float64 { return unix(r.Since) }),
	one("outage_seconds", "How long there has been no link; 0 while there is one.", gauge, func(r *reading) float64 {
		if r.Hub != "" || r.Since.IsZero() {
			return 0
		}
		return max(0, r.now.Sub(r.Since).Seconds())
	}),
	one("needs_person", "1 while the cloud refuses the device until a person acts.", gauge, func(r *reading) float64 { return yes(r.State == Refused) }),
	{"decision_info", "1; the labels are the rule and the action of the last failure, none before the first.", gauge, []string{"rule", "action"}, func(r *reading, put func(float64, ...string)) {
		if r.Why == nil {
			put(1, noName, noName)
			return
		}
		put(1, asLabel(r.Why.Rule), asLabel(r.Why.Action))
	}},
	one("next_attempt_timestamp_seconds", "When the next try is; 0 with a link, and while a try is under way.", gauge, func(r *reading) float64 { return unixOf(r.NextTry) }),
	one("last_failover_timestamp_seconds", "When the last failover ended; 0 before the first.", gauge, func(r *reading) float64 {
		if r.LastFailover == nil {
			return 0
		}
		return unix(r.LastFailover.At)
	}),
	one("last_failover_seconds", "How long there was no link in the last failover; 0 before the first.", gauge, func(r *reading) float64 {
		if r.LastFailover == nil {
			return 0
		}
		return float64(r.LastFailover.TookMs) / 1000
	}),

	one("backlog_messages", "Messages that no hub has acknowledged.", gauge, func(r *reading) float64 { return float64(r.Outbox.Queued) }),
	one("backlog_bytes", "Bytes that unacknowledged messages take in the outbox.", gauge, func(r *reading) float64 { return float64(r.Outbox.Bytes) }),
	one("backlog_oldest_age_seconds", "Age of the oldest message that no hub has acknowledged; 0 if none waits.", gauge, func(r *reading) float64 { return r.Outbox.OldestAgeSeconds }),
	one("outbox_max_bytes", "Bytes that the outbox may hold.", gauge, func(r *reading) float64 { return float64(r.OutboxMax) }),
	one("outbox_last_seq", "Sequence number of the newest message.", gauge, func(r *reading) float64 { return float64(r.Outbox.LastSeq) }),
	one("outbox_degraded", "1 while the disk takes no messages: new ones are kept in memory only.", gauge, func(r *reading) float64 { return yes(r.Degraded) }),
	one("outbox_unreadable", "1 while the next message cannot be read from the disk.", gauge, func(r *reading) float64 { return yes(r.Unreadable) }),
	one("outbox_acks_unsaved", "1 while acknowledgements cannot be written: a restart would send messages again.", gauge, func(r *reading) float64 { return yes(r.AcksNotSaved) }),
	one("state_dir_troubles", "Files of the state directory, the outbox excepted, that cannot be read or written now.", gauge, func(r *reading) float64 { return float64(r.Troubles) }),

	one("messages_made_total", "Messages that the outbox has taken.", counter, func(r *reading) float64 { return float64(r.Telemetry.Made) }),
	one("messages_acknowledged_total", "Messages that a hub has acknowledged.", counter, func(r *reading) float64 { return float64(r.Telemetry.Acknowledged) }),
	one("messages_repeated_total", "Messages that were sent once more, because no acknowledgement had come.", counter, func(r *reading) float64 { return float64(r.Telemetry.Repeated) }),
	{"messages_dropped_total", "Messages that no hub will ever get: policy (for room or for age), damaged (by the disk), quarantined (no hub takes them).", counter, []string{"reason"},
		func(r *reading, put func(float64, ...string)) {
			put(float64(r.Dropped), "policy")
			put(float64(r.Damaged), "damaged")
			put(float64(r.Quarantined), "quarantined")
		}},
	one("samples_skipped_total", "Samples that were due and not made: the outbox was full, or the disk or the reading was too slow.", counter, func(r *reading) float64 { return float64(r.Skipped) }),
	one("samples_invalid_total", "Inputs that were no samples, and readings that failed.", counter, func(r *reading) float64 { return float64(r.Invalid) }),

	one("link_rtt_seconds", "Time from a message to its acknowledgement, smoothed; 0 without a link.", gauge, func(r *reading) float64 { return r.Link.RTTMs / 1000 }),
	one("link_in_flight_messages", "Messages that are sent and not acknowledged.", gauge, func(r *reading) float64 { return float64(r.Link.InFlight) }),
	one("link_window_messages", "Messages that may be in flight on the link; 0 without a link.", gauge, func(r *reading) float64 { return float64(r.Link.Window) }),

	{"c2d_total", "Cloud-to-device messages, by result.", counter, []string{"result"}, func(r *reading, put func(float64, ...string)) {
		for _, result := range c2dResults {
			put(float64(r.C2D[result]), result)
		}
	}},
	{"desired_total", "Desired properties that were dealt with, by result.", counter, []string{"result"}, func(r *reading, put func(float64, ...string)) {
		for _, result := range desiredResults {
			put(float64(r.Desired[result]), result)
		}
	}},
	one("dps_last_registration_timestamp_seconds", "When DPS last named a hub; 0 if it has not.", gauge, func(r *reading) float64 { return unixOf(r.DPS.LastAt) }),

	one("clock_trusted", "1 while the device believes the time that it goes by.", gauge, func(r *reading) float64 { return yes(r.Clock.Trusted) }),
	one("clock_offset_seconds", "How far the time that the device goes by is ahead of this machine's clock.", gauge, func(r *reading) float64 { return float64(r.Clock.OffsetMs) / 1000 }),
	{"credential_expiry_timestamp_seconds", "When the credential ends: the certificate, or the token of the link; 0 if that is not known.", gauge, []string{"kind"},
		func(r *reading, put func(float64, ...string)) {
			put(unixOf(r.Credential.Expires), asLabel(r.Credential.Kind))
		}},
}

// flowFigures are the families of flows and assets. Without flows and assets they have no series.
var flowFigures = []figure{
	flow("flow_in_total", "Messages that a flow has taken.", counter, func(f Flow) float64 { return float64(f.In) }),
	flow("flow_out_total", "Messages that a flow has put out.", counter, func(f Flow) float64 { return float64(f.Out) }),
	flow("flow_dropped_total", "Messages that a flow has dropped on purpose.", counter, func(f Flow) float64 { return float64(f.Dropped) }),
	flow("flow_errors_total", "Messages that failed in a flow.", counter, func(f Flow) float64 { return float64(f.Errors) }),
	flow("flow_gaps_total", "Times that a broker had lost the session of a flow, so that messages may be missing.", counter, func(f Flow) float64 { return float64(f.Gaps) }),
	flow("flow_in_flight_messages", "Messages that a flow has taken and not acknowledged.", gauge, func(f Flow) float64 { return float64(f.InFlight) }),
	flow("flow_oldest_age_seconds", "Age of the oldest message that a flow has taken and not acknowledged.", gauge, func(f Flow) float64 { return f.OldestAgeSeconds }),
	flow("flow_running", "1 while a flow runs.", gauge, func(f Flow) float64 { return yes(f.State == "running") }),
	{"assets", "Assets, by state.", gauge, []string{"state"}, func(r *reading, put func(float64, ...string)) {
		if len(r.Assets) == 0 {
			return
		}
		for _, state := range []string{"ok", "invalid", "unavailable"} {
			n := 0
			for _, a := range r.Assets {
				if a.State == state {
					n++
				}
			}
			put(float64(n), state)
		}
	}},
}

// flow makes a family with a series for each flow. Beyond the bound, and for a name that is there
// twice, flows share a series.
func flow(name, help string, kind prometheus.ValueType, value func(Flow) float64) figure {
	return figure{name, help, kind, []string{"flow"}, func(r *reading, put func(float64, ...string)) {
		sums := map[string]float64{}
		for _, f := range r.Flows {
			label := asLabel(f.Name)
			if _, there := sums[label]; !there && len(sums) >= maxNames {
				label = otherName
			}
			sums[label] += value(f)
		}
		for label, sum := range sums {
			put(sum, label)
		}
	}}
}

// descs are the descriptions of the families, in the order of figures and flowFigures.
var descs = func() (all []*prometheus.Desc) {
	for _, list := range [][]figure{figures, flowFigures} {
		for _, f := range list {
			all = append(all, prometheus.NewDesc("hubhop_"+f.name, f.help, f.labels, nil))
		}
	}
	return all
}()

var buildInfo = prometheus.NewDesc("hubhop_build_info", "1; the labels are the version of hubhop and that of Go.", []string{"version", "goversion"}, nil)

// Describe tells the registry which families there are.
func (s *scrape) Describe(ch chan<- *prometheus.Desc) {
	ch <- buildInfo
	for _, d := range descs {
		ch <- d
	}
}

// Collect reads the figures, all of them at one moment.
func (s *scrape) Collect(ch chan<- prometheus.Metric) {
	r := &reading{m: s.m, now: time.Now()}
	if source := s.m.source.Load(); source != nil {
		r.View, r.Figures = (*source)()
	}
	ch <- prometheus.MustNewConstMetric(buildInfo, gauge, 1, asLabel(s.known.Version), asLabel(s.known.GoVersion))
	i := 0
	for _, list := range [][]figure{figures, flowFigures} {
		for _, f := range list {
			desc := descs[i]
			i++
			f.read(r, func(value float64, labels ...string) {
				ch <- prometheus.MustNewConstMetric(desc, f.kind, value, labels...)
			})
		}
	}
}

func yes(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// unix writes a time as Prometheus has it; 0 stands for no time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func unixOf(t *time.Time) float64 {
	if t == nil {
		return 0
	}
	return unix(*t)
}
