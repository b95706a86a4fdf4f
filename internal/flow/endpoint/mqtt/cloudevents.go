package mqtt

import (
	"fmt"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// user returns the user properties of a message on its way out.
func (c *Config) user(m *node.Message) ([]byte, error) {
	set := cloudevents.Set(m, c.CloudEvents, c.Name)
	if _, ok := m.Get(cloudevents.ID); c.StampID && m.ID != "" && !ok && !cloudevents.Has(set, cloudevents.ID) {
		set = append(set, node.Property{Key: cloudevents.ID, Value: m.ID})
	}
	size := 0
	for _, p := range m.Properties {
		size += 5 + len(p.Key) + len(p.Value)
	}
	for _, p := range set {
		size += 5 + len(p.Key) + len(p.Value)
	}
	if size == 0 {
		return nil, nil
	}
	out := make([]byte, 0, size)
	for _, p := range m.Properties {
		if cloudevents.Has(set, p.Key) {
			continue
		}
		if len(p.Key) > 65535 || len(p.Value) > 65535 {
			return nil, fmt.Errorf("the property %q has more than 65535 bytes", clip(p.Key))
		}
		if !valid([]byte(p.Key)) || !valid([]byte(p.Value)) {
			return nil, fmt.Errorf("the property %q is not valid UTF-8 text", clip(p.Key))
		}
		out = mqtt5.AppendUser(out, p.Key, p.Value)
	}
	for _, p := range set {
		out = mqtt5.AppendUser(out, p.Key, p.Value)
	}
	return out, nil
}
