// Package expr is the expression language of data flows (Microsoft's page "Expressions reference
// for data flows"): it compiles an expression once, and computes it for one message after another.
//
// Where the page leaves something open, the language follows the Rust crate evalexpr, whose names
// the functions have: ^ binds tighter than a unary minus, so that -2^2 is -4. What a program
// computes depends on its inputs alone.
package expr

import (
	"bytes"
	"math"
	"math/big"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
)

// Kind is the type of a value.
type Kind byte

// The types of values. A JSON value is an object, or an array that has more than primitive values
// in it: it can be copied, and not be computed with.
const (
	Empty Kind = iota
	Bool
	Int
	Float
	String
	Tuple
	JSON
	Absent // the result of an aggregate over nothing
	Wide   // an integer beyond 64 bits, of the older kind Dataflow
)

// String returns what typeof says.
func (k Kind) String() string {
	return [...]string{"empty", "boolean", "int", "float", "string", "tuple", "json", "absent", "int"}[k]
}

// Value is one value. It may share memory with the message that it comes from, and with the Env
// that has computed it: Clone one that must last.
type Value struct {
	Kind  Kind
	Int   int64    // of an Int; of a Bool, 1 for true
	Float float64  // of a Float
	Big   *big.Int // of a Wide; never changed
	// Text is what a String says. Of a number, Tuple or JSON it is the text as it was published;
	// nil for one that was computed.
	Text  []byte
	Tuple []Value
}

// Clone returns a value with memory of its own.
func (v Value) Clone() Value {
	v.Text = bytes.Clone(v.Text)
	if v.Tuple != nil {
		tuple := make([]Value, len(v.Tuple))
		for i := range v.Tuple {
			tuple[i] = v.Tuple[i].Clone()
		}
		v.Tuple = tuple
	}
	return v
}

func (v *Value) setBool(b bool) {
	*v = Value{Kind: Bool}
	if b {
		v.Int = 1
	}
}

// True says whether the value is the boolean true.
func (v *Value) True() bool { return v.Kind == Bool && v.Int != 0 }

// Number returns the value of an Int, a Float or a Wide as a float.
func (v *Value) Number() (f float64, ok bool) {
	switch v.Kind {
	case Int:
		return float64(v.Int), true
	case Float:
		return v.Float, true
	case Wide:
		f, _ = new(big.Float).SetInt(v.Big).Float64()
		return f, true
	default:
		return 0, false
	}
}

// Equal says whether two values are equal: of one type, or two numbers of the same size. JSON
// values are equal if their texts are.
func (v *Value) Equal(o *Value) bool {
	if areWide(v, o) {
		c, ok := Compare(v, o)
		return ok && c == 0
	}
	if v.Kind != o.Kind {
		a, ok := v.Number()
		b, ok2 := o.Number()
		return ok && ok2 && a == b
	}
	switch v.Kind {
	case Bool, Int:
		return v.Int == o.Int
	case Float:
		return v.Float == o.Float
	case String, JSON:
		return bytes.Equal(v.Text, o.Text)
	case Tuple:
		if len(v.Tuple) != len(o.Tuple) {
			return false
		}
		for i := range v.Tuple {
			if !v.Tuple[i].Equal(&o.Tuple[i]) {
				return false
			}
		}
	default: // all empty values are equal
	}
	return true
}

// AppendJSON appends the value as JSON: as it was published, if it still is that value. ok is false
// for a number that JSON cannot write: NaN and the infinite ones.
func (v *Value) AppendJSON(dst []byte) (out []byte, ok bool) {
	switch v.Kind {
	case Empty:
		return append(dst, "null"...), true
	case Bool:
		return strconv.AppendBool(dst, v.Int != 0), true
	case String:
		return jsonscan.AppendString(dst, v.Text), true
	default:
	}
	switch {
	case v.Text != nil:
		return append(dst, v.Text...), true
	case v.Kind == Int:
		return strconv.AppendInt(dst, v.Int, 10), true
	case v.Kind == Wide:
		return v.Big.Append(dst, 10), true
	case v.Kind == Float:
		if math.IsNaN(v.Float) || math.IsInf(v.Float, 0) {
			return dst, false
		}
		return jsonscan.AppendFloat(dst, v.Float), true
	}
	dst = append(dst, '[')
	for i := range v.Tuple {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, ok = v.Tuple[i].AppendJSON(dst); !ok {
			return dst, false
		}
	}
	return append(dst, ']'), true
}

