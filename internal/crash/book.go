package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// line is what the device is given to send. Lines are numbered over all lives of the device, so a body says which sample it is whatever
// id it comes under.
type line struct {
	Life int    `json:"life"`
	N    uint64 `json:"n"`
}

// arrival is one message as the simulator's ledger shows it.
type arrival struct {
	Mid        string             `json:"mid"`
	Hub        string             `json:"hub"`
	At         time.Time          `json:"at"`
	Properties map[string]*string `json:"properties"`
	Body       json.RawMessage    `json:"body"`
}

// book is everything that has arrived, message by message, and what is wrong with it. It trusts no count of anybody else.
type book struct {
	window int  // messages in flight at most: so many may come again after an event
	mixed  bool // new samples may go ahead of old ones, so order says nothing

	outbox   string // its id: there must be one only
	samples  []line // by seq, from 1 on; N is 0 while the sample has not arrived
	received int64  // messages, repeated ones included
	distinct int64
	highest  uint64  // seq
	newest   uint64  // N
	hub      string  // of the newest sample
	moves    int     // times it was another one than that of the sample before
	fastest  float64 // messages a second, over paceOf of them in a row
	pace     time.Time
	faults   []string
	more     int // faults beyond those

	// Events, and what came twice because of them. Samples arrive in order, and what is repeated is older than what is new. So when a
	// sample arrives that was made after an event, everything that the event can have repeated has arrived.
	events  int
	pending []uint64 // for each event that is not over: the last N that was written before it
	repeats int64    // all
	since   int64    // since the last event that is over
	worst   int64    // per event: the most
}

const (
	maxFaults = 40
	maxSeq    = 1 << 26 // of a run; anything above is nonsense, and must not cost memory
)

func (b *book) fault(format string, a ...any) {
	if len(b.faults) == maxFaults {
		b.more++
		return
	}
	b.faults = append(b.faults, fmt.Sprintf(format, a...))
}

// paceOf is how many messages in a row the speed is measured over.
const paceOf = 5000

// event notes that something was killed or moved, and that lines up to n were written before.
func (b *book) event(n uint64) {
	b.events++
	b.pending = append(b.pending, n)
}

// calm says whether everything that happened is over.
func (b *book) calm() bool { return len(b.pending) == 0 }

// add enters one message.
func (b *book) add(a arrival) {
	if b.received++; b.received%paceOf == 0 {
		if took := a.At.Sub(b.pace).Seconds(); took > 0 && !b.pace.IsZero() {
			b.fastest = max(b.fastest, paceOf/took)
		}
		b.pace = a.At
	}
	outbox, digits, _ := strings.Cut(a.Mid, "-")
	seq, err := strconv.ParseUint(digits, 10, 64)
	var body line
	if jerr := json.Unmarshal(a.Body, &body); err != nil || jerr != nil || seq == 0 || seq > maxSeq || body.N == 0 {
		b.fault("message %q with body %s is none of the device's", a.Mid, a.Body)
		return
	}
	if b.outbox == "" {
		b.outbox = outbox
	}
	if outbox != b.outbox {
		b.fault("%s is of another outbox than %s: nobody moved it, and the disk is well", a.Mid, b.outbox)
		return
	}
	if gap := a.Properties["gap"]; gap != nil {
		b.fault("%s says that %s were dropped, but the outbox never was full", a.Mid, *gap)
	}
	for uint64(len(b.samples)) < seq {
		b.samples = append(b.samples, line{})
	}
	if was := &b.samples[seq-1]; was.N != 0 {
		if *was != body {
			b.fault("%s names two samples: line %d of life %d and line %d of life %d", a.Mid, was.N, was.Life, body.N, body.Life)
		}
		b.repeated()
		return
	}
	b.samples[seq-1] = body
	b.distinct++
	if seq < b.highest && !b.mixed {
		b.fault("%s arrived behind %d", a.Mid, b.highest)
	}
	if b.highest, b.newest = max(b.highest, seq), max(b.newest, body.N); b.hub != a.Hub {
		if b.hub != "" {
			b.moves++
		}
		b.hub = a.Hub
	}
	b.settle()
}

