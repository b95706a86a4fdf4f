package transform_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
)

// refWindow is the window transform with all its messages in lists: every aggregate is computed
// when it is asked for.
type refWindow struct {
	length, count, bytes int // 0: there is no such limit; the length is in seconds
	countNext, bytesNext bool
	trigger              string // over $1, the field v
	triggerNext          bool
	rules                []string // over $1, the field v; named o0, o1, …

	open     map[int][]refItem
	frontier int
	out      []map[string]any
}

type refItem struct {
	doc  map[string]any
	size int
}

var call = regexp.MustCompile(`\b(running_\w+|first|last|prev|changed|average|sum|min|max|count)\(\$1\)|running_count\(\)`)

// values are those of the field v, bound; those that are missing are left out.
func values(items []refItem) (list []any) {
	for _, item := range items {
		if v, ok := item.doc["v"]; ok {
			b, _ := bindRef(v)
			list = append(list, b)
		}
	}
	return list
}

// reduce computes an aggregate.
func reduce(name string, list []any) (any, bool) {
	var numbers []any
	sum := 0.0
	for _, v := range list {
		if f, ok := float(v); ok {
			numbers = append(numbers, v)
			sum += f
		}
	}
	e := evaluator{}
	switch name {
	case "sum":
		return sum, true
	case "count":
		return int64(len(list)), true
	case "average":
		return sum / float64(len(numbers)), len(numbers) > 0
	case "min", "max":
		if len(numbers) == 0 {
			return nil, false
		}
		return e.function(name, numbers), true
	case "first":
		if len(list) == 0 {
			return nil, false
		}
		return list[0], true
	}
	if len(list) == 0 {
		return nil, false
	}
	return list[len(list)-1], true
}

// fires says whether the trigger closes the window of some earlier messages.
func (w *refWindow) fires(earlier []refItem, now any) (bool, error) {
	in := []any{now}
	source := call.ReplaceAllStringFunc(w.trigger, func(text string) string {
		name, _, _ := strings.Cut(text, "(")
		list := values(earlier)
		some := slices.DeleteFunc(slices.Clone(list), func(v any) bool { return v == nil })
		var v any
		ok := true
		switch {
		case text == "running_count()":
			v = int64(len(earlier))
		case name == "running_count":
			v = int64(len(some))
		case name == "changed":
			v = len(list) > 0 && !equal(list[len(list)-1], now)
		case name == "prev":
			v, ok = reduce("last", some)
		case name == "first":
			v, ok = reduce("first", some)
		case name == "running_avg":
			v, ok = reduce("average", some)
		default:
			v, ok = reduce(strings.TrimPrefix(name, "running_"), some)
		}
		if !ok {
			v = now
		}
		in = append(in, v)
		return "$" + strconv.Itoa(len(in))
	})
	v, err := evaluate(source, in)
	b, ok := v.(bool)
	if err == nil && !ok {
		err = errAny
	}
	return b, err
}

func (w *refWindow) add(second int, payload string) error {
	v, err := decode([]byte(payload))
	doc, ok := v.(map[string]any)
	if err != nil || !ok {
		return errAny
	}
	end := (max(second, w.frontier)/w.length + 1) * w.length
	items := w.open[end]
	now, present := doc["v"]
	if b, err := bindRef(now); err != nil {
		return err
	} else {
		now = b
	}
	size := len(payload)
	for _, item := range items {
		size += item.size
	}
	if w.trigger != "" && !present {
		return errAny
	}
	closes, next := false, false
	switch {
	case w.bytes > 0 && size >= w.bytes:
		closes, next = true, w.bytesNext
	case w.count > 0 && len(items)+1 >= w.count:
		closes, next = true, w.countNext
	case w.trigger != "":
		if closes, err = w.fires(items, now); err != nil {
			return err
		}
		next = w.triggerNext
	}
	item := refItem{doc, len(payload)}
	switch {
	case closes && next && len(items) > 0:
		w.close(items)
		w.open[end] = []refItem{item}
	case closes && !next:
		w.close(append(items, item))
		delete(w.open, end)
	default:
		w.open[end] = append(items, item)
	}
	return nil
}

func (w *refWindow) close(items []refItem) {
	out := map[string]any{}
	for i, rule := range w.rules {
		in, missing := []any(nil), false
		source := call.ReplaceAllStringFunc(rule, func(text string) string {
			name, _, _ := strings.Cut(text, "(")
			v, ok := reduce(name, values(items))
			missing = missing || !ok
			in = append(in, v)
			return "$" + strconv.Itoa(len(in))
		})
		v, err := evaluate(source, in)
		if missing || err != nil || !finite(v) {
			return
		}
		out["o"+strconv.Itoa(i)] = v
	}
	w.out = append(w.out, out)
}

func (w *refWindow) advance(second int) {
	w.frontier = max(w.frontier, second)
	var ends []int
	for end := range w.open {
		if end <= w.frontier {
			ends = append(ends, end)
		}
	}
	slices.Sort(ends)
	for _, end := range ends {
		w.close(w.open[end])
		delete(w.open, end)
	}
}

