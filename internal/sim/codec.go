package sim

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

// This file is MQTT 3.1.1 on the wire, the part of it that DPS and IoT Hub speak. It is strict: lengths are checked before anything
// is allocated, strings must be UTF-8 without NUL, and a packet must be used up to its last byte.

const (
	packetConnect     = 1
	packetConnack     = 2
	packetPublish     = 3
	packetPuback      = 4
	packetSubscribe   = 8
	packetSuback      = 9
	packetUnsubscribe = 10
	packetUnsuback    = 11
	packetPingreq     = 12
	packetPingresp    = 13
	packetDisconnect  = 14
)

const (
	connackAccepted      = 0
	connackBadProtocol   = 1
	connackUnavailable   = 3
	connackNotAuthorized = 5
)

var (
	errMalformed = errors.New("malformed packet")
	errTooLarge  = errors.New("packet too large")
)

// ruleError ends a connection whose client broke a rule of the service; its text is the reason.
type ruleError struct{ reason string }

func (e *ruleError) Error() string { return e.reason }

// closing returns the error that ends a connection because the client broke a rule.
func closing(format string, args ...any) error { return &ruleError{fmt.Sprintf(format, args...)} }

// brokeRule says whether a connection ended because its client broke a rule of MQTT or of the service.
func brokeRule(err error) bool {
	_, rule := errors.AsType[*ruleError](err)
	return rule || errors.Is(err, errMalformed) || errors.Is(err, errTooLarge) || errors.Is(err, errWildcard)
}

// packetReader takes packets off a connection. Its buffer is small while little comes and grows while much comes, so that ten
// thousand idle connections cost little and a busy one is read in large pieces.
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

// next returns the first byte and the body of the next packet. The body is valid until the following call.
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
			return 0, nil, errMalformed
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

// long reads a packet that no buffer holds. It grows with what has arrived, not with what was announced.
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

// fields walks through a packet's body; once something does not fit, everything after it is empty and bad stays set.
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

// done says whether the packet was well formed up to here and nothing is left over.
func (f *fields) done() bool { return !f.bad && len(f.b) == 0 }

// connectPacket is a parsed CONNECT. Its texts are copies.
type connectPacket struct {
	level       byte
	clean       bool
	keepAlive   uint16
	clientID    string
	username    string
	password    string
	will        *will
	hasPassword bool
}

// maxKeepAlive is the longest that a server waits for a sign of life: 1.5 times the largest keep-alive
// of 1177 s.
const maxKeepAlive = 1767 * time.Second

// patience returns how long the server bears silence from this client.
func (c connectPacket) patience() time.Duration {
	if c.keepAlive == 0 {
		return maxKeepAlive
	}
	return min(maxKeepAlive, time.Duration(c.keepAlive)*1500*time.Millisecond)
}

// will is the message that the server sends in the client's name if the connection breaks.
type will struct {
	topic   string
	payload []byte
	retain  bool
}

// parseConnect leaves everything behind the level empty if the level is not 4: another version has another layout.
func parseConnect(first byte, body []byte) (connectPacket, error) {
	f := fields{b: body}
	name := string(f.text())
	c := connectPacket{level: f.byte()}
	if f.bad || first&0x0f != 0 || name != "MQTT" && name != "MQIsdp" {
		return c, errMalformed
	}
	if c.level != 4 {
		return c, nil
	}
	flags := f.byte()
	c.clean = flags&0x02 != 0
	c.keepAlive = f.uint16()
	c.clientID = string(f.text())
	if flags&0x04 != 0 {
		c.will = &will{retain: flags&0x20 != 0, topic: string(f.text()), payload: append([]byte(nil), f.binary()...)}
	}
	if flags&0x80 != 0 {
		c.username = string(f.text())
	}
	if c.hasPassword = flags&0x40 != 0; c.hasPassword {
		c.password = string(f.binary())
	}
	switch willQoS := flags >> 3 & 3; {
	case name != "MQTT", flags&0x01 != 0, willQoS == 3, !f.done(),
		flags&0x04 == 0 && flags&0x38 != 0, // will flags without a will
		flags&0xC0 == 0x40,                 // a password without a user name
		c.will != nil && strings.ContainsAny(c.will.topic, "+#"),
		c.clientID == "" && !c.clean:
		return c, errMalformed
	}
	return c, nil
}

// publishPacket is a parsed PUBLISH. Topic and payload point into the reader's buffer.
type publishPacket struct {
	dup, retain bool
	qos         byte
	id          uint16 // 0 with QoS 0
	topic       []byte
	payload     []byte
}

// errWildcard is the error for a topic with a character that MQTT allows only in a filter.
var errWildcard = errors.New("a wildcard in the topic of a message: + and # must be percent-encoded")

func parsePublish(first byte, body []byte) (p publishPacket, err error) {
	p.dup, p.qos, p.retain = first&0x08 != 0, first>>1&3, first&1 != 0
	f := fields{b: body}
	p.topic = f.text()
	if p.qos > 0 {
		p.id = f.uint16()
	}
	if f.bad || p.qos == 3 || len(p.topic) == 0 || p.qos > 0 && p.id == 0 || p.qos == 0 && p.dup {
		return p, errMalformed
	}
	if bytes.ContainsAny(p.topic, "+#") {
		return p, errWildcard
	}
	p.payload = f.b
	return p, nil
}

func parsePuback(first byte, body []byte) (id uint16, err error) {
	f := fields{b: body}
	if id = f.uint16(); first&0x0f != 0 || !f.done() || id == 0 {
		return 0, errMalformed
	}
	return id, nil
}

type filter struct {
	name string
	qos  byte
}

// parseFilters reads a SUBSCRIBE or, without QoS bytes, an UNSUBSCRIBE.
func parseFilters(first byte, body []byte, withQoS bool) (id uint16, filters []filter, err error) {
	f := fields{b: body}
	id = f.uint16()
	for !f.bad && len(f.b) > 0 {
		one := filter{name: string(f.text())}
		if withQoS {
			one.qos = f.byte()
		}
		if one.name == "" || one.qos > 2 {
			f.bad = true
		}
		filters = append(filters, one)
	}
	if first&0x0f != 2 || id == 0 || len(filters) == 0 || !f.done() {
		return 0, nil, errMalformed
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

func appendConnack(b []byte, sessionPresent bool, code byte) []byte {
	present := byte(0)
	if sessionPresent && code == connackAccepted {
		present = 1
	}
	return append(b, packetConnack<<4, 2, present, code)
}

func appendPuback(b []byte, id uint16) []byte {
	return append(b, packetPuback<<4, 2, byte(id>>8), byte(id))
}

// appendPublish writes a PUBLISH; id 0 makes it QoS 0, any other QoS 1.
func appendPublish(b []byte, topic string, payload []byte, id uint16, dup bool) []byte {
	first, length := byte(packetPublish<<4), 2+len(topic)+len(payload)
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

// appendSuback grants what was asked, QoS 1 at most.
func appendSuback(b []byte, id uint16, filters []filter) []byte {
	b = appendLength(append(b, packetSuback<<4), 2+len(filters))
	b = append(b, byte(id>>8), byte(id))
	for _, f := range filters {
		b = append(b, min(f.qos, 1))
	}
	return b
}

func appendUnsuback(b []byte, id uint16) []byte {
	return append(b, packetUnsuback<<4, 2, byte(id>>8), byte(id))
}

func appendPingresp(b []byte) []byte { return append(b, packetPingresp<<4, 0) }
