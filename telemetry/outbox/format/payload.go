package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// ID is an outbox id; 0 is none.
type ID uint64

// String is the id in 16 hexadecimal digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// IDDigits is how long the part of an id is that names the outbox.
const IDDigits = 16

// Name is the id of a record.
func (id ID) Name(seq uint64) string { return string(id.AppendName(nil, seq)) }

// AppendName appends the id of a record.
func (id ID) AppendName(b []byte, seq uint64) []byte {
	for shift := 4 * (IDDigits - 1); shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[id>>shift&15])
	}
	b = append(b, '-')
	return strconv.AppendUint(b, seq, 10)
}

// Item is a message in its payload.
type Item struct{ Payload []byte }

// timeRoom is the most bytes that the time of a payload takes.
const timeRoom = binary.MaxVarintLen64 + binary.MaxVarintLen32

// Undated encodes a message without its time. There is room for the time in front.
func Undated(m *message.Message) Item {
	size := timeRoom + len(m.Body) + len(m.ContentType) + len(m.ContentEncoding) + len(m.Component) + 8
	for k, v := range m.Properties {
		size += len(k) + len(v) + 6
	}
	b := make([]byte, timeRoom, size)
	b = appendString(b, m.ContentType)
	b = appendString(b, m.ContentEncoding)
	b = appendString(b, m.Component)
	b = binary.AppendUvarint(b, uint64(len(m.Properties)))
	if len(m.Properties) > 0 {
		for _, k := range slices.Sorted(maps.Keys(m.Properties)) {
			b = appendString(b, k)
			b = appendString(b, m.Properties[k])
		}
	}
	return Item{Payload: append(b, m.Body...)}
}

// At writes the time into an item that has none yet.
func (it Item) At(t time.Time) Item {
	var buf [timeRoom]byte
	b := binary.AppendVarint(buf[:0], t.Unix())
	b = binary.AppendUvarint(b, uint64(t.Nanosecond()))
	it.Payload = it.Payload[timeRoom-len(b):]
	copy(it.Payload, b)
	return it
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errPayload = errors.New("the payload is no message")

// Decoder takes messages out of payloads. It decodes only once what a message shares with the one
// before it, such as content types.
type Decoder struct {
	before message.Message // the strings of the last one
	same   []byte          // how they were written, with the count 0 of properties; else empty
}

// Decode fills in m. Its body is part of the payload; its strings are copies, or those of the
// message before.
func (d *Decoder) Decode(m *message.Message, payload []byte) error {
	r := reader{b: payload}
	seconds, nanos := r.varint(), r.uvarint()
	if r.failed || nanos >= uint64(time.Second) {
		return errPayload
	}
	if len(d.same) == 0 || !bytes.HasPrefix(r.b, d.same) {
		if !d.differ(&r) {
			return errPayload
		}
	} else {
		r.b = r.b[len(d.same):]
	}
	same := &d.before
	m.ContentType, m.ContentEncoding, m.Component, m.Properties = same.ContentType, same.ContentEncoding, same.Component, same.Properties
	m.Created, m.Body = time.Unix(seconds, int64(nanos)).UTC(), r.b
	return nil
}

// differ decodes what is between the time and the body.
func (d *Decoder) differ(r *reader) bool {
	from := r.b
	m := message.Message{ContentType: r.string(d.before.ContentType), ContentEncoding: r.string(d.before.ContentEncoding), Component: r.string(d.before.Component)}
	n := r.uvarint()
	if r.failed || n > uint64(len(r.b))/2 { // a property takes two bytes at least: trust no count
		return false
	}
	if d.same = d.same[:0]; n == 0 {
		d.same = append(d.same, from[:len(from)-len(r.b)]...)
	} else {
		m.Properties = make(map[string]string, min(n, 64))
	}
	for range n {
		k := r.string("")
		m.Properties[k] = r.string("")
	}
	d.before = m
	return !r.failed
}

// reader reads from a payload.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.skip(n)
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.failed, r.b = true, nil
		return
	}
	r.b = r.b[n:]
}

func (r *reader) string(like string) string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.failed, r.b = true, nil
		return ""
	}
	s := r.b[:n]
	r.b = r.b[n:]
	if string(s) == like {
		return like
	}
	return string(s)
}
