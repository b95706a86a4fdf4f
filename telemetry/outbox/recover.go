package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// layout is what a directory was found to hold. Finding it changes nothing.
type layout struct {
	slot     slot
	hasSlot  bool
	noSlot   error // why there is none although there is a file
	segs     []*segment
	newest   uint64   // the greatest number of a segment file, of whatever kind
	useless  []uint64 // files of which a later segment, or the lack of any message, leaves nothing
	headless []uint64 // files without a readable header
	begun    []uint64 // newest segments without a whole message, but with something
	halved   []uint64 // segments with one readable header

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
	span
	from, to int64 // where in the file the damage is
}

// load finds out what a directory holds.
func load(disk FS, dir string) (*layout, error) {
	names, err := disk.List(dir)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	l := &layout{}
	if err := l.loadSlot(disk, filepath.Join(dir, cursorName)); err != nil {
		return nil, err
	}
	for _, name := range names {
		num := segNum(name)
		if num == 0 {
			continue
		}
		l.newest = max(l.newest, num)
		if err := l.loadHeader(disk, filepath.Join(dir, name), num); err != nil {
			return nil, err
		}
	}
	l.tile()
	for len(l.segs) > 0 {
		s := l.segs[len(l.segs)-1]
		if err := l.scanNewest(disk, filepath.Join(dir, segName(s.num)), s); err != nil {
			return nil, fmt.Errorf("outbox: reading the newest segment: %w (if the disk is beyond repair, move %s away to start anew)", err, dir)
		}
		if s.end > s.base {
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
	l.findLastSeq(disk, dir)
	return l, nil
}

func (l *layout) loadSlot(disk FS, name string) error {
	f, err := disk.Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		l.noSlot = err
		return nil
	}
	defer func() { _ = f.Close() }()
	best, number, err := readSlots(f)
	if err != nil && !isVersion(err) {
		best, number, err = readSlots(f) // a disk that stumbles gets a second chance
	}
	if isVersion(err) {
		return fmt.Errorf("outbox: %s: %w", name, err)
	}
	l.slot, l.hasSlot, l.noSlot = best, number >= 0, err
	if err == nil && number < 0 {
		l.noSlot = fmt.Errorf("%s: none of its slots can be read", name)
	}
	return nil
}

func (l *layout) loadHeader(disk FS, name string, num uint64) error {
	f, err := disk.Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted since we listed it, by a running client that we only look at
	}
	if err != nil {
		return fmt.Errorf("outbox: %w (make it readable, or move it away)", err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("outbox: %s: %w", name, err)
	}
	h, halved, err := readHeader(f)
	if err != nil && !errors.Is(err, errHeader) && !isVersion(err) {
		h, halved, err = readHeader(f) // as above, before the file is set aside
	}
	hasAny := false
	if errors.Is(err, errHeader) {
		hasAny, _ = hasContent(f, 0, size) // if it cannot be read there is nothing to keep either
	}
	switch {
	case isVersion(err):
		return fmt.Errorf("outbox: %s: %w", name, err)
	case err == nil && h.id != 0 && h.base > 0 && h.base < farthest && h.baseSeq > 0 && h.baseSeq < farthest:
		l.segs = append(l.segs, &segment{header: h, num: num, end: h.base, size: size})
		if halved {
			l.halved = append(l.halved, num)
		}
	case errors.Is(err, errHeader) && !hasAny: // made, and never written to
		l.useless = append(l.useless, num)
	default:
		l.headless = append(l.headless, num)
	}
	return nil
}

// tile lets every segment end where the next begins. One that begins at or below the beginning of an earlier one replaces it.
func (l *layout) tile() {
	var kept []*segment
	limit := uint64(farthest)
	for _, s := range slices.Backward(l.segs) {
		if s.base >= limit {
			l.useless = append(l.useless, s.num)
			continue
		}
		s.end = limit
		limit = s.base
		kept = append(kept, s)
	}
	for i, s := range kept {
		l.segs[len(kept)-1-i] = s
	}
	l.segs = l.segs[:len(kept)]
}

// scanNewest finds where the newest segment ends. Steps 5.1 to 5.3 of docs/outbox.md.
func (l *layout) scanNewest(disk FS, name string, s *segment) error {
	f, err := disk.Open(name, readOnly)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if l.fileSize, err = f.Size(); err != nil {
		return err
	}
	l.torn, l.unsynced, l.lost = false, 0, nil
	s.end, s.size = s.base, framesStart
	known := l.slot.end // 0 if there is no slot
	sc := scanner{file: f, header: s.header, size: l.fileSize, at: framesStart, most: readAhead}
	for {
		fr, err := sc.next()
		if err != nil {
			return err
		}
		if fr == nil {
			break
		}
		pos := s.base + uint64(fr.number)
		if pos > s.end {
			synced := max(s.end, s.base+uint64(fr.commit), min(pos, known))
			if synced > s.end {
				l.lost = append(l.lost, loss{span{s.end, synced - 1}, s.size, fr.at})
				s.end = synced
			}
			if synced < pos { // a commit that was never completed
				break
			}
		}
		if pos >= known && l.unsynced == 0 {
			l.unsynced, l.firstOpen = fr.at, pos
		}
		s.end, s.size = pos+1, fr.end
	}
	l.torn, err = hasContent(f, s.size, l.fileSize)
	return err
}

// hasContent says whether there is anything but zeros in a part of a file.
func hasContent(f File, from, to int64) (bool, error) {
	sc := scanner{file: f, size: to, most: readAhead}
	for from < to {
		b, err := sc.bytes(from, readAhead)
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
func (l *layout) findLastSeq(disk FS, dir string) {
	l.lastSeq = l.slot.seq
	for i := len(l.segs) - 1; i >= 0 && l.hasSlot; i-- {
		last := *l.segs[i]
		if last.id != l.slot.id {
			continue
		}
		if i < len(l.segs)-1 { // what was in memory was written behind it: only its frames say where it ends
			whole := layout{slot: slot{end: last.end}}
			if whole.scanNewest(disk, filepath.Join(dir, segName(last.num)), &last) != nil {
				return // one that cannot be read does not keep a box from opening: the slot has to do
			}
			last.end = min(last.end, l.segs[i].end)
		}
		if last.end > last.base {
			l.lastSeq = max(l.lastSeq, last.seqAt(last.end-1))
		}
		return
	}
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
func (l *layout) acks() acks {
	switch {
	case l.hasSlot:
		return l.slot.acks()
	case len(l.segs) > 0:
		return acks{cursor: l.segs[0].base}
	}
	return acks{cursor: 1}
}

// adopt makes the layout the box's own: what is lost becomes gaps, and what is not known to be synced waits for settle. It tells
// whether the state differs from the slot.
func (b *Box) adopt(l *layout) (changed bool) {
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	b.mu.Lock()
	b.hasSlot, b.newest, b.segs = l.hasSlot, l.newest, l.segs
	b.acks, b.next, b.gaps = l.acks(), l.next(), l.slot.gaps
	b.diskEnd, b.endID, b.endSeq = b.next, l.slot.endID, l.slot.endSeq
	b.id, b.seq, b.machine = l.slot.id, l.lastSeq, l.slot.machine
	b.cur.turn = l.slot.turn
	if n := len(l.segs); n > 0 {
		s := l.segs[n-1]
		if s.num == l.newest { // else a newer file is in the way, which only a still newer one overrules
			b.reopen = s
		}
		if s.end >= l.slot.end {
			b.endID, b.endSeq = s.id, s.seqAt(s.end-1)
		}
		if l.unsynced > 0 || l.torn {
			b.tail = &tail{num: s.num, from: s.size, to: s.size, end: b.next}
		}
		if l.unsynced > 0 {
			b.diskEnd, b.tail.from = l.firstOpen, l.unsynced
			if l.slot.end <= s.base { // then the header may not be synced either
				b.tail.from = 0
			}
		}
	}
	mine := machineHash(b.opt.Machine)
	var none [16]byte
	switch {
	case !l.hasSlot:
		b.id, b.machine, changed = newID(), mine, true
	case mine == none || mine == b.machine:
	case b.machine == none:
		b.machine, changed = mine, true
	default:
		b.id, b.seq, b.machine, changed = newID(), 0, mine, true
	}
	b.tell(l)
	b.mu.Unlock()
	return b.loseMissing(l) || changed
}

// tell reports what is not as it should be, except for lost messages. b.mu is held.
func (b *Box) tell(l *layout) {
	if l.noSlot != nil {
		b.problem(Problem{
			Kind: Corrupt, Err: l.noSlot,
			Text: "what was acknowledged is not known any more: everything that is on the disk is sent again, and new messages get another outbox id",
		})
	}
	for _, num := range l.headless {
		b.problem(Problem{Kind: Corrupt, Err: errHeader, Text: "nothing can be read in " + b.path(num) + ": it is set aside as " + b.path(num) + badSuffix})
	}
	for _, num := range l.begun {
		b.problem(Problem{Kind: TornTail, Text: "the first write to " + b.path(num) + " never completed: it is set aside as " + b.path(num) + badSuffix})
	}
	for _, num := range l.halved {
		b.problem(Problem{Kind: Corrupt, Err: errHalved, Text: "one of the two headers of " + b.path(num) + " is damaged: the other one was used"})
	}
	if l.torn {
		b.problem(Problem{Kind: TornTail, Text: "a write to " + b.path(l.segs[len(l.segs)-1].num) + " that never completed was cut off"})
	}
}

// loseMissing finds the places that the slot or the segments say were used, and that no frame was found for. b.cur.mu is held.
func (b *Box) loseMissing(l *layout) (lost bool) {
	lose := func(id boxID, pos, seq uint64, x loss, why string) { // seq is that of the message at pos
		whole := x.span
		if x.first < pos && seq <= pos-x.first { // there are no seqs below 1
			x.first = pos - seq + 1
		}
		n, first, last := uint64(0), uint64(0), uint64(0)
		b.mu.Lock()
		if x.first <= x.last && id != 0 {
			n, first, last = b.miss(id, seq+x.first-pos, x.span)
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
		if s := l.segs[0]; l.hasSlot && s.base > l.slot.cursor {
			lose(s.id, s.base, s.baseSeq, loss{span: span{l.slot.cursor, s.base - 1}}, "the segment files before "+b.path(s.num)+" are gone")
		}
		s := l.segs[n-1]
		for _, x := range l.lost {
			lose(s.id, s.base, s.baseSeq, x, "their checksums in "+b.path(s.num)+" are wrong")
		}
		end = s.end
	}
	if l.hasSlot && end < l.slot.end {
		x := loss{span: span{end, l.slot.end - 1}}
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
	if !l.hasSlot && l.noSlot != nil {
		name := filepath.Join(b.dir, cursorName)
		_ = b.fs.Rename(name, name+badSuffix)
	}
	for _, num := range append(l.headless, l.begun...) {
		_ = b.fs.Rename(b.path(num), b.path(num)+badSuffix)
	}
	b.mu.Lock()
	b.trash = append(b.trash, l.useless...)
	b.mu.Unlock()
}

// tail is the end of the newest segment when it is not known to be synced, or when there is something behind it.
type tail struct {
	num  uint64
	from int64 // where what may not be synced starts
	to   int64 // where the last message ends
	end  uint64
}

// settle makes sure that the tail is on the disk. Writing it again makes the sync cover it even if an earlier sync of the same bytes
// failed, here or in a process before this one. The caller leads, or nobody else knows the box yet.
func (b *Box) settle() error {
	t := b.tail
	if t == nil {
		return nil
	}
	f, err := b.fs.Open(b.path(t.num), readWrite)
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
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tail = nil
	b.diskEnd = max(b.diskEnd, t.end)
	b.fresh.fire()
	return nil
}

func writeAgain(f File, from, to int64) error {
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
