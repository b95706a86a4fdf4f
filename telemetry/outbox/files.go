package outbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// How the outbox opens files.
const (
	readOnly  = os.O_RDONLY
	readWrite = os.O_RDWR
	create    = os.O_CREATE
	exclusive = os.O_EXCL
	truncate  = os.O_TRUNC
)

// files is what a box has on a disk. Box.mu guards its fields, unless something else is said.
type files struct {
	dir     string    // never changes
	fs      disk.FS   // never changes
	segSize int64     // never changes
	lock    io.Closer // nil until it can be taken; replaced under cur.syncing

	cur cursorFile

	endID   format.ID // of the message at diskEnd-1; 0: it was never on the disk
	endSeq  uint64
	machine [16]byte

	unsyncedBytes int64       // of the unsynced messages
	timer         *time.Timer // that will sync them; nil: none will

	trash    []waste // segment files to delete or rename
	hints    []hint  // maxHints at most
	nextHint int     // the one to be replaced next

	// cur.syncing guards these:
	hasSlot   bool // there is a cursor file
	badCursor bool // the cursor file must be set aside before another is made

	// Of the leader alone:
	blindness   *trouble  // why the box is blind; nil: no try has failed
	claimed     bool      // the identity file names Options.For
	identity    *Identity // content of the identity file; nil: there is none
	badIdentity bool      // the identity file must be set aside before another is made
	writer      *writer   // nil: the next message needs a new segment, or reopen
	from, laid  int64     // of its file: where this process began, where the zeros of layAhead end
	reopen      *segment  // the newest segment, if it may be written on but is not open
	rested      bool      // rest has closed reopen: the file is longer than its messages
	tail        *tail     // what syncTail has to do
	remains     []remains // of segments that were given up and are not overruled yet
	newest      uint64    // the greatest number a segment file ever had
	buf         []byte

	loose      []format.Item // written and not synced; shrinks under mu
	looseBytes int64
}

// openDirectory reads the directory and sets the state of the box from it. It changes no file while
// the box is blind. The caller leads, or nobody else knows the box yet.
func (b *Box) openDirectory() error {
	if b.lock == nil {
		if err := b.fs.MkdirAll(b.dir); err != nil {
			return fmt.Errorf("outbox: %w (choose a directory that this user may write to)", err)
		}
		lock, err := b.fs.Lock(b.dir)
		switch {
		case errors.Is(err, ErrLocked):
			return fmt.Errorf("outbox: %w: stop it, or use another directory", err)
		case err != nil:
			return fmt.Errorf("outbox: %w (choose a directory that this user may write to)", err)
		}
		b.lock = lock
	}
	l, err := load(b.fs, b.dir, b.doubt())
	if err == nil {
		err = l.isFor(b.opt.For, b.opt.SendHere)
	}
	if err != nil {
		return err
	}
	changed := b.adopt(l)
	b.clean(l)
	if err = b.syncTail(); err != nil {
		b.mu.Lock()
		b.id, b.seq = format.NewID(), 0 // held back messages may come behind later ones
		b.mu.Unlock()
	} else {
		err = b.openFiles()
	}
	if err == nil && changed {
		err = b.syncAcks(true)
	}
	return err
}

// openFiles opens the cursor and the identity for writing. The caller leads, or nobody else knows
// the box yet.
func (b *Box) openFiles() error {
	err := b.claim()
	if err == nil {
		err = b.openCursor()
	}
	return err
}

// doubt says how openDirectory must treat damage: as an error, until it has lasted for doubtFor.
func (b *Box) doubt() reading {
	if t := b.blindness; t != nil && t.kind == damage && time.Since(t.since) >= doubtFor {
		return believing
	}
	return owning
}

func (b *Box) unlock() error {
	if b.lock == nil {
		return nil
	}
	return b.lock.Close()
}

// closeFiles is the end of Close. The caller leads.
func (b *Box) closeFiles() error {
	b.commit(nil, nil, true, false)
	if degraded, _ := b.isDegraded(); degraded {
		b.regain()
	}
	b.closeSegment()
	b.trim()
	c := &b.cur
	c.mu.Lock()
	c.closing = true
	if c.timer != nil && c.timer.Stop() {
		c.timers.Done()
	}
	c.mu.Unlock()
	c.timers.Wait()
	var errs []error
	b.mu.Lock()
	if r := b.ring; r != nil {
		n := uint64(0)
		for _, x := range b.acks.Open(runs.Of(r.base, r.end()-1)) {
			n += x.Count()
		}
		if n > 0 {
			errs = append(errs, fmt.Errorf("%d messages were only in memory and are lost: %w", n, b.off))
		}
	}
	b.mu.Unlock()
	if b.hasCursor() {
		if err := b.syncAcks(true); err != nil {
			errs = append(errs, err)
		} else {
			b.reclaim()
		}
	}
	c.mu.Lock()
	if c.file != nil {
		errs = append(errs, c.file.Close())
		c.file = nil
	}
	c.mu.Unlock()
	errs = append(errs, b.unlock())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("outbox: closing %s: %w", b.dir, err)
	}
	return nil
}

// rest closes the files and gives back the buffers of a box in which nothing is queued, so that a
// process can have thousands of them. The next append opens the files again. A box that is written
// to meanwhile does not rest.
func (b *Box) rest() {
	b.mu.Lock()
	if b.leading || b.closed || b.blind || b.off != nil || b.ring != nil || b.count() > 0 {
		b.mu.Unlock()
		return
	}
	b.leading = true
	b.hints, b.nextHint = nil, 0
	if n := len(b.segs); n > 0 { // so that the next read does not walk over what has left
		s := b.segs[n-1]
		b.hints = []hint{{num: s.num, pos: s.end, at: s.size}}
	}
	b.acks.Spans = nil // it has none
	b.mu.Unlock()
	if w := b.writer; w != nil && w.isOn {
		_ = w.file.Close() // everything in it is synced
		b.writer, b.reopen, b.rested = nil, w.seg, true
	}
	b.buf, b.batch, b.made, b.loose = nil, nil, nil, nil
	if b.cur.syncing.TryLock() { // else somebody syncs the file, and rests afterwards
		b.cur.mu.Lock()
		b.cur.rest()
		b.cur.mu.Unlock()
		b.cur.syncing.Unlock()
	}
	b.mu.Lock()
	b.passLead()
	b.mu.Unlock()
}

// trim gives back what a segment that rests did not use.
func (b *Box) trim() {
	if !b.rested || b.reopen == nil {
		return
	}
	f, err := b.fs.Open(b.path(b.reopen.num), readWrite)
	if err != nil {
		return // the rest is zeros, which readers skip as well
	}
	if h, _, err := format.ReadHeader(f); err == nil && h.Salt == b.reopen.Salt {
		_ = f.Truncate(b.reopen.size)
	}
	_ = f.Close()
}

// lockCursor locks the cursor, if there is one.
func (b *Box) lockCursor() {
	if b.files != nil {
		b.cur.mu.Lock()
	}
}

func (b *Box) unlockCursor() {
	if b.files != nil {
		b.cur.mu.Unlock()
	}
}
