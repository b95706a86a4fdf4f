package sim

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file is the query language of IoT Hub as far as a simulator needs it: SELECT with *, paths and COUNT, SUM, AVG, MIN, MAX;
// FROM devices; WHERE with comparisons, IN and NIN lists, AND, OR, NOT and the common functions; GROUP BY.

// query is a parsed query.
type query struct {
	top     int // 0 is no limit
	all     bool
	columns []column
	source  string // devices or devices.modules
	where   condition
	groupBy []path
}

// aggregates says whether the answer has a line per group instead of one per twin.
func (q query) aggregates() bool {
	return len(q.groupBy) > 0 || slices.ContainsFunc(q.columns, func(c column) bool { return c.aggregate != "" })
}

// column is one column of a result: a path, or an aggregate of one.
type column struct {
	name      string
	aggregate string // upper case
	path      path
}

// path leads to a value within a twin.
type path []string

func (p path) in(doc any) (any, bool) {
	for _, name := range p {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil, false
		}
		if doc, ok = m[name]; !ok {
			return nil, false
		}
	}
	return doc, true
}

// condition is a WHERE clause.
type condition func(twin any) bool

// operand is a side of a comparison: false means that the twin has no such value.
type operand func(twin any) (any, bool)

// queryDepth bounds the nesting of a condition.
const queryDepth = 50

var errQuery = errors.New("malformed query")

// token is a word of a query: a name, a number, a string or a sign.
type token struct {
	kind byte // 'n'ame, 'd'igits, 's'tring, '.' sign, 0 the end
	text string
}

// tokenize takes a query apart.
func tokenize(s string) (tokens []token, err error) {
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		n := size
		t := token{kind: '.'}
		switch {
		case unicode.IsSpace(r):
			s = s[size:]
			continue
		case r == '\'' || r == '"':
			if t.text, n, err = quoted(s); err != nil {
				return nil, err
			}
			t.kind = 's'
		case r >= '0' && r <= '9' || r == '-' && len(s) > 1 && s[1] >= '0' && s[1] <= '9':
			t.kind = 'd'
			for n = 1; n < len(s) && strings.IndexByte("0123456789.eE+-", s[n]) >= 0; n++ {
				if (s[n] == '+' || s[n] == '-') && s[n-1] != 'e' && s[n-1] != 'E' {
					break
				}
			}
			t.text = s[:n]
		case r == '_' || r == '$' || unicode.IsLetter(r):
			t.kind = 'n'
			n = strings.IndexFunc(s, func(r rune) bool {
				return r != '_' && r != '$' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
			})
			if n < 0 {
				n = len(s)
			}
			t.text = s[:n]
		default:
			if len(s) > 1 && slices.Contains([]string{"!=", "<>", "<=", ">="}, s[:2]) {
				n = 2
			}
			t.text = s[:n]
		}
		tokens = append(tokens, t)
		s = s[n:]
	}
	return tokens, nil
}

// quoted reads a string in either kind of quotes; a doubled or escaped quote stands for itself.
func quoted(s string) (text string, n int, err error) {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] != quote:
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == quote:
			i++
			b.WriteByte(quote)
		default:
			return b.String(), i + 1, nil
		}
	}
	return "", 0, fmt.Errorf("%w: a string has no end", errQuery)
}

// parseQuery reads a query.
func parseQuery(text string) (q query, err error) {
	p := &queryParser{}
	if p.tokens, err = tokenize(text); err != nil {
		return q, err
	}
	q = p.query()
	if p.err == nil && p.peek().kind != 0 {
		p.failf("%q was not expected", p.peek().text)
	}
	return q, p.err
}

// queryParser is a parser by recursive descent; after the first error it does nothing more.
type queryParser struct {
	tokens []token
	depth  int
	err    error
}

func (p *queryParser) failf(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: "+format, append([]any{errQuery}, args...)...)
	}
	p.tokens = nil
}

func (p *queryParser) peek() token {
	if len(p.tokens) == 0 {
		return token{}
	}
	return p.tokens[0]
}

func (p *queryParser) next() token {
	t := p.peek()
	if t.kind == 0 {
		p.failf("it ends too early")
		return t
	}
	p.tokens = p.tokens[1:]
	return t
}

// word takes a keyword, in any case, if it comes next.
func (p *queryParser) word(words ...string) bool {
	for i, w := range words {
		if i >= len(p.tokens) || p.tokens[i].kind != 'n' || !strings.EqualFold(p.tokens[i].text, w) {
			return false
		}
	}
	p.tokens = p.tokens[len(words):]
	return true
}

