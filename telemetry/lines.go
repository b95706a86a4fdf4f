package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/muesli/cancelreader"
)

// Bounds of a stream of lines.
const (
	MaxLine = 256 << 10 // bytes of one line without its end; the largest message a hub takes

	batchLines = 256       // one Append, and so one fsync, for as many lines as are there, but
	batchBytes = 256 << 10 // not without end: the first of them waits for the last
	readBytes  = 256 << 10
)

// LineError says which line was skipped, and why. It holds nothing of the line.
type LineError struct {
	Line int // counted from 1, empty lines too
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// ErrLineTooLong is the fault of a line of more than MaxLine bytes.
var ErrLineTooLong = fmt.Errorf("longer than %d bytes", MaxLine)

var errUnfinished = errors.New("stopped before its end was read, what was read of it is not sent")

// Lines is a source that makes each line of r one sample, at once. The sample is the line byte for
// byte, without its end ("\n" or "\r\n"); the last line needs no end. Blank lines are skipped
// silently. A line that is not a JSON object, or longer than MaxLine, is skipped and reported as a
// *LineError. A byte order mark before the first line is dropped.
//
// Lines come in batches of up to 256 lines or 256 KiB of one read. The next read waits until the
// outbox has them all. So a full outbox stops the reading, and a fast writer pays one fsync for
// many lines.
//
// A stop ends a read that is waiting: by a deadline on r if r takes one (a socket, a pipe that this
// program opened), by waiting for r and the stop together if r is another file (the standard
// input), else by closing r if it is an io.Closer. What was taken from the input reaches the
// outbox, except the beginning of a line whose end has not come, which is reported. If none of
// these ends the read (a pipe on Windows, a reader that cannot be closed), the reading goroutine is
// left behind, and what it still takes from the input is lost.
func Lines(r io.Reader) Source { return Source{Run: (&lines{r}).run, Ends: true} }

type lines struct{ r io.Reader }

// chunk is what one read brought.
type chunk struct {
	data []byte
	err  error
}

func (l *lines) run(ctx context.Context, emit func(...Sample), bad func(error)) error {
	r := l.r
	if f, ok := r.(*os.File); ok && needsCancel(f) {
		if c, err := cancelreader.NewReader(f); err == nil {
			defer func() { _ = c.Close() }()
			r = c
		}
	}
	// The reader never reads ahead, so that what is taken from the input is on its way to the
	// outbox.
	ask, got, gone := make(chan struct{}), make(chan chunk, 1), make(chan struct{})
	go func() {
		defer close(gone)
		buf := make([]byte, readBytes)
		for range ask {
			n, err := readGuarded(r, buf)
			got <- chunk{buf[:n], err} // has room, so a reader left behind can end
		}
	}()
	s := splitter{emit: emit, bad: bad}
	for ctx.Err() == nil {
		ask <- struct{}{}
		select {
		case c := <-got:
			s.take(c)
			if c.err == nil {
				continue
			}
			close(ask)
			<-gone
			if !errors.Is(c.err, io.EOF) {
				return fmt.Errorf("reading line %d: %w", s.line+1, c.err)
			}
			return ctx.Err()
		case <-ctx.Done():
			close(ask)
			if interrupt(r, gone) {
				s.take(<-got)
			} else {
				select { // it may have ended just now
				case c := <-got:
					s.take(c)
				default:
				}
			}
			s.stop()
			return ctx.Err()
		}
	}
	close(ask)
	<-gone
	s.stop()
	return ctx.Err()
}

// needsCancel says whether a read of f may wait for long and takes no deadline. That is so for a
// pipe or a terminal that this program did not open.
func needsCancel(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && !info.Mode().IsRegular() && f.SetReadDeadline(time.Time{}) != nil
}

// readGuarded is readSome for a goroutine of its own: it turns a panic of the reader into an error.
func readGuarded(r io.Reader, buf []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("a bug in the input's reader: %v", p)
		}
	}()
	return readSome(r, buf)
}

