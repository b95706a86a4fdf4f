package outbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// maxBodies is how many bytes of bodies Next hands out at once, unless the first body alone is more.
const maxBodies = 512 << 10

// Next returns the oldest records behind the place after (0: from the start) that have not left the line, up to limit of them and up
// to about 512 KiB of bodies, at least one. It waits until there is one, and returns ctx.Err() when ctx ends first, ErrClosed after
// Close. All of them are durable, except while the box is degraded. Handing out changes nothing: asked again with the same after,
// Next returns the same records.
func (b *Box) Next(ctx context.Context, after uint64, limit int) ([]Record, error) {
	return b.NextOf(ctx, limit, Part{After: after})
}

// Part is a part of the line: the places behind After and, unless it is 0, before Until.
type Part struct{ After, Until uint64 }

// NextOf is Next for a reader that has more than one place in the line: it returns the oldest records of the first part that has some,
// and waits until one of the parts has.
func (b *Box) NextOf(ctx context.Context, limit int, parts ...Part) ([]Record, error) {
	var once Batch
	defer once.ahead.release()
	for {
		if err := b.Wait(ctx, parts...); err != nil {
			return nil, err
		}
		if records, err := b.Read(&once, limit, maxBodies, parts...); len(records) > 0 || err != nil {
			return records, err
		}
	}
}

// Batch is the memory of one reader. The segment that it is in, what it has read ahead of it, and
// the room that its records take, serve its next calls. A reader that stops calls Release; a Read
// that finds nothing does the same.
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

// ahead is a stretch of a segment. It holds nothing that was not synced when it was read, for no segment's size says more; and what is
// synced does not change.
type ahead struct {
	num, salt uint64 // of the segment
	at        int64  // where in the file
	window    []byte
	decoder   format.Decoder
	file      disk.File // the segment's; nil: nothing was read from it yet that was not there already
}

// reset forgets the records.
func (t *Batch) reset() {
	if cap(t.bodies) > 2*format.ReadAhead {
		t.bodies = nil // large messages are the exception
	}
	t.records, t.bodies, t.ids, t.ends = t.records[:0], t.bodies[:0], t.ids[:0], t.ends[:0]
}

// Release gives back what only a busy reader needs. The records are not good any more.
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

// slot is where the next message is to be decoded.
func (t *Batch) slot() *message.Message {
	t.records = slices.Grow(t.records, 1)
	return &t.records[:len(t.records)+1][len(t.records)].Message
}

