package mqtt

import (
	"bytes"
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// wireOf is a connection to a broker that says what a test has given it, whatever it hears, and
// then hangs up.
type wireOf struct {
	net.Conn
	says *bytes.Reader
}

func (w wireOf) Read(b []byte) (int, error)     { return w.says.Read(b) }
func (wireOf) Write(b []byte) (int, error)      { return len(b), nil }
func (wireOf) Close() error                     { return nil }
func (wireOf) SetWriteDeadline(time.Time) error { return nil }
func wire(text []byte) net.Conn                 { return wireOf{says: bytes.NewReader(text)} }
func packetOf(t testing.TB, p packets.Packet) []byte {
	var b bytes.Buffer
	if _, err := p.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzBroker has a broker say anything to a source and to a destination, on two connections with
// one session: what they take, count and complete stays within what is possible.
func FuzzBroker(f *testing.F) {
	connack := packetOf(f, &packets.Connack{SessionPresent: true, Properties: &packets.Properties{}})
	one := uint16(1)
	for _, ps := range [][]packets.Packet{
		{&packets.Suback{PacketID: 65535, Reasons: []byte{1, 1}, Properties: &packets.Properties{}},
			&packets.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("x"), Properties: &packets.Properties{User: []packets.User{{Key: "__ts", Value: "1"}}}},
			&packets.Publish{Topic: "a", QoS: 1, PacketID: 1, Duplicate: true, Payload: []byte("x"), Properties: &packets.Properties{}}},
		{&packets.Puback{PacketID: 1, Properties: &packets.Properties{}}, &packets.Puback{PacketID: 2, ReasonCode: 0x97, Properties: &packets.Properties{}},
			&packets.Puback{PacketID: 3, ReasonCode: 0x90, Properties: &packets.Properties{}}},
		{&packets.Disconnect{ReasonCode: 0x95, Properties: &packets.Properties{}}},
		{&packets.Unsuback{PacketID: 65534, Reasons: []byte{0}, Properties: &packets.Properties{}}, &packets.Pingresp{}, &packets.Auth{Properties: &packets.Properties{}}},
		{&packets.Publish{Topic: "", QoS: 0, Payload: []byte("x"), Properties: &packets.Properties{TopicAlias: &one}}},
	} {
		var b []byte
		for _, p := range ps {
			b = append(b, packetOf(f, p)...)
		}
		f.Add(b, b)
		f.Add(b, []byte{})
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := Defaults()
		c.Name, c.Host, c.ClientID, c.MaxInflight, c.MaxPayload = "fuzz", "b:1", "c", 4, 1000
		s := newSource(t, c, "a", "b")
		d := newDestination(t, c)
		taken, acked := 0, map[uint64]bool{}
		var held []uint64 // stay with the graph for a while, and do not fill the window
		s.take = func(v node.Delivery) bool {
			taken++
			if v.Message.Topic == "" || len(v.Message.Payload) > c.MaxPayload || v.From != nil && acked[v.Ticket] {
				t.Errorf("%+v was taken", v)
			}
			if v.From == nil {
				return true
			}
			if held = append(held, v.Ticket); len(held) == c.MaxInflight-1 {
				for _, ticket := range slices.Backward(held) {
					acked[ticket] = true
					v.From.Acked([]uint64{ticket})
				}
				held = nil
			}
			return true
		}
		done := newCompletions()
		ms, tickets := numbered("a/topic", 0, 5)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{first, second} {
			text = append(bytes.Clone(connack), text...)
			for _, serve := range []func(context.Context, *mqtt5.Session) error{s.serve, d.serve} {
				session, err := mqtt5.Open(t.Context(), wire(text), &mqtt5.Hello{ReceiveMaximum: 4}, c.maxPacket())
				if err != nil {
					t.Fatal(err)
				}
				if serve(t.Context(), session) == nil {
					t.Error("a session has ended without a reason")
				}
			}
		}
		if st := s.Status(); st.InFlight < 0 || uint64(taken) > st.Messages {
			t.Errorf("%d messages were taken: %+v", taken, st)
		}
		if st := d.Status(); st.InFlight+len(done.done) < 5 || len(done.done) > 5 || st.InFlight < 0 || st.InFlight > 5 {
			t.Errorf("%d of 5 messages are completed: %+v", len(done.done), st)
		}
		seen := map[uint64]bool{}
		for _, ticket := range done.done {
			if seen[ticket] {
				t.Errorf("ticket %d was completed twice", ticket)
			}
			seen[ticket] = true
		}
	})
}
