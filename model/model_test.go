package model

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// failover returns the model of failover.json.
func failover(t testing.TB) *Model {
	t.Helper()
	data, err := os.ReadFile("../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// controller is a model with everything that DTDL has for a device: components by reference and in
// place, inheritance, named schemas.
const controller = `[
 {"@context": ["dtmi:iotcentral:context;2", "dtmi:dtdl:context;2"],
  "@id": "dtmi:test:Controller;2", "@type": "Interface", "displayName": {"de": "Regler", "en": "Controller"},
  "extends": ["dtmi:test:Base;1"],
  "contents": [
   {"@type": ["Telemetry", "DataSize"], "name": "workingSet", "schema": "long", "unit": "kibibyte"},
   {"@type": ["Telemetry", "State"], "name": "state", "schema": {"@type": "Enum", "valueSchema": "integer",
     "enumValues": [{"name": "off", "enumValue": 0}, {"name": "on", "enumValue": 1}]}},
   {"@type": "Telemetry", "name": "mode", "schema": {"@type": "Enum", "valueSchema": "string",
     "enumValues": [{"name": "eco", "enumValue": "E"}, {"name": "max", "enumValue": "M"}]}},
   {"@type": "Telemetry", "name": "accel", "schema": "dtmi:test:accel;1"},
   {"@type": "Telemetry", "name": "leds", "schema": {"@type": "Array", "elementSchema": "boolean"}},
   {"@type": "Telemetry", "name": "where", "schema": "geopoint"},
   {"@type": "Telemetry", "name": "push", "schema": "vector"},
   {"@type": "Telemetry", "name": "spot", "schema": "point"},
   {"@type": "Telemetry", "name": "small", "schema": "float"},
   {"@type": "Telemetry", "name": "count", "schema": "integer"},
   {"@type": "Telemetry", "name": "day", "schema": "date"},
   {"@type": "Telemetry", "name": "at", "schema": "dateTime"},
   {"@type": "Telemetry", "name": "clock", "schema": "time"},
   {"@type": "Telemetry", "name": "took", "schema": "duration"},
   {"@type": "Property", "name": "limits", "writable": true, "schema": "dtmi:test:accel;1"},
   {"@type": "Property", "name": "modules", "writable": true, "schema": {"@type": "Map",
     "mapKey": {"name": "module", "schema": "string"}, "mapValue": {"name": "state", "schema": "string"}}},
   {"@type": "Property", "name": "big", "writable": true, "schema": "long"},
   {"@type": "Property", "name": "label", "writable": true, "schema": "string"},
   {"@type": "Property", "name": "ratio", "writable": true, "schema": "double"},
   {"@type": "Command", "name": "reboot"},
   {"@type": "Command", "name": "note", "durable": true, "request": {"name": "text", "schema": "string"}},
   {"@type": "CloudProperty", "name": "owner", "schema": "string"},
   {"@type": "Relationship", "name": "floor", "target": "dtmi:test:Floor;1"},
   {"@type": "Component", "name": "thermostat1", "schema": "dtmi:test:Thermostat;1"},
   {"@type": "Component", "name": "thermostat2", "schema": "dtmi:test:Thermostat;1"},
   {"@type": "Component", "name": "info", "schema": {"@id": "dtmi:test:Info;1", "@type": "Interface",
     "contents": {"@type": "Property", "name": "maker", "schema": "string"}}}
  ],
  "schemas": [{"@id": "dtmi:test:accel;1", "@type": "Object", "fields": [
     {"name": "x", "schema": "double"}, {"name": "y", "schema": "double"}]}]},
 {"@id": "dtmi:test:Base;1", "@type": "Interface", "contents": [
   {"@type": "Property", "name": "serial", "schema": "string"}]},
 {"@id": "dtmi:test:Thermostat;1", "@type": "Interface", "contents": [
   {"@type": "Telemetry", "name": "temperature", "schema": "double"},
   {"@type": "Property", "name": "target", "writable": true, "schema": "double"},
   {"@type": "Command", "name": "report", "request": {"name": "since", "schema": "dateTime"},
     "response": {"name": "r", "schema": {"@type": "Object", "fields": {"name": "max", "schema": "double"}}}}]}
]`

func parse(t testing.TB, text string) *Model {
	t.Helper()
	m, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFailoverModelIsThatOfTheSample(t *testing.T) {
	m := failover(t)
	if m.ID() != "dtmi:Sample:Failover;1" {
		t.Errorf("id is %s", m.ID())
	}
	var out strings.Builder
	if err := m.Describe(&out); err != nil {
		t.Fatal(err)
	}
	want := `dtmi:Sample:Failover;1 (Failover)
  telemetry  temp      double                      Temperature
  telemetry  humidity  double                      Humidity
  property   battery   double           read-only  Battery level
  property   fanSpeed  integer          writable   Fan speed
  command    echo      string → string             Echo
  command    setAlarm  time             durable    Set alarm
`
	if out.String() != want {
		t.Errorf("described as\n%s\nwant\n%s", out.String(), want)
	}
	if c, ok := m.Command("echo"); !ok || c != (Command{Name: "echo", Request: "string", Response: "string"}) {
		t.Errorf("echo is %+v, %v", c, ok)
	}
	if c, ok := m.Command("setAlarm"); !ok || c != (Command{Name: "setAlarm", Durable: true, Request: "time"}) {
		t.Errorf("setAlarm is %+v, %v", c, ok)
	}
}

// TestFailoverFileIsImportable: IoT Central imports an array of Interfaces in its own context and
// in DTDL's. It needs types, names and display names to be spelled out.
func TestFailoverFileIsImportable(t *testing.T) {
	data, err := os.ReadFile("../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	var file []struct {
		Context  []string `json:"@context"`
		ID       string   `json:"@id"`
		Type     string   `json:"@type"`
		Contents []struct {
			ID       string         `json:"@id"`
			Type     string         `json:"@type"`
			Name     string         `json:"name"`
			Display  map[string]any `json:"displayName"`
			Schema   string         `json:"schema"`
			Writable *bool          `json:"writable"`
			Durable  *bool          `json:"durable"`
		} `json:"contents"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file) != 1 || file[0].Type != "Interface" || strings.Join(file[0].Context, " ") != "dtmi:iotcentral:context;2 dtmi:dtdl:context;2" {
		t.Fatalf("top of the file: %+v", file)
	}
	for _, c := range file[0].Contents {
		if c.ID != "dtmi:Sample:Failover:"+c.Name+";1" || c.Display["en"] == "" {
			t.Errorf("%s has id %s, display %v", c.Name, c.ID, c.Display)
		}
		if c.Type == "Property" && (c.Writable == nil || *c.Writable != (c.Name == "fanSpeed")) {
			t.Errorf("property %s: writable %v", c.Name, c.Writable)
		}
		if c.Type == "Command" && (c.Durable != nil && *c.Durable) != (c.Name == "setAlarm") {
			t.Errorf("command %s: durable %v", c.Name, c.Durable)
		}
	}
}

func TestComponentsAndInheritedContentsAreFound(t *testing.T) {
	m := parse(t, controller)
	if m.ID() != "dtmi:test:Controller;2" {
		t.Errorf("id is %s", m.ID())
	}
	for name, want := range map[string]bool{"": true, "thermostat1": true, "info": true, "floor": false, "serial": false, "no": false} {
		if m.HasComponent(name) != want {
			t.Errorf("component %q: %v", name, !want)
		}
	}
	if err := m.CheckProperty("", "serial", json.RawMessage(`"s"`)); err != nil {
		t.Errorf("inherited property: %v", err)
	}
	if err := m.CheckProperty("info", "maker", json.RawMessage(`"m"`)); err != nil {
		t.Errorf("inline component: %v", err)
	}
	if c, ok := m.Command("thermostat2*report"); !ok || c.Request != "dateTime" || c.Response != "object {max}" {
		t.Errorf("component command: %+v, %v", c, ok)
	}
	for _, name := range []string{"report", "*reboot", "no*report", "thermostat1*no", "thermostat1*report*x", ""} {
		if _, ok := m.Command(name); ok {
			t.Errorf("there is no command %q", name)
		}
	}
	if other, ok := m.WithRoot("dtmi:test:Thermostat;1"); !ok || other.ID() != "dtmi:test:Thermostat;1" || other.HasComponent("info") {
		t.Error("the thermostat alone")
	}
	if _, ok := m.WithRoot("dtmi:test:No;1"); ok {
		t.Error("a root that is not there")
	}
}

func TestDescriptionListsEveryContent(t *testing.T) {
	var out strings.Builder
	if err := parse(t, controller).Describe(&out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"dtmi:test:Controller;2 (Controller)",
		"  property      serial                 string                  read-only\n",
		"  telemetry     state                  enum of 0, 1\n",
		`  telemetry     mode                   enum of "E", "M"`,
		"  property      limits                 object {x, y}           writable",
		"  property      modules                map of string           writable",
		"  component     thermostat1            dtmi:test:Thermostat;1",
		"  command       reboot",
		`  ignored       CloudProperty "owner"`,
		"component thermostat1: dtmi:test:Thermostat;1",
		"  command    thermostat1*report  dateTime → object {max}\n",
		"component info: dtmi:test:Info;1",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
	two := parse(t, `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:a;1","@type":"Interface"},{"@id":"dtmi:b;1","@type":"Interface"}]`)
	out.Reset()
	if err := two.Describe(&out); err != nil || out.String() != "dtmi:a;1\n\nalso in the file: dtmi:b;1\n" {
		t.Errorf("%v: %q", err, out.String())
	}
}

// TestRootIsWhatNothingRefersTo: an Interface that others inherit from is not the device, also if
// it stands first in the file.
func TestRootIsWhatNothingRefersTo(t *testing.T) {
	m := parse(t, `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:Room;1","@type":"Interface"},
		{"@id":"dtmi:Hall;1","@type":"Interface","extends":"dtmi:Room;1"}]`)
	if m.ID() != "dtmi:Hall;1" {
		t.Errorf("id is %s", m.ID())
	}
	m = parse(t, `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:Door;1","@type":"Interface"},
		{"@id":"dtmi:Hall;1","@type":"Interface","contents":{"@type":"Component","name":"door","schema":"dtmi:Door;1"}}]`)
	if m.ID() != "dtmi:Hall;1" {
		t.Errorf("id is %s", m.ID())
	}
}

func TestInterfacesAndRootsAreListed(t *testing.T) {
	m := parse(t, controller)
	if got := strings.Join(m.Interfaces(), " "); got != "dtmi:test:Controller;2 dtmi:test:Info;1 dtmi:test:Base;1 dtmi:test:Thermostat;1" {
		t.Errorf("interfaces are %s", got)
	}
	if got := strings.Join(m.Roots(), " "); got != "dtmi:test:Controller;2" {
		t.Errorf("roots are %s", got)
	}
	two := parse(t, `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:a;1","@type":"Interface"},
		{"@id":"dtmi:b;1","@type":"Interface","extends":"dtmi:c;1"},{"@id":"dtmi:c;1","@type":"Interface"}]`)
	if got := strings.Join(two.Roots(), " "); got != "dtmi:a;1 dtmi:b;1" {
		t.Errorf("roots are %s", got)
	}
}

// one puts a content into an Interface that has the rest right.
func one(content string) string {
	return `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","contents":[` + content + `]}`
}

func TestUnusualFilesAreAccepted(t *testing.T) {
	files := map[string]string{
		"one interface":            one(""),
		"byte order mark":          "\xef\xbb\xbf" + one(""),
		"no contents":              `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":["Interface","dtmi:x;1"]}`,
		"language version 3":       `{"@context":["dtmi:dtdl:context;3"],"@id":"dtmi:t;1","@type":"Interface"}`,
		"unknown members":          `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","x":{"y":[1,null]},"comment":"c"}`,
		"unknown content type":     one(`{"@type":"Alien","name":"__?"}`),
		"absolute schema":          one(`{"@type":"Telemetry","name":"a","schema":"dtmi:dtdl:instance:Schema:double;2"}`),
		"deprecated command type":  one(`{"@type":"Command","name":"a","commandType":"asynchronous"}`),
		"schema before definition": one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Array","elementSchema":"dtmi:b;1"}},{"@type":"Telemetry","name":"b","schema":{"@id":"dtmi:b;1","@type":"Array","elementSchema":"date"}}`),
		"diamond": `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:d;1","@type":"Interface","extends":["dtmi:b;1","dtmi:c;1"]},
			{"@id":"dtmi:b;1","@type":"Interface","extends":"dtmi:a;1"},{"@id":"dtmi:c;1","@type":"Interface","extends":"dtmi:a;1"},
			{"@id":"dtmi:a;1","@type":"Interface","contents":[{"@type":"Command","name":"go"}]}]`,
	}
	for name, file := range files {
		if _, err := Parse([]byte(file)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWrongFilesAreRefusedWithTheirPlace(t *testing.T) {
	arrays := func(n int) string {
		return strings.Repeat(`{"@type":"Array","elementSchema":`, n) + `"double"` + strings.Repeat(`}`, n)
	}
	deep, four := arrays(6), arrays(4)
	tests := []struct{ name, file, want string }{
		{"empty", " \n", "line 1, column 1: the file is empty; expected a DTDL Interface or an array of them"},
		{"utf-16", "\xff\xfe[\x00", "the file is UTF-16; save it as UTF-8"},
		{"latin-1", "{\n\"a\":\"\xe9\"}", "line 2, column 6: not UTF-8 text"},
		{"cut short", "[\n {\"@id\":", "line 2, column 8: not valid JSON: unexpected end of JSON input"},
		{"comma too many", "[\n1,\n]", "line 3, column 1: not valid JSON: invalid character ']'"},
		{"second value", one("") + "\n{}", "line 2, column 1: not valid JSON: invalid character '{' after top-level value"},
		{"yaml", "model: a", "line 1, column 1: not valid JSON"},
		{"number", "5", "line 1, column 1: the file: expected a DTDL Interface (an object) or an array of them, this is a number"},
		{"empty array", "[]", "the array is empty"},
		{"array of text", `["x"]`, "line 1, column 2: [0]: expected a DTDL Interface (an object), this is a string"},
		{"no type", `{"@id":"dtmi:t;1"}`, `the file (element "dtmi:t;1"): no "@type"; expected Interface`},
		{"other type", `{"@type":"Telemetry"}`, `@type is "Telemetry"; expected "Interface"`},
		{"template", `{"@type":["ModelDefinition"],"capabilityModel":{}}`, `this is a whole device template; expected its model only`},
		{"no context", `{"@id":"dtmi:t;1","@type":"Interface"}`, `no "@context"; expected ["dtmi:iotcentral:context;2", "dtmi:dtdl:context;2"]`},
		{"other context", `{"@context":"dtmi:dtdl:context;1","@id":"dtmi:t;1","@type":"Interface"}`, `@context (Interface "dtmi:t;1"): expected the language "dtmi:dtdl:context;2"`},
		{"no id", `{"@context":"dtmi:dtdl:context;2","@type":"Interface"}`, `an Interface needs an "@id"`},
		{"bad id", `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:a;0","@type":"Interface"}`, `@id (Interface "dtmi:a;0"): "dtmi:a;0" is not a DTMI`},
		{"id a number", `{"@context":"dtmi:dtdl:context;2","@id":1,"@type":"Interface"}`, `is not a DTMI`},
		{"long id", `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:` + strings.Repeat("a", 130) + `;1","@type":"Interface"}`, `at most 128 characters, this has 137`},
		{"same id", `[` + one("") + `,` + one("") + `]`, `[1].@id (Interface "dtmi:t;1"): the file defines Interface dtmi:t;1 twice`},
		{"key twice", "{\"@id\":1,\n\"@id\":2}", `line 2, column 1: @id: "@id" appears twice in the same object`},
		{"deep", strings.Repeat("[", 90) + strings.Repeat("]", 90), "nested deeper than 64 levels"},
		{"contents text", `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","contents":["x"]}`, `contents[0] (Interface "dtmi:t;1"): expected an object in "contents", this is a string`},
		{"content without type", one(`{"name":"a"}`), `contents[0] (element "a"): no "@type"; expected Telemetry, Property, Command, Component, Relationship`},
		{"two types", one(`{"@type":["Telemetry","Property"],"name":"a","schema":"double"}`), `contents[0].@type (Telemetry "a"): this cannot be both Telemetry and Property`},
		{"no name", one(`{"@type":"Telemetry","schema":"double"}`), `contents[0] (Interface "dtmi:t;1"): no "name"`},
		{"bad name", one(`{"@type":"Telemetry","name":"_a","schema":"double"}`), `contents[0].name (Telemetry "_a"): "_a" is not a name`},
		{"name a number", one(`{"@type":"Telemetry","name":7,"schema":"double"}`), `a name must be a string, this is a number`},
		{"same name", one(`{"@type":"Telemetry","name":"a","schema":"double"},{"@type":"Command","name":"a"}`), `contents[1] (Command "a"): Interface dtmi:t;1 has two contents named "a"`},
		{"no schema", one(`{"@type":"Property","name":"a"}`), `contents[0] (Property "a"): no "schema"; expected one of boolean, date`},
		{"unknown schema", one("\n" + `{"@type":"Property","name":"a","schema":"int"}`), `line 2, column 41: contents[0].schema (Property "a"): "int" is not a schema; expected one of boolean`},
		{"schema a number", one(`{"@type":"Property","name":"a","schema":5}`), `a schema must be a name or an object, this is a number`},
		{"schema elsewhere", one(`{"@type":"Property","name":"a","schema":"dtmi:x;1"}`), `schema "dtmi:x;1" is not defined in this file`},
		{"schema of odd type", one(`{"@type":"Property","name":"a","schema":{"@type":"List"}}`), `contents[0].schema (Property "a"): a schema cannot be of @type "List"; expected Array, Enum, Map or Object`},
		{"schema to itself", one(`{"@type":"Telemetry","name":"a","schema":{"@id":"dtmi:s;1","@type":"Array","elementSchema":"dtmi:s;1"}}`), `a schema cannot refer to itself`},
		{"schema too deep", one(`{"@type":"Telemetry","name":"a","schema":` + deep + `}`), `complex schemas nested deeper than 5 levels`},
		{"named schema too deep", strings.Replace(one(`{"@type":"Telemetry","name":"a","schema":"dtmi:s;1"},{"@type":"Telemetry","name":"b","schema":{"@type":"Array","elementSchema":"dtmi:s;1"}}`),
			`"contents"`, `"schemas":[{"@id":"dtmi:s;1","@type":"Array","elementSchema":`+four+`}],"contents"`, 1), `complex schemas nested deeper than 5 levels`},
		{"array without element", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Array"}}`), `no "elementSchema"`},
		{"map without key", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Map"}}`), `a Map needs a "mapKey" with a name and a schema`},
		{"map key type", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Map","mapKey":{"name":"k","schema":"long"},"mapValue":{"name":"v","schema":"long"}}}`), `the keys of a Map are of schema string, not long`},
		{"field twice", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Object","fields":[{"name":"f","schema":"long"},{"name":"f","schema":"long"}]}}`), `this Object has two fields named "f"`},
		{"enum of double", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Enum","valueSchema":"double"}}`), `the valueSchema of an Enum is integer or string`},
		{"enum without values", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Enum","valueSchema":"string"}}`), `an Enum needs at least one of "enumValues"`},
		{"enum value type", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Enum","valueSchema":"integer","enumValues":[{"name":"n","enumValue":"1"}]}}`), `enumValues[0].enumValue (element "n"): this is a string, and the valueSchema of its Enum is integer`},
		{"enum value twice", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Enum","valueSchema":"integer","enumValues":[{"name":"n","enumValue":1},{"name":"o","enumValue":1.0}]}}`), `appears twice in its Enum`},
		{"enum name twice", one(`{"@type":"Telemetry","name":"a","schema":{"@type":"Enum","valueSchema":"integer","enumValues":[{"name":"n","enumValue":1},{"name":"n","enumValue":2}]}}`), `name "n" appears twice in its Enum`},
		{"writable text", one(`{"@type":"Property","name":"a","schema":"long","writable":"yes"}`), `contents[0].writable (Property "a"): "writable" must be true or false, this is a string`},
		{"durable number", one(`{"@type":"Command","name":"a","durable":1}`), `"durable" must be true or false, this is a number`},
		{"request text", one(`{"@type":"Command","name":"a","request":"string"}`), `contents[0].request (Command "a"): a request must be an object with a name and a schema, this is a string`},
		{"response without name", one(`{"@type":"Command","name":"a","response":{"schema":"string"}}`), `contents[0].response (Command "a"): no "name"`},
		{"display number", one(`{"@type":"Command","name":"a","displayName":{"en":5}}`), `a displayName must be a text`},
		{"component elsewhere", one(`{"@type":"Component","name":"c","schema":"dtmi:x;1"}`), `contents[0].schema (Component "c"): Interface "dtmi:x;1" is not defined in this file; add it to the array`},
		{"component without schema", one(`{"@type":"Component","name":"c"}`), `no "schema"; expected the @id of an Interface`},
		{"component of a number", one(`{"@type":"Component","name":"c","schema":5}`), `expected the @id of an Interface, or the Interface itself, this is a number`},
		{"component of nothing", one(`{"@type":"Component","name":"c","schema":[]}`), `no "schema"; expected the @id of an Interface`},
		{"component of an object", one(`{"@type":"Component","name":"c","schema":{"@type":"Object"}}`), `expected an Interface, this is of @type "Object"`},
		{"component of itself", one(`{"@type":"Component","name":"c","schema":"dtmi:t;1"}`), `a component cannot hold components, and dtmi:t;1 does`},
		{"extends itself", `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","extends":"dtmi:t;1"}`, `Interface dtmi:t;1 extends itself`},
		{"extends elsewhere", `{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","extends":["dtmi:u;1"]}`, `extends[0] (Interface "dtmi:t;1"): Interface "dtmi:u;1" is not defined`},
		{"extends and redefines", `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:b;1","@type":"Interface","extends":"dtmi:a;1","contents":[{"@type":"Command","name":"go"}]},
			{"@id":"dtmi:a;1","@type":"Interface","contents":[{"@type":"Command","name":"go"}]}]`, `has two contents named "go"`},
		{"odd key", `{"@type":"Interface","a\nb":{"@id":"x"}, "@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1"}`, `["a\nb"].@id`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.file))
			var fault *ParseError
			if !errors.As(err, &fault) {
				t.Fatalf("error is %T %v", err, err)
			}
			if got := fault.Error(); !strings.Contains(got, test.want) || strings.ContainsAny(got, "\n\r") {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if fault.Line < 1 || fault.Column < 1 {
				t.Errorf("stands at %d:%d", fault.Line, fault.Column)
			}
		})
	}
}

// TestWideSchemasAreReadOnce: each level refers to the next one from many fields. Reading a schema
// once for each reference would take 100^5 steps.
func TestWideSchemasAreReadOnce(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","contents":{"@type":"Telemetry","name":"a","schema":"dtmi:s1;1"},"schemas":[`)
	for level := 1; level <= 5; level++ {
		next := `"double"`
		if level < 5 {
			next = `"dtmi:s` + string(rune('1'+level)) + `;1"`
		}
		if level > 1 {
			b.WriteString(",")
		}
		b.WriteString(`{"@id":"dtmi:s` + string(rune('0'+level)) + `;1","@type":"Object","fields":[{"name":"f","schema":` + next + `}`)
		for i := range 100 {
			b.WriteString(`,{"name":"f` + strings.Repeat("x", i%60) + string(rune('a'+i/60)) + `","schema":` + next + `}`)
		}
		b.WriteString(`]}`)
	}
	b.WriteString(`]}`)
	m := parse(t, b.String())
	if found := m.CheckTelemetry("", []byte(`{"a":{"f":{"f":{"f":{"f":{"f":1}}}}}}`)); found != nil {
		t.Errorf("found %v", found)
	}
}

func FuzzParse(f *testing.F) {
	data, err := os.ReadFile("../failover.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(controller))
	f.Add([]byte(one(`{"@type":"Telemetry","name":"a","schema":{"@id":"dtmi:s;1","@type":"Array","elementSchema":"dtmi:s;1"}}`)))
	f.Add([]byte("[[[[{\"\xff\":1e999}]]"))
	f.Add([]byte("[" + rich + "," + base + "," + part + "]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		flaws := Flaws(data)
		for _, flaw := range flaws {
			if flaw.At.Text == "" || !plainText(flaw.At.Error()) {
				t.Fatalf("not fit for a person: %q", flaw.At.Error())
			}
		}
		m, err := Parse(data)
		if err != nil {
			var fault *ParseError
			if !errors.As(err, &fault) || fault.Text == "" || strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("not one clear error: %T %q", err, err)
			}
			return
		}
		if !dtmiPatternV3().MatchString(m.ID()) {
			t.Fatalf("id %q", m.ID())
		}
		var out strings.Builder
		if err := m.Describe(&out); err != nil || out.Len() == 0 {
			t.Fatalf("describe: %v", err)
		}
		if text := strings.ReplaceAll(out.String(), "\n", ""); !plainText(text) {
			t.Fatalf("not fit for a terminal: %q", text)
		}
		m.CheckTelemetry("", []byte(`{"a":{"b":[1,2]},"temp":"x"}`))
	})
}
