package manifest

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// The published JSON schemas, by the names of their files below docs/schemas.
const (
	SchemaFlows = "flows.schema.json"      // a manifest: a custom resource
	SchemaGraph = "flow-graph.schema.json" // a graph definition
	SchemaTest  = "flow-test.schema.json"  // a test
)

// Schemas returns the JSON schemas of what is accepted, for editors and other programs, by the
// names of their files. They say what a file may hold, value by value. [Load], [ParseGraph] and
// [ParseTest] are stricter: they also know which values belong together.
func Schemas() (map[string][]byte, error) {
	all := map[string][]byte{}
	for name, root := range map[string]func(s *schema) map[string]any{
		SchemaFlows: flowsSchema,
		SchemaGraph: func(s *schema) map[string]any { return s.object(reflect.TypeFor[Definition]()) },
		SchemaTest:  func(s *schema) map[string]any { return s.object(reflect.TypeFor[Test]()) },
	} {
		s := &schema{defs: map[string]any{}}
		form := root(s)
		form["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		form["$id"] = "https://github.com/hubhop-iot/hubhop/docs/schemas/" + name
		form["title"] = map[string]string{
			SchemaFlows: "A manifest of hubhop's flows: a kind of Azure IoT Operations", SchemaGraph: "A graph definition", SchemaTest: "A test of a graph",
		}[name]
		if len(s.defs) > 0 {
			form["$defs"] = s.defs
		}
		var out bytes.Buffer
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(form); err != nil {
			return nil, err
		}
		all[name] = out.Bytes()
	}
	return all, nil
}

// schema collects the definitions of the types that it meets.
type schema struct{ defs map[string]any }

// flowsSchema is a choice of the kinds.
func flowsSchema(s *schema) map[string]any {
	specs := map[Kind]reflect.Type{
		KindEndpoint: reflect.TypeFor[Endpoint](), KindGraph: reflect.TypeFor[DataflowGraph](), KindDataflow: reflect.TypeFor[Dataflow](),
		KindProfile: reflect.TypeFor[Profile](), KindRegistry: reflect.TypeFor[Registry](),
	}
	var choice []any
	for _, k := range kinds {
		kind := Kind(k)
		spec := map[string]any{"type": "object"} // Device, Asset, ConnectorTemplate
		if t := specs[kind]; t != nil {
			spec = s.object(t)
		}
		name := map[string]any{"type": "string", "pattern": strictName().String()}
		required := []string{"apiVersion", "kind", "metadata", "spec"}
		switch kind {
		case KindDevice, KindAsset, KindConnector:
			name = map[string]any{"type": "string", "pattern": kubeName().String(), "maxLength": maxKubeName}
		case KindProfile:
			required = required[:3]
		default:
		}
		s.defs[k] = map[string]any{
			"type": "object", "additionalProperties": false, "required": required,
			"properties": map[string]any{
				"apiVersion": map[string]any{"enum": versions[kind]},
				"kind":       map[string]any{"const": k},
				"metadata": map[string]any{
					"type": "object", "required": []string{"name"},
					"properties": map[string]any{"name": name, "namespace": map[string]any{"type": "string"}},
				},
				"spec":   spec,
				"status": map[string]any{},
			},
		}
		choice = append(choice, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"kind": map[string]any{"const": k}}},
			"then": map[string]any{"$ref": "#/$defs/" + k},
		})
	}
	return map[string]any{
		"type": "object", "required": []string{"apiVersion", "kind"},
		"properties": map[string]any{"kind": map[string]any{"enum": kinds}},
		"allOf":      choice,
	}
}

// object is the schema of a struct.
func (s *schema) object(t reflect.Type) map[string]any {
	properties, must := map[string]any{}, []string{}
	for _, f := range strict.FieldsOf(t) {
		form := s.form(f.Type, f.Tag)
		if about := f.Tag.Get("about"); about != "" {
			form["description"] = about
		}
		key := f.Tag.Get("key")
		if f.Tag.Get("must") == "" { // null is as absent
			form = nullable(form)
		} else {
			must = append(must, key)
		}
		properties[key] = form
	}
	where, _ := t.FieldByName("Where")
	form := map[string]any{"type": "object", "additionalProperties": where.Tag.Get("open") != "", "properties": properties}
	if len(must) > 0 {
		form["required"] = must
	}
	return form
}

// nullable lets a value be null too.
func nullable(form map[string]any) map[string]any {
	out := map[string]any{}
	if about, ok := form["description"]; ok {
		out["description"] = about
		delete(form, "description")
	}
	switch t := form["type"].(type) {
	case string:
		form["type"] = []string{t, "null"}
	default:
		out["anyOf"] = []any{form, map[string]any{"type": "null"}}
		return out
	}
	if about, ok := out["description"]; ok {
		form["description"] = about
	}
	return form
}

// named returns a reference to the definition of a struct.
func (s *schema) named(t reflect.Type) map[string]any {
	name := strings.ToLower(t.Name()[:1]) + t.Name()[1:] // unlike the kinds
	if s.defs[name] == nil {
		s.defs[name] = true // it may hold itself
		s.defs[name] = s.object(t)
	}
	return map[string]any{"$ref": "#/$defs/" + name}
}

// form is the schema of a value.
func (s *schema) form(t reflect.Type, tag reflect.StructTag) map[string]any {
	if t == reflect.TypeFor[Free]() {
		return map[string]any{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.form(t.Elem(), tag)
	case reflect.Struct:
		return s.named(t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.form(t.Elem(), tag)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.form(t.Elem(), "")}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return textForm(tag)
	default:
		low, high := strict.Bounds(tag)
		form := map[string]any{"type": "integer", "minimum": low, "maximum": high}
		if tag.Get("unbounded") != "" {
			form = map[string]any{"anyOf": []any{form, map[string]any{"const": "unbounded"}}}
		}
		return form
	}
}

// textForm is the schema of a text. Words count in any case, as they are read.
func textForm(tag reflect.StructTag) map[string]any {
	one := tag.Get("one")
	if one == "" {
		form := map[string]any{"type": "string"}
		if tag.Get("empty") == "" {
			form["minLength"] = 1
		}
		return form
	}
	words := strings.Split(one, ",")
	if old, _, ok := strings.Cut(tag.Get("old"), ":"); ok {
		words = append(words, old)
	}
	var pattern strings.Builder
	for i, w := range words {
		if i > 0 {
			pattern.WriteByte('|')
		}
		for _, r := range strings.ToLower(w) {
			if upper := strings.ToUpper(string(r)); upper != string(r) {
				pattern.WriteString("[" + upper + string(r) + "]")
			} else {
				pattern.WriteRune(r)
			}
		}
	}
	return map[string]any{"anyOf": []any{
		map[string]any{"enum": slices.Clone(words)},
		map[string]any{"type": "string", "pattern": "^(" + pattern.String() + ")$"},
	}}
}
