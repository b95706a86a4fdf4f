package state

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// spare is how far the log may outgrow the values before it is made short, unless Options say
// otherwise.
const spare = 4 << 20

// load reads the log into memory. The last change of a key counts: that is the one with the highest
// version, because one commit follows the other, and a value that was appended again has its own.
func (s *Store) load() error {
	var batch outbox.Batch
	defer batch.Release()
	for after := uint64(0); ; {
		records, err := s.log.Read(&batch, mostTogether, mostBytes, outbox.Part{After: after})
		if stats := s.log.Stats(); err == nil && stats.Unreadable {
			err = stats.Err
		}
		if err != nil {
			return fmt.Errorf("state store: its log cannot be read: %w; see to the disk and start again", err)
		}
		if len(records) == 0 {
			return nil
		}
		for i := range records {
			after = records[i].Pos
			c, err := parseChange(records[i].Body)
			if err != nil {
				return fmt.Errorf("state store: position %d of its log is %w; it was written by another version of hubhop, "+
					"or the directory belongs to something else", after, err)
			}
			c.data, c.pos = bytes.Clone(c.data), after
			s.clock.saw(c.version)
			s.apply(&c)
		}
	}
}

// shrink makes the log short once it has far more than the values need. It appends the values that
// stand first in the log again, some at a time, and lets go of what came before the next of them.
// So it needs room for some values only, and a crash costs none of the work. If it fails, the log
// is only longer than it need be, and the next commit goes on.
func (s *Store) shrink(ctx context.Context) {
	if s.log == nil || s.log.Stats().QueuedBytes < 2*s.bytes+s.spare {
		return
	}
	old := s.living()
	for end := s.log.Last() + 1; ; {
		next := end
		if len(old) > 0 {
			next = old[0].pos
		}
		if !s.forget(next) || len(old) == 0 {
			return
		}
		n, bytes := 0, 0
		for ; n < len(old) && n < mostTogether && bytes < mostBytes; n++ {
			bytes += len(old[n].key) + len(old[n].data)
		}
		if s.appendAll(ctx, old[:n]) != nil {
			return
		}
		for i := range old[:n] {
			s.moved(&old[i])
		}
		old = old[n:]
	}
}

// living returns the changes that make what the store has, in the order of the log. If no value has
// the newest version of all, a deletion has it, so that no later version is below it.
func (s *Store) living() (all []change) {
	now := time.Now()
	for key, e := range s.entries {
		if !e.dead(now) {
			all = append(all, change{kind: opSet, key: key, data: e.data, version: e.version, fence: e.fence, expires: e.expires, pos: e.pos})
		}
	}
	if e := s.entries[s.newest.key]; s.newest.key != "" && (e == nil || e.dead(now)) {
		last := s.newest
		last.kind = opDel
		all = append(all, last)
	}
	slices.SortFunc(all, func(a, b change) int { return cmp.Compare(a.pos, b.pos) })
	return all
}

// moved notes that a change stands elsewhere in the log now. The leader alone reads positions.
func (s *Store) moved(c *change) {
	if e := s.entries[c.key]; c.kind == opSet {
		e.pos = c.pos
	}
	if s.newest.key == c.key {
		s.newest.pos = c.pos
	}
}

// forget acknowledges the changes before a position, the oldest first, so that a deletion never
// leaves the log before the value that it deleted. It returns false if some are left.
func (s *Store) forget(before uint64) bool {
	var batch outbox.Batch
	defer batch.Release()
	for {
		records, err := s.log.Read(&batch, mostTogether, mostBytes, outbox.Part{Until: before})
		if err != nil || len(records) == 0 {
			return err == nil && !s.log.Stats().Unreadable
		}
		positions := make([]uint64, len(records))
		for i := range records {
			positions[i] = records[i].Pos
		}
		if s.log.Ack(positions...) != nil {
			return false
		}
	}
}
