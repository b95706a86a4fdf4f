package otlp

import (
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/queue"
)

// batch are messages that go in one request of each kind.
type batch struct {
	queue       *queue.Queue
	items       []item
	haveMetrics bool // the collector has accepted the metrics already
}

// item is a message with what is made of it.
type item struct {
	queue.Item
	metrics []*metricspb.Metric
	logs    []*logspb.LogRecord
}

// newBatch converts messages. Those that have expired or are at fault it completes at once.
func newBatch(items []queue.Item, q *queue.Queue) *batch {
	b := &batch{queue: q}
	now := time.Now()
	for i := range items {
		if e := items[i].Message.Expires; !e.IsZero() && !now.Before(e) {
			q.Complete(items[i:i+1], nil)
			continue
		}
		ms, ls, err := convert(&items[i].Message)
		if err != nil {
			q.Complete(items[i:i+1], err)
			continue
		}
		b.items = append(b.items, item{items[i], ms, ls})
	}
	return b
}

// done says whether nothing is left to be sent.
func (b *batch) done() bool { return len(b.items) == 0 }

// metrics returns the request with the metrics, nil if there are none to be sent. On the wire,
// MetricsData is an ExportMetricsServiceRequest, and LogsData an ExportLogsServiceRequest. The
// packages of those come with a gateway that nobody needs here.
func (b *batch) metrics() *metricspb.MetricsData {
	var all []*metricspb.Metric
	for i := range b.items {
		all = append(all, b.items[i].metrics...)
	}
	if len(all) == 0 || b.haveMetrics {
		return nil
	}
	return &metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{
		Resource: us, ScopeMetrics: []*metricspb.ScopeMetrics{{Scope: scope, Metrics: all}},
	}}}
}

// logs is metrics for log records.
func (b *batch) logs() *logspb.LogsData {
	var all []*logspb.LogRecord
	for i := range b.items {
		all = append(all, b.items[i].logs...)
	}
	if len(all) == 0 {
		return nil
	}
	return &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{
		Resource: us, ScopeLogs: []*logspb.ScopeLogs{{Scope: scope, LogRecords: all}},
	}}}
}

// us and scope say who sends.
var (
	us    = &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: text("hubhop")}}}
	scope = &common.InstrumentationScope{Name: "hubhop"}
)

// complete says that all messages are safe.
func (b *batch) complete() { b.end(nil) }

// fail says that the messages are at fault.
func (b *batch) fail(err error) { b.end(err) }

func (b *batch) end(err error) {
	items := make([]queue.Item, len(b.items))
	for i := range b.items {
		items[i] = b.items[i].Item
	}
	b.queue.Complete(items, err)
	b.items = nil
}

// only is a batch of one of the messages; from has those from one on.
func (b *batch) only(i int) *batch {
	return &batch{queue: b.queue, items: b.items[i : i+1 : i+1], haveMetrics: b.haveMetrics}
}

func (b *batch) from(i int) *batch {
	return &batch{queue: b.queue, items: b.items[i:], haveMetrics: b.haveMetrics}
}
