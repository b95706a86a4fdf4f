package outbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// le is the byte order of everything here.
var le = binary.LittleEndian

// The format of the cursor file is in docs/outbox.md, section 2.3.
const (
	cursorName  = "cursor"
	slotMagic   = "hubhopAK"
	slotSize    = 4096
	slots       = 3
	slotFixed   = 104
	maxSlotSpan = 128
	// farthest is above any place and seq that a box will see, and far from overflowing.
	farthest = 1 << 62
)

// slot is the state of a box outside its segments.
type slot struct {
	turn    uint64
	id      format.ID // what new messages get
	seq     uint64    // the last of it that is synced
	machine [16]byte  // zero: not known
	cursor  uint64
	end     uint64    // every message below this place is synced
	endID   format.ID // of the message at end-1; 0: there is none on the disk
	endSeq  uint64
	spans   []runs.Span
	gaps    []gap
}

// acks is what has left the line by the slot.
func (s *slot) acks() runs.Set {
	a := runs.Set{Cursor: s.cursor}
	for _, x := range s.spans {
		a.Add(x)
	}
	return a
}

func machineHash(name string) (h [16]byte) {
	if name != "" {
		sum := sha256.Sum256([]byte(name))
		copy(h[:], sum[:])
	}
	return h
}

// appendTo appends the slot; it takes at most slotSize bytes.
func (s *slot) appendTo(b []byte) []byte {
	start := len(b)
	spans, told := s.spans[:min(len(s.spans), maxSlotSpan)], s.gaps[:min(len(s.gaps), maxGaps)]
	b = format.AppendPrefix(b, slotMagic)
	b = le.AppendUint64(b, s.turn)
	b = le.AppendUint32(b, uint32(slotFixed+16*len(spans)+24*len(told)))
	b = append(b, 0, 0, 0, 0) // the checksum, below
	b = le.AppendUint64(b, uint64(s.id))
	b = le.AppendUint64(b, s.seq)
	b = append(b, s.machine[:]...)
	for _, v := range []uint64{s.cursor, s.end, uint64(s.endID), s.endSeq} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(len(spans)))
	b = le.AppendUint32(b, uint32(len(told)))
	for _, x := range spans {
		b = le.AppendUint64(le.AppendUint64(b, x.First), x.Last)
	}
	for _, x := range told {
		b = le.AppendUint64(le.AppendUint64(le.AppendUint64(b, uint64(x.id)), x.first), x.last)
	}
	le.PutUint32(b[start+28:], slotSum(b[start:]))
	return b
}

func slotSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[16:28], format.Castagnoli), format.Castagnoli, b[32:])
}

// readSlot returns false for bytes that are not a slot, and an error for a slot with impossible
// values.
func readSlot(b []byte) (s slot, ok bool, err error) {
	if ours, err := format.IsOurs(b, slotMagic); err != nil || !ours || len(b) < slotFixed {
		return slot{}, false, err
	}
	length := le.Uint32(b[24:])
	if length < slotFixed || int64(length) > int64(len(b)) || le.Uint32(b[28:]) != slotSum(b[:length]) {
		return slot{}, false, nil
	}
	spans, told := le.Uint32(b[96:]), le.Uint32(b[100:])
	if spans > maxSlotSpan || told > maxGaps || length != slotFixed+16*spans+24*told {
		return slot{}, false, nil
	}
	s = slot{
		turn: le.Uint64(b[16:]), id: format.ID(le.Uint64(b[32:])), seq: le.Uint64(b[40:]), cursor: le.Uint64(b[64:]),
		end: le.Uint64(b[72:]), endID: format.ID(le.Uint64(b[80:])), endSeq: le.Uint64(b[88:]),
	}
	copy(s.machine[:], b[48:])
	b = b[slotFixed:length]
	sane := s.id != 0 && s.cursor > 0 && s.cursor <= s.end && s.end < farthest &&
		s.turn < farthest && s.seq < farthest && s.endSeq < farthest
	for at := s.cursor; spans > 0; spans-- {
		x := runs.Of(le.Uint64(b), le.Uint64(b[8:]))
		sane = sane && x.First > at && x.First <= x.Last && x.Last < s.end
		s.spans, at, b = append(s.spans, x), x.Last, b[16:]
	}
	for ; told > 0; told-- {
		x := gap{id: format.ID(le.Uint64(b)), first: le.Uint64(b[8:]), last: le.Uint64(b[16:])}
		sane = sane && x.first > 0 && x.first <= x.last && x.last < farthest
		s.gaps, b = append(s.gaps, x), b[24:]
	}
	return s, sane, nil
}

