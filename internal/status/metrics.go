package status

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// Known are the label values that are known before anything happens. Their series are there from
// the first scrape, because a series that appears with its first fault has no increase that an
// alert could see.
type Known struct {
	Version   string
	GoVersion string

	Rules         []string // ids of the decision table
	Drops         []string // signals that end a link
	Registrations []string // signals with which a registration ends without a hub
	Problems      []string // kinds of what an outbox reports
	Methods       []string // direct methods that the device handles
}

// Figures are what a scrape reads beside the [View]. All counts are since the start.
type Figures struct {
	Dropped     uint64 // messages that the outbox has given up for room or for age
	Damaged     uint64 // messages that the disk has destroyed
	Quarantined uint64 // messages that no hub will ever take
	Skipped     uint64 // samples that were due and not made
	Invalid     uint64 // inputs that were no samples

	OutboxMax    int64 // bytes that the outbox may hold; 0: it is not known
	Degraded     bool  // the disk takes no messages
	Unreadable   bool  // the outbox cannot read its next message now
	AcksNotSaved bool  // the outbox cannot write acknowledgements down
	Troubles     int   // files of the state directory that cannot be read or written now

	C2D     map[string]uint64 // cloud-to-device messages by result
	Desired map[string]uint64 // desired properties by result
}

// Bounds of label values that come from outside, such as the names of methods that somebody calls.
const (
	maxNames    = 100 // of methods or hubs; every further one is [otherName]
	maxStatuses = 20  // of answers to methods
	maxLabel    = 128 // bytes

	otherName = "other"
	noName    = "none"
)

// Metrics counts what happens to a device, for Prometheus. Rare facts come from the journal, of
// which it is a sink (Take). Figures that have an owner are read from him at each scrape
// (metrics_scrape.go). Durations come by the methods that observe one. All of them may be called
// from any goroutine, and none waits for a scrape.
//
// The series have no label for the device: a process is one device, and Prometheus tells processes
// apart by the label instance. docs/metrics.md lists them all.
type Metrics struct {
	registry *prometheus.Registry
	answers  answers
	source   atomic.Pointer[func() (View, Figures)]
	hubs     names // labels of hubhop_link_info

	events, decisions, failovers, drops, registrations, problems, methods *prometheus.CounterVec
	links, renewals, bugs, suspensions                                    prometheus.Counter
	kinds                                                                 map[journal.Kind]prometheus.Counter
	methodNames, statuses                                                 names
	dials                                                                 map[bool]prometheus.Observer // by success
	recovery, backlog, assigning, puback, method, append, fsync           prometheus.Histogram
	stages                                                                *prometheus.HistogramVec
}

// Buckets of the histograms, in seconds. They suit what a network does, and what a disk does.
var (
	slowBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	fastBuckets = []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 10}
)

