package outbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// Range is a run of seqs of one outbox id, both ends included.
type Range struct {
	ID          string
	First, Last uint64
}

// String is "<outbox id>-<first>..<last>", or the id of the message if it is only one.
func (r Range) String() string {
	if r.First == r.Last {
		return fmt.Sprintf("%s-%d", r.ID, r.First)
	}
	return fmt.Sprintf("%s-%d..%d", r.ID, r.First, r.Last)
}

// Count is how many seqs are in it.
func (r Range) Count() uint64 { return r.Last - r.First + 1 }

// Look is what Inspect sees.
type Look struct {
	ID          string // outbox id of the next message; "": the cursor cannot be read
	LastSeq     uint64 // its last seq; 0: none yet
	Queued      uint64 // records in the line
	QueuedBytes int64  // of the segments that they are in
	FirstPos    uint64 // of the oldest record in the line; 0 if there is none
	LastPos     uint64
	Oldest      time.Time // when that record was created; zero if unknown
	Newest      time.Time
	Segments    int
	Gaps        []Range // seqs that are missing and that nobody has been told of for sure
	Quarantined int     // entries of the quarantine, see ReadQuarantine
	For         string  // Identity.String of the outbox; "" if it is unknown
	Held        bool    // a process has it open; always false where the system has no such lock
}

// Inspect looks at an outbox. It keeps no lock and changes nothing. If a process has the outbox
// open, the picture may be a moment old, and messages in memory are not in it.
func Inspect(dir string) (Look, error) {
	v, err := see(dir)
	if err != nil {
		return Look{}, err
	}
	look := Look{LastSeq: v.lastSeq, Queued: v.next() - v.left.Cursor - v.left.Above, Segments: len(v.segs), Held: disk.IsHeld(dir)}
	if v.identity != nil {
		look.For = v.identity.String()
	}
	if v.hasSlot {
		look.ID = v.slot.ID.String()
	}
	for _, s := range v.segs {
		if s.end > v.left.Cursor {
			look.QueuedBytes += s.size
		}
	}
	if look.Queued > 0 {
		look.FirstPos, look.LastPos = v.left.Next(1), v.next()-1
		for v.left.Has(look.LastPos) {
			look.LastPos--
		}
		look.Oldest, look.Newest = v.created(v.oldestFirst()), v.created(v.newestFirst())
	}
	for _, g := range v.slot.Gaps {
		look.Gaps = append(look.Gaps, Range{g.ID.String(), g.First, g.Last})
	}
	for _, err := range ReadQuarantine(dir) {
		if err != nil {
			return Look{}, err
		}
		look.Quarantined++
	}
	return look, nil
}

// ReadQueue goes through the records in the line of the outbox in dir, oldest first. It keeps no
// lock, changes nothing, and its memory does not depend on the number of records. A process may
// have the outbox open: records that leave the line meanwhile may be seen or not; records that are
// appended meanwhile, or in memory, are not seen. Records that are written and not synced are seen:
// a restart would find them, after a power cut perhaps not. Damaged ones are passed over.
// Record.Gap is what the outbox would announce after a restart.
//
// An error comes with no record. After an error of the disk the records of the next segment follow.
func ReadQueue(dir string) iter.Seq2[Record, error] { return read(dir, (*view).oldestFirst) }

// ReadQueueNewest is ReadQueue from the newest record to the oldest.
func ReadQueueNewest(dir string) iter.Seq2[Record, error] { return read(dir, (*view).newestFirst) }

func read(dir string, in func(*view) iter.Seq2[Record, error]) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		v, err := see(dir)
		if err != nil {
			yield(Record{}, err)
			return
		}
		in(v)(yield)
	}
}

// view is a directory as it was found, for readers that its owner does not know of.
type view struct {
	*layout
	dir  string
	left runs.Set          // positions that are not in the line
	told map[uint64]string // gaps, by the positions of the records that would tell them
}

// see finds out what is in the line of a directory.
func see(dir string) (*view, error) {
	l, err := load(disk.Real(), dir, looking)
	for range 3 { // a running process may delete a file between our list and our look
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		l, err = load(disk.Real(), dir, looking)
	}
	if err != nil {
		return nil, err
	}
	if !l.hasSlot && len(l.segs) == 0 {
		return nil, fmt.Errorf("outbox: there is no outbox in %s: %w", dir, fs.ErrNotExist)
	}
	v := &view{layout: l, dir: dir, left: l.acks()}
	for _, x := range l.lost {
		v.left.Add(x.Span)
	}
	if n := len(l.segs); n == 0 {
		v.left.Add(runs.Of(1, l.next()-1))
	} else {
		v.left.Add(runs.Of(1, l.segs[0].Base-1)) // their files were deleted while we came to look
		if end := l.segs[n-1].end; end < l.next() {
			v.left.Add(runs.Of(end, l.next()-1))
		}
	}
	v.announce()
	return v, nil
}

