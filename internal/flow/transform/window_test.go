package transform

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// stage feeds a window and collects what it gives out.
type stage struct {
	t    testing.TB
	op   node.Window
	out  []string
	logs []string
}

var epoch = time.Unix(1_800_000_000, 0) // a multiple of 10, 30 and 60 seconds

func newStage(t testing.TB, o Options, settings ...string) *stage {
	t.Helper()
	s := &stage{t: t}
	o.Log = func(text string) { s.logs = append(s.logs, text) }
	s.op = compile[node.Window](t, "window", o, settings...)
	return s
}

// compile makes an operator from keys and values.
func compile[T any](t testing.TB, kind string, o Options, settings ...string) T {
	t.Helper()
	var all []Setting
	for i := 0; i < len(settings); i += 2 {
		all = append(all, Setting{settings[i], settings[i+1]})
	}
	op, err := Compile(kind, "", all, o)
	if err != nil {
		t.Fatal(err)
	}
	return op.(T)
}

func (s *stage) emit(m *node.Message) { s.out = append(s.out, string(m.Payload)) }

func (s *stage) add(second float64, payload string) error {
	at := node.TimeOf(epoch.Add(time.Duration(second * float64(time.Second))))
	return s.op.Add(&node.Message{Payload: []byte(payload), Topic: "a/b"}, at, s.emit)
}

func (s *stage) advance(second float64) {
	s.op.Advance(node.TimeOf(epoch.Add(time.Duration(second*float64(time.Second)))), s.emit)
}

func (s *stage) want(want ...string) {
	s.t.Helper()
	if strings.Join(s.out, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("got %q, want %q", s.out, want)
	}
	s.out = nil
}

const (
	tenSeconds = `{"type":"duration","delaySeconds":10}`
	countAll   = `{"accumulate":[{"inputs":["v"],"output":"n","expression":"count($1)"}]}`
	sumAll     = `{"accumulate":[{"inputs":["v"],"output":"s","expression":"sum($1)"},{"inputs":["v"],"output":"n","expression":"count($1)"}]}`
)

func TestWindowsEndAtMultiplesOfTheirLength(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", countAll)
	if _, ok := s.op.Due(); ok {
		t.Error("an empty window is due")
	}
	s.add(7, `{"v":1}`)
	if end, ok := s.op.Due(); !ok || end != node.TimeOf(epoch.Add(10*time.Second)) {
		t.Error(end, ok)
	}
	s.advance(9.9)
	s.want()
	s.add(9.99, `{"v":1}`)
	s.add(10, `{"v":1}`) // of the next window, while this one is open
	s.advance(10)
	s.want(`{"n":2}`)
	s.advance(35)
	s.want(`{"n":1}`)
	s.advance(100) // nothing was added: nothing comes out
	s.want()
}

func TestSeveralWindowsAreOpenWhileASourceIsBehind(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", countAll)
	s.add(25, `{"v":1}`)
	s.add(5, `{"v":1}`)
	s.add(15, `{"v":1}`)
	s.add(6, `{"v":1}`)
	s.advance(30)
	s.want(`{"n":2}`, `{"n":1}`, `{"n":1}`)
}

func TestLateMessagesBelongToTheEarliestOpenWindow(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", countAll)
	s.advance(20)
	s.add(3, `{"v":1}`)
	s.advance(29)
	s.want()
	s.advance(30)
	s.want(`{"n":1}`)
}

func TestWindowsWithoutDurationEndAfterAMinute(t *testing.T) {
	s := newStage(t, Options{}, "count", `{"type":"messageCount","maxMessageCount":9,"boundaryMessage":"messageInCurrent"}`, "rules", countAll)
	s.add(1, `{"v":1}`)
	s.advance(60)
	s.want(`{"n":1}`)
}

func TestCountsCloseWindows(t *testing.T) {
	for boundary, want := range map[string][]string{
		"messageInCurrent": {`{"s":6.0,"n":3}`, `{"s":15.0,"n":3}`},
		"messageInNext":    {`{"s":3.0,"n":2}`, `{"s":7.0,"n":2}`, `{"s":11.0,"n":2}`},
	} {
		s := newStage(t, Options{}, "count", `{"type":"messageCount","maxMessageCount":3,"boundaryMessage":"`+boundary+`"}`, "rules", sumAll)
		for i := 1; i <= 7; i++ {
			s.add(float64(i), fmt.Sprintf(`{"v":%d}`, i))
		}
		s.want(want...)
	}
}

