package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxDepth is the deepest nesting of a condition. It bounds the stack that a hostile query can use.
const maxDepth = 50

// Parse reads a query. Its error says what is wrong with the text, and "malformed query" before it.
func Parse(text string) (*Query, error) {
	tokens, err := tokenize(text)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	q := p.query()
	if p.err == nil && p.peek().kind != 0 {
		p.failf("%q was not expected", p.peek().text)
	}
	if p.err != nil {
		return nil, p.err
	}
	return &q, nil
}

// parser reads a query by recursive descent. Its first error takes the remaining tokens away, so
// that every method soon returns.
type parser struct {
	tokens []token // those that are still to be read
	depth  int     // of the condition that is being read
	err    error
}

func (p *parser) failf(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: "+format, append([]any{errMalformed}, args...)...)
	}
	p.tokens = nil
}

// peek returns the next token, and leaves it there.
func (p *parser) peek() token {
	if len(p.tokens) == 0 {
		return token{}
	}
	return p.tokens[0]
}

// next reads a token. The end of the query is an error.
func (p *parser) next() token {
	t := p.peek()
	if t.kind == 0 {
		p.failf("it ends too early")
		return t
	}
	p.tokens = p.tokens[1:]
	return t
}

// word reads these keywords, in upper or lower case, if they come next.
func (p *parser) word(words ...string) bool {
	for i, w := range words {
		if i >= len(p.tokens) || p.tokens[i].kind != 'n' || !strings.EqualFold(p.tokens[i].text, w) {
			return false
		}
	}
	p.tokens = p.tokens[len(words):]
	return true
}

// sign reads this sign if it comes next.
func (p *parser) sign(text string) bool {
	if t := p.peek(); t.kind == '.' && t.text == text {
		p.tokens = p.tokens[1:]
		return true
	}
	return false
}

func (p *parser) wantSign(text string) {
	if !p.sign(text) {
		p.failf("%q is missing before %q", text, p.peek().text)
	}
}

func (p *parser) query() (q Query) {
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
	q.source = Source(strings.ToLower(strings.Join(p.path(), ".")))
	if p.err == nil && q.source != Devices && q.source != Modules {
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

// column reads a column. The nth one is called $n if it is an aggregate without a name.
func (p *parser) column(n int) (c column) {
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

// path reads a path such as a.b['c'].d.
func (p *parser) path() (names path) {
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

// nested runs f one level deeper.
func (p *parser) nested(f func() condition) condition {
	if p.depth++; p.depth > maxDepth {
		p.failf("it is nested too deep")
		return nil
	}
	defer func() { p.depth-- }()
	return f()
}

// either reads conditions that are joined by OR, the operator that binds least.
func (p *parser) either() condition {
	return p.nested(func() condition {
		left := p.both()
		for p.word("or") {
			l, r := left, p.both()
			left = func(document any) bool { return l(document) || r(document) }
		}
		return left
	})
}

// both reads conditions that are joined by AND.
func (p *parser) both() condition {
	left := p.single()
	for p.word("and") {
		l, r := left, p.single()
		left = func(document any) bool { return l(document) && r(document) }
	}
	return left
}

// single reads a condition without AND and OR, unless they are in brackets.
func (p *parser) single() condition {
	switch {
	case p.word("not"):
		return p.nested(func() condition {
			c := p.single()
			return func(document any) bool { return !c(document) }
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
		return func(document any) bool { return compare(op.text, left, right, document) }
	case p.word("in"):
		return p.list(left, true)
	case p.word("nin"), p.word("not", "in"):
		return p.list(left, false)
	}
	return func(document any) bool { // a function, or a property that is true or false
		v, ok := left(document)
		return ok && v == true
	}
}

// list reads the members behind IN (want is true) or NIN.
func (p *parser) list(left operand, want bool) condition {
	var members []operand
	p.wantSign("[")
	for more := !p.sign("]"); more && p.err == nil; {
		members = append(members, p.operand())
		if more = p.sign(","); !more {
			p.wantSign("]")
		}
	}
	return func(document any) bool {
		found := slices.ContainsFunc(members, func(m operand) bool { return compare("=", left, m, document) })
		return found == want
	}
}

// operand reads a constant, a path or a call of a function.
func (p *parser) operand() operand {
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
	return func(document any) (any, bool) { return plain(names.in(document)) }
}

// function reads the call of a function.
func (p *parser) function() operand {
	name := strings.ToUpper(p.next().text)
	test := functions[name]
	if test == nil {
		p.failf("there is no function %s()", name)
		return nil
	}
	if p.depth++; p.depth > maxDepth {
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
	return func(document any) (any, bool) {
		a, defined := first(document)
		b := ""
		if second != nil {
			v, _ := second(document)
			b, _ = v.(string)
		}
		return test(a, defined, b), true
	}
}
