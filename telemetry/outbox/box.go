// Package outbox is a durable queue of messages. Producers append, and one drainer reads the oldest
// messages, sends them, and acknowledges what has arrived. Whatever happens to the process, a
// message that Append has returned nil for is handed out until it is acknowledged, and an id names
// one message for ever.
//
//	box, err := outbox.Open(dir, outbox.Options{})
//	err = box.Append(ctx, message.Message{Body: body})         // durable on return
//	err = box.Wait(ctx, outbox.Part{})                         // or Watch, which does not block
//	records, err := box.Read(&batch, 64, 1<<20, outbox.Part{}) // the oldest
//	err = box.Ack(records[0].Pos)                              // it has arrived: never again
//
// docs/outbox.md has the contract in full, the words that are used here, the format of the files,
// and what recovery does and cannot do.
//
// Where to read: box.go has the contract, append.go the commits, room.go what a full box does,
// write.go the segments, degraded.go what happens while the disk takes nothing, read.go and
// leave.go the two ends of a record's life, format/scan.go the check of its checksum, notify.go how
// a reader waits, segment.go the end of a segment's life, cursor.go what is known beside the
// segments, load.go and recover.go the beginning, memory.go a box without a disk.
//
// Locks, in this order: the lead (Box.leading: one goroutine at a time owns the writing side, and
// hands it on), cursorFile.syncing, cursorFile.mu, Box.mu. Nobody holds Box.mu while it calls the
// disk.
package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// Errors that callers look for.
var (
	ErrFull     = errors.New("the outbox is full")
	ErrClosed   = errors.New("the outbox is closed")
	ErrTooLarge = errors.New("too large for the outbox") // comes with Permanent() true
	ErrLocked   = disk.ErrLocked                         // another process has it open
	ErrSpecial  = disk.ErrSpecial                        // a name of the outbox is not a plain file
	ErrNewer    = format.ErrNewer
	ErrOlder    = format.ErrOlder
	ErrOther    = errors.New("what waits in the outbox was made for another place")
)

type tooLargeError string

func (e tooLargeError) Error() string   { return ErrTooLarge.Error() + ": " + string(e) }
func (e tooLargeError) Unwrap() error   { return ErrTooLarge }
func (e tooLargeError) Permanent() bool { return true }

// Policy is what a full box does with a new message.
type Policy int

// The policies.
const (
	DropOldest Policy = iota // drops the oldest, a segment (at most 1 MiB) at a time
	Block                    // makes it wait
)

// DefaultMaxBytes is the bound of a box whose options have none.
const DefaultMaxBytes = 256 << 20

// Options are what a box may be given; the zero value is the usual one.
type Options struct {
	// MaxBytes bounds the segments with queued records; 0: DefaultMaxBytes. While the disk fails,
	// the messages in memory have at most 16 MiB of it.
	MaxBytes int64
	MaxAge   time.Duration // a read or an append drops older messages; 0: never
	Full     Policy

	// Age, which may be nil, says how old the message at a position is at least, for a producer
	// whose clock may have been wrong when it was created: 0 if nobody knows. It must not call the
	// box.
	Age func(pos uint64, created time.Time) time.Duration

	// Stamp, which may be nil, may correct the times of messages at the moment when their positions
	// are certain: the first of the messages gets the position first, the next ones follow without
	// a gap. made holds when they were created, in order; a message that did not say has the time
	// of its Append. One call of Stamp comes after the other, in the order of the positions, and
	// before any of the messages is written. Everybody who appends waits for it, so it must be
	// quick, and it must not append, sync or close.
	Stamp func(first uint64, made []time.Time)

	// SyncEvery, unless it is 0, lets Append return when its messages are written, and syncs them
	// that much later at most (sooner when they are 1 MiB): it spares a flash that wears out, and
	// loses nothing with a killed process, but a power cut may take what was appended since the
	// last sync. Only what is synced is handed out, so that an id names one message also then.
	// Acknowledgements are synced no more often either.
	SyncEvery time.Duration

	// For says for whom the outbox is opened; the zero value is not checked. If messages wait in
	// the directory that were made for another identity, Open returns ErrOther, unless SendHere
	// says that they are to go to For.
	For      Identity
	SendHere bool

	// Machine names this machine. If the directory knows another one, new messages get a new outbox
	// id. "": it is not compared.
	Machine string
	FS      disk.FS // the disk; nil: the real one

	// Appended and Synced, which may be nil, are told how long an append took, waits for room
	// included, and how long a sync of new messages to the disk took. They must be quick, and they
	// must not call the box.
	Appended, Synced func(took time.Duration)

	// Report, which may be nil, is called in the goroutines that call the box and in those of its
	// timers, without a lock of the box, and perhaps by several of them at once.
	Report func(Problem)
}

