package transform_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file says once more what map, filter and the expressions do, in the plainest way: with maps,
// with text, and without a thought for speed. Nothing of it is shared with what it is compared to.

var errAny = errors.New("the message fails")

// number is a number of a message; those that were computed are int64 and float64.
type number struct {
	text string
	v    any // int64 or float64
}

// decode reads JSON with number texts.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// refRule is a rule as a configuration has it.
type refRule struct {
	Inputs     []string `json:"inputs"`
	Output     *string  `json:"output,omitempty"`
	Expression string   `json:"expression,omitempty"`
}

func (r refRule) wild() bool { return len(r.Inputs) > 0 && strings.Contains(r.Inputs[0], "*") }

// lookup follows a path; keys have no dots here.
func lookup(v any, path string) (any, bool) {
	if path == "" {
		return v, true
	}
	for key := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

// cutInput takes a default off an input.
func cutInput(in string) (path string, fallback any, has bool) {
	path, text, has := strings.Cut(in, " ?? ")
	if has {
		fallback, _ = decode([]byte(text))
	}
	return path, fallback, has
}

// captures are the paths that the * of a path stands for.
func captures(doc any, path string) (found []string) {
	before, after, _ := strings.Cut(path, "*")
	before, after = strings.TrimSuffix(before, "."), strings.TrimPrefix(after, ".")
	top, ok := lookup(doc, before)
	if !ok {
		return nil
	}
	var walk func(v any, at string)
	walk = func(v any, at string) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		for key, child := range m {
			here := strings.TrimPrefix(at+"."+key, ".")
			inner, isMap := child.(map[string]any)
			if after == "" {
				if !isMap || len(inner) == 0 {
					found = append(found, here)
				}
			} else if _, ok := lookup(child, after); ok {
				found = append(found, here)
			}
			walk(child, here)
		}
	}
	walk(top, "")
	return found
}

func paths(r refRule, captured string) (list []string) {
	for i, in := range r.Inputs {
		if i > 0 && r.Expression == "" && *r.Output != "" {
			break // without an expression, the first input is all that counts
		}
		path, _, _ := cutInput(in)
		list = append(list, strings.Replace(path, "*", captured, 1))
	}
	return list
}

func sameList(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }

// replacedBy says whether a later, more specific rule stands for a wildcard.
func replacedBy(doc any, later []refRule, r refRule, captured string) bool {
	mine := paths(r, captured)
	for _, path := range mine {
		if _, ok := lookup(doc, path); !ok {
			return false
		}
	}
	for _, s := range later {
		if !s.wild() {
			if *s.Output == "" && len(mine) == 1 {
				for _, path := range s.Inputs {
					if mine[0] == path || strings.HasPrefix(mine[0], path+".") {
						return true
					}
				}
			}
			if sameList(mine, paths(s, "")) {
				return true
			}
			continue
		}
		first, _, _ := cutInput(s.Inputs[0])
		for _, c := range captures(doc, first) {
			if strings.Count(c, ".") < strings.Count(captured, ".") && sameList(mine, paths(s, c)) {
				return true
			}
		}
	}
	return false
}