func TestTheFirstMessageOfAWindowClosesNothingBeforeIt(t *testing.T) {
	s := newStage(t, Options{}, "count", `{"type":"messageCount","maxMessageCount":1,"boundaryMessage":"messageInNext"}`, "rules", sumAll)
	for i := 1; i <= 3; i++ {
		s.add(float64(i), fmt.Sprintf(`{"v":%d}`, i))
	}
	s.want(`{"s":1.0,"n":1}`, `{"s":2.0,"n":1}`)
}

func TestBytesCloseWindows(t *testing.T) {
	s := newStage(t, Options{}, "memory", `{"type":"bufferSize","maxBufferBytes":14,"boundaryMessage":"messageInCurrent"}`, "rules", countAll)
	s.add(1, `{"v":1}`) // 7 bytes each
	s.want()
	s.add(2, `{"v":1}`)
	s.want(`{"n":2}`)
}

func TestMemoryComesBeforeCountAndCountBeforeTriggers(t *testing.T) {
	memory := `{"type":"bufferSize","maxBufferBytes":14,"boundaryMessage":"messageInCurrent"}`
	count := `{"type":"messageCount","maxMessageCount":2,"boundaryMessage":"messageInNext"}`
	s := newStage(t, Options{}, "memory", memory, "count", count, "rules", countAll)
	s.add(1, `{"v":1}`)
	s.add(2, `{"v":1}`)
	s.want(`{"n":2}`)
	triggers := `{"type":"expression","rules":[{"inputs":["v"],"trigger":"running_count() == 1","boundaryMessage":"messageInCurrent"}]}`
	s = newStage(t, Options{}, "count", count, "triggers", triggers, "rules", countAll)
	s.add(1, `{"v":1}`)
	s.add(2, `{"v":1}`)
	s.want(`{"n":1}`)
}

func TestAnEarlyCloseKeepsTheBoundary(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "count", `{"type":"messageCount","maxMessageCount":2,"boundaryMessage":"messageInCurrent"}`, "rules", countAll)
	for i := range 3 {
		s.add(float64(i), `{"v":1}`)
	}
	s.want(`{"n":2}`)
	s.advance(10)
	s.want(`{"n":1}`)
}

// fired says at which messages a trigger closes a window.
func fired(t *testing.T, o Options, trigger, inputs, boundary string, payloads ...string) (at []int, errs []string) {
	t.Helper()
	s := newStage(t, o, "triggers", `{"type":"expression","rules":[{"inputs":`+inputs+`,"trigger":`+fmt.Sprintf("%q", trigger)+`,"boundaryMessage":"`+boundary+`"}]}`, "rules", countAll)
	for i, p := range payloads {
		if err := s.add(float64(i)/1000, p); err != nil {
			errs = append(errs, err.Error())
		}
		if len(s.out) > 0 {
			at, s.out = append(at, i+1), nil
		}
	}
	return at, errs
}

func TestTriggersSeeEarlierMessagesOfTheirWindow(t *testing.T) {
	numbers := []string{`{"v":1}`, `{"v":3}`, `{"v":3}`, `{"v":2}`, `{"v":9}`}
	for _, c := range []struct {
		trigger string
		want    string
	}{
		{"$1 > 2", "[2 3 5]"},
		{"running_sum($1) + $1 > 6", "[3 5]"},
		{"running_sum($1) == 0", "[1 2 3 4 5]"},
		{"running_avg($1) == 2 && running_count() == 2", "[3]"},
		{"running_avg($1) == $1", "[1 2 3 4 5]"},
		{"running_min($1) < $1", "[2 5]"},
		{"running_max($1) > $1", "[4]"},
		{"running_count($1) == 3", "[4]"},
		{"running_count() == 1", "[2 4]"},
		{"first($1) != $1", "[2 4]"},
		{"changed($1)", "[2 4]"},
		{"prev($1) == $1 && running_count() > 0", "[3]"},
	} {
		at, errs := fired(t, Options{}, c.trigger, `["v"]`, "messageInCurrent", numbers...)
		if fmt.Sprint(at) != c.want || len(errs) > 0 {
			t.Errorf("%s fired at %v, want %s (%v)", c.trigger, at, c.want, errs)
		}
	}
}

