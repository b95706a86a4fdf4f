package model

import (
	"os"
	"strings"
	"testing"
)

// rich is a legal model with each kind of element and most members, which
// TestEveryBrokenRuleIsAFlaw spoils.
const rich = `{"@context":["dtmi:dtdl:context;2","dtmi:iotcentral:context;2"],"@id":"dtmi:t;1","@type":"Interface",
 "displayName":"Shown","description":{"en":"all of it","de-DE":"alles"},"comment":"none",
 "extends":["dtmi:base;1"],"contents":[
 {"@type":["Telemetry","Temperature"],"name":"temp","schema":"double","unit":"degreeCelsius"},
 {"@type":["Telemetry","Location"],"name":"place","schema":"geopoint"},
 {"@type":["Telemetry","VelocityVector"],"name":"way","schema":"vector","unit":"knot"},
 {"@type":["Property","Own"],"name":"own","schema":"string","anything":[1]},
 {"@type":"Property","name":"limits","writable":true,"schema":{"@type":"Object","fields":[
   {"name":"low","schema":"long"},{"name":"high","schema":"long"}]}},
 {"@type":"Property","name":"tags","schema":{"@id":"dtmi:t:tags;1","@type":"Map","mapKey":{"name":"k","schema":"string"},"mapValue":{"name":"v","schema":"string"}}},
 {"@type":["Telemetry","State"],"name":"state","schema":{"@type":"Enum","valueSchema":"integer","enumValues":[
   {"name":"off","enumValue":0},{"name":"on","enumValue":1}]}},
 {"@type":"Telemetry","name":"row","schema":{"@type":"Array","elementSchema":"dtmi:t:point;1"}},
 {"@type":"Command","name":"go","commandType":"synchronous","durable":true,"request":{"name":"speed","schema":"integer"},"response":{"@type":"CommandPayload","name":"took","schema":"duration"}},
 {"@type":"Component","name":"part","schema":"dtmi:part;1"},
 {"@type":"Relationship","name":"floor","target":"dtmi:elsewhere;1","minMultiplicity":0,"maxMultiplicity":5,
  "properties":[{"@type":"Property","name":"since","schema":"date"},{"@type":"Property","name":"until","schema":"date"}]}
 ],"schemas":[{"@id":"dtmi:t:point;1","@type":"Object","fields":{"name":"x","schema":"double"}}]}`

const base = `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:base;1","@type":"Interface","contents":
 {"@id":"dtmi:base:stop;1","@type":"Command","name":"stop"}}`

func TestLegalModelHasNoFlaws(t *testing.T) {
	data, err := os.ReadFile("../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"the built-in model": string(data),
		"the rich model":     "[" + rich + "," + base + "," + part + "]",
		"the plain model":    "[" + plain + "," + part + "]",
		"a list of texts":    strings.Replace("["+rich+","+base+","+part+"]", `"Shown"`, `["Shown",{"@value":"Gezeigt","@language":"de"}]`, 1),
		"full names": `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"dtmi:dtdl:class:Interface;2","dtmi:dtdl:property:contents;2":
			{"@type":["Telemetry","dtmi:standard:class:Area;2"],"name":{"@value":"a","@type":"xsd:string"},"dtmi:dtdl:property:schema;2":"dtmi:dtdl:instance:Schema:double;2","dtmi:dtdl:property:unit;2":"dtmi:standard:unit:acre;2"}}`,
		"version 3": `{"@context":"dtmi:dtdl:context;3","@id":"dtmi:t","@type":"Interface","contents":[
			{"@type":"Property","name":"a","schema":{"@type":"Array","elementSchema":"point"}},
			{"@type":"Command","name":"b","request":{"@type":"CommandRequest","name":"r","schema":"string"}}]}`,
		"the language of another tool before ours": `{"@context":["dtmi:dtdl:context;4","dtmi:dtdl:context;2"],"@id":"dtmi:t;1","@type":"Interface"}`,
	} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s cannot be read: %v", name, err)
		}
		for _, f := range Flaws([]byte(text)) {
			t.Errorf("%s: %s", name, f.At.Error())
		}
	}
}

