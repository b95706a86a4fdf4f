package wire

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// These are published packets, byte for byte.
const (
	wireConnect = `
10 98 02 00 04 4d 51 54 54 04 c0 00 f0 00 07 64 65 76 2d 30 30 31 00 7a
68 75 62 2d 61 2e 61 7a 75 72 65 2d 64 65 76 69 63 65 73 2e 6e 65 74 2f
64 65 76 2d 30 30 31 2f 3f 61 70 69 2d 76 65 72 73 69 6f 6e 3d 32 30 32
31 2d 30 34 2d 31 32 26 44 65 76 69 63 65 43 6c 69 65 6e 74 54 79 70 65
3d 67 6f 2d 68 61 25 32 46 31 2e 30 26 6d 6f 64 65 6c 2d 69 64 3d 64 74
6d 69 25 33 41 53 61 6d 70 6c 65 25 33 41 46 61 69 6c 6f 76 65 72 25 33
42 31 00 87 53 68 61 72 65 64 41 63 63 65 73 73 53 69 67 6e 61 74 75 72
65 20 73 72 3d 68 75 62 2d 61 2e 61 7a 75 72 65 2d 64 65 76 69 63 65 73
2e 6e 65 74 25 32 46 64 65 76 69 63 65 73 25 32 46 64 65 76 2d 30 30 31
26 73 69 67 3d 61 48 45 55 4e 76 6b 6a 46 30 6a 6f 53 25 32 46 72 55 6d
63 77 4a 68 69 37 65 38 59 77 70 6c 5a 6d 38 55 50 41 72 57 63 63 6d 75
57 63 25 33 44 26 73 65 3d 31 39 30 30 30 30 30 30 30 30`
	wireSubscribe = `
82 83 01 00 01 00 26 64 65 76 69 63 65 73 2f 64 65 76 2d 30 30 31 2f 6d
65 73 73 61 67 65 73 2f 64 65 76 69 63 65 62 6f 75 6e 64 2f 23 01 00 16
24 69 6f 74 68 75 62 2f 6d 65 74 68 6f 64 73 2f 50 4f 53 54 2f 23 00 00
12 24 69 6f 74 68 75 62 2f 74 77 69 6e 2f 72 65 73 2f 23 00 00 27 24 69
6f 74 68 75 62 2f 74 77 69 6e 2f 50 41 54 43 48 2f 70 72 6f 70 65 72 74
69 65 73 2f 64 65 73 69 72 65 64 2f 23 00`
	wireTelemetry = `
32 6a 00 59 64 65 76 69 63 65 73 2f 64 65 76 2d 30 30 31 2f 6d 65 73 73
61 67 65 73 2f 65 76 65 6e 74 73 2f 25 32 34 2e 63 74 3d 61 70 70 6c 69
63 61 74 69 6f 6e 25 32 46 6a 73 6f 6e 26 25 32 34 2e 63 65 3d 75 74 66
2d 38 26 25 32 34 2e 6d 69 64 3d 6d 31 26 61 3d 62 25 32 30 63 00 05 7b
22 74 65 6d 70 22 3a 32 31 2e 35 7d`
)

func dumped(t *testing.T, dump string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(dump), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The whole conversation of the appendix against a simulator with its keys and names.
// Packets must be the same however the bytes arrive.
func TestPacketReaderInPieces(t *testing.T) {
	stream := append(append(dumped(t, wireConnect), dumped(t, wireSubscribe)...), dumped(t, wireTelemetry)...)
	big := append([]byte("\x32\xbe\x8d\x06\x00\x1adevices/d/messages/events/\x00\x4d"), strings.Repeat("x", 100_000)...)
	stream = append(append(stream, big...), dumped(t, wireTelemetry)...)
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
				got = append(append(appendLength(append(got, first), len(body)), body...), nil...)
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
		b := change(dumped(t, wireConnect)[3:])
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
	if c, err := ParseConnect(0x10, set(6, 5)(dumped(t, wireConnect)[3:])); err != nil || c.Level != 5 {
		t.Errorf("level 5: %+v %v", c, err)
	}
	telemetry := dumped(t, wireTelemetry)[2:]
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
	for _, v := range []string{wireConnect, wireSubscribe, wireTelemetry} {
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
