package mqtt5

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind is the type of a packet, with the numbers of MQTT 5 section 2.1.2.
type Kind byte

// The kinds of packets that are sent or received here.
const (
	Connect     Kind = 1
	Connack     Kind = 2
	Publish     Kind = 3
	Puback      Kind = 4
	Subscribe   Kind = 8
	Suback      Kind = 9
	Unsubscribe Kind = 10
	Unsuback    Kind = 11
	Pingreq     Kind = 12
	Pingresp    Kind = 13
	Disconnect  Kind = 14
	Auth        Kind = 15
)

var kindNames = [16]string{
	1: "CONNECT", 2: "CONNACK", 3: "PUBLISH", 4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP", 8: "SUBSCRIBE",
	9: "SUBACK", 10: "UNSUBSCRIBE", 11: "UNSUBACK", 12: "PINGREQ", 13: "PINGRESP", 14: "DISCONNECT", 15: "AUTH",
}

// String returns the name of the kind, such as PUBLISH.
func (k Kind) String() string {
	if k < 16 && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("packet of type %d", byte(k))
}

// Property is one user property. Its bytes are as the server sent them, and need not be UTF-8.
type Property struct{ Key, Value []byte }

// Packet is one packet of the server. All that is not a number refers to memory of the [Reader],
// and is valid until its next call of Next. Whether texts are UTF-8 is left to the caller, because
// a message with a bad text is a fault of whoever published it.
type Packet struct {
	Kind    Kind
	ID      uint16 // the packet id; 0: none
	Reason  Reason // of CONNACK, PUBACK, DISCONNECT, AUTH
	Reasons []byte // of SUBACK and UNSUBACK: one for each filter
	Flag    bool   // of a CONNACK: the server has kept the session; of a PUBLISH: DUP
	Retain  bool   // of a PUBLISH
	QoS     byte   // of a PUBLISH
	Topic   []byte // of a PUBLISH; empty if only the alias says it
	Payload []byte // of a PUBLISH

	Text          bool   // the payload is UTF-8 text
	Expires       bool   // Expiry is there
	Expiry        uint32 // seconds
	ContentType   []byte
	ResponseTopic []byte
	Correlation   []byte // nil: none
	Alias         uint16 // 0: none
	User          []Property

	ReasonText []byte
	Server     []byte
	AuthMethod []byte
	AuthData   []byte
	grant      Grant // of a CONNACK
}

// Grant is what a server allows in its CONNACK. Where the server says nothing it has the default of
// MQTT 5 section 3.2.2.3.
type Grant struct {
	SessionPresent  bool
	SessionExpiry   uint32 // seconds; only with HasExpiry
	HasExpiry       bool
	ReceiveMaximum  uint16 // PUBLISHes of QoS 1 without PUBACK; 65,535 by default
	MaximumQoS      byte
	NoRetain        bool
	MaximumPacket   uint32 // bytes; 0: no limit
	AssignedID      string
	AliasMaximum    uint16
	NoWildcards     bool
	NoShared        bool
	ServerKeepAlive uint16 // seconds; 0: none, or it does not say
}

// Reader reads the packets of a server. It never takes more memory than twice what has arrived of
// a packet, whatever length is announced, and gives back what only a large packet needed.
type Reader struct {
	from io.Reader
	most int
	buf  []byte
	r, w int
	p    Packet
	err  error // what from returned beside the last bytes
}

const (
	readBuffer = 32 << 10 // bytes that a reader keeps
	// MaxProperties is how many user properties one packet may have. A reader counts the others and
	// does not keep them.
	MaxProperties = 1 << 16
)

// NewReader returns a Reader that accepts packets of at most most bytes.
func NewReader(from io.Reader, most int) *Reader { return &Reader{from: from, most: most} }

// Buffered reports whether the next call of Next returns without reading, as long as the packet is
// complete.
func (r *Reader) Buffered() bool {
	_, size, ok, err := r.header()
	return err != nil || ok && r.w-r.r >= size
}

