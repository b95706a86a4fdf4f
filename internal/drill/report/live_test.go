package report

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// screen is a terminal that knows what the live view uses of one.
type screen struct {
	mu      sync.Mutex
	columns int
	lines   [][]rune
	y       int
	writes  int
	bad     string
}

var control = regexp.MustCompile(`^\x1b\[([0-9;]*)([A-Za-z])`)

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	for text := string(p); text != ""; {
		if m := control.FindStringSubmatch(text); m != nil {
			n, _ := strconv.Atoi(m[1])
			switch m[2] {
			case "A":
				if s.y -= n; s.y < 0 {
					s.bad, s.y = "the cursor left the screen", 0
				}
			case "J":
				s.lines = s.lines[:min(len(s.lines), s.y)]
			case "m":
			default:
				s.bad = "an unknown control " + m[0]
			}
			text = text[len(m[0]):]
			continue
		}
		switch r := []rune(text)[0]; {
		case r == '\n':
			s.y++
			text = text[1:]
		case r == '\r':
			text = text[1:]
		case r < ' ' || r == 0x7f || r == '\u009b':
			s.bad, text = fmt.Sprintf("a control character %q", r), text[len(string(r)):]
		default:
			for len(s.lines) <= s.y {
				s.lines = append(s.lines, nil)
			}
			s.lines[s.y] = append(s.lines[s.y], r)
			if len(s.lines[s.y]) > s.columns {
				s.bad = "a line is too long: " + string(s.lines[s.y])
			}
			text = text[len(string(r)):]
		}
	}
	return len(p), nil
}

func (s *screen) text() string {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(string(l) + "\n")
	}
	return b.String()
}

// resize breaks the lines that are too long, as a terminal does.
func (s *screen) resize(columns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.columns = columns
	var lines [][]rune
	for _, l := range s.lines {
		for len(l) > columns {
			lines, l = append(lines, l[:columns]), l[columns:]
		}
		lines = append(lines, l)
	}
	for len(lines) > 0 && len(lines) < s.y {
		lines = append(lines, nil)
	}
	s.lines, s.y = lines, len(lines)
}

// story are the entries of a run of 20 s: a hub dies at 5 s, and the device comes back 1 s later.
func story(at time.Time, each func(Entry)) {
	tell := func(after time.Duration, e Entry) {
		e.At = at.Add(after)
		if e.Event != nil {
			e.Event.Time = e.At
		}
		each(e)
	}
	tell(0, Entry{Kind: Began, Begin: &Begin{Scenario: "one-kill", Title: "One \x1b[2Jkill", Device: "dev-1", Target: "embedded", Seed: 7, Speed: "virtual", Hubs: []string{"hub-a", "hub-b"},
		Names: map[string]string{"127.0.0.2": "hub-a", "127.0.0.3": "hub-b"}, Steps: []string{"kill", "after"}, LastsMs: 20_000}})
	tell(0, Entry{Kind: StepOn, Step: "steady state before", Text: "all works"})
	tell(time.Second, Entry{Kind: Happened, Event: &journal.Event{Kind: journal.Connected, Hub: "127.0.0.2", Text: "connected to 127.0.0.2"}})
	seq := 0
	arrive := func(hub string, from, to time.Duration) {
		for t := from; t < to; t += 100 * time.Millisecond {
			seq++
			tell(t, Entry{Kind: Arrived, Hub: hub, ID: fmt.Sprintf("00000000000000ab-%d", seq)})
		}
	}
	arrive("hub-a", time.Second, 5*time.Second)
	tell(5*time.Second, Entry{Kind: StepOff, Step: "steady state before"})
	tell(5*time.Second, Entry{Kind: StepOn, Step: "kill", Text: "hub-a dies"})
	tell(5*time.Second, Entry{Kind: FaultOn, Step: "kill", Where: "hub-a", Fault: "kill rst", Move: true})
	tell(5*time.Second, Entry{Kind: Happened, Event: &journal.Event{Kind: journal.Lost, Hub: "127.0.0.2", Text: "link lost"}})
	tell(5*time.Second, Entry{Kind: Happened, Event: &journal.Event{Kind: journal.Decision, Hub: "127.0.0.2", Rule: "H07", Error: "refused", Text: "127.0.0.2: refused"}})
	tell(5500*time.Millisecond, Entry{Kind: Happened, Event: &journal.Event{Kind: journal.Decision, Hub: "127.0.0.2", Rule: "H07", Error: "refused", Text: "127.0.0.2: refused"}})
	tell(5500*time.Millisecond, Entry{Kind: Gauge, State: &State{Made: 45, Backlog: 5}})
	tell(6*time.Second, Entry{Kind: Happened, Event: &journal.Event{Kind: journal.Connected, Hub: "127.0.0.3", Text: "up again on 127.0.0.3"}})
	arrive("hub-b", 6*time.Second, 12*time.Second)
	tell(12*time.Second, Entry{Kind: Expected, Expectation: &Expectation{Step: "kill", Text: "back on hub-b within 500 ms", Seen: "1.0 s"}})
	tell(12*time.Second, Entry{Kind: StepOff, Step: "kill"})
}

