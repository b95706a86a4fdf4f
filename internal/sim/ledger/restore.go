package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// knownSegments returns what the last process noted in state.log.
func knownSegments(s *store.Store) (there segmentRange, err error) {
	err = s.Take(segmentsKey, func(_ string, document []byte) error { return json.Unmarshal(document, &there) })
	return there, err
}

// openDisk reads what is in the directory into the ledger, and lets it go on there.
func (l *Ledger) openDisk(d *disk) (err error) {
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
	origins := map[uint32]*Origin{}
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

// find returns the numbers of the segments in the directory, in ascending order.
func (d *disk) find() (numbers []uint32, err error) {
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

// readSegment reads the messages of a segment. Those that the counts lack are counted.
func (l *Ledger) readSegment(d *disk, number uint32, origins map[uint32]*Origin, last bool) error {
	path, messages := d.path(number), 0
	count := number >= d.counted
	good, size, err := store.Read(path, kindLedger, func(at int, payload []byte) error {
		f := store.Unpack(payload)
		switch f.Byte() {
		case frameOrigin:
			o := decodeOrigin(&f)
			if f.OK() {
				if origins[o.ref] == nil {
					o.account = l.account(o.Device)
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

// decodeOrigin reads what Origin.encode wrote. f says whether it made sense.
func decodeOrigin(f *store.Unpacker) *Origin {
	o := &Origin{ref: uint32(f.Uvarint())}
	for _, s := range []*string{&o.Hub, &o.Device, &o.Module, &o.AuthType, &o.Generation, &o.ModelID} {
		*s = f.Text()
	}
	return o
}
