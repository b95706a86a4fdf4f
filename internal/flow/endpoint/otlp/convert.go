package otlp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// payload is the form of a message, as Microsoft's page has it. Unknown keys are passed over.
type payload struct {
	Metrics []metric `json:"metrics"`
	Logs    []record `json:"logs"`
}

type metric struct {
	Name        *string      `json:"name"`
	Type        *string      `json:"type"`
	TypeAlias   *string      `json:"metric_type"` // as a published sample module writes it
	Value       *json.Number `json:"value"`
	Description string       `json:"description"`
	Unit        string       `json:"unit"`
	Timestamp   *json.Number `json:"timestamp"`
	Attributes  []attribute  `json:"attributes"`
}

type record struct {
	Value      *string      `json:"value"`
	Level      *string      `json:"level"`
	Timestamp  *json.Number `json:"timestamp"`
	Attributes []attribute  `json:"attributes"`
}

type attribute struct {
	Key   *string `json:"key"`
	Value *string `json:"value"`
}

// levels are the severities of OpenTelemetry's log data model.
var levels = map[string]logspb.SeverityNumber{
	"trace": logspb.SeverityNumber_SEVERITY_NUMBER_TRACE,
	"debug": logspb.SeverityNumber_SEVERITY_NUMBER_DEBUG,
	"info":  logspb.SeverityNumber_SEVERITY_NUMBER_INFO,
	"warn":  logspb.SeverityNumber_SEVERITY_NUMBER_WARN,
	"error": logspb.SeverityNumber_SEVERITY_NUMBER_ERROR,
	"fatal": logspb.SeverityNumber_SEVERITY_NUMBER_FATAL,
}

// convert makes the metrics and log records of a message. Its error says what of the payload has
// not the form that the page asks for.
func convert(m *node.Message) (ms []*metricspb.Metric, ls []*logspb.LogRecord, err error) {
	var p payload
	d := json.NewDecoder(bytes.NewReader(m.Payload))
	if err := d.Decode(&p); err != nil {
		return nil, nil, fmt.Errorf("the payload is not of the form {\"metrics\":[…],\"logs\":[…]}: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("something follows the JSON object of the payload")
	}
	if len(p.Metrics) == 0 && len(p.Logs) == 0 {
		return nil, nil, errors.New(`the payload has neither "metrics" nor "logs"`)
	}
	at := uint64(max(m.Time.Nanos, 0))
	for i := range p.Metrics {
		one, err := p.Metrics[i].convert(at)
		if err != nil {
			return nil, nil, fmt.Errorf("metrics[%d]: %w", i, err)
		}
		ms = append(ms, one)
	}
	for i := range p.Logs {
		one, err := p.Logs[i].convert(at)
		if err != nil {
			return nil, nil, fmt.Errorf("logs[%d]: %w", i, err)
		}
		ls = append(ls, one)
	}
	return ms, ls, nil
}

func (m *metric) convert(at uint64) (*metricspb.Metric, error) {
	kind := m.Type
	if kind == nil {
		kind = m.TypeAlias
	}
	switch {
	case m.Name == nil || *m.Name == "":
		return nil, errors.New(`"name" is missing`)
	case kind == nil:
		return nil, errors.New(`"type" is missing`)
	case m.Value == nil:
		return nil, errors.New(`"value" is missing`)
	}
	at, err := timestamp(m.Timestamp, at)
	if err != nil {
		return nil, err
	}
	attributes, err := convertAttributes(m.Attributes)
	if err != nil {
		return nil, err
	}
	out := &metricspb.Metric{Name: *m.Name, Description: m.Description, Unit: m.Unit}
	point := &metricspb.NumberDataPoint{TimeUnixNano: at, Attributes: attributes}
	if err := number(point, *kind, *m.Value); err != nil {
		return nil, err
	}
	switch *kind {
	case "u64_counter", "f64_counter", "i64_up_down_counter", "f64_up_down_counter":
		out.Data = &metricspb.Metric_Sum{Sum: &metricspb.Sum{
			DataPoints:             []*metricspb.NumberDataPoint{point},
			AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA,
			IsMonotonic:            *kind == "u64_counter" || *kind == "f64_counter",
		}}
	case "u64_gauge", "i64_gauge", "f64_gauge":
		out.Data = &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: []*metricspb.NumberDataPoint{point}}}
	case "f64_histogram", "u64_histogram":
		sum := point.GetAsDouble()
		if v, ok := point.GetValue().(*metricspb.NumberDataPoint_AsInt); ok {
			sum = float64(v.AsInt)
		}
		out.Data = &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{
			AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA,
			DataPoints: []*metricspb.HistogramDataPoint{{
				TimeUnixNano: at, Attributes: attributes, Count: 1, Sum: &sum, Min: &sum, Max: &sum, BucketCounts: []uint64{1},
			}},
		}}
	}
	return out, nil
}