func (p *queryParser) sign(text string) bool {
	if t := p.peek(); t.kind == '.' && t.text == text {
		p.tokens = p.tokens[1:]
		return true
	}
	return false
}

func (p *queryParser) wantSign(text string) {
	if !p.sign(text) {
		p.failf("%q is missing before %q", text, p.peek().text)
	}
}

func (p *queryParser) query() (q query) {
	if !p.word("select") {
		p.failf("it does not begin with SELECT")
		return q
	}
	if p.word("top") {
		bracket := p.sign("(")
		n, err := strconv.Atoi(p.next().text)
		if err != nil || n < 1 {
			p.failf("TOP wants a positive number")
		}
		q.top = n
		if bracket {
			p.wantSign(")")
		}
	}
	if q.all = p.sign("*"); !q.all {
		for more := true; more && p.err == nil; more = p.sign(",") {
			q.columns = append(q.columns, p.column(len(q.columns)+1))
		}
	}
	if !p.word("from") {
		p.failf("FROM is missing before %q", p.peek().text)
	}
	q.source = strings.ToLower(strings.Join(p.path(), "."))
	if p.err == nil && q.source != "devices" && q.source != "devices.modules" {
		p.failf("FROM %s is not supported here: devices and devices.modules are", q.source)
	}
	if p.word("where") {
		q.where = p.either()
	}
	if p.word("group", "by") {
		for more := true; more && p.err == nil; more = p.sign(",") {
			q.groupBy = append(q.groupBy, p.path())
		}
	}
	if q.all && q.aggregates() {
		p.failf("GROUP BY goes with columns, not with *")
	}
	return q
}

func (p *queryParser) column(n int) (c column) {
	if len(p.tokens) > 1 && p.tokens[1] == (token{'.', "("}) {
		c.aggregate = strings.ToUpper(p.next().text)
		c.name = "$" + strconv.Itoa(n)
		p.wantSign("(")
		switch c.aggregate {
		case "COUNT":
			_ = p.sign("*")
		case "SUM", "AVG", "MIN", "MAX":
			c.path = p.path()
		default:
			p.failf("%s() is no aggregate", c.aggregate)
		}
		p.wantSign(")")
	} else if c.path = p.path(); len(c.path) > 0 {
		c.name = c.path[len(c.path)-1]
	}
	if p.word("as") {
		c.name = p.next().text
	}
	return c
}

// path reads a.b['c'].d.
func (p *queryParser) path() (names path) {
	for {
		t := p.next()
		if t.kind != 'n' {
			p.failf("%q is no name", t.text)
			return names
		}
		names = append(names, t.text)
		for p.sign("[") {
			if t := p.next(); t.kind == 's' {
				names = append(names, t.text)
			} else {
				p.failf("%q is no key", t.text)
			}
			p.wantSign("]")
		}
		if !p.sign(".") {
			return names
		}
	}
}

func (p *queryParser) nested(f func() condition) condition {
	if p.depth++; p.depth > queryDepth {
		p.failf("it is nested too deep")
		return nil
	}
	defer func() { p.depth-- }()
	return f()
}

// either is a row of conditions joined by OR, the weakest of the operators.
func (p *queryParser) either() condition {
	return p.nested(func() condition {
		left := p.both()
		for p.word("or") {
			l, r := left, p.both()
			left = func(twin any) bool { return l(twin) || r(twin) }
		}
		return left
	})
}

func (p *queryParser) both() condition {
	left := p.single()
	for p.word("and") {
		l, r := left, p.single()
		left = func(twin any) bool { return l(twin) && r(twin) }
	}
	return left
}

func (p *queryParser) single() condition {
	switch {
	case p.word("not"):
		return p.nested(func() condition {
			c := p.single()
			return func(twin any) bool { return !c(twin) }
		})
	case p.sign("("):
		c := p.either()
		p.wantSign(")")
		return c
	}
	left := p.operand()
	switch op := p.peek(); {
	case op.kind == '.' && slices.Contains([]string{"=", "!=", "<>", "<", "<=", ">", ">="}, op.text):
		p.next()
		right := p.operand()
		return func(twin any) bool { return compare(op.text, left, right, twin) }
	case p.word("in"):
		return p.list(left, true)
	case p.word("nin"), p.word("not", "in"):
		return p.list(left, false)
	}
	return func(twin any) bool { // a function, or a property that is true or false
		v, ok := left(twin)
		return ok && v == true
	}
}

