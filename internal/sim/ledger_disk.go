package sim

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// ledgerDisk is the ledger in a state directory. The ledger's mutex guards it. It consists of
//
//	ledger-00000001.log …   segments: every message, in order of arrival
//	ledger.counts           what the accounts were when the segment it names began
//
// A segment is deleted when the counts include it and the memory keeps none of its messages, so the directory stays about as large as
// what is kept. Frames of a segment are an origin, always before the first message that has it, or the messages that one connection
// sent between two reads.
//
// Nothing is synced: what was written survives the death of the process, which is the promise, but not that of the machine.
type ledgerDisk struct {
	dir          string
	known        segmentRange             // the segments of the last run
	note         func(segmentRange) error // called before the first message of a new segment, and before an old segment is deleted; may be nil
	log          zerolog.Logger
	segmentBytes int64 // a segment that has so many gets no more
	countsBytes  int64 // so many in segments that the counts do not include call for new counts

	file     *store.File // the last segment
	segments []segment   // oldest first, without holes in their numbers
	counted  uint32      // the counts include all segments before this one
	base     uint32      // the first segment since the last reset
	written  int64       // size of the counts
	lastRef  uint32      // of an origin
}

// segmentRange has the numbers of the oldest and the newest segment; zero means none, or unknown.
type segmentRange struct {
	Oldest uint32 `json:"oldest"`
	Newest uint32 `json:"newest"`
}

// The kinds of the ledger's files.
const (
	kindLedger store.Kind = "hubhop sim ledger "
	kindCounts store.Kind = "hubhop sim ledger counts "
)

// ledgerFiles are patterns for the names of the ledger's files.
var ledgerFiles = []string{"ledger.counts", "ledger-*.log"}

// segmentsKey is where the state directory's journal has the numbers of the oldest and newest segment.
const segmentsKey = "ledger/segments"

// knownSegments returns the numbers of the oldest and newest segment that the journal has.
func knownSegments(s *store.Store) (there segmentRange, err error) {
	err = s.Take(segmentsKey, func(_ string, document []byte) error { return json.Unmarshal(document, &there) })
	return there, err
}

// segment is one file of messages.
type segment struct {
	number   uint32
	bytes    int64
	messages int
}

const (
	frameOrigin   = 'O'
	frameMessages = 'M'
	frameTotals   = 'T' // the first frame of the counts
	frameAccount  = 'A'
)

const (
	flagDup = 1 << iota
	flagRetain
	flagWill
)

// batchHead is what precedes the messages of a batch: head of the frame, kind, time, origin.
const batchHead = store.FrameHead + 1 + 8 + 4

// batch is the messages that one connection sent since it last waited for some, as they are written: for each one flags, the lengths
// of bag and body, bag, body.
type batch struct {
	buf []byte
	n   int
}

func (b *batch) add(m arrival) {
	if b.n == 0 {
		b.buf = append(b.buf[:0], make([]byte, batchHead)...)
	}
	b.n++
	var flags byte
	if m.dup {
		flags |= flagDup
	}
	if m.retain {
		flags |= flagRetain
	}
	if m.isWill {
		flags |= flagWill
	}
	b.buf = append(b.buf, flags)
	b.buf = binary.AppendUvarint(b.buf, uint64(len(m.bag)))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(m.body)))
	b.buf = append(append(b.buf, m.bag...), m.body...)
}

// full says that a batch is large enough to be committed before more is read.
func (b *batch) full() bool { return b != nil && len(b.buf) >= maxBatch }

// nextArrival takes the next message of a batch; its slices are those of f.
func nextArrival(f *store.Unpacker) (m arrival) {
	flags := f.Byte()
	m.dup, m.retain, m.isWill = flags&flagDup != 0, flags&flagRetain != 0, flags&flagWill != 0
	bag, body := f.Uvarint(), f.Uvarint()
	m.bag, m.body = f.Bytes(bag), f.Bytes(body)
	return m
}

