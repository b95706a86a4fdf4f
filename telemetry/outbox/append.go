package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// maxCommit bounds the bytes of the appends that share a commit. One append alone may have more.
const maxCommit = 1 << 20

// request is one append under way.
type request struct {
	items []format.Item
	made  []time.Time // times of the items that are to be stamped; nil: the items have theirs
	bytes int64
	sync  bool          // it wants everything to be durable
	onto  bool          // the disk, and never memory, see AppendDurable
	left  int           // of those: the last items that the disk did not take
	wake  chan struct{} // closed when it is done, or when it is its turn to lead
	leads bool
}

// Append puts messages into the line, in order and in one commit, and returns when they are
// durable. Appends at the same time share a write and a sync. While the disk fails, nil means that
// the messages are in memory (see Stats.Degraded).
//
// Under Block it waits for room until ctx ends; then it has taken nothing and its error is ErrFull.
// ctx has no other influence. After Close the error is ErrClosed. An error with Permanent() true
// (ErrTooLarge) says that no other try will succeed.
func (b *Box) Append(ctx context.Context, ms ...message.Message) error {
	return b.append(ctx.Done(), false, false, ms)
}

// AppendDurable is Append for a producer that can wait as long as it takes: nil means that the
// messages are synced, whatever the options say. Where Append would drop others or keep messages in
// memory, AppendDurable waits until ctx ends. Its error then says what it waited for, and the first
// of the messages may be in the line. In a box without a disk (NewMemory) memory is where the
// messages are kept.
func (b *Box) AppendDurable(ctx context.Context, ms ...message.Message) error {
	return b.append(ctx.Done(), false, true, ms)
}

// TryAppend is Append without waiting: where Append would wait for room, TryAppend takes nothing
// and returns ErrFull.
func (b *Box) TryAppend(ms ...message.Message) error {
	return b.append(noWait, false, false, ms)
}

// AppendOver is Append that goes over the bound instead of waiting. It is for a program that stops
// and has messages of an input that cannot take them back; nothing else should use it.
func (b *Box) AppendOver(ms ...message.Message) error {
	return b.append(noWait, true, false, ms)
}

// noWait is the Done channel of a caller that does not wait.
var noWait = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

func (b *Box) append(done <-chan struct{}, over, onto bool, ms []message.Message) error {
	if len(ms) == 0 {
		return nil
	}
	defer b.report()
	if b.opt.Appended != nil {
		began := time.Since(base)
		defer b.timed(began)
	}
	onto = onto && b.files != nil
	r := &request{items: make([]format.Item, len(ms)), bytes: format.FramesStart, sync: onto, onto: onto, wake: make(chan struct{})}
	if b.opt.Stamp != nil {
		r.made = make([]time.Time, len(ms))
	}
	for i := range ms {
		if b.opt.Stamp == nil {
			r.items[i] = encode(&ms[i])
		} else {
			r.items[i], r.made[i] = format.Undated(&ms[i]), created(&ms[i])
		}
		if n := len(r.items[i].Payload); n > MaxRecord {
			return tooLargeError(fmt.Sprintf("a message of %d bytes, properties included: at most %d", n, MaxRecord))
		}
		r.bytes += cost(r.items[i])
	}
	err := b.submit(r, done, over)
	for err == nil && r.left > 0 {
		n := len(r.items) - r.left
		r.items, r.made, r.left = r.items[n:], r.made[min(n, len(r.made)):], 0
		r.wake, r.leads = make(chan struct{}), false
		err = b.submit(r, done, over)
	}
	return err
}

// base is a time to count from: the time since then costs half of what the time of day costs.
var base = time.Now()

// timed tells how long an append took that began so long after base.
func (b *Box) timed(began time.Duration) { b.opt.Appended(time.Since(base) - began) }

// Sync returns when every appended message is durable. Only with SyncEvery this is not so anyway.
// While the disk fails, see Stats.Degraded. After Close the error is ErrClosed.
func (b *Box) Sync() error {
	defer b.report()
	return b.submit(&request{sync: true, wake: make(chan struct{})}, noWait, true)
}

// submit returns when a request is done.
func (b *Box) submit(r *request, done <-chan struct{}, over bool) error {
	leads, err := b.enqueue(r, done, over)
	if err != nil {
		return err
	}
	if !leads {
		<-r.wake
		if !r.leads {
			return nil // the leader has taken it along
		}
	}
	b.lead()
	return nil
}