func TestTriggersLookThroughEmptyValues(t *testing.T) {
	at, errs := fired(t, Options{}, "if($1 == (), false, prev($1) == 1 && running_count() == 2)", `["v"]`, "messageInCurrent", `{"v":1}`, `{}`, `{"v":2}`)
	if fmt.Sprint(at) != "[3]" || len(errs) > 0 {
		t.Error(at, errs)
	}
	at, errs = fired(t, Options{}, "running_count($1) == 1 && running_count() == 2", `["v ?? null"]`, "messageInCurrent", `{"v":1}`, `{}`, `{"v":2}`)
	if fmt.Sprint(at) != "[3]" || len(errs) > 0 {
		t.Error(at, errs)
	}
}

func TestTheBoundaryMessageOfATriggerBelongsWhereTheRuleSays(t *testing.T) {
	for boundary, want := range map[string]string{"messageInCurrent": `{"s":3.0,"n":2}`, "messageInNext": `{"s":1.0,"n":1}`} {
		s := newStage(t, Options{}, "triggers", `{"type":"expression","rules":[{"inputs":["v"],"trigger":"$1 > 1","boundaryMessage":"`+boundary+`"}]}`, "rules", sumAll)
		s.add(1, `{"v":1}`)
		s.add(2, `{"v":2}`)
		s.want(want)
	}
}

func TestAMessageThatFailsInATriggerIsInNoWindow(t *testing.T) {
	s := newStage(t, Options{}, "triggers", `{"type":"expression","rules":[{"inputs":["x"],"trigger":"$1 > 1","boundaryMessage":"messageInCurrent"}]}`, "rules", countAll)
	if err := s.add(1, `{"v":1}`); err == nil || !strings.Contains(err.Error(), "rule 1, input 1") {
		t.Error(err)
	}
	if err := s.add(1, `{"v":1,"x":"a"}`); err == nil || !strings.Contains(err.Error(), "rule 1, column 4") {
		t.Error(err)
	}
	if _, ok := s.op.Due(); ok {
		t.Error("a window is open although nothing is in it")
	}
	s.add(1, `{"v":1,"x":1}`)
	s.advance(60)
	s.want(`{"n":1}`)
}

func TestTriggersReadMetadataDefaultsAndDataSets(t *testing.T) {
	at, errs := fired(t, Options{}, `$1 == "a/b" && $2 == 7`, `["$metadata.topic","x ?? 7"]`, "messageInCurrent", `{}`)
	if fmt.Sprint(at) != "[1]" || len(errs) > 0 {
		t.Error(at, errs)
	}
	s := newStage(t, Options{Store: records{"k": `{"id":"x","shift":1}` + "\n" + `{"id":"y","shift":2}`}},
		"triggers", `{"type":"expression","datasets":[{"key":"k as f","inputs":["$source.id","$context.id"],"expression":"$1 == $2"}],
		"rules":[{"inputs":["$context(f).shift"],"trigger":"changed($1)","boundaryMessage":"messageInNext"}]}`, "rules", `{"accumulate":[{"inputs":["id"],"output":"n","expression":"count($1)"}]}`)
	for _, id := range []string{"x", "x", "nobody", "y", "y"} {
		if err := s.add(1, `{"id":"`+id+`"}`); err != nil {
			t.Error(err)
		}
	}
	s.want(`{"n":3}`)
}

