package transform_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
)

// chooser makes configurations and messages from random numbers.
type chooser struct{ *rand.Rand }

func (c chooser) of(list ...string) string { return list[c.IntN(len(list))] }

func (c chooser) path() string {
	path := c.of("a", "b", "c", "d")
	for c.IntN(2) == 0 {
		path += "." + c.of("a", "b", "x")
	}
	return path
}

func (c chooser) scalar() string {
	return c.of("0", "1", "-7", "2.50", "1e2", "-0.0", "9223372036854775807", "-9223372036854775808", "12345678901234567890", "1e400",
		"true", "false", "null", `"x"`, `""`, `"häß"`, `"10"`, `"\u0041\n"`)
}

func (c chooser) value(depth int) string {
	switch n := c.IntN(12); {
	case n < 5 && depth < 4:
		var parts []string
		for range c.IntN(4) {
			parts = append(parts, strconv.Quote(c.of("a", "b", "c", "d", "x"))+":"+c.of("", " ")+c.value(depth+1))
		}
		return "{" + strings.Join(parts, c.of(",", " , ")) + "}"
	case n == 5:
		var parts []string
		for range c.IntN(4) {
			parts = append(parts, c.scalar())
		}
		return "[" + strings.Join(parts, ",") + "]"
	case n == 6:
		return `[{"a":1},[2]]`
	}
	return c.scalar()
}

