package outbox

import (
	"fmt"
	"math"
	"sort"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// waitForRoom returns when a request may be queued: under Block as soon as there is room for it,
// under DropOldest or with over at once, but never before the disk works that it wants to be on. If
// done is closed before there is room, the error is ErrFull. b.mu is held, and released during
// waits.
func (b *Box) waitForRoom(r *request, done <-chan struct{}, over bool) error {
	for {
		if b.closed {
			return ErrClosed
		}
		if b.regainIfDue() { // a full box has no commit that would try the disk
			continue
		}
		if r.onto && b.off != nil {
			if !b.awaitRoom(done) && !b.closed {
				return fmt.Errorf("the disk does not take messages: %w", b.off)
			}
			continue
		}
		used, limit := b.bound()
		if r.bytes > limit {
			return tooLargeError(fmt.Sprintf("messages of %d bytes together: this outbox holds %d", r.bytes, limit))
		}
		if over || b.opt.Full == DropOldest && !r.onto || used+b.pendingBytes+r.bytes <= limit {
			return nil
		}
		if !b.awaitRoom(done) && !b.closed {
			return fmt.Errorf("%w: %d of %d bytes are taken", ErrFull, used, limit)
		}
	}
}

// awaitRoom returns when there may be room, or false when done is closed. It releases b.mu while it
// waits.
func (b *Box) awaitRoom(done <-chan struct{}) bool {
	room := b.room.wait()
	var again <-chan time.Time
	if b.off != nil {
		timer := time.NewTimer(max(time.Until(b.retryAt), firstPause)) // somebody may try it just now
		defer timer.Stop()
		again = timer.C
	}
	b.mu.Unlock()
	defer b.mu.Lock()
	b.report() // a try of the disk may have found records, and their readers make the room
	select {
	case <-done:
		return false
	default:
	}
	select {
	case <-room:
	case <-again:
	case <-done:
		return false
	}
	return true
}

// bound returns how many bytes are queued where new messages go, and how many may be. b.mu is held.
func (b *Box) bound() (used, limit int64) {
	if b.ring != nil {
		return b.ring.bytes, b.ringLimit()
	}
	return b.used(), b.opt.MaxBytes
}

// used returns the bytes of the segments that hold queued messages. b.mu is held.
func (b *Box) used() int64 {
	if b.files == nil {
		return 0
	}
	bytes := b.unsyncedBytes
	for i := len(b.segs) - 1; i >= 0 && b.segs[i].end > b.acks.Cursor; i-- {
		if len(b.acks.Spans) == 0 || !b.segs[i].isIn(&b.acks) {
			bytes += b.segs[i].size
		}
	}
	return bytes
}

// makeRoom drops the oldest segments: those that are too old, and under DropOldest as many as make
// room for need bytes. (keepInRing does the same in memory.) The caller leads.
func (b *Box) makeRoom(need int64) error {
	dropped := b.dropAged()
	b.mu.Lock()
	if b.opt.Full == DropOldest && b.used()+need > b.opt.MaxBytes && b.unsynced > 0 {
		b.mu.Unlock()
		if err := b.flush(); err != nil { // only what is in the line can be dropped
			return err
		}
		b.mu.Lock()
	}
	for b.opt.Full == DropOldest && b.used()+need > b.opt.MaxBytes {
		s := b.oldest()
		if s == nil {
			break
		}
		b.dropSegment(s, "for room")
		dropped = true
	}
	b.mu.Unlock()
	if !dropped {
		return nil
	}
	if w := b.writer; w != nil && w.isOn && len(b.loose) == 0 && !b.queued(w.seg) {
		b.closeSegment() // else the bytes of what was dropped would stay
	}
	if err := b.syncAcks(true); err != nil { // first the gap, then its messages go
		return err
	}
	b.reclaim()
	return nil
}

func (b *Box) queued(s *segment) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.end > b.acks.Cursor
}

// oldest returns the first segment with a queued message, nil if there is none. b.mu is held.
func (b *Box) oldest() *segment {
	i := sort.Search(len(b.segs), func(i int) bool { return b.segs[i].end > b.acks.Cursor })
	if i == len(b.segs) {
		return nil
	}
	return b.segs[i]
}

// dropSegment lets all messages of the oldest segment leave. b.mu is held.
func (b *Box) dropSegment(s *segment, why string) {
	if b.acks.Cursor < s.Base {
		b.leave(runs.Of(b.acks.Cursor, s.Base-1)) // nobody's positions
	}
	b.drop(runs.Of(max(s.Base, b.acks.Cursor), s.end-1), why)
}

// lookAgain is the longest pause before a segment is looked at again whose messages are too young:
// they may turn out to be older than they seem.
const lookAgain = time.Minute

// dropAged drops the oldest segments whose waiting messages are all too old. Read deals with the
// newest one.
func (b *Box) dropAged() (dropped bool) {
	if b.opt.MaxAge <= 0 {
		return false
	}
	for {
		b.mu.Lock()
		s := b.oldest()
		if s == nil || s == b.segs[len(b.segs)-1] || time.Now().Before(s.look) {
			b.mu.Unlock()
			return dropped
		}
		copied, from := *s, max(s.Base, b.acks.Cursor)
		b.mu.Unlock()
		age := b.youngest(copied, from)
		b.mu.Lock()
		if age <= b.opt.MaxAge {
			s.look = time.Now().Add(min(b.opt.MaxAge-age+1, lookAgain))
			b.mu.Unlock()
			return dropped
		}
		if b.oldest() == s {
			b.dropSegment(s, "for age")
			dropped = true
		}
		b.mu.Unlock()
	}
}

// youngest returns the least age of the messages in a segment from a position on; if the first one
// is not too old, its age will do. A segment that cannot be read counts as young, because Read
// deals with it. Each message is asked for its age, because several clocks may have made them.
func (b *Box) youngest(s segment, from uint64) time.Duration {
	age, found := time.Duration(math.MaxInt64), false
	var kept ahead
	defer kept.release()
	var m message.Message
	err := b.scan(s, from, 0, &kept, &m, func(pos uint64, _ int64) *message.Message {
		age, found = min(age, max(b.age(pos, m.Created), 0)), true
		if pos == from && age <= b.opt.MaxAge {
			return nil
		}
		return &m
	})
	if err != nil || !found {
		return 0
	}
	return age
}
