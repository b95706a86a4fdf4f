package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// log is a journal and what its log says.
type log struct {
	t   *testing.T
	j   Journal
	out bytes.Buffer
}

// line is what a program reads in one line of the log.
type line struct {
	Level, Message, Device, Kind, Hub, Rule, Signal, Reason, Name string
	TookMs, WaitMs, OutageMs                                      float64
	Times, Queued, Lost                                           int
}

func newLog(t *testing.T, level zerolog.Level) *log {
	l := &log{t: t}
	l.j.Sink(Log(zerolog.New(&l.out).Level(level)))
	return l
}

// lines returns what was logged since the last call.
func (l *log) lines() (all []line) {
	l.t.Helper()
	synctest.Wait()
	d := json.NewDecoder(&l.out)
	for d.More() {
		var one line
		if err := d.Decode(&one); err != nil {
			l.t.Fatal(err)
		}
		all = append(all, one)
	}
	l.out.Reset()
	return all
}

// said holds the log to lines, each as its level and message.
func (l *log) said(want ...string) {
	l.t.Helper()
	var got []string
	for _, one := range l.lines() {
		got = append(got, one.Level+" "+one.Message)
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("logged:\n\t%s\nnot:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func in(t *testing.T, level zerolog.Level, f func(l *log)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newLog(t, level)) })
}

func refused(device, hub string) Event {
	return Event{Device: device, Kind: Decision, Hub: hub, Rule: "H07", Error: "refused", Text: hub + " refused"}
}

// TestEveryKindHasItsLevel goes through all kinds.
func TestEveryKindHasItsLevel(t *testing.T) {
	for _, test := range []struct {
		e    Event
		want zerolog.Level
	}{
		{Event{Kind: Packet}, zerolog.TraceLevel},
		{Event{Kind: Dialing}, zerolog.DebugLevel},
		{Event{Kind: Decision}, zerolog.DebugLevel},
		{Event{Kind: Acknowledged, Routine: true}, zerolog.DebugLevel},
		{Event{Kind: Acknowledged}, zerolog.InfoLevel},
		{Event{Kind: Started}, zerolog.InfoLevel},
		{Event{Kind: Stopping}, zerolog.InfoLevel},
		{Event{Kind: Stopped}, zerolog.InfoLevel},
		{Event{Kind: Connected}, zerolog.InfoLevel},
		{Event{Kind: Connected, Provisional: true}, zerolog.WarnLevel},
		{Event{Kind: Renewed}, zerolog.InfoLevel},
		{Event{Kind: Confirmed}, zerolog.InfoLevel},
		{Event{Kind: Asking}, zerolog.InfoLevel},
		{Event{Kind: Assigned}, zerolog.InfoLevel},
		{Event{Kind: AssignedAgain}, zerolog.InfoLevel},
		{Event{Kind: BacklogSent}, zerolog.InfoLevel},
		{Event{Kind: DesiredChange}, zerolog.InfoLevel},
		{Event{Kind: MethodCall}, zerolog.InfoLevel},
		{Event{Kind: CloudMessage}, zerolog.InfoLevel},
		{Event{Kind: Resumed}, zerolog.InfoLevel},
		{Event{Kind: ClockRight}, zerolog.InfoLevel},
		{Event{Kind: ClockWrong}, zerolog.WarnLevel},
		{Event{Kind: Lost}, zerolog.WarnLevel},
		{Event{Kind: OutboxProblem}, zerolog.WarnLevel},
		{Event{Kind: Warning}, zerolog.WarnLevel},
		{Event{Kind: BadLine}, zerolog.WarnLevel},
		{Event{Kind: StillDown}, zerolog.WarnLevel},
		{Event{Kind: Decision, Error: "it fails"}, zerolog.WarnLevel},
		{Event{Kind: Bug}, zerolog.ErrorLevel},
		{Event{Kind: Decision, Error: "it fails", Person: true}, zerolog.ErrorLevel},
		{Event{Kind: Warning, Person: true}, zerolog.ErrorLevel},
		{Event{Kind: StillDown, Person: true}, zerolog.ErrorLevel},
	} {
		in(t, zerolog.TraceLevel, func(l *log) {
			test.e.Text = "it"
			l.j.Emit(test.e)
			l.said(test.want.String() + " it")
		})
	}
}

// TestOutageIsOneStory repeats failures for five minutes: each of them is told once a minute, with
// the number of times, and at once in the next outage.
func TestOutageIsOneStory(t *testing.T) {
	in(t, zerolog.InfoLevel, func(l *log) {
		for range 5 * 60 {
			l.j.Emit(Event{Device: "a", Kind: Asking, Text: "asking DPS"})
			l.j.Emit(Event{Device: "a", Kind: AssignedAgain, Text: "DPS still names hub-a"})
			l.j.Emit(refused("a", "hub-a"))
			time.Sleep(time.Second)
		}
		got := l.lines()
		if len(got) != 7 {
			t.Fatalf("%d lines: %+v", len(got), got)
		}
		for i, want := range []string{"asking DPS", "DPS still names hub-a", "hub-a refused"} {
			if got[i].Message != want || got[i].Times != 0 {
				t.Errorf("line %d is %+v", i, got[i])
			}
		}
		for _, later := range got[3:] {
			if later.Message != "hub-a refused" || later.Times != 60 {
				t.Errorf("%+v, not 60 times", later)
			}
		}
		l.j.Emit(Event{Device: "a", Kind: Connected, Text: "up"})
		l.j.Emit(Event{Device: "a", Kind: Asking, Text: "asking DPS"})
		l.j.Emit(refused("a", "hub-a"))
		l.said("info up", "info asking DPS", "warn hub-a refused")
	})
}

// TestPersonIsToldAtErrorOnceAMinute: what needs a person repeats itself like everything else.
func TestPersonIsToldAtErrorOnceAMinute(t *testing.T) {
	in(t, zerolog.ErrorLevel, func(l *log) {
		e := refused("a", "")
		e.Person = true
		for range 90 {
			l.j.Emit(e)
			time.Sleep(time.Second)
		}
		l.said("error  refused", "error  refused")
	})
}

// TestDevicesHaveStoriesOfTheirOwn runs two at once: the link of one is not the end of the other's
// outage, and the lines of one are not counted against the other.
func TestDevicesHaveStoriesOfTheirOwn(t *testing.T) {
	in(t, zerolog.InfoLevel, func(l *log) {
		l.j.Emit(Event{Device: "a", Kind: Asking, Text: "a asks"})
		l.j.Emit(refused("a", "hub-a"))
		l.j.Emit(Event{Device: "b", Kind: Asking, Text: "b asks"})
		l.j.Emit(refused("b", "hub-a"))
		l.j.Emit(Event{Device: "b", Kind: Connected, Text: "b is up"})
		l.j.Emit(Event{Device: "a", Kind: Asking, Text: "a asks again"})
		l.j.Emit(refused("a", "hub-a"))
		l.said("info a asks", "warn hub-a refused", "info b asks", "warn hub-a refused", "info b is up")

		for i := range burstMost + 5 {
			l.j.Emit(Event{Device: "a", Kind: DesiredChange, Text: fmt.Sprint("a ", i)})
		}
		l.j.Emit(Event{Device: "b", Kind: DesiredChange, Text: "b 0"})
		if got := l.lines(); len(got) != burstMost+1 || got[burstMost].Message != "b 0" {
			t.Errorf("%d lines: %+v", len(got), got)
		}
	})
}

// TestTwoOutagesAtOnceAreToldOnceAMinuteEach lets two devices fail side by side for five minutes,
// one of them twice as often. Each has its own line a minute, with its own number of times, and
// only the one that needs a person has them at error.
func TestTwoOutagesAtOnceAreToldOnceAMinuteEach(t *testing.T) {
	in(t, zerolog.InfoLevel, func(l *log) {
		person := refused("b", "hub-b")
		person.Person = true
		began := time.Now()
		for time.Since(began) < 5*time.Minute {
			l.j.Emit(refused("a", "hub-a"))
			l.j.Emit(person)
			time.Sleep(500 * time.Millisecond)
			l.j.Emit(refused("a", "hub-a"))
			time.Sleep(500 * time.Millisecond)
		}
		told := map[string][]line{}
		for _, one := range l.lines() {
			told[one.Device] = append(told[one.Device], one)
		}
		for device, want := range map[string]struct {
			level string
			times int
		}{"a": {"warn", 120}, "b": {"error", 60}} {
			lines := told[device]
			if len(lines) != 5 {
				t.Fatalf("%s has %d lines: %+v", device, len(lines), lines)
			}
			for i, one := range lines {
				if one.Level != want.level || i == 0 && one.Times != 0 || i > 0 && one.Times != want.times {
					t.Errorf("%s, minute %d: %+v", device, i, one)
				}
			}
		}
	})
}

// TestHeldBackLinesForAPersonAreSummedUpAtError: the sum has the level of the gravest line that it
// stands for, also if a lighter one came first.
func TestHeldBackLinesForAPersonAreSummedUpAtError(t *testing.T) {
	in(t, zerolog.ErrorLevel, func(l *log) {
		for range burstMost + 1 {
			l.j.Emit(Event{Device: "a", Kind: Warning, Text: "it will pass"})
		}
		l.j.Emit(Event{Device: "a", Kind: Warning, Person: true, Text: "help"})
		time.Sleep(burstSpan)
		if got := l.lines(); len(got) != 1 || got[0].Level != "error" || got[0].Times != 2 {
			t.Errorf("%+v", got)
		}
		time.Sleep(2 * burstSpan)
	})
}

// TestBurstIsAFewLinesAndTheirNumber causes 910,000 events of one kind in ten seconds. The journal
// has all of them.
func TestBurstIsAFewLinesAndTheirNumber(t *testing.T) {
	in(t, zerolog.InfoLevel, func(l *log) {
		seen, told, counted := 0, 0, 0
		l.j.Sink(func(Event) { seen++ })
		const all = 910_000
		for i := range all {
			l.j.Emit(Event{Device: "a", Kind: DesiredChange, Text: "desired"})
			if i%91 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		l.j.Emit(Event{Device: "a", Kind: MethodCall, Text: "method"}) // another kind
		time.Sleep(3 * burstSpan)
		for _, one := range l.lines() {
			switch one.Message {
			case "desired":
				told++
			case "method":
			default:
				counted += one.Times
			}
		}
		if seen != all+1 || told > 2*burstMost || told < burstMost || told+counted != all {
			t.Errorf("%d events, %d told, %d counted", seen, told, counted)
		}
		l.j.Emit(Event{Device: "a", Kind: DesiredChange, Text: "calm again"})
		l.said("info calm again")
	})
}

// TestBurstIsSummedUpBeforeTheEnd, at the highest level of what was left out; and --log-level debug
// leaves nothing out.
func TestBurstIsSummedUpBeforeTheEnd(t *testing.T) {
	for _, level := range []zerolog.Level{zerolog.InfoLevel, zerolog.DebugLevel} {
		in(t, level, func(l *log) {
			for range burstMost + 2 {
				l.j.Emit(Event{Device: "a", Kind: BadLine, Text: "bad"})
			}
			l.j.Emit(Event{Device: "a", Kind: Stopped, Text: "stopped"})
			got := l.lines()
			n := burstMost
			if level == zerolog.DebugLevel {
				n += 2
			}
			if len(got) != n+2 || got[n].Level != "warn" || got[n].Times != 2 || got[n+1].Message != "stopped" {
				t.Errorf("%+v", got)
			}
			time.Sleep(3 * burstSpan)
			l.said()
		})
	}
}

// TestSumIsNeverLeftOut: it stands for what was.
func TestSumIsNeverLeftOut(t *testing.T) {
	in(t, zerolog.InfoLevel, func(l *log) {
		for range burstMost + 1 {
			l.j.Emit(Event{Device: "a", Kind: BadLine, Text: "bad"})
		}
		l.j.Emit(Event{Device: "a", Kind: BadLine, Times: 7, Text: "7 more"})
		if got := l.lines(); len(got) != burstMost+1 || got[burstMost].Message != "7 more" || got[burstMost].Times != 7 {
			t.Errorf("%+v", got)
		}
	})
}

// TestFieldsAreNumbersForReports writes all of them in one line.
func TestFieldsAreNumbersForReports(t *testing.T) {
	in(t, zerolog.InfoLevel, func(l *log) {
		l.j.Emit(Event{Device: "a", Kind: Connected, Hub: "hub-a", Took: 1560 * time.Microsecond, Wait: 2 * time.Second, Outage: time.Hour,
			Lost: 3, Queued: 1200, Text: "up"})
		want := line{Level: "info", Message: "up", Device: "a", Kind: "connected", Hub: "hub-a", TookMs: 1.6, WaitMs: 2000, OutageMs: 3.6e6, Lost: 3, Queued: 1200}
		if got := l.lines(); len(got) != 1 || got[0] != want {
			t.Errorf("%+v", got)
		}
	})
}

// TestTextsAreBounded: texts of every source are bounded.
func TestTextsAreBounded(t *testing.T) {
	in(t, zerolog.TraceLevel, func(l *log) {
		long := strings.Repeat("é", 5<<20)
		l.j.Emit(Event{Device: "a", Kind: Packet, Hub: long, Name: long, Error: long, Rule: long, Signal: long, Body: long, Text: long})
		if n := l.out.Len(); n > 2*maxText+8*maxField {
			t.Errorf("a line of %d bytes", n)
		}
		if got := l.lines(); len(got) != 1 || !strings.HasSuffix(got[0].Name, "é… (10485760 bytes in all)") {
			t.Errorf("%d lines", len(got))
		}
	})
	if got := Clip("aé", 2); got != "a… (3 bytes in all)" {
		t.Error(got)
	}
}
