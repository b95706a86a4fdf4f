package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// writer is the segment that is being written. It belongs to the leader (Box.leading).
type writer struct {
	seg  *segment
	file disk.File
	size int64 // as seg.size; 0 while the header is not written
	next uint32
	name string
	isOn bool // the segment is in Box.segs; seg.size and seg.end are its durable part
}

// start is the position and the id of the next message that is written.
type start struct {
	id  format.ID
	seq uint64
	pos uint64
}

// store writes items one behind the other from a position on. It returns the items that it did not
// come to. After an error the segment is given up: neither these items are durable nor what is
// loose. The caller leads.
func (b *Box) store(at start, items []format.Item) (rest []format.Item, err error) {
	for len(items) > 0 {
		n, err := b.storeSome(at, items)
		items, at.seq, at.pos = items[n:], at.seq+uint64(n), at.pos+uint64(n)
		if err == nil && (b.opt.SyncEvery == 0 || b.ring != nil || b.looseBytes >= maxCommit) {
			err = b.flush()
		}
		if err != nil {
			return items, err
		}
	}
	return nil, nil
}

// storeSome writes as many items as one segment takes, at least one, with one write.
func (b *Box) storeSome(at start, items []format.Item) (n int, err error) {
	need := int64(format.FramesStart)
	for i, it := range items {
		if i > 0 && need+cost(it) > b.segSize {
			break
		}
		need += cost(it)
	}
	if err := b.makeRoom(need); err != nil {
		return 0, err
	}
	if err := b.open(at, cost(items[0])); err != nil {
		return 0, err
	}
	w := b.writer
	buf, first := b.buf[:0], w.next
	commit := uint32(w.seg.end - w.seg.Base) // all since the last sync: nobody has seen any of them
	if w.size == 0 {
		buf = w.seg.AppendTo(buf)
	}
	for _, it := range items {
		if n > 0 && w.size+int64(len(buf))+cost(it) > b.segSize {
			break
		}
		buf = w.seg.AppendFrame(buf, first+uint32(n), commit, it.Payload)
		n++
	}
	if cap(buf) <= 2<<20 {
		b.buf = buf
	}
	if _, err = w.file.WriteAt(buf, w.size); err != nil {
		b.giveUp()
		return 0, err
	}
	w.size += int64(len(buf))
	w.next += uint32(n)
	b.layAhead(len(buf))
	b.loose = append(b.loose, items[:n]...)
	b.looseBytes += int64(len(buf))
	return n, nil
}

// A sync of new blocks makes a file system with a journal commit that, and wait for what others do
// at the disk. A large commit comes to new blocks anyway; a small one finds zeros in its place.
const (
	small    = 4 << 10  // bytes of a commit
	farthest = 64 << 10 // of zeros
)

var zeros [farthest]byte

// layAhead writes zeros behind the records if a small commit has come to the end of the last zeros:
// as many as this process has written bytes of records, so at most the disk gets twice as much.
func (b *Box) layAhead(commit int) {
	w := b.writer
	if commit >= small || w.size <= b.laid {
		return
	}
	b.laid = min(w.size+min(w.size-b.from, farthest), b.segSize)
	if b.laid > w.size {
		_, _ = w.file.WriteAt(zeros[:b.laid-w.size], w.size) // only makes the syncs cheaper
	}
}

// flush makes what is loose durable, and puts it into the line. After an error nothing of it is
// durable, and its segment is given up. The caller leads.
func (b *Box) flush() error {
	w := b.writer
	if len(b.loose) == 0 {
		return nil
	}
	isNew := !w.isOn
	began := b.clock()
	err := w.file.Sync()
	if err == nil && isNew {
		err = b.fs.SyncDir(b.dir)
	}
	if b.opt.Synced != nil {
		b.opt.Synced(time.Since(began))
	}
	if err == nil {
		is, lost := w.file.Is(w.name)
		switch {
		case lost == nil && !is, errors.Is(lost, fs.ErrNotExist) && b.isMissing(w.name):
			b.abandon(lost == nil)
			return fmt.Errorf("%s: %w", b.path(w.seg.num), errReplaced)
		case errors.Is(lost, fs.ErrNotExist), errors.Is(lost, syscall.ENOTDIR):
			// The directory lists the file, so it may be there; or a file stands in the place of
			// the directory, and nobody can say whether the segment will be found again.
			err = lost
		}
	}
	if err != nil {
		b.giveUp()
		return err
	}
	b.stored(w)
	b.remains = nil // overruled, see giveUp; and if they were from memory, cut off before
	if isNew {
		b.reclaimNow()
	}
	return nil
}

// clock returns the time if somebody wants to know how long syncs take.
func (b *Box) clock() (now time.Time) {
	if b.opt.Synced != nil {
		now = time.Now()
	}
	return now
}

// errReplaced says that a file lost its name while it was written: somebody deleted or replaced it.
var errReplaced = errors.New("the file is gone, or another one has its name")

// abandon gives up the open segment because its file has lost its name, so that a restart would not
// find it. replaced says that another file, perhaps somebody's, has the name now.
func (b *Box) abandon(replaced bool) {
	_ = b.writer.file.Close()
	b.mu.Lock()
	b.writer.seg.aside = replaced
	b.mu.Unlock()
	b.writer = nil
}

// takeLoose returns what is written and not durable, because it must be written again.
func (b *Box) takeLoose() (items []format.Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items = b.loose
	b.loose, b.looseBytes, b.unsynced, b.unsyncedBytes = nil, 0, 0, 0
	return items
}