// announce finds the records that announce the gaps: the first record behind each gap, the nearest
// gap first, as gaps.tell does.
func (v *view) announce() {
	v.told = map[uint64]string{}
	byLast := slices.SortedFunc(slices.Values(v.slot.Gaps), func(a, b format.Gap) int { return cmp.Compare(b.Last, a.Last) })
	for _, g := range byLast {
		for _, s := range v.segs {
			if s.ID != g.ID {
				continue
			}
			pos := s.Base
			if g.Last >= s.BaseSeq {
				pos += g.Last + 1 - s.BaseSeq
			}
			for pos = v.left.Next(pos); pos < s.end && v.told[pos] != ""; {
				pos = v.left.Next(pos + 1)
			}
			if pos < s.end {
				v.told[pos] = g.String()
				break
			}
		}
	}
}

func (v *view) created(records iter.Seq2[Record, error]) time.Time {
	for r, err := range records {
		if err == nil {
			return r.Created
		}
	}
	return time.Time{}
}

func (v *view) oldestFirst() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, s := range v.segs {
			if s.end <= v.left.Cursor {
				continue
			}
			more := true
			err := v.frames(s, func(sc *format.Scanner) error {
				var d format.Decoder
				return v.walk(s, sc, func(pos uint64, fr *format.Frame) bool {
					var m message.Message
					if d.Decode(&m, fr.Payload) == nil { // else another program wrote it
						more = yield(v.record(s, pos, m), nil)
					}
					return more
				})
			})
			if more && err != nil {
				more = yield(Record{}, err)
			}
			if !more {
				return
			}
		}
	}
}

// newestFirst reads each segment twice, because frames can only be found from the front.
func (v *view) newestFirst() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, s := range slices.Backward(v.segs) {
			if s.end <= v.left.Cursor {
				return
			}
			more := true
			err := v.frames(s, func(sc *format.Scanner) error {
				var starts []int64
				if err := v.walk(s, sc, func(_ uint64, fr *format.Frame) bool {
					starts = append(starts, fr.At)
					return true
				}); err != nil {
					return err
				}
				sc.Number, sc.Most = 0, 0
				var d format.Decoder
				for _, at := range slices.Backward(starts) {
					ok, err := sc.Try(at)
					if err != nil {
						return err
					}
					if !ok { // cut off meanwhile
						continue
					}
					var m message.Message
					if d.Decode(&m, sc.Found.Payload) == nil {
						if more = yield(v.record(s, s.Base+uint64(sc.Found.Number), m), nil); !more {
							return nil
						}
					}
				}
				return nil
			})
			if more && err != nil {
				more = yield(Record{}, err)
			}
			if !more {
				return
			}
		}
	}
}

// frames opens a segment. A segment that is gone has left the line.
func (v *view) frames(s *segment, read func(*format.Scanner) error) error {
	name := filepath.Join(v.dir, segName(s.num))
	f, err := disk.Real().Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := read(&format.Scanner{File: f, Header: s.Header, Size: s.size, At: format.FramesStart, Most: format.ReadAhead}); err != nil {
		return fmt.Errorf("outbox: %s: %w", name, err)
	}
	return nil
}

// walk calls each for the frames of a segment that are in the line, until each returns false.
// Damaged frames are passed over.
func (v *view) walk(s *segment, sc *format.Scanner, each func(pos uint64, fr *format.Frame) bool) error {
	for {
		fr, err := sc.Next()
		if err != nil || fr == nil {
			return err
		}
		pos := s.Base + uint64(fr.Number)
		if pos >= s.end || !v.left.Has(pos) && !each(pos, fr) {
			return nil
		}
	}
}

func (v *view) record(s *segment, pos uint64, m message.Message) Record {
	m.Body = append([]byte{}, m.Body...) // it is the scanner's
	return Record{Message: m, Pos: pos, ID: s.ID.Name(s.seqAt(pos)), Gap: v.told[pos]}
}

// SplitID takes the id of a message apart. ok is false if an outbox cannot have written it: its
// form is "<16 hexadecimal digits>-<seq>", in lower case and without leading zeros.
func SplitID(id string) (outboxID string, seq uint64, ok bool) {
	outboxID, digits, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(outboxID, 16, 64)
	if err != nil || format.ID(n).String() != outboxID {
		return "", 0, false
	}
	seq, err = strconv.ParseUint(digits, 10, 64)
	if err != nil || seq == 0 || seq >= format.Farthest || format.ID(n).Name(seq) != id {
		return "", 0, false
	}
	return outboxID, seq, true
}

// SplitGap takes a Record's Gap apart. ok is false if the text is not a gap.
func SplitGap(gap string) (first, last uint64, ok bool) {
	from, to, _ := strings.Cut(gap, "-")
	first, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	last, err = strconv.ParseUint(to, 10, 64)
	if err != nil || first == 0 || last < first || last >= format.Farthest {
		return 0, 0, false
	}
	return first, last, true
}
