package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// board is what the live view shows: the state of a run, drawn from its entries.
type board struct {
	begin   Begin
	began   time.Time // of the run
	now     time.Time // of the newest entry
	places  []place   // the hubs, and then what else had a fault
	steps   []liveStep
	at      string // hub of the link, "" for none
	since   time.Time
	stopped bool // the device has ended
	fell    bool // the link was lost, and no decision is known since
	made    uint64
	backlog uint64
	got     uint64 // messages
	second  int64  // number of the second that is counted
	count   uint64 // messages in it
	rate    uint64 // messages in the second before it
	last    string // decision
	end     *End
}

// place is a hub, DPS, or the network.
type place struct {
	name  string
	fault string // "" while it works
	since time.Time
}

// liveStep is one step of the scenario.
type liveStep struct {
	name  string
	state stepState
	note  string // of the last expectation
}

type stepState int

const (
	stepAhead stepState = iota
	stepRuns
	stepHeld
	stepFailed
)

// take takes in one entry.
func (b *board) take(e Entry) {
	if e.At.After(b.now) {
		b.now = e.At
	}
	switch e.Kind {
	case Began:
		b.begin, b.began = *e.Begin, e.At
		for _, h := range e.Begin.Hubs {
			b.place(h)
		}
		for _, s := range e.Begin.Steps[:min(len(e.Begin.Steps), mostLiveSteps)] {
			b.steps = append(b.steps, liveStep{name: s})
		}
	case StepOn:
		b.step(e.Step).state = stepRuns
	case StepOff:
		if s := b.step(e.Step); s.state == stepRuns {
			s.state = stepHeld
		}
	case FaultOn:
		if p := b.place(e.Where); p != nil {
			p.fault, p.since = e.Fault, e.At
		}
	case FaultOff:
		if p := b.place(e.Where); p != nil && p.fault == e.Fault {
			p.fault = ""
		}
	case Happened:
		b.event(*e.Event, e.At)
	case Arrived:
		b.arrived(e)
	case Gauge:
		b.made, b.backlog = e.State.Made, e.State.Backlog
	case Expected:
		s := b.step(e.Expectation.Step)
		if s.note = e.Expectation.Text + ": met"; !e.Expectation.Held {
			s.state, s.note = stepFailed, e.Expectation.Text+": "+e.Expectation.Seen
		}
	case Ended:
		b.end = e.End
	default:
	}
}

const mostPlaces = 40

// device is the place of what is done to the device: it has a row of its own.
const device = "device"

func (b *board) place(name string) *place {
	i := slices.IndexFunc(b.places, func(p place) bool { return p.name == name })
	if i < 0 {
		if name == "" || name == device || len(b.places) == mostPlaces {
			return nil
		}
		i = len(b.places)
		b.places = append(b.places, place{name: name})
	}
	return &b.places[i]
}

const mostLiveSteps = 1000

func (b *board) step(name string) *liveStep {
	i := slices.IndexFunc(b.steps, func(s liveStep) bool { return s.name == name })
	if i < 0 {
		if len(b.steps) == mostLiveSteps {
			return &liveStep{}
		}
		i = len(b.steps)
		for i > 0 && b.steps[i-1].state == stepAhead { // it begins before those
			i--
		}
		b.steps = slices.Insert(b.steps, i, liveStep{name: name})
	}
	return &b.steps[i]
}

func (b *board) event(e journal.Event, at time.Time) {
	switch e.Kind {
	case journal.Connected:
		b.at, b.since = b.begin.Short(e.Hub), at
	case journal.Lost, journal.Stopped:
		b.at, b.since, b.stopped, b.fell = "", at, e.Kind == journal.Stopped, true
	case journal.Decision:
		if e.Error != "" || b.fell { // the others only name the next step
			b.last = fmt.Sprintf("%s  %s [%s]", offset(at.Sub(b.began).Milliseconds()), b.begin.Short(e.Text), e.Rule)
		}
		b.fell = false
	default:
	}
}

func (b *board) arrived(e Entry) {
	n := uint64(1)
	if _, first, ok := cutID(e.ID); ok && e.Last > first {
		n = e.Last - first + 1
	}
	b.got += n
	second := int64(e.At.Sub(b.began) / time.Second)
	if second != b.second {
		b.rate = 0
		if second == b.second+1 {
			b.rate = b.count
		}
		b.second, b.count = second, 0
	}
	b.count += n
}

// perSecond is how many messages arrived in the last whole second.
func (b *board) perSecond() uint64 {
	if int64(b.now.Sub(b.began)/time.Second) > b.second+1 {
		return 0 // the last one that arrived is older
	}
	return b.rate
}

// The colours of a terminal, as parameters of SGR.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// row is one line of the board: pieces of text with their colours.
type row []piece

type piece struct{ colour, text string }

