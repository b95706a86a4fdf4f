package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Files are patterns for the names of the files that a ledger keeps in a state directory.
var Files = []string{"ledger.counts", "ledger-*.log"}

// disk is the ledger in a state directory. The ledger's mutex guards it. It consists of
//
//	ledger-00000001.log …   segments: every message, in order of arrival
//	ledger.counts           what the accounts were when the segment it names began
//
// A segment is deleted when the counts include it and the memory keeps none of its messages. So the
// directory stays about as large as what is kept. A frame of a segment is a batch of messages, or
// an origin, which comes before the first batch that has it.
type disk struct {
	dir          string
	log          zerolog.Logger
	segmentBytes int64        // a segment of this size gets no more messages
	countsBytes  int64        // so many bytes of messages that the counts do not include call for new counts
	known        segmentRange // the segments that the last process had

	// note is called before the first message of a new segment is written, and before an old
	// segment is deleted. nil means that nobody wants to know.
	note func(segmentRange) error

	file     *store.File // the last segment
	segments []segment   // oldest first, without holes in their numbers
	counted  uint32      // the counts include all segments before this one
	base     uint32      // the first segment since the last reset
	written  int64       // size of the counts
	lastRef  uint32      // the largest ref of an origin
}

// segmentRange has the numbers of the oldest and the newest segment. Zero means none, or unknown.
// state.log has it, so that a start notices if a segment is missing.
type segmentRange struct {
	Oldest uint32 `json:"oldest"`
	Newest uint32 `json:"newest"`
}

// The kinds of the ledger's files.
const (
	kindLedger store.Kind = "hubhop sim ledger "
	kindCounts store.Kind = "hubhop sim ledger counts "
)

// segmentsKey is the key of the record of state.log that has the segmentRange.
const segmentsKey = "ledger/segments"

// segment is one file of messages.
type segment struct {
	number   uint32
	bytes    int64
	messages int
}

// The first byte of a frame says what it is.
const (
	frameOrigin   = 'O'
	frameMessages = 'M'
	frameTotals   = 'T' // the first frame of the counts
	frameAccount  = 'A'
)

// append writes a batch down before the ledger counts it.
func (d *disk) append(l *Ledger, from *Origin, b *Batch, now time.Time) error {
	if d.file == nil || d.file.Size() >= d.segmentBytes {
		if err := d.roll(); err != nil {
			return err
		}
		if d.due() {
			if err := d.writeCounts(l.accounts, d.segments[len(d.segments)-1].number, d.base); err != nil {
				d.log.Warn().Err(err).Msg("the counts of the ledger cannot be written: a restart will take longer")
			}
		}
		d.prune(l.count)
	}
	last := &d.segments[len(d.segments)-1]
	if from.ref == 0 {
		d.lastRef++
		from.ref = d.lastRef
	}
	if from.segment != last.number {
		if err := d.file.Append(store.AppendFrame(nil, from.encode())); err != nil {
			return err
		}
		from.segment = last.number
	}
	b.buf[store.FrameHead] = frameMessages
	binary.LittleEndian.PutUint64(b.buf[store.FrameHead+1:], uint64(now.UnixNano()))
	binary.LittleEndian.PutUint32(b.buf[store.FrameHead+9:], from.ref)
	store.SealFrame(b.buf)
	err := d.file.Append(b.buf)
	if err == nil {
		last.messages += b.n
	}
	last.bytes = d.file.Size()
	return err
}

// encode returns the payload of the origin's frame.
func (o *Origin) encode() []byte {
	b := binary.AppendUvarint([]byte{frameOrigin}, uint64(o.ref))
	for _, s := range []string{o.Hub, o.Device, o.Module, o.AuthType, o.Generation, o.ModelID} {
		b = store.AppendText(b, s)
	}
	return b
}

func (d *disk) path(number uint32) string {
	return filepath.Join(d.dir, fmt.Sprintf("ledger-%08d.log", number))
}

func (d *disk) countsPath() string { return filepath.Join(d.dir, "ledger.counts") }

// roll begins a new segment.
func (d *disk) roll() error {
	number := max(d.base, 1)
	if n := len(d.segments); n > 0 {
		number = d.segments[n-1].number + 1
	}
	file, err := store.Create(d.path(number), kindLedger)
	if err != nil {
		return err
	}
	if d.note != nil {
		there := segmentRange{number, number}
		if len(d.segments) > 0 {
			there.Oldest = d.segments[0].number
		}
		if err := d.note(there); err != nil {
			_ = file.Close()
			_ = os.Remove(d.path(number))
			return err
		}
	}
	if d.file != nil {
		_ = d.file.Close() // every byte was written without an error
	}
	d.file = file
	d.segments = append(d.segments, segment{number: number, bytes: file.Size()})
	return nil
}

// prune deletes the segments that are not needed any more. The memory keeps the newest kept
// messages.
func (d *disk) prune(kept int) {
	for len(d.segments) > 1 {
		newer := 0
		for _, s := range d.segments[1:] {
			newer += s.messages
		}
		oldest := d.segments[0]
		if oldest.number >= d.counted || newer < kept && oldest.number >= d.base {
			return
		}
		if d.note != nil {
			if err := d.note(segmentRange{d.segments[1].number, d.segments[len(d.segments)-1].number}); err != nil {
				return // the store has logged it
			}
		}
		if err := os.Remove(d.path(oldest.number)); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.log.Warn().Err(err).Msg("an old part of the ledger cannot be deleted")
			return
		}
		d.segments = d.segments[1:]
	}
}

// clear forgets everything: it begins a new segment, and writes counts of nothing that begin there.
func (d *disk) clear() error {
	if err := d.roll(); err != nil {
		return err
	}
	number := d.segments[len(d.segments)-1].number
	if err := d.writeCounts(nil, number, number); err != nil {
		return err
	}
	d.prune(0)
	return nil
}

func (d *disk) close() error {
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}

func newDisk(dir string, o Options) *disk {
	d := &disk{dir: dir, log: o.Log, segmentBytes: 16 << 20, countsBytes: 64 << 20}
	if o.SegmentBytes > 0 {
		d.segmentBytes = o.SegmentBytes
	}
	if o.CountsBytes > 0 {
		d.countsBytes = o.CountsBytes
	}
	return d
}