// TestEveryBrokenRuleIsAFlaw: each change breaks one rule of DTDL in the rich model.
func TestEveryBrokenRuleIsAFlaw(t *testing.T) {
	long := strings.Repeat("x", 513)
	tests := []struct{ name, old, new, want string }{
		// Words that the language does not have.
		{"member misspelled", `"writable":true`, `"writeable":true`, `(Property "limits"): a Property has no "writeable"; did you mean "writable"?`},
		{"unit misspelled", `"unit":"degreeCelsius"`, `"unti":"degreeCelsius"`, `a Telemetry has no "unti"; did you mean "unit"?`},
		{"type misspelled", `"@type":"Command"`, `"@type":"Comand"`, `@type is "Comand"; expected Telemetry, Property, Command, Component, Relationship; did you mean "Command"?`},
		{"member of another kind of element", `"name":"go",`, `"name":"go","writable":true,`, `a Command has no "writable"`},
		{"member under a foreign name", `"name":"go",`, `"name":"go","http://example.com/x":1,`, `a Command has no "http://example.com/x"`},
		{"member under a full name of no language", `"name":"go",`, `"name":"go","dtmi:foo:bar;1":1,`, `a Command has no "dtmi:foo:bar;1"`},
		{"member of a field", `{"name":"low",`, `{"nam":"l","name":"low",`, `a Field has no "nam"; did you mean "name"?`},
		{"graph", `"name":"go",`, `"name":"go","@graph":[],`, `no "@graph"`},
		{"short and full name", `"name":"temp"`, `"name":"temp","dtmi:dtdl:property:name;2":"temp"`, `"name" is given twice`},
		{"durable without IoT Central", `"dtmi:dtdl:context;2","dtmi:iotcentral:context;2"`, `"dtmi:dtdl:context;2"`, `a Command has no "durable"`},
		{"type of the language beside another", `["Property","Own"]`, `["Property","Own","Map"]`, `a Property cannot be of type Map too`},
		{"type that is a full name of nothing", `["Property","Own"]`, `["Property","dtmi:own:type;1"]`, `"dtmi:own:type;1" is not a type of DTDL`},
		{"type that is a number", `["Property","Own"]`, `["Property",5]`, `a @type must be a text or a list of texts, this is a number`},
		{"type that is an object", `"@type":"Command"`, `"@type":{}`, `a @type must be a text or a list of texts, this is an object`},
		{"two types", `"@type":"Command"`, `"@type":["Command","Telemetry"]`, `this cannot be both Command and Telemetry`},
		{"no type", `{"@type":"Component","name":"part"`, `{"name":"part"`, `no "@type"; expected Telemetry`},
		{"type of a field", `{"name":"low",`, `{"@type":"Fild","name":"low",`, `@type is "Fild"; expected Field; did you mean "Field"?`},
		{"command type", `"synchronous"`, `"sync"`, `"commandType" must be one of synchronous, asynchronous`},
		// Semantic types and units.
		{"unit of another type", `"degreeCelsius"`, `"metre"`, `"metre" is not a unit of a Temperature; expected degreeCelsius, degreeFahrenheit, kelvin`},
		{"unit misspelled", `"degreeCelsius"`, `"degreeCelcius"`, `did you mean "degreeCelsius"?`},
		{"unit missing", `,"unit":"degreeCelsius"`, ``, `a Temperature needs a "unit": degreeCelsius`},
		{"unit without a type", `["Telemetry","Temperature"]`, `"Telemetry"`, `a unit needs a semantic type`},
		{"unit a number", `"unit":"degreeCelsius"`, `"unit":5`, `a unit must be a text`},
		{"unit of a vector", `"knot"`, `"kelvin"`, `"kelvin" is not a unit of a VelocityVector`},
		{"two semantic types", `["Telemetry","Temperature"]`, `["Telemetry","Temperature","Area"]`, `this cannot be both Temperature and Area`},
		{"semantic type of a text", `"name":"temp","schema":"double"`, `"name":"temp","schema":"string"`, `the schema of a Temperature must be one of double, float, integer, long`},
		{"semantic type of a Command", `"@type":"Command"`, `"@type":["Command","Temperature"]`, `a Command cannot be of type Temperature too`},
		{"State that is no Enum", `["Telemetry","Temperature"],"name":"temp","schema":"double","unit":"degreeCelsius"`, `["Telemetry","State"],"name":"temp","schema":"double"`, `the schema of a State must be an Enum`},
		{"Location that is no place", `"schema":"geopoint"`, `"schema":"double"`, `the schema of a Location must be one of point`},
		// Contexts, ids and versions.
		{"unknown extension", `"dtmi:iotcentral:context;2"`, `"dtmi:iotcentral:context;2","dtmi:example:more;1"`, `hubhop does not know the extension "dtmi:example:more;1"`},
		{"context that is no id", `"dtmi:iotcentral:context;2"`, `"dtmi:iotcentral:context;2","iotcentral"`, `"iotcentral" is not a context`},
		{"context that is a number", `"dtmi:iotcentral:context;2"`, `"dtmi:iotcentral:context;2",2`, `a @context must be a text or a list of texts`},
		{"context of an element", `"name":"go",`, `"name":"go","@context":{"x":"y"},`, `a @context must be a text or a list of texts, this is an object`},
		{"extension before the language", `["dtmi:dtdl:context;2","dtmi:iotcentral:context;2"]`, `["dtmi:example:more;1","dtmi:dtdl:context;2","dtmi:iotcentral:context;2"]`, `must stand before the extensions`},
		{"version 4", `"name":"go",`, `"name":"go","@context":"dtmi:dtdl:context;4",`, `not a version of DTDL that hubhop knows`},
		{"newer part", `"name":"go",`, `"name":"go","@context":"dtmi:dtdl:context;3",`, `an element of DTDL v3 cannot be part of one of v2`},
		{"id twice", `"name":"go",`, `"name":"go","@id":"dtmi:t:tags;1",`, `the file has the @id "dtmi:t:tags;1" twice`},
		{"id of the language", `"name":"go",`, `"name":"go","@id":"dtmi:dtdl:go;1",`, `begins like the words of the language`},
		{"id of IoT Central", `"name":"go",`, `"name":"go","@id":"dtmi:iotcentral:go;1",`, `begins like the words of the language`},
		{"id with an underscore", `"name":"go",`, `"name":"go","@id":"dtmi:_go;1",`, `"dtmi:_go;1" is not a DTMI`},
		{"id in a list", `"name":"go",`, `"name":"go","@id":["dtmi:go;1"],`, `an @id must be a text, this is an array`},
		{"nameless schema", `"schemas":[`, `"schemas":[{"@type":"Array","elementSchema":"date"},`, `a schema under "schemas" needs an "@id"`},
		// Values of the wrong kind.
		{"name in a wrong wrapper", `"name":"temp"`, `"name":{"@value":"temp","@type":"xsd:integer"}`, `the @type of this value must be "xsd:string"`},
		{"wrapper with more", `"writable":true`, `"writable":{"@value":true,"@id":"dtmi:x;1"}`, `"writable" cannot hold an object with "@id"`},
		{"wrapper without a value", `"comment":"none"`, `"comment":{"@type":"xsd:string"}`, `an object without "@value"`},
		{"comment a number", `"comment":"none"`, `"comment":5`, `"comment" must be a string, this is a number`},
		{"two comments", `"comment":"none"`, `"comment":["a","b"]`, `"comment" takes one value, this has 2`},
		{"description a number", `"description":{`, `"description":5,"x":{`, `"description" must be a text, or one text per language, this is a number`},
		{"language", `"de-DE"`, `"german"`, `"german" is not a language`},
		{"text of a language", `"alles"`, `7`, `"description" must be a text, this is a number`},
		{"language twice", `"Shown"`, `[{"@value":"a","@language":"de"},{"@value":"b","@language":"de"}]`, `two texts for the language "de"`},
		{"two texts for all", `"Shown"`, `["a",{"@value":"b","@language":"en"}]`, `two texts for the language "en"`},
		{"tagged text outside of a list", `"Shown"`, `{"@value":"a","@language":"de"}`, `"@value" is not a language`},
		{"target a word", `"dtmi:elsewhere;1"`, `"elsewhere"`, `"target" must be a DTMI`},
		{"multiplicity a text", `"maxMultiplicity":5`, `"maxMultiplicity":"5"`, `"maxMultiplicity" must be a number, this is a string`},
		{"multiplicity a fraction", `"maxMultiplicity":5`, `"maxMultiplicity":5.5`, `"maxMultiplicity" must be a whole number`},
		{"contents a number", `"contents":[`, `"contents":[5,`, `"contents" must hold one of Telemetry, Property`},
		{"schema a list of two", `"schema":"geopoint"`, `"schema":["geopoint","double"]`, `"schema" takes one value, this has 2`},
		{"enum value of another kind", `"enumValue":1`, `"enumValue":"1"`, `"enumValue" must be a number, this is a string`},
		{"enum value beyond", `"enumValue":1`, `"enumValue":3000000000`, `"enumValue" must be a whole number of 32 bits`},
		// Bounds.
		{"comment too long", `"none"`, `"` + long + `"`, `"comment" may have at most 512 characters, this has 513`},
		{"displayName too long", `"Shown"`, `"` + long[:65] + `"`, `"displayName" may have at most 64 characters, this has 65`},
		{"name too long", `"name":"own"`, `"name":"` + long[:65] + `"`, `"name" may have at most 64 characters, this has 65`},
		{"minMultiplicity", `"minMultiplicity":0`, `"minMultiplicity":1`, `"minMultiplicity" must be 0`},
		{"maxMultiplicity", `"maxMultiplicity":5`, `"maxMultiplicity":501`, `"maxMultiplicity" must lie between 1 and 500`},
		{"too many fields", `{"name":"low",`, strings.Repeat(`{"name":"f","schema":"long"},`, 30) + `{"name":"low",`, `"fields" takes at most 30 elements, this has 32`},
		{"no fields", `"fields":{"name":"x","schema":"double"}`, `"fields":[]`, `"fields" needs at least 1 element`},
		{"too many bases", `"extends":["dtmi:base;1"]`, `"extends":["dtmi:base;1",{"@id":"dtmi:b;1","@type":"Interface"},{"@id":"dtmi:c;1","@type":"Interface"}]`, `"extends" takes at most 2 elements`},
		// What may be inside what.
		{"Array in a Property", `"name":"own","schema":"string"`, `"name":"own","schema":{"@type":"Array","elementSchema":"date"}`, `@type is "Array"; expected Enum, Map, Object`},
		{"Array deep in a Property", `{"name":"low","schema":"long"}`, `{"name":"low","schema":{"@type":"Array","elementSchema":"date"}}`, `(Property "limits"): a Property cannot hold an Array in DTDL v2`},
		{"place in a Property", `"name":"own","schema":"string"`, `"name":"own","schema":"point"`, `a Property cannot hold a point in DTDL v2`},
		{"place deep in a Property", `"mapValue":{"name":"v","schema":"string"}`, `"mapValue":{"name":"v","schema":"polygon"}`, `(Property "tags"): a Property cannot hold a polygon in DTDL v2`},
		{"relationship of two equal properties", `"until"`, `"since"`, `two of the properties of this Relationship are named "since"`},
		{"schema of IoT Central without its context", `"dtmi:dtdl:context;2","dtmi:iotcentral:context;2"`, `"dtmi:dtdl:context;2"`, `"geopoint" is not one of Array, Enum, Map, Object`},
		{"reference into another Interface", `"contents":[`, `"contents":["dtmi:base:stop;1",`, `"dtmi:base:stop;1" belongs to another Interface`},
		{"reference to another kind", `"elementSchema":"dtmi:t:point;1"`, `"elementSchema":"dtmi:part;1"`, `"dtmi:part;1" is an Interface; expected Array, Enum, Map, Object`},
		{"reference to nothing", `"schemas":[`, `"schemas":["dtmi:no;1",`, `"dtmi:no;1" is not defined in this file`},
		{"schema that nothing uses", `{"name":"x","schema":"double"}`, `[{"name":"x","schema":"double"},{"name":"x","schema":"date"}]`, `two of the fields of this Object are named "x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spoiled := strings.Replace(rich, test.old, test.new, 1)
			if spoiled == rich {
				t.Fatalf("the rich model has no %s", test.old)
			}
			text := []byte("[" + spoiled + "," + base + "," + part + "]")
			flaws := Flaws(text)
			if len(flaws) == 0 {
				t.Fatal("no flaw is found")
			}
			var all []string
			for _, f := range flaws {
				all = append(all, f.At.Error())
			}
			said := strings.Join(all, "\n")
			if !strings.Contains(said, test.want) {
				t.Errorf("said\n%s\nwant %s", said, test.want)
			}
			for _, f := range flaws {
				if f.At.Line < 1 || f.At.Column < 1 || strings.ContainsAny(f.At.Error(), "\n\r\x1b") || f.Unchecked != strings.Contains(f.At.Text, "does not check its words") {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// TestFlawsDoNotKeepAModelFromBeingRead: a device must run with a model that has unknown words.
func TestFlawsDoNotKeepAModelFromBeingRead(t *testing.T) {
	for _, change := range [][2]string{
		{`"writable":true`, `"writeable":true`}, {`"unit":"degreeCelsius"`, `"unti":"degreeCelsius"`}, {`"@type":"Command"`, `"@type":"Comand"`},
		{`,"unit":"degreeCelsius"`, ``}, {`"target"`, `"traget"`},
	} {
		text := strings.Replace("["+rich+","+base+","+part+"]", change[0], change[1], 1)
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", change[1], err)
		}
	}
}

func TestFlawsAreBounded(t *testing.T) {
	text := one(`{"@type":"Command","name":"a"},` + strings.TrimSuffix(strings.Repeat(`{"@type":"Telemetry"},`, 5000), ","))
	if n := len(Flaws([]byte(text))); n != maxFlaws {
		t.Errorf("%d flaws, want %d", n, maxFlaws)
	}
	if flaws := Flaws([]byte("{")); len(flaws) != 1 || !strings.Contains(flaws[0].At.Error(), "not valid JSON") {
		t.Errorf("of what is no JSON: %v", flaws)
	}
	if flaws := Flaws([]byte(`["x"]`)); len(flaws) == 0 {
		t.Error("nothing is said of a list of texts")
	}
}