// add keeps the message in the slot, if the allowance has room for it.
func (t *Batch) add(pos uint64, id format.ID, seq uint64, a *allowance) bool {
	n := len(t.records)
	r := &t.records[:n+1][n]
	if !a.take(&r.Message, n == 0) {
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

// addName writes the id of a record, which is mostly that of the record before it but for the last digit.
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

// Read is NextOf without waiting, for a reader that calls it again and again: it returns no records
// if there are none, or none that can be read now. Else it returns at least one record, at most
// limit of them, and about bytes of bodies at most. The records and bodies are valid until the next
// call with the same batch.
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

// maxHoles is how many runs of acknowledged places may lie behind the oldest record for Newest still to open another.
const maxHoles = 32

// Newest returns the place behind which the newest n records are, for a reader that lets them go ahead of the others. It returns 0,
// the place behind which all are, if there are no others, and also if readers that went ahead have left so many holes in the line that
// the oldest should be filled first: a slot of the cursor keeps only so many.
func (b *Box) Newest(n int) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	ahead := uint64(max(n, 0)) + 1
	if b.blind || len(b.acks.Spans) >= maxHoles || b.next < b.acks.Next(1)+ahead {
		return 0
	}
	return b.next - ahead
}

// firstOf returns the first part with a record that may be read now. Without one, again is when a
// segment that could not be read may be tried again; zero if there is none either. b.mu is held.
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

// troubleAt says why the record that find has found must not be read yet; nil if it may be. b.mu is
// held.
func (b *Box) troubleAt(pos uint64, where source) *trouble {
	if where != onDisk {
		return nil
	}
	if t := b.segmentOf(pos).trouble; t != nil && pos >= t.pos && time.Now().Before(t.again) {
		return t
	}
	return nil
}

// allowance is how much a reader may still take. One record may be taken whatever its size if there is none before it.
type allowance struct {
	records, bodies int
	until           uint64 // no place from here on; 0: no bound
}

func (a *allowance) bound() uint64 {
	if a.until == 0 {
		return farthest
	}
	return a.until
}

func (a *allowance) take(m *message.Message, isFirst bool) bool {
	if a.records == 0 || !isFirst && a.bodies < len(m.Body) {
		a.records = 0
		return false
	}
	a.records--
	a.bodies -= len(m.Body)
	return true
}

// collect reads records from pos on, from as many segments as it takes.
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

// find returns the first place from pos on with a record that may be handed out. b.mu is held.
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

// readAndUnlock adds records to what was read so far, from where find has found the next one. b.mu is held, and released.
func (b *Box) readAndUnlock(into *Batch, pos uint64, where source, a *allowance) {
	if where == inMemory {
		b.fromRing(into, pos, a)
		b.mu.Unlock()
		return
	}
	s := b.segmentOf(pos)
	seg, start := *s, b.hintFor(s, pos)
	seg.end = min(b.diskEnd, a.bound()) // not what settle has not seen to yet
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

// segmentOf is the segment with a place on the disk. b.mu is held.
func (b *Box) segmentOf(pos uint64) *segment { return b.segs[b.segmentIndex(pos)] }

func (b *Box) segmentIndex(pos uint64) int {
	i := sort.Search(len(b.segs), func(i int) bool { return b.segs[i].Base > pos })
	return max(i-1, 0) // the first one begins at or below the cursor
}

// hint remembers where in a segment a message starts, so that reading on does not begin at the segment's first frame. Several are
// kept, for readers in different parts of the line.
type hint struct {
	num uint64
	pos uint64
	at  int64
}

// hintFor returns where to start reading for a place. b.mu is held.
func (b *Box) hintFor(s *segment, pos uint64) int64 {
	best := hint{pos: s.Base, at: format.FramesStart}
	for _, h := range b.hints {
		if h.num == s.num && h.pos <= pos && h.pos > best.pos {
			best = h
		}
	}
	return best.at
}

// remember keeps a hint, in the place of the one it continues or of the oldest.
func (b *Box) remember(h hint, before int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.hints[:], func(old hint) bool { return old.num == h.num && old.at == before })
	if i < 0 {
		i = b.nextHint
		b.nextHint = (b.nextHint + 1) % len(b.hints)
	}
	b.hints[i] = h
}

// fromRing takes records from memory. b.mu is held.
func (b *Box) fromRing(into *Batch, pos uint64, a *allowance) {
	r := b.ring
	for ; pos < min(r.end(), a.bound()); pos = b.acks.Next(pos + 1) {
		err := into.ahead.decoder.Decode(into.slot(), r.items[pos-r.base].Payload)
		if err != nil || !into.add(pos, r.id, r.seq+pos-r.base, a) {
			break // there can be no error: we have encoded it ourselves
		}
	}
}

// fromSegment takes records from a segment, from pos on. start is a hint.
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

// scan reads the messages of a segment from pos on into m and calls each for every one. each
// returns where the next message goes, nil to stop. A body is valid until each returns. start is
// the offset where reading begins; 0 is the first frame. kept holds the bytes that were read ahead,
// before and after. scan returns the disk's error, or errDamaged for a message that cannot be read.
// If the damage of the segment is believed, such a message leaves the line instead, and the scan
// goes on after it.
func (b *Box) scan(s segment, pos uint64, start int64, kept *ahead, m *message.Message, each func(pos uint64, end int64) *message.Message) error {
	if kept.window == nil {
		kept.window = *windows.Get().(*[]byte)
	}
	if kept.num != s.num || kept.salt != s.Salt {
		kept.close()
		kept.num, kept.salt, kept.window = s.num, s.Salt, kept.window[:0]
	}
	f := lazyFile{b, kept}
	sc := format.Scanner{File: f, Header: s.Header, Size: s.size, At: max(start, format.FramesStart), Most: format.ReadAhead, Window: kept.window, WindowAt: kept.at}
	defer func() {
		if kept.window, kept.at = sc.Window, sc.WindowAt; cap(sc.Window) > format.ReadAhead {
			kept.window = nil // a message larger than that is the exception
		}
		if kept.num == 0 {
			kept.window = kept.window[:0]
		}
	}()
	expect := pos
	for expect < s.end {
		at := sc.At
		fr, err := sc.Next()
		if err != nil {
			return err
		}
		found := s.end
		if fr != nil {
			found = min(s.Base+uint64(fr.Number), s.end)
		}
		if found < expect { // read on to where we want to be
			continue
		}
		if found < s.end {
			if err = kept.decoder.Decode(m, fr.Payload); err != nil {
				b.lose(s, runs.Of(expect, found), b.raw(f, at, fr.End), err) // the checksum is right, so another program wrote it
				expect = found + 1
				continue
			}
		}
		if found > expect {
			if !s.damaged && b.isLoss(s, runs.Of(expect, found-1)) {
				kept.drop() // the next try must read the disk, not memory
				return errDamaged
			}
			end := s.size
			if fr != nil {
				end = fr.At
			}
			b.lose(s, runs.Of(expect, found-1), b.raw(f, at, end), errDamaged)
		}
		expect = found + 1
		if found == s.end {
			return nil
		}
		if m = each(found, fr.End); m == nil {
			return nil
		}
	}
	return nil
}

// lazyFile is a segment that is opened when something is read from it, for what was read ahead may do, and anew after an error.
type lazyFile struct {
	box  *Box
	kept *ahead
}

func (f lazyFile) ReadAt(b []byte, at int64) (int, error) {
	if f.kept.file == nil {
		file, err := f.box.fs.Open(f.box.path(f.kept.num), readOnly)
		if err != nil {
			return 0, err
		}
		f.kept.file = file
	}
	n, err := f.kept.file.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		f.kept.close()
	}
	return n, err
}