// rows draws the board for a terminal of so many lines. elapsed is how long the run has taken on
// the wall clock.
func (b *board) rows(high int, elapsed time.Duration) (all []row) {
	add := func(p ...piece) { all = append(all, p) }
	name := b.begin.Title
	if name == "" {
		name = b.begin.Scenario
	}
	about := fmt.Sprintf("  %s · %s · seed %d", b.begin.Device, b.begin.Target, b.begin.Seed)
	if b.begin.Speed == "virtual" {
		about += " · virtual time"
	}
	add(piece{bold, name}, piece{dim, about})
	add(b.progress(elapsed)...)
	add()
	for i := range b.places {
		add(b.shown(&b.places[i])...)
	}
	if b.at == "" && !b.began.IsZero() {
		text := "no link"
		if b.stopped {
			text = "stopped"
		} else if !b.since.IsZero() {
			text += " for " + journal.Duration(b.now.Sub(b.since))
		}
		add(piece{"", fmt.Sprintf("%-10s", "device")}, piece{yellow, "○ " + text})
	}
	add()
	add(piece{dim, "rate "}, piece{"", fmt.Sprintf("%d/s", b.perSecond())}, piece{dim, "   backlog "}, piece{warn(b.backlog > 0), count(b.backlog)},
		piece{dim, "   made "}, piece{"", count(b.made)}, piece{dim, "   received "}, piece{"", count(b.got)})
	if b.last != "" {
		add(piece{dim, "last decision  "}, piece{"", b.last})
	}
	add()
	return append(all, b.shownSteps(max(high-len(all)-1, 3))...)
}

func warn(yes bool) string {
	if yes {
		return yellow
	}
	return ""
}

// progress draws the bar, and says how much time is left.
func (b *board) progress(elapsed time.Duration) row {
	done := b.now.Sub(b.began)
	if b.began.IsZero() {
		done = 0
	}
	lasts := time.Duration(b.begin.LastsMs) * time.Millisecond
	if lasts <= 0 {
		return row{{"", offset(done.Milliseconds())}}
	}
	lasts = max(lasts, b.expected(done), time.Millisecond)
	part := min(float64(done)/float64(lasts), 0.99)
	if b.end != nil {
		part, lasts = 1, done
	}
	const wide = 30
	full := int(part * wide)
	text := fmt.Sprintf("  %3.0f %%  %s of about %s", 100*part, offset(done.Milliseconds()), offset(lasts.Milliseconds()))
	if part > 0.02 && part < 1 {
		left := time.Duration(float64(elapsed) * (1 - part) / part)
		if b.begin.Speed != "virtual" {
			left = lasts - done
		}
		if left = left.Round(time.Second); left > 0 { // else it takes longer than it was thought to
			text += ", " + journal.Duration(left) + " left"
		}
	}
	return row{{cyan, strings.Repeat("█", full)}, {dim, strings.Repeat("░", wide-full)}, {"", text}}
}

// expected estimates how long the run takes, when some of its steps are over. A scenario says only
// how long its steps take at least.
func (b *board) expected(done time.Duration) time.Duration {
	over, ahead := 0, 0
	for _, s := range b.steps {
		switch s.state {
		case stepAhead:
			ahead++
		case stepRuns:
		default:
			over++
		}
	}
	if over == 0 {
		return done
	}
	return done + time.Duration(ahead)*(done/time.Duration(over+1))
}

// shown draws the row of a hub or another place.
func (b *board) shown(p *place) row {
	r := row{{"", fmt.Sprintf("%-10s", plainText(p.name, 40))}}
	switch {
	case p.fault != "":
		r = append(r, piece{red, fmt.Sprintf("✗ %s for %s", p.fault, journal.Duration(b.now.Sub(p.since)))})
	case p.name == b.at:
		r = append(r, piece{green, "● the device is here for " + journal.Duration(b.now.Sub(b.since))})
	default:
		r = append(r, piece{dim, "· works"})
	}
	if p.fault != "" && p.name == b.at {
		r = append(r, piece{yellow, "  the device still has its link"})
	}
	return r
}

// shownSteps draws the steps around the one that runs, for which there is room.
func (b *board) shownSteps(room int) (all []row) {
	first := 0
	for i, s := range b.steps {
		if s.state != stepAhead {
			first = i
		}
	}
	first = max(min(first-room+2, len(b.steps)-room), 0)
	for _, s := range b.steps[first:min(first+room, len(b.steps))] {
		mark, colour := "·", dim
		switch s.state {
		case stepRuns:
			mark, colour = "▶", bold
		case stepHeld:
			mark, colour = "✓", green
		case stepFailed:
			mark, colour = "✗", red
		default:
		}
		r := row{{colour, mark + " " + plainText(s.name, 60)}}
		if s.note != "" && s.state != stepAhead {
			r = append(r, piece{dim, "  " + plainText(s.note, 200)})
		}
		all = append(all, r)
	}
	return all
}
