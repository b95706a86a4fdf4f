package report

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// redrawEvery is the time between two pictures of the live view.
const redrawEvery = 100 * time.Millisecond

// Live shows a drill on a terminal while it runs. It draws over what it has drawn before, and asks
// for the size of the terminal each time. Its clock is the wall clock: make it outside of virtual
// time.
type Live struct {
	out     io.Writer
	size    func() (columns, lines int)
	colours bool
	began   time.Time

	mu    sync.Mutex
	board board
	fresh bool
	drawn []int // columns of each line on the terminal

	stop chan struct{}
	over chan struct{}
}

// NewLive begins to show a drill. size is asked for the size of the terminal; 0 means unknown.
// Close ends it.
func NewLive(out io.Writer, size func() (columns, lines int), colours bool) *Live {
	l := &Live{out: out, size: size, colours: colours, began: time.Now(), stop: make(chan struct{}), over: make(chan struct{})}
	go l.run()
	return l
}

// Take takes in one entry. It does not wait for the terminal.
func (l *Live) Take(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.board.take(e)
	l.fresh = true
}

// Close draws the last state, and leaves it on the terminal.
func (l *Live) Close() {
	close(l.stop)
	<-l.over
}

func (l *Live) run() {
	defer close(l.over)
	ticks := time.NewTicker(redrawEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			l.draw()
		case <-l.stop:
			l.draw()
			return
		}
	}
}

// draw writes the board over the one before. A reader that is slow delays the next picture and
// nothing else.
func (l *Live) draw() {
	l.mu.Lock()
	if !l.fresh {
		l.mu.Unlock()
		return
	}
	l.fresh = false
	columns, lines := l.size()
	if columns <= 0 {
		columns = 80
	}
	if lines <= 0 {
		lines = 24
	}
	rows := l.board.rows(lines-1, time.Since(l.began))
	l.mu.Unlock()

	var b strings.Builder
	up := 0
	for _, wide := range l.drawn { // a terminal that has become narrower has broken the lines
		up += max((wide+columns-1)/columns, 1)
	}
	if up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", up)
	}
	b.WriteString("\x1b[J")
	l.drawn = l.drawn[:0]
	for _, r := range rows[:min(len(rows), lines-1)] {
		text, wide := l.line(r, columns-1)
		b.WriteString(text + "\n")
		l.drawn = append(l.drawn, wide)
	}
	_, _ = io.WriteString(l.out, b.String())
}

// line writes one row that is at most so wide.
func (l *Live) line(r row, most int) (text string, wide int) {
	var b strings.Builder
	for _, p := range r {
		s := plainText(p.text, max(most-wide, 1))
		if most-wide <= 0 {
			break
		}
		wide += utf8.RuneCountInString(s)
		if l.colours && p.colour != "" {
			s = "\x1b[" + p.colour + "m" + s + "\x1b[0m"
		}
		b.WriteString(s)
	}
	return b.String(), wide
}

// isOver is true for a mark that says when a fault was over; it is no fault itself.
func isOver(e Entry) bool { return strings.HasSuffix(e.Fault, " over") }

// Lines returns a Watch that writes what happens as lines, for a log or a pipe.
func Lines(w io.Writer) Watch {
	var begin Begin
	var began time.Time
	said := "" // the last decision; it repeats itself in an outage
	return func(e Entry) {
		mark, text := "     ", ""
		switch e.Kind {
		case Began:
			begin, began = *e.Begin, e.At
			mark, text = "  == ", fmt.Sprintf("%s on %s, device %s, seed %d", begin.Scenario, begin.Target, begin.Device, begin.Seed)
		case StepOn:
			mark, text = "  >> ", e.Step+": "+e.Text
		case FaultOn:
			if mark, text = "  !! ", e.Where+": "+e.Fault; isOver(e) {
				mark, text = "     ", text+"; the recovery counts from here"
			}
		case FaultOff:
			if e.Where != device && !isOver(e) { // an act on the device is over at once
				text = e.Where + " works again (" + e.Fault + ")"
			}
		case Happened:
			text = lineOf(e.Event, &said)
		case Expected:
			mark, text = "  ok ", e.Expectation.Step+": "+e.Expectation.Text+" ("+e.Expectation.Seen+")"
			if !e.Expectation.Held {
				mark = "  NO "
			}
		case Objected:
			mark, text = "  NO ", e.Finding.Text
		case Spoiled:
			mark, text = "  NO ", e.Text
		default:
		}
		if text != "" {
			_, _ = fmt.Fprintf(w, "%10s%s%s\n", offset(e.At.Sub(began).Milliseconds()), mark, plainText(begin.Short(text), 500))
		}
	}
}

// lineOf says what an event is worth telling, or "".
func lineOf(e *journal.Event, said *string) string {
	switch e.Kind {
	case journal.Connected:
		*said = ""
		return e.Text
	case journal.Lost, journal.Assigned, journal.MethodCall, journal.CloudMessage, journal.DesiredChange, journal.Warning, journal.OutboxProblem,
		journal.ClockWrong, journal.Resumed, journal.Bug:
		return e.Text
	case journal.Decision:
		if e.Error == "" || *said == e.Hub+e.Rule {
			return ""
		}
		*said = e.Hub + e.Rule
		return e.Text + " [" + e.Rule + "]"
	default:
		return ""
	}
}

// Print writes the result for a person: the verdict first.
func Print(w io.Writer, r Report) error {
	v := newView(r, limits{rows: 40, cell: 120, drawn: 1, text: 1})
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", v.Verdict, v.Cut(v.Title))
	fmt.Fprintf(&b, "%s\n", v.Long(r.Reason))
	for _, why := range v.Why {
		fmt.Fprintf(&b, "  - %s\n", v.Long(why))
	}
	b.WriteString("\n")
	for _, t := range v.Tiles {
		fmt.Fprintf(&b, "%-18s %-10s %s\n", t.Name, t.Value, t.Note)
	}
	if len(v.Faults) > 0 {
		cells := [][]string{{"step", "fault", "from", "to", "noticed", "assigned", "connected", "telemetry", "lost", ""}}
		for _, x := range v.Faults {
			ok := "ok"
			if !x.OK {
				ok = "NO"
			}
			cells = append(cells, []string{v.Cut(x.Step), v.Cut(x.Fault), v.Cut(x.From), v.Cut(x.To), x.Detected, x.Assigned, x.Connected, x.Back, count(x.Lost), ok})
		}
		columns(&b, cells)
		if more := v.Omitted["faults"]; more != "" {
			fmt.Fprintf(&b, "%s\n", more)
		}
	}
	if c := v.Compared; c != nil {
		cells := [][]string{{"compared", v.Cut(c.Then), v.Cut(c.Now), ""}}
		for _, x := range c.Rows {
			word := strings.Trim(sign(x), "*")
			cells = append(cells, []string{v.Cut(x.What), v.Cut(x.Then), v.Cut(x.Now), word})
		}
		columns(&b, cells)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// columns writes a table whose columns are as wide as their widest cell.
func columns(b *strings.Builder, cells [][]string) {
	wide := make([]int, len(cells[0]))
	for _, r := range cells {
		for i, c := range r {
			wide[i] = max(wide[i], utf8.RuneCountInString(c))
		}
	}
	b.WriteString("\n")
	for _, r := range cells {
		for i, c := range r {
			b.WriteString(c)
			if rest := strings.Join(r[i+1:], ""); rest == "" { // no blanks at the end of a line
				break
			}
			b.WriteString(strings.Repeat(" ", wide[i]-utf8.RuneCountInString(c)+2))
		}
		b.WriteString("\n")
	}
}
