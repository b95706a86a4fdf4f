package outbox

import (
	"errors"
	"io/fs"
	"slices"
)

// reclaimNow deletes the segments that nobody needs. It syncs the cursor first if there is one to
// delete.
func (b *Box) reclaimNow() {
	b.mu.Lock()
	idle := !slices.ContainsFunc(b.segs[:max(len(b.segs), 1)-1], func(s *segment) bool { return s.isIn(&b.acks) })
	b.mu.Unlock()
	if !idle && b.syncAcks(false) == nil {
		b.reclaim()
	}
}

// reclaim deletes the segments of which all messages have left by a synced slot, but never the
// newest segment. It renames a segment of which something could not be read. The next call tries
// again what fails.
func (b *Box) reclaim() {
	b.cur.mu.Lock()
	left := b.cur.left // never changed, only replaced
	b.cur.mu.Unlock()
	b.mu.Lock()
	if n := len(b.segs); n > 0 {
		newest := b.segs[n-1]
		b.segs = slices.DeleteFunc(b.segs, func(s *segment) bool {
			if s == newest || !s.isIn(&left) {
				return false
			}
			b.trash = append(b.trash, waste{s.num, s.aside})
			return true
		})
	}
	trash := b.trash
	b.trash = nil
	b.mu.Unlock()
	for _, w := range trash {
		name, err := b.path(w.num), error(nil)
		if w.keep {
			err = b.fs.Rename(name, name+badSuffix)
		} else {
			err = b.fs.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.mu.Lock()
			b.trash = append(b.trash, w)
			b.mu.Unlock()
		}
	}
}

// waste is a segment file to delete, or to rename so that a person can look at it.
type waste struct {
	num  uint64
	keep bool
}