// readSome reads at least a byte. A reader that gives neither a byte nor an error would keep a
// processor busy for ever, so readSome gives up after a while.
func readSome(r io.Reader, buf []byte) (int, error) {
	for range 100 {
		if n, err := r.Read(buf); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// interrupt ends the read under way and waits until it has ended. It returns false if it had to
// leave the reader behind.
func interrupt(r io.Reader, gone <-chan struct{}) bool {
	switch r := r.(type) {
	case cancelreader.CancelReader:
		if r.Cancel() {
			<-gone
			return true
		}
	case interface{ SetReadDeadline(t time.Time) error }:
		if r.SetReadDeadline(time.Unix(1, 0)) == nil {
			<-gone
			_ = r.SetReadDeadline(time.Time{}) // the input is the caller's, and may be read on
			return true
		}
	case io.Closer:
		_ = r.Close()
	default:
		return false
	}
	patience := time.NewTimer(time.Second) // not every reader notices that it was closed
	defer patience.Stop()
	select {
	case <-gone:
		return true
	case <-patience.C:
		return false
	}
}

// splitter makes lines of chunks and batches of lines.
type splitter struct {
	emit  func(...Sample)
	bad   func(error)
	line  int    // how many lines ended so far
	rest  []byte // the beginning of a line whose end has not come
	over  bool   // that line is too long, what comes of it is dropped
	batch []Sample
	bytes int
}

// take makes samples of a chunk. The end of the input also ends the last line.
func (s *splitter) take(c chunk) {
	now, data := time.Now(), c.data
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		s.extend(data[:i])
		s.finish(now)
		data = data[i+1:]
	}
	s.extend(data)
	if errors.Is(c.err, io.EOF) && (len(s.rest) > 0 || s.over) {
		s.finish(now)
	}
	s.flush()
}

// stop reports the beginning of a line that was taken from the input and has no end.
func (s *splitter) stop() {
	if len(s.rest) > 0 || s.over {
		s.bad(&LineError{s.line + 1, errUnfinished})
	}
}

func (s *splitter) extend(part []byte) {
	if !s.over && len(s.rest)+len(part) > MaxLine+1 { // room for a carriage return
		s.over, s.rest = true, nil
	}
	if !s.over {
		s.rest = append(s.rest, part...)
	}
}

func (s *splitter) finish(now time.Time) {
	s.line++
	line := bytes.TrimSuffix(s.rest, []byte{'\r'})
	if s.line == 1 {
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
	}
	err := checkLine(line)
	if s.over || len(line) > MaxLine {
		err = ErrLineTooLong
	}
	if err != nil {
		s.bad(&LineError{s.line, err})
	} else if len(bytes.TrimSpace(line)) > 0 {
		s.add(Sample{Body: bytes.Clone(line), Created: now})
	}
	s.rest, s.over = s.rest[:0], false
}

func (s *splitter) add(sample Sample) {
	if s.bytes+len(sample.Body) > batchBytes {
		s.flush()
	}
	s.batch = append(s.batch, sample)
	s.bytes += len(sample.Body)
	if len(s.batch) == batchLines {
		s.flush()
	}
}

func (s *splitter) flush() {
	if len(s.batch) > 0 {
		s.emit(s.batch...)
		s.batch, s.bytes = nil, 0 // the outbox may keep what it was given
	}
}

// checkLine returns an error for a line that is not a JSON object. A blank line is no error.
func checkLine(line []byte) error {
	text := bytes.TrimSpace(line)
	switch {
	case len(text) == 0:
		return nil
	case !utf8.Valid(text): // Go's reader would let it pass, JSON and the content encoding do not
		return errors.New("not UTF-8 text")
	case !json.Valid(line):
		return fmt.Errorf("not a JSON object: %w", json.Unmarshal(line, new(json.RawMessage)))
	case text[0] != '{':
		return fmt.Errorf("not a JSON object, but %s", jsonKind(text[0]))
	}
	return nil
}

func jsonKind(first byte) string {
	switch first {
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
