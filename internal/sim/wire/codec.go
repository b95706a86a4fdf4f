package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// This file is the codec of MQTT 3.1.1, as far as DPS and IoT Hub speak it. It is strict: it checks
// lengths before it allocates, strings must be UTF-8 without NUL, and a packet must be used up to
// its last byte.

// The types of packets: the upper half of their first byte.
const (
	PacketConnect     = 1
	packetConnack     = 2
	PacketPublish     = 3
	PacketPuback      = 4
	PacketSubscribe   = 8
	packetSuback      = 9
	PacketUnsubscribe = 10
	packetUnsuback    = 11
	PacketPingreq     = 12
	packetPingresp    = 13
	PacketDisconnect  = 14
)

// The return codes of a CONNACK that services send.
const (
	ConnackAccepted      = 0
	ConnackBadProtocol   = 1
	ConnackUnavailable   = 3
	ConnackNotAuthorized = 5
)

var (
	// ErrMalformed is the error of a packet that MQTT does not allow.
	ErrMalformed = errors.New("malformed packet")
	errTooLarge  = errors.New("packet too large")
)

// ruleError ends a connection whose client broke a rule of the service. Its text is the reason.
type ruleError struct{ reason string }

func (e *ruleError) Error() string { return e.reason }

// Closing returns the error that ends a connection because the client broke a rule.
func Closing(format string, args ...any) error { return &ruleError{fmt.Sprintf(format, args...)} }

// BrokeRule reports whether a connection ended because its client broke a rule of MQTT or of the
// service.
func BrokeRule(err error) bool {
	_, rule := errors.AsType[*ruleError](err)
	return rule || errors.Is(err, ErrMalformed) || errors.Is(err, errTooLarge) || errors.Is(err, errWildcard)
}

// packetReader takes packets off a connection. Its buffer is small while little comes and large
// while much comes, so that ten thousand idle connections cost little and a busy connection is read
// in large pieces.
type packetReader struct {
	src    io.Reader
	limit  int          // of the remaining length
	idle   func() error // called before every read that may block
	buf    []byte       // small or pooled; unread is buf[r:w]
	r, w   int
	small  []byte
	pooled *[]byte // the large buffer, while in use
}

const (
	smallBuffer = 1 << 10
	largeBuffer = 16 << 10 // a whole TLS record
)

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// next returns the first byte and the body of the next packet. The body is valid until the
// following call.
func (p *packetReader) next() (first byte, body []byte, err error) {
	if err := p.need(2); err != nil {
		return 0, nil, err
	}
	length, digits := 0, 0
	for {
		if err := p.need(2 + digits); err != nil {
			return 0, nil, err
		}
		b := p.buf[p.r+1+digits]
		length |= int(b&0x7f) << (7 * digits)
		digits++
		if b < 0x80 {
			break
		}
		if digits == 4 {
			return 0, nil, ErrMalformed
		}
	}
	if length > p.limit {
		return 0, nil, fmt.Errorf("%w: %d bytes", errTooLarge, length)
	}
	first = p.buf[p.r]
	head := 1 + digits
	if head+length <= largeBuffer {
		if err := p.need(head + length); err != nil {
			return 0, nil, err
		}
		body = p.buf[p.r+head : p.r+head+length]
		p.r += head + length
		return first, body, nil
	}
	return p.long(first, head, length)
}

// long reads a packet that no buffer holds. It grows with what has arrived, not with what was
// announced.
func (p *packetReader) long(first byte, head, length int) (byte, []byte, error) {
	body := append([]byte(nil), p.buf[p.r+head:min(p.w, p.r+head+length)]...)
	p.r = min(p.w, p.r+head+length)
	for len(body) < length {
		if err := p.need(1); errors.Is(err, io.EOF) {
			return 0, nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, nil, err
		}
		n := min(p.w-p.r, length-len(body))
		body = append(body, p.buf[p.r:p.r+n]...)
		p.r += n
	}
	return first, body, nil
}

