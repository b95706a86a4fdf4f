package model

import (
	"strings"
	"testing"
)

// plain is a model in the short spelling that most files use. TestEverySpellingMeansTheSame spells
// parts of it in other ways.
const plain = `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","displayName":"Shown","contents":[
 {"@type":"Telemetry","name":"temp","schema":"double"},
 {"@type":"Telemetry","name":"state","schema":{"@type":"Enum","valueSchema":"integer","enumValues":[
   {"name":"off","enumValue":0},{"name":"on","enumValue":1}]}},
 {"@type":"Property","name":"limits","writable":true,"schema":{"@type":"Object","fields":[
   {"name":"low","schema":"long"},{"name":"high","schema":"long"}]}},
 {"@type":"Property","name":"tags","schema":{"@type":"Map","mapKey":{"name":"k","schema":"string"},"mapValue":{"name":"v","schema":"string"}}},
 {"@type":"Command","name":"go","request":{"name":"speed","schema":"integer"},"response":{"name":"took","schema":"duration"}},
 {"@type":"Component","name":"part","schema":"dtmi:part;1"}
]}`

const part = `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:part;1","@type":"Interface","contents":
 {"@type":"Command","name":"stop"}}`

// TestEverySpellingMeansTheSame: DTDL can be written in several ways, and all must mean the same.
func TestEverySpellingMeansTheSame(t *testing.T) {
	describe := func(t *testing.T, text string) string {
		t.Helper()
		var out strings.Builder
		if err := parse(t, "["+text+","+part+"]").Describe(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := describe(t, plain)
	for _, line := range []string{"dtmi:t;1 (Shown)", "enum of 0, 1", "object {low, high}  writable", "map of string", "integer → duration", "part*stop"} {
		if !strings.Contains(want, line) {
			t.Fatalf("the plain model is described without %q:\n%s", line, want)
		}
	}
	tests := []struct{ name, old, new string }{
		{"list of one: name", `"name":"temp"`, `"name":["temp"]`},
		{"list of one: schema", `"schema":"double"`, `"schema":["double"]`},
		{"list of one: complex schema", `"schema":{"@type":"Map","mapKey":{"name":"k","schema":"string"},"mapValue":{"name":"v","schema":"string"}}`,
			`"schema":[{"@type":["Map"],"mapKey":[{"name":"k","schema":["string"]}],"mapValue":[{"name":"v","schema":"string"}]}]`},
		{"list of one: writable", `"writable":true`, `"writable":[true]`},
		{"list of none: writable", `"schema":{"@type":"Map"`, `"writable":[],"schema":{"@type":"Map"`},
		{"list of one: enumValue", `"enumValue":1`, `"enumValue":[1]`},
		{"list of one: valueSchema", `"valueSchema":"integer"`, `"valueSchema":["integer"]`},
		{"list of one: request", `"request":{"name":"speed","schema":"integer"}`, `"request":[{"name":"speed","schema":"integer"}]`},
		{"list of one: component", `"schema":"dtmi:part;1"`, `"schema":["dtmi:part;1"]`},
		{"list of one: displayName", `"displayName":"Shown"`, `"displayName":["Shown"]`},
		{"value object: name", `"name":"temp"`, `"name":{"@value":"temp","@type":"xsd:string"}`},
		{"value object: writable", `"writable":true`, `"writable":{"@value":true}`},
		{"value object: enumValue", `"enumValue":1`, `"enumValue":[{"@value":1,"@type":"xsd:integer"}]`},
		{"languages: object", `"displayName":"Shown"`, `"displayName":{"de":"Gezeigt","en":"Shown"}`},
		{"languages: list", `"displayName":"Shown"`, `"displayName":[{"@value":"Gezeigt","@language":"de"},{"@value":"Shown","@language":"en"}]`},
		{"languages: list without English", `"displayName":"Shown"`, `"displayName":[{"@value":"Shown","@language":"de"},{"@value":"Montre","@language":"fr"}]`},
		{"languages: list with a plain text", `"displayName":"Shown"`, `"displayName":[{"@value":"Gezeigt","@language":"de"},"Shown"]`},
		{"full name: member", `"name":"temp"`, `"dtmi:dtdl:property:name;2":"temp"`},
		{"full name: contents", `"contents":[`, `"dtmi:dtdl:property:contents;2":[`},
		{"full name: displayName", `"displayName"`, `"dtmi:dtdl:property:displayName;2"`},
		{"full name: request", `"request"`, `"dtmi:dtdl:property:request;2"`},
		{"full name: Interface", `"Interface"`, `"dtmi:dtdl:class:Interface;2"`},
		{"full name: type twice", `"@type":"Command"`, `"@type":["Command","dtmi:dtdl:class:Command;2"]`},
		{"full name: schema type", `"@type":"Object"`, `"@type":"dtmi:dtdl:class:Object;2"`},
		{"full name: schema", `"schema":"double"`, `"schema":"dtmi:dtdl:instance:Schema:double;2"`},
		{"full name: valueSchema", `"valueSchema":"integer"`, `"valueSchema":"dtmi:dtdl:instance:Schema:integer;2"`},
		{"reference: content", `{"@type":"Telemetry","name":"temp","schema":"double"}`, `"dtmi:temp;1"`},
		{"reference: field", `{"name":"high","schema":"long"}`, `"dtmi:high;1"`},
		{"reference: enum value", `{"name":"on","enumValue":1}`, `"dtmi:on;1"`},
		{"reference: mapKey", `"mapKey":{"name":"k","schema":"string"}`, `"mapKey":"dtmi:key;1"`},
		{"reference: mapValue", `"mapValue":{"name":"v","schema":"string"}`, `"mapValue":["dtmi:value;1"]`},
		{"reference: request", `"request":{"name":"speed","schema":"integer"}`, `"request":"dtmi:speed;1"`},
		{"reference: response", `"response":{"name":"took","schema":"duration"}`, `"response":["dtmi:took;1"]`},
	}
	// What the references of the tests stand for, in an Interface of its own.
	const others = `,{"@id":"dtmi:other;1","@type":"Interface","contents":[
	 {"@id":"dtmi:temp;1","@type":"Telemetry","name":"temp","schema":"double"},
	 {"@type":"Command","name":"a","request":{"@id":"dtmi:speed;1","name":"speed","schema":"integer"},"response":{"@id":"dtmi:took;1","name":"took","schema":"duration"}}],
	 "schemas":[
	 {"@id":"dtmi:o;1","@type":"Object","fields":{"@id":"dtmi:high;1","name":"high","schema":"long"}},
	 {"@id":"dtmi:e;1","@type":"Enum","valueSchema":"integer","enumValues":{"@id":"dtmi:on;1","name":"on","enumValue":1}},
	 {"@id":"dtmi:m;1","@type":"Map","mapKey":{"@id":"dtmi:key;1","name":"k","schema":"string"},"mapValue":{"@id":"dtmi:value;1","name":"v","schema":"string"}}]}`
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(plain, test.old, test.new, 1)
			if text == plain {
				t.Fatalf("the plain model has no %s", test.old)
			}
			got := describe(t, text+others)
			if got, _, _ = strings.Cut(got, "\nalso in the file"); got != want {
				t.Errorf("described as\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestWrongSpellingsAreRefused: some spellings look like legal ones, but are not.
func TestWrongSpellingsAreRefused(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"list of two", `"name":"temp"`, `"name":["temp","t"]`, "a name must be a string, this is an array"},
		{"list of two schemas", `"schema":"double"`, `"schema":["double","long"]`, "a schema must be a name or an object, this is an array"},
		{"empty list", `"name":"temp"`, `"name":[]`, `no "name"`},
		{"no such version", `"name":"temp"`, `"dtmi:dtdl:property:name;9":"temp"`, `no "name"`},
		{"an element that has a value", `"request":{"name":"speed",`, `"request":{"@value":1,"name":"_",`, `"_" is not a name`},
		{"reference to nothing", `"request":{"name":"speed","schema":"integer"}`, `"request":"dtmi:no;1"`, `"dtmi:no;1" is not defined in this file`},
		{"field that is a word", `{"name":"high","schema":"long"}`, `"long"`, `expected an object in "fields", this is a string`},
		{"display of numbers", `"displayName":"Shown"`, `"displayName":[{"@value":5}]`, "a displayName must be a text"},
	}
	for _, test := range tests {
		text := strings.Replace(plain, test.old, test.new, 1)
		if _, err := Parse([]byte("[" + text + "," + part + "]")); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}

// TestSchemasNestFiveDeep: Arrays, Maps and Objects nest five deep. An Enum or a word ends the
// chain and does not count.
func TestSchemasNestFiveDeep(t *testing.T) {
	const enum = `{"@type":"Enum","valueSchema":"string","enumValues":{"name":"n","enumValue":"v"}}`
	wrap := map[string][2]string{
		"Array":  {`{"@type":"Array","elementSchema":`, `}`},
		"Map":    {`{"@type":"Map","mapKey":{"name":"k","schema":"string"},"mapValue":{"name":"v","schema":`, `}}`},
		"Object": {`{"@type":"Object","fields":{"name":"f","schema":`, `}}`},
	}
	for kind, w := range wrap {
		for _, end := range []string{`"double"`, enum} {
			for levels, ok := range map[int]bool{1: true, 5: true, 6: false} {
				schema := strings.Repeat(w[0], levels) + end + strings.Repeat(w[1], levels)
				_, err := Parse([]byte(one(`{"@type":"Telemetry","name":"a","schema":` + schema + `}`)))
				if (err == nil) != ok {
					t.Errorf("%d levels of %s around %s: %v", levels, kind, end, err)
				}
			}
		}
	}
}

// TestVersion3AllowsMore: version 3 of the language allows things that version 2 does not.
func TestVersion3AllowsMore(t *testing.T) {
	long := strings.Repeat("n", 200)
	for name, text := range map[string]string{
		"id without a version":     `{"@context":"CONTEXT","@id":"dtmi:t","@type":"Interface"}`,
		"id with a minor version":  `{"@context":"CONTEXT","@id":"dtmi:t;1.2","@type":"Interface"}`,
		"name of 200 characters":   strings.Replace(one(`{"@type":"Command","name":"`+long+`"}`), "dtmi:dtdl:context;2", "CONTEXT", 1),
		"Enum without values":      strings.Replace(one(`{"@type":"Property","name":"a","schema":{"@type":"Enum","valueSchema":"string"}}`), "dtmi:dtdl:context;2", "CONTEXT", 1),
		"language named elsewhere": `[{"@context":"CONTEXT","@id":"dtmi:t;1","@type":"Interface"},{"@id":"dtmi:u","@type":"Interface"}]`,
	} {
		if _, err := Parse([]byte(strings.ReplaceAll(text, "CONTEXT", "dtmi:dtdl:context;3"))); err != nil {
			t.Errorf("%s in version 3: %v", name, err)
		}
		if _, err := Parse([]byte(strings.ReplaceAll(text, "CONTEXT", "dtmi:dtdl:context;2"))); err == nil {
			t.Errorf("%s is taken for version 2", name)
		}
	}
	for name, text := range map[string]string{
		"Array in a Property": strings.Replace(one(`{"@type":"Property","name":"a","schema":{"@type":"Array","elementSchema":"dtmi:dtdl:instance:Schema:date;3"}}`), "context;2", "context;3", 1),
		"full names":          `{"@context":["dtmi:dtdl:context;3","dtmi:dtdl:extension:quantitativeTypes;1"],"@id":"dtmi:t;1","@type":"dtmi:dtdl:class:Interface;3","dtmi:dtdl:property:contents;3":{"@type":["Telemetry","Temperature"],"name":"a","schema":"double","unit":"degreeCelsius"}}`,
		"part of version 2": `{"@context":"dtmi:dtdl:context;3","@id":"dtmi:t;1","@type":"Interface","contents":{"@type":"Component","name":"c","schema":
			{"@context":"dtmi:dtdl:context;2","@id":"dtmi:u;1","@type":"Interface"}}}`,
	} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