// NewMetrics returns metrics in which nothing has happened yet. The process may have more than one:
// each has a registry of its own.
func NewMetrics(k Known) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), hubs: newNames(maxNames), methodNames: newNames(maxNames), statuses: newNames(maxStatuses)}
	m.answers.make = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, DisableCompression: true})
	process := &remembered{Collector: collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), span: processFor}
	m.registry.MustRegister(collectors.NewGoCollector(), process)

	m.events = m.counters("events_total", "Records of the journal, by kind.", "kind", kindNames()...)
	m.kinds = map[journal.Kind]prometheus.Counter{}
	for _, kind := range journal.Kinds {
		m.kinds[kind] = m.events.WithLabelValues(string(kind))
	}
	m.decisions = m.counters("decisions_total", "Decisions, by the rule of the decision table.", "rule", k.Rules...)
	m.failovers = m.counters("failovers_total", "Links that came up on another hub than the link before, by the rule that began the move.", "rule", append([]string{noName}, k.Rules...)...)
	m.drops = m.counters("link_drops_total", "Links that ended, by signal; renewals of tokens and stops do not count.", "signal", k.Drops...)
	m.registrations = m.counters("dps_registrations_total", "Registrations at DPS that have ended, by result: assigned, or what went wrong.", "result",
		append([]string{assigned}, k.Registrations...)...)
	m.problems = m.counters("outbox_problems_total", "Reports of the outbox, by kind; of a flood of drops only the first of each minute and its sum count.", "kind", k.Problems...)
	m.links = m.counter("links_total", "Links that came up, renewals of tokens among them.")
	m.renewals = m.counter("token_renewals_total", "Links that came up to renew a token.")
	m.bugs = m.counter("bugs_total", "Panics that were contained.")
	m.suspensions = m.counter("suspensions_total", "Suspensions of this machine that the device has noticed.")

	m.methods = m.counters("methods_total", "Direct methods, by name and status of the answer; none: the link ended before the answer.", "name")
	m.knowMethods(k.Methods)

	dials := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "hubhop", Name: "dial_seconds",
		Help: "Time from the beginning of a dial to the session with the hub, or to the failure.", Buckets: slowBuckets}, []string{"result"})
	m.registry.MustRegister(dials)
	m.dials = map[bool]prometheus.Observer{true: dials.WithLabelValues("up"), false: dials.WithLabelValues("failed")}
	m.recovery = m.histogram("recovery_seconds", "Time from the loss of a link to the next link; renewals of tokens do not count.", slowBuckets)
	m.backlog = m.histogram("backlog_sent_seconds", "Time from the beginning of a link until all that had waited for it was sent; only of 64 messages and more, or after 10 s without a link.", slowBuckets)
	m.assigning = m.histogram("dps_assign_seconds", "Time that DPS took to assign a hub.", slowBuckets)
	m.puback = m.histogram("puback_seconds", "Time from the sending of a message to its PUBACK; messages that were sent before do not count.", slowBuckets)
	m.method = m.histogram("method_seconds", "Time from the arrival of a direct method to its answer.", slowBuckets)
	m.append = m.histogram("outbox_append_seconds", "Time that an append to the outbox took, waits for room included.", fastBuckets)
	m.fsync = m.histogram("outbox_fsync_seconds", "Time that a sync of a segment of the outbox took.", fastBuckets)
	m.stages = prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "hubhop", Name: "flow_seconds",
		Help: "Time that a message spent in a stage of a flow.", Buckets: fastBuckets}, []string{"stage"})
	m.registry.MustRegister(m.stages, &scrape{m, k})
	return m
}

func kindNames() (all []string) {
	for _, k := range journal.Kinds {
		all = append(all, string(k))
	}
	return all
}

// knowMethods makes the series of the methods that the device handles.
func (m *Metrics) knowMethods(known []string) {
	statuses := []int{200, 400, 500, 503, 504, 0}
	for _, s := range statuses {
		m.statuses.know(statusLabel(s))
	}
	for _, name := range known[:min(len(known), maxNames)] {
		m.methodNames.know(name)
		for _, s := range statuses {
			m.methods.WithLabelValues(asLabel(name), statusLabel(s))
		}
	}
}

