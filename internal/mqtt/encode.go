package mqtt

import (
	"bytes"
	"math"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Connect is what the first packet of a session says (MQTT 3.1.1 section 3.1).
type Connect struct {
	ClientID   string
	Username   string        // empty: none is sent
	Password   string        // empty: none is sent
	KeepAlive  time.Duration // in whole seconds, at most 65,535 of them; 0: the peer expects none
	CleanStart bool          // the peer forgets an earlier session of this client id
	Will       *Will         // nil: none
}

// Will is the message that the server publishes when the connection ends without a DISCONNECT.
type Will struct {
	Topic  string
	Body   []byte
	QoS    byte // 0 or 1
	Retain bool
}

// Append appends the CONNECT packet.
func (c *Connect) Append(out []byte) []byte {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.ClientIdentifier, p.CleanSession = c.ClientID, c.CleanStart
	p.Keepalive = uint16(min(c.KeepAlive/time.Second, math.MaxUint16))
	p.UsernameFlag, p.Username = c.Username != "", c.Username
	p.PasswordFlag, p.Password = c.Password != "", []byte(c.Password)
	if w := c.Will; w != nil {
		p.WillFlag, p.WillTopic, p.WillMessage, p.WillQos, p.WillRetain = true, w.Topic, w.Body, w.QoS, w.Retain
	}
	return appendPacket(out, p)
}

// Filter is a topic filter with the highest QoS that is wanted of it.
type Filter struct {
	Topic string
	QoS   byte // 0 or 1
}

// AppendSubscribe appends a SUBSCRIBE packet.
func AppendSubscribe(out []byte, id uint16, filters ...Filter) []byte {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID = id
	for _, f := range filters {
		p.Topics, p.Qoss = append(p.Topics, f.Topic), append(p.Qoss, f.QoS)
	}
	return appendPacket(out, p)
}

// appendUnsubscribe appends an UNSUBSCRIBE packet.
func appendUnsubscribe(out []byte, id uint16, filters ...string) []byte {
	p := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	p.MessageID, p.Topics = id, filters
	return appendPacket(out, p)
}

// AppendPuback appends a PUBACK packet.
func AppendPuback(out []byte, id uint16) []byte {
	return append(out, byte(Puback)<<4, 2, byte(id>>8), byte(id))
}

// appendPingreq appends a PINGREQ packet.
func appendPingreq(out []byte) []byte { return append(out, packets.Pingreq<<4, 0) }

// AppendDisconnect appends a DISCONNECT packet.
func AppendDisconnect(out []byte) []byte { return append(out, packets.Disconnect<<4, 0) }

func appendPacket(out []byte, p packets.ControlPacket) []byte {
	var b bytes.Buffer
	_ = p.Write(&b) // a bytes.Buffer does not fail
	return append(out, b.Bytes()...)
}

// Message is a PUBLISH on its way out.
type Message struct {
	Topic string
	// Tail is appended to the topic, so that the parts of a topic need no memory of their own.
	Tail [3][]byte
	Body []byte
	QoS  byte // 0 or 1
}

// TopicLength returns the number of bytes of the topic with its tail.
func (m *Message) TopicLength() int {
	return len(m.Topic) + len(m.Tail[0]) + len(m.Tail[1]) + len(m.Tail[2])
}

// publishFrame is how many bytes a PUBLISH of QoS 1 has at most beside its topic and body: 5 of the
// header, 2 of the length of the topic, 2 of the packet id.
const publishFrame = 9

// Append appends the PUBLISH packet. id is the packet id, which counts with QoS 1 only. again sets
// DUP. It does not use the codec below, because this is the packet that costs most.
func (m *Message) Append(out []byte, id uint16, again bool) []byte {
	head := byte(Publish)<<4 | m.QoS<<1
	topic := m.TopicLength()
	size := 2 + topic + len(m.Body)
	if again {
		head |= 1 << 3
	}
	if m.QoS > 0 {
		size += 2
	}
	out = append(out, head)
	for {
		b := byte(size & 0x7f)
		if size >>= 7; size > 0 {
			out = append(out, b|0x80)
			continue
		}
		out = append(out, b)
		break
	}
	out = append(out, byte(topic>>8), byte(topic))
	out = append(out, m.Topic...)
	for _, t := range m.Tail {
		out = append(out, t...)
	}
	if m.QoS > 0 {
		out = append(out, byte(id>>8), byte(id))
	}
	return append(out, m.Body...)
}
