package kafka

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// The headers that MQTT's own properties become.
const (
	hFormat      = "Payload Format Indicator"
	hResponse    = "Response Topic"
	hExpiry      = "Message Expiry Interval"
	hCorrelation = "Correlation Data"
	hContent     = "Content Type"
)

// The properties that a record's key and time become.
const (
	pKey  = "Key"
	pTime = "Timestamp"
)

const (
	cePrefix    = "ce_" // as the CloudEvents binding for Kafka writes it
	ceOther     = "ce-" // as a table of Microsoft's page has it
	maxProperty = 64 << 10
)

// message makes a message of a record. It drops headers that are not text or too long.
func message(r *kgo.Record) node.Message {
	m := node.Message{Topic: r.Topic, Payload: r.Value, Key: r.Key}
	m.Properties = make([]node.Property, 0, len(r.Headers)+2)
	add := func(key, value string) {
		if len(key) < maxProperty && len(value) < maxProperty && utf8.ValidString(key) && utf8.ValidString(value) {
			m.Properties = append(m.Properties, node.Property{Key: key, Value: value})
		}
	}
	for _, h := range r.Headers {
		switch value := string(h.Value); {
		case (h.Key == hContent || h.Key == "content-type") && utf8.ValidString(value) && len(value) < maxProperty:
			m.ContentType = value
		default:
			add(bare(h.Key), value)
		}
	}
	if r.Key != nil {
		add(pKey, string(r.Key))
	}
	if !r.Timestamp.IsZero() {
		add(pTime, strconv.FormatInt(r.Timestamp.UnixMilli(), 10))
	}
	return m
}

// bare returns the name of a CloudEvents attribute without its prefix, and any other name as it is.
func bare(key string) string {
	for _, prefix := range []string{cePrefix, ceOther} {
		if name, ok := strings.CutPrefix(key, prefix); ok && slices.Contains(cloudevents.Names, name) {
			return name
		}
	}
	return key
}

// headers returns the headers of an outgoing message.
func (o *DestinationOptions) headers(m *node.Message, now time.Time) (hs []kgo.RecordHeader) {
	add := func(key, value string) { hs = append(hs, kgo.RecordHeader{Key: key, Value: []byte(value)}) }
	if o.CopyProperties {
		if m.Text {
			add(hFormat, "1")
		}
		if m.ResponseTopic != "" {
			add(hResponse, m.ResponseTopic)
		}
		if !m.Expires.IsZero() {
			add(hExpiry, strconv.FormatInt(int64(m.Expires.Sub(now)/time.Second), 10))
		}
		if m.Correlation != nil {
			hs = append(hs, kgo.RecordHeader{Key: hCorrelation, Value: m.Correlation})
		}
		if m.ContentType != "" {
			add(hContent, m.ContentType)
		}
	}
	set := cloudevents.Set(m, o.CloudEvents, o.Endpoint)
	event := len(set) > 0 || o.CloudEvents != cloudevents.AsTheyAre && cloudevents.Is(m)
	for _, p := range m.Properties {
		attribute := event && slices.Contains(cloudevents.Names, p.Key)
		switch {
		case cloudevents.Has(set, p.Key):
		case attribute:
			add(cePrefix+p.Key, p.Value)
		case o.CopyProperties:
			add(p.Key, p.Value)
		}
	}
	for _, p := range set {
		add(cePrefix+p.Key, p.Value)
	}
	if _, ok := m.Get(cloudevents.ID); m.ID != "" && !ok && !cloudevents.Has(set, cloudevents.ID) {
		add(cloudevents.ID, m.ID)
	}
	return hs
}