func (c chooser) message() string {
	switch c.IntN(30) {
	case 0:
		return c.value(0)
	case 1:
		return c.of("", "{", `{"a":1}}`, `{"a":01}`, `{"a":"`+"\xff"+`"}`)
	}
	var parts []string
	for _, key := range []string{"a", "b", "c", "d", "a"} {
		if n := c.IntN(5); n > 0 && (key != "a" || len(parts) == 0 || n == 1) {
			parts = append(parts, strconv.Quote(key)+":"+c.value(1))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func (c chooser) expression(inputs, depth int) string {
	leaf := func() string {
		if inputs > 0 && c.IntN(3) > 0 {
			return "$" + strconv.Itoa(1+c.IntN(inputs))
		}
		return c.of("0", "1", "2.5", `"x"`, "true", "false", "()", "100")
	}
	if depth > 4 {
		return leaf()
	}
	sub := func() string { return c.expression(inputs, depth+1) }
	switch c.IntN(14) {
	case 0, 1, 2, 3:
		return leaf()
	case 4, 5, 6:
		return sub() + " " + c.of("+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "&&", "||") + " " + sub()
	case 7:
		return "(" + sub() + ")"
	case 8:
		return c.of("-", "!") + "(" + sub() + ")"
	case 9:
		return "if(" + sub() + "," + sub() + "," + sub() + ")"
	case 10:
		return "(" + sub() + ")^(" + c.of("2", "0.5") + ")"
	case 11:
		return c.of("min", "max") + "(" + sub() + "," + sub() + ")"
	case 12:
		return c.of("str::substring("+sub()+",1,2)", "round_n("+sub()+",2)", "contains(("+sub()+","+sub()+"),"+sub()+")", "("+sub()+","+sub()+")")
	}
	return c.of("cToF", "floor", "math::sqrt", "math::abs", "len", "typeof", "str::from", "str::to_uppercase", "min", "max") + "(" + sub() + ")"
}

func (c chooser) mapRules() (rules []refRule) {
	star := func(prefix string) string {
		return prefix + c.of("*", "*", "a.*", "b.*", "*.x", "*.a", "a.*.x", "b.*.b")
	}
	for range c.IntN(3) {
		r := refRule{Inputs: []string{star("")}}
		out := c.of("*", "*", "o.*", "*.y", "")
		if c.IntN(3) == 0 {
			r.Inputs = append(r.Inputs, c.of(star(""), c.path()))
		}
		if out != "" && c.IntN(3) == 0 {
			r.Expression = c.expression(len(r.Inputs), 2)
		}
		if out == "" && len(r.Inputs) > 1 {
			r.Inputs = r.Inputs[:1]
		}
		r.Output = &out
		rules = append(rules, r)
	}
	for range c.IntN(4) {
		var r refRule
		out := c.of("a", "t", "t.u", c.path(), "")
		for range 1 + c.IntN(2) {
			in := c.path()
			if out != "" && c.IntN(3) == 0 {
				in += " ?? " + c.of("1", "2.5", "null", `"q"`, "false")
			}
			r.Inputs = append(r.Inputs, in)
		}
		if out != "" && c.IntN(2) == 0 {
			r.Expression = c.expression(len(r.Inputs), 0)
		}
		r.Output = &out
		rules = append(rules, r)
	}
	return rules
}

func compileRules(t *testing.T, kind string, rules []refRule) any {
	t.Helper()
	if rules == nil {
		rules = []refRule{}
	}
	text, err := json.Marshal(map[string]any{kind: rules})
	if err != nil {
		t.Fatal(err)
	}
	op, err := transform.Compile(kind, "", []transform.Setting{{Key: "rules", Value: string(text)}}, transform.Options{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return op
}

// agrees says whether a value in an output is what the reference wants.
func agrees(got, want any) bool {
	switch want := want.(type) {
	case number:
		n, ok := got.(json.Number)
		return ok && string(n) == want.text
	case json.Number:
		n, ok := got.(json.Number)
		return ok && n == want
	case int64:
		n, ok := got.(json.Number)
		return ok && string(n) == strconv.FormatInt(want, 10)
	case float64:
		n, ok := got.(json.Number)
		f, err := strconv.ParseFloat(string(n), 64)
		return ok && err == nil && f == want && strings.ContainsAny(string(n), ".e")
	case object:
		return agrees(got, want.v)
	case tuple:
		return agrees(got, []any(want))
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return false
		}
		for i := range list {
			if !agrees(list[i], want[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		m, ok := got.(map[string]any)
		if !ok || len(m) != len(want) {
			return false
		}
		for k := range want {
			v, ok := m[k]
			if !ok || !agrees(v, want[k]) {
				return false
			}
		}
		return true
	}
	return got == want
}

// compare holds the compiled operators to the reference, for one configuration and some messages.
func compare(t *testing.T, seed uint64) (results, failures int) {
	c := chooser{rand.New(rand.NewPCG(seed, 1))}
	rules, conditions := c.mapRules(), []refRule{}
	for range 1 + c.IntN(2) {
		r := refRule{Inputs: []string{c.path(), c.path() + c.of("", " ?? 3")}}
		r.Expression = c.expression(2, 0)
		conditions = append(conditions, r)
	}
	mapper := compileRules(t, "map", rules).(node.Map)
	filter := compileRules(t, "filter", conditions).(node.Filter)
	for range 5 {
		payload := c.message()
		doc, err := decode([]byte(payload))
		valid := err == nil && json.Valid([]byte(payload)) && !strings.Contains(payload, "\xff")
		var want any
		pass, wantErr, passErr := false, errors.New("invalid"), errors.New("invalid")
		if valid {
			want, wantErr = refMap(doc, rules)
			pass, passErr = refFilter(doc, conditions)
		}
		m := &node.Message{Payload: []byte(payload)}
		gotPass, gotErr := filter.Filter(m)
		if (gotErr == nil) != (passErr == nil) || gotErr == nil && gotPass != pass {
			t.Errorf("seed %d: filter %s of %s: %v, %v; want %v, %v", seed, show(conditions), payload, gotPass, gotErr, pass, passErr)
		}
		gotErr = mapper.Map(m)
		if (gotErr == nil) != (wantErr == nil) {
			t.Errorf("seed %d: map %s of %s: %v (%s), want %v", seed, show(rules), payload, gotErr, m.Payload, wantErr)
			continue
		}
		if gotErr != nil {
			failures++
			continue
		}
		results++
		got, err := decode(m.Payload)
		if err != nil || !json.Valid(m.Payload) || !agrees(got, want) {
			t.Errorf("seed %d: map %s of %s = %s; want %v", seed, show(rules), payload, m.Payload, want)
		}
	}
	return results, failures
}

func show(rules []refRule) string {
	text, _ := json.Marshal(rules)
	return string(text)
}

func TestTheCompiledRulesDoWhatTheReferenceDoes(t *testing.T) {
	results, failures := 0, 0
	for seed := range uint64(1500) {
		r, f := compare(t, seed)
		results, failures = results+r, failures+f
		if t.Failed() {
			t.FailNow()
		}
	}
	if results < 1500 || failures < 700 {
		t.Errorf("%d results and %d failures: the generator tries too little", results, failures)
	}
}

func FuzzRules(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { compare(t, seed) })
}
