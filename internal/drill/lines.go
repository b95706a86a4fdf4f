package drill

import (
	"encoding/json"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// Line is one sample of a device that is given numbered lines. Lines are numbered over all lives of
// the device, so a body says which sample it is, whatever id it comes under.
type Line struct {
	Life int    `json:"life"` // which process was given it, from 0 on
	N    uint64 `json:"n"`    // its number, from 1 on
}

// Life says which lines one process of the device was given.
type Life struct{ First, Last uint64 }

// lineOf reads a message's body. It returns false if the body is no line.
func lineOf(m sim.Message) (l Line, ok bool) {
	err := json.Unmarshal(m.Body, &l)
	return l, err == nil && l.N > 0
}

// Figures are what a [Book] has counted.
type Figures struct {
	Received int64 // messages, the repeated ones included
	Distinct int64 // samples
	Repeats  int64 // messages that had arrived before
	Worst    int64 // the most repeats per event
	Events   int
	Moves    int     // how often a sample came to another hub than the one before
	Newest   uint64  // the greatest number of a line
	Highest  uint64  // the greatest seq
	Fastest  float64 // messages a second, over paceOf of them in a row
}

// Book judges a device that is killed again and again. It knows each sample by its seq and by its
// line, so it notices when a sample is lost, moved, changed, or invented, and when more is repeated
// than an event explains. All samples come from one outbox.
type Book struct {
	Judge // Allow.Reordered says that the order says nothing
	Figures
	Window int // messages in flight at most: so many may come again after an event

	samples []Line // by seq, from 1 on; N is 0 while the sample has not arrived
	hub     string // of the newest sample
	pace    time.Time

	// Samples arrive in order, and what is repeated is older than what is new. So when a line
	// arrives that was written after an event, everything has arrived that the event can have
	// repeated.
	pending []uint64 // for each event that is not over: the last line that was written before it
	since   int64    // repeats since the last event that is over
}

const (
	maxSeq = 1 << 26 // of a run; a greater one is nonsense, and must not cost memory
	paceOf = 5000    // messages in a row, over which the speed is measured
)

// Event notes that something was killed or moved, and that the lines up to n were written before.
func (b *Book) Event(n uint64) {
	b.Events++
	b.pending = append(b.pending, n)
}

// Calm says whether every event is over: a line has arrived that was written after the last one.
func (b *Book) Calm() bool { return len(b.pending) == 0 }

// Add takes in one message.
func (b *Book) Add(m sim.Message) {
	if b.Received++; b.Received%paceOf == 0 {
		if took := m.At.Sub(b.pace).Seconds(); took > 0 && !b.pace.IsZero() {
			b.Fastest = max(b.Fastest, paceOf/took)
		}
		b.pace = m.At
	}
	seq, seen := b.Arrived(ArrivalOf(m))
	body, ok := lineOf(m)
	switch {
	case seq == 0: // the judge has objected
		return
	case !ok || seq > maxSeq:
		b.Object(Content, "message %q with body %s is none of the device's", m.Mid, m.Body)
		return
	}
	for uint64(len(b.samples)) < seq {
		b.samples = append(b.samples, Line{})
	}
	was := &b.samples[seq-1]
	if was.N != 0 && *was != body {
		b.Object(Content, "%s names two samples: line %d of life %d and line %d of life %d", m.Mid, was.N, was.Life, body.N, body.Life)
	}
	if seen == audit.Again {
		b.repeated()
		return
	}
	*was = body
	b.Distinct++
	if b.Highest, b.Newest = max(b.Highest, seq), max(b.Newest, body.N); b.hub != m.Hub {
		if b.hub != "" {
			b.Moves++
		}
		b.hub = m.Hub
	}
	b.settle()
}

// repeated counts a message that had arrived before.
func (b *Book) repeated() {
	b.Repeats++
	b.since++
	n := max(1, len(b.pending))
	if b.Allow.Reordered { // old samples may still come again when new ones have arrived: only the sum can be judged
		b.since, n = b.Repeats, b.Events
	}
	if b.since == int64(b.Window*n)+1 { // once
		b.Object(Repeated, "more than %d messages were repeated after %d events", b.Window*n, n)
	}
	b.Worst = max(b.Worst, (b.since+int64(n)-1)/int64(max(n, 1)))
}

// settle ends the events that are over. They overlapped, so what was repeated belongs to all of
// them.
func (b *Book) settle() {
	if len(b.pending) > 0 && b.Newest > b.pending[len(b.pending)-1] {
		b.pending = nil
		if !b.Allow.Reordered {
			b.since = 0
		}
	}
}

// Conclude compares what has arrived with the lines of each life. The last life has ended in order,
// so all of its lines must be there. The others were killed: lines that they had not yet read from
// their input may be missing.
func (b *Book) Conclude(lives []Life) Verdict {
	v := b.Verdict(false)
	before, at := Line{Life: -1}, -1
	for i, s := range b.samples {
		if s.N == 0 {
			continue
		}
		if i > at+1 && at >= 0 {
			v.Object(Lost, "between seq %d, line %d of life %d, and seq %d, line %d of life %d, %d seqs are missing",
				at+1, before.N, before.Life, i+1, s.N, s.Life, i-at-1)
		}
		switch {
		case s.Life < 0 || s.Life >= len(lives) || s.N < lives[s.Life].First || s.N > lives[s.Life].Last:
			v.Object(Content, "seq %d is line %d of life %d, which was never written", i+1, s.N, s.Life)
		case s.N <= before.N:
			v.Object(Content, "seq %d is line %d, but the one before it is line %d", i+1, s.N, before.N)
		case s.Life == before.Life && s.N-before.N != uint64(i-at): // more lines than seqs are missing
			v.Object(Content, "seq %d is line %d and seq %d is line %d of life %d: not all lines between them became samples", at+1, before.N, i+1, s.N, s.Life)
		case s.Life != before.Life && i == at+1 && s.N != lives[s.Life].First:
			v.Object(Content, "lines %d to %d of life %d never became samples", lives[s.Life].First, s.N-1, s.Life)
		}
		before, at = s, i
	}
	if last := len(lives) - 1; last >= 0 && (before.Life != last || before.N != lives[last].Last) && lives[last].Last > 0 {
		v.Object(Content, "the last sample is line %d of life %d, not the last line, %d of life %d", before.N, before.Life, lives[last].Last, last)
	}
	v.Close(v.Reason)
	return v
}

// Roll judges a device that is never killed, so each line that it was given must arrive. The lines
// may come from several outboxes, because a device whose disk fails goes on in memory.
type Roll struct {
	Judge
	Received int64
	Newest   uint64            // the greatest number of a line
	lines    map[uint64]string // number of a line → id of the message that brought it
}

// NewRoll returns a Roll without arrivals.
func NewRoll() *Roll {
	return &Roll{Judge: Judge{Allow: Allowance{Reordered: true, Outboxes: true}}, lines: map[uint64]string{}}
}

// Distinct returns how many lines have arrived.
func (r *Roll) Distinct() int { return len(r.lines) }

// Add takes in one message.
func (r *Roll) Add(m sim.Message) {
	r.Received++
	r.Arrived(ArrivalOf(m))
	body, ok := lineOf(m)
	if !ok {
		r.Object(Content, "message %q with body %s is none of the device's", m.Mid, m.Body)
		return
	}
	if was, ok := r.lines[body.N]; ok && was != m.Mid {
		r.Object(Content, "line %d came as %s and as %s: a consumer cannot tell that they are one sample", body.N, was, m.Mid)
	}
	r.lines[body.N] = m.Mid
	r.Newest = max(r.Newest, body.N)
}

// Conclude compares the lines that have arrived with the lines that were given, 1 to last.
func (r *Roll) Conclude(last uint64) Verdict {
	v := r.Verdict(false)
	lost, first := uint64(0), uint64(0)
	for n := uint64(1); n <= last; n++ {
		if _, ok := r.lines[n]; ok {
			continue
		}
		if lost++; lost == 1 {
			first = n
		}
	}
	if lost > 0 {
		v.Object(Lost, "%d of %d lines never arrived; the first is line %d", lost, last, first)
	}
	v.Close(v.Reason)
	return v
}
