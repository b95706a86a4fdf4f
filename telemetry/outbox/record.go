package outbox

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

// MaxRecord is how many bytes one message may take as it is kept: the body and, beside it, its properties and some 20 bytes.
const MaxRecord = 1 << 20

// Record is a message in the line.
type Record struct {
	message.Message
	Pos uint64 // its place in this box's line, increasing also over restarts, meaningless outside
	ID  string // "<outbox id, 16 hexadecimal digits>-<seq, decimal>", names this message for ever
	Gap string // "<first>-<last>": seqs of the same outbox id before this one that left the line unsent and are announced by this record; else ""
}

// boxID is an outbox id; 0 is none.
type boxID uint64

func (id boxID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// idDigits is how long the part of an id is that names the outbox.
const idDigits = 16

// name is the id of a record.
func (id boxID) name(seq uint64) string { return string(id.appendName(nil, seq)) }

func (id boxID) appendName(b []byte, seq uint64) []byte {
	for shift := 4 * (idDigits - 1); shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[id>>shift&15])
	}
	b = append(b, '-')
	return strconv.AppendUint(b, seq, 10)
}

// item is a message on its way to the disk.
type item struct{ payload []byte }

// timeRoom is the most bytes that the time of a payload takes.
const timeRoom = binary.MaxVarintLen64 + binary.MaxVarintLen32

func encode(m *message.Message) item { return undated(m).at(created(m)) }

// created is when a message was made. A message that does not say it was made now.
func created(m *message.Message) time.Time {
	if m.Created.IsZero() {
		return time.Now()
	}
	return m.Created
}

// undated encodes a message without its time. There is room for the time in front.
func undated(m *message.Message) item {
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
	return item{payload: append(b, m.Body...)}
}

// at writes the time into an item that has none yet.
func (it item) at(t time.Time) item {
	var buf [timeRoom]byte
	b := binary.AppendVarint(buf[:0], t.Unix())
	b = binary.AppendUvarint(b, uint64(t.Nanosecond()))
	it.payload = it.payload[timeRoom-len(b):]
	copy(it.payload, b)
	return it
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errPayload = errors.New("the payload is no message")

// decoder takes messages out of payloads. What a message shares with the one before it, as content types are, is not looked at twice.
type decoder struct {
	before message.Message // the strings of the last one
	same   []byte          // and how they were written, with the count of properties behind them; empty if there were some
}

// decode fills in m. Its body is that of the payload, the strings are copies, or those of the message before.
func (d *decoder) decode(m *message.Message, payload []byte) error {
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

// differ takes what is between the time and the body.
func (d *decoder) differ(r *reader) bool {
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