func (a *ahead) close() {
	if a.file != nil {
		_ = a.file.Close()
		a.file = nil
	}
}

// drop forgets the bytes that were read ahead.
func (a *ahead) drop() {
	a.close()
	a.num = 0
}

// windows are what scan reads through, so that a reader that comes and goes does not leave one behind each time.
var windows = sync.Pool{New: func() any { return new([]byte) }}

var errDamaged = errors.New("the checksum is wrong")

// raw reads the bytes that were damaged, for the quarantine.
func (b *Box) raw(f io.ReaderAt, from, to int64) []byte {
	buf := make([]byte, max(min(to-from, MaxRecord), 0))
	n, _ := f.ReadAt(buf, from) // as much as can be read
	return buf[:n]
}

// isLoss says whether a message at one of the missing places of a segment has not left the line.
func (b *Box) isLoss(s segment, missing runs.Span) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := runs.Of(missing.First, min(missing.Last, b.lastOf(s)))
	return held.First <= held.Last && len(b.acks.Open(held)) > 0
}

// lose takes damaged messages of a segment out of the line, and reports those that had not left
// already. The file is kept.
func (b *Box) lose(s segment, lost runs.Span, raw []byte, why error) {
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	b.mu.Lock()
	n, first, last := uint64(0), uint64(0), uint64(0)
	if held := (runs.Of(lost.First, min(lost.Last, b.lastOf(s)))); held.First <= held.Last {
		n, first, last = b.miss(s.ID, s.seqAt(held.First), held)
	}
	b.leave(lost) // places that never were a message's: those of memory that a process took with it
	if n > 0 {
		b.lost += n
		p := Problem{Kind: Corrupt, ID: s.ID.String(), First: first, Last: last, Messages: n, Err: why}
		if errors.Is(why, fs.ErrNotExist) {
			p.Kind, p.Text = Missing, fmt.Sprintf("%d messages are lost: their file %s is gone", n, b.path(s.num))
		} else {
			p.Text = fmt.Sprintf("%d messages are damaged in %s: what is left of them is set aside in %s, and the file is kept as %s",
				n, b.path(s.num), quarantineName, segName(s.num)+badSuffix)
			if i := slices.IndexFunc(b.segs, func(x *segment) bool { return x.num == s.num }); i >= 0 {
				b.segs[i].aside = true
			}
		}
		b.problem(p)
	}
	b.mu.Unlock()
	if n > 0 {
		_ = b.setAside(SetAside{Lost: fmt.Sprintf("%s-%d..%d", s.ID, first, last), Why: why.Error(), Raw: raw}) // reported as damaged in any case
		b.saveSoon()
	}
}