// validate says what no box can have.
func (o *Options) validate() error {
	var errs []error
	if o.MaxBytes < 0 {
		errs = append(errs, fmt.Errorf("MaxBytes is %d: a number of bytes above 0, or 0 for %d", o.MaxBytes, DefaultMaxBytes))
	}
	if o.MaxAge < 0 {
		errs = append(errs, fmt.Errorf("MaxAge is %v: 0 or more", o.MaxAge))
	}
	if o.SyncEvery < 0 {
		errs = append(errs, fmt.Errorf("SyncEvery is %v: 0 or more", o.SyncEvery))
	}
	if o.Full != DropOldest && o.Full != Block {
		errs = append(errs, fmt.Errorf("the policy Full is %d: DropOldest or Block", o.Full))
	}
	return errors.Join(errs...)
}

// MinMaxBytes is the smallest bound of an outbox that a user may choose. Open takes smaller ones.
const MinMaxBytes = 1 << 20

// Validate returns an error for each option that is out of the bounds that a user may choose. Each
// text begins with the option's name as it is spelled on the command line.
func (o Options) Validate() error {
	var faults []error
	if o.MaxBytes < MinMaxBytes {
		faults = append(faults, fmt.Errorf("outbox-max-bytes must be at least 1MiB, it is %d bytes", o.MaxBytes))
	}
	if o.MaxAge < 0 {
		faults = append(faults, fmt.Errorf("outbox-max-age must not be negative, it is %v", o.MaxAge))
	}
	return errors.Join(faults...)
}

// Box is an open outbox. Its methods may be called from any goroutine.
type Box struct {
	opt    Options
	*files // nil: the box is in memory

	mu           sync.Mutex
	closed       bool
	over         bool       // Close has done its work
	endErr       error      // what Close returns; set before over
	leading      bool       // somebody has the lead
	pending      []*request // waiting for a commit
	pendingBytes int64      // of those, and of the commit under way

	// The line: positions up to diskEnd are in segments and durable, from there on in the ring.
	// Only the leader lets it grow.
	segs    []*segment // ascending; each ends where the next begins
	ring    *ring      // nil while the disk takes every message
	acks    runs.Set
	gaps    gaps
	next    uint64 // the position of the next message; positions start at 1
	diskEnd uint64
	id      format.ID // of the disk; of the ring if the box is in memory
	seq     uint64    // the last one of the disk's id that is durable
	off     error     // why the disk is not used; nil while it is
	retryAt time.Time // when it is tried again
	blind   bool      // the disk could not be read yet, so nothing is handed out

	unsynced uint64 // appended messages that are written but not synced, so not in the line yet

	parked      []parked  // records that can never be sent, and cannot be set aside now
	parkedUntil time.Time // when they are tried again

	appended, acked, dropped, quarantined, lost uint64 // since Open

	// They fire when less is queued, when nothing is queued, when nobody has the lead, and when
	// Close has done its work.
	room, empty, idle, ended signal

	watches  []*Watch       // readers that wait
	wakes    []func()       // of watches, to be called
	problems []Problem      // to be reported
	news     atomic.Bool    // there are some of these two
	timers   sync.WaitGroup // of readers that wait, and of messages that are not synced

	// Of the leader alone:
	batch []format.Item
	made  []time.Time
}

// signal wakes all goroutines that wait for a change. Box.mu guards it.
type signal struct{ ch chan struct{} }

// wait returns a channel that the next fire closes. The caller looks for the change and calls wait
// under one lock, so that it misses no fire.
func (s *signal) wait() <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// Open opens the outbox in dir, and makes it if there is none. If the disk cannot be written or
// read, the box opens degraded. If the disk cannot even be read, its messages are handed out as
// soon as it can be, before those that are appended meanwhile. Open returns an error only if a
// person must act, and the error says how: ErrLocked (another process has the outbox open),
// ErrOther, a directory that this user may not use, a special file, or another version's files.
func Open(dir string, o Options) (*Box, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	if o.FS == nil {
		o.FS = disk.Real()
	}
	b := newBox(o)
	b.files, b.blind = &files{dir: dir, fs: o.FS, segSize: segmentBytes(b.opt.MaxBytes)}, true
	err := b.openDirectory()
	if b.blind && !needsPerson(err) {
		err = b.openDirectory() // a second try, because an error of a disk may pass at once
	}
	if b.blind && needsPerson(err) {
		_ = b.unlock() // the first error is returned
		return nil, err
	}
	if err != nil {
		b.degrade(err)
	}
	b.reclaim()
	b.rest()
	b.report()
	return b, nil
}

