package model

import (
	"slices"
	"strconv"
	"strings"
)

// schema is the type of a value. It is a word of DTDL v2 or of IoT Central for a primitive or
// geospatial type, or one of the four types that contain others.
type schema struct {
	kind   string             // "double", "point", …, or "Array", "Enum", "Map", "Object"
	elem   *schema            // Array: of each element; Map: of each value
	names  []string           // Object: its fields in file order; Enum: its value names
	fields map[string]*schema // Object
	values []string           // Enum: the values as they stand in JSON, numbers normalized
	of     string             // Enum: "integer" or "string"
	height int                // levels of Arrays, Maps and Objects, with this one; 0 for words and Enums
}

const (
	arrayKind  = "Array"
	enumKind   = "Enum"
	mapKind    = "Map"
	objectKind = "Object"
)

// maxSchemaDepth is DTDL's bound on Arrays, Maps and Objects inside each other. An Enum contains no
// schema, so it does not count.
const maxSchemaDepth = 5

var (
	primitives = []string{"boolean", "date", "dateTime", "double", "duration", "float", "integer", "long", "string", "time"}
	// geospatial holds GeoJSON's spelling of each of DTDL's words.
	geospatial = map[string]string{
		"point": "Point", "multiPoint": "MultiPoint", "lineString": "LineString", "multiLineString": "MultiLineString",
		"polygon": "Polygon", "multiPolygon": "MultiPolygon",
	}
	// vectors are the two schemas of IoT Central's own context. A field behind a question mark may
	// be absent.
	vectors = map[string][]string{"geopoint": {"lat", "lon", "?alt"}, "vector": {"x", "y", "z"}}

	schemaPrefixes = []string{"dtmi:dtdl:instance:Schema:", "dtmi:standard:schema:geospatial:", "dtmi:iotcentral:schema:"}
)

// String is the schema in words, for listings and messages.
func (s *schema) String() string {
	switch s.kind {
	case arrayKind:
		return "array of " + s.elem.String()
	case mapKind:
		return "map of " + s.elem.String()
	case enumKind:
		var values []string
		for _, v := range s.values[:min(len(s.values), maxShown+1)] {
			if s.of == "string" {
				v = quote(v)
			}
			values = append(values, v)
		}
		return "enum of " + listed(values)
	case objectKind:
		return "object {" + listed(s.names) + "}"
	default:
		return s.kind
	}
}

// maxShown is how many names or values of a schema are shown.
const maxShown = 100

