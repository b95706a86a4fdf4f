package format

import (
	"errors"
	"hash/crc32"
	"io"
	"strconv"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// Sizes and bounds of the cursor file, whose format is in docs/outbox.md, section 2.3.
const (
	SlotMagic = "hubhopAK"
	SlotSize  = 4096 // bytes
	Slots     = 3
	SlotFixed = 104 // bytes of a slot without spans and gaps
	MaxSpans  = 128 // spans in a slot
	MaxGaps   = 64  // gaps in a slot
	// Farthest is above any position and seq that a box will see, and far from overflowing.
	Farthest = 1 << 62
)

// Gap is a run of seqs that left the line unsent and that no consumer has been told of for sure.
type Gap struct {
	ID          ID
	First, Last uint64
	By          uint64 // position of the record that announces it; 0: none. Not in the file
}

// String is "<first>-<last>".
func (g Gap) String() string {
	return strconv.FormatUint(g.First, 10) + "-" + strconv.FormatUint(g.Last, 10)
}

// Slot is what the cursor says: the state of a box outside its segments.
type Slot struct {
	Turn    uint64
	ID      ID       // what new messages get
	Seq     uint64   // the last of it that is synced
	Machine [16]byte // zero: not known
	Cursor  uint64
	End     uint64 // every message below this position is synced
	EndID   ID     // of the message at end-1; 0: there is none on the disk
	EndSeq  uint64
	Spans   []runs.Span
	Gaps    []Gap
}

// Left returns what has left the line.
func (s *Slot) Left() runs.Set {
	a := runs.Set{Cursor: s.Cursor}
	for _, x := range s.Spans {
		a.Add(x)
	}
	return a
}

// AppendTo appends the slot; it takes at most SlotSize bytes.
func (s *Slot) AppendTo(b []byte) []byte {
	start := len(b)
	spans, told := s.Spans[:min(len(s.Spans), MaxSpans)], s.Gaps[:min(len(s.Gaps), MaxGaps)]
	b = AppendPrefix(b, SlotMagic)
	b = le.AppendUint64(b, s.Turn)
	b = le.AppendUint32(b, uint32(SlotFixed+16*len(spans)+24*len(told)))
	b = append(b, 0, 0, 0, 0) // the checksum, below
	b = le.AppendUint64(b, uint64(s.ID))
	b = le.AppendUint64(b, s.Seq)
	b = append(b, s.Machine[:]...)
	for _, v := range []uint64{s.Cursor, s.End, uint64(s.EndID), s.EndSeq} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(len(spans)))
	b = le.AppendUint32(b, uint32(len(told)))
	for _, x := range spans {
		b = le.AppendUint64(le.AppendUint64(b, x.First), x.Last)
	}
	for _, x := range told {
		b = le.AppendUint64(le.AppendUint64(le.AppendUint64(b, uint64(x.ID)), x.First), x.Last)
	}
	le.PutUint32(b[start+28:], SlotSum(b[start:]))
	return b
}

// SlotSum is the checksum of a slot.
func SlotSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[16:28], Castagnoli), Castagnoli, b[32:])
}

// ReadSlot returns false for bytes that are not a slot, and an error for a slot with impossible
// values.
func ReadSlot(b []byte) (s Slot, ok bool, err error) {
	if ours, err := IsOurs(b, SlotMagic); err != nil || !ours || len(b) < SlotFixed {
		return Slot{}, false, err
	}
	length := le.Uint32(b[24:])
	if length < SlotFixed || int64(length) > int64(len(b)) || le.Uint32(b[28:]) != SlotSum(b[:length]) {
		return Slot{}, false, nil
	}
	spans, told := le.Uint32(b[96:]), le.Uint32(b[100:])
	if spans > MaxSpans || told > MaxGaps || length != SlotFixed+16*spans+24*told {
		return Slot{}, false, nil
	}
	s = Slot{
		Turn: le.Uint64(b[16:]), ID: ID(le.Uint64(b[32:])), Seq: le.Uint64(b[40:]), Cursor: le.Uint64(b[64:]),
		End: le.Uint64(b[72:]), EndID: ID(le.Uint64(b[80:])), EndSeq: le.Uint64(b[88:]),
	}
	copy(s.Machine[:], b[48:])
	b = b[SlotFixed:length]
	sane := s.ID != 0 && s.Cursor > 0 && s.Cursor <= s.End && s.End < Farthest &&
		s.Turn < Farthest && s.Seq < Farthest && s.EndSeq < Farthest
	for at := s.Cursor; spans > 0; spans-- {
		x := runs.Of(le.Uint64(b), le.Uint64(b[8:]))
		sane = sane && x.First > at && x.First <= x.Last && x.Last < s.End
		s.Spans, at, b = append(s.Spans, x), x.Last, b[16:]
	}
	for ; told > 0; told-- {
		x := Gap{ID: ID(le.Uint64(b)), First: le.Uint64(b[8:]), Last: le.Uint64(b[16:])}
		sane = sane && x.First > 0 && x.First <= x.Last && x.Last < Farthest
		s.Gaps, b = append(s.Gaps, x), b[24:]
	}
	return s, sane, nil
}

// ReadSlots returns the newest slot of a cursor file and its number; -1 if there is none.
func ReadSlots(f io.ReaderAt) (best Slot, number int, err error) {
	number = -1
	b := make([]byte, Slots*SlotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Slot{}, -1, err
	}
	for i := 0; i < Slots && i*SlotSize < n; i++ {
		s, ok, err := ReadSlot(b[i*SlotSize : min((i+1)*SlotSize, n)])
		if err != nil {
			return Slot{}, -1, err
		}
		if ok && (number < 0 || s.Turn > best.Turn) {
			best, number = s, i
		}
	}
	return best, number, nil
}
