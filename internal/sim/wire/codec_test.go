package wire

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// Packets must be the same however the bytes arrive.
func TestPacketReaderInPieces(t *testing.T) {
	stream := append(append(simtest.Vector(t, simtest.VectorHubConnect), simtest.Vector(t, simtest.VectorHubSubscribe)...), simtest.Vector(t, simtest.VectorTelemetry)...)
	big := append([]byte("\x32\xbe\x8d\x06\x00\x1adevices/d/messages/events/\x00\x4d"), strings.Repeat("x", 100_000)...)
	stream = append(append(stream, big...), simtest.Vector(t, simtest.VectorTelemetry)...)
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(string(stream)), "bytes": iotest.OneByteReader(strings.NewReader(string(stream))),
		"half": iotest.HalfReader(strings.NewReader(string(stream))), "with error": iotest.DataErrReader(strings.NewReader(string(stream))),
	} {
		p := &packetReader{src: r, limit: 262_144}
		var got []byte
		var err error
		for err == nil {
			var first byte
			var body []byte
			if first, body, err = p.next(); err == nil {
				got = append(appendLength(append(got, first), len(body)), body...)
			}
		}
		if !errors.Is(err, io.EOF) || string(got) != string(stream) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(stream), err)
		}
		p.release()
	}
}

func TestPacketReaderLimits(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		want   error
	}{
		"endless length":   {"\x30\xff\xff\xff\xff\x01", ErrMalformed},
		"announced length": {"\x30\xff\xff\xff\x7f", errTooLarge},
		"one too many":     {"\x30\x81\x80\x10", errTooLarge},
		"cut":              {"\x30\x05abc", io.ErrUnexpectedEOF},
		"cut long":         {"\x30\x80\x80\x10abc", io.ErrUnexpectedEOF},
		"nothing":          {"", io.EOF},
	} {
		p := &packetReader{src: strings.NewReader(c.stream), limit: 262_144}
		if _, _, err := p.next(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMalformedPackets(t *testing.T) {
	connect := func(change func([]byte) []byte) error {
		b := change(simtest.Vector(t, simtest.VectorHubConnect)[3:])
		_, err := ParseConnect(0x10, b)
		return err
	}
	set := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	for name, err := range map[string]error{
		"reserved flag":         connect(set(7, 0xc1)),
		"password without user": connect(set(7, 0x40)),
		"will flags, no will":   connect(set(7, 0xd8)),
		"other protocol":        connect(set(2, 'm')),
		"trailing bytes":        connect(func(b []byte) []byte { return append(b, 0) }),
		"cut":                   connect(func(b []byte) []byte { return b[:len(b)-1] }),
		"NUL in client id":      connect(set(12, 0)),
		"not UTF-8":             connect(set(12, 0xff)),
	} {
		if err == nil {
			t.Errorf("CONNECT, %s: accepted", name)
		}
	}
	if c, err := ParseConnect(0x10, set(6, 5)(simtest.Vector(t, simtest.VectorHubConnect)[3:])); err != nil || c.Level != 5 {
		t.Errorf("level 5: %+v %v", c, err)
	}
	telemetry := simtest.Vector(t, simtest.VectorTelemetry)[2:]
	for name, c := range map[string]struct {
		first byte
		body  []byte
	}{
		"QoS 3": {0x36, telemetry}, "DUP with QoS 0": {0x38, telemetry}, "no topic": {0x30, []byte{0, 0}},
		"packet id 0": {0x32, []byte{0, 1, 'a', 0, 0}}, "cut": {0x32, []byte{0, 1, 'a', 0}}, "long topic": {0x30, []byte{0xff, 0xff, 'a'}},
	} {
		if _, err := ParsePublish(c.first, c.body); err == nil {
			t.Errorf("PUBLISH, %s: accepted", name)
		}
	}
	for name, body := range map[string]string{
		"no filter": "\x00\x01", "id 0": "\x00\x00\x00\x01a\x00", "QoS 3": "\x00\x01\x00\x01a\x03", "cut": "\x00\x01\x00\x02a", "empty filter": "\x00\x01\x00\x00\x00",
	} {
		if _, _, err := ParseFilters(0x82, []byte(body), true); err == nil {
			t.Errorf("SUBSCRIBE, %s: accepted", name)
		}
	}
	if _, _, err := ParseFilters(0x80, []byte("\x00\x01\x00\x01a\x00"), true); err == nil {
		t.Error("SUBSCRIBE with wrong flags: accepted")
	}
}

func FuzzPacketReader(f *testing.F) {
	for _, v := range []string{simtest.VectorHubConnect, simtest.VectorHubSubscribe, simtest.VectorTelemetry} {
		b, _ := hex.DecodeString(strings.Join(strings.Fields(v), ""))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &packetReader{src: iotest.HalfReader(strings.NewReader(string(b))), limit: 4096}
		defer p.release()
		for {
			first, body, err := p.next()
			if err != nil {
				return
			}
			switch first >> 4 {
			case PacketConnect:
				_, _ = ParseConnect(first, body)
			case PacketPublish:
				if m, err := ParsePublish(first, body); err == nil && m.ID != 0 && !m.Retain && m.QoS == 1 {
					again := AppendPublish(nil, string(m.Topic), m.Payload, m.ID, m.Dup)
					if string(again[len(again)-len(body):]) != string(body) || again[0] != first {
						t.Fatalf("%x became %x", body, again)
					}
				}
			case PacketSubscribe, PacketUnsubscribe:
				_, _, _ = ParseFilters(first, body, first>>4 == PacketSubscribe)
			case PacketPuback:
				_, _ = ParsePuback(first, body)
			}
		}
	})
}
