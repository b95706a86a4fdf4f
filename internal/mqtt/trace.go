package mqtt

import (
	"bytes"
	"fmt"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Traced describes one packet for [Options].Trace. It contains no password.
type Traced struct {
	Sent  bool     // by this side; false: received
	Name  string   // PUBLISH, PUBACK, …
	ID    uint16   // its packet id, 0 for none
	Topic string   // of a PUBLISH
	More  []string // other facts, such as topic filters or a return code
	Body  []byte   // of a PUBLISH; valid until Trace returns
}

const again = "again" // a PUBLISH with DUP

// traceBytes reports the packets in b, all of which are complete.
func (s *Session) traceBytes(sent bool, b []byte) {
	if s.trace == nil {
		return
	}
	for r := bytes.NewReader(b); r.Len() > 0; {
		packet, err := packets.ReadPacket(r)
		if err != nil {
			return
		}
		s.trace(describe(sent, packet))
	}
}

// tracePacket reports a packet that was received.
func (s *Session) tracePacket(p *Packet) {
	if s.trace == nil {
		return
	}
	t := Traced{Name: p.Kind.String(), ID: p.ID, Topic: p.Topic, Body: p.Body}
	switch code := p.Code + p.Refused(); {
	case p.Kind == Connack, code != 0:
		t.More = []string{fmt.Sprint(code)}
	case p.Kind == Publish && p.Flag:
		t.More = []string{again}
	}
	s.trace(t)
}

// describe turns a packet into its description. It leaves out the password of a CONNECT.
func describe(sent bool, packet packets.ControlPacket) Traced {
	t := Traced{Sent: sent, ID: packet.Details().MessageID}
	switch packet := packet.(type) {
	case *packets.PublishPacket:
		t.Name, t.Topic, t.Body = "PUBLISH", packet.TopicName, packet.Payload
		if packet.Dup {
			t.More = []string{again}
		}
	case *packets.PubackPacket:
		t.Name = "PUBACK"
	case *packets.ConnectPacket:
		t.Name = "CONNECT"
	case *packets.SubscribePacket:
		t.Name, t.More = "SUBSCRIBE", packet.Topics
	case *packets.UnsubscribePacket:
		t.Name, t.More = "UNSUBSCRIBE", packet.Topics
	case *packets.PingreqPacket:
		t.Name = "PINGREQ"
	case *packets.DisconnectPacket:
		t.Name = "DISCONNECT"
	default:
		t.Name = fmt.Sprintf("%T", packet)
	}
	return t
}
