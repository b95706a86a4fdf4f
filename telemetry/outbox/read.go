package outbox

import (
	"slices"
	"sort"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// Part is a part of the line: the positions behind After and, unless Until is 0, before Until.
type Part struct{ After, Until uint64 }

// Batch is the memory of one reader, used again by each Read: an open segment, what was read ahead
// of it, and room for records. A reader that stops calls Release. A Read that finds nothing
// releases the batch, too.
type Batch struct {
	records []Record
	bodies  []byte
	ids     []byte    // of the records, one behind the other
	ends    []int     // of each of them
	lastID  format.ID // what the last one is made of
	lastSeq uint64
	lastAt  int // and where it begins
	ahead   ahead
}

// ahead is a stretch of a segment that was read ahead. All of it was synced when it was read,
// because the size of a segment covers only what is synced.
type ahead struct {
	num, salt uint64 // of the segment
	at        int64  // where in the file
	window    []byte
	decoder   format.Decoder
	file      disk.File // the segment; nil: not opened yet
}

// reset forgets the records.
func (t *Batch) reset() {
	if cap(t.bodies) > 2*format.ReadAhead {
		t.bodies = nil // large messages are the exception
	}
	t.records, t.bodies, t.ids, t.ends = t.records[:0], t.bodies[:0], t.ids[:0], t.ends[:0]
}

// Release gives back the memory that only a busy reader needs. The records are no longer valid.
func (t *Batch) Release() {
	t.ahead.release()
	*t = Batch{}
}

func (a *ahead) release() {
	a.close()
	if window := a.window[:0]; window != nil {
		windows.Put(&window)
	}
	*a = ahead{}
}

// slot returns where the next message is decoded to.
func (t *Batch) slot() *message.Message {
	t.records = slices.Grow(t.records, 1)
	return &t.records[:len(t.records)+1][len(t.records)].Message
}

// add keeps the message in the slot, if the allowance has room for it.
func (t *Batch) add(pos uint64, id format.ID, seq uint64, a *allowance) bool {
	n := len(t.records)
	r := &t.records[:n+1][n]
	if !a.allows(&r.Message, n == 0) {
		return false
	}
	t.records = t.records[:n+1]
	from := len(t.bodies)
	t.bodies = append(t.bodies, r.Body...)
	r.Body = t.bodies[from:len(t.bodies):len(t.bodies)]
	r.Pos, r.Gap = pos, ""
	t.addName(id, seq)
	return true
}

// addName writes the id of a record. Mostly it differs from that of the record before in its last
// digit only.
func (t *Batch) addName(id format.ID, seq uint64) {
	from := len(t.ids)
	if from > 0 && t.lastID == id && t.lastSeq+1 == seq && t.ids[from-1] != '9' {
		t.ids = append(t.ids, t.ids[t.lastAt:]...)
		t.ids[len(t.ids)-1]++
	} else {
		t.ids = id.AppendName(t.ids, seq)
	}
	t.lastID, t.lastSeq, t.lastAt = id, seq, from
	t.ends = append(t.ends, len(t.ids))
}

// name gives the records their ids, which share one string.
func (t *Batch) name() {
	all, from := string(t.ids), 0
	for i, end := range t.ends {
		t.records[i].ID, from = all[from:end], end
	}
}

// Read returns the oldest records of the first part that has some: at least one record, at most
// limit of them, and about bytes of bodies at most. It does not wait: it returns no records if
// there are none, or none that can be read now. All of them are durable, unless the box is degraded
// or in memory. The records and bodies are valid until the next call with the same batch. Handing
// out changes nothing: asked again, Read returns the same records until they are acknowledged.
func (b *Box) Read(into *Batch, limit, bytes int, parts ...Part) ([]Record, error) {
	defer b.report()
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, ErrClosed
		}
		b.unpark()
		part, ok, _ := b.firstOf(parts)
		b.mu.Unlock()
		if !ok {
			into.Release()
			return nil, nil
		}
		b.collect(into, part.After+1, allowance{records: max(limit, 1), bodies: bytes, until: part.Until})
		if records := b.handOut(into.records); len(records) > 0 {
			return records, nil
		}
		b.report() // what was found instead: damage, or old age
	}
}

// maxHoles is how many runs of acknowledged positions may lie behind the oldest record before
// Newest opens no more of them.
const maxHoles = 32