// need makes n unread bytes available, n at most largeBuffer.
func (p *packetReader) need(n int) error {
	for p.w-p.r < n {
		if err := p.fill(n); err != nil {
			if errors.Is(err, io.EOF) && p.w > p.r {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (p *packetReader) fill(n int) error {
	if p.idle != nil {
		if err := p.idle(); err != nil {
			return err
		}
	}
	switch {
	case p.buf == nil:
		p.small = make([]byte, smallBuffer)
		p.buf = p.small
	case p.pooled == nil && (n > smallBuffer || p.w == len(p.buf)): // the last read filled it: more is on its way
		p.pooled = largeBuffers.Get().(*[]byte)
		p.w = copy(*p.pooled, p.buf[p.r:p.w])
		p.buf, p.r = *p.pooled, 0
	case p.r == p.w:
		p.r, p.w = 0, 0
	case p.r+n > len(p.buf):
		p.w = copy(p.buf, p.buf[p.r:p.w])
		p.r = 0
	}
	m, err := p.src.Read(p.buf[p.w:])
	p.w += m
	if m > 0 {
		if p.pooled != nil && p.r == 0 && p.w <= smallBuffer/4 && n <= smallBuffer { // a trickle again
			p.w = copy(p.small, p.buf[:p.w])
			p.release()
		}
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// release gives the large buffer back.
func (p *packetReader) release() {
	if p.pooled != nil {
		largeBuffers.Put(p.pooled)
	}
	p.pooled, p.buf = nil, p.small
}

// fields walks through a packet's body. Once something does not fit, everything after it is empty
// and bad stays set.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if f.bad || n > len(f.b) {
		f.bad = true
		return nil
	}
	part := f.b[:n:n]
	f.b = f.b[n:]
	return part
}

func (f *fields) byte() byte {
	if b := f.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (f *fields) uint16() uint16 {
	if b := f.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (f *fields) binary() []byte { return f.take(int(f.uint16())) }

func (f *fields) text() []byte {
	b := f.binary()
	if !validText(b) {
		f.bad = true
		return nil
	}
	return b
}

func validText(b []byte) bool {
	return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
}

// done reports whether the packet was well formed up to here and nothing is left over.
func (f *fields) done() bool { return !f.bad && len(f.b) == 0 }

// ConnectPacket is a parsed CONNECT. Its texts are copies.
type ConnectPacket struct {
	Level     byte
	Clean     bool
	keepAlive uint16
	ClientID  string
	Username  string
	Password  string
	Will      *Will
}

// maxKeepAlive is the longest that a server waits for a sign of life: 1.5 times the largest
// keep-alive of 1177 s.
const maxKeepAlive = 1767 * time.Second

// Patience returns how long the server bears silence from this client.
func (c ConnectPacket) Patience() time.Duration {
	if c.keepAlive == 0 {
		return maxKeepAlive
	}
	return min(maxKeepAlive, time.Duration(c.keepAlive)*1500*time.Millisecond)
}

// Will is the message that the server sends in the client's name if the connection breaks.
type Will struct {
	Topic   string
	Payload []byte
	Retain  bool
}

// ParseConnect reads a CONNECT. If the level is not 4 it leaves everything behind the level empty,
// because another version has another layout.
func ParseConnect(first byte, body []byte) (ConnectPacket, error) {
	f := fields{b: body}
	name := string(f.text())
	c := ConnectPacket{Level: f.byte()}
	if f.bad || first&0x0f != 0 || name != "MQTT" && name != "MQIsdp" {
		return c, ErrMalformed
	}
	if c.Level != 4 {
		return c, nil
	}
	flags := f.byte()
	c.Clean = flags&0x02 != 0
	c.keepAlive = f.uint16()
	c.ClientID = string(f.text())
	if flags&0x04 != 0 {
		c.Will = &Will{Retain: flags&0x20 != 0, Topic: string(f.text()), Payload: append([]byte(nil), f.binary()...)}
	}
	if flags&0x80 != 0 {
		c.Username = string(f.text())
	}
	if flags&0x40 != 0 {
		c.Password = string(f.binary())
	}
	switch willQoS := flags >> 3 & 3; {
	case name != "MQTT", flags&0x01 != 0, willQoS == 3, !f.done(),
		flags&0x04 == 0 && flags&0x38 != 0, // will flags without a will
		flags&0xC0 == 0x40,                 // a password without a user name
		c.Will != nil && strings.ContainsAny(c.Will.Topic, "+#"),
		c.ClientID == "" && !c.Clean:
		return c, ErrMalformed
	}
	return c, nil
}

// PublishPacket is a parsed PUBLISH. Topic and payload point into the reader's buffer.
type PublishPacket struct {
	Dup, Retain bool
	QoS         byte
	ID          uint16 // 0 with QoS 0
	Topic       []byte
	Payload     []byte
}

// errWildcard is the error for a topic with a character that MQTT allows only in a filter.
var errWildcard = errors.New("a wildcard in the topic of a message: + and # must be percent-encoded")

// ParsePublish reads a PUBLISH. A topic with a wildcard is an error.
func ParsePublish(first byte, body []byte) (p PublishPacket, err error) {
	p.Dup, p.QoS, p.Retain = first&0x08 != 0, first>>1&3, first&1 != 0
	f := fields{b: body}
	p.Topic = f.text()
	if p.QoS > 0 {
		p.ID = f.uint16()
	}
	if f.bad || p.QoS == 3 || len(p.Topic) == 0 || p.QoS > 0 && p.ID == 0 || p.QoS == 0 && p.Dup {
		return p, ErrMalformed
	}
	if bytes.ContainsAny(p.Topic, "+#") {
		return p, errWildcard
	}
	p.Payload = f.b
	return p, nil
}

// ParsePuback reads a PUBACK. It returns the packet id, which is never 0.
func ParsePuback(first byte, body []byte) (id uint16, err error) {
	f := fields{b: body}
	if id = f.uint16(); first&0x0f != 0 || !f.done() || id == 0 {
		return 0, ErrMalformed
	}
	return id, nil
}

// Filter is one subscription that a client asks for. QoS is 0 in an UNSUBSCRIBE.
type Filter struct {
	Name string
	QoS  byte
}

// ParseFilters reads a SUBSCRIBE or, without QoS bytes, an UNSUBSCRIBE.
func ParseFilters(first byte, body []byte, withQoS bool) (id uint16, filters []Filter, err error) {
	f := fields{b: body}
	id = f.uint16()
	for !f.bad && len(f.b) > 0 {
		one := Filter{Name: string(f.text())}
		if withQoS {
			one.QoS = f.byte()
		}
		if one.Name == "" || one.QoS > 2 {
			f.bad = true
		}
		filters = append(filters, one)
	}
	if first&0x0f != 2 || id == 0 || len(filters) == 0 || !f.done() {
		return 0, nil, ErrMalformed
	}
	return id, filters, nil
}

func appendLength(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// AppendConnack writes a CONNACK. A session is present only if the code is ConnackAccepted.
func AppendConnack(b []byte, sessionPresent bool, code byte) []byte {
	present := byte(0)
	if sessionPresent && code == ConnackAccepted {
		present = 1
	}
	return append(b, packetConnack<<4, 2, present, code)
}

// AppendPuback writes a PUBACK.
func AppendPuback(b []byte, id uint16) []byte {
	return append(b, PacketPuback<<4, 2, byte(id>>8), byte(id))
}

// AppendPublish writes a PUBLISH; id 0 makes it QoS 0, any other QoS 1.
func AppendPublish(b []byte, topic string, payload []byte, id uint16, dup bool) []byte {
	first, length := byte(PacketPublish<<4), 2+len(topic)+len(payload)
	if id != 0 {
		first |= 2
		length += 2
	}
	if dup {
		first |= 8
	}
	b = appendLength(append(b, first), length)
	b = append(b, byte(len(topic)>>8), byte(len(topic)))
	b = append(b, topic...)
	if id != 0 {
		b = append(b, byte(id>>8), byte(id))
	}
	return append(b, payload...)
}

// AppendSuback writes a SUBACK that grants what was asked, QoS 1 at most.
func AppendSuback(b []byte, id uint16, filters []Filter) []byte {
	b = appendLength(append(b, packetSuback<<4), 2+len(filters))
	b = append(b, byte(id>>8), byte(id))
	for _, f := range filters {
		b = append(b, min(f.QoS, 1))
	}
	return b
}

// AppendUnsuback writes an UNSUBACK.
func AppendUnsuback(b []byte, id uint16) []byte {
	return append(b, packetUnsuback<<4, 2, byte(id>>8), byte(id))
}

// AppendPingresp writes a PINGRESP.
func AppendPingresp(b []byte) []byte { return append(b, packetPingresp<<4, 0) }
