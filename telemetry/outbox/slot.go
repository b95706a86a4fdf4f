package outbox

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"io"
	"slices"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

const cursorName = "cursor"

func machineHash(name string) (h [16]byte) {
	if name != "" {
		sum := sha256.Sum256([]byte(name))
		copy(h[:], sum[:])
	}
	return h
}

// readSlots returns the newest slot of the file and its number; -1 if there is none.
func readSlots(f disk.File) (best format.Slot, number int, err error) {
	number = -1
	b := make([]byte, format.Slots*format.SlotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return format.Slot{}, -1, err
	}
	for i := 0; i < format.Slots && i*format.SlotSize < n; i++ {
		s, ok, err := format.ReadSlot(b[i*format.SlotSize : min((i+1)*format.SlotSize, n)])
		if err != nil {
			return format.Slot{}, -1, err
		}
		if ok && (number < 0 || s.Turn > best.Turn) {
			best, number = s, i
		}
	}
	return best, number, nil
}

// longest returns the n longest spans, in order. After a restart the records of the others are sent
// again.
func longest(spans []runs.Span, n int) []runs.Span {
	if len(spans) <= n {
		return spans
	}
	all := slices.Clone(spans)
	slices.SortFunc(all, func(a, b runs.Span) int { return cmp.Compare(b.Last-b.First, a.Last-a.First) })
	all = all[:n]
	slices.SortFunc(all, func(a, b runs.Span) int { return cmp.Compare(a.First, b.First) })
	return all
}