// newBox is an empty box.
func newBox(o Options) *Box {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	return &Box{opt: o, acks: runs.Set{Cursor: 1}, next: 1, diskEnd: 1}
}

// WaitEmpty returns nil as soon as no record waits to be sent. It returns ctx.Err() when ctx ends
// first, and ErrClosed after Close.
func (b *Box) WaitEmpty(ctx context.Context) error {
	for {
		b.mu.Lock()
		if b.isEmpty() {
			b.mu.Unlock()
			return nil
		}
		if b.closed {
			b.mu.Unlock()
			return ErrClosed
		}
		empty := b.empty.wait()
		hurry := b.unsynced > 0
		b.mu.Unlock()
		if hurry {
			_ = b.Sync() // what is not synced cannot be sent; ErrClosed: looked for above
		}
		select {
		case <-empty:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stats are figures of a box.
type Stats struct {
	ID          string // the outbox id of what is appended now
	LastSeq     uint64 // its last seq; 0: none yet
	Queued      uint64 // records in the line
	Unsynced    uint64 // the newest of those, not handed out yet (Options.SyncEvery)
	QueuedBytes int64  // of the segments that they are in, and of the ring

	Appended, Acked, Dropped, Quarantined uint64 // records since Open
	Damaged                               uint64 // records since Open that the disk has destroyed

	Degraded     bool  // the disk does not work; new messages are in memory only
	Unreadable   bool  // the next message cannot be read now; nothing is lost
	AcksNotSaved bool  // a restart would send acknowledged messages again
	Err          error // cause of the first of these three that is true; nil if none is
}

// Stats returns the present figures.
func (b *Box) Stats() Stats {
	b.lockCursor()
	unsaved := b.files != nil && b.cur.failed
	b.unlockCursor()
	b.mu.Lock()
	s := Stats{
		ID: b.id.String(), LastSeq: b.seq + b.unsynced, Queued: b.count(), Unsynced: b.unsynced, QueuedBytes: b.used(),
		Appended: b.appended, Acked: b.acked, Dropped: b.dropped, Quarantined: b.quarantined, Damaged: b.lost,
		Degraded: b.off != nil, Err: b.off, AcksNotSaved: unsaved, Unreadable: b.blind,
	}
	for _, x := range b.segs {
		if x.trouble != nil {
			s.Unreadable = true
			s.Err = cmp.Or(s.Err, x.trouble.err)
			break
		}
	}
	if unsaved && s.Err == nil {
		s.Err = errAcksNotSaved
	}
	if r := b.ring; r != nil {
		s.ID, s.LastSeq = r.id.String(), r.seq+uint64(len(r.items))-1
		s.QueuedBytes += r.bytes
	}
	b.mu.Unlock()
	return s
}

// ID returns the outbox id that the disk gives to new messages.
func (b *Box) ID() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.id.String()
}

// HasID says whether an outbox id is one of this box: new messages get it, or a segment that is
// still there has it.
func (b *Box) HasID(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.id.String() == id || slices.ContainsFunc(b.segs, func(s *segment) bool { return s.ID.String() == id })
}

// Last returns the position of the newest record that was ever appended, 0 if there was none.
func (b *Box) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next + b.unsynced - 1
}

// Close syncs everything and unlocks the directory. It completes the appends under way; everybody
// else who waits gets ErrClosed. It tries a failed disk once more; if that still fails, the error
// says what is lost. Later calls return the same.
func (b *Box) Close() error {
	b.mu.Lock()
	if b.closed {
		for !b.over {
			ended := b.ended.wait()
			b.mu.Unlock()
			<-ended
			b.mu.Lock()
		}
		b.mu.Unlock()
		return b.endErr
	}
	b.closed = true
	b.rouse(0)
	b.room.fire()
	b.empty.fire()
	b.mu.Unlock()
	b.callReaders() // now, and not when the lead is free
	b.mu.Lock()
	for b.leading {
		idle := b.idle.wait()
		b.mu.Unlock()
		<-idle
		b.mu.Lock()
	}
	b.leading = true
	if b.files != nil && b.timer != nil && b.timer.Stop() {
		b.timers.Done()
	}
	b.mu.Unlock()
	defer b.report() // last, so that Report may call Close too
	defer func() {
		b.mu.Lock()
		b.over = true
		b.ended.fire()
		b.mu.Unlock()
	}()

	b.timers.Wait()
	if b.files != nil {
		b.endErr = b.closeFiles()
	}
	return b.endErr
}
