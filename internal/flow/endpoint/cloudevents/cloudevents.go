// Package cloudevents gives outgoing messages the attributes of a CloudEvent, as the setting
// cloudEventAttributes of an endpoint asks (Microsoft's page "Configure MQTT data flow endpoints",
// and the CloudEvents specification 1.0). The attributes are properties with bare names; an
// endpoint that spells them in another way does so itself.
package cloudevents

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// Mode is what becomes of the attributes.
type Mode uint8

// The modes.
const (
	AsTheyAre     Mode = iota // nothing is added or removed
	Propagate                 // a CloudEvent stays one, with the schema of the output
	CreateOrRemap             // and every other message becomes one
)

// The attributes that have a name of their own here.
const (
	Version = "specversion"
	Type    = "type"
	Source  = "source"
	ID      = "id"
	Subject = "subject"
	Time    = "time"
	Content = "datacontenttype"
	Schema  = "dataschema"
)

// Names are the attributes that a CloudEvent may have, without its extensions.
var Names = []string{Version, Type, Source, ID, Subject, Time, Content, Schema}

// Is says whether a message has the four attributes that a CloudEvent must have, in version 1.0.
func Is(m *node.Message) bool {
	if version, _ := m.Get(Version); version != "1.0" {
		return false
	}
	for _, key := range []string{Type, Source, ID} {
		if _, ok := m.Get(key); !ok {
			return false
		}
	}
	return true
}

// Set returns the properties that a message gets on its way out. Each replaces those of the same
// key. target is the name of the destination's endpoint. The content type stays the message's own
// field.
func Set(m *node.Message, mode Mode, target string) (set []node.Property) {
	switch {
	case mode == AsTheyAre:
		return nil
	case Is(m):
	case mode == CreateOrRemap:
		set = []node.Property{
			{Key: Version, Value: "1.0"},
			{Key: Type, Value: "ms.aio-dataflow.telemetry"},
			{Key: Source, Value: "aio://" + target},
			{Key: ID, Value: uuid(m.ID)},
			{Key: Subject, Value: m.Topic},
			{Key: Time, Value: time.Now().UTC().Format("2006-01-02T15:04:05.000Z")},
		}
	default:
		return nil
	}
	if m.Schema != "" {
		set = append(set, node.Property{Key: Schema, Value: m.Schema})
	}
	return set
}

// Has says whether a property of this key is among some.
func Has(ps []node.Property, key string) bool {
	return slices.ContainsFunc(ps, func(p node.Property) bool { return p.Key == key })
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
