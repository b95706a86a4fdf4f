package expr

import (
	"bytes"
	"math"
	"math/big"
	"regexp"
	"unicode/utf8"
)

// function is one that rules may call.
type function struct {
	least, most int // arguments; most < 0: any number
	regex       bool
	make        func(p *parser, start int, args []node) (fn, *SyntaxError)
}

// functions are set once, before anything is compiled.
var functions map[string]function

func init() { // the table and the parser name each other
	functions = map[string]function{
		"cToF":     formula(func(x float64) float64 { return float64(x*9/5) + 32 }),
		"fToC":     formula(func(x float64) float64 { return (x - 32) * 5 / 9 }),
		"psiToBar": formula(func(x float64) float64 { return x * 0.0689476 }),
		"barToPsi": formula(func(x float64) float64 { return x / 0.0689476 }),
		"inToCm":   formula(func(x float64) float64 { return x * 2.54 }),
		"cmToIn":   formula(func(x float64) float64 { return x / 2.54 }),
		"ftToM":    formula(func(x float64) float64 { return x * 0.3048 }),
		"mToFt":    formula(func(x float64) float64 { return x / 0.3048 }),
		"lbToKg":   formula(func(x float64) float64 { return x * 0.453592 }),
		"kgToLb":   formula(func(x float64) float64 { return x / 0.453592 }),
		"galToL":   formula(func(x float64) float64 { return x * 3.78541 }),
		"lToGal":   formula(func(x float64) float64 { return x / 3.78541 }),

		"floor":       formula(math.Floor),
		"round":       formula(math.Round),
		"ceil":        formula(math.Ceil),
		"math::sqrt":  formula(math.Sqrt),
		"math::cbrt":  formula(math.Cbrt),
		"math::ln":    formula(math.Log),
		"math::log2":  formula(math.Log2),
		"math::log10": formula(math.Log10),
		"math::exp":   formula(math.Exp),
		"math::exp2":  formula(math.Exp2),
		"math::cos":   formula(math.Cos),
		"math::sin":   formula(math.Sin),
		"math::tan":   formula(math.Tan),
		"math::acos":  formula(math.Acos),
		"math::asin":  formula(math.Asin),
		"math::atan":  formula(math.Atan),
		"math::log":   formula2(func(x, base float64) float64 { return math.Log(x) / math.Log(base) }),
		"math::pow":   formula2(math.Pow),
		"math::atan2": formula2(math.Atan2),
		"math::hypot": formula2(math.Hypot),
		"math::abs":   simple(1, 1, abs),
		"abs":         simple(1, 1, abs),
		"scale":       simple(5, 5, scale),
		"round_n":     simple(2, 2, roundN),
		"min":         simple(1, -1, extreme(-1)),
		"max":         simple(1, -1, extreme(1)),

		"len":                simple(1, 1, length),
		"typeof":             simple(1, 1, typeOf),
		"contains":           simple(2, 2, contains),
		"contains_any":       simple(2, 2, containsAny),
		"str::to_lowercase":  textual(bytes.ToLower),
		"str::to_uppercase":  textual(bytes.ToUpper),
		"str::trim":          textual(bytes.TrimSpace),
		"str::from":          simple(1, 1, from),
		"str::substring":     simple(2, 3, substring),
		"str::regex_matches": {least: 2, most: 2, regex: true, make: makeRegex(regexMatches)},
		"str::regex_replace": {least: 3, most: 3, regex: true, make: makeRegex(regexReplace)},
		"if":                 {least: 3, most: 3, make: makeIf},
	}
}

// simple makes a function of one that gets all arguments computed.
func simple(least, most int, compute func(e *Env, args []Value, out *Value) error) function {
	return function{least: least, most: most, make: func(p *parser, start int, args []node) (fn, *SyntaxError) {
		column := p.column(start)
		runs := make([]fn, len(args))
		for i := range args {
			runs[i] = args[i].run
		}
		return func(e *Env, out *Value) error {
			values := e.frame(len(runs))
			for i, run := range runs {
				if err := run(e, &values[i]); err != nil {
					return err
				}
			}
			e.depth -= len(runs)
			if err := compute(e, values, out); err != nil {
				return failed(column, err, values)
			}
			return nil
		}, nil
	}}
}

