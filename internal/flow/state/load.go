package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// spare is how far the log may outgrow the values before they are appended again.
const spare = 4 << 20

// load reads the log into memory. A newer version of a key wins over an older one, wherever it
// stands, so a rewrite that a crash has cut off does no harm.
func (s *Store) load() error {
	var batch outbox.Batch
	defer batch.Release()
	gone := map[string]node.Time{}
	for after := uint64(0); ; {
		records, err := s.log.Read(&batch, mostTogether, mostBytes, outbox.Part{After: after})
		if err != nil {
			return fmt.Errorf("state store: reading its log: %w", err)
		}
		if len(records) == 0 {
			break
		}
		for i := range records {
			after = records[i].Pos
			c, err := parseChange(records[i].Body)
			if err != nil {
				return fmt.Errorf("state store: position %d of its log is %w; it was written by another version of hubhop, "+
					"or the directory belongs to something else", after, err)
			}
			s.replay(&c, gone)
		}
	}
	now := time.Now()
	for key, e := range s.entries {
		if e.dead(now) {
			s.bytes -= size(key, e)
			delete(s.entries, key)
		}
	}
	return nil
}

// replay applies a change of the log, unless a newer one of its key was seen. gone has the versions
// of deletions.
func (s *Store) replay(c *change, gone map[string]node.Time) {
	s.clock.saw(c.version)
	if e := s.entries[c.key]; e != nil && c.version.Before(e.version) || c.version.Before(gone[c.key]) {
		return
	}
	if c.kind == opDel {
		gone[c.key] = c.version
	} else {
		c.data = bytes.Clone(c.data)
	}
	s.apply(c)
}

// shrink appends all values again once the log has far more than they need, and lets go of what came
// before. If it fails, the log is only longer than it need be, and the next commit tries again.
func (s *Store) shrink(ctx context.Context) {
	if s.log == nil || s.log.Stats().QueuedBytes < 2*s.bytes+spare {
		return
	}
	before := s.log.Last()
	if s.rewrite(ctx) != nil {
		return
	}
	s.forget(before)
}

// rewrite appends all values that live.
func (s *Store) rewrite(ctx context.Context) error {
	now, bytes := time.Now(), 0
	var ms []message.Message
	flush := func() error {
		err := s.log.AppendDurable(ctx, ms...)
		ms, bytes = ms[:0], 0
		return err
	}
	for key, e := range s.entries {
		if e.dead(now) {
			continue
		}
		c := change{kind: opSet, key: key, data: e.data, version: e.version, fence: e.fence, expires: e.expires}
		ms = append(ms, message.Message{Body: c.append(nil)})
		if bytes += len(key) + len(e.data); bytes >= mostBytes || len(ms) == mostTogether {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(ms) == 0 {
		return nil
	}
	return flush()
}

// forget acknowledges the changes up to a position, the oldest first, so that a deletion never
// leaves the log before the value that it deleted.
func (s *Store) forget(until uint64) {
	var batch outbox.Batch
	defer batch.Release()
	for {
		records, err := s.log.Read(&batch, mostTogether, mostBytes, outbox.Part{Until: until + 1})
		if err != nil || len(records) == 0 {
			return
		}
		positions := make([]uint64, len(records))
		for i := range records {
			positions[i] = records[i].Pos
		}
		if errors.Join(s.log.Ack(positions...)) != nil {
			return
		}
	}
}
