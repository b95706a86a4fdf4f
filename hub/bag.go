package hub

import (
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// IoT Hub's names for the fields of a message (Microsoft: "System properties of device-to-cloud IoT
// Hub messages").
const (
	midName       = "$.mid"
	createdName   = "iothub-creation-time-utc"
	gapName       = "gap" // ours: an application property
	typeName      = "$.ct"
	encodingName  = "$.ce"
	componentName = "$.sub"
)

// creationTime is how IoT Hub wants its times: RFC 3339, UTC, milliseconds.
const creationTime = "2006-01-02T15:04:05.000Z"

// bag writes the property bags of messages. The bag of a message has two parts. One is its own. The
// other most likely equals that of the message before, and is then not written again.
type bag struct {
	own     []byte
	ownSize int // bytes of names and values, unescaped

	common                          []byte
	commonSize                      int
	contentType, encoding, resource string // what common was made of
	known                           bool   // common is of these

	dates dates
	keys  []string // of the application's properties, in order
}

// encode writes the bag of m. Both parts are valid until the next call. The application's
// properties overrule none of the fields that m has. If neither part is empty, the caller puts '&'
// between them.
func (b *bag) encode(m *message.Outgoing) (own, common []byte, err error) {
	if !b.known || m.ContentType != b.contentType || m.ContentEncoding != b.encoding || m.Component != b.resource {
		if err := b.encodeCommon(m); err != nil {
			return nil, nil, err
		}
	}
	w := bagWriter{out: b.own[:0]}
	w.pair(midName, m.ID)
	if !m.Created.IsZero() {
		w.begin(createdName)
		from := len(w.out)
		w.out = b.dates.append(w.out, m.Created)
		w.size += len(w.out) - from - b.dates.escaped()
	}
	w.pair(gapName, m.Gap)
	if len(m.Properties) > 0 {
		b.keys = slices.AppendSeq(b.keys[:0], maps.Keys(m.Properties))
		slices.Sort(b.keys)
		for _, key := range b.keys {
			if !overruled(m, key) {
				w.property(key, m.Properties[key])
			}
		}
		clear(b.keys)
	}
	b.own, b.ownSize = w.out, w.size
	return w.out, b.common, w.err
}

func (b *bag) encodeCommon(m *message.Outgoing) error {
	w := bagWriter{out: b.common[:0]}
	w.pair(typeName, m.ContentType)
	w.pair(encodingName, m.ContentEncoding)
	w.pair(componentName, m.Component)
	b.common, b.commonSize = w.out, w.size
	b.contentType, b.encoding, b.resource, b.known = m.ContentType, m.ContentEncoding, m.Component, w.err == nil
	return w.err
}

// size returns the number of bytes of all names and values in the bag that was written last, before
// they were escaped.
func (b *bag) size() int { return b.ownSize + b.commonSize }

// overruled reports whether an application property has the name of a field that the message has.
func overruled(m *message.Outgoing, key string) bool {
	switch key {
	case midName:
		return m.ID != ""
	case createdName:
		return !m.Created.IsZero()
	case gapName:
		return m.Gap != ""
	case typeName:
		return m.ContentType != ""
	case encodingName:
		return m.ContentEncoding != ""
	case componentName:
		return m.Component != ""
	}
	return false
}

// bagWriter writes names and values, escaped. It keeps the first error: a text that IoT Hub would
// not take.
type bagWriter struct {
	out  []byte
	size int // bytes of names and values, unescaped
	err  error
}

// begin writes a name, and the characters around it.
func (w *bagWriter) begin(name string) {
	if len(w.out) > 0 {
		w.out = append(w.out, '&')
	}
	w.text(name, name)
	w.out = append(w.out, '=')
}

// pair writes a field that may be missing.
func (w *bagWriter) pair(name, value string) {
	if value != "" {
		w.begin(name)
		w.text(name, value)
	}
}

// property writes a property of the application, whose name and value may be anything.
func (w *bagWriter) property(name, value string) {
	if name == "" && w.err == nil {
		w.err = &MessageError{"a property without a name"}
	}
	w.begin(name)
	w.text(name, value)
}

// text writes a part of the property called name.
func (w *bagWriter) text(name, part string) {
	w.size += len(part)
	n := plainPart(part)
	w.out = append(w.out, part[:n]...)
	if n == len(part) {
		return
	}
	if !utf8.ValidString(part[n:]) && w.err == nil {
		w.err = &MessageError{fmt.Sprintf("the property %q is not UTF-8 text", name)}
	}
	w.out = appendEscaped(w.out, part[n:])
}

// dates writes creation times, escaped. Times of one second have all but the milliseconds in
// common.
type dates struct {
	second int64
	text   []byte // the last one; empty: none
}

// escaped is how many bytes escaping added to a time: two for each of its two colons.
func (*dates) escaped() int { return 2 * len("3A") }

func (d *dates) append(out []byte, t time.Time) []byte {
	if len(d.text) == 0 || t.Unix() != d.second {
		var plain [len(creationTime) + 8]byte
		d.text = appendEscaped(d.text[:0], string(t.UTC().AppendFormat(plain[:0], creationTime)))
		d.second = t.Unix()
		return append(out, d.text...)
	}
	ms := t.Nanosecond() / int(time.Millisecond)
	out = append(out, d.text[:len(d.text)-len("000Z")]...)
	return append(out, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}
