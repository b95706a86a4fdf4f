package hub

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
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

// bag writes the property bags of messages; [Properties] reads those that arrive. The bag of a
// message has two parts. One is its own. The other most likely equals that of the message before,
// and is then not written again.
type bag struct {
	own     []byte
	ownSize int // bytes of names and values, unescaped

	common     []byte
	commonSize int
	// What common was made of. It counts only if known is set, which says that this succeeded.
	contentType, encoding, component string
	known                            bool

	dates dates
	keys  []string // of the application's properties, in order
}

// encode writes the bag of m. Both parts are valid until the next call. The application's
// properties overrule none of the fields that m has. If neither part is empty, the caller puts '&'
// between them.
func (b *bag) encode(m *message.Outgoing) (own, common []byte, err error) {
	if !b.known || m.ContentType != b.contentType || m.ContentEncoding != b.encoding || m.Component != b.component {
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
	b.contentType, b.encoding, b.component, b.known = m.ContentType, m.ContentEncoding, m.Component, w.err == nil
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

// Properties is the property bag of a message as it arrived: system properties under their wire
// names ($.mid, $.ct, …), and the application's. Its methods search the text, because a bag of 64
// KB can hold so many properties that a map of them takes megabytes.
type Properties string

// Get returns the value of key, "" if key is missing or has none. If key stands twice, the first
// value counts. Names and values are percent-decoded once, and "+" stays "+". A text that cannot be
// decoded is taken as it is, because a message must not be lost over the spelling of a property.
func (p Properties) Get(key string) string {
	for pair := range strings.SplitSeq(string(p), "&") {
		name, value, _ := strings.Cut(pair, "=")
		if pair != "" && (name == key || unescape(name) == key) {
			return unescape(value)
		}
	}
	return ""
}

// Name returns the value of key as printable text of at most 256 bytes; a longer text is cut.
func (p Properties) Name(key string) string { return printable(p.Get(key), maxName) }

// ID returns the id of the message, "" if it has none. An id of more than 128 characters, or one
// that is not printable, counts as none: IoT Hub accepts no such message.
func (p Properties) ID() string {
	id := p.Get(midName)
	if len(id) > maxID || printable(id, maxID) != id {
		return ""
	}
	return id
}

// escape percent-encodes as the service expects it: a space is %20, never +.
func escape(s string) string { return string(appendEscaped(nil, s)) }

// plain says of each byte that it needs no escaping.
var plain = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~" {
		t[c] = true
	}
	return t
}()

// plainPart returns the length of the part of s, from its start, that needs no escaping.
func plainPart(s string) (n int) {
	for n < len(s) && plain[s[n]] {
		n++
	}
	return n
}

func appendEscaped(out []byte, s string) []byte {
	for s != "" {
		n := plainPart(s)
		if out = append(out, s[:n]...); n == len(s) {
			break
		}
		out = append(out, '%', "0123456789ABCDEF"[s[n]>>4], "0123456789ABCDEF"[s[n]&15])
		s = s[n+1:]
	}
	return out
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}
