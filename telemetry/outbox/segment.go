package outbox

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// segment is what the box remembers of a segment file. The fields above the line never change; the
// others are guarded by Box.mu.
type segment struct {
	format.Header
	num uint64 // its name

	end  uint64    // position behind its last message
	size int64     // where in the file that message ends
	look time.Time // not before, whether all that waits in it is too old

	trouble *trouble // why it cannot be read now; nil if it can
	damaged bool     // its damage is believed, so messages that cannot be read leave the line
	aside   bool     // rename the file instead of deleting it when all its messages have left
}

const segSuffix = ".seg"

func segName(num uint64) string {
	return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, num)) + segSuffix
}

// segNum is the number in the name of a segment, 0 if it is no such name.
func segNum(name string) uint64 {
	digits, isSegment := strings.CutSuffix(name, segSuffix)
	num, err := strconv.ParseUint(digits, 16, 64)
	if !isSegment || err != nil || segName(num) != name {
		return 0
	}
	return num
}

// isIn says whether all positions of the segment are in a set.
func (s *segment) isIn(set *runs.Set) bool { return set.Next(s.Base) >= s.end }

// seqAt is the seq of the message at a position.
func (s *segment) seqAt(pos uint64) uint64 { return s.BaseSeq + (pos - s.Base) }

// segmentBytes is the size of a full segment: small, so that one drop is not much, and large, so
// that there are few.
func segmentBytes(maxBytes int64) int64 {
	return max(min(maxBytes/64, 1<<20), maxBytes/1024, 1)
}

func (b *Box) path(num uint64) string { return filepath.Join(b.dir, segName(num)) }

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