// AppendText appends the value as + and str::from write it: a string as it is, a float without a
// fraction as a whole number, anything else as JSON.
func (v *Value) AppendText(dst []byte) []byte {
	switch v.Kind {
	case String:
		return append(dst, v.Text...)
	case Int:
		return strconv.AppendInt(dst, v.Int, 10)
	case Wide:
		return v.Big.Append(dst, 10)
	case Float:
		return strconv.AppendFloat(dst, v.Float, 'f', -1, 64)
	case Tuple:
		dst = append(dst, '[')
		for i := range v.Tuple {
			if i > 0 {
				dst = append(dst, ',')
			}
			if v.Tuple[i].Kind == String {
				dst = jsonscan.AppendString(dst, v.Tuple[i].Text)
				continue
			}
			dst = v.Tuple[i].AppendText(dst)
		}
		return append(dst, ']')
	default:
		dst, _ = v.AppendJSON(dst)
		return dst
	}
}

// Env is what a program computes with: its inputs, and memory that is used again. It must not be
// used by several goroutines at a time.
type Env struct {
	In       []Value // $1 is In[0]
	Results  []Value // of the aggregates, or of the running functions, in the order of the Program's Uses
	MaxBytes int     // of a text that is computed
	Wide     bool    // integers have 128 bits, as in the older kind Dataflow; else 64

	text   []byte
	values []Value // of tuples
	stack  []Value // of what is being computed
	depth  int     // how much of the stack is in use
}

// Reset forgets what has been computed: its memory is used again.
func (e *Env) Reset() {
	if cap(e.text) > 1<<16 || cap(e.values) > 1<<10 { // after a rare large message
		e.text, e.values = nil, nil
	}
	e.text, e.values = e.text[:0], e.values[:0]
}

// Mark and Rewind forget what has been computed in between.
func (e *Env) Mark() (text, values int) { return len(e.text), len(e.values) }

// Rewind forgets what has been computed since a Mark.
func (e *Env) Rewind(text, values int) { e.text, e.values = e.text[:text], e.values[:values] }

// since returns the bytes that were appended to e.text from start on.
func (e *Env) since(start int) []byte { return e.text[start:len(e.text):len(e.text)] }

// Bind reads a value of a document. It fails on a number that no float64 can hold.
func (e *Env) Bind(d *jsonscan.Document, i int, v *Value) error {
	n := &d.Nodes[i]
	switch n.Kind {
	case jsonscan.Null:
		*v = Value{}
	case jsonscan.True, jsonscan.False:
		v.setBool(n.Kind == jsonscan.True)
	case jsonscan.Number:
		return e.bindNumber(d.Raw(i), n.Integer(), v)
	case jsonscan.String:
		*v = Value{Kind: String}
		v.Text, e.text = d.String(i, e.text)
	case jsonscan.Object:
		*v = Value{Kind: JSON, Text: d.Raw(i)}
	case jsonscan.Array:
		return e.bindArray(d, i, v)
	}
	return nil
}

// BindText makes a string value of a text.
func (e *Env) BindText(text string, v *Value) {
	start := len(e.text)
	e.text = append(e.text, text...)
	*v = Value{Kind: String, Text: e.since(start)}
}

func (e *Env) bindNumber(raw []byte, integer bool, v *Value) error {
	*v = Value{Kind: Int, Text: raw}
	if integer {
		var ok bool
		if v.Int, ok = jsonscan.ParseInt(raw); ok {
			return nil
		}
		if e.Wide && len(raw) <= wideDigits && parseWide(string(raw), v) {
			v.Text = raw
			return nil
		}
	}
	var ok bool
	if v.Float, ok = jsonscan.ParseFloat(raw); !ok {
		return errNumber
	}
	v.Kind = Float
	return nil
}

func (e *Env) bindArray(d *jsonscan.Document, i int, v *Value) error {
	*v = Value{Kind: JSON, Text: d.Raw(i)}
	count := 0
	for c := range d.Children(i) {
		if k := d.Nodes[c].Kind; k == jsonscan.Object || k == jsonscan.Array {
			return nil
		}
		count++
	}
	tuple := e.tuple(count)
	at := 0
	for c := range d.Children(i) {
		if err := e.Bind(d, c, &tuple[at]); err != nil {
			return err
		}
		at++
	}
	v.Kind, v.Tuple = Tuple, tuple
	return nil
}

// frame returns room for n values that are needed until a result is known. The caller gives it back
// by taking n from depth, and need not if it fails.
func (e *Env) frame(n int) []Value {
	if e.depth+n > len(e.stack) { // frames that are in use stay where they are
		e.stack = make([]Value, max(2*len(e.stack), e.depth+n, 16))
	}
	e.depth += n
	return e.stack[e.depth-n : e.depth]
}

// tuple returns room for n values of a tuple.
func (e *Env) tuple(n int) []Value {
	start := len(e.values)
	if start+n > cap(e.values) { // the values so far stay where they are
		e.values = make([]Value, start, max(2*cap(e.values), start+n, 16))
	}
	e.values = e.values[:start+n]
	return e.values[start : start+n : start+n]
}