func listed(names []string) string {
	if len(names) > maxShown {
		return strings.Join(names[:maxShown], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// schema reads the member of that name of n, which is required.
func (p *parser) schema(n *node, member string, depth int) (*schema, error) {
	v := n.member(member)
	if v == nil {
		return nil, p.fault(n, "no %q; expected one of %s, or an Array, Enum, Map or Object", member, strings.Join(primitives, ", "))
	}
	return p.schemaOf(v, depth)
}

func (p *parser) schemaOf(n *node, depth int) (*schema, error) {
	switch n.kind {
	case '"':
		return p.namedSchema(n, depth)
	case '{':
		return p.complexSchema(n, depth)
	default:
		return nil, p.fault(n, "a schema must be a name or an object, this is %s", n.what())
	}
}

func (p *parser) namedSchema(n *node, depth int) (*schema, error) {
	name := shortName(n.text, schemaPrefixes...)
	if slices.Contains(primitives, name) || geospatial[name] != "" || vectors[name] != nil {
		return &schema{kind: name}, nil
	}
	if def := p.named[name]; def != nil {
		return p.complexSchema(def, depth)
	}
	if strings.HasPrefix(name, "dtmi:") {
		return nil, p.fault(n, "schema %s is not defined in this file; expected it under the Interface's \"schemas\"", quote(name))
	}
	return nil, p.fault(n, "%s is not a schema; expected one of %s, or the @id of one under \"schemas\"", quote(name), strings.Join(primitives, ", "))
}

// complexSchema reads each definition once, however many references there are. Otherwise a few
// levels of Objects whose fields all refer to the next level would take for ever.
func (p *parser) complexSchema(n *node, depth int) (*schema, error) {
	s, seen := p.read[n]
	if seen && s == nil {
		return nil, p.fault(n, "a schema cannot refer to itself")
	}
	if !seen {
		if depth > maxSchemaDepth {
			return nil, p.fault(n, "complex schemas nested deeper than %d levels", maxSchemaDepth)
		}
		p.read[n] = nil
		var err error
		if s, err = p.readSchema(n, depth+1); err != nil {
			return nil, err
		}
		p.read[n] = s
	}
	if depth+s.height > maxSchemaDepth {
		return nil, p.fault(n, "complex schemas nested deeper than %d levels", maxSchemaDepth)
	}
	return s, nil
}

func (p *parser) readSchema(n *node, depth int) (*schema, error) {
	kind, err := p.oneType(n, arrayKind, enumKind, mapKind, objectKind)
	if err != nil {
		return nil, err
	}
	s := &schema{kind: kind}
	switch kind {
	case arrayKind:
		s.elem, err = p.schema(n, "elementSchema", depth)
	case mapKind:
		err = p.mapSchema(n, s, depth)
	case enumKind:
		err = p.enumSchema(n, s)
	case objectKind:
		err = p.objectSchema(n, s, depth)
	default:
		err = p.fault(n, "a schema cannot be of @type %s; expected Array, Enum, Map or Object", quote(strings.Join(n.types(), ", ")))
	}
	if err != nil {
		return nil, err
	}
	if kind == enumKind {
		return s, nil
	}
	if s.elem != nil {
		s.height = s.elem.height
	}
	for _, f := range s.fields {
		s.height = max(s.height, f.height)
	}
	s.height++
	return s, nil
}

func (p *parser) mapSchema(n *node, s *schema, depth int) error {
	for _, part := range []string{"mapKey", "mapValue"} {
		v, err := p.element(n, part)
		if err != nil {
			return err
		}
		if v == nil || v.kind != '{' {
			return p.fault(n, "a Map needs a %q with a name and a schema", part)
		}
		if _, err := p.name(v); err != nil {
			return err
		}
		sub, err := p.schema(v, "schema", depth)
		if err != nil {
			return err
		}
		if part == "mapKey" && sub.kind != "string" {
			return p.fault(v.fields["schema"], "the keys of a Map are of schema string, not %s", sub.kind)
		}
		s.elem = sub
	}
	return nil
}

func (p *parser) objectSchema(n *node, s *schema, depth int) error {
	s.fields = map[string]*schema{}
	fields, err := p.list(n, "fields")
	if err != nil {
		return err
	}
	for _, f := range fields {
		name, err := p.name(f)
		if err != nil {
			return err
		}
		if s.fields[name] != nil {
			return p.fault(f, "this Object has two fields named %q", name)
		}
		if s.fields[name], err = p.schema(f, "schema", depth); err != nil {
			return err
		}
		s.names = append(s.names, name)
	}
	return nil
}

func (p *parser) enumSchema(n *node, s *schema) error {
	of := n.member("valueSchema")
	if of == nil {
		return p.fault(n, "no \"valueSchema\"; expected integer or string")
	}
	if s.of = shortName(of.text, schemaPrefixes...); of.kind != '"' || s.of != "integer" && s.of != "string" {
		return p.fault(of, "the valueSchema of an Enum is integer or string")
	}
	members, err := p.list(n, "enumValues")
	if err != nil {
		return err
	}
	if len(members) == 0 && p.versionAt(n) < 3 {
		return p.fault(n, "an Enum needs at least one of \"enumValues\"")
	}
	for _, m := range members {
		name, err := p.name(m)
		if err != nil {
			return err
		}
		v := m.member("enumValue")
		if v == nil {
			return p.fault(m, "no \"enumValue\"; expected the %s that stands for %q", s.of, name)
		}
		value, ok := v.text, v.kind == '"'
		if s.of == "integer" {
			i, problem := integral(v.text)
			value, ok = strconv.FormatInt(i, 10), v.kind == '0' && problem == ""
		}
		switch {
		case !ok:
			return p.fault(v, "this is %s, and the valueSchema of its Enum is %s", v.what(), s.of)
		case slices.Contains(s.values, value):
			return p.fault(v, "value %s appears twice in its Enum", quote(value))
		case slices.Contains(s.names, name):
			return p.fault(m, "name %q appears twice in its Enum", name)
		}
		s.values, s.names = append(s.values, value), append(s.names, name)
	}
	return nil
}
