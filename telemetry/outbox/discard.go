package outbox

import "errors"

// Discard throws away everything that waits in the line, on purpose, and returns how many records these were. Their ids are never used
// again, and the next message tells that they are missing. When it returns nil, that is so for good. While the box is degraded it throws
// nothing away.
func (b *Box) Discard() (n uint64, err error) {
	defer b.report()
	if err := b.Sync(); err != nil { // only what is in the line can be dropped
		return 0, err
	}
	b.cur.mu.Lock()
	b.mu.Lock()
	if b.off != nil {
		err = b.off
	}
	before := b.dropped
	for s := b.oldest(); s != nil && err == nil; s = b.oldest() {
		b.dropSegment(s, "on purpose")
	}
	n = b.dropped - before
	b.mu.Unlock()
	b.cur.mu.Unlock()
	if err == nil {
		err = b.syncAcks(true)
	}
	if err == nil {
		b.reclaim()
	}
	return n, err
}

// DiscardIn is Discard for the outbox in dir, which no process may have open, else the error is ErrLocked.
func DiscardIn(dir string) (n uint64, err error) {
	if _, err := Inspect(dir); err != nil { // Open would make one
		return 0, err
	}
	b, err := Open(dir, Options{})
	if err != nil {
		return 0, err
	}
	n, err = b.Discard()
	return n, errors.Join(err, b.Close())
}
