package azure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// EncodeJSON returns the JSON text of a value. What cannot be encoded becomes a JSON string that
// says why, so that the answer to a client stays JSON.
func EncodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // our own types and decoded JSON only
		return []byte(strconv.Quote(fmt.Sprintf("cannot encode %T: %v", v, err)))
	}
	return b
}

// Optional is a string that is null in JSON when it is empty.
type Optional string

// MarshalJSON writes null for the empty string.
func (o Optional) MarshalJSON() ([]byte, error) {
	if o == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(o))
}

// JSONFault says what is wrong with a JSON text without naming Go types, which the errors of
// encoding/json do. into is the value that the text was decoded into, for the names of its fields;
// nil if unknown fields are allowed.
func JSONFault(err error, into any) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := "the document"
		if e.Field != "" {
			what = fmt.Sprintf("the field %.128q", e.Field)
		}
		got, _, _ := strings.Cut(e.Value, " ") // "number 1.5"
		return fmt.Sprintf("%s must be %s, and is %s", what, jsonKind(e.Type), jsonArticle(got))
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("it is not JSON, byte %d: %v", e.Offset, e)
	}
	if e, ok := errors.AsType[*strconv.NumError](err); ok {
		return fmt.Sprintf("%.128q is not a number", e.Num)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return "it is not JSON: it ends too early"
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if strings.HasPrefix(text, "unknown field ") && into != nil {
		text = fmt.Sprintf("%.160s; there are: %s", text, strings.Join(JSONFields(reflect.TypeOf(into)), ", "))
	}
	return text
}

// jsonKind returns the JSON name of a Go type.
func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonKind(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Slice, reflect.Array:
		return "an array"
	default:
		return "an object"
	}
}

// jsonArticle puts the article before a kind of value in the words of encoding/json.
func jsonArticle(value string) string {
	switch value {
	case "array", "object":
		return "an " + value
	case "bool":
		return "true or false"
	}
	return "a " + value
}

// JSONFields returns the names of the fields of an object of this type, in order.
func JSONFields(t reflect.Type) (names []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
