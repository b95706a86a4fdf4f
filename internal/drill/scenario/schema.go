package scenario

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// Schema returns the JSON schema of scenarios, for editors and other programs. It says what a file
// may hold, value by value. [Parse] is stricter: it also knows the bounds of times, and which
// values belong together.
func Schema() ([]byte, error) {
	s := &schema{defs: map[string]any{}}
	root := s.object(reflect.TypeFor[Scenario]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = "https://github.com/hubhop-iot/hubhop/scripts/scenarios/schema.json"
	root["title"] = "A scenario of hubhop drill"
	root["$defs"] = s.defs
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(root)
	return out.Bytes(), err
}

// schema collects the definitions of the types that it meets.
type schema struct{ defs map[string]any }

// object is the schema of a struct.
func (s *schema) object(t reflect.Type) map[string]any {
	properties, must := map[string]any{}, []string{}
	for _, f := range strict.FieldsOf(t) {
		form := s.form(f.Type, f.Tag)
		if bare(f.Type) {
			form = map[string]any{"anyOf": []any{form, map[string]any{"type": "null"}}}
		}
		form["description"] = f.Tag.Get("about")
		properties[f.Tag.Get("key")] = form
		if f.Tag.Get("must") != "" {
			must = append(must, f.Tag.Get("key"))
		}
	}
	object := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(must) > 0 {
		object["required"] = must
	}
	return object
}

// named returns a reference to the definition of a struct.
func (s *schema) named(t reflect.Type) map[string]any {
	name := t.Name()
	if name == "" {
		return map[string]any{"type": "object", "additionalProperties": false}
	}
	if s.defs[name] == nil {
		s.defs[name] = true // it may hold itself
		form := s.object(t)
		if isUnion(t) {
			form["minProperties"], form["maxProperties"] = 1, 1
			var words []string
			for _, f := range strict.FieldsOf(t) {
				if bare(f.Type) {
					words = append(words, f.Tag.Get("key"))
				}
			}
			form = map[string]any{"anyOf": []any{form, map[string]any{"enum": words}}}
		}
		s.defs[name] = form
	}
	return map[string]any{"$ref": "#/$defs/" + name}
}

// durationForm matches durations. Their bounds are in the descriptions.
const durationForm = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^[0-9]+(\.[0-9]+)?d$`

// form is the schema of a value.
func (s *schema) form(t reflect.Type, tag reflect.StructTag) map[string]any {
	switch {
	case t == jsonType:
		return map[string]any{}
	case t == durationType:
		return map[string]any{"type": "string", "pattern": durationForm}
	case reflect.PointerTo(t).Implements(wordType):
		return reflect.New(t).Interface().(word).form()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.form(t.Elem(), tag)
	case reflect.Struct:
		return s.named(t)
	case reflect.Slice:
		return map[string]any{"type": "array", "minItems": 1, "items": s.form(t.Elem(), tag)}
	case reflect.Map:
		return map[string]any{"type": "object", "minProperties": 1, "additionalProperties": s.form(t.Elem(), tag)}
	case reflect.String:
		return textForm(tag)
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return bounded(map[string]any{"type": "number"}, tag)
	case reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	default:
		return bounded(map[string]any{"type": "integer"}, tag)
	}
}

func textForm(tag reflect.StructTag) map[string]any {
	switch {
	case tag.Get("one") != "":
		return map[string]any{"enum": strings.Split(tag.Get("one"), ",")}
	case tag.Get("hub") != "":
		return map[string]any{"type": "string", "pattern": "^hub-[a-z]$"}
	case tag.Get("place") != "":
		return map[string]any{"type": "string", "pattern": "^(hub-[a-z]|dps|all)$"}
	case tag.Get("pattern") != "": // a word such as 1970 is a number in YAML
		return map[string]any{"type": []string{"string", "number"}, "pattern": tag.Get("pattern")}
	}
	return map[string]any{"type": "string", "minLength": 1}
}

func bounded(form map[string]any, tag reflect.StructTag) map[string]any {
	if least := tag.Get("min"); least != "" {
		form["minimum"] = number(least)
	}
	if most := tag.Get("max"); most != "" {
		form["maximum"] = number(most)
	}
	return form
}