// Newest returns the position behind which the newest n records are, for a reader that sends them
// ahead of the others. It returns 0, the position behind which all records are, if there are no
// others. It also returns 0 if such readers have left too many holes in the line: a slot of the
// cursor keeps only so many, so the oldest records should go first.
func (b *Box) Newest(n int) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	ahead := uint64(max(n, 0)) + 1
	if b.blind || len(b.acks.Spans) >= maxHoles || b.next < b.acks.Next(1)+ahead {
		return 0
	}
	return b.next - ahead
}

// firstOf returns the first part with a record that may be read now. If there is none, again is
// when a segment that could not be read may be tried again; zero if there is none either. b.mu is
// held.
func (b *Box) firstOf(parts []Part) (first Part, ok bool, again time.Time) {
	for _, p := range parts {
		pos, where := b.find(p.After + 1)
		if where == nowhere || pos >= p.Until && p.Until != 0 {
			continue
		}
		t := b.troubleAt(pos, where)
		if t == nil {
			return p, true, time.Time{}
		}
		if again.IsZero() || t.again.Before(again) {
			again = t.again
		}
	}
	return Part{}, false, again
}

// troubleAt returns why the record that find has found must not be read yet; nil if it may be read.
// b.mu is held.
func (b *Box) troubleAt(pos uint64, where source) *trouble {
	if where != onDisk {
		return nil
	}
	if t := b.segmentOf(pos).trouble; t != nil && pos >= t.pos && time.Now().Before(t.again) {
		return t
	}
	return nil
}

// allowance is how much a reader may still read. The first record may have any size.
type allowance struct {
	records, bodies int
	until           uint64 // no position from here on; 0: no bound
}

func (a *allowance) bound() uint64 {
	if a.until == 0 {
		return format.Farthest
	}
	return a.until
}

func (a *allowance) allows(m *message.Message, isFirst bool) bool {
	if a.records == 0 || !isFirst && a.bodies < len(m.Body) {
		a.records = 0
		return false
	}
	a.records--
	a.bodies -= len(m.Body)
	return true
}

// collect reads records from pos on, from as many segments as necessary.
func (b *Box) collect(into *Batch, pos uint64, a allowance) {
	into.reset()
	for a.records > 0 {
		b.mu.Lock()
		at, where := b.find(pos)
		if where == nowhere || at >= a.bound() || b.troubleAt(at, where) != nil {
			b.mu.Unlock()
			break
		}
		before := len(into.records)
		b.readAndUnlock(into, at, where, &a)
		if len(into.records) == before {
			break // it has left, or cannot be read now; the caller tries again
		}
		pos = into.records[len(into.records)-1].Pos + 1
	}
	into.name()
}

type source int

const (
	nowhere source = iota
	inMemory
	onDisk
)

// find returns the first position from pos on with a record that may be handed out. b.mu is held.
func (b *Box) find(pos uint64) (uint64, source) {
	if b.blind { // messages in memory come after those on the disk
		return 0, nowhere
	}
	if pos = b.unparked(b.acks.Next(pos)); pos < b.diskEnd {
		return pos, onDisk
	}
	if r := b.ring; r != nil {
		if pos = b.unparked(b.acks.Next(max(pos, r.base))); pos < r.end() {
			return pos, inMemory
		}
	}
	return 0, nowhere
}

// readAndUnlock adds records to those that were read so far, beginning with the one that find has
// found. b.mu is held, and released.
func (b *Box) readAndUnlock(into *Batch, pos uint64, where source, a *allowance) {
	if where == inMemory {
		b.fromRing(into, pos, a)
		b.mu.Unlock()
		return
	}
	s := b.segmentOf(pos)
	seg, start := *s, b.hintFor(s, pos)
	seg.end = min(b.diskEnd, a.bound()) // not what syncTail has still to sync
	if i := slices.Index(b.segs, s) + 1; i < len(b.segs) {
		seg.end = min(seg.end, b.segs[i].Base)
	}
	if b.acks.Next(s.end) >= seg.end { // what comes between is deleted, and was whole
		seg.end = min(seg.end, s.end)
	}
	if t := s.trouble; t != nil && pos < t.pos && time.Now().Before(t.again) {
		seg.end = min(seg.end, t.pos)
	}
	b.mu.Unlock()
	b.fromSegment(into, seg, pos, start, a)
}