// lastOf is the last place that can belong to a segment: what its file lacks may be another outbox id's, whose own file is gone. b.mu
// is held.
func (b *Box) lastOf(s segment) uint64 {
	seq := uint64(farthest)
	if s.ID == b.id {
		seq = b.seq
	}
	for _, x := range b.segs {
		if x.num > s.num && x.ID == s.ID {
			seq = min(seq, x.BaseSeq-1)
		}
	}
	return s.Base + seq - s.BaseSeq
}

// unreadable handles a segment that cannot be read from pos on. Reading is tried again with growing
// pauses. No message leaves the line until it is certain that the data is bad or the file is gone.
func (b *Box) unreadable(s segment, pos uint64, err error) {
	k := passing
	switch {
	case isDamage(err):
		k = damage
	case errors.Is(err, fs.ErrNotExist) && b.isMissing(b.path(s.num)):
		k = missing
	}
	b.mu.Lock()
	i := slices.IndexFunc(b.segs, func(x *segment) bool { return x.num == s.num })
	if i < 0 { // it was deleted in the meantime
		b.mu.Unlock()
		return
	}
	x, now := b.segs[i], time.Now()
	if x.trouble == nil {
		x.trouble = &trouble{}
	}
	t := x.trouble
	believed := t.fail(pos, k, err, now)
	if !believed && now.Sub(t.told) >= tellAgain {
		t.told = now
		what := "it is tried again until it can be"
		if k == damage {
			what = fmt.Sprintf("it is tried again for %v", doubtFor)
		}
		b.problem(Problem{Kind: Unreadable, Err: err, Text: fmt.Sprintf("%s cannot be read now: what waits in it is kept, and %s", b.path(s.num), what)})
	}
	if believed {
		x.trouble = nil
		x.damaged = k == damage
	}
	b.mu.Unlock()
	switch {
	case !believed:
	case k == missing:
		b.loseGone()
	case !errors.Is(err, errDamaged): // the rest of the segment, because the end of an unreadable part is unknown
		b.lose(s, runs.Of(pos, s.end-1), nil, err)
	}
}

// readable ends the trouble of a segment when reading has passed the place of the trouble.
func (b *Box) readable(num, pos uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.segs {
		if x.num != num || x.trouble == nil || pos <= x.trouble.pos {
			continue
		}
		if !x.trouble.told.IsZero() {
			b.problem(Problem{Kind: Readable, Text: b.path(num) + " can be read again"})
		}
		x.trouble = nil
		b.rouse(0)
	}
}

// handOut gives records to the caller: those that have not left the line meanwhile and are not too old, with the gaps they have to tell.
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
		old := runs.Of(records[i].Pos, records[i].Pos) // those behind it are too old as well, mostly
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
		_, _ = b.save() // so that a seq that was sent is known to be used even if its frame is damaged later; reported if it fails
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

// nameOf is the outbox id and the seq of a place in the line. b.mu is held.
func (b *Box) nameOf(pos uint64) (format.ID, uint64) {
	if r := b.ring; r != nil && pos >= r.base {
		return r.id, r.seq + pos - r.base
	}
	s := b.segmentOf(pos)
	return s.ID, s.seqAt(pos)
}

// maxSpans bounds how far out of order a drainer may acknowledge: 64 KiB of memory.
const maxSpans = 4096

// Ack takes the records at some places out of the line, for good: they have arrived. The order does not matter, and a place that has
// left already, in whatever way, is left alone. When it returns, the acknowledgements survive the process; they are synced within a
// second. A place that was never in the line is an error, and so is an acknowledgement too far out of order to be remembered; the other
// places of the call leave all the same.
func (b *Box) Ack(places ...uint64) error {
	defer b.report()
	b.lockCursor()
	defer b.unlockCursor()
	b.mu.Lock()
	var failed error
	before := b.acked
	for i := 0; i < len(places); {
		run := runs.Of(places[i], places[i])
		for i++; i < len(places) && places[i] == run.Last+1; i++ { // as a hub acknowledges them
			run.Last++
		}
		if err := b.ackRun(run); err != nil && failed == nil {
			failed = err
		}
	}
	changed := b.acked > before
	b.mu.Unlock()
	if changed {
		b.saveSoon()
	}
	return failed
}

