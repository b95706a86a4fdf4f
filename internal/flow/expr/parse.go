package expr

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Limits of one expression.
const (
	MaxLength = 64 << 10 // in bytes
	maxDepth  = 100      // of parentheses, calls and signs in each other
	maxNodes  = 10_000
)

// Place is where an expression stands; it decides which functions there are.
type Place byte

// The places of expressions.
const (
	InRule       Place = iota // of a map, filter, branch or data set
	InAccumulate              // of a window: average($1) and the like
	InTrigger                 // of a window: running_sum($1) and the like
)

// Options say what an expression may contain.
type Options struct {
	Place   Place
	Inputs  int  // how many variables there are
	NoRegex bool // the older kind Dataflow has no regular expressions
	Wide    bool // but integers of 128 bits; the Env must say so too
}

// Use is one aggregate or running function of a program. Its caller computes it.
type Use struct {
	Function string
	Input    int // counted from 0; -1: running_count() of all messages
}

// Program is a compiled expression. Env and Program together compute; the program itself does not
// change, but for regular expressions that it remembers, so that it belongs to one goroutine.
type Program struct {
	Uses      []Use
	UsesEmpty bool // contains (), so that a missing input is no error

	run   fn
	equal [2]int // inputs, counted from 1, if the whole expression is $a == $b
}

// Equality returns the inputs a and b, counted from 0, of an expression that is just $a == $b.
func (p *Program) Equality() (a, b int, ok bool) {
	return p.equal[0] - 1, p.equal[1] - 1, p.equal[0] > 0
}

// Run computes the value for the inputs of the environment.
func (p *Program) Run(e *Env, out *Value) error {
	e.depth = 0
	return p.run(e, out)
}

// fn computes one part of an expression. out is not read. It may be the memory of anything that the
// part does not need any more.
type fn func(e *Env, out *Value) error

type parser struct {
	source string
	pos    int // of the next byte
	depth  int
	nodes  int
	o      Options
	p      *Program
}

// node is a part of an expression while it is compiled.
type node struct {
	run      fn
	start    int // byte in the source
	variable int // counted from 1; 0: it is no bare variable
	constant *Value
	tuple    []node // of more than one part in parentheses
	equal    [2]int
}

// Compile reads an expression. The error is a *SyntaxError.
func Compile(source string, o Options) (*Program, error) {
	p := &parser{source: source, o: o, p: &Program{}}
	switch {
	case len(source) > MaxLength:
		return nil, &SyntaxError{1, "the expression is longer than " + strconv.Itoa(MaxLength) + " bytes"}
	case !utf8.ValidString(source):
		return nil, &SyntaxError{1, "the expression is not valid UTF-8"}
	}
	n, f := p.group(0, "")
	if f == nil {
		f = p.free(n)
	}
	if f == nil && o.Place == InAccumulate && len(p.p.Uses) == 0 {
		f = p.fault(0, "an accumulation rule needs at least one aggregate, such as average($1)")
	}
	if f != nil {
		return nil, f
	}
	p.p.run, p.p.equal = n.run, n.equal
	return p.p, nil
}

func (p *parser) fault(at int, text string) *SyntaxError {
	return &SyntaxError{utf8.RuneCountInString(p.source[:min(at, len(p.source))]) + 1, text}
}

func (p *parser) column(at int) int { return utf8.RuneCountInString(p.source[:at]) + 1 }

func (p *parser) blanks() {
	for p.pos < len(p.source) && strings.IndexByte(" \t\r\n", p.source[p.pos]) >= 0 {
		p.pos++
	}
}

// group reads one part, or a tuple of several.
func (p *parser) group(start int, end string) (node, *SyntaxError) {
	parts, f := p.list(start, end)
	if f != nil {
		return node{}, f
	}
	if len(parts) > 1 {
		return p.tuple(start, parts)
	}
	return node{start: start, run: parts[0].run, variable: parts[0].variable, equal: parts[0].equal, constant: parts[0].constant, tuple: parts[0].tuple}, nil
}

