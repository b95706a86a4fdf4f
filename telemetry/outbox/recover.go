package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// layout is what a directory was found to hold. Finding it changes nothing.
type layout struct {
	as          reading
	slot        slot
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
	unsynced  int64  // where the first message starts that the slot does not know to be synced; 0: none
	firstOpen uint64 // its place
	lost      []loss
	lastSeq   uint64 // of slot.id
}

// loss is a span of places in the newest segment that were synced once and cannot be read.
type loss struct {
	runs.Span
	from, to int64 // where in the file the damage is
}

// reading says for what purpose a directory is read, which decides what an error means.
type reading int

const (
	looking   reading = iota // to look into another process's outbox, which may delete files meanwhile
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
		// Nothing in it can be read. It was begun when everything before it was synced, and the slot knows if it ever held something.
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
	best, number, err := readSlots(f)
	if err != nil && !l.isBelieved(err) {
		return fmt.Errorf("outbox: %s: %w", name, err)
	}
	l.slot, l.hasSlot, l.noSlot = best, number >= 0, err
	if err == nil && number < 0 {
		l.noSlot = fmt.Errorf("%s: none of its slots can be read", name)
	}
	return nil
}

// maxSegmentFile is above the size of any segment, in bytes. A larger file is not ours, and to read
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
		if hasAny, lost = hasContent(f, 0, size); lost != nil {
			err = lost
		}
	}
	switch {
	case err == nil && h.ID != 0 && h.Base > 0 && h.Base < farthest && h.BaseSeq > 0 && h.BaseSeq < farthest:
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

// tile lets every segment end where the next begins. One that begins at or below the beginning of an earlier one replaces it.
func (l *layout) tile() {
	var kept []*segment
	limit := uint64(farthest)
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

// scanNewest finds where the newest segment ends. Steps 5.1 to 5.3 of docs/outbox.md.
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
	known := l.slot.end // 0 if there is no slot
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
	l.torn, err = hasContent(f, s.size, l.fileSize)
	return err
}

// hasContent says whether there is anything but zeros in a part of a file.
func hasContent(f disk.File, from, to int64) (bool, error) {
	sc := format.Scanner{File: f, Size: to, Most: format.ReadAhead}
	for from < to {
		b, err := sc.Bytes(from, format.ReadAhead)
		if err != nil || len(b) == 0 {
			return false, err
		}
		for _, x := range b {
			if x != 0 {
				return true, nil
			}
		}
		from += int64(len(b))
	}
	return false, nil
}

// findLastSeq finds the last seq of the outbox id that goes on. The slot may be older than the segments, and newer.
func (l *layout) findLastSeq(disk disk.FS, dir string) error {
	l.lastSeq = l.slot.seq
	for i := len(l.segs) - 1; i >= 0 && l.hasSlot; i-- {
		last := *l.segs[i]
		if last.ID != l.slot.id {
			continue
		}
		if i < len(l.segs)-1 { // what was in memory was written behind it: only its frames say where it ends
			whole := layout{slot: slot{end: last.end}}
			err := whole.scanNewest(disk, filepath.Join(dir, segName(last.num)), &last)
			switch {
			case l.as == looking && errors.Is(err, fs.ErrNotExist): // deleted meanwhile; the slot says what was in it
				return nil
			case l.isBelieved(err):
				l.unsure = true
				return nil
			case err != nil:
				return fmt.Errorf("outbox: %w", err)
			}
			last.end = min(last.end, l.segs[i].end)
		}
		// The slot knows all places below its end. A frame at one of them with a later seq was
		// given up, and what it held has gone another way: its seq was never anybody's.
		if last.end > max(last.Base, l.slot.end) {
			l.lastSeq = max(l.lastSeq, last.seqAt(last.end-1))
		}
		return nil
	}
	return nil
}

// next is the first place that was never used.
func (l *layout) next() uint64 {
	next := max(l.slot.end, 1)
	if n := len(l.segs); n > 0 {
		next = max(next, l.segs[n-1].end)
	}
	return next
}

// acks is what has left the line, as far as is recorded.
func (l *layout) acks() runs.Set {
	switch {
	case l.hasSlot:
		return l.slot.acks()
	case len(l.segs) > 0:
		return runs.Set{Cursor: l.segs[0].Base}
	}
	return runs.Set{Cursor: 1}
}

// adopt makes the layout the box's own: what is lost becomes gaps, and what is not known to be synced waits for settle. It tells
// whether the state differs from the slot.
func (b *Box) adopt(l *layout) (changed bool) {
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	b.mu.Lock()
	b.hasSlot, b.newest, b.segs = l.hasSlot, l.newest, l.segs
	b.badCursor = !l.hasSlot && l.noSlot != nil
	b.acks, b.next, b.gaps = l.acks(), l.next(), append(l.slot.gaps, b.gaps...)
	b.identity, b.badIdentity, b.blind = l.identity, l.badIdentity != nil, false
	b.diskEnd, b.endID, b.endSeq = b.next, l.slot.endID, l.slot.endSeq
	b.id, b.seq, b.machine = l.slot.id, l.lastSeq, l.slot.machine
	b.cur.turn = l.slot.turn
	if n := len(l.segs); n > 0 {
		s := l.segs[n-1]
		if s.num == l.newest { // else a newer file is in the way, which only a still newer one overrules
			b.reopen = s
		}
		if s.end > l.slot.end {
			b.endID, b.endSeq = s.ID, s.seqAt(s.end-1)
		}
		if l.unsynced > 0 || l.torn {
			b.tail = &tail{num: s.num, from: s.size, to: s.size, end: b.next}
		}
		if l.unsynced > 0 {
			b.diskEnd, b.tail.from = l.firstOpen, l.unsynced
			if l.slot.end <= s.Base { // then the header may not be synced either
				b.tail.from = 0
			}
		}
	}
	mine := machineHash(b.opt.Machine)
	var none [16]byte
	switch {
	case !l.hasSlot:
		b.id, b.machine, changed = format.NewID(), mine, true
	case l.unsure:
		b.id, b.seq, b.machine, changed = format.NewID(), 0, mine, true
	case mine == none || mine == b.machine:
	case b.machine == none:
		b.machine, changed = mine, true
	default:
		b.id, b.seq, b.machine, changed = format.NewID(), 0, mine, true
	}
	if r := b.ring; r != nil { // it was filled while the box was blind, and no message of it was handed out
		r.base = b.next
		b.next = r.end()
	}
	b.tell(l)
	b.rouse(0)
	b.mu.Unlock()
	return b.loseUnfound(l) || changed
}

// tell reports what is not as it should be, except for lost messages. b.mu is held.
func (b *Box) tell(l *layout) {
	if !l.hasSlot && (l.noSlot != nil || len(l.segs) > 0) {
		p := Problem{
			Kind: Corrupt, Err: l.noSlot,
			Text: "the acknowledgements are lost: every message on the disk is sent again, and new messages get another outbox id",
		}
		if l.noSlot == nil {
			p.Kind, p.Text = Missing, filepath.Join(b.dir, cursorName)+" is gone: "+p.Text
		}
		b.problem(p)
	}
	if l.badIdentity != nil {
		b.problem(Problem{Kind: Corrupt, Err: l.badIdentity, Text: "the outbox in " + b.dir + " has lost the note for whom it was filled: the messages that wait in it are sent here"})
	}
	if l.unsure {
		b.problem(Problem{Kind: Corrupt, Text: "the newest messages in " + b.dir + " cannot be read: their file is set aside, and new messages get another outbox id"})
	}
	for _, num := range l.headless {
		b.problem(Problem{Kind: Corrupt, Err: format.ErrHeader, Text: "nothing can be read in " + b.path(num) + ": it is set aside as " + b.path(num) + badSuffix})
	}
	for _, num := range l.begun {
		b.problem(Problem{Kind: TornTail, Text: "the first write to " + b.path(num) + " never completed: it is set aside as " + b.path(num) + badSuffix})
	}
	for _, num := range l.halved {
		b.problem(Problem{Kind: Corrupt, Err: format.ErrHalved, Text: "one of the two headers of " + b.path(num) + " is damaged: the other one was used"})
	}
	if l.torn {
		b.problem(Problem{Kind: TornTail, Text: "a write to " + b.path(l.segs[len(l.segs)-1].num) + " that never completed was cut off"})
	}
}

// loseUnfound takes out of the line the places that were used, by the slot or the segments, but
// have no frame. b.cur.mu is held.
func (b *Box) loseUnfound(l *layout) (lost bool) {
	lose := func(id format.ID, pos, seq uint64, x loss, why string) { // seq is that of the message at pos
		whole := x.Span
		if x.First < pos && seq <= pos-x.First { // there are no seqs below 1
			x.First = pos - seq + 1
		}
		n, first, last := uint64(0), uint64(0), uint64(0)
		b.mu.Lock()
		if x.First <= x.Last && id != 0 {
			n, first, last = b.miss(id, seq+x.First-pos, x.Span)
		}
		b.leave(whole)
		if n > 0 {
			lost = true
			b.lost += n
			b.problem(Problem{Kind: Corrupt, ID: id.String(), First: first, Last: last, Messages: n, Text: fmt.Sprintf("%d messages are missing: %s", n, why)})
		}
		b.mu.Unlock()
		if n > 0 {
			_ = b.setAside(SetAside{Lost: fmt.Sprintf("%s-%d..%d", id, first, last), Why: why, Raw: b.rawOf(l, x)}) // reported above as missing
		}
	}
	end := l.slot.cursor
	if n := len(l.segs); n > 0 {
		if s := l.segs[0]; l.hasSlot && s.Base > l.slot.cursor {
			lose(s.ID, s.Base, s.BaseSeq, loss{Span: runs.Of(l.slot.cursor, s.Base-1)}, "the segment files before "+b.path(s.num)+" are gone")
		}
		s := l.segs[n-1]
		for _, x := range l.lost {
			lose(s.ID, s.Base, s.BaseSeq, x, "their checksums in "+b.path(s.num)+" are wrong")
		}
		end = s.end
	}
	if l.hasSlot && end < l.slot.end {
		x := loss{Span: runs.Of(end, l.slot.end-1)}
		if n := len(l.segs); n > 0 {
			x.from, x.to = l.segs[n-1].size, l.fileSize
		}
		lose(l.slot.endID, l.slot.end-1, l.slot.endSeq, x, "the newest segment ends before them")
	}
	return lost
}

// rawOf reads damaged bytes of the newest segment.
func (b *Box) rawOf(l *layout, x loss) []byte {
	if x.to == 0 {
		return nil
	}
	f, err := b.fs.Open(b.path(l.segs[len(l.segs)-1].num), readOnly)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	return b.raw(f, x.from, x.to)
}

const badSuffix = ".bad"

// clean puts away what is of no use. What cannot be put away is in nobody's way either.
func (b *Box) clean(l *layout) {
	b.mu.Lock()
	for _, num := range l.headless {
		b.trash = append(b.trash, waste{num, true})
	}
	for _, num := range l.begun {
		b.trash = append(b.trash, waste{num, true})
	}
	for _, num := range l.useless {
		b.trash = append(b.trash, waste{num, false})
	}
	b.mu.Unlock()
	b.reclaim()
}

// tail is the end of the newest segment when it is not known to be synced, or when there is something behind it.
type tail struct {
	num  uint64
	from int64 // where what may not be synced starts
	to   int64 // where the last message ends
	end  uint64

	trouble trouble // why the tail cannot be made durable
}

// settle makes sure that the tail is on the disk. Writing it again makes the sync cover it even if an earlier sync of the same bytes
// failed, here or in a process before this one. The caller leads, or nobody else knows the box yet.
func (b *Box) settle() error {
	t := b.tail
	if t == nil {
		return nil
	}
	err := b.settleTail(t)
	if err == nil {
		b.settled()
		return nil
	}
	if !isDamage(err) {
		t.trouble = trouble{}
		return err
	}
	if !t.trouble.fail(t.end, damage, err, time.Now()) {
		return err
	}
	// The disk cannot make them durable, so they are handed out as they are read, and their outbox
	// id ends.
	b.mu.Lock()
	for _, s := range b.segs {
		if s.num == t.num {
			s.aside = true
		}
		if s.num == t.num && s.ID == b.id {
			b.id, b.seq = format.NewID(), 0
		}
	}
	b.problem(Problem{Kind: Corrupt, Err: err, Text: "the end of " + b.path(t.num) + " cannot be made durable: it is sent as it is, the file is kept, and new messages get another outbox id"})
	b.mu.Unlock()
	b.settled()
	return nil
}

func (b *Box) settleTail(t *tail) error {
	f, err := b.fs.Open(b.path(t.num), readWrite)
	if errors.Is(err, fs.ErrNotExist) && b.isMissing(b.path(t.num)) {
		return nil // reading will find that it is gone
	}
	if err != nil {
		return err
	}
	err = writeAgain(f, t.from, t.to)
	if err == nil {
		err = f.Truncate(t.to)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	return err
}

func (b *Box) settled() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.diskEnd = max(b.diskEnd, b.tail.end)
	b.tail = nil
	b.rouse(0)
}

func writeAgain(f disk.File, from, to int64) error {
	buf := make([]byte, min(to-from, 256<<10))
	for ; from < to; from += int64(len(buf)) {
		buf = buf[:min(to-from, int64(len(buf)))]
		if _, err := f.ReadAt(buf, from); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, from); err != nil {
			return err
		}
	}
	return nil
}