// ackRun lets a run of places leave that arrived. b.mu is held.
func (b *Box) ackRun(run runs.Span) error {
	var failed error
	if run.Last >= b.next {
		failed = b.mayLeave(run.Last)
		run.Last = b.next - 1
	}
	for ; run.First <= run.Last; run.First++ {
		err := b.mayLeave(run.First)
		if err == nil {
			break
		}
		failed = err
	}
	if run.First > run.Last {
		return failed
	}
	if len(b.gaps) > 0 {
		for pos := run.First; pos <= run.Last; pos++ {
			if !b.acks.Has(pos) {
				b.gaps.told(pos)
			}
		}
	}
	b.acked += b.leave(run)
	return failed
}

// mayLeave says what is wrong with a place that a caller names. b.mu is held.
func (b *Box) mayLeave(pos uint64) error {
	switch {
	case b.closed:
		return ErrClosed
	case pos == 0 || pos >= b.next:
		return fmt.Errorf("outbox: there is no record at place %d: the last one is at %d", pos, b.next-1)
	case len(b.acks.Spans) >= maxSpans && !b.acks.Joins(pos):
		return fmt.Errorf("outbox: the record at place %d cannot leave before older ones do: %d are missing in between", pos, maxSpans)
	}
	return nil
}

// leave takes places out of the line, and tells those who wait for that. It returns how many had not left before. b.mu is held.
func (b *Box) leave(s runs.Span) (fresh uint64) {
	before := b.oldest()
	fresh = b.acks.Add(s)
	if b.ring != nil {
		b.ring.popTo(min(b.acks.Next(b.ring.base), b.ring.end()))
		b.room.fire()
	}
	if b.oldest() != before || b.wholeIn(s) {
		b.room.fire()
	}
	if b.isEmpty() {
		b.empty.fire()
	}
	return fresh
}

// wholeIn says whether all records of one of the segments that a span touches have left. b.mu is held.
func (b *Box) wholeIn(s runs.Span) bool {
	for i := b.segmentIndex(s.First); i < len(b.segs) && b.segs[i].Base <= s.Last; i++ {
		if b.segs[i].isIn(&b.acks) {
			return true
		}
	}
	return false
}

// miss lets places leave that did not arrive, all of one outbox id: the records behind them will tell. It returns how many had not left
// before, and the first and the last seq of those. b.mu is held.
func (b *Box) miss(id format.ID, firstSeq uint64, s runs.Span) (n, first, last uint64) {
	b.gaps.untold(s)
	for _, x := range b.acks.Open(s) {
		from, to := firstSeq+(x.First-s.First), firstSeq+(x.Last-s.First)
		b.gaps.add(id, from, to, b.isDead)
		if n == 0 {
			first = from
		}
		n, last = n+x.Last-x.First+1, to
	}
	b.leave(s)
	return n, first, last
}

// isDead says of a gap that no record can follow that could tell it. b.mu is held.
func (b *Box) isDead(g gap) bool {
	if g.id == b.id || b.ring != nil && g.id == b.ring.id {
		return false
	}
	return !slices.ContainsFunc(b.segs, func(s *segment) bool {
		return s.ID == g.id && s.end > b.acks.Cursor && s.end > s.Base && s.seqAt(s.end-1) > g.last
	})
}

// drop lets places leave by the policy. They belong to one segment, or to the ring. b.mu is held.
func (b *Box) drop(s runs.Span, why string) {
	id, seq := b.nameOf(s.First)
	n, first, last := b.miss(id, seq, s)
	if n == 0 {
		return
	}
	b.dropped += n
	b.problem(Problem{
		Kind: Dropped, ID: id.String(), First: first, Last: last, Messages: n,
		Text: fmt.Sprintf("%d of the oldest messages were dropped %s", n, why),
	})
}

// count is how many records are in the line. b.mu is held.
func (b *Box) count() uint64 { return b.next + b.unsynced - b.acks.Cursor - b.acks.Above }
