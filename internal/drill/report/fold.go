package report

import (
	"strconv"
	"strings"
	"time"
)

const (
	finest  = time.Second // of what a fold joins, in a short run
	grain   = 1000        // a longer run has about so many pieces of each kind
	maxRun  = 1 << 16     // messages that one entry stands for
	openRun = 0
)

// Fold makes fewer entries of many, so that the history of days stays small. Messages that arrive
// at one hub one after the other become one entry, which still names each of them. Of what a device
// shows of itself it keeps about one a second. It loses nothing that a verdict depends on.
type Fold struct {
	Out func(Entry)

	began time.Time
	run   Entry  // not told yet; N counts its messages
	box   string // of the run's ids
	shown Entry  // the last gauge
}

// Take takes in one entry.
func (f *Fold) Take(e Entry) {
	if f.began.IsZero() {
		f.began = e.At
	}
	switch {
	case e.Kind == Gauge && f.thin(e):
	case e.Kind == Gauge:
		f.shown = e
		f.Out(e)
	case e.Kind == Arrived && e.Gap == "" && e.Last == 0:
		f.arrived(e)
	default:
		f.Flush()
		f.Out(e)
	}
}

// Flush tells what is not told yet.
func (f *Fold) Flush() {
	if f.run.N == openRun {
		return
	}
	e := f.run
	if e.N == 1 {
		e.Last, e.Until = 0, time.Time{}
	}
	e.N = 0
	f.run = Entry{}
	f.Out(e)
}

// width is how much time one entry may stand for.
func (f *Fold) width(at time.Time) time.Duration { return max(finest, at.Sub(f.began)/grain) }

func (f *Fold) thin(e Entry) bool {
	s, was := e.State, f.shown.State
	return s != nil && was != nil && !s.Counted && (s.Backlog == 0) == (was.Backlog == 0) && e.At.Sub(f.shown.At) < f.width(e.At)
}

func (f *Fold) arrived(e Entry) {
	box, seq, ok := cutID(e.ID)
	r := &f.run
	if ok && r.N != openRun && r.N < maxRun && box == f.box && seq == r.Last+1 && e.Hub == r.Hub && !e.At.Before(r.Until) && e.At.Sub(r.At) < f.width(e.At) {
		r.N, r.Last, r.Until = r.N+1, seq, e.At
		return
	}
	f.Flush()
	if !ok {
		f.Out(e)
		return
	}
	e.N, e.Last, e.Until = 1, seq, e.At
	f.run, f.box = e, box
}

// cutID takes a message id apart, "<outbox id>-<seq>".
func cutID(id string) (box string, seq uint64, ok bool) {
	box, digits, ok := strings.Cut(id, "-")
	if !ok {
		return "", 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return box, seq, err == nil && seq > 0 && strconv.FormatUint(seq, 10) == digits
}
