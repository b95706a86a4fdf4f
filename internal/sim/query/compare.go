package query

import (
	"cmp"
	"encoding/json"
	"strings"
)

// path names a value within a document, member by member.
type path []string

// in returns the value at the path, and whether the document has one.
func (p path) in(document any) (any, bool) {
	for _, name := range p {
		m, ok := document.(map[string]any)
		if !ok {
			return nil, false
		}
		if document, ok = m[name]; !ok {
			return nil, false
		}
	}
	return document, true
}

// condition is a WHERE clause.
type condition func(document any) bool

// operand returns the value of one side of a comparison, and whether the document has such a value.
type operand func(document any) (any, bool)

// plain turns every number into a float64, so that numbers of a document and of a query compare.
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

// functions are the functions that a condition may call. Those whose name begins with IS_ take one
// argument, the others two; the second one is a string.
var functions = map[string]func(a any, defined bool, b string) bool{
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

// compare compares two values of the same type. Values of different types are not equal, and
// neither is less than the other.
func compare(op string, left, right operand, document any) bool {
	a, okA := left(document)
	b, okB := right(document)
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
