package ledger

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// uncounted returns how many bytes of messages a restart would have to read to count them.
func (d *disk) uncounted() (n int64) {
	for _, s := range d.segments {
		if s.number >= d.counted {
			n += s.bytes
		}
	}
	return n
}

// due reports whether it is time for new counts: a new segment has just begun, and the counts lack
// much. The larger they are the rarer they are written, so that writing them never becomes the main
// work.
func (d *disk) due() bool {
	last := d.segments[len(d.segments)-1]
	return last.messages == 0 && last.number > d.counted && d.uncounted() >= max(d.countsBytes, d.written)
}

// writeCounts replaces the file of the counts. The accounts include all segments before counted,
// and base is the first segment since the last reset.
func (d *disk) writeCounts(accounts map[string]*account, counted, base uint32) error {
	file := kindCounts.Line()
	head := binary.AppendUvarint([]byte{frameTotals}, uint64(counted))
	head = binary.AppendUvarint(head, uint64(base))
	head = binary.AppendUvarint(head, uint64(len(accounts)))
	file = store.AppendFrame(file, head)
	for device, a := range accounts {
		start := len(file)
		file = append(append(file, make([]byte, store.FrameHead)...), frameAccount)
		file = a.encode(store.AppendText(file, device))
		store.SealFrame(file[start:])
	}
	if err := store.Replace(d.countsPath(), file, 0o600); err != nil {
		return err
	}
	d.counted, d.base, d.written = counted, base, int64(len(file))
	return nil
}

// readCounts reads the file of the counts into the accounts.
func (l *Ledger) readCounts(d *disk) error {
	accounts := -1
	path := d.countsPath()
	good, size, err := store.Read(path, kindCounts, func(at int, payload []byte) error {
		f := store.Unpack(payload)
		switch kind := f.Byte(); {
		case kind == frameTotals && accounts < 0:
			d.counted, d.base = uint32(f.Uvarint()), uint32(f.Uvarint())
			accounts = int(f.Uvarint())
		case kind == frameAccount && accounts > 0:
			accounts--
			l.account(f.Text()).decode(&f)
		default:
			f.Fail()
		}
		if !f.OK() {
			return &store.DamageError{At: at, What: "a record makes no sense"}
		}
		return nil
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil && (good < size || accounts != 0): // it was renamed into place, so it was whole once
		err = &store.DamageError{Path: path, At: good, What: "its end is missing"}
	}
	d.written = int64(size)
	return err
}

// encode appends the account to the payload of its frame.
func (a *account) encode(b []byte) []byte {
	for _, n := range []int64{a.received, a.duplicates, a.reordered, int64(a.maxGap)} {
		b = binary.AppendVarint(b, n)
	}
	for _, at := range []time.Time{a.first, a.last} {
		b = binary.AppendVarint(b, nanos(at))
	}
	b = binary.AppendUvarint(b, uint64(len(a.hubs)))
	for hub, n := range a.hubs {
		b = binary.AppendVarint(store.AppendText(b, hub), n)
	}
	b = binary.AppendUvarint(b, uint64(len(a.streams)))
	for outbox, s := range a.streams {
		b = binary.AppendUvarint(store.AppendText(b, outbox), uint64(len(s.ranges)))
		for _, r := range s.ranges {
			b = binary.AppendUvarint(binary.AppendUvarint(b, r.from), r.to)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(a.foreign)))
	for sum := range a.foreign {
		b = append(b, sum[:]...)
	}
	return b
}

// decode reads what encode wrote. f says whether it made sense.
func (a *account) decode(f *store.Unpacker) {
	for _, n := range []*int64{&a.received, &a.duplicates, &a.reordered, (*int64)(&a.maxGap)} {
		*n = f.Varint()
	}
	for _, at := range []*time.Time{&a.first, &a.last} {
		*at = fromNanos(f.Varint())
	}
	for range f.Count(2) {
		hub := f.Text()
		a.hubs[hub] = f.Varint()
	}
	for range f.Count(2) {
		outbox := f.Text()
		s := &stream{}
		for range f.Count(2) {
			s.ranges = append(s.ranges, span{f.Uvarint(), f.Uvarint()})
		}
		if len(s.ranges) == 0 {
			f.Fail()
			return
		}
		if a.streams == nil {
			a.streams = map[string]*stream{}
		}
		a.streams[outbox] = s
	}
	n := f.Count(16)
	if n > 0 {
		a.foreign = make(map[[16]byte]struct{}, n)
	}
	for range n {
		a.foreign[[16]byte(f.Bytes(16))] = struct{}{}
	}
}

// nanos returns a time as a number, 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
