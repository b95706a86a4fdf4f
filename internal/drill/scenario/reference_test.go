package scenario

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// reference returns the tables of docs/drill.md: each key of the language, what its value may be,
// and what it is about.
func reference() string {
	var b strings.Builder
	for _, part := range []struct {
		title string
		of    reflect.Type
	}{
		{"The file", reflect.TypeFor[Scenario]()},
		{"`cloud`", reflect.TypeFor[Cloud]()},
		{"`device`", reflect.TypeFor[Device]()},
		{"`steady`", reflect.TypeFor[Steady]()},
		{"`budget`", reflect.TypeFor[Budget]()},
		{"`stop`", reflect.TypeFor[Stop]()},
		{"`steps`: each step", reflect.TypeFor[Step]()},
		{"`do`: each action", reflect.TypeFor[Action]()},
		{"`expect`", reflect.TypeFor[Expect]()},
	} {
		fmt.Fprintf(&b, "\n### %s\n\n| key | value | meaning |\n|---|---|---|\n", part.title)
		rows(&b, part.of, "", part.of == reflect.TypeFor[Action]())
	}
	return b.String()
}

// rows writes the rows of a type, with those of its parts if deep.
func rows(b *strings.Builder, t reflect.Type, prefix string, deep bool) {
	for _, f := range strict.FieldsOf(t) {
		key, inner := prefix+f.Tag.Get("key"), f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		must := ""
		if f.Tag.Get("must") != "" {
			must = " (must be there)"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s%s |\n", key, strings.ReplaceAll(valueOf(inner, f.Tag), "|", `\|`), f.Tag.Get("about"), must)
		if deep && inner.Kind() == reflect.Struct && !reflect.PointerTo(inner).Implements(wordType) {
			rows(b, inner, key+".", true)
		}
	}
}

// valueOf says what a value may be.
func valueOf(t reflect.Type, tag reflect.StructTag) string {
	switch {
	case t == jsonType:
		return "any value"
	case t == reflect.TypeFor[RetryAfter]():
		return "whole seconds, or none"
	case t == reflect.TypeFor[Bytes]():
		return "a size such as 64MiB"
	case t == durationType:
		return strings.TrimSuffix(wanted(t, tag), ", such as 500ms, 10s, 3m, 72h or 7d")
	case t.Kind() == reflect.Map:
		return "an object of any values"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return "a list of texts"
	case t.Kind() == reflect.Slice:
		return "a list, see below"
	case t.Kind() == reflect.Struct && len(strict.FieldsOf(t)) == 0:
		return "nothing: the word alone"
	case t.Kind() == reflect.Struct:
		return "an object"
	}
	return wanted(t, tag)
}
