package mqtt

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// The CloudEvents attributes, as user properties of MQTT in the binary mode.
const (
	ceVersion = "specversion"
	ceType    = "type"
	ceSource  = "source"
	ceID      = "id"
	ceSubject = "subject"
	ceTime    = "time"
	ceContent = "datacontenttype"
	ceSchema  = "dataschema"
)

// user returns the user properties of a message on its way out.
func (c *Config) user(m *node.Message) ([]byte, error) {
	var set []node.Property
	switch {
	case c.CloudEvents == CloudEventsAsTheyAre:
	case isCloudEvent(m):
		if m.Schema != "" {
			set = append(set, node.Property{Key: ceSchema, Value: m.Schema})
		}
	case c.CloudEvents == CloudEventsCreateOrRemap:
		set = c.created(m)
	}
	if _, ok := m.Get(ceID); c.StampID && m.ID != "" && !ok && !has(set, ceID) {
		set = append(set, node.Property{Key: ceID, Value: m.ID})
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
		if has(set, p.Key) {
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

func has(ps []node.Property, key string) bool {
	for i := range ps {
		if ps[i].Key == key {
			return true
		}
	}
	return false
}

// isCloudEvent reports whether a message has all four attributes that a CloudEvent must have, in the
// version that is known here.
func isCloudEvent(m *node.Message) bool {
	version, ok := m.Get(ceVersion)
	if !ok || version != "1.0" {
		return false
	}
	for _, key := range []string{ceType, ceSource, ceID} {
		if _, ok := m.Get(key); !ok {
			return false
		}
	}
	return true
}

// created returns the attributes of a message that becomes a CloudEvent. They replace those that it
// has. Its content type stays the MQTT property, which stands for datacontenttype.
func (c *Config) created(m *node.Message) []node.Property {
	set := []node.Property{
		{Key: ceVersion, Value: "1.0"},
		{Key: ceType, Value: "ms.aio-dataflow.telemetry"},
		{Key: ceSource, Value: "aio://" + c.Name},
		{Key: ceID, Value: uuid(m.ID)},
		{Key: ceSubject, Value: m.Topic},
		{Key: ceTime, Value: time.Now().UTC().Format("2006-01-02T15:04:05.000Z")},
	}
	if m.Schema != "" {
		set = append(set, node.Property{Key: ceSchema, Value: m.Schema})
	}
	return set
}

// uuid returns a UUID for an id, always the same one, so that a repetition of a message has the id
// of the first. Without an id it is a random one.
func uuid(id string) string {
	var b [16]byte
	version := byte(8) // RFC 9562: made by a rule of one's own
	if id == "" {
		_, _ = rand.Read(b[:])
		version = 4
	} else {
		sum := sha256.Sum256([]byte(id))
		copy(b[:], sum[:])
	}
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