// enqueue queues a request as soon as there is room for it; with over it does not wait. leads says
// that nobody else commits now, so that the caller must lead.
func (b *Box) enqueue(r *request, done <-chan struct{}, over bool) (leads bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.waitForRoom(r, done, over); err != nil {
		return false, err
	}
	b.pending = append(b.pending, r)
	b.pendingBytes += r.bytes
	if b.leading {
		return false, nil
	}
	b.leading, r.leads = true, true
	return true, nil
}

// lead commits the requests that wait, the leader's own among them, wakes their goroutines, and
// passes the lead on.
func (b *Box) lead() {
	b.mu.Lock()
	n, bytes, items, made, sync := 0, int64(0), b.batch[:0], b.made[:0], b.opt.SyncEvery == 0
	onto := b.pending[0].onto
	for n < len(b.pending) && (n == 0 || bytes+b.pending[n].bytes <= maxCommit && b.pending[n].onto == onto) {
		bytes += b.pending[n].bytes
		items, made = append(items, b.pending[n].items...), append(made, b.pending[n].made...)
		sync = sync || b.pending[n].sync
		n++
	}
	done := b.pending[:n:n]
	b.pending = b.pending[n:]
	b.mu.Unlock()

	left := b.commit(items, made, sync, onto)
	for i := n - 1; left > 0; i-- {
		done[i].left = min(left, len(done[i].items))
		left -= done[i].left
	}

	clear(items)
	if cap(items) <= 4096 {
		b.batch, b.made = items, made
	}
	b.mu.Lock()
	b.pendingBytes -= bytes
	b.room.fire() // frames were counted twice while they were both pending and used
	b.syncSoon()
	b.passLead()
	b.mu.Unlock()
	for _, r := range done {
		if !r.leads {
			close(r.wake)
		}
	}
}

// passLead gives the lead to the first request that waits, or to nobody. b.mu is held.
func (b *Box) passLead() {
	if len(b.pending) == 0 {
		b.leading, b.pending = false, nil
		b.idle.fire()
		return
	}
	b.pending[0].leads = true
	close(b.pending[0].wake)
}

// syncSoon starts the timer that syncs what is loose. No timer runs while nothing is loose. b.mu is
// held.
func (b *Box) syncSoon() {
	if b.unsynced == 0 || b.timer != nil || b.closed {
		return
	}
	b.timers.Add(1)
	b.timer = time.AfterFunc(b.opt.SyncEvery, func() {
		defer b.timers.Done()
		b.mu.Lock()
		b.timer = nil
		b.mu.Unlock()
		_ = b.Sync() // ErrClosed: Close does it
	})
}

// commit writes items. With sync it returns when they are durable, else they are synced before
// long. If the disk does not take them, they go into memory; with onto, commit returns how many of
// the last ones it did not take. made has the times of items that have none yet. The caller leads.
func (b *Box) commit(items []format.Item, made []time.Time, sync, onto bool) (left int) {
	if b.files == nil {
		b.stamp(items, made)
		b.keepInRing(items)
		return 0
	}
	if degraded, due := b.isDegraded(); degraded && due {
		b.regain() // before the stamps, because positions are counted anew when a disk is read late
	}
	if degraded, _ := b.isDegraded(); degraded && onto {
		return len(items)
	}
	b.stamp(items, made)
	n := len(items)
	for try := range 2 { // the second time in a new segment
		if degraded, _ := b.isDegraded(); degraded {
			break
		}
		loose := uint64(len(b.loose))
		rest, err := b.store(start{id: b.id, seq: b.seq + 1 + loose, pos: b.next + loose}, items)
		if err == nil && sync {
			err = b.flush()
		}
		if err == nil {
			b.mu.Lock()
			b.unsynced, b.unsyncedBytes = uint64(len(b.loose)), b.looseBytes
			b.mu.Unlock()
			return 0
		}
		items = append(b.takeLoose(), rest...)
		if try == 1 {
			b.degrade(err)
		}
	}
	if onto { // before them may be others, that are not synced yet
		left = min(n, len(items))
	}
	b.keepInRing(items[:len(items)-left])
	return left
}

// stamp lets Options.Stamp correct the times of the items that are committed next, and writes the
// times into the items. The caller leads.
func (b *Box) stamp(items []format.Item, made []time.Time) {
	if len(made) == 0 {
		return
	}
	b.mu.Lock()
	first := b.next
	if b.files != nil {
		first += uint64(len(b.loose))
	}
	b.mu.Unlock()
	b.opt.Stamp(first, made)
	for i, t := range made {
		items[i] = items[i].At(t)
	}
}