// number sets the value of a point, which must fit its type.
func number(point *metricspb.NumberDataPoint, kind string, text json.Number) error {
	switch kind {
	case "u64_counter", "u64_gauge", "u64_histogram":
		v, err := strconv.ParseUint(text.String(), 10, 64)
		if err != nil || v > math.MaxInt64 { // OTLP has signed integers only
			return fmt.Errorf("%q is %.40s, which is no whole number from 0 to %d", "value", text, int64(math.MaxInt64))
		}
		point.Value = &metricspb.NumberDataPoint_AsInt{AsInt: int64(v)}
	case "i64_up_down_counter", "i64_gauge":
		v, err := strconv.ParseInt(text.String(), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is %.40s, which is no whole number of 64 bits", "value", text)
		}
		point.Value = &metricspb.NumberDataPoint_AsInt{AsInt: v}
	case "f64_counter", "f64_up_down_counter", "f64_gauge", "f64_histogram":
		v, err := strconv.ParseFloat(text.String(), 64)
		if err != nil || kind == "f64_counter" && v < 0 {
			return fmt.Errorf("%q is %.40s, which a %s cannot have", "value", text, kind)
		}
		point.Value = &metricspb.NumberDataPoint_AsDouble{AsDouble: v}
	default:
		return fmt.Errorf("%q is %.40q; the types are u64_counter, f64_counter, i64_up_down_counter, f64_up_down_counter, "+
			"u64_gauge, i64_gauge, f64_gauge, f64_histogram and u64_histogram", "type", kind)
	}
	return nil
}

func (r *record) convert(at uint64) (*logspb.LogRecord, error) {
	switch {
	case r.Value == nil:
		return nil, errors.New(`"value" is missing`)
	case r.Level == nil:
		return nil, errors.New(`"level" is missing`)
	}
	severity, ok := levels[*r.Level]
	if !ok {
		return nil, fmt.Errorf("%q is %.40q; the levels are trace, debug, info, warn, error and fatal", "level", *r.Level)
	}
	at, err := timestamp(r.Timestamp, at)
	if err != nil {
		return nil, err
	}
	attributes, err := convertAttributes(r.Attributes)
	if err != nil {
		return nil, err
	}
	return &logspb.LogRecord{
		TimeUnixNano: at, ObservedTimeUnixNano: at, SeverityNumber: severity, SeverityText: *r.Level,
		Body: text(*r.Value), Attributes: attributes,
	}, nil
}

// timestamp reads nanoseconds since 1970. Without any, the time is that of the message.
func timestamp(n *json.Number, at uint64) (uint64, error) {
	if n == nil {
		return at, nil
	}
	v, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is %.40s, which is no count of nanoseconds since 1970", "timestamp", *n)
	}
	return v, nil
}

func convertAttributes(as []attribute) (out []*common.KeyValue, err error) {
	for i, a := range as {
		if a.Key == nil || a.Value == nil {
			return nil, fmt.Errorf("attributes[%d] has no key or no value", i)
		}
		out = append(out, &common.KeyValue{Key: *a.Key, Value: text(*a.Value)})
	}
	return out, nil
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}
