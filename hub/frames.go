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

// malformed returns the error for a packet that is not MQTT. It is an error of the peer and not of
// the connection, which carried what was sent.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: malformed packet: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// parseFrame reads the packet whose first byte is head and whose rest is b. It allocates no more
// than the topic.
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
	case packets.Puback: // a PUBACK of the right length never comes here
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
		return f, malformed("a PUBLISH whose topic is not UTF-8 text")
	}
	if bytes.IndexByte(topic, 0) >= 0 { // + and # are wrong too, but harmless, and a property may contain them
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

// clip keeps the first bytes of a packet for a line of a log.
func clip(b []byte) []byte { return b[:min(len(b), 8)] }

// header reads the first bytes of the next packet, and checks its length before memory is taken for
// it. length is the number of bytes of the header, size of the rest.
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
			if i > 1 && b[i] == 0 { // a length with useless bytes: no writer does that, and pubacks relies on two bytes
				break
			}
			if size > maxInbound {
				return 0, 0, 0, fmt.Errorf("%w: a packet of %d bytes; at most %d are accepted", ErrProtocol, size, maxInbound)
			}
			return b[0], i + 1, size, nil
		}
	}
	return 0, 0, 0, malformed("its length is not valid")
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

// noEOF turns an end inside a packet into io.ErrUnexpectedEOF; io.EOF means an end between two
// packets.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