// repeated counts a message that had arrived before.
func (b *book) repeated() {
	b.repeats++
	b.since++
	n := max(1, len(b.pending))
	if b.mixed { // old samples may still come again when new ones have arrived: only the sum can be judged
		b.since, n = b.repeats, b.events
	}
	if b.since == int64(b.window*n)+1 { // say so once
		b.fault("more than %d messages were repeated after %d events", b.window*n, n)
	}
	b.worst = max(b.worst, (b.since+int64(n)-1)/int64(n))
}

// settle ends the events that are over. What was repeated meanwhile belongs to all of them, since they overlapped.
func (b *book) settle() {
	if len(b.pending) > 0 && b.newest > b.pending[len(b.pending)-1] {
		b.pending = nil
		if !b.mixed {
			b.since = 0
		}
	}
}

// lives are the first and the last line that each life of the device was given.
type life struct{ first, last uint64 }

// conclude holds what has arrived against what there was: the outbox's last seq, and the lines of each life. The last life has ended in
// order, so all of its lines must be there; the others were killed, and what they had not yet taken from their input is nobody's.
func (b *book) conclude(lastSeq uint64, lives []life) {
	b.missing(lastSeq)
	if b.highest > lastSeq {
		b.fault("seq %d has arrived, but the outbox says that the last one is %d: it would be used again", b.highest, lastSeq)
	}
	before, at := line{Life: -1}, -1
	for i, s := range b.samples {
		if s.N == 0 {
			continue // said already
		}
		switch {
		case s.Life < 0 || s.Life >= len(lives) || s.N < lives[s.Life].first || s.N > lives[s.Life].last:
			b.fault("seq %d is line %d of life %d, which was never written", i+1, s.N, s.Life)
		case s.N <= before.N:
			b.fault("seq %d is line %d, but the one before it is line %d", i+1, s.N, before.N)
		case s.Life == before.Life && s.N-before.N != uint64(i-at): // more than the seqs that are missing
			b.fault("seq %d is line %d and seq %d is line %d of life %d: not all lines between them became samples", at+1, before.N, i+1, s.N, s.Life)
		case s.Life != before.Life && i == at+1 && s.N != lives[s.Life].first:
			b.fault("lines %d to %d of life %d never became samples", lives[s.Life].first, s.N-1, s.Life)
		}
		before, at = s, i
	}
	if last := len(lives) - 1; last >= 0 && (before.Life != last || before.N != lives[last].last) && lives[last].last > 0 {
		b.fault("the last sample is line %d of life %d, not the last line, %d of life %d", before.N, before.Life, lives[last].last, last)
	}
}

// lost is how many seqs up to last have not arrived.
func (b *book) lost(last uint64) (n uint64) {
	for seq := range last {
		if seq >= uint64(len(b.samples)) || b.samples[seq].N == 0 {
			n++
		}
	}
	return n
}

// missing tells which seqs up to last have not arrived, in ranges.
func (b *book) missing(last uint64) {
	for seq := uint64(1); seq <= last; seq++ {
		from := seq
		for seq <= last && (seq > uint64(len(b.samples)) || b.samples[seq-1].N == 0) {
			seq++
		}
		if seq > from {
			b.fault("seqs %d to %d never arrived%s", from, seq-1, b.around(from, seq-1))
		}
	}
}

// around says what arrived on both sides of a hole.
func (b *book) around(from, to uint64) string {
	var sides []string
	for _, seq := range []uint64{from - 1, to + 1} {
		if seq >= 1 && seq <= uint64(len(b.samples)) && b.samples[seq-1].N != 0 {
			sides = append(sides, fmt.Sprintf("%d is line %d of life %d", seq, b.samples[seq-1].N, b.samples[seq-1].Life))
		}
	}
	if len(sides) == 0 {
		return ""
	}
	return " (" + strings.Join(slices.Compact(sides), ", ") + ")"
}