// header reads the fixed header of what is buffered. size is that of the whole packet.
func (r *Reader) header() (length, size int, ok bool, err error) {
	b := r.buf[r.r:r.w]
	for i := 1; i <= 4; i++ {
		if i >= len(b) {
			return 0, 0, false, nil
		}
		size |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			if size += i + 1; size > r.most {
				return 0, 0, false, faulty(PacketTooLarge, "a %v of %d bytes; at most %d are accepted", Kind(b[0]>>4), size, r.most)
			}
			return i + 1, size, true, nil
		}
	}
	return 0, 0, false, faulty(MalformedPacket, "the length of a packet is not valid")
}

// Next reads one packet. An error that wraps [ErrProtocol] says that the server sent what no server
// may send. io.EOF means that the connection ended between two packets, io.ErrUnexpectedEOF that it
// ended inside one.
func (r *Reader) Next() (*Packet, error) {
	for {
		length, size, ok, err := r.header()
		if err != nil {
			return nil, err
		}
		if ok && r.w-r.r >= size {
			b := r.buf[r.r : r.r+size]
			r.r += size
			if err := r.p.parse(b[0], b[length:]); err != nil {
				return nil, err
			}
			return &r.p, nil
		}
		if err := r.fill(); err != nil {
			if errors.Is(err, io.EOF) && r.w > r.r {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// fill reads once.
func (r *Reader) fill() error {
	if r.err != nil {
		return r.err
	}
	have := r.w - r.r
	switch {
	case have == len(r.buf): // full, or not made yet
		next := make([]byte, max(readBuffer, 2*len(r.buf)))
		copy(next, r.buf[r.r:r.w])
		r.buf = next
	case have < readBuffer/2 && len(r.buf) > readBuffer:
		next := make([]byte, readBuffer)
		copy(next, r.buf[r.r:r.w])
		r.buf = next
	default:
		copy(r.buf, r.buf[r.r:r.w])
	}
	r.r, r.w = 0, have
	for range 100 { // an io.Reader may return nothing now and then, but not for ever
		n, err := r.from.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			r.err = err
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// parse reads the packet whose first byte is head and whose rest is b.
func (p *Packet) parse(head byte, b []byte) error {
	user := p.User[:0]
	if cap(user) > 64 {
		user = nil
	}
	*p = Packet{Kind: Kind(head >> 4), User: user}
	if p.Kind != Publish && head&0x0f != 0 {
		return faulty(MalformedPacket, "the first byte of a %v is %#02x", p.Kind, head)
	}
	switch p.Kind {
	case Publish:
		return p.parsePublish(head, b)
	case Puback:
		if len(b) == 2 && (b[0] != 0 || b[1] != 0) { // the common one
			p.ID = uint16(b[0])<<8 | uint16(b[1])
			return nil
		}
		if len(b) < 3 || b[0] == 0 && b[1] == 0 {
			return p.malformed()
		}
		p.ID, p.Reason = binary.BigEndian.Uint16(b), Reason(b[2])
		return p.lastProperties(b[3:])
	case Connack:
		if len(b) < 3 || b[0] > 1 {
			return p.malformed()
		}
		p.Flag, p.Reason = b[0] == 1, Reason(b[1])
		p.grant = Grant{SessionPresent: p.Flag, ReceiveMaximum: 0xffff, MaximumQoS: 2}
		return p.lastProperties(b[2:])
	case Suback, Unsuback:
		if len(b) < 4 {
			return p.malformed()
		}
		p.ID = binary.BigEndian.Uint16(b)
		rest, err := p.properties(b[2:])
		if err == nil && len(rest) == 0 {
			return p.malformed()
		}
		p.Reasons = rest
		return err
	case Pingresp:
		if len(b) != 0 {
			return p.malformed()
		}
		return nil
	case Disconnect, Auth:
		if len(b) == 0 {
			return nil
		}
		p.Reason = Reason(b[0])
		return p.lastProperties(b[1:])
	default:
		return faulty(ProtocolError, "an unexpected %v", p.Kind)
	}
}

func (p *Packet) malformed() error { return faulty(MalformedPacket, "a malformed %v", p.Kind) }

func (p *Packet) parsePublish(head byte, b []byte) error {
	p.Flag, p.Retain, p.QoS = head&8 != 0, head&1 != 0, head>>1&3
	var ok bool
	if p.Topic, b, ok = cut(b); !ok {
		return p.malformed()
	}
	switch p.QoS {
	case 0:
	case 1:
		if len(b) < 2 || b[0] == 0 && b[1] == 0 {
			return p.malformed()
		}
		p.ID, b = uint16(b[0])<<8|uint16(b[1]), b[2:]
	default:
		return faulty(NoQoS, "a PUBLISH of QoS %d, which was not subscribed to", p.QoS)
	}
	if len(b) > 0 && b[0] == 0 { // no properties
		p.Payload = b[1:]
	} else {
		var err error
		if p.Payload, err = p.properties(b); err != nil {
			return err
		}
	}
	if len(p.Topic) == 0 && p.Alias == 0 {
		return faulty(ProtocolError, "a PUBLISH without a topic")
	}
	return nil
}

// cut takes a text or bytes with their length from b.
func cut(b []byte) (text, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(b[0])<<8 | int(b[1])
	if b = b[2:]; n > len(b) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// number takes a variable byte integer from b.
func number(b []byte) (n int, rest []byte, ok bool) {
	for i := 0; i < 4 && i < len(b); i++ {
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}

// lastProperties reads properties at the end of a packet, where they may be missing altogether.
func (p *Packet) lastProperties(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	rest, err := p.properties(b)
	if err == nil && len(rest) != 0 {
		return p.malformed()
	}
	return err
}

// The identifiers of properties, MQTT 5 section 2.2.2.2.
const (
	propText            = 0x01
	propExpiry          = 0x02
	propContentType     = 0x03
	propResponseTopic   = 0x08
	propCorrelation     = 0x09
	propSubscriptionID  = 0x0b
	propSessionExpiry   = 0x11
	propAssignedID      = 0x12
	propServerKeepAlive = 0x13
	propAuthMethod      = 0x15
	propAuthData        = 0x16
	propResponseInfo    = 0x1a
	propServer          = 0x1c
	propReason          = 0x1f
	propReceiveMaximum  = 0x21
	propAliasMaximum    = 0x22
	propAlias           = 0x23
	propMaximumQoS      = 0x24
	propRetainAvailable = 0x25
	propUser            = 0x26
	propMaximumPacket   = 0x27
	propWildcards       = 0x28
	propSubscriptionIDs = 0x29
	propShared          = 0x2a
)

// width is how the value of a property is written: 1, 2 or 4 bytes, a text, or a number of variable
// length. on has the kinds of packets that a server may send it in.
var shapes = [64]struct {
	width byte
	on    uint16
}{
	propText: {1, 1 << Publish}, propExpiry: {4, 1 << Publish}, propContentType: {asText, 1 << Publish},
	propResponseTopic: {asText, 1 << Publish}, propCorrelation: {asText, 1 << Publish}, propSubscriptionID: {asNumber, 1 << Publish},
	propSessionExpiry: {4, 1<<Connack | 1<<Disconnect}, propAssignedID: {asText, 1 << Connack}, propServerKeepAlive: {2, 1 << Connack},
	propAuthMethod: {asText, 1<<Connack | 1<<Auth}, propAuthData: {asText, 1<<Connack | 1<<Auth}, propResponseInfo: {asText, 1 << Connack},
	propServer: {asText, 1<<Connack | 1<<Disconnect}, propReason: {asText, ^uint16(1 << Publish)}, propReceiveMaximum: {2, 1 << Connack},
	propAliasMaximum: {2, 1 << Connack}, propAlias: {2, 1 << Publish}, propMaximumQoS: {1, 1 << Connack}, propRetainAvailable: {1, 1 << Connack},
	propUser: {asPair, ^uint16(0)}, propMaximumPacket: {4, 1 << Connack}, propWildcards: {1, 1 << Connack}, propSubscriptionIDs: {1, 1 << Connack},
	propShared: {1, 1 << Connack},
}

const (
	asText   = 0xf0
	asNumber = 0xf1
	asPair   = 0xf2
)

// properties reads the properties at the start of b and returns what is behind them.
func (p *Packet) properties(b []byte) (rest []byte, err error) {
	n, b, ok := number(b)
	if !ok || n > len(b) {
		return nil, p.malformed()
	}
	b, rest = b[:n], b[n:]
	var seen uint64
	for len(b) > 0 {
		id := b[0]
		b = b[1:]
		if id >= byte(len(shapes)) || shapes[id].on&(1<<p.Kind) == 0 {
			return nil, faulty(MalformedPacket, "a %v with the property %#02x", p.Kind, id)
		}
		if seen&(1<<id) != 0 && id != propUser && id != propSubscriptionID {
			return nil, faulty(ProtocolError, "a %v with the property %#02x twice", p.Kind, id)
		}
		seen |= 1 << id
		var text, value []byte
		var num uint32
		switch w := shapes[id].width; w {
		case asText:
			text, b, ok = cut(b)
		case asPair:
			if text, b, ok = cut(b); ok {
				value, b, ok = cut(b)
			}
		case asNumber:
			var v int
			v, b, ok = number(b)
			num = uint32(v)
		default:
			if ok = len(b) >= int(w); ok {
				for _, c := range b[:w] {
					num = num<<8 | uint32(c)
				}
				b = b[w:]
			}
		}
		if !ok {
			return nil, faulty(MalformedPacket, "a %v whose property %#02x is cut off", p.Kind, id)
		}
		if err := p.property(id, num, text, value); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

func (p *Packet) property(id byte, num uint32, text, value []byte) error {
	g := &p.grant
	switch id {
	case propUser:
		if len(p.User) < MaxProperties {
			p.User = append(p.User, Property{text, value})
		}
	case propText:
		p.Text = num == 1
	case propExpiry:
		p.Expires, p.Expiry = true, num
	case propContentType:
		p.ContentType = text
	case propResponseTopic:
		p.ResponseTopic = text
	case propCorrelation:
		p.Correlation = text
	case propAlias:
		if p.Alias = uint16(num); num == 0 {
			return faulty(BadAlias, "a PUBLISH with the topic alias 0")
		}
	case propReason:
		p.ReasonText = text
	case propServer:
		p.Server = text
	case propAuthMethod:
		p.AuthMethod = text
	case propAuthData:
		p.AuthData = text
	case propSessionExpiry:
		g.SessionExpiry, g.HasExpiry = num, true
	case propAssignedID:
		g.AssignedID = string(text)
	case propServerKeepAlive:
		g.ServerKeepAlive = uint16(num)
	case propReceiveMaximum:
		if g.ReceiveMaximum = uint16(num); num == 0 {
			return faulty(ProtocolError, "a CONNACK with the receive maximum 0")
		}
	case propAliasMaximum:
		g.AliasMaximum = uint16(num)
	case propMaximumQoS:
		g.MaximumQoS = byte(num)
	case propRetainAvailable:
		g.NoRetain = num == 0
	case propMaximumPacket:
		if g.MaximumPacket = num; num == 0 {
			return faulty(ProtocolError, "a CONNACK with the maximum packet size 0")
		}
	case propWildcards:
		g.NoWildcards = num == 0
	case propShared:
		g.NoShared = num == 0
	}
	return nil
}