// refMap is the map transform.
func refMap(doc any, rules []refRule) (any, error) {
	if _, ok := doc.(map[string]any); !ok {
		return nil, errAny
	}
	out := map[string]any{}
	for i, r := range rules {
		if *r.Output == "" {
			continue
		}
		if !r.wild() {
			v, err := refValue(doc, r, "", true)
			if err == nil {
				err = store(out, *r.Output, v)
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		first, _, _ := cutInput(r.Inputs[0])
		for _, c := range captures(doc, first) {
			if replacedBy(doc, rules[i+1:], r, c) {
				continue
			}
			v, err := refValue(doc, r, c, false)
			if errors.Is(err, errSkip) {
				continue
			}
			if err == nil {
				err = store(out, strings.Replace(*r.Output, "*", c, 1), v)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

var errSkip = errors.New("not all inputs are there")

// refValue computes a rule.
func refValue(doc any, r refRule, captured string, must bool) (any, error) {
	var in []any
	for i, path := range paths(r, captured) {
		v, ok := lookup(doc, path)
		_, fallback, has := cutInput(r.Inputs[i])
		switch {
		case has && (!ok || v == nil):
			v = fallback
		case !ok && strings.Contains(r.Expression, "()"):
			v = nil
		case !ok && must:
			return nil, errAny
		case !ok:
			return nil, errSkip
		}
		if r.Expression == "" {
			return v, nil
		}
		b, err := bindRef(v)
		if err != nil {
			return nil, err
		}
		in = append(in, b)
	}
	v, err := evaluate(r.Expression, in)
	if err != nil {
		return nil, err
	}
	if !finite(v) {
		return nil, errAny
	}
	return v, nil
}

func finite(v any) bool {
	switch v := v.(type) {
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	case tuple:
		for _, e := range v {
			if !finite(e) {
				return false
			}
		}
	}
	return true
}

func copyAny(v any) any {
	if m, ok := v.(map[string]any); ok {
		c := map[string]any{}
		for k, e := range m {
			c[k] = copyAny(e)
		}
		return c
	}
	return v
}

func store(out map[string]any, path string, v any) error {
	keys := strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		next, ok := out[key]
		if !ok {
			next = map[string]any{}
			out[key] = next
		}
		if o, isJSON := next.(object); isJSON {
			next = copyAny(o.v)
			out[key] = next
		}
		if out, ok = next.(map[string]any); !ok {
			return errAny
		}
	}
	out[keys[len(keys)-1]] = copyAny(v)
	return nil
}

// refFilter says whether a message passes.
func refFilter(doc any, rules []refRule) (bool, error) {
	if _, ok := doc.(map[string]any); !ok {
		return false, errAny
	}
	for _, r := range rules {
		v, err := refRuleBool(doc, r)
		if err != nil {
			return false, err
		}
		if v {
			return false, nil
		}
	}
	return true, nil
}

func refRuleBool(doc any, r refRule) (bool, error) {
	var in []any
	for i, path := range paths(r, "") {
		v, ok := lookup(doc, path)
		_, fallback, has := cutInput(r.Inputs[i])
		if has && (!ok || v == nil) {
			v = fallback
		} else if !ok && !strings.Contains(r.Expression, "()") {
			return false, errAny
		}
		b, err := bindRef(v)
		if err != nil {
			return false, err
		}
		in = append(in, b)
	}
	v, err := evaluate(r.Expression, in)
	if err != nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, errAny
	}
	return b, nil
}

type tuple []any
type object struct{ v any }

func bindRef(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		text := string(v)
		if !strings.ContainsAny(text, ".eE") {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				return number{text, n}, nil
			}
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, errAny
		}
		return number{text, f}, nil
	case map[string]any:
		return object{v}, nil
	case []any:
		var t tuple
		for _, e := range v {
			switch e.(type) {
			case map[string]any, []any:
				return object{v}, nil
			}
			b, err := bindRef(e)
			if err != nil {
				return nil, err
			}
			t = append(t, b)
		}
		if t == nil {
			t = tuple{}
		}
		return t, nil
	}
	return v, nil
}

// evaluate parses and computes at once.
func evaluate(source string, in []any) (any, error) {
	e := &evaluator{source: source, in: in}
	v := e.expression(0)
	if e.failed {
		return nil, errAny
	}
	return v, nil
}

type evaluator struct {
	source string
	in     []any
	failed bool
	dead   int // in a branch that is not taken: nothing fails
}

func (e *evaluator) fail() any {
	if e.dead == 0 {
		e.failed = true
	}
	return nil
}

func (e *evaluator) take(text string) bool {
	e.source = strings.TrimLeft(e.source, " ")
	if !strings.HasPrefix(e.source, text) {
		return false
	}
	e.source = e.source[len(text):]
	return true
}

var strengths = [][]string{{"||"}, {"&&"}, {"==", "!="}, {"<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/", "%"}}

func (e *evaluator) expression(level int) any {
	if level == len(strengths) {
		return e.signed()
	}
	left := e.expression(level + 1)
again:
	for _, op := range strengths[level] {
		if !e.take(op) {
			continue
		}
		if level < 2 {
			l, ok := left.(bool)
			if !ok {
				e.fail()
			}
			stop := ok && l == (op == "||")
			if stop {
				e.dead++
			}
			right := e.expression(level + 1)
			if stop {
				e.dead--
				right = l
			}
			if left, ok = right.(bool); !ok {
				e.fail()
			}
			goto again
		}
		left = e.operate(op, left, e.expression(level+1))
		goto again
	}
	return left
}

func (e *evaluator) signed() any {
	if e.take("-") {
		v := plain(e.signed())
		switch n := v.(type) {
		case int64:
			if n == math.MinInt64 {
				return e.fail()
			}
			return -n
		case float64:
			return -n
		}
		return e.fail()
	}
	e.source = strings.TrimLeft(e.source, " ")
	if !strings.HasPrefix(e.source, "!=") && e.take("!") {
		b, ok := e.signed().(bool)
		if !ok {
			return e.fail()
		}
		return !b
	}
	left := e.single()
	for e.take("^") {
		a, ok := float(left)
		b, ok2 := float(e.single())
		if !ok || !ok2 {
			left = e.fail()
			continue
		}
		left = math.Pow(a, b)
	}
	return left
}

func (e *evaluator) single() any {
	e.source = strings.TrimLeft(e.source, " ")
	c := e.source[0]
	switch {
	case c == '(':
		e.source = e.source[1:]
		if e.take(")") {
			return nil
		}
		list := tuple{e.expression(0)}
		for e.take(",") {
			list = append(list, e.expression(0))
		}
		e.take(")")
		if len(list) == 1 {
			return list[0]
		}
		return list
	case c == '$':
		n := int(e.source[1] - '1')
		e.source = e.source[2:]
		return e.in[n]
	case c == '"':
		text, rest, _ := strings.Cut(e.source[1:], `"`)
		e.source = rest
		return text
	case c >= '0' && c <= '9':
		i := 0
		for i < len(e.source) && (e.source[i] >= '0' && e.source[i] <= '9' || e.source[i] == '.') {
			i++
		}
		text := e.source[:i]
		e.source = e.source[i:]
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
		f, _ := strconv.ParseFloat(text, 64)
		return f
	}
	for _, word := range []string{"true", "false"} {
		if e.take(word) {
			return word == "true"
		}
	}
	name, rest, _ := strings.Cut(e.source, "(")
	e.source = rest
	if name == "if" {
		c, ok := e.expression(0).(bool)
		if !ok {
			e.fail()
		}
		e.take(",")
		if !c {
			e.dead++
		}
		yes := e.expression(0)
		if !c {
			e.dead--
		}
		e.take(",")
		if c {
			e.dead++
		}
		no := e.expression(0)
		if c {
			e.dead--
		}
		e.take(")")
		if c {
			return yes
		}
		return no
	}
	args := []any{e.expression(0)}
	for e.take(",") {
		args = append(args, e.expression(0))
	}
	e.take(")")
	return e.function(name, args)
}

func plain(v any) any {
	if n, ok := v.(number); ok {
		return n.v
	}
	return v
}

func float(v any) (float64, bool) {
	switch n := plain(v).(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func equal(a, b any) bool {
	a, b = plain(a), plain(b)
	x, ok := a.(int64)
	y, ok2 := b.(int64)
	if ok && ok2 {
		return x == y
	}
	f, ok := float(a)
	g, ok2 := float(b)
	if ok && ok2 {
		return f == g
	}
	s, ok := a.(tuple)
	u, ok2 := b.(tuple)
	if ok && ok2 {
		if len(s) != len(u) {
			return false
		}
		for i := range s {
			if !equal(s[i], u[i]) {
				return false
			}
		}
		return true
	}
	switch a.(type) {
	case tuple, object:
		return false
	}
	switch b.(type) {
	case tuple, object:
		return false
	}
	return a == b
}

func text(v any) string {
	switch v := plain(v).(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	case tuple:
		var parts []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				e = strconv.Quote(s)
			}
			parts = append(parts, text(e))
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	return "null"
}

func (e *evaluator) operate(op string, a, b any) any {
	_, o1 := a.(object)
	_, o2 := b.(object)
	switch op {
	case "==", "!=":
		if o1 && o2 {
			return e.fail()
		}
		return equal(a, b) == (op == "==")
	case "<", "<=", ">", ">=":
		s, ok := a.(string)
		u, ok2 := b.(string)
		if ok && ok2 {
			return ordered(op, strings.Compare(s, u))
		}
		x, ok := plain(a).(int64)
		y, ok2 := plain(b).(int64)
		if ok && ok2 {
			return ordered(op, order(x < y, x > y))
		}
		f, ok := float(a)
		g, ok2 := float(b)
		if !ok || !ok2 {
			return e.fail()
		}
		if math.IsNaN(f) || math.IsNaN(g) {
			return false
		}
		return ordered(op, order(f < g, f > g))
	}
	_, s1 := a.(string)
	_, s2 := b.(string)
	if op == "+" && (s1 || s2) {
		if o1 || o2 {
			return e.fail()
		}
		return text(a) + text(b)
	}
	x, ok := plain(a).(int64)
	y, ok2 := plain(b).(int64)
	if ok && ok2 {
		return e.integers(op, x, y)
	}
	f, ok := float(a)
	g, ok2 := float(b)
	if !ok || !ok2 {
		return e.fail()
	}
	switch op {
	case "+":
		return f + g
	case "-":
		return f - g
	case "*":
		return f * g
	case "/":
		return f / g
	}
	return math.Mod(f, g)
}

func (e *evaluator) integers(op string, x, y int64) any {
	hi, lo := float64(x), float64(y)
	var f float64
	var n int64
	switch op {
	case "+":
		f, n = hi+lo, x+y
	case "-":
		f, n = hi-lo, x-y
	case "*":
		f, n = hi*lo, x*y
	default:
		if y == 0 || x == math.MinInt64 && y == -1 {
			return e.fail()
		}
		if op == "/" {
			return x / y
		}
		return x % y
	}
	if math.Abs(f-float64(n)) > 1e18 { // it has gone round
		return e.fail()
	}
	return n
}

func order(less, more bool) int {
	if less {
		return -1
	}
	if more {
		return 1
	}
	return 0
}

func ordered(op string, c int) bool {
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

func (e *evaluator) function(name string, args []any) any {
	f, isNumber := float(args[0])
	s, isString := args[0].(string)
	list, isTuple := args[0].(tuple)
	switch name {
	case "cToF", "floor", "math::sqrt":
		if !isNumber {
			return e.fail()
		}
		switch name {
		case "cToF":
			return f*9/5 + 32
		case "floor":
			return math.Floor(f)
		}
		return math.Sqrt(f)
	case "round_n":
		n, ok := plain(args[1]).(int64)
		if !isNumber || !ok || n < 0 || n > 15 {
			return e.fail()
		}
		p := math.Pow(10, float64(n))
		if math.IsInf(f*p, 0) {
			return f
		}
		return math.Round(f*p) / p
	case "math::abs":
		switch n := plain(args[0]).(type) {
		case int64:
			if n == math.MinInt64 {
				return e.fail()
			}
			if n < 0 {
				return -n
			}
			return n
		case float64:
			return math.Abs(n)
		}
		return e.fail()
	case "min", "max":
		if len(args) == 1 && isTuple {
			args = list
		}
		var best any
		for _, a := range args {
			if _, ok := float(a); !ok {
				return e.fail()
			}
			if best == nil {
				best = a
				continue
			}
			op := "<"
			if name == "max" {
				op = ">"
			}
			if e.operate(op, a, best) == true {
				best = a
			}
		}
		if best == nil {
			return e.fail()
		}
		return best
	case "len":
		switch {
		case isString:
			return int64(utf8.RuneCountInString(s))
		case isTuple:
			return int64(len(list))
		}
		return e.fail()
	case "typeof":
		switch plain(args[0]).(type) {
		case nil:
			return "empty"
		case bool:
			return "boolean"
		case int64:
			return "int"
		case float64:
			return "float"
		case string:
			return "string"
		case tuple:
			return "tuple"
		}
		return "json"
	case "contains":
		if !isTuple {
			return e.fail()
		}
		for _, v := range list {
			if equal(v, args[1]) {
				return true
			}
		}
		return false
	case "str::from":
		if _, ok := args[0].(object); ok {
			return e.fail()
		}
		return text(args[0])
	case "str::to_uppercase":
		if !isString {
			return e.fail()
		}
		return strings.ToUpper(s)
	case "str::substring":
		from, ok := plain(args[1]).(int64)
		to, ok2 := plain(args[2]).(int64)
		runes := []rune(s)
		if !isString || !ok || !ok2 || from < 0 || to < from || to > int64(len(runes)) {
			return e.fail()
		}
		return string(runes[from:to])
	}
	panic(name)
}
