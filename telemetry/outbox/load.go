package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// layout is what a directory holds. Finding it changes nothing.
type layout struct {
	as          reading
	slot        format.Slot
	identity    *Identity // for whom it was filled; nil if unknown
	badIdentity error     // why the identity file could not be used
	unsure      bool      // nobody knows which seqs were used, so the outbox id must not go on
	hasSlot     bool
	noSlot      error // why the cursor file has no valid slot
	segs        []*segment
	newest      uint64   // the greatest number of any segment file, bad ones too
	useless     []uint64 // files that a later segment replaces, or that hold no message
	headless    []uint64 // files without a readable header
	begun       []uint64 // newest segments with some bytes, but without a whole message
	halved      []uint64 // segments with one readable header

	// Of the newest segment:
	fileSize  int64
	torn      bool   // there is something behind its last message
	unsynced  int64  // offset of the first message that the slot does not know as synced
	firstOpen uint64 // its position
	lost      []loss
	lastSeq   uint64 // of slot.id
}

// loss is a span of positions in the newest segment that were synced once and cannot be read.
type loss struct {
	runs.Span
	from, to int64 // where in the file the damage is
}

// reading is the purpose of a look at a directory. It decides what an error means.
type reading int

const (
	looking   reading = iota // at an outbox whose process may delete files meanwhile
	owning                   // to open our own; no error is ignored
	believing                // to open our own after lasting damage; damaged files are left out
)

// load finds out what a directory holds.
func load(disk disk.FS, dir string, as reading) (*layout, error) {
	names, err := disk.List(dir)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	l := &layout{as: as}
	if err := l.loadSlot(disk, filepath.Join(dir, cursorName), slices.Contains(names, cursorName)); err != nil {
		return nil, err
	}
	if err := l.loadIdentity(disk, filepath.Join(dir, identityName), slices.Contains(names, identityName)); err != nil {
		return nil, err
	}
	for _, name := range names {
		kept, isKept := strings.CutSuffix(name, badSuffix)
		num := segNum(kept)
		if num == 0 {
			continue
		}
		l.newest = max(l.newest, num) // bad files too, because their names must not be used again
		if isKept {
			continue
		}
		if err := l.loadHeader(disk, filepath.Join(dir, name), num); err != nil {
			return nil, err
		}
	}
	l.tile()
	for len(l.segs) > 0 {
		s := l.segs[len(l.segs)-1]
		if err := l.scanNewest(disk, filepath.Join(dir, segName(s.num)), s); err != nil {
			if !l.isBelieved(err) {
				return nil, fmt.Errorf("outbox: reading the newest segment: %w (if the disk is beyond repair, move %s away to start anew)", err, dir)
			}
			l.headless, l.unsure = append(l.headless, s.num), true
			l.segs = l.segs[:len(l.segs)-1]
			continue
		}
		if s.end > s.Base {
			break
		}
		// Nothing in it can be read. It was begun when everything before it was synced, and the
		// slot knows if it ever held something.
		l.segs = l.segs[:len(l.segs)-1]
		if l.torn {
			l.begun = append(l.begun, s.num)
		} else {
			l.useless = append(l.useless, s.num)
		}
		l.torn = false
	}
	return l, l.findLastSeq(disk, dir)
}

// isBelieved says that an error means bad data and has lasted long enough.
func (l *layout) isBelieved(err error) bool { return l.as == believing && isDamage(err) }

func (l *layout) loadSlot(disk disk.FS, name string, listed bool) error {
	f, err := disk.Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) && (l.as == looking || !listed) {
		return nil
	}
	if err != nil {
		l.noSlot = err
		if l.isBelieved(err) {
			return nil
		}
		return fmt.Errorf("outbox: %w", err)
	}
	defer func() { _ = f.Close() }()
	best, number, err := format.ReadSlots(f)
	if err != nil && !l.isBelieved(err) {
		return fmt.Errorf("outbox: %s: %w", name, err)
	}
	l.slot, l.hasSlot, l.noSlot = best, number >= 0, err
	if err == nil && number < 0 {
		l.noSlot = fmt.Errorf("%s: none of its slots can be read", name)
	}
	return nil
}

// maxSegmentFile is above the size of any segment, in bytes. A larger file is not ours, and reading
// it might take for ever.
const maxSegmentFile = 2 << 30