// list reads parts that are separated by commas, up to end: ")" or the end of the source.
func (p *parser) list(start int, end string) (parts []node, f *SyntaxError) {
	for {
		n, f := p.binary(0)
		if f != nil {
			return nil, f
		}
		parts = append(parts, n)
		p.blanks()
		rest := p.source[p.pos:]
		switch {
		case end == "" && rest == "", end != "" && strings.HasPrefix(rest, end):
			p.pos += len(end)
			return parts, nil
		case strings.HasPrefix(rest, ","):
			p.pos++
		case rest == "":
			return nil, p.fault(start, "this ( has no )")
		default:
			return nil, p.unexpected()
		}
	}
}

// unexpected says what is wrong with the text at pos, where an operator or the end should be.
func (p *parser) unexpected() *SyntaxError {
	rest := p.source[p.pos:]
	switch {
	case rest == "":
		return p.fault(p.pos, "the expression ends too early")
	case rest[0] == '=':
		return p.fault(p.pos, "there is no assignment; write == to compare")
	case rest[0] == ';':
		return p.fault(p.pos, "; is not part of the language; a rule has one expression")
	case rest[0] == ')':
		return p.fault(p.pos, "this ) has no (")
	case rest[0] == '&' || rest[0] == '|':
		return p.fault(p.pos, "write && for and, || for or")
	}
	switch word := identifier(rest); strings.ToLower(word) {
	case "and", "or", "not":
		return p.fault(p.pos, "the words and, or, not do not exist; write &&, ||, !")
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return p.fault(p.pos, "an operator or the end is expected, not "+strconv.QuoteRune(r))
}

// levels are the operators from weak to strong. All associate to the left.
var levels = [][]string{{"||"}, {"&&"}, {"==", "!="}, {"<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/", "%"}}

func (p *parser) operator(level int) string {
	rest := p.source[p.pos:]
	for _, op := range levels[level] {
		if strings.HasPrefix(rest, op) {
			return op
		}
	}
	return ""
}

// binary reads operators of a level and of all stronger ones.
func (p *parser) binary(level int) (node, *SyntaxError) {
	if level == len(levels) {
		return p.unary()
	}
	left, f := p.binary(level + 1)
	for f == nil {
		p.blanks()
		at, op := p.pos, p.operator(level)
		if op == "" {
			break
		}
		p.pos += len(op)
		var right node
		if right, f = p.binary(level + 1); f == nil {
			left, f = p.join(op, at, left, right)
		}
	}
	return left, f
}

func (p *parser) join(op string, at int, left, right node) (node, *SyntaxError) {
	if f := p.free(left); f != nil {
		return left, f
	}
	if f := p.free(right); f != nil {
		return right, f
	}
	n := node{start: left.start, run: operate(op, p.column(at), left, right)}
	if op == "==" && left.variable > 0 && right.variable > 0 {
		n.equal = [2]int{left.variable, right.variable}
	}
	return n, p.count()
}

// count bounds the parts of an expression.
func (p *parser) count() *SyntaxError {
	if p.nodes++; p.nodes > maxNodes {
		return p.fault(p.pos, "the expression has too many parts")
	}
	return nil
}

func (p *parser) enter() *SyntaxError {
	if p.depth++; p.depth > maxDepth {
		return p.fault(p.pos, "the expression is nested more than "+strconv.Itoa(maxDepth)+" deep")
	}
	return nil
}

// unary reads - and !, which bind less than ^.
func (p *parser) unary() (node, *SyntaxError) {
	p.blanks()
	at := p.pos
	op := p.sign()
	if op == 0 {
		return p.power()
	}
	if f := p.enter(); f != nil {
		return node{}, f
	}
	n, f := p.unary()
	p.depth--
	return p.prefix(op, at, n, f)
}

// sign reads - or !, and returns 0 for anything else.
func (p *parser) sign() byte {
	rest := p.source[p.pos:]
	if rest == "" || rest[0] != '-' && rest[0] != '!' || strings.HasPrefix(rest, "!=") {
		return 0
	}
	p.pos++
	return rest[0]
}

func (p *parser) prefix(op byte, at int, n node, f *SyntaxError) (node, *SyntaxError) {
	if f == nil {
		f = p.free(n)
	}
	if f != nil {
		return n, f
	}
	if op == '-' {
		return node{start: at, run: negate(p.column(at), n.run)}, p.count()
	}
	return node{start: at, run: not(p.column(at), n.run)}, p.count()
}

func (p *parser) power() (node, *SyntaxError) {
	left, f := p.primary()
	for f == nil {
		p.blanks()
		if p.pos >= len(p.source) || p.source[p.pos] != '^' {
			break
		}
		at := p.pos
		p.pos++
		var right node
		if right, f = p.exponent(); f == nil {
			left, f = p.join("^", at, left, right)
		}
	}
	return left, f
}

// exponent reads what follows a ^: it may have signs.
func (p *parser) exponent() (node, *SyntaxError) {
	p.blanks()
	at := p.pos
	op := p.sign()
	if op == 0 {
		return p.primary()
	}
	if f := p.enter(); f != nil {
		return node{}, f
	}
	n, f := p.exponent()
	p.depth--
	return p.prefix(op, at, n, f)
}

func (p *parser) primary() (node, *SyntaxError) {
	p.blanks()
	start, rest := p.pos, p.source[p.pos:]
	if rest == "" {
		return node{}, p.fault(start, "the expression ends where a value is expected")
	}
	switch c := rest[0]; {
	case c == '(':
		if f := p.enter(); f != nil {
			return node{}, f
		}
		p.pos++
		p.blanks()
		if strings.HasPrefix(p.source[p.pos:], ")") {
			p.pos++
			p.depth--
			p.p.UsesEmpty = true
			return p.constant(start, Value{})
		}
		n, f := p.group(start, ")")
		p.depth--
		return n, f
	case c == '$':
		return p.variable()
	case c == '"' || c == '\'':
		text, f := p.text(c)
		if f != nil {
			return node{}, f
		}
		return p.constant(start, Value{Kind: String, Text: text})
	case c >= '0' && c <= '9' || c == '.':
		return p.number()
	}
	if word := identifier(rest); word != "" {
		p.pos += len(word)
		return p.word(start, word)
	}
	if f := p.unexpected(); !strings.HasPrefix(f.Text, "an operator") {
		return node{}, f
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return node{}, p.fault(start, "a value is expected, not "+strconv.QuoteRune(r))
}

func (p *parser) constant(start int, v Value) (node, *SyntaxError) {
	return node{start: start, constant: &v, run: func(_ *Env, out *Value) error {
		*out = v
		return nil
	}}, p.count()
}

func (p *parser) variable() (node, *SyntaxError) {
	start := p.pos
	end := start + 1
	for end < len(p.source) && p.source[end] >= '0' && p.source[end] <= '9' {
		end++
	}
	name := p.source[start:end]
	n, err := strconv.Atoi(name[1:])
	switch {
	case err != nil || n < 1 || name[1] == '0':
		return node{}, p.fault(start, "a variable is $ and the number of an input, from $1")
	case n > p.o.Inputs:
		return node{}, p.fault(start, name+" has no input: the rule has "+strconv.Itoa(p.o.Inputs))
	}
	p.pos = end
	i := n - 1
	return node{start: start, variable: n, run: func(e *Env, out *Value) error {
		*out = e.In[i]
		return nil
	}}, p.count()
}

// free says that a bare variable is no value in an accumulation rule: it is many.
func (p *parser) free(n node) *SyntaxError {
	if p.o.Place != InAccumulate {
		return nil
	}
	for _, part := range append(n.tuple, n) {
		if part.variable > 0 {
			return p.fault(part.start, "$"+strconv.Itoa(part.variable)+" is one value of each message of the window; aggregate it, as in average($"+strconv.Itoa(part.variable)+")")
		}
	}
	return nil
}

func (p *parser) text(quote byte) ([]byte, *SyntaxError) {
	start := p.pos
	text := []byte{}
	for i := start + 1; i < len(p.source); i++ {
		switch c := p.source[i]; c {
		case quote:
			p.pos = i + 1
			return text, nil
		case '\\':
			if i++; i >= len(p.source) || p.source[i] != '\\' && p.source[i] != '"' && p.source[i] != '\'' {
				return nil, p.fault(i-1, `after \ only \ or a quotation mark may follow; write \\ for one \`)
			}
			text = append(text, p.source[i])
		default:
			text = append(text, c)
		}
	}
	return nil, p.fault(start, "the text has no closing quotation mark")
}

func (p *parser) number() (node, *SyntaxError) {
	start, end := p.pos, p.pos
	for end < len(p.source) {
		c := p.source[end]
		if c >= '0' && c <= '9' || c == '.' || c|0x20 >= 'a' && c|0x20 <= 'z' ||
			(c == '+' || c == '-') && p.source[end-1]|0x20 == 'e' && end > start {
			end++
			continue
		}
		break
	}
	text := p.source[start:end]
	p.pos = end
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return p.constant(start, Value{Kind: Int, Int: n})
	}
	if v := (Value{}); p.o.Wide && parseWide(text, &v) {
		return p.constant(start, v)
	}
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case strings.Trim(text, "0123456789") == "":
		return node{}, p.fault(start, "the integer does not fit "+strconv.Itoa(p.bits())+" bits")
	case err != nil && math.IsInf(f, 0):
		return node{}, p.fault(start, "the number is too large for a 64-bit float")
	case err != nil || strings.Trim(text, "0123456789.eE+-") != "":
		return node{}, p.fault(start, strconv.Quote(cut(text))+" is no number")
	}
	return p.constant(start, Value{Kind: Float, Float: f})
}

// cut shortens what a fault repeats.
func cut(text string) string {
	if len(text) > 40 {
		return strings.ToValidUTF8(text[:40], "") + "…"
	}
	return text
}

// identifier returns the name that a text begins with: words that are joined by ::.
func identifier(text string) string {
	end := 0
	for end < len(text) {
		c := text[end]
		switch {
		case c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || end > 0 && c >= '0' && c <= '9':
			end++
		case end > 0 && strings.HasPrefix(text[end:], "::"):
			end += 2
		default:
			return text[:end]
		}
	}
	return text[:end]
}

// word reads what follows a name: the arguments of a call.
func (p *parser) word(start int, name string) (node, *SyntaxError) {
	p.blanks()
	if !strings.HasPrefix(p.source[p.pos:], "(") {
		switch name {
		case "true", "false":
			var v Value
			v.setBool(name == "true")
			return p.constant(start, v)
		case "and", "or", "not":
			return node{}, p.fault(start, "the words and, or, not do not exist; write &&, ||, !")
		}
		if _, ok := functions[name]; ok {
			return node{}, p.fault(start, name+" is a function: its arguments follow in parentheses")
		}
		return node{}, p.fault(start, strconv.Quote(cut(name))+` is neither a value nor a call; inputs are $1, $2, …, and a text stands in "quotation marks"`)
	}
	if f := p.enter(); f != nil {
		return node{}, f
	}
	defer func() { p.depth-- }()
	open := p.pos
	p.pos++
	p.blanks()
	if strings.HasPrefix(p.source[p.pos:], ")") {
		p.pos++
		return p.call(start, name, nil)
	}
	args, f := p.list(open, ")")
	if f != nil {
		return node{}, f
	}
	return p.call(start, name, args)
}

func (p *parser) tuple(start int, parts []node) (node, *SyntaxError) {
	runs := make([]fn, len(parts))
	for i := range parts {
		runs[i] = parts[i].run
	}
	return node{start: start, tuple: parts, run: func(e *Env, out *Value) error {
		tuple := e.tuple(len(runs))
		for i, run := range runs {
			if err := run(e, &tuple[i]); err != nil {
				return err
			}
		}
		*out = Value{Kind: Tuple, Tuple: tuple}
		return nil
	}}, p.count()
}

// call compiles the call of a function.
func (p *parser) call(start int, name string, args []node) (node, *SyntaxError) {
	if use, ok, f := p.use(start, name, args); ok || f != nil {
		return use, f
	}
	fun, ok := functions[name]
	if !ok || p.o.NoRegex && fun.regex {
		return node{}, p.unknown(start, name)
	}
	if len(args) < fun.least || len(args) > fun.most && fun.most >= 0 {
		want := strconv.Itoa(fun.least)
		switch {
		case fun.most < 0:
			want = "at least " + want
		case fun.most > fun.least:
			want += " or " + strconv.Itoa(fun.most)
		}
		return node{}, p.fault(start, name+" takes "+want+" arguments, not "+strconv.Itoa(len(args)))
	}
	for _, arg := range args {
		if f := p.free(arg); f != nil {
			return arg, f
		}
	}
	run, f := fun.make(p, start, args)
	if f != nil {
		return node{}, f
	}
	return node{start: start, run: run}, p.count()
}

// use compiles the call of an aggregate or of a running function.
func (p *parser) use(start int, name string, args []node) (n node, ok bool, f *SyntaxError) {
	switch p.o.Place {
	case InAccumulate:
		ok = slices.Contains(aggregates, name)
		if ok && (name == "min" || name == "max") && (len(args) != 1 || args[0].variable == 0) {
			for _, arg := range args { // the ordinary function, of aggregates
				if f := p.free(arg); f != nil {
					return n, true, f
				}
			}
			return n, false, nil
		}
	case InTrigger:
		ok = slices.Contains(running, name)
	default:
	}
	if !ok {
		return n, false, nil
	}
	input := -1
	switch {
	case len(args) == 1 && args[0].variable > 0:
		input = args[0].variable - 1
	case len(args) > 0 || name != "running_count":
		return n, true, p.fault(start, name+" takes exactly one variable, as in "+name+"($1)")
	}
	use := Use{name, input}
	i := slices.Index(p.p.Uses, use)
	if i < 0 {
		i = len(p.p.Uses)
		p.p.Uses = append(p.p.Uses, use)
	}
	column := p.column(start)
	return node{start: start, run: func(e *Env, out *Value) error {
		if *out = e.Results[i]; out.Kind == Absent {
			return &Error{Column: column, Reason: errNoValue}
		}
		return nil
	}}, true, p.count()
}

// unknown says which functions there are instead.
func (p *parser) unknown(start int, name string) *SyntaxError {
	if slices.Contains(aggregates, name) {
		return p.fault(start, name+" is an aggregate; only the accumulation rules of a window have it")
	}
	if slices.Contains(running, name) {
		return p.fault(start, name+" looks at earlier messages; only the triggers of a window have it")
	}
	if f, ok := functions[name]; ok && f.regex {
		return p.fault(start, name+" exists in data flow graphs only, not in the kind Dataflow")
	}
	if other := otherwise[name]; other != "" {
		if p.o.Place == InTrigger {
			other = "running_avg"
		}
		text := "there is no function " + strconv.Quote(name) + "; did you mean " + other + "?"
		if p.o.Place != InTrigger && p.o.Place != InAccumulate {
			text += " Only the accumulation rules of a window have it"
		}
		return p.fault(start, text)
	}
	known := slices.Sorted(maps.Keys(functions))
	switch p.o.Place {
	case InAccumulate:
		known = append(known, aggregates...)
	case InTrigger:
		known = append(known, running...)
	default:
	}
	text := "there is no function " + strconv.Quote(cut(name))
	if len(name) <= 40 {
		if best := suggest.Nearest(name, known, 3); best != "" {
			text += "; did you mean " + best + "?"
		}
	}
	return p.fault(start, text)
}

// otherwise has names that other languages give to a function.
var otherwise = map[string]string{"avg": "average", "mean": "average"}

// aggregates reduce the values of a window to one; running functions look at earlier messages of
// one.
var (
	aggregates = []string{"average", "sum", "min", "max", "count", "first", "last"}
	running    = []string{"running_sum", "running_avg", "running_min", "running_max", "running_count", "first", "changed", "prev"}
)
