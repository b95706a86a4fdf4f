package expr

import (
	"strconv"
	"strings"
)

// SyntaxError says what is wrong with an expression, and at which character, counted from 1.
type SyntaxError struct {
	Column int
	Text   string
}

// Error returns the text and where it is.
func (f *SyntaxError) Error() string { return "column " + strconv.Itoa(f.Column) + ": " + f.Text }

// reason is why an expression has no value for a message.
type reason string

// Error returns the reason.
func (r reason) Error() string { return string(r) }

const (
	errNumber   = reason("a number is too large for a 64-bit float")
	errNumbers  = reason("only numbers can be computed")
	errJSON     = reason("objects, and arrays of more than simple values, can be copied only")
	errOverflow = reason("the result does not fit a 64-bit integer")
	errWide     = reason("the result does not fit a 128-bit integer")
	errDivision = reason("an integer is divided by zero")
	errBooleans = reason("only booleans can be joined by && and ||, or turned round by !")
	errCompared = reason("only two numbers or two strings have an order")
	errIf       = reason("the condition of if is no boolean")
	errString   = reason("a string is needed")
	errTuple    = reason("a tuple or an array is needed")
	errLen      = reason("only strings, tuples and arrays have a length")
	errMin      = reason("min and max want numbers")
	errInteger  = reason("an integer is needed")
	errDecimals = reason("round_n wants 0 to 15 decimals")
	errRange    = reason("the characters from start to end are not all there")
	errLong     = reason("the text that is computed is too long")
	errRegex    = reason("the pattern is no valid regular expression")
	errNoValue  = reason("no message of the window has a value for an aggregate")
)

// Error says why an expression has no value for one message, and at which character. Its text is
// put together only when somebody reads it.
type Error struct {
	Column int
	Reason error
	Kinds  []Kind // of the values that did not fit
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Reason }

// Error returns the reason, the types that were there instead, and the column.
func (e *Error) Error() string {
	kinds := make([]string, len(e.Kinds))
	for i, k := range e.Kinds {
		kinds[i] = k.String()
	}
	text := "column " + strconv.Itoa(e.Column) + ": " + e.Reason.Error()
	if len(kinds) > 0 {
		text += "; got " + strings.Join(kinds, " and ")
	}
	return text
}