func (p *queryParser) list(left operand, want bool) condition {
	var members []operand
	p.wantSign("[")
	for more := !p.sign("]"); more && p.err == nil; {
		members = append(members, p.operand())
		if more = p.sign(","); !more {
			p.wantSign("]")
		}
	}
	return func(twin any) bool {
		found := slices.ContainsFunc(members, func(m operand) bool { return compare("=", left, m, twin) })
		return found == want
	}
}

func (p *queryParser) operand() operand {
	constant := func(v any) operand { return func(any) (any, bool) { return v, true } }
	switch t := p.peek(); {
	case t.kind == 's':
		p.next()
		return constant(t.text)
	case t.kind == 'd':
		p.next()
		n, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			p.failf("%s is no number", t.text)
		}
		return constant(n)
	case p.word("true"):
		return constant(true)
	case p.word("false"):
		return constant(false)
	case p.word("null"):
		return constant(nil)
	case t.kind == 'n' && len(p.tokens) > 1 && p.tokens[1] == (token{'.', "("}):
		return p.function()
	}
	names := p.path()
	if len(names) > 1 && strings.EqualFold(names[0], "devices") {
		names = names[1:]
	}
	return func(twin any) (any, bool) { return plain(names.in(twin)) }
}

// plain makes the numbers of a twin comparable with those of a query.
func plain(v any, ok bool) (any, bool) {
	switch n := v.(type) {
	case json.Number:
		f, err := n.Float64()
		return f, ok && err == nil
	case int:
		return float64(n), ok
	case int64:
		return float64(n), ok
	}
	return v, ok
}

// twinTests are the functions of one or two arguments that a condition may use.
var twinTests = map[string]func(a any, defined bool, b string) bool{
	"IS_DEFINED": func(_ any, defined bool, _ string) bool { return defined },
	"IS_NULL":    func(a any, defined bool, _ string) bool { return defined && a == nil },
	"IS_BOOL":    func(a any, _ bool, _ string) bool { _, is := a.(bool); return is },
	"IS_NUMBER":  func(a any, _ bool, _ string) bool { _, is := a.(float64); return is },
	"IS_STRING":  func(a any, _ bool, _ string) bool { _, is := a.(string); return is },
	"IS_OBJECT":  func(a any, _ bool, _ string) bool { _, is := a.(map[string]any); return is },
	"IS_ARRAY":   func(a any, _ bool, _ string) bool { _, is := a.([]any); return is },
	"STARTSWITH": func(a any, _ bool, b string) bool { s, is := a.(string); return is && strings.HasPrefix(s, b) },
	"ENDSWITH":   func(a any, _ bool, b string) bool { s, is := a.(string); return is && strings.HasSuffix(s, b) },
	"CONTAINS":   func(a any, _ bool, b string) bool { s, is := a.(string); return is && strings.Contains(s, b) },
	"IS_PRIMITIVE": func(a any, defined bool, _ string) bool {
		switch a.(type) {
		case map[string]any, []any:
			return false
		}
		return defined
	},
}

func (p *queryParser) function() operand {
	name := strings.ToUpper(p.next().text)
	test := twinTests[name]
	if test == nil {
		p.failf("there is no function %s()", name)
		return nil
	}
	if p.depth++; p.depth > queryDepth {
		p.failf("it is nested too deep")
		return nil
	}
	defer func() { p.depth-- }()
	p.wantSign("(")
	first, second := p.operand(), operand(nil)
	if p.sign(",") {
		second = p.operand()
	}
	if two := !strings.HasPrefix(name, "IS_"); two != (second != nil) {
		p.failf("%s() has the wrong number of arguments", name)
	}
	p.wantSign(")")
	return func(twin any) (any, bool) {
		a, defined := first(twin)
		b := ""
		if second != nil {
			v, _ := second(twin)
			b, _ = v.(string)
		}
		return test(a, defined, b), true
	}
}

// compare compares two values of the same type; what cannot be compared is not equal, and nothing else either.
func compare(op string, left, right operand, twin any) bool {
	a, okA := left(twin)
	b, okB := right(twin)
	if !okA || !okB {
		return (op == "!=" || op == "<>") && okA != okB
	}
	order, alike := 0, false
	switch a := a.(type) {
	case string:
		b, is := b.(string)
		order, alike = strings.Compare(a, b), is
	case float64:
		b, is := b.(float64)
		order, alike = cmp.Compare(a, b), is
	case bool:
		b, is := b.(bool)
		alike = is && (a == b || op == "=" || op == "!=" || op == "<>")
		if a != b {
			order = 1
		}
	default:
		alike = a == nil && b == nil
	}
	switch op {
	case "=":
		return alike && order == 0
	case "!=", "<>":
		return !alike || order != 0
	case "<":
		return alike && order < 0
	case "<=":
		return alike && order <= 0
	case ">":
		return alike && order > 0
	}
	return alike && order >= 0
}

