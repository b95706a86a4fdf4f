package mqtt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Kind is the type of a packet, with the numbers of MQTT 3.1.1 section 2.2.1.
type Kind byte

// The kinds of packets that a client receives.
const (
	Connack  Kind = packets.Connack
	Publish  Kind = packets.Publish
	Puback   Kind = packets.Puback
	Suback   Kind = packets.Suback
	Unsuback Kind = packets.Unsuback
	Pingresp Kind = packets.Pingresp
)

// String returns the name of the kind, such as PUBLISH.
func (k Kind) String() string { return packets.PacketNames[byte(k)] }

// Packet is one packet of the peer. Codes and Body refer to memory that belongs to the packet.
type Packet struct {
	Kind  Kind
	ID    uint16 // the packet id; 0: none
	Code  byte   // of a CONNACK
	Codes []byte // of a SUBACK: one for each filter; a code above 2 refuses its filter
	Flag  bool   // of a CONNACK: the peer has kept the session; of a PUBLISH: DUP
	QoS   byte   // of a PUBLISH
	Topic string // of a PUBLISH
	Body  []byte // of a PUBLISH
}

// Refused returns the first code of a SUBACK that refuses a filter, 0 if all were granted.
func (p *Packet) Refused() byte {
	for _, code := range p.Codes {
		if code > 2 {
			return code
		}
	}
	return 0
}

// Reader reads the packets of a peer. It checks the length of a packet before it takes memory for
// it, and the form of each packet that a server may send to a client.
type Reader struct {
	ahead ahead
	most  int
}

// NewReader returns a Reader that accepts at most most bytes behind the header of one packet. It
// reads ahead up to buffer bytes when the peer sends much.
func NewReader(from io.Reader, most, buffer int) *Reader {
	return &Reader{ahead: ahead{from: from, large: buffer}, most: most}
}

// Await returns when there is at least one byte of a packet to be read, or with the error of the
// connection. It takes nothing.
func (r *Reader) Await() error {
	_, err := r.ahead.peek(1)
	return err
}

// Next reads one packet. An error that wraps [ErrProtocol] says that the peer sent what no server
// may send. io.EOF means that the connection ended between two packets, io.ErrUnexpectedEOF that it
// ended inside one.
func (r *Reader) Next() (Packet, error) {
	head, length, size, err := r.header()
	if err != nil {
		return Packet{}, err
	}
	return r.packet(head, length, size)
}

// header reads the first bytes of the next packet, without taking them. length is the number of
// bytes of the header, size of the rest.
func (r *Reader) header() (head byte, length, size int, err error) {
	for i := 1; i <= 4; i++ {
		b, err := r.ahead.peek(i + 1)
		if err != nil {
			if len(b) > 0 {
				err = noEOF(err)
			}
			return 0, 0, 0, err
		}
		size |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			// No writer makes a length with useless bytes, and pubacks relies on one byte.
			if i > 1 && b[i] == 0 {
				break
			}
			if size > r.most {
				return 0, 0, 0, fmt.Errorf("%w: a packet of %d bytes; at most %d are accepted", ErrProtocol, size, r.most)
			}
			return b[0], i + 1, size, nil
		}
	}
	return 0, 0, 0, malformed("its length is not valid")
}

// packet reads the packet whose header was read.
func (r *Reader) packet(head byte, length, size int) (Packet, error) {
	r.ahead.discard(length)
	b := make([]byte, size)
	if err := r.ahead.read(b); err != nil {
		return Packet{}, noEOF(err)
	}
	return parse(head, b)
}

// noEOF turns an end inside a packet into io.ErrUnexpectedEOF; io.EOF means an end between two
// packets.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// malformed returns the error for a packet that is not MQTT. It is an error of the peer and not of
// the connection, which carried what was sent.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: malformed packet: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// parse reads the packet whose first byte is head and whose rest is b. It allocates no more than
// the topic.
func parse(head byte, b []byte) (p Packet, err error) {
	p.Kind = Kind(head >> 4)
	if p.Kind != Publish && head&0x0f != 0 {
		return p, malformed("its first byte is %#02x", head)
	}
	switch p.Kind {
	case Publish:
		return parsePublish(head, b)
	case Connack:
		if len(b) != 2 || b[0] > 1 {
			return p, malformed("a CONNACK of % x", clip(b))
		}
		p.Flag, p.Code = b[0] == 1, b[1]
	case Suback:
		if len(b) < 3 {
			return p, malformed("a SUBACK of % x", clip(b))
		}
		p.ID, p.Codes = binary.BigEndian.Uint16(b), b[2:]
	case Puback:
		if len(b) != 2 {
			return p, malformed("a PUBACK of %d bytes", len(b))
		}
		p.ID = binary.BigEndian.Uint16(b)
	case Unsuback:
		if len(b) != 2 {
			return p, malformed("an UNSUBACK of %d bytes", len(b))
		}
		p.ID = binary.BigEndian.Uint16(b)
	case Pingresp:
		if len(b) != 0 {
			return p, malformed("a PINGRESP of %d bytes", len(b))
		}
	case 0, 15:
		return p, malformed("type %d, which MQTT does not have", p.Kind)
	default:
		return p, fmt.Errorf("%w: an unexpected %v", ErrProtocol, p.Kind)
	}
	return p, nil
}

func parsePublish(head byte, b []byte) (Packet, error) {
	p := Packet{Kind: Publish, Flag: head&8 != 0, QoS: head >> 1 & 3}
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > len(b)-2 {
		return p, malformed("a PUBLISH whose topic is longer than itself")
	}
	n := int(binary.BigEndian.Uint16(b))
	topic := b[2 : 2+n]
	if b = b[2+n:]; !utf8.Valid(topic) {
		return p, malformed("a PUBLISH whose topic is not UTF-8 text")
	}
	// A topic of a PUBLISH has no + or # either. But they do no harm, and some servers put
	// properties into their topics that contain them.
	if bytes.IndexByte(topic, 0) >= 0 {
		return p, malformed("a PUBLISH whose topic has a NUL")
	}
	switch p.QoS {
	case 0:
	case 1:
		if len(b) < 2 || b[0] == 0 && b[1] == 0 {
			return p, malformed("a PUBLISH of QoS 1 without a packet id")
		}
		p.ID, b = binary.BigEndian.Uint16(b), b[2:]
	default:
		return p, fmt.Errorf("%w: a PUBLISH of QoS %d, which was not subscribed to", ErrProtocol, p.QoS)
	}
	p.Topic, p.Body = string(topic), b
	return p, nil
}

// clip keeps the first bytes of a packet for a line of a log.
func clip(b []byte) []byte { return b[:min(len(b), 8)] }
