package hub

import (
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// What IoT Hub takes in one message (Microsoft's page "IoT Hub quotas and throttling": 256 KB), and
// MQTT in one topic, which holds the properties. Something is kept back for what the outbox and the
// link add: the number of the message, its time, and the name of the device.
const (
	maxMessage = 262143 - 256
	maxTopic   = 65535 - 1024
)

// fault is the error for a message that no hub will ever take.
type fault struct{ text string }

func (f *fault) Error() string { return f.text }

// Permanent says that no other try will succeed.
func (*fault) Permanent() bool { return true }

// place is what follows "iothub" in a manifest: where the messages go.
type place struct {
	component string
	property  bool
}

// CheckPlace says what is wrong with the dataDestination of a destination iothub; nil: nothing.
func CheckPlace(destination string) error {
	_, err := parsePlace(destination)
	return err
}

func parsePlace(text string) (p place, err error) {
	kind, component, found := strings.Cut(text, "/")
	switch {
	case text == "property":
		return place{property: true}, nil
	case kind != "telemetry" || found && !isComponent(component):
		return p, fmt.Errorf("%q is no place of iothub; use telemetry, telemetry/<component> or property", text)
	}
	return place{component: component}, nil
}

// isComponent says whether a text can be the name of a component. DTDL allows letters, digits and
// underscores, up to 64 of them (the page "Digital Twins Definition Language v3").
func isComponent(name string) bool {
	if name == "" || len(name) > 64 || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// Reserved says whether the name of a user property is left out on the way to a hub although
// nothing is wrong with it.
func Reserved(key string) bool { return strings.HasPrefix(key, "__") || strings.HasPrefix(key, "$") }

// Carries says whether a hub can carry a property of this name. IoT Hub takes any text as a name
// over MQTT, but the names that it sets itself, and that the outbox sets.
func Carries(key string) bool {
	if key == "" || key == "gap" || strings.HasPrefix(key, "iothub-") || !utf8.ValidString(key) {
		return false
	}
	return !strings.ContainsFunc(key, unicode.IsControl)
}

// convert makes a message for the outbox of m, in out, whose map it uses again. lost are the keys
// that it had to leave out.
func (d *Destination) convert(out *message.Message, m *node.Message, arrived time.Time) (lost []string, err error) {
	*out = message.Message{Body: m.Payload, Component: d.p.component, Created: m.Time.Wall(), Properties: out.Properties}
	clear(out.Properties)
	if m.Time == (node.Time{}) {
		out.Created = arrived
	}
	out.ContentType, out.ContentEncoding = d.contentType(m)
	if n := len(m.Properties); out.Properties == nil && (n > 0 || m.ID != "") {
		out.Properties = make(map[string]string, n+1)
	}
	if m.ID != "" {
		out.Properties["id"] = m.ID
	}
	for i := range m.Properties {
		key, value := m.Properties[i].Key, m.Properties[i].Value
		_, repeated := out.Properties[key]
		switch {
		case Reserved(key) || key == "id" && m.ID != "":
		case repeated || !Carries(key) || !utf8.ValidString(value):
			lost = append(lost, key)
		default:
			out.Properties[key] = value
		}
	}
	return lost, fits(out)
}

// contentType returns what a hub is told of the payload.
func (d *Destination) contentType(m *node.Message) (kind, encoding string) {
	switch {
	case m.ContentType != "" && utf8.ValidString(m.ContentType):
		return m.ContentType, charset(m.ContentType)
	case d.looksJSON(m.Payload):
		return "application/json", "utf-8"
	case m.Text:
		return "", "utf-8"
	}
	return "", ""
}

// charset returns the encoding of a content type: what it says or, for JSON, utf-8.
func charset(contentType string) string {
	if contentType == "application/json" {
		return "utf-8"
	}
	kind, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return ""
	case params["charset"] != "":
		return params["charset"]
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return "utf-8"
	}
	return ""
}

// looksJSON says whether a payload is an object or an array of JSON: a bare number or word may be
// anything.
func (d *Destination) looksJSON(payload []byte) bool {
	for _, c := range payload {
		switch c {
		case ' ', '\t', '\r', '\n':
		case '{', '[':
			return d.json.Scan(payload) == nil
		default:
			return false
		}
	}
	return false
}

// fits returns an error for a message that is too large for a hub.
func fits(m *message.Message) error {
	names, topic := 0, 0
	add := func(text string) {
		names += len(text)
		topic += escapedLen(text) + 1
	}
	for _, text := range []string{m.Component, m.ContentType, m.ContentEncoding} {
		add(text)
	}
	for key, value := range m.Properties {
		add(key)
		add(value)
	}
	switch {
	case len(m.Body)+names > maxMessage:
		return &fault{fmt.Sprintf("%d bytes with its properties; IoT Hub takes %d", len(m.Body)+names, maxMessage)}
	case topic > maxTopic:
		return &fault{fmt.Sprintf("its properties take %d bytes as a hub wants them; at most %d fit", topic, maxTopic)}
	case len(m.Body)+topic > maxMessage:
		return &fault{fmt.Sprintf("%d bytes with its properties as a hub wants them; IoT Hub takes %d", len(m.Body)+topic, maxMessage)}
	}
	return nil
}

// escapedLen is how many bytes a text takes percent-encoded.
func escapedLen(text string) (n int) {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~':
			n++
		default:
			n += 3
		}
	}
	return n
}