// project makes one line of a result that is not a whole twin.
func (q query) project(twin any) map[string]any {
	line := map[string]any{}
	for _, c := range q.columns {
		if v, ok := c.path.in(twin); ok {
			line[c.name] = v
		}
	}
	return line
}

// group makes the lines of a result with aggregates, in the order in which the groups were met.
func (q query) group(twins []any) []any {
	var keys []string
	members := map[string][]any{}
	for _, twin := range twins {
		var key bytes.Buffer
		for _, p := range q.groupBy {
			v, ok := p.in(twin)
			fmt.Fprintf(&key, "%v %s\n", ok, encodeJSON(v))
		}
		if members[key.String()] == nil {
			keys = append(keys, key.String())
		}
		members[key.String()] = append(members[key.String()], twin)
	}
	if len(q.groupBy) == 0 && len(keys) == 0 {
		keys = []string{""}
	}
	lines := []any{}
	for _, key := range keys {
		line := map[string]any{}
		for _, c := range q.columns {
			if c.aggregate != "" {
				line[c.name] = c.over(members[key])
			} else if v, ok := c.path.in(members[key][0]); ok {
				line[c.name] = v
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// over computes an aggregate of the members of a group that have the value.
func (c column) over(twins []any) any {
	if c.aggregate == "COUNT" {
		return len(twins)
	}
	n, sum, low, high := 0, 0.0, math.Inf(1), math.Inf(-1)
	for _, twin := range twins {
		v, _ := plain(c.path.in(twin))
		if f, ok := v.(float64); ok {
			n, sum, low, high = n+1, sum+f, min(low, f), max(high, f)
		}
	}
	switch {
	case n == 0:
		return nil
	case c.aggregate == "SUM":
		return sum
	case c.aggregate == "AVG":
		return sum / float64(n)
	case c.aggregate == "MIN":
		return low
	}
	return high
}

// query answers POST /devices/query, a page at a time.
func (s *hubService) query(w http.ResponseWriter, r *http.Request) (any, error) {
	var b struct {
		Query *string `json:"query"`
	}
	if err := decodeBody(r, &b); err != nil {
		return nil, err
	}
	if b.Query == nil {
		return nil, badArgument("The body has no query.")
	}
	q, err := parseQuery(*b.Query)
	if err != nil {
		return nil, badArgument("%v", err)
	}
	size, skip, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	lines := s.run(q)
	if q.top > 0 && len(lines) > q.top {
		lines = lines[:q.top]
	}
	kind := "Raw"
	if q.all {
		kind = "Twin"
	}
	w.Header().Set("X-Ms-Item-Type", kind)
	lines = lines[min(skip, len(lines)):]
	if len(lines) > size {
		lines = lines[:size]
		w.Header().Set("X-Ms-Continuation", base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(skip+size))))
	}
	return lines, nil
}

// pageOf reads the headers that ask for a page: how many results, and after how many.
func pageOf(r *http.Request) (size, skip int, err error) {
	size = pageDefault
	if text := r.Header.Get("X-Ms-Max-Item-Count"); text != "" {
		if size, err = strconv.Atoi(text); err != nil || size < 1 {
			return 0, 0, badArgument("x-ms-max-item-count is %q, it must be a positive number.", text)
		}
		size = min(size, pageLimit)
	}
	if text := r.Header.Get("X-Ms-Continuation"); text != "" {
		b, err := base64.StdEncoding.DecodeString(text)
		if err == nil {
			skip, err = strconv.Atoi(string(b))
		}
		if err != nil || skip < 0 {
			return 0, 0, badArgument("x-ms-continuation is not from here.")
		}
	}
	return size, skip, nil
}

// run evaluates a query over the hub's twins, in order of their ids.
func (s *hubService) run(q query) []any {
	lines := []any{}
	twins := s.all()
	if q.source == "devices.modules" {
		devices := twins
		twins = nil
		for _, i := range devices {
			twins = append(twins, s.modulesOf(i)...)
		}
	}
	for _, i := range twins {
		i.mu.Lock()
		encoded := encodeJSON(i.twinDocument())
		i.mu.Unlock()
		twin, _ := decodeObject(encoded) // our own
		if q.where != nil && !q.where(twin) {
			continue
		}
		switch {
		case q.all:
			lines = append(lines, json.RawMessage(encoded))
		case q.aggregates():
			lines = append(lines, twin)
		default:
			lines = append(lines, q.project(twin))
		}
	}
	if q.aggregates() {
		return q.group(lines)
	}
	return lines
}
