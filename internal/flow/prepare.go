package flow

import (
	"fmt"
	"slices"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/hub"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/topic"
)

// prepareFor returns what makes a message ready for a destination: first the headers, in their
// order, and then the topic (Microsoft's pages "Create data flow graphs", "Headers", and "Use
// dynamic destination topics in data flows"). An error is about the destination.
func prepareFor(d *manifest.Destination) (func(*node.Message) error, error) {
	headers := d.Headers
	if d.Endpoint == manifest.EndpointHub {
		if err := hub.CheckPlace(d.To); err != nil {
			return nil, err
		}
		return func(m *node.Message) error { applyHeaders(headers, m); return nil }, nil
	}
	if d.Settings != nil && d.Settings.Mqtt == nil { // a static name, or a directory
		to := d.To
		return func(m *node.Message) error {
			applyHeaders(headers, m)
			if d.Settings.Kafka != nil {
				return nil // the key of a record may be the topic that it came on
			}
			m.Topic, m.TopicSet = to, true
			return nil
		}, nil
	}
	pattern, err := topic.Parse(d.To)
	if err != nil {
		return nil, err
	}
	return func(m *node.Message) error {
		applyHeaders(headers, m)
		output := ""
		if m.TopicSet {
			output = m.Topic
		}
		to, err := pattern.Expand(inputTopic(m), output)
		if err != nil {
			return err
		}
		m.Topic, m.TopicSet = to, true
		return nil
	}, nil
}

// inputTopic returns the topic that a message came on.
func inputTopic(m *node.Message) string {
	if m.InputTopic != "" {
		return m.InputTopic
	}
	return m.Topic
}

// applyHeaders changes the user properties. Others may have the same slice, so it is never changed
// in place.
func applyHeaders(headers []manifest.Header, m *node.Message) {
	if len(headers) == 0 {
		return
	}
	m.Properties = slices.Clone(m.Properties)
	for i := range headers {
		h := &headers[i]
		_, has := m.Get(h.Key)
		switch h.Action {
		case "AddIfNotPresent":
			if !has {
				m.Properties = append(m.Properties, node.Property{Key: h.Key, Value: h.Value})
			}
		case "AddOrReplace", "Remove":
			m.Properties = slices.DeleteFunc(m.Properties, func(p node.Property) bool { return p.Key == h.Key })
			if h.Action == "AddOrReplace" {
				m.Properties = append(m.Properties, node.Property{Key: h.Key, Value: h.Value})
			}
		default:
			panic(fmt.Sprintf("the manifest was not checked: it has the action %q", h.Action))
		}
	}
}