// readSlots returns the newest slot of the file and its number; -1 if there is none.
func readSlots(f disk.File) (best slot, number int, err error) {
	number = -1
	b := make([]byte, slots*slotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return slot{}, -1, err
	}
	for i := 0; i < slots && i*slotSize < n; i++ {
		s, ok, err := readSlot(b[i*slotSize : min((i+1)*slotSize, n)])
		if err != nil {
			return slot{}, -1, err
		}
		if ok && (number < 0 || s.turn > best.turn) {
			best, number = s, i
		}
	}
	return best, number, nil
}

// syncEvery is how long an acknowledgement may wait for its sync.
const syncEvery = time.Second

// cursorFile writes the slots. Its lock comes before Box.mu.
type cursorFile struct {
	syncing sync.Mutex // held by the goroutine that syncs; taken before mu

	mu      sync.Mutex
	file    disk.File     // nil until the disk lets us make it, and while it rests
	resting bool          // the file was closed because there is nothing to write; it holds what was synced
	foreign bool          // another file has the name of ours
	turn    uint64        // of the slot written last
	slot    int           // the one being written
	synced  int           // the slot that is synced; no write touches it
	end     uint64        // slot.end of the slot written last
	left    runs.Set      // the places that have left the line, by the synced slot
	dirty   bool          // something was written since the last sync began, or should have been
	failed  bool          // the last try failed, and Report was told
	astray  bool          // the file has lost its name, or must be made; a restart would not find what is written
	trouble trouble       // why the file cannot be read
	pause   time.Duration // until the next try after a failure
	timer   *time.Timer
	armed   bool
	timers  sync.WaitGroup // those armed and not yet stopped or done
	closing bool           // no timer is armed any more
	buf     []byte
}

// has says whether there is a cursor file, or should be. c.mu is held.
func (c *cursorFile) has() bool { return c.file != nil || c.resting || c.astray }

// rest closes the file if all of it is synced. The next slot opens it again. c.mu is held.
func (c *cursorFile) rest() {
	if c.file == nil || c.dirty || c.astray || c.failed {
		return
	}
	_ = c.file.Close() // it is synced
	c.file, c.resting, c.buf = nil, true, nil
}

// wakeCursor opens the cursor file that rests. If that fails, or another file has its name, the
// next sync makes it good. b.cur.mu is held.
func (b *Box) wakeCursor() {
	c := &b.cur
	c.resting = false
	f, err := b.fs.Open(filepath.Join(b.dir, cursorName), readWrite)
	if err != nil {
		c.astray = true
		return
	}
	held := make([]byte, slotSize)
	_, err = f.ReadAt(held, int64(c.synced)*slotSize)
	if s, ok, bad := readSlot(held); err == nil && (!ok || bad != nil || s.turn != c.turn) {
		c.foreign = true
	}
	if c.astray = err != nil || c.foreign; c.astray {
		_ = f.Close()
		return
	}
	c.file = f
}

// openCursor opens the cursor file for writing. When it returns nil, the current slot is on the
// disk.
func (b *Box) openCursor() error {
	c := &b.cur
	c.syncing.Lock()
	defer c.syncing.Unlock()
	c.mu.Lock()
	isOpen := (c.file != nil || c.resting) && !c.astray
	c.mu.Unlock()
	if isOpen {
		return nil
	}
	return b.renewCursor()
}

