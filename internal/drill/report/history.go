package report

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hubhop-iot/hubhop/internal/plain"
)

// History writes entries as lines of JSON. Each line ends with the field sum. It is made from the
// line and from the sum before it: the first 16 hexadecimal digits of the SHA-256 of both. So a
// line that is changed, missing, doubled or moved breaks the chain, and [ReadHistory] names it. The
// sums are no signature: who can write the file can make new ones.
type History struct {
	out *bufio.Writer
	sum string
	n   uint64
	err error
}

// NewHistory returns a history that is written to w.
func NewHistory(w io.Writer) *History { return &History{out: bufio.NewWriterSize(w, 64<<10)} }

// Take writes one entry, and gives it its number.
func (h *History) Take(e Entry) {
	if h.err != nil {
		return
	}
	h.n++
	e.N = h.n
	line, err := json.Marshal(e)
	if err != nil {
		h.err = err
		return
	}
	h.line(line)
}

// line writes one line, a JSON object, with its sum.
func (h *History) line(line []byte) {
	h.sum = chain(h.sum, line)
	_, _ = h.out.Write(line[:len(line)-1]) // a bufio.Writer keeps its error
	_, h.err = fmt.Fprintf(h.out, "%s%s\"}\n", sumField, h.sum)
}

// Close writes what is buffered. It returns the first error since the beginning.
func (h *History) Close() error {
	if h.err == nil {
		h.err = h.out.Flush()
	}
	return h.err
}

// Proof names the history as it is now.
func (h *History) Proof() Proof { return Proof{Lines: h.n, Sum: h.sum} }

const (
	sumField = `,"sum":"`
	sumChars = 16
)

// chain returns the sum of a line that stands behind a line with another sum.
func chain(before string, line []byte) string {
	d := sha256.New()
	d.Write([]byte(before))
	d.Write(line)
	return hex.EncodeToString(d.Sum(nil))[:sumChars]
}

// ErrHistory marks a history that proves nothing, because it is not what a drill has written.
var ErrHistory = errors.New("the history is not as the drill wrote it")

func broken(line uint64, format string, a ...any) error {
	return fmt.Errorf("%w: line %d %s", ErrHistory, line, fmt.Sprintf(format, a...))
}

// maxLine bounds a line, in bytes. A drill writes lines of a few hundred, but the names of all
// steps stand in the first one: a scenario has 1 MiB, and JSON writes a character with six at most.
const maxLine = 16 << 20

// ReadHistory hands the entries of a history to each, in order. It returns an error that wraps
// ErrHistory and names the line if a line is changed, missing or none of a history, or if the last
// line is not the one that a drill writes last.
func ReadHistory(r io.Reader, each func(Entry)) (p Proof, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for last := EntryKind(""); ; {
		line, err := in.ReadSlice('\n')
		n := p.Lines + 1
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			if last != Ended {
				return p, broken(n, "is missing: the run broke off, or the file was cut")
			}
			return p, nil
		case errors.Is(err, io.EOF):
			return p, broken(n, "is cut")
		case errors.Is(err, bufio.ErrBufferFull):
			return p, broken(n, "has more than %d bytes", maxLine)
		case err != nil:
			return p, err
		}
		if last == Ended {
			return p, broken(n, "stands behind the end")
		}
		e, sum, err := readLine(n, p.Sum, bytes.TrimSuffix(line, []byte("\n")))
		if err == nil {
			err = orderly(e, n)
		}
		if err != nil {
			return p, fmt.Errorf("%w: line %d %w", ErrHistory, n, err)
		}
		p, last = Proof{Lines: n, Sum: sum}, e.Kind
		each(e)
	}
}

// readLine reads line n, which stands behind a line with the sum before.
func readLine(n uint64, before string, line []byte) (e Entry, sum string, err error) {
	cut := len(line) - len(sumField) - sumChars - len(`"}`)
	if cut < 1 || string(line[cut:cut+len(sumField)]) != sumField || !bytes.HasSuffix(line, []byte(`"}`)) {
		return e, "", errors.New(`does not end with the field "sum"`)
	}
	sum = string(line[cut+len(sumField) : cut+len(sumField)+sumChars])
	body := append(line[:cut:cut], '}')
	if err := json.Unmarshal(body, &e); err != nil {
		return e, "", fmt.Errorf("is no entry: %w", err)
	}
	switch {
	case e.N != n:
		return e, "", fmt.Errorf("has the number %d: a line is missing, or was moved", e.N)
	case chain(before, body) != sum:
		return e, "", errors.New("was changed: its sum does not fit")
	}
	return e, sum, nil
}

// orderly says what is wrong with the place or the content of an entry.
func orderly(e Entry, n uint64) error {
	switch {
	case (e.Kind == Began) != (n == 1):
		return fmt.Errorf("has the kind %q: the kind %q belongs to line 1", plain.Line(string(e.Kind), plain.Most), Began)
	case n == 1 && e.Begin == nil:
		return errors.New("does not say what was run")
	case n == 1 && e.Begin.Format != Format:
		return fmt.Errorf("names the format %d; this hubhop reads %d: take the version that wrote it", e.Begin.Format, Format)
	}
	return Orderly(e)
}

// Orderly says what an entry lacks. A tally takes only entries that lack nothing.
func Orderly(e Entry) error {
	for kind, has := range map[EntryKind]bool{Happened: e.Event != nil, Gauge: e.State != nil, Expected: e.Expectation != nil,
		Holds: e.Outbox != nil, Objected: e.Finding != nil, Ended: e.End != nil} {
		if e.Kind == kind && !has {
			return fmt.Errorf("has the kind %q, but nothing of it", kind)
		}
	}
	if _, first, ok := cutID(e.ID); e.Kind == Arrived && e.Last != 0 && (!ok || e.Last <= first || e.Last-first >= maxRun || e.Gap != "") {
		return errors.New("names a run of messages that cannot be")
	}
	return nil
}

// Messages are the ids that an entry of the kind Arrived stands for.
func (e Entry) Messages(each func(id string)) {
	box, first, ok := cutID(e.ID)
	if !ok || e.Last <= first {
		each(e.ID)
		return
	}
	for seq := first; seq <= e.Last; seq++ {
		each(fmt.Sprintf("%s-%d", box, seq))
	}
}
