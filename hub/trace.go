package hub

import (
	"bytes"
	"fmt"
	"net"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Packet describes one MQTT packet for [Dialer].Trace. It contains no token.
type Packet struct {
	Host  string
	Sent  bool     // by this side; false: received
	Name  string   // PUBLISH, PUBACK, …
	ID    uint16   // its packet id, 0 for none
	Topic string   // of a PUBLISH, with its property bag
	More  []string // other facts, such as topic filters or a return code
	Body  []byte   // of a PUBLISH; valid until Trace returns
}

// trace reports the packets in b, all of which are complete.
func (l *Link) trace(sent bool, b []byte) {
	tell := l.dialer.Trace
	if tell == nil {
		return
	}
	for r := bytes.NewReader(b); r.Len() > 0; {
		packet, err := packets.ReadPacket(r)
		if err != nil {
			return
		}
		tell(l.describe(sent, packet))
	}
}

// traceFrame reports a packet that was received.
func (l *Link) traceFrame(f frame) {
	tell := l.dialer.Trace
	if tell == nil {
		return
	}
	p := Packet{Host: l.attempt.Host, Name: packets.PacketNames[f.kind], ID: f.pid, Topic: f.name, Body: f.body}
	switch {
	case f.kind == packets.Connack, f.code != 0:
		p.More = []string{fmt.Sprint(f.code)}
	case f.kind == packets.Publish && f.flag:
		p.More = []string{again}
	}
	tell(p)
}

const again = "again" // a PUBLISH with DUP

// describe turns a packet into its description. It leaves out the password of a CONNECT, which is
// the token.
func (l *Link) describe(sent bool, packet packets.ControlPacket) Packet {
	p := Packet{Host: l.attempt.Host, Sent: sent, ID: packet.Details().MessageID}
	switch packet := packet.(type) {
	case *packets.PublishPacket:
		p.Name, p.Topic, p.Body = "PUBLISH", packet.TopicName, packet.Payload
		if packet.Dup {
			p.More = []string{again}
		}
	case *packets.PubackPacket:
		p.Name = "PUBACK"
	case *packets.ConnectPacket:
		p.Name = "CONNECT"
	case *packets.SubscribePacket:
		p.Name, p.More = "SUBSCRIBE", packet.Topics
	case *packets.UnsubscribePacket:
		p.Name, p.More = "UNSUBSCRIBE", packet.Topics
	case *packets.PingreqPacket:
		p.Name = "PINGREQ"
	case *packets.DisconnectPacket:
		p.Name = "DISCONNECT"
	default:
		p.Name = fmt.Sprintf("%T", packet)
	}
	return p
}

// Peer names the other side in the second way: the IP address if Host is a name, or a name from the
// certificate if Host is an IP address. It is empty if that is not known.
func (l *Link) Peer() string {
	name, _, err := net.SplitHostPort(address(l.attempt.Host))
	if err != nil {
		return ""
	}
	if net.ParseIP(name) == nil {
		ip, _, _ := net.SplitHostPort(l.conn.RemoteAddr().String())
		return ip
	}
	if certs := l.conn.ConnectionState().PeerCertificates; len(certs) > 0 && len(certs[0].DNSNames) > 0 {
		return certs[0].DNSNames[0]
	}
	return ""
}