// statusLabel writes a status; 0 stands for an answer that nobody got.
func statusLabel(status int) string {
	if status == 0 {
		return noName
	}
	return strconv.Itoa(status)
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "hubhop", Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

// counters makes counters that differ by a label, and those of the values that are known.
func (m *Metrics) counters(name, help, label string, known ...string) *prometheus.CounterVec {
	labels := []string{label}
	if name == "methods_total" {
		labels = append(labels, "status")
	}
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "hubhop", Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	for _, value := range known {
		c.WithLabelValues(value)
	}
	return c
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "hubhop", Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// Handler serves GET /metrics, as OpenMetrics if the client asks for it. An answer is at most
// 500 ms old. It is not compressed, because that would cost more than all the rest.
func (m *Metrics) Handler() http.Handler { return &m.answers }

// Show says where the figures of a scrape come from. The function is called for each scrape, from
// any goroutine. Until Show is called these figures are 0.
func (m *Metrics) Show(source func() (View, Figures)) { m.source.Store(&source) }

// assigned is the result of a registration that named a hub.
const assigned = "assigned"

// Take is a sink of the journal.
func (m *Metrics) Take(e journal.Event) {
	if c := m.kinds[e.Kind]; c != nil {
		c.Inc()
	}
	switch e.Kind {
	case journal.Connected:
		m.links.Inc()
		if e.Outage > 0 {
			m.recovery.Observe(e.Outage.Seconds())
		}
		m.moved(e)
	case journal.Renewed:
		m.links.Inc()
		m.renewals.Inc()
		m.moved(e)
	case journal.Lost:
		m.drops.WithLabelValues(e.Signal).Inc()
	case journal.Decision:
		m.decisions.WithLabelValues(e.Rule).Inc()
		if e.Hub == "" && e.Error != "" { // a registration has failed
			m.registrations.WithLabelValues(e.Signal).Inc()
		}
	case journal.Assigned, journal.AssignedAgain:
		m.registrations.WithLabelValues(assigned).Inc()
		m.assigning.Observe(e.Took.Seconds())
	case journal.BacklogSent:
		m.backlog.Observe(e.Took.Seconds())
	case journal.OutboxProblem:
		m.problems.WithLabelValues(e.Name).Inc()
	case journal.Resumed:
		m.suspensions.Inc()
	case journal.Bug:
		m.bugs.Inc()
	default:
	}
}

// moved counts a failover if a link has come up on another hub.
func (m *Metrics) moved(e journal.Event) {
	if e.From != "" {
		m.failovers.WithLabelValues(cmp.Or(e.Rule, noName)).Inc()
	}
}

// Dialled counts a dial, which has failed or has become a session with a hub.
func (m *Metrics) Dialled(took time.Duration, up bool) { m.dials[up].Observe(took.Seconds()) }

// Acknowledged counts the acknowledgement of a message that was sent so long ago.
func (m *Metrics) Acknowledged(took time.Duration) { m.puback.Observe(took.Seconds()) }

// Answered counts a direct method. status is that of its answer; 0: nobody has got the answer.
func (m *Metrics) Answered(name string, status int, took time.Duration) {
	m.methods.WithLabelValues(m.methodNames.of(name), m.statuses.of(statusLabel(status))).Inc()
	m.method.Observe(took.Seconds())
}

// Appended counts an append to the outbox.
func (m *Metrics) Appended(took time.Duration) { m.append.Observe(took.Seconds()) }

// Synced counts a sync of the outbox.
func (m *Metrics) Synced(took time.Duration) { m.fsync.Observe(took.Seconds()) }

// FlowStage counts a message that has left a stage of a flow. The series appears with its first
// message: without flows there is none.
func (m *Metrics) FlowStage(stage string, took time.Duration) {
	m.stages.WithLabelValues(asLabel(stage)).Observe(took.Seconds())
}

// names bounds the values of a label that come from outside.
type names struct {
	most int // beside those that are known

	mu    sync.Mutex
	known map[string]bool
	seen  map[string]bool
}

func newNames(most int) names {
	return names{most: most, known: map[string]bool{}, seen: map[string]bool{}}
}

// know makes a value one that is never [otherName].
func (n *names) know(value string) { n.known[asLabel(value)] = true }

// of returns a value as a label.
func (n *names) of(value string) string {
	value = asLabel(value)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[value] || n.seen[value] {
		return value
	}
	if len(n.seen) == n.most {
		return otherName
	}
	n.seen[value] = true
	return value
}

// asLabel makes a text of outside a label value: valid UTF-8 of bounded length.
func asLabel(value string) string {
	return journal.Clip(strings.ToValidUTF8(value, "\uFFFD"), maxLabel)
}