// TestTheBoardSaysWhatGoesOn asks for the board at three times of a run.
func TestTheBoardSaysWhatGoesOn(t *testing.T) {
	var b board
	var shots []string
	shot := func() {
		var s strings.Builder
		for _, r := range b.rows(40, 2*time.Second) {
			for _, p := range r {
				s.WriteString(p.text)
			}
			s.WriteString("\n")
		}
		shots = append(shots, s.String())
	}
	n := 0
	story(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), func(e Entry) {
		b.take(e)
		if n++; e.Kind == Gauge {
			shot()
		}
	})
	shot()
	for i, wants := range [][]string{
		{"28 %  5.50 s of about 20.00 s, 5.0 s left", "hub-a     ✗ kill rst for 0.5 s", "hub-b     · works", "device    ○ no link for 0.5 s", "backlog 5", "made 45", "received 40",
			"last decision  5.50 s  hub-a: refused [H07]", "✓ steady state before", "▶ kill", "· after"},
		{"60 %  12.00 s of about 20.00 s", "hub-b     ● the device is here for 6.0 s", "rate 10/s", "received 100", "✗ kill  back on hub-b within 500 ms: 1.0 s"},
	} {
		for _, want := range wants {
			if !strings.Contains(shots[i], want) {
				t.Errorf("the board lacks %q:\n%s", want, shots[i])
			}
		}
	}
}

// TestTheBoardOfNothing draws a run that has not begun, or that says next to nothing of itself.
func TestTheBoardOfNothing(t *testing.T) {
	for _, entries := range [][]Entry{nil, {{Kind: Began, Begin: &Begin{LastsMs: 1}}}, {{Kind: Began, Begin: &Begin{}}, {Kind: Ended, End: &End{}}},
		{{Kind: Began, Begin: &Begin{LastsMs: -1, Steps: make([]string, 5000)}}, {Kind: StepOn}, {Kind: FaultOff, Where: "x"}}} {
		var b board
		for _, e := range entries {
			b.take(e)
		}
		for high := range 30 {
			if rows := b.rows(high, 0); len(rows) > max(high, 3)+8 {
				t.Errorf("%d rows for %d lines", len(rows), high)
			}
		}
	}
}

// TestTheLiveViewDrawsOverItself runs a story for 20 s on a terminal that becomes narrower and
// wider. It redraws at most ten times a second, keeps to the lines, and leaves the last state
// there.
func TestTheLiveViewDrawsOverItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{columns: 90}
		size := func() (int, int) { s.mu.Lock(); defer s.mu.Unlock(); return s.columns, 16 }
		l := NewLive(s, size, true)
		began := time.Now()
		story(began, func(e Entry) {
			time.Sleep(time.Until(e.At))
			switch e.Kind {
			case FaultOn:
				s.resize(40)
			case Gauge:
				s.resize(120)
			default:
			}
			for range 50 { // many entries between two pictures
				l.Take(Entry{At: e.At, Kind: StepOff, Step: "none"})
			}
			l.Take(e)
		})
		l.Close()
		if s.bad != "" {
			t.Error(s.bad)
		}
		if most := int(time.Since(began)/redrawEvery) + 2; s.writes > most || s.writes < 50 {
			t.Errorf("%d pictures in %v", s.writes, time.Since(began))
		}
		text := s.text()
		if strings.Count(text, "One [2Jkill") != 1 || strings.Count(text, "hub-b") < 1 || !strings.Contains(text, "✗ kill  back on hub-b") || len(s.lines) > 16 {
			t.Errorf("the screen:\n%s", text)
		}
	})
}

// TestWithoutColoursThereAreNone looks for colours.
func TestWithoutColoursThereAreNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var plain bytes.Buffer
		l := NewLive(&plain, func() (int, int) { return 0, 0 }, false)
		story(time.Now(), l.Take)
		l.Close()
		if strings.Contains(plain.String(), "m") && regexp.MustCompile(`\x1b\[[0-9;]*m`).MatchString(plain.String()) {
			t.Errorf("%q", plain.String())
		}
		if !strings.Contains(plain.String(), "dev-1") {
			t.Errorf("%q", plain.String())
		}
	})
}

// TestLinesTellTheStory reads the lines of a run.
func TestLinesTellTheStory(t *testing.T) {
	var b bytes.Buffer
	story(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), Lines(&b))
	want := `    0.00 s  == one-kill on embedded, device dev-1, seed 7
    0.00 s  >> steady state before: all works
    1.00 s     connected to hub-a
    5.00 s  >> kill: hub-a dies
    5.00 s  !! hub-a: kill rst
    5.00 s     link lost
    5.00 s     hub-a: refused [H07]
    6.00 s     up again on hub-b
   12.00 s  NO kill: back on hub-b within 500 ms (1.0 s)
`
	if b.String() != want {
		t.Errorf("%s", b.String())
	}
}

// TestPrintSaysTheVerdictFirst prints results.
func TestPrintSaysTheVerdictFirst(t *testing.T) {
	for _, r := range []Report{sample(), brokenSample()} {
		c := Compare(sample(), r)
		r.Comparison = &c
		text := text(t, Print, r)
		for i, want := range []string{strings.ToUpper(string(r.Verdict)) + "  The giant lizard\n" + r.Reason, "Slowest recovery", "Samples lost", "kill hub-a", "silence", "failover", "compared"} {
			if at := strings.Index(text, want); at < 0 || i == 0 && at != 0 {
				t.Errorf("%q stands at %d:\n%s", want, at, text)
			}
		}
		for line := range strings.Lines(text) {
			if len([]rune(line)) > 160 {
				t.Errorf("a line is too long: %s", line)
			}
		}
	}
}
