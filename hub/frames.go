package hub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// frame is an inbound packet other than a PUBACK. It refers to the bytes that it was read from.
type frame struct {
	kind byte // packets.Connack, …
	pid  uint16
	code byte   // of a CONNACK; of a SUBACK the first that refuses, else 0
	flag bool   // of a CONNACK: the session was present; of a PUBLISH: DUP
	qos  byte   // of a PUBLISH
	name string // the topic of a PUBLISH
	body []byte
}

// malformed says that a packet is none. The peer is at fault, and the connection is not: it carried what was sent.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: malformed packet: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// parseFrame reads the packet whose first byte is head and whose rest is b. It allocates no more than the topic.
func parseFrame(head byte, b []byte) (f frame, err error) {
	f.kind = head >> 4
	if f.kind != packets.Publish && head&0x0f != 0 {
		return f, malformed("its first byte is %#02x", head)
	}
	switch f.kind {
	case packets.Publish:
		return parsePublish(head, b)
	case packets.Connack:
		if len(b) != 2 || b[0] > 1 {
			return f, malformed("a CONNACK of % x", clip(b))
		}
		f.flag, f.code = b[0] == 1, b[1]
	case packets.Suback:
		if len(b) < 3 {
			return f, malformed("a SUBACK of % x", clip(b))
		}
		f.pid = binary.BigEndian.Uint16(b)
		for _, code := range b[2:] {
			if code > 2 {
				f.code = code
				break
			}
		}
	case packets.Unsuback:
		if len(b) != 2 {
			return f, malformed("an UNSUBACK of %d bytes", len(b))
		}
		f.pid = binary.BigEndian.Uint16(b)
	case packets.Pingresp:
		if len(b) != 0 {
			return f, malformed("a PINGRESP of %d bytes", len(b))
		}
	case packets.Puback: // those of the right length are not read here
		return f, malformed("a PUBACK of %d bytes", len(b))
	case 0, 15:
		return f, malformed("type %d, which MQTT does not have", f.kind)
	default:
		return f, fmt.Errorf("%w: an unexpected %s", ErrProtocol, packets.PacketNames[f.kind])
	}
	return f, nil
}

func parsePublish(head byte, b []byte) (frame, error) {
	f := frame{kind: packets.Publish, flag: head&8 != 0, qos: head >> 1 & 3}
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > len(b)-2 {
		return f, malformed("a PUBLISH whose topic is longer than itself")
	}
	n := int(binary.BigEndian.Uint16(b))
	topic := b[2 : 2+n]
	if b = b[2+n:]; !utf8.Valid(topic) {
		return f, malformed("a PUBLISH whose topic is no UTF-8 text")
	}
	if bytes.IndexByte(topic, 0) >= 0 { // a + or # is as wrong, but harmless here: it may stand in a property
		return f, malformed("a PUBLISH whose topic has a NUL")
	}
	switch f.qos {
	case 0:
	case 1:
		if len(b) < 2 || b[0] == 0 && b[1] == 0 {
			return f, malformed("a PUBLISH of QoS 1 without a packet id")
		}
		f.pid, b = binary.BigEndian.Uint16(b), b[2:]
	default:
		return f, fmt.Errorf("%w: a PUBLISH of QoS %d, which was not subscribed to", ErrProtocol, f.qos)
	}
	f.name, f.body = string(topic), b
	return f, nil
}

// clip keeps what a line of log has room for.
func clip(b []byte) []byte { return b[:min(len(b), 8)] }

// header looks at the next packet's first bytes and checks its length before anything is allocated for it. It returns how many bytes
// the header has.
func (l *Link) header() (head byte, length, size int, err error) {
	for i := 1; i <= 4; i++ {
		b, err := l.in.Peek(i + 1)
		if err != nil {
			if len(b) > 0 {
				err = noEOF(err)
			}
			return 0, 0, 0, err
		}
		size |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			if i > 1 && b[i] == 0 { // no writer does that, and what follows goes by two bytes for a PUBACK's
				break
			}
			if size > maxInbound {
				return 0, 0, 0, fmt.Errorf("%w: a packet of %d bytes; more than %d are not taken", ErrProtocol, size, maxInbound)
			}
			return b[0], i + 1, size, nil
		}
	}
	return 0, 0, 0, malformed("its length is none")
}

// frame reads the packet that header has found.
func (l *Link) frame(head byte, length, size int) (frame, error) {
	if _, err := l.in.Discard(length); err != nil {
		return frame{}, noEOF(err)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(l.in, b); err != nil {
		return frame{}, noEOF(err)
	}
	return parseFrame(head, b)
}

// noEOF tells a connection that ended inside a packet from one that ended between two.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