func failed(column int, err error, args []Value) error {
	e := &Error{Column: column, Reason: err}
	for i := range args[:min(len(args), 5)] {
		e.Kinds = append(e.Kinds, args[i].Kind)
	}
	return e
}

// formula makes a function of one number, which gives a float.
func formula(compute func(x float64) float64) function {
	return function{least: 1, most: 1, make: func(p *parser, start int, args []node) (fn, *SyntaxError) {
		column, run := p.column(start), args[0].run
		return func(e *Env, out *Value) error {
			if err := run(e, out); err != nil {
				return err
			}
			x, ok := out.Number()
			if !ok {
				return &Error{Column: column, Reason: errNumbers, Kinds: []Kind{out.Kind}}
			}
			*out = Value{Kind: Float, Float: compute(x)}
			return nil
		}, nil
	}}
}

func formula2(compute func(x, y float64) float64) function {
	return simple(2, 2, func(_ *Env, args []Value, out *Value) error {
		return float(&args[0], &args[1], out, compute)
	})
}

// textual makes a function of one string, which gives a string.
func textual(compute func(text []byte) []byte) function {
	return simple(1, 1, func(_ *Env, args []Value, out *Value) error {
		if args[0].Kind != String {
			return errString
		}
		*out = Value{Kind: String, Text: compute(args[0].Text)}
		return nil
	})
}

func abs(e *Env, args []Value, out *Value) error {
	switch v := args[0]; {
	case v.Kind == Float:
		*out = Value{Kind: Float, Float: math.Abs(v.Float)}
	case v.Kind == Wide || v.Kind == Int && v.Int == math.MinInt64:
		if c, _ := Compare(&v, &Value{Kind: Int}); c > 0 {
			*out = v
			return nil
		}
		return e.wide(&Value{Kind: Int}, &v, out, (*big.Int).Sub)
	case v.Kind != Int:
		return errNumbers
	default:
		*out = Value{Kind: Int, Int: max(v.Int, -v.Int)}
	}
	return nil
}

func scale(_ *Env, args []Value, out *Value) error {
	var x [5]float64
	for i := range x {
		var ok bool
		if x[i], ok = args[i].Number(); !ok {
			return errNumbers
		}
	}
	share := (x[0] - x[1]) / (x[2] - x[1])
	*out = Value{Kind: Float, Float: x[3] + float64(share*(x[4]-x[3]))}
	return nil
}

func roundN(_ *Env, args []Value, out *Value) error {
	x, ok := args[0].Number()
	if !ok {
		return errNumbers
	}
	if args[1].Kind != Int || args[1].Int < 0 || args[1].Int > 15 {
		return errDecimals
	}
	p := math.Pow10(int(args[1].Int))
	if y := x * p; !math.IsInf(y, 0) {
		x = math.Round(y) / p
	}
	*out = Value{Kind: Float, Float: x}
	return nil
}

// extreme is min (-1) or max (1), of numbers or of one tuple of numbers.
func extreme(sign int) func(e *Env, args []Value, out *Value) error {
	return func(_ *Env, args []Value, out *Value) error {
		if len(args) == 1 && args[0].Kind == Tuple {
			args = args[0].Tuple
		}
		best := -1
		for i := range args {
			if _, ok := args[i].Number(); !ok {
				return errMin
			}
			if best >= 0 {
				if c, _ := Compare(&args[i], &args[best]); c != sign {
					continue
				}
			}
			best = i
		}
		if best < 0 {
			return errMin
		}
		*out = args[best]
		return nil
	}
}

func length(_ *Env, args []Value, out *Value) error {
	switch v := args[0]; v.Kind {
	case String:
		*out = Value{Kind: Int, Int: int64(utf8.RuneCount(v.Text))}
	case Tuple:
		*out = Value{Kind: Int, Int: int64(len(v.Tuple))}
	default:
		return errLen
	}
	return nil
}

func typeOf(_ *Env, args []Value, out *Value) error {
	*out = Value{Kind: String, Text: []byte(args[0].Kind.String())}
	return nil
}

func contains(_ *Env, args []Value, out *Value) error {
	if args[0].Kind != Tuple {
		return errTuple
	}
	out.setBool(args[0].has(&args[1]))
	return nil
}

func (v *Value) has(o *Value) bool {
	for i := range v.Tuple {
		if v.Tuple[i].Equal(o) {
			return true
		}
	}
	return false
}

