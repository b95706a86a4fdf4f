package outbox

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// syncEvery is the longest time between an acknowledgement and its sync.
const syncEvery = time.Second

// cursorFile writes the slots. Its lock comes before Box.mu.
type cursorFile struct {
	syncing sync.Mutex // held by the goroutine that syncs; taken before mu

	mu      sync.Mutex
	file    disk.File      // nil until the disk lets us make it, and while it rests
	resting bool           // the file is closed, and holds all that was to be written
	foreign bool           // our file is gone, or another one has its name
	turn    uint64         // of the slot written last
	slot    int            // the one being written
	synced  int            // the slot that is synced; no write touches it
	end     uint64         // slot.end of the slot written last
	left    runs.Set       // the positions that have left the line, by the synced slot
	dirty   bool           // something was written since the last sync began, or should have been
	failed  bool           // the last try failed, and Report was told
	astray  bool           // a restart would not find the file: it lost its name, or is to be made
	trouble *trouble       // why the file cannot be read; nil if it can
	pause   time.Duration  // until the next try after a failure
	timer   *time.Timer    // of the next sync; nil: none is due
	timers  sync.WaitGroup // those started and not yet stopped or done
	closing bool           // no timer is started any more
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
	name := filepath.Join(b.dir, cursorName)
	f, err := b.fs.Open(name, readWrite)
	if err != nil {
		c.astray = true
		c.foreign = errors.Is(err, fs.ErrNotExist) && b.isMissing(name)
		return
	}
	held := make([]byte, format.SlotSize)
	_, err = f.ReadAt(held, int64(c.synced)*format.SlotSize)
	s, ok, bad := format.ReadSlot(held)
	c.foreign = errors.Is(err, io.EOF) || err == nil && (!ok || bad != nil || s.Turn != c.turn)
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
		c.file, c.foreign, b.hasSlot, b.badCursor = nil, false, false, true
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
	best, number, err := format.ReadSlots(f)
	if err != nil && isDamage(err) {
		if c.trouble == nil {
			c.trouble = new(trouble)
		}
		if c.trouble.fail(0, damage, err, time.Now()) {
			b.hasSlot, b.badCursor = false, true // the next try makes another
		}
	}
	if err == nil && number < 0 {
		b.hasSlot, b.badCursor = false, true
		err = fmt.Errorf("%s: the slots just written cannot be read back", name)
	}
	if err == nil {
		// Writing it again makes this sync cover it, even if an earlier process saw its sync fail.
		if _, err = f.WriteAt(best.AppendTo(nil), int64(number)*format.SlotSize); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		_ = f.Close() // the first error is the one that tells
		return err
	}
	c.trouble = nil
	c.file, c.synced, c.slot, c.astray = f, number, (number+1)%format.Slots, false
	c.turn, c.left, c.end = max(c.turn, best.Turn), best.Left(), best.End
	return nil
}

// newCursor writes the whole file before the file gets its name.
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
	first := append(s.AppendTo(nil), make([]byte, format.Slots*format.SlotSize)...)[:format.Slots*format.SlotSize]
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

// state returns what a slot says now. Positions in the ring are not in it, because they end with
// the process. b.mu and b.cur.mu are held.
func (b *Box) state() format.Slot {
	s := format.Slot{
		Turn: b.cur.turn, ID: b.id, Seq: b.seq, Machine: b.machine,
		Cursor: min(b.acks.Cursor, b.diskEnd), End: b.diskEnd, EndID: b.endID, EndSeq: b.endSeq, Gaps: b.gaps,
	}
	// After a restart the records of the shorter ones are sent again.
	for _, x := range runs.Longest(b.acks.Spans, format.MaxSpans) {
		if x.First >= s.End {
			break
		}
		s.Spans = append(s.Spans, runs.Of(x.First, min(x.Last, s.End-1)))
	}
	return s
}

// save writes a slot, so that the state survives the process. b.cur.mu is held.
func (b *Box) save() (format.Slot, error) {
	c := &b.cur
	c.dirty = true
	if c.resting {
		b.wakeCursor()
	}
	if c.file == nil {
		return format.Slot{}, errNoCursor
	}
	c.turn++
	b.mu.Lock()
	s := b.state()
	c.buf = s.AppendTo(c.buf[:0])
	b.mu.Unlock()
	if _, err := c.file.WriteAt(c.buf, int64(c.slot)*format.SlotSize); err != nil {
		b.cursorFailed(err)
		return format.Slot{}, err
	}
	c.end = s.End
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
	if c.timer != nil || c.closing || !c.has() {
		return
	}
	c.timers.Add(1)
	c.timer = time.AfterFunc(d, func() {
		defer c.timers.Done()
		c.mu.Lock()
		c.timer = nil
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

// syncAcks returns when the present state, or a later one, is on the disk. Without force it does
// nothing if nothing was saved since the last sync.
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
		c.mu.Lock()
		astray = c.astray // the file was not found, or was not to be opened after its rest
		c.mu.Unlock()
		if err == nil || !astray {
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
	saved, err := b.save() // also after a failed sync, whose data is in doubt
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.slot = 0 + 1 + 2 - c.slot - c.synced // neither this slot nor the synced one
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
	c.synced, c.left, c.failed = number, saved.Left(), false
	return nil
}

// cursorFailed reports the first failure in a row. b.cur.mu is held.
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

const cursorName = "cursor"

func machineHash(name string) (h [16]byte) {
	if name != "" {
		sum := sha256.Sum256([]byte(name))
		copy(h[:], sum[:])
	}
	return h
}