// renewCursor opens the cursor file, or makes it from what is in memory. b.cur.syncing is held.
func (b *Box) renewCursor() error {
	c := &b.cur
	name := filepath.Join(b.dir, cursorName)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil || c.foreign { // our file is gone, so memory has the truth
		if c.file != nil {
			_ = c.file.Close()
		}
		c.file, c.foreign, b.hasSlot, b.badCursor = nil, false, false, true // another file may have its name
	}
	c.astray, c.resting = true, false
	if b.badCursor {
		if err := b.fs.Rename(name, name+badSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b.badCursor = false
	}
	if !b.hasSlot {
		if err := b.newCursor(name); err != nil {
			return err
		}
		b.hasSlot = true
	}
	f, err := b.fs.Open(name, readWrite)
	if errors.Is(err, fs.ErrNotExist) && b.isMissing(name) {
		b.hasSlot = false // the next try makes it
	}
	if err != nil {
		return err
	}
	best, number, err := readSlots(f)
	if err != nil && isDamage(err) && c.trouble.fail(0, damage, err, time.Now()) {
		b.hasSlot, b.badCursor = false, true // the next try makes another
	}
	if err == nil && number < 0 {
		b.hasSlot, b.badCursor = false, true
		err = fmt.Errorf("%s: the slots just written cannot be read back", name)
	}
	if err == nil {
		// Writing it again makes this sync cover it, even if an earlier process saw its sync fail.
		if _, err = f.WriteAt(best.appendTo(nil), int64(number)*slotSize); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		_ = f.Close() // the first error is the one that tells
		return err
	}
	c.trouble = trouble{}
	c.file, c.synced, c.slot, c.astray = f, number, (number+1)%slots, false
	c.turn, c.left, c.end = max(c.turn, best.turn), best.acks(), best.end
	return nil
}

// newCursor makes the file whole before it has its name.
func (b *Box) newCursor(name string) error {
	making := name + ".tmp"
	f, err := b.fs.Open(making, readWrite|create|truncate)
	if errors.Is(err, fs.ErrNotExist) && b.remake() {
		f, err = b.fs.Open(making, readWrite|create|truncate)
	}
	if err != nil {
		return err
	}
	b.cur.turn++
	b.mu.Lock()
	s := b.state()
	first := append(s.appendTo(nil), make([]byte, slots*slotSize)...)[:slots*slotSize]
	b.mu.Unlock()
	_, err = f.WriteAt(first, 0)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := b.fs.Rename(making, name); err != nil {
		return err
	}
	return b.fs.SyncDir(b.dir)
}

// state is what a slot has to say. b.mu and b.cur.mu are held. Places in the ring are not in it: they die with the process.
func (b *Box) state() slot {
	s := slot{
		turn: b.cur.turn, id: b.id, seq: b.seq, machine: b.machine,
		cursor: min(b.acks.Cursor, b.diskEnd), end: b.diskEnd, endID: b.endID, endSeq: b.endSeq, gaps: b.gaps,
	}
	for _, x := range longest(b.acks.Spans, maxSlotSpan) {
		if x.First >= s.end {
			break
		}
		s.spans = append(s.spans, runs.Of(x.First, min(x.Last, s.end-1)))
	}
	return s
}

// longest leaves out the shortest spans if there are more than n: what is left out comes again after a restart.
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

// save writes the state down, so that it outlives the process. b.cur.mu is held.
func (b *Box) save() (slot, error) {
	c := &b.cur
	c.dirty = true
	if c.resting {
		b.wakeCursor()
	}
	if c.file == nil {
		return slot{}, errNoCursor
	}
	c.turn++
	b.mu.Lock()
	s := b.state()
	c.buf = s.appendTo(c.buf[:0])
	b.mu.Unlock()
	if _, err := c.file.WriteAt(c.buf, int64(c.slot)*slotSize); err != nil {
		b.cursorFailed(err)
		return slot{}, err
	}
	c.end = s.end
	return s, nil
}

func (b *Box) hasCursor() bool {
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	return b.cur.has()
}

var errAcksNotSaved = errors.New("acknowledgements cannot be written down")

var errNoCursor = errors.New("there is no cursor file yet")

// saveSoon writes a slot, and starts the timer that syncs it. b.cur.mu is held.
func (b *Box) saveSoon() {
	if b.files == nil {
		return
	}
	_, _ = b.save() // reported by save, and not forgotten: dirty stays
	b.syncAcksIn(max(syncEvery, b.opt.SyncEvery))
}

// syncAcksIn starts the timer that syncs. The timer starts again after a failure. b.cur.mu is held.
func (b *Box) syncAcksIn(d time.Duration) {
	c := &b.cur
	if c.armed || c.closing || !c.has() {
		return
	}
	c.armed = true
	c.timers.Add(1)
	c.timer = time.AfterFunc(d, func() {
		defer c.timers.Done()
		c.mu.Lock()
		c.armed = false
		c.mu.Unlock()
		err := b.syncAcks(false)
		if err == nil {
			b.reclaim()
			b.rest()
		}
		c.mu.Lock()
		if c.pause = min(max(2*c.pause, syncEvery), retryEvery); err != nil {
			b.syncAcksIn(max(c.pause, b.opt.SyncEvery))
		} else {
			c.pause = 0
		}
		c.mu.Unlock()
		b.report()
	})
}

// syncAcks returns when the state as it was at the call, or later, is on the disk. Unless force is set it does nothing if nothing
// was saved since the last time.
func (b *Box) syncAcks(force bool) error {
	c := &b.cur
	c.syncing.Lock()
	defer c.syncing.Unlock()
	c.mu.Lock()
	if !c.dirty && !force {
		c.mu.Unlock()
		return nil
	}
	astray := c.astray
	c.mu.Unlock()
	if !astray {
		err := b.syncSlot()
		if err == nil || !errors.Is(err, errReplaced) {
			return err
		}
	}
	err := b.renewCursor()
	if err == nil {
		err = b.syncSlot()
	}
	if err != nil {
		c.mu.Lock()
		b.cursorFailed(err)
		c.mu.Unlock()
	}
	return err
}

// syncSlot writes a slot and syncs it. It returns errReplaced if the file has lost its name.
// b.cur.syncing is held.
func (b *Box) syncSlot() error {
	c := &b.cur
	c.mu.Lock()
	number := c.slot
	saved, err := b.save() // also after a sync that failed: what it was about is in doubt, so it is written anew
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.slot = 0 + 1 + 2 - c.slot - c.synced // the third: neither this one nor the one we would fall back on
	c.dirty = false
	f := c.file
	c.mu.Unlock()
	err = f.Sync()
	if err == nil {
		name := filepath.Join(b.dir, cursorName)
		if is, lost := f.Is(name); lost == nil && !is || errors.Is(lost, fs.ErrNotExist) && b.isMissing(name) {
			c.mu.Lock()
			c.dirty, c.astray = true, true
			b.mu.Lock()
			b.problem(Problem{Kind: Missing, Err: lost, Text: name + " is gone, or another file has its name: it is made anew"})
			b.mu.Unlock()
			c.mu.Unlock()
			return errReplaced
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.dirty = true
		b.cursorFailed(err)
		return err
	}
	if c.failed {
		b.mu.Lock()
		b.problem(Problem{Kind: AcksSaved, Text: "acknowledgements are written down again in " + b.dir})
		b.mu.Unlock()
	}
	c.synced, c.left, c.failed = number, saved.acks(), false
	return nil
}

// cursorFailed reports the first of a row of failures. b.cur.mu is held.
func (b *Box) cursorFailed(err error) {
	if b.cur.failed {
		return
	}
	b.cur.failed = true
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problem(Problem{
		Kind: AcksNotSaved, Err: err,
		Text: "acknowledgements cannot be written to " + filepath.Join(b.dir, cursorName) + ": after a restart what was acknowledged is sent again",
	})
}
