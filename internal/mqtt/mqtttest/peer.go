package mqtttest

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Peer is the server's side of one connection, after TLS. Its methods fail the test when the client
// does something that they do not expect.
type Peer struct {
	T     testing.TB
	Conn  net.Conn // the connection inside TLS
	Raw   net.Conn // the connection below TLS
	Hello string   // the topic of the PUBLISH that ends an opening begins with this
}

// Read returns the next packet. It returns nil at the end of the connection.
func (p *Peer) Read() packets.ControlPacket {
	packet, err := packets.ReadPacket(p.Conn)
	if err != nil {
		return nil
	}
	return packet
}

// Send writes a packet. It ignores errors: the client may be gone.
func (p *Peer) Send(cp packets.ControlPacket) { _ = cp.Write(p.Conn) }

// Welcome reads CONNECT and what came with it, up to the PUBLISH that ends the opening, and lets
// the client in. It returns nil if the connection sends no CONNECT, which is what a probe does.
func (p *Peer) Welcome() *packets.ConnectPacket {
	c, ok := p.Read().(*packets.ConnectPacket)
	if !ok {
		return nil
	}
	p.Send(Connack())
	for {
		switch q := p.Read().(type) {
		case *packets.SubscribePacket:
			p.Suback(q, 1)
		case *packets.UnsubscribePacket:
		case *packets.PublishPacket:
			if strings.HasPrefix(q.TopicName, p.Hello) {
				return c
			}
			p.T.Errorf("an early PUBLISH to %s", q.TopicName)
		default:
			return c
		}
	}
}

// Suback answers each topic of q with code.
func (p *Peer) Suback(q *packets.SubscribePacket, code byte) {
	s := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	s.MessageID = q.MessageID
	for range q.Topics {
		s.ReturnCodes = append(s.ReturnCodes, code)
	}
	p.Send(s)
}

// Puback acknowledges the message with the packet identifier pid.
func (p *Peer) Puback(pid uint16) {
	a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	a.MessageID = pid
	p.Send(a)
}

// Publish sends a message. QoS 0 has no packet identifier: pid is ignored then.
func (p *Peer) Publish(topic, body string, qos byte, pid uint16) {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Qos, m.MessageID = topic, []byte(body), qos, pid
	p.Send(m)
}

// Mute lets a session come up, and says nothing more.
func (p *Peer) Mute() {
	if p.Welcome() != nil {
		_, _ = io.Copy(io.Discard, p.Conn)
	}
}

// Obey lets a session come up, and acknowledges its messages until it ends.
func (p *Peer) Obey() {
	p.Welcome()
	p.Acknowledge()
}

// Acknowledge answers all messages of QoS 1 until the session ends.
func (p *Peer) Acknowledge() {
	for q := p.Telemetry(); q != nil; q = p.Telemetry() {
		p.Puback(q.MessageID)
	}
}

// Telemetry reads on to the next message of QoS 1, and answers each PINGREQ on the way. It returns
// nil at the end of the connection.
func (p *Peer) Telemetry() *packets.PublishPacket {
	for {
		switch q := p.Read().(type) {
		case *packets.PublishPacket:
			if q.Qos == 1 {
				return q
			}
		case *packets.PingreqPacket:
			p.Send(Pingresp())
		case nil:
			return nil
		}
	}
}

// Drip sends a packet byte by byte, with a pause of virtual time before each byte. It returns the
// first error.
func (p *Peer) Drip(cp packets.ControlPacket, pause time.Duration) error {
	for _, c := range Bytes(cp) {
		time.Sleep(pause)
		if _, err := p.Conn.Write([]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

// Every sends a packet again and again, with a pause of virtual time before each, until the
// connection fails. It reads nothing of what comes.
func (p *Peer) Every(pause time.Duration, cp packets.ControlPacket) {
	for {
		time.Sleep(pause)
		if cp.Write(p.Conn) != nil {
			return
		}
	}
}

// Connack lets a client in.
func Connack() packets.ControlPacket { return packets.NewControlPacket(packets.Connack) }

// Pingresp answers a PINGREQ.
func Pingresp() packets.ControlPacket { return packets.NewControlPacket(packets.Pingresp) }

// Downlink is a message of QoS 0.
func Downlink(topic string, body []byte) packets.ControlPacket {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload = topic, body
	return m
}

// Bytes returns a packet as it is on the wire.
func Bytes(cp packets.ControlPacket) []byte {
	var b bytes.Buffer
	_ = cp.Write(&b)
	return b.Bytes()
}