// append writes a batch down before the ledger counts it.
func (d *ledgerDisk) append(l *ledger, from *origin, b *batch, now time.Time) error {
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

func (o *origin) encode() []byte {
	b := binary.AppendUvarint([]byte{frameOrigin}, uint64(o.ref))
	for _, s := range []string{o.hub, o.device, o.module, o.authType, o.generation, o.modelID} {
		b = store.AppendText(b, s)
	}
	return b
}

func decodeOrigin(f *store.Unpacker) *origin {
	o := &origin{ref: uint32(f.Uvarint())}
	for _, s := range []*string{&o.hub, &o.device, &o.module, &o.authType, &o.generation, &o.modelID} {
		*s = f.Text()
	}
	return o
}

func (d *ledgerDisk) path(number uint32) string {
	return filepath.Join(d.dir, fmt.Sprintf("ledger-%08d.log", number))
}

func (d *ledgerDisk) countsPath() string { return filepath.Join(d.dir, "ledger.counts") }

// roll begins a new segment.
func (d *ledgerDisk) roll() error {
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

// uncounted is how many bytes a restart would have to read to get at the counts.
func (d *ledgerDisk) uncounted() (n int64) {
	for _, s := range d.segments {
		if s.number >= d.counted {
			n += s.bytes
		}
	}
	return n
}

// due says whether it is time for new counts: when a new segment has just begun and there is much that they do not include. The more
// of them there are the rarer they are written, so that writing them never becomes the main work.
func (d *ledgerDisk) due() bool {
	last := d.segments[len(d.segments)-1]
	return last.messages == 0 && last.number > d.counted && d.uncounted() >= max(d.countsBytes, d.written)
}

// writeCounts replaces the counts by those before segment counted.
func (d *ledgerDisk) writeCounts(accounts map[string]*account, counted, base uint32) error {
	file := kindCounts.Line()
	head := binary.AppendUvarint([]byte{frameTotals}, uint64(counted))
	head = binary.AppendUvarint(head, uint64(base))
	head = binary.AppendUvarint(head, uint64(len(accounts)))
	file = store.AppendFrame(file, head)
	for device, a := range accounts {
		start := len(file)
		file = append(append(file, make([]byte, store.FrameHead)...), frameAccount)
		file = a.encode(store.AppendText(file, device))
		store.SealFrame(file[start:])
	}
	if err := store.Replace(d.countsPath(), file, 0o600); err != nil {
		return err
	}
	d.counted, d.base, d.written = counted, base, int64(len(file))
	return nil
}

// prune deletes the segments nobody needs any more, if the memory keeps the newest kept messages.
func (d *ledgerDisk) prune(kept int) {
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

// clear forgets everything: the new counts are none, and begin with a new segment.
func (d *ledgerDisk) clear() error {
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

func (d *ledgerDisk) close() error {
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}

func newLedgerDisk(dir string, log zerolog.Logger) *ledgerDisk {
	return &ledgerDisk{dir: dir, log: log, segmentBytes: 16 << 20, countsBytes: 64 << 20}
}

// openDisk brings the ledger to what is in the directory, and lets it go on there.
func (l *ledger) openDisk(d *ledgerDisk) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if err := l.readCounts(d); err != nil {
		return err
	}
	numbers, err := d.find()
	if err != nil {
		return err
	}
	origins := map[uint32]*origin{}
	for i, number := range numbers {
		if number < d.base { // a reset was killed before it could delete this
			if err := os.Remove(d.path(number)); err != nil {
				return err
			}
			continue
		}
		if n := len(d.segments); n > 0 && d.segments[n-1].number+1 != number || n == 0 && number > max(d.counted, 1) {
			if d.written == 0 && n == 0 { // only the counts know the messages of deleted segments
				return missing(d.countsPath())
			}
			return missing(d.path(number - 1))
		}
		if err := l.readSegment(d, number, origins, i == len(numbers)-1); err != nil {
			return err
		}
	}
	if n := len(d.segments); d.counted > 1 && (n == 0 || d.segments[n-1].number < d.counted) {
		return missing(d.path(d.counted))
	}
	if n := len(d.segments); d.known.Newest > 0 && (n == 0 || d.segments[n-1].number < d.known.Newest) {
		return missing(d.path(d.known.Newest))
	}
	if oldest := max(d.known.Oldest, d.base); d.known.Oldest > 0 && len(d.segments) > 0 && d.segments[0].number > oldest {
		return missing(d.path(oldest))
	}
	kept := map[*account]int64{}
	for i := range l.count {
		kept[l.ring[(l.head+i)%len(l.ring)].from.account]++
	}
	for _, a := range l.accounts {
		a.truncated = kept[a] < a.received
	}
	d.prune(l.count)
	l.disk = d
	return nil
}

func missing(path string) error {
	return fmt.Errorf("%s is missing: restore it from a copy, or start with another state directory", path)
}

// find lists the segments there are.
func (d *ledgerDisk) find() (numbers []uint32, err error) {
	names, err := filepath.Glob(filepath.Join(d.dir, "ledger-*.log"))
	for _, name := range names {
		var number uint32
		if _, scan := fmt.Sscanf(filepath.Base(name), "ledger-%d.log", &number); scan != nil || d.path(number) != name {
			continue // not ours
		}
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	return numbers, err
}

func (l *ledger) readSegment(d *ledgerDisk, number uint32, origins map[uint32]*origin, last bool) error {
	path, messages := d.path(number), 0
	count := number >= d.counted
	good, size, err := store.Read(path, kindLedger, func(at int, payload []byte) error {
		f := store.Unpack(payload)
		switch f.Byte() {
		case frameOrigin:
			o := decodeOrigin(&f)
			if f.OK() {
				if origins[o.ref] == nil {
					o.account = l.account(o.device)
					origins[o.ref] = o
				}
				origins[o.ref].segment = number
				d.lastRef = max(d.lastRef, o.ref)
				return nil
			}
		case frameMessages:
			if head := f.Bytes(12); head != nil {
				now := time.Unix(0, int64(binary.LittleEndian.Uint64(head)))
				from := origins[binary.LittleEndian.Uint32(head[8:])]
				if from != nil && from.segment == number {
					n, ok := l.apply(from, now, f, count)
					if messages += n; ok {
						return nil
					}
				}
			}
		}
		return &store.DamageError{At: at, What: "a record makes no sense"}
	})
	if err != nil {
		return err
	}
	if good < size {
		if !last {
			return &store.DamageError{Path: path, At: good, What: "a record ends early, but this is not where the ledger ends"}
		}
		d.log.Warn().Str("file", path).Int("bytes", size-good).Msg("a message that was being written when the simulator was killed is cut off: it was not acknowledged")
	}
	if good == 0 && number <= d.known.Newest {
		return &store.DamageError{Path: path, What: "it is empty"}
	}
	if last {
		if d.file, err = store.Reopen(path, kindLedger, good); err != nil {
			return err
		}
		good = int(d.file.Size())
	}
	d.segments = append(d.segments, segment{number: number, bytes: int64(good), messages: messages})
	return nil
}

func (l *ledger) readCounts(d *ledgerDisk) error {
	accounts := -1
	path := d.countsPath()
	good, size, err := store.Read(path, kindCounts, func(at int, payload []byte) error {
		f := store.Unpack(payload)
		switch kind := f.Byte(); {
		case kind == frameTotals && accounts < 0:
			d.counted, d.base = uint32(f.Uvarint()), uint32(f.Uvarint())
			accounts = int(f.Uvarint())
		case kind == frameAccount && accounts > 0:
			accounts--
			l.account(f.Text()).decode(&f)
		default:
			f.Fail()
		}
		if !f.OK() {
			return &store.DamageError{At: at, What: "a record makes no sense"}
		}
		return nil
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil && (good < size || accounts != 0): // it was renamed into place, so it was whole once
		err = &store.DamageError{Path: path, At: good, What: "its end is missing"}
	}
	d.written = int64(size)
	return err
}

func (a *account) encode(b []byte) []byte {
	for _, n := range []int64{a.received, a.duplicates, a.reordered, int64(a.maxGap)} {
		b = binary.AppendVarint(b, n)
	}
	for _, at := range []time.Time{a.first, a.last} {
		b = binary.AppendVarint(b, nanos(at))
	}
	b = binary.AppendUvarint(b, uint64(len(a.hubs)))
	for hub, n := range a.hubs {
		b = binary.AppendVarint(store.AppendText(b, hub), n)
	}
	b = binary.AppendUvarint(b, uint64(len(a.streams)))
	for outbox, s := range a.streams {
		b = binary.AppendUvarint(store.AppendText(b, outbox), uint64(len(s.ranges)))
		for _, r := range s.ranges {
			b = binary.AppendUvarint(binary.AppendUvarint(b, r.from), r.to)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(a.foreign)))
	for sum := range a.foreign {
		b = append(b, sum[:]...)
	}
	return b
}

func (a *account) decode(f *store.Unpacker) {
	for _, n := range []*int64{&a.received, &a.duplicates, &a.reordered, (*int64)(&a.maxGap)} {
		*n = f.Varint()
	}
	for _, at := range []*time.Time{&a.first, &a.last} {
		*at = fromNanos(f.Varint())
	}
	for range f.Count(2) {
		hub := f.Text()
		a.hubs[hub] = f.Varint()
	}
	for range f.Count(2) {
		outbox := f.Text()
		s := &stream{}
		for range f.Count(2) {
			s.ranges = append(s.ranges, span{f.Uvarint(), f.Uvarint()})
		}
		if len(s.ranges) == 0 {
			f.Fail()
			return
		}
		if a.streams == nil {
			a.streams = map[string]*stream{}
		}
		a.streams[outbox] = s
	}
	n := f.Count(16)
	if n > 0 {
		a.foreign = make(map[[16]byte]struct{}, n)
	}
	for range n {
		a.foreign[[16]byte(f.Bytes(16))] = struct{}{}
	}
}

// nanos is a time as a number, 0 for none.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
