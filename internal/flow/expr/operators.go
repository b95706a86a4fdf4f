package expr

import (
	"math"
	"math/big"
)

// operate compiles a binary operator. Its left side is computed in the place of the result.
func operate(op string, column int, left, right node) fn {
	l, r := left.run, right.run
	switch op {
	case "&&", "||":
		return logic(op == "||", column, l, r)
	case "==", "!=":
		return equality(op == "!=", column, l, r)
	case "<", "<=", ">", ">=":
		return order(op, column, left, right)
	}
	arithmetic := map[string]func(e *Env, a, b, out *Value) error{
		"+": add, "-": subtract, "*": multiply, "/": divide, "%": modulo, "^": power,
	}[op]
	return func(e *Env, out *Value) error {
		if err := l(e, out); err != nil {
			return err
		}
		b := &e.frame(1)[0]
		if err := r(e, b); err != nil {
			return err
		}
		e.depth--
		if err := arithmetic(e, out, b, out); err != nil {
			return &Error{Column: column, Reason: err, Kinds: []Kind{out.Kind, b.Kind}}
		}
		return nil
	}
}

func logic(or bool, column int, l, r fn) fn {
	return func(e *Env, out *Value) error {
		if err := l(e, out); err != nil {
			return err
		}
		if out.Kind == Bool && out.True() == or {
			return nil
		}
		if out.Kind == Bool {
			if err := r(e, out); err != nil {
				return err
			}
		}
		if out.Kind != Bool {
			return &Error{Column: column, Reason: errBooleans, Kinds: []Kind{out.Kind}}
		}
		return nil
	}
}

func equality(unequal bool, column int, l, r fn) fn {
	return func(e *Env, out *Value) error {
		if err := l(e, out); err != nil {
			return err
		}
		b := &e.frame(1)[0]
		if err := r(e, b); err != nil {
			return err
		}
		e.depth--
		if out.Kind == JSON && b.Kind == JSON {
			return &Error{Column: column, Reason: errJSON}
		}
		out.setBool(out.Equal(b) != unequal)
		return nil
	}
}

func order(op string, column int, left, right node) fn {
	l, r := left.run, right.run
	less, equal := op[0] == '<', len(op) == 2
	return func(e *Env, out *Value) error {
		if err := l(e, out); err != nil {
			return err
		}
		b := &e.frame(1)[0]
		if err := r(e, b); err != nil {
			return err
		}
		e.depth--
		c, ok := Compare(out, b)
		if !ok {
			return &Error{Column: column, Reason: errCompared, Kinds: []Kind{out.Kind, b.Kind}}
		}
		out.setBool(c == 0 && equal || c == -1 && less || c == 1 && !less)
		return nil
	}
}

// Compare returns -1, 0 or 1 as a is before, at or after b, and 2 if a NaN is among them. ok is
// false unless both are numbers or both strings.
func Compare(a, b *Value) (c int, ok bool) {
	switch {
	case a.Kind == Int && b.Kind == Int:
		return three(a.Int < b.Int, a.Int > b.Int), true
	case areWide(a, b):
		x, _ := a.asBig()
		y, _ := b.asBig()
		return x.Cmp(y), true
	case a.Kind == String && b.Kind == String:
		return three(string(a.Text) < string(b.Text), string(a.Text) > string(b.Text)), true
	}
	x, ok := a.Number()
	y, ok2 := b.Number()
	if math.IsNaN(x) || math.IsNaN(y) {
		return 2, ok && ok2
	}
	return three(x < y, x > y), ok && ok2
}

func three(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}

func add(e *Env, a, b, out *Value) error {
	if a.Kind == String || b.Kind == String {
		if a.Kind == JSON || b.Kind == JSON {
			return errJSON
		}
		start := len(e.text)
		e.text = b.AppendText(a.AppendText(e.text))
		if len(e.text)-start > e.MaxBytes {
			return errLong
		}
		*out = Value{Kind: String, Text: e.since(start)}
		return nil
	}
	if a.Kind == Int && b.Kind == Int {
		c := a.Int + b.Int
		if (c > a.Int) != (b.Int > 0) {
			return e.wide(a, b, out, (*big.Int).Add)
		}
		*out = Value{Kind: Int, Int: c}
		return nil
	}
	if areWide(a, b) {
		return e.wide(a, b, out, (*big.Int).Add)
	}
	return float(a, b, out, func(x, y float64) float64 { return x + y })
}

