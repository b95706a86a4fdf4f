package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// MaxRecord is how many bytes one message may take as it is kept: the body and, beside it, its properties and some 20 bytes.
const MaxRecord = 1 << 20

// Message is what a producer hands in. The outbox keeps nothing of it after Append has returned.
type Message struct {
	Body            []byte
	ContentType     string
	ContentEncoding string
	Created         time.Time // when the sample was taken; zero: the time of the Append. It comes back in UTC
	Properties      map[string]string
	Component       string
}

// Record is a message in the line.
type Record struct {
	Message
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

func encode(m *Message) item {
	created := m.Created
	if created.IsZero() {
		created = time.Now()
	}
	size := 2*binary.MaxVarintLen64 + len(m.Body) + len(m.ContentType) + len(m.ContentEncoding) + len(m.Component) + 8
	for k, v := range m.Properties {
		size += len(k) + len(v) + 6
	}
	b := make([]byte, 0, size)
	b = binary.AppendVarint(b, created.Unix())
	b = binary.AppendUvarint(b, uint64(created.Nanosecond()))
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

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errPayload = errors.New("the payload is no message")

// decode takes a message out of a payload. Its body is that of the payload, the strings are copies; those of the message before, as
// content types are, are shared with it.
func decode(payload []byte, before *Message) (m Message, err error) {
	d := decoder{b: payload}
	seconds, nanos := d.varint(), d.uvarint()
	m.ContentType = d.string(before.ContentType)
	m.ContentEncoding = d.string(before.ContentEncoding)
	m.Component = d.string(before.Component)
	n := d.uvarint()
	if d.failed || nanos >= uint64(time.Second) || n > uint64(len(d.b))/2 { // a property takes two bytes at least: trust no count
		return Message{}, errPayload
	}
	m.Created = time.Unix(seconds, int64(nanos)).UTC()
	if n > 0 {
		m.Properties = make(map[string]string, min(n, 64))
		for range n {
			k := d.string("")
			m.Properties[k] = d.string("")
		}
	}
	if d.failed {
		return Message{}, errPayload
	}
	m.Body = d.b
	return m, nil
}

type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.failed, d.b = true, nil
		return
	}
	d.b = d.b[n:]
}

func (d *decoder) string(like string) string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.failed, d.b = true, nil
		return ""
	}
	s := d.b[:n]
	d.b = d.b[n:]
	if string(s) == like {
		return like
	}
	return string(s)
}