// segmentOf returns the segment that has a position. b.mu is held.
func (b *Box) segmentOf(pos uint64) *segment { return b.segs[b.segmentIndex(pos)] }

func (b *Box) segmentIndex(pos uint64) int {
	i := sort.Search(len(b.segs), func(i int) bool { return b.segs[i].Base > pos })
	return max(i-1, 0) // the first one begins at or below the cursor
}

// fromRing reads records from memory. b.mu is held.
func (b *Box) fromRing(into *Batch, pos uint64, a *allowance) {
	r := b.ring
	for ; pos < min(r.end(), a.bound()); pos = b.acks.Next(pos + 1) {
		err := into.ahead.decoder.Decode(into.slot(), r.items[pos-r.base].Payload)
		if err != nil || !into.add(pos, r.id, r.seq+pos-r.base, a) {
			break // there can be no error: we have encoded it ourselves
		}
	}
}

// fromSegment reads records from a segment, from pos on. Reading begins at the offset start.
func (b *Box) fromSegment(into *Batch, s segment, pos uint64, start int64, a *allowance) {
	had, end := len(into.records), start
	err := b.scan(s, pos, start, &into.ahead, into.slot(), func(pos uint64, frameEnd int64) *message.Message {
		if !into.add(pos, s.ID, s.seqAt(pos), a) {
			return nil
		}
		if end = frameEnd; a.records == 0 {
			return nil
		}
		return into.slot()
	})
	if len(into.records) > had { // also those before an error
		pos = into.records[len(into.records)-1].Pos + 1
		b.remember(hint{num: s.num, pos: pos, at: end}, start)
		if s.trouble != nil {
			b.readable(s.num, pos)
		}
	}
	if err != nil {
		b.unreadable(s, pos, err)
	}
}

// handOut returns the records that have not left the line meanwhile and are not too old, with the
// gaps that they announce.
func (b *Box) handOut(records []Record) []Record {
	if len(records) == 0 {
		return nil
	}
	dropped := false
	b.mu.Lock()
	kept := records[:0]
	for i := 0; i < len(records); i++ {
		if b.acks.Has(records[i].Pos) || b.isParked(records[i].Pos) {
			continue
		}
		if !b.isOld(&records[i]) {
			if kept = kept[:len(kept)+1]; len(kept) <= i {
				kept[len(kept)-1] = records[i]
			}
			continue
		}
		old := runs.Of(records[i].Pos, records[i].Pos) // mostly the next ones are too old as well
		id, seq := b.nameOf(old.First)
		for ; i+1 < len(records) && b.isOld(&records[i+1]); i++ {
			pos := records[i+1].Pos
			if nextID, nextSeq := b.nameOf(pos); nextID != id || nextSeq-seq != pos-old.First {
				break
			}
			old.Last = pos
		}
		b.drop(old, "for age")
		dropped = true
	}
	var last uint64
	if n := len(kept); n > 0 {
		last = min(kept[n-1].Pos, b.diskEnd-1)
	}
	for i := 0; len(b.gaps) > 0 && i < len(kept); i++ {
		id, seq := b.nameOf(kept[i].Pos)
		kept[i].Gap = b.gaps.tell(id, seq, kept[i].Pos)
	}
	b.mu.Unlock()

	if b.files == nil {
		return kept
	}
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	switch {
	case dropped:
		b.saveSoon()
	case last >= b.cur.end:
		_, _ = b.save() // so that the seq is known as used, even without its frame
	}
	return kept
}

func (b *Box) isOld(r *Record) bool {
	return b.opt.MaxAge > 0 && b.age(r.Pos, r.Created) > b.opt.MaxAge
}

func (b *Box) age(pos uint64, created time.Time) time.Duration {
	if b.opt.Age != nil {
		return b.opt.Age(pos, created)
	}
	return time.Since(created)
}

// nameOf returns the outbox id and the seq of a position. b.mu is held.
func (b *Box) nameOf(pos uint64) (format.ID, uint64) {
	if r := b.ring; r != nil && pos >= r.base {
		return r.id, r.seq + pos - r.base
	}
	s := b.segmentOf(pos)
	return s.ID, s.seqAt(pos)
}