func TestAggregatesSkipWhatTheyCannotCount(t *testing.T) {
	rules := `{"accumulate":[
		{"inputs":["v"],"output":"avg","expression":"average($1)"},
		{"inputs":["v"],"output":"sum","expression":"sum($1)"},
		{"inputs":["v"],"output":"min","expression":"min($1)"},
		{"inputs":["v"],"output":"max","expression":"max($1)"},
		{"inputs":["v"],"output":"n","expression":"count($1)"},
		{"inputs":["v"],"output":"nested.first","expression":"first($1)"},
		{"inputs":["v"],"output":"nested.last","expression":"last($1)"},
		{"inputs":["v","w"],"output":"f","expression":"cToF(average($1)) + sum($2)"}]}`
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", rules)
	for _, p := range []string{`{"v":"text"}`, `{"v":2}`, `{"w":1}`, `{"v":4.50}`, `{"v":null}`, `{"v":{"a": 1}}`} {
		if err := s.add(1, p); err != nil {
			t.Error(err)
		}
	}
	s.advance(10)
	s.want(`{"avg":3.25,"sum":6.5,"min":2,"max":4.50,"n":5,"nested":{"first":"text","last":{"a": 1}},"f":38.85}`)
}

func TestAWindowWithoutAResultIsLogged(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", `{"accumulate":[{"inputs":["v"],"output":"a","expression":"average($1)"}]}`)
	s.add(1, `{"x":1}`)
	s.advance(10)
	s.want()
	if len(s.logs) != 1 || !strings.Contains(s.logs[0], "rule 1") || !strings.Contains(s.logs[0], "no message of the window has a value") {
		t.Error(s.logs)
	}
	says := func(want string) {
		t.Helper()
		if got := s.op.(interface{ Says() string }).Says(); !strings.HasPrefix(got, want) {
			t.Errorf("the status says %q, want %q", got, want)
		}
	}
	says("a window of 1 messages has no result: rule 1, ")
	s.add(11, `{"v":5}`)
	s.advance(20)
	s.want(`{"a":5.0}`)
	s.add(21, `{"x":1}`)
	s.add(22, `{"x":1}`)
	s.advance(30)
	s.want()
	says("2 windows have no result; the last, of 2 messages: rule 1, ")
	if len(s.logs) != 2 || !strings.Contains(s.logs[1], "a window of 2 messages") {
		t.Error(s.logs)
	}
}

func TestAWindowThatIsFlushedGivesOutAllAndGoesOn(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", countAll)
	held := func(want int) {
		t.Helper()
		if n := s.op.(interface{ Held() int }).Held(); n != want {
			t.Errorf("it holds %d messages, want %d", n, want)
		}
	}
	s.add(15, `{"v":1}`)
	s.add(5, `{"v":1}`)
	s.add(6, `{"v":1}`)
	held(3)
	s.op.Flush(func(m *node.Message) {
		if end := epoch.Add(time.Duration(1+len(s.out)) * 10 * time.Second); m.Time != node.TimeOf(end) {
			t.Errorf("the output is of %v, want %v", m.Time.Wall(), end)
		}
		s.emit(m)
	})
	s.want(`{"n":2}`, `{"n":1}`)
	held(0)
	s.add(7, `{"v":1}`) // is not late
	s.advance(10)
	s.want(`{"n":1}`)
}

func TestTheOutputOfAWindowHasItsEndAndTheLastTopic(t *testing.T) {
	op := compile[node.Window](t, "window", Options{}, "delay", tenSeconds, "rules", countAll)
	at := node.Time{Nanos: epoch.UnixNano() + 1, Counter: 3, Node: "n"}
	op.Add(&node.Message{Payload: []byte(`{"v":1}`), Topic: "first", ContentType: "text/x"}, at, nil)
	op.Add(&node.Message{Payload: []byte(`{"v":1}`), Topic: "last", TopicSet: true, Properties: []node.Property{{Key: "a", Value: "b"}}}, at, nil)
	op.Advance(node.TimeOf(epoch.Add(10*time.Second)), func(m *node.Message) {
		if m.Topic != "last" || !m.TopicSet || m.ContentType != "application/json" || m.Properties != nil || m.Time != node.TimeOf(epoch.Add(10*time.Second)) {
			t.Errorf("%+v", m)
		}
	})
}

