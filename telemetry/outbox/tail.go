package outbox

import (
	"errors"
	"io/fs"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// tail is the end of the newest segment, if it may not be synced or if there is something behind
// it.
type tail struct {
	num  uint64
	from int64 // where what may not be synced starts
	to   int64 // where the last message ends
	end  uint64

	trouble trouble // why the tail cannot be made durable
}

// syncTail makes the tail durable. It writes the same bytes again, because a sync that failed
// earlier, even in a process before this one, may not cover them. The caller leads, or nobody else
// knows the box yet.
func (b *Box) syncTail() error {
	t := b.tail
	if t == nil {
		return nil
	}
	err := b.rewriteTail(t)
	if err == nil {
		b.tailSynced()
		return nil
	}
	if !isDamage(err) {
		t.trouble = trouble{}
		return err
	}
	if !t.trouble.fail(t.end, damage, err, time.Now()) {
		return err
	}
	// The disk cannot make them durable, so they are handed out as they are read, and their outbox
	// id ends.
	b.mu.Lock()
	for _, s := range b.segs {
		if s.num == t.num {
			s.aside = true
		}
		if s.num == t.num && s.ID == b.id {
			b.id, b.seq = format.NewID(), 0
		}
	}
	b.problem(Problem{Kind: Corrupt, Err: err, Text: "the end of " + b.path(t.num) + " cannot be made durable: it is sent as it is, the file is kept, and new messages get another outbox id"})
	b.mu.Unlock()
	b.tailSynced()
	return nil
}

func (b *Box) rewriteTail(t *tail) error {
	f, err := b.fs.Open(b.path(t.num), readWrite)
	if errors.Is(err, fs.ErrNotExist) && b.isMissing(b.path(t.num)) {
		return nil // reading will find that it is gone
	}
	if err != nil {
		return err
	}
	err = disk.WriteAgain(f, t.from, t.to)
	if err == nil {
		err = f.Truncate(t.to)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	return err
}

func (b *Box) tailSynced() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.diskEnd = max(b.diskEnd, b.tail.end)
	b.tail = nil
	b.rouse(0)
}
