package outbox

import (
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// hint is where a message starts in a segment, so that the next read does not begin at the first
// frame. Several are kept, for readers in different parts of the line.
type hint struct {
	num uint64
	pos uint64
	at  int64
}

// maxHints is how many hints a box keeps.
const maxHints = 4

// hintFor returns where to start reading for a position. b.mu is held.
func (b *Box) hintFor(s *segment, pos uint64) int64 {
	best := hint{pos: s.Base, at: format.FramesStart}
	for _, h := range b.hints {
		if h.num == s.num && h.pos <= pos && h.pos > best.pos {
			best = h
		}
	}
	return best.at
}

// remember keeps a hint. It replaces the hint that it continues, or the oldest.
func (b *Box) remember(h hint, before int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.hints, func(old hint) bool { return old.num == h.num && old.at == before })
	switch {
	case i >= 0:
		b.hints[i] = h
	case len(b.hints) < maxHints:
		if b.hints == nil {
			b.hints = make([]hint, 0, maxHints)
		}
		b.hints = append(b.hints, h)
	default:
		b.hints[b.nextHint] = h
		b.nextHint = (b.nextHint + 1) % maxHints
	}
}

// scan reads the messages of a segment from pos on into m, and calls each for every message. each
// returns where the next message goes; nil stops the scan. A body is valid until each returns.
// Reading begins at the offset start; 0 is the first frame. kept is what was read ahead, before and
// after. scan returns the error of the disk, or errDamaged for a message that cannot be read. If
// the damage of the segment is believed, such a message leaves the line instead, and the scan goes
// on behind it.
func (b *Box) scan(s segment, pos uint64, start int64, kept *ahead, m *message.Message, each func(pos uint64, end int64) *message.Message) error {
	if kept.window == nil {
		kept.window = *windows.Get().(*[]byte)
	}
	if kept.num != s.num || kept.salt != s.Salt {
		kept.close()
		kept.num, kept.salt, kept.window = s.num, s.Salt, kept.window[:0]
	}
	f := lazyFile{b, kept}
	sc := format.Scanner{File: f, Header: s.Header, Size: s.size, At: max(start, format.FramesStart), Most: format.ReadAhead, Window: kept.window, WindowAt: kept.at}
	defer func() {
		if kept.window, kept.at = sc.Window, sc.WindowAt; cap(sc.Window) > format.ReadAhead {
			kept.window = nil // a message larger than that is the exception
		}
		if kept.num == 0 {
			kept.window = kept.window[:0]
		}
	}()
	expect := pos
	for expect < s.end {
		at := sc.At
		fr, err := sc.Next()
		if err != nil {
			return err
		}
		found := s.end
		if fr != nil {
			found = min(s.Base+uint64(fr.Number), s.end)
		}
		if found < expect { // read on to where we want to be
			continue
		}
		if found < s.end {
			if err = kept.decoder.Decode(m, fr.Payload); err != nil {
				b.lose(s, runs.Of(expect, found), b.raw(f, at, fr.End), err)
				expect = found + 1
				continue
			}
		}
		if found > expect {
			if !s.damaged && b.isLoss(s, runs.Of(expect, found-1)) {
				kept.drop() // the next try must read the disk, not memory
				return errDamaged
			}
			end := s.size
			if fr != nil {
				end = fr.At
			}
			b.lose(s, runs.Of(expect, found-1), b.raw(f, at, end), errDamaged)
		}
		expect = found + 1
		if found == s.end {
			return nil
		}
		if m = each(found, fr.End); m == nil {
			return nil
		}
	}
	return nil
}

// lazyFile is a segment that is opened at the first read that needs the disk, and again after an
// error.
type lazyFile struct {
	box  *Box
	kept *ahead
}

func (f lazyFile) ReadAt(b []byte, at int64) (int, error) {
	if f.kept.file == nil {
		file, err := f.box.fs.Open(f.box.path(f.kept.num), readOnly)
		if err != nil {
			return 0, err
		}
		f.kept.file = file
	}
	n, err := f.kept.file.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		f.kept.close()
	}
	return n, err
}

func (a *ahead) close() {
	if a.file != nil {
		_ = a.file.Close()
		a.file = nil
	}
}

// drop forgets the bytes that were read ahead.
func (a *ahead) drop() {
	a.close()
	a.num = 0
}

// windows are buffers for scan, shared by readers that come and go.
var windows = sync.Pool{New: func() any { return new([]byte) }}

var errDamaged = errors.New("the checksum is wrong")

// raw reads the bytes that were damaged, for the quarantine.
func (b *Box) raw(f io.ReaderAt, from, to int64) []byte {
	buf := make([]byte, max(min(to-from, MaxRecord), 0))
	n, _ := f.ReadAt(buf, from) // as much as can be read
	return buf[:n]
}