func float(a, b, out *Value, compute func(x, y float64) float64) error {
	x, ok := a.Number()
	y, ok2 := b.Number()
	if !ok || !ok2 {
		return errNumbers
	}
	*out = Value{Kind: Float, Float: compute(x, y)}
	return nil
}

func subtract(e *Env, a, b, out *Value) error {
	if a.Kind == Int && b.Kind == Int {
		c := a.Int - b.Int
		if (c < a.Int) != (b.Int > 0) {
			return e.wide(a, b, out, (*big.Int).Sub)
		}
		*out = Value{Kind: Int, Int: c}
		return nil
	}
	if areWide(a, b) {
		return e.wide(a, b, out, (*big.Int).Sub)
	}
	return float(a, b, out, func(x, y float64) float64 { return x - y })
}

func multiply(e *Env, a, b, out *Value) error {
	if a.Kind == Int && b.Kind == Int {
		c := a.Int * b.Int
		if a.Int != 0 && (c/a.Int != b.Int || a.Int == -1 && b.Int == math.MinInt64) {
			return e.wide(a, b, out, (*big.Int).Mul)
		}
		*out = Value{Kind: Int, Int: c}
		return nil
	}
	if areWide(a, b) {
		return e.wide(a, b, out, (*big.Int).Mul)
	}
	return float(a, b, out, func(x, y float64) float64 { return x * y })
}

func divide(e *Env, a, b, out *Value) error {
	if a.Kind == Int && b.Kind == Int || areWide(a, b) {
		return divideIntegers(e, a, b, out, func(x, y int64) int64 { return x / y }, (*big.Int).Quo)
	}
	return float(a, b, out, func(x, y float64) float64 { return x / y })
}

func modulo(e *Env, a, b, out *Value) error {
	if a.Kind == Int && b.Kind == Int || areWide(a, b) {
		return divideIntegers(e, a, b, out, func(x, y int64) int64 { return x % y }, (*big.Int).Rem)
	}
	return float(a, b, out, math.Mod)
}

// divideIntegers computes a quotient or a remainder. It fails if the divisor is 0.
func divideIntegers(e *Env, a, b, out *Value,
	compute func(x, y int64) int64, wide func(z, x, y *big.Int) *big.Int,
) error {
	switch {
	case b.Kind == Int && b.Int == 0:
		return errDivision
	case areWide(a, b) || a.Int == math.MinInt64 && b.Int == -1:
		return e.wide(a, b, out, wide)
	}
	*out = Value{Kind: Int, Int: compute(a.Int, b.Int)}
	return nil
}

func power(_ *Env, a, b, out *Value) error { return float(a, b, out, math.Pow) }

func negate(column int, run fn) fn {
	return func(e *Env, out *Value) error {
		if err := run(e, out); err != nil {
			return err
		}
		switch {
		case out.Kind == Int && out.Int != math.MinInt64:
			*out = Value{Kind: Int, Int: -out.Int}
		case out.Kind == Float:
			*out = Value{Kind: Float, Float: -out.Float}
		case out.Kind == Int, out.Kind == Wide:
			if err := e.wide(&Value{Kind: Int}, out, out, (*big.Int).Sub); err != nil {
				return &Error{Column: column, Reason: err}
			}
		default:
			return &Error{Column: column, Reason: errNumbers, Kinds: []Kind{out.Kind}}
		}
		return nil
	}
}

func not(column int, run fn) fn {
	return func(e *Env, out *Value) error {
		if err := run(e, out); err != nil {
			return err
		}
		if out.Kind != Bool {
			return &Error{Column: column, Reason: errBooleans, Kinds: []Kind{out.Kind}}
		}
		out.setBool(!out.True())
		return nil
	}
}
