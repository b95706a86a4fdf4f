package mqtt

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// FuzzPackets reads any bytes as packets. Each packet is accepted, or is a violation of the
// protocol, or ends too early, and none is larger than its bound. A packet that a hub may send is
// read as another codec reads it.
func FuzzPackets(f *testing.F) {
	for _, seed := range [][]byte{
		{0x20, 2, 1, 0},
		{0x90, 6, 0, 1, 1, 0, 0, 0x80},
		{0xb0, 2, 0, 1},
		{0xd0, 0},
		{0x3a, 6, 0, 1, 'x', 0, 7, 'y'},
		{0x30, 0xff, 0xff, 0xff, 0x7f},
		{0x30, 0x81, 0x80, 0x20},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), maxInbound, readBuffer)
		for at := 0; ; {
			head, length, size, err := r.header()
			if err == nil {
				if size > maxInbound {
					t.Fatalf("a packet of %d bytes", size)
				}
				var got Packet
				if got, err = r.packet(head, length, size); err == nil {
					same(t, got, b[at:at+length+size])
				}
				at += length + size
			}
			switch {
			case err == nil:
			case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrProtocol):
				return
			default:
				t.Fatal(err)
			}
		}
	})
}

// same compares with another codec's reading.
func same(t *testing.T, got Packet, b []byte) {
	other, err := packets.ReadPacket(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("% x is %+v here and nothing elsewhere: %v", b, got, err)
	}
	switch p := other.(type) {
	case *packets.ConnackPacket:
		if got.Kind != Connack || got.Code != p.ReturnCode || got.Flag != p.SessionPresent {
			t.Fatalf("% x is %+v here and %v elsewhere", b, got, p)
		}
	case *packets.PublishPacket:
		if got.Kind != Publish || got.Topic != p.TopicName || !bytes.Equal(got.Body, p.Payload) || got.QoS != p.Qos || got.Flag != p.Dup || got.ID != p.MessageID {
			t.Fatalf("% x is %+v here and %v elsewhere", b, got, p)
		}
	case *packets.SubackPacket:
		if got.Kind != Suback || got.ID != p.MessageID || !bytes.Equal(got.Codes, p.ReturnCodes) {
			t.Fatalf("% x is %+v here and %v elsewhere", b, got, p)
		}
	case *packets.PubackPacket:
		if got.Kind != Puback || got.ID != p.MessageID {
			t.Fatalf("% x is %+v here and %v elsewhere", b, got, p)
		}
	case *packets.UnsubackPacket, *packets.PingrespPacket:
	default:
		t.Fatalf("% x is %+v here and %v elsewhere", b, got, p)
	}
}
