package outbox

import (
	"errors"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// Discard drops all records that wait in the line, and returns how many they were. Their ids are
// never used again, and the next message carries them as a gap. When Discard returns nil, that is
// on the disk, unless the box is in memory. While the box is degraded, Discard drops nothing and
// returns an error.
func (b *Box) Discard() (n uint64, err error) {
	defer b.report()
	if err := b.Sync(); err != nil { // records that are not synced are not in the line yet
		return 0, err
	}
	b.lockCursor()
	b.mu.Lock()
	if b.off != nil {
		err = b.off
	}
	before := b.dropped
	for s := b.oldest(); s != nil && err == nil; s = b.oldest() {
		b.dropSegment(s, "on purpose")
	}
	if r := b.ring; b.files == nil && len(r.items) > 0 {
		b.drop(runs.Of(r.base, r.end()-1), "on purpose")
	}
	n = b.dropped - before
	b.mu.Unlock()
	b.unlockCursor()
	if b.files == nil {
		return n, nil
	}
	if err == nil {
		err = b.syncAcks(true)
	}
	if err == nil {
		b.reclaim()
	}
	return n, err
}

// DiscardIn is Discard for the outbox in dir. It returns ErrLocked if a process has that open.
func DiscardIn(dir string) (n uint64, err error) {
	if _, err := Inspect(dir); err != nil { // because Open would make a missing outbox
		return 0, err
	}
	b, err := Open(dir, Options{})
	if err != nil {
		return 0, err
	}
	n, err = b.Discard()
	return n, errors.Join(err, b.Close())
}
