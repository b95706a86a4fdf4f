package drill

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill/report"
)

// Record is told of everything that happens in a drill. It keeps the history, and makes the report
// from the same entries. It may be used from any goroutine.
type Record struct {
	mu      sync.Mutex
	watch   report.Watch
	fold    report.Fold
	tally   *Tally
	began   time.Time // on the wall clock
	dir     string
	file    *os.File
	history *report.History
}

// unfinished is the name of a history while the drill runs, and for ever if the process is killed.
const unfinished = "history.jsonl.part"

// NewRecord returns a record. It writes the history into dir, which it makes; "" keeps none. watch
// is told of every entry, and may be nil. wall is the time on the wall clock.
func NewRecord(dir string, watch report.Watch, wall time.Time) (*Record, error) {
	r := &Record{watch: watch, tally: NewTally(), began: wall, dir: dir}
	r.fold.Out = r.keep
	if dir == "" {
		return r, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("report: %w; name another directory", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, unfinished), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("report: %w; name another directory", err)
	}
	r.file, r.history = f, report.NewHistory(f)
	return r, nil
}

// keep takes in what is left when entries were joined.
func (r *Record) keep(e report.Entry) {
	r.tally.Take(e)
	if r.history != nil {
		r.history.Take(e)
	}
}

// Take takes in one entry.
func (r *Record) Take(e report.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Begin != nil && e.Begin.RanAt.IsZero() {
		b := *e.Begin
		b.RanAt = r.began
		e.Begin = &b
	}
	if r.watch != nil {
		r.watch(e)
	}
	r.fold.Take(e)
}

// Report says what is known so far.
func (r *Record) Report() report.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fold.Flush()
	return r.tally.Report()
}

// Close ends the run, and returns its report. at is the time of the run, and wall that of the wall
// clock. The report is right also if there is an error: then the history could not be written.
func (r *Record) Close(at, wall time.Time) (report.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fold.Flush()
	last := report.Entry{At: at, Kind: report.Ended, End: r.tally.End(at, wall.Sub(r.began))}
	if r.watch != nil {
		r.watch(last)
	}
	r.keep(last)
	rep := r.tally.Report()
	if r.history == nil {
		return rep, nil
	}
	part := filepath.Join(r.dir, unfinished)
	err := r.history.Close()
	if err == nil {
		err = r.file.Sync()
	}
	if closed := r.file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(part, filepath.Join(r.dir, report.HistoryFile))
	}
	if err != nil {
		_ = os.Remove(part) // it would prove nothing, and its room may be what is missing
		return rep, fmt.Errorf("report: the history is not written: %w", err)
	}
	proof := r.history.Proof()
	rep.History = &proof
	return rep, nil
}

// VerdictError is nil if the verdict of a drill is good, and else an error that wraps ErrVerdict.
func VerdictError(r report.Report) error {
	if r.Verdict == report.Passed {
		return nil
	}
	return verdictError{r.Verdict, r.Reason}
}

type verdictError struct {
	outcome report.Outcome
	reason  string
}

func (e verdictError) Error() string {
	return fmt.Sprintf("the verdict is: %s: %s", e.outcome, e.reason)
}
func (e verdictError) Is(target error) bool { return target == ErrVerdict }

// Repeat makes the report of a run again from its history. The verdict is Unknown if the history is
// not as the drill wrote it, or if its end claims something else than its lines prove; the reason
// names the line. The error is that of the reader.
func Repeat(history io.Reader) (report.Report, error) {
	t := NewTally()
	var end report.Entry
	proof, err := report.ReadHistory(history, func(e report.Entry) {
		if e.Kind == report.Ended {
			end = e
			return
		}
		t.Take(e)
	})
	if err != nil && !errors.Is(err, report.ErrHistory) {
		return report.Report{}, err
	}
	if err != nil {
		t.spoil("%v", err)
		return t.Report(), nil
	}
	proved := *t.End(end.At, 0)
	t.Take(end)
	said := *end.End
	said.WallMs = 0
	// The sentence of the verdict is made again from what is proved. A later version may word it in
	// another way, and a history must still prove what it proved.
	if proved, said := unworded(proved), unworded(said); proved != said {
		t.spoil("the lines of the history prove %s, and its end says %s", sayEnd(proved), sayEnd(said))
	}
	r := t.Report()
	r.History = &proof
	return r, nil
}

// unworded returns what an end claims, without the sentence that says it.
func unworded(e report.End) report.End {
	e.Reason = ""
	return e
}

func sayEnd(e report.End) string {
	return fmt.Sprintf("%q (%s; %d made, %d received, %d lost, %d duplicated, %d reordered, slowest recovery %s)", e.Verdict, e.Reason,
		e.Samples.Made, e.Samples.Received, e.Samples.Lost, e.Samples.Duplicated, e.Samples.Reordered, words(e.WorstMs))
}