// stored puts what was loose, and is synced now, into the line.
func (b *Box) stored(w *writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, n := w.seg, len(b.loose)
	if !w.isOn {
		w.isOn = true
		b.segs = append(b.segs, s)
	}
	s.size, s.end = w.size, s.Base+uint64(w.next)
	b.diskEnd, b.endID, b.endSeq = s.end, s.ID, s.seqAt(s.end-1)
	if b.ring != nil { // they were in the line before, in memory
		b.ring.popTo(s.end)
	} else {
		b.next = s.end
		b.appended += uint64(n)
	}
	if s.ID == b.id {
		b.seq = b.endSeq
	}
	clear(b.loose)
	b.loose, b.looseBytes, b.unsynced, b.unsyncedBytes = b.loose[:0], 0, 0, 0
	if cap(b.loose) > 4096 {
		b.loose = nil
	}
	b.rouse(0)
}

// open makes sure that b.writer takes a message of need bytes at a position.
func (b *Box) open(at start, need int64) error {
	if b.writer == nil && b.reopen != nil {
		if err := b.openAgain(need); err != nil {
			return err
		}
	}
	if w := b.writer; w != nil {
		pos := w.seg.Base + uint64(w.next)
		fits := w.size == 0 || w.size+need <= b.segSize
		if fits && w.seg.ID == at.id && pos == at.pos && w.seg.seqAt(pos) == at.seq {
			return nil
		}
		if err := b.flush(); err != nil { // readers take every segment but the newest for synced
			return err
		}
		b.closeSegment()
	}
	s := &segment{
		Header: format.NewHeader(at.id, at.pos, at.seq, format.NewSalt()),
		num:    b.newest + 1, end: at.pos,
	}
	f, err := b.create(b.path(s.num), readWrite|exclusive)
	if errors.Is(err, fs.ErrExist) { // somebody else made it: the next try uses the next number
		b.newest = s.num
	}
	if err != nil {
		return err
	}
	b.newest = s.num
	_ = f.Truncate(b.segSize) // only makes the syncs cheaper
	b.writer, b.from, b.laid = &writer{seg: s, file: f, name: b.path(s.num)}, 0, 0
	return nil
}

// openAgain opens the newest segment for writing, if it has room.
func (b *Box) openAgain(need int64) error {
	s, rested := b.reopen, b.rested
	b.reopen, b.rested = nil, false
	if s.size+need > b.segSize {
		return nil
	}
	if !rested {
		// A newer file that was deleted must not come back after a power cut: it would overrule
		// what we write now.
		if err := b.fs.SyncDir(b.dir); err != nil {
			return err
		}
	}
	f, err := b.fs.Open(b.path(s.num), readWrite)
	if err != nil {
		return err
	}
	if h, _, err := format.ReadHeader(f); err != nil || h.Salt != s.Salt {
		_ = f.Close() // nothing was written
		return errors.Join(err, fmt.Errorf("%s: %w", b.path(s.num), errReplaced))
	}
	if !rested {
		b.from, b.laid = s.size, 0
		_ = f.Truncate(b.segSize) // only makes the syncs cheaper
	}
	b.writer = &writer{seg: s, file: f, name: b.path(s.num), size: s.size, next: uint32(s.end - s.Base), isOn: true}
	return nil
}

// closeSegment closes the segment that is written, and gives back the space that it did not use.
func (b *Box) closeSegment() {
	w := b.writer
	b.writer = nil
	if w == nil {
		return
	}
	_ = w.file.Truncate(w.size) // the rest is zeros, which readers skip as well
	_ = w.file.Close()          // everything in it is synced
	if !w.isOn {
		_ = b.fs.Remove(b.path(w.seg.num))
	}
}

// giveUp ends a segment after a failed write or sync. Nothing of it that was not durable before may
// be trusted now, even if a later sync of the file succeeds, because the system may have dropped
// the data. So the file is cut behind the durable part, and a restart does not find the rest. If it
// cannot be cut, the next segment begins at the same position and overrules it.
func (b *Box) giveUp() {
	w := b.writer
	b.writer = nil
	if w == nil {
		return
	}
	_ = w.file.Close()
	rest := remains{num: w.seg.num}
	if w.isOn {
		rest.size = w.seg.size
	}
	b.remains = append(b.remains, rest)
	_ = b.cutOff(rest)
}

// remains is a segment that was given up.
type remains struct {
	num  uint64
	size int64 // what of it is durable; 0: nothing, not even the file
}

func (b *Box) cutOff(r remains) error {
	if r.size == 0 {
		err := b.fs.Remove(b.path(r.num))
		if errors.Is(err, fs.ErrNotExist) && b.isMissing(b.path(r.num)) {
			return nil
		}
		return err
	}
	f, err := b.fs.Open(b.path(r.num), readWrite)
	if errors.Is(err, fs.ErrNotExist) && b.isMissing(b.path(r.num)) {
		return nil // it has left the line since
	}
	if err != nil {
		return err
	}
	err = f.Truncate(r.size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// cutOffAll cuts all segments that were given up. It must succeed before messages of the ring are
// written: they may begin at a later position, and then would not overrule these segments.
func (b *Box) cutOffAll() error {
	for _, r := range b.remains {
		if err := b.cutOff(r); err != nil {
			return err
		}
	}
	if len(b.remains) > 0 {
		if err := b.fs.SyncDir(b.dir); err != nil {
			return err
		}
	}
	b.remains = nil
	return nil
}