func TestAWindowGoesOnWhereItWasSaved(t *testing.T) {
	settings := []string{"delay", tenSeconds, "count", `{"type":"messageCount","maxMessageCount":7,"boundaryMessage":"messageInNext"}`,
		"triggers", `{"type":"expression","rules":[{"inputs":["v ? $last ?? 0","w ?? null"],"trigger":"running_sum($1) > 20 || changed($2) || prev($1) == 4 && running_min($1) < $1","boundaryMessage":"messageInCurrent"}]}`,
		"rules", `{"accumulate":[{"inputs":["v"],"output":"s","expression":"sum($1)"},{"inputs":["v"],"output":"m","expression":"max($1) - min($1)"},{"inputs":["w"],"output":"n","expression":"count($1)"},{"inputs":["v"],"output":"l","expression":"last($1)"},{"inputs":["v"],"output":"f","expression":"first($1)"}]}`}
	payload := func(i int) string {
		switch i % 5 {
		case 1:
			return `{"w":"x"}`
		case 3:
			return fmt.Sprintf(`{"v":%d.50,"w":"y"}`, i%7)
		}
		return fmt.Sprintf(`{"v":%d,"w":"x"}`, i%7)
	}
	straight, halting := newStage(t, Options{}, settings...), newStage(t, Options{}, settings...)
	for i := range 300 {
		for _, s := range []*stage{straight, halting} {
			s.add(float64(i)*0.7, payload(i))
			s.advance(float64(i)*0.7 - 3)
		}
		if i%3 == 0 {
			saved := halting.op.(node.Stateful).Save(nil)
			next := newStage(t, Options{}, settings...)
			if err := next.op.(node.Stateful).Restore(saved); err != nil {
				t.Fatal(err)
			}
			if again := next.op.(node.Stateful).Save(nil); string(again) != string(saved) {
				t.Fatalf("saved %q, then %q", saved, again)
			}
			halting.op = next.op
		}
	}
	if len(straight.out) < 40 || fmt.Sprint(straight.out) != fmt.Sprint(halting.out) {
		t.Errorf("without a stop:\n%s\nwith stops:\n%s", strings.Join(straight.out, "\n"), strings.Join(halting.out, "\n"))
	}
}

func TestDamagedOrForeignStateIsRefused(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", sumAll)
	s.add(1, `{"v":1}`)
	saved := s.op.(node.Stateful).Save(nil)
	other := newStage(t, Options{}, "delay", tenSeconds, "rules", countAll)
	if other.op.(node.Stateful).Restore(saved) == nil {
		t.Error("the state of another configuration was taken")
	}
	for n := range saved {
		if newStage(t, Options{}, "delay", tenSeconds, "rules", sumAll).op.(node.Stateful).Restore(saved[:n]) == nil {
			t.Errorf("%d of %d bytes were taken", n, len(saved))
		}
	}
	if newStage(t, Options{}, "delay", tenSeconds, "rules", sumAll).op.(node.Stateful).Restore(append(saved, 0)) == nil {
		t.Error("a byte too many was taken")
	}
}

func TestOpenWindowsAreBounded(t *testing.T) {
	s := newStage(t, Options{}, "delay", tenSeconds, "rules", countAll)
	var err error
	for i := 0; err == nil && i <= maxOpen; i++ {
		err = s.add(float64(i*10), `{"v":1}`)
	}
	if err == nil || !strings.Contains(err.Error(), "too far ahead") {
		t.Error(err)
	}
}

func FuzzRestore(f *testing.F) {
	settings := []string{"delay", tenSeconds, "triggers", `{"type":"expression","rules":[{"inputs":["v ? $last"],"trigger":"running_sum($1) > 20","boundaryMessage":"messageInCurrent"}]}`, "rules", sumAll}
	s := newStage(f, Options{}, settings...)
	s.add(1, `{"v":1}`)
	f.Add(s.op.(node.Stateful).Save(nil))
	f.Fuzz(func(t *testing.T, saved []byte) {
		s := newStage(t, Options{}, settings...)
		if s.op.(node.Stateful).Restore(saved) != nil {
			return
		}
		s.add(1, `{"v":1}`)
		s.advance(1e9)
	})
}

// records is a state store.
type records map[string]string

func (r records) Get(key string) (value []byte, revision uint64, ok bool, err error) {
	text, ok := r[key]
	return []byte(text), uint64(len(text)), ok, nil
}

// single is a state store with one value.
type single []byte

func (s single) Get(string) (value []byte, revision uint64, ok bool, err error) {
	return s, 1, true, nil
}