// compareWindows holds the window to the reference, for one configuration and some messages. Now
// and then it is saved and goes on as another one.
func compareWindows(t *testing.T, seed uint64) (outputs int) {
	c := chooser{rand.New(rand.NewPCG(seed, 2))}
	w := &refWindow{length: 60, open: map[int][]refItem{}}
	var settings []transform.Setting
	set := func(key, format string, args ...any) {
		settings = append(settings, transform.Setting{Key: key, Value: fmt.Sprintf(format, args...)})
	}
	boundary := map[bool]string{false: "messageInCurrent", true: "messageInNext"}
	if w.count = c.IntN(6); w.count > 0 {
		w.countNext = c.IntN(2) == 0
		set("count", `{"type":"messageCount","maxMessageCount":%d,"boundaryMessage":%q}`, w.count, boundary[w.countNext])
	}
	if c.IntN(3) == 0 {
		w.bytes, w.bytesNext = 1+c.IntN(60), c.IntN(2) == 0
		set("memory", `{"type":"bufferSize","maxBufferBytes":%d,"boundaryMessage":%q}`, w.bytes, boundary[w.bytesNext])
	}
	if c.IntN(2) == 0 {
		w.triggerNext = c.IntN(2) == 0
		w.trigger = c.of("$1 > 5", "running_sum($1) + $1 > 9", "running_avg($1) > $1", "running_min($1) < $1 && running_max($1) > $1", "changed($1)",
			"prev($1) == $1 && running_count() > 1", "running_count($1) >= 3", "first($1) != $1", "typeof($1) == \"string\" || running_count() == 4", "running_max($1) - running_min($1) > 3")
		trigger, _ := json.Marshal(w.trigger)
		set("triggers", `{"type":"expression","rules":[{"inputs":["v"],"trigger":%s,"boundaryMessage":%q}]}`, trigger, boundary[w.triggerNext])
	}
	if len(settings) == 0 || c.IntN(2) == 0 {
		w.length = 10
		set("delay", `{"type":"duration","delaySeconds":10}`)
	}
	var rules []string
	for i := range 1 + c.IntN(4) {
		w.rules = append(w.rules, c.of("average($1)", "sum($1)", "min($1)", "max($1)", "count($1)", "first($1)", "last($1)", "max($1) - min($1)", "cToF(sum($1)) + count($1)", "typeof(last($1)) + first($1)", "round_n(average($1), 1)"))
		expression, _ := json.Marshal(w.rules[i])
		rules = append(rules, fmt.Sprintf(`{"inputs":["v"],"output":"o%d","expression":%s}`, i, expression))
	}
	set("rules", `{"accumulate":[%s]}`, strings.Join(rules, ","))
	build := func() node.Window {
		op, err := transform.Compile("window", "1.1.0", settings, transform.Options{})
		if err != nil {
			t.Fatalf("%v: %v", settings, err)
		}
		return op.(node.Window)
	}
	op := build()
	var out []string
	emit := func(m *node.Message) { out = append(out, string(m.Payload)) }
	now := 0
	for range 40 {
		now += c.IntN(4)
		if c.IntN(6) == 0 {
			w.advance(now)
			op.Advance(node.Time{Nanos: int64(now) * 1e9}, emit)
		}
		payload := `{"v":` + c.of(strconv.Itoa(c.IntN(9)), strconv.Itoa(c.IntN(9)), strconv.Itoa(c.IntN(9))+".50", "3", `"x"`, "null", "[1,2]", "1e3") + `}`
		if c.IntN(8) == 0 {
			payload = c.of("{}", `{"w":1}`, "[]", "{", `{"v":1e999}`, `{"v":1,"v":2}`)
		}
		second := max(0, now-c.IntN(3)*7)
		want := w.add(second, payload)
		if err := op.Add(&node.Message{Payload: []byte(payload)}, node.Time{Nanos: int64(second) * 1e9}, emit); (err == nil) != (want == nil) {
			t.Errorf("seed %d: %v of %s: %v, want %v", seed, settings, payload, err, want)
			return 0
		}
		if c.IntN(10) == 0 {
			saved := op.(node.Stateful).Save(nil)
			op = build()
			if err := op.(node.Stateful).Restore(saved); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.advance(now + 1000)
	op.Advance(node.Time{Nanos: int64(now+1000) * 1e9}, emit)
	if len(out) != len(w.out) {
		t.Errorf("seed %d: %v gave %d windows %s, want %d: %v", seed, settings, len(out), out, len(w.out), w.out)
		return 0
	}
	for i := range out {
		got, err := decode([]byte(out[i]))
		if err != nil || !agrees(got, w.out[i]) {
			t.Errorf("seed %d: %v: window %d is %s, want %v", seed, settings, i, out[i], w.out[i])
		}
	}
	return len(out)
}

func TestWindowsDoWhatTheReferenceDoes(t *testing.T) {
	outputs := 0
	for seed := range uint64(1000) {
		outputs += compareWindows(t, seed)
		if t.Failed() {
			t.FailNow()
		}
	}
	if outputs < 4_000 {
		t.Errorf("%d windows: the generator tries too little", outputs)
	}
}

func FuzzWindows(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { compareWindows(t, seed) })
}