func containsAny(_ *Env, args []Value, out *Value) error {
	if args[0].Kind != Tuple || args[1].Kind != Tuple {
		return errTuple
	}
	found := false
	for i := range args[1].Tuple {
		found = found || args[0].has(&args[1].Tuple[i])
	}
	out.setBool(found)
	return nil
}

func from(e *Env, args []Value, out *Value) error {
	if args[0].Kind == JSON {
		return errJSON
	}
	start := len(e.text)
	e.text = args[0].AppendText(e.text)
	*out = Value{Kind: String, Text: e.since(start)}
	return nil
}

func substring(_ *Env, args []Value, out *Value) error {
	if args[0].Kind != String {
		return errString
	}
	text, end := args[0].Text, int64(-1)
	if len(args) == 3 {
		if args[2].Kind != Int {
			return errInteger
		}
		if end = args[2].Int; end < 0 {
			return errRange
		}
	}
	if args[1].Kind != Int {
		return errInteger
	}
	start := args[1].Int
	first, last := -1, -1
	at := 0
	for i := int64(0); ; i++ {
		if i == start {
			first = at
		}
		if i == end || end < 0 && at == len(text) {
			last = at
			break
		}
		if at == len(text) {
			break
		}
		_, n := utf8.DecodeRune(text[at:])
		at += n
	}
	if first < 0 || last < first {
		return errRange
	}
	*out = Value{Kind: String, Text: text[first:last:last]}
	return nil
}

func makeIf(p *parser, start int, args []node) (fn, *SyntaxError) {
	column, condition, yes, no := p.column(start), args[0].run, args[1].run, args[2].run
	return func(e *Env, out *Value) error {
		if err := condition(e, out); err != nil {
			return err
		}
		if out.Kind != Bool {
			return &Error{Column: column, Reason: errIf, Kinds: []Kind{out.Kind}}
		}
		if out.True() {
			return yes(e, out)
		}
		return no(e, out)
	}, nil
}

// maxPattern bounds a regular expression that comes with a message, in bytes.
const maxPattern = 1 << 10

// makeRegex compiles a constant pattern at once, and remembers the last one of any other.
func makeRegex(compute func(e *Env, re *regexp.Regexp, args []Value, out *Value) error) func(p *parser, start int, args []node) (fn, *SyntaxError) {
	return func(p *parser, start int, args []node) (fn, *SyntaxError) {
		var re *regexp.Regexp
		constant := args[1].constant != nil
		if c := args[1].constant; constant {
			var err error
			if re, err = regexp.Compile(string(c.Text)); err != nil || c.Kind != String {
				text := "the pattern must be a text"
				if err != nil {
					text = cut(err.Error())
				}
				return nil, p.fault(args[1].start, text)
			}
		}
		last := ""
		fun := simple(2, 3, func(e *Env, args []Value, out *Value) error {
			for i := range args {
				if args[i].Kind != String {
					return errString
				}
			}
			if constant || re != nil && string(args[1].Text) == last {
				return compute(e, re, args, out)
			}
			if len(args[1].Text) > maxPattern {
				return errRegex
			}
			other, err := regexp.Compile(string(args[1].Text))
			if err != nil {
				return errRegex
			}
			re, last = other, string(args[1].Text)
			return compute(e, re, args, out)
		})
		return fun.make(p, start, args)
	}
}

func regexMatches(_ *Env, re *regexp.Regexp, args []Value, out *Value) error {
	out.setBool(re.Match(args[0].Text))
	return nil
}

func regexReplace(e *Env, re *regexp.Regexp, args []Value, out *Value) error {
	text, replacement := args[0].Text, args[2].Text
	// A replacement can be long and be put in often: bound the work before it is done.
	matches := 0
	re.ReplaceAllFunc(text, func([]byte) []byte {
		matches++
		return nil
	})
	if matches > 0 && (len(text)+matches)*(bytes.Count(replacement, []byte("$"))+1)+matches*len(replacement) > max(8*e.MaxBytes, 1<<12) {
		return errLong
	}
	result := re.ReplaceAll(text, replacement)
	if len(result) > e.MaxBytes {
		return errLong
	}
	*out = Value{Kind: String, Text: result}
	return nil
}
