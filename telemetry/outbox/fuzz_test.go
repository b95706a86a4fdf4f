package outbox

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// FuzzScan: whatever is in a file, the scanner ends, stays inside, hands out only what its checksum
// vouches for, and numbers go up.
func FuzzScan(f *testing.F) {
	h := format.NewHeader(1, 1, 1, 0x1122334455667788)
	whole := make([]byte, format.FramesStart)
	for n := range uint32(4) {
		m := message.Message{Body: []byte(body(int(n))), Properties: map[string]string{"k": "v"}}
		whole = h.AppendFrame(whole, n, n&^1, encode(&m).Payload)
	}
	f.Add(whole, uint16(0), byte(0))
	f.Add(append(whole, make([]byte, 100)...), uint16(format.FramesStart+30), byte(1))
	f.Add(append(bytes.Clone(whole), whole[format.FramesStart:]...), uint16(format.FramesStart+5), byte(0x80))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, flip byte) {
		data = bytes.Clone(data)
		if int(at) < len(data) {
			data[at] ^= flip
		}
		sc := format.Scanner{File: bytes.NewReader(data), Header: h, Size: int64(len(data)), At: format.FramesStart, Most: 64}
		last, end := int64(-1), int64(format.FramesStart)
		for {
			fr, err := sc.Next()
			if err != nil {
				t.Fatal(err)
			}
			if fr == nil {
				return
			}
			if int64(fr.Number) <= last || fr.Commit > fr.Number || fr.At < end || fr.End > int64(len(data)) {
				t.Fatalf("frame %+v behind number %d at %d", fr, last, end)
			}
			if again := h.AppendFrame(nil, fr.Number, fr.Commit, fr.Payload); !bytes.Equal(again, data[fr.At:fr.End]) {
				t.Fatalf("frame %+v is not what is in the file", fr)
			}
			last, end = int64(fr.Number), fr.End
			var d format.Decoder
			var m, again message.Message
			if d.Decode(&m, fr.Payload) == nil {
				if err := d.Decode(&again, encode(&m).Payload); err != nil {
					t.Fatalf("%+v cannot be read back", m)
				}
			}
		}
	})
}

// FuzzOpen: whatever is in the files, a box opens or says why not, everything in it can be read and
// acknowledged, it takes new messages, and what it took is there when it is opened again. With mend
// set the checksums are made right, so that what is behind them is reached.
func FuzzOpen(f *testing.F) {
	disk := memdisk.New()
	b := openBox(f, "/box", Options{FS: disk, MaxBytes: smallBox})
	appendBodies(f, b, bodies(1, 5)...)
	ackAll(f, b, queued(f, b)[1:3])
	b.closeSegment()
	appendBodies(f, b, bodies(6, 8)...)
	r := queued(f, b)
	if err := b.Quarantine(r[1].Pos, nil); err != nil {
		f.Fatal(err)
	}
	closeBox(f, b)
	cursor, one, two := disk.Names["/box/"+cursorName].Data, disk.Names["/box/"+segName(1)].Data, disk.Names["/box/"+segName(2)].Data
	f.Add(cursor[:700], one, two, false)
	f.Add(cursor[:700], one, two, true)
	f.Add(cursor[:700], two, one, true)
	f.Add([]byte{}, one, two, true)
	f.Add(cursor[:700], one[:200], []byte{}, true)
	f.Fuzz(func(t *testing.T, cursor, one, two []byte, mend bool) {
		synctest.Test(t, func(t *testing.T) { openAnything(t, cursor, one, two, mend) })
	})
}

func openAnything(t *testing.T, cursor, one, two []byte, mend bool) {
	disk := memdisk.New()
	put := func(name string, data []byte) {
		data = bytes.Clone(data)
		disk.Names["/box/"+name] = &memdisk.Node{Data: data, Solid: data}
		disk.Solid["/box/"+name] = disk.Names["/box/"+name]
	}
	if mend {
		cursor, one, two = mendSlot(cursor), mendSegment(one), mendSegment(two)
	}
	put(cursorName, cursor)
	put(segName(1), one)
	put(segName(2), two)
	o := Options{FS: disk, MaxBytes: smallBox}
	b, err := Open("/box", o)
	if err != nil {
		return
	}
	appendBodies(t, b, "new")
	r := queued(t, b)
	newest := r[len(r)-1]
	if string(newest.Body) != "new" {
		t.Fatalf("the newest is %q", newest.Body)
	}
	if b.Stats().Queued != uint64(len(r)) {
		t.Fatalf("%d are queued and %d come", b.Stats().Queued, len(r))
	}
	ids := map[string]bool{}
	for _, x := range r {
		if ids[x.ID] && !mend {
			t.Fatalf("%s comes twice", x.ID)
		}
		ids[x.ID] = true
	}
	closeBox(t, b)
	b = openBox(t, "/box", o)
	again := queued(t, b)
	if len(again) != len(r) || again[len(again)-1].ID != newest.ID {
		t.Fatalf("%q was left and %q is there", idsOf(r), idsOf(again))
	}
	ackAll(t, b, again)
	if n := b.Stats().Queued; n != 0 {
		t.Fatalf("%d are left", n)
	}
	closeBox(t, b)
}

// mendSlot makes a valid slot of anything.
func mendSlot(b []byte) []byte {
	if len(b) < format.SlotFixed {
		return b
	}
	b = bytes.Clone(b)
	copy(b, format.AppendPrefix(nil, format.SlotMagic))
	spans, told := le.Uint32(b[96:])%4, le.Uint32(b[100:])%4
	length := format.SlotFixed + 16*spans + 24*told
	b = append(b, make([]byte, length)...)[:max(len(b), int(length))]
	le.PutUint32(b[96:], spans)
	le.PutUint32(b[100:], told)
	le.PutUint32(b[24:], length)
	le.PutUint32(b[28:], format.SlotSum(b[:length]))
	return b
}

// mendSegment makes headers and frames valid.
func mendSegment(b []byte) []byte {
	if len(b) < format.FramesStart {
		return b
	}
	b = bytes.Clone(b)
	copy(b, format.AppendPrefix(nil, format.SegmentMagic))
	le.PutUint32(b[60:], checksum(b[:60]))
	copy(b[format.HeaderSize:], b[:format.HeaderSize])
	h := format.NewHeader(0, 0, 0, le.Uint64(b[40:]))
	for at := format.FramesStart; at+format.FrameSize <= len(b); {
		f := b[at:]
		length := min(int(le.Uint32(f[4:])%256), len(f)-format.FrameSize)
		le.PutUint32(f, h.Marker())
		le.PutUint32(f[4:], uint32(length))
		le.PutUint32(f[16:], h.Sum(f[4:16], f[format.FrameSize:format.FrameSize+length]))
		at += format.FrameSize + length
	}
	return b
}