func (l *layout) loadHeader(disk disk.FS, name string, num uint64) error {
	f, err := disk.Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) && l.as == looking {
		return nil // deleted since we listed it, by a running client that we only look at
	}
	if err != nil {
		return l.unreadable(num, fmt.Errorf("outbox: %w", err))
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err == nil && size > maxSegmentFile {
		err = fmt.Errorf("it has %d bytes, more than any segment: %w: move it away", size, ErrSpecial)
	}
	if err != nil {
		return l.unreadable(num, fmt.Errorf("outbox: %s: %w", name, err))
	}
	h, halved, err := format.ReadHeader(f)
	hasAny := false
	if errors.Is(err, format.ErrHeader) {
		var lost error
		if hasAny, lost = format.HasContent(f, 0, size); lost != nil {
			err = lost
		}
	}
	switch {
	case err == nil && h.ID != 0 && h.Base > 0 && h.Base < format.Farthest && h.BaseSeq > 0 && h.BaseSeq < format.Farthest:
		l.segs = append(l.segs, &segment{Header: h, num: num, end: h.Base, size: size})
		if halved {
			l.halved = append(l.halved, num)
		}
	case errors.Is(err, format.ErrHeader) && !hasAny: // made, and never written to
		l.useless = append(l.useless, num)
	case err == nil, errors.Is(err, format.ErrHeader):
		l.headless = append(l.headless, num)
	default:
		return l.unreadable(num, fmt.Errorf("outbox: %s: %w", name, err))
	}
	return nil
}

// unreadable decides what to do about a segment that cannot be read.
func (l *layout) unreadable(num uint64, err error) error {
	if l.isBelieved(err) {
		l.headless, l.unsure = append(l.headless, num), true
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (make it readable, or move it away)", err)
	}
	return err
}

// tile lets every segment end where the next one begins. A segment that begins at or below the
// beginning of an earlier one replaces it.
func (l *layout) tile() {
	var kept []*segment
	limit := uint64(format.Farthest)
	for _, s := range slices.Backward(l.segs) {
		if s.Base >= limit {
			l.useless = append(l.useless, s.num)
			continue
		}
		s.end = limit
		limit = s.Base
		kept = append(kept, s)
	}
	for i, s := range kept {
		l.segs[len(kept)-1-i] = s
	}
	l.segs = l.segs[:len(kept)]
}

// scanNewest finds the end of the newest segment: steps 5.1 to 5.3 of docs/outbox.md.
func (l *layout) scanNewest(disk disk.FS, name string, s *segment) error {
	f, err := disk.Open(name, readOnly)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if l.fileSize, err = f.Size(); err != nil {
		return err
	}
	l.torn, l.unsynced, l.lost = false, 0, nil
	s.end, s.size = s.Base, format.FramesStart
	known := l.slot.End // 0 if there is no slot
	sc := format.Scanner{File: f, Header: s.Header, Size: l.fileSize, At: format.FramesStart, Most: format.ReadAhead}
	for {
		fr, err := sc.Next()
		if err != nil {
			return err
		}
		if fr == nil {
			break
		}
		pos := s.Base + uint64(fr.Number)
		if pos > s.end {
			synced := max(s.end, s.Base+uint64(fr.Commit), min(pos, known))
			if synced > s.end {
				l.lost = append(l.lost, loss{runs.Of(s.end, synced-1), s.size, fr.At})
				s.end = synced
			}
			if synced < pos { // a commit that was never completed
				break
			}
		}
		if pos >= known && l.unsynced == 0 {
			l.unsynced, l.firstOpen = fr.At, pos
		}
		s.end, s.size = pos+1, fr.End
	}
	l.torn, err = format.HasContent(f, s.size, l.fileSize)
	return err
}

// findLastSeq finds the last seq of the outbox id that goes on. The slot may be older or newer than
// the segments.
func (l *layout) findLastSeq(disk disk.FS, dir string) error {
	l.lastSeq = l.slot.Seq
	for i := len(l.segs) - 1; i >= 0 && l.hasSlot; i-- {
		last := *l.segs[i]
		if last.ID != l.slot.ID {
			continue
		}
		if i < len(l.segs)-1 { // another outbox id is behind it, so only its frames tell its end
			whole := layout{slot: format.Slot{End: last.end}}
			err := whole.scanNewest(disk, filepath.Join(dir, segName(last.num)), &last)
			switch {
			case l.as == looking && errors.Is(err, fs.ErrNotExist): // deleted meanwhile
				return nil
			case l.isBelieved(err):
				l.unsure = true
				return nil
			case err != nil:
				return fmt.Errorf("outbox: %w", err)
			}
			last.end = min(last.end, l.segs[i].end)
		}
		// The slot knows all positions below its end. A frame at one of them with a later seq was
		// given up. Its message was written elsewhere or kept in memory, so nobody has seen it.
		if last.end > max(last.Base, l.slot.End) {
			l.lastSeq = max(l.lastSeq, last.seqAt(last.end-1))
		}
		return nil
	}
	return nil
}

// next returns the first position that was never used.
func (l *layout) next() uint64 {
	next := max(l.slot.End, 1)
	if n := len(l.segs); n > 0 {
		next = max(next, l.segs[n-1].end)
	}
	return next
}

// acks returns what has left the line by all records of it.
func (l *layout) acks() runs.Set {
	switch {
	case l.hasSlot:
		return l.slot.Left()
	case len(l.segs) > 0:
		return runs.Set{Cursor: l.segs[0].Base}
	}
	return runs.Set{Cursor: 1}
}
