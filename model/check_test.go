package model

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
)

func TestTelemetryThatDoesNotFitIsFound(t *testing.T) {
	failover, controller := failover(t), parse(t, controller)
	tests := []struct {
		model           *Model
		component, body string
		want            []string // name, kind, and a piece of the sentence
	}{
		{failover, "", `{"temp":21.5,"humidity":40}`, nil},
		{failover, "", " {} ", nil},
		{failover, "", `{"temp":1e2}`, nil},
		// Two of the samples send their numbers as text against a double.
		{failover, "", `{"temp":"21.50"}`, []string{"temp wrong type temp is a string, expected double (a JSON number, without quotes)"}},
		{failover, "", `{"humidity":null,"pressure":1,"battery":2,"temp":true}`, []string{
			`battery unknown "battery" is a property in the model dtmi:Sample:Failover;1, not telemetry`,
			"humidity wrong type humidity is null, expected double",
			`pressure unknown telemetry "pressure" is not in the model dtmi:Sample:Failover;1, which has temp, humidity`,
			"temp wrong type temp is a boolean",
		}},
		{failover, "", `{"temp":1e400}`, []string{"temp wrong type temp is 1e400, beyond the range of double"}},
		{failover, "", `[1]`, []string{" not an object not a JSON object but an array"}},
		{failover, "", `null`, []string{" not an object not a JSON object but null"}},
		{failover, "", `{"temp":}`, []string{" not an object not a JSON object: invalid character '}'"}},
		{failover, "", ``, []string{" not an object not a JSON object"}},
		{failover, "pump", `{}`, []string{`pump unknown component "pump" is not in the model`}},

		{controller, "thermostat1", `{"temperature":1}`, nil},
		{controller, "thermostat1", `{"workingSet":1}`, []string{`workingSet unknown telemetry "workingSet" is not in the model dtmi:test:Thermostat;1`}},
		{controller, "info", `{"a":1}`, []string{"a unknown telemetry \"a\" is not in the model dtmi:test:Info;1, which has none"}},
		{controller, "", `{"state":1,"mode":"E","accel":{"x":1,"y":2},"leds":[true,false],"where":{"lat":1,"lon":2},"push":{"x":1,"y":2,"z":3}}`, nil},
		{controller, "", `{"where":{"lat":1,"lon":2,"alt":null},"spot":{"type":"Point","coordinates":[1,2]},"leds":[]}`, nil},
		{controller, "", `{"state":2}`, []string{"state wrong type state is none of the values of its enum (0, 1)"}},
		{controller, "", `{"state":"1"}`, []string{"state wrong type state is a string, expected enum of 0, 1"}},
		{controller, "", `{"mode":"X"}`, []string{"mode wrong type mode is none of the values of its enum (E, M)"}},
		{controller, "", `{"accel":{"x":1,"z":2}}`, []string{`accel wrong type accel has a field "z", expected object {x, y}`}},
		{controller, "", `{"accel":{"x":"1"}}`, []string{"accel wrong type accel.x is a string, expected double"}},
		{controller, "", `{"leds":[true,1]}`, []string{"leds wrong type leds[1] is a number, expected boolean"}},
		{controller, "", `{"leds":{}}`, []string{"leds wrong type leds is an object, expected array of boolean"}},
		{controller, "", `{"where":{"lat":1}}`, []string{"where wrong type where is not a geopoint, expected numbers in lat, lon, alt"}},
		{controller, "", `{"push":[1,2,3]}`, []string{"push wrong type push is an array, expected vector (an object)"}},
		{controller, "", `{"spot":{"type":"Polygon","coordinates":[]}}`, []string{"spot wrong type spot is not a point"}},
	}
	for _, test := range tests {
		var got []string
		for _, f := range test.model.CheckTelemetry(test.component, []byte(test.body)) {
			got = append(got, f.Name+" "+f.Kind.String()+" "+f.Text)
		}
		ok := len(got) == len(test.want)
		for i := range test.want {
			ok = ok && strings.HasPrefix(got[i], test.want[i])
		}
		if !ok {
			t.Errorf("%s %s\ngot  %q\nwant %q", test.component, test.body, got, test.want)
		}
	}
}

// values holds for each schema what fits it and what does not.
var values = map[string]struct{ good, bad []string }{
	"workingSet": {
		[]string{"0", "-0", "9223372036854775807", "-9223372036854775808", "5.0", "50e-1", "1E3", "0e99999999999999999999", "0.000e-5", "-120e-1"},
		[]string{"9223372036854775808", "1e19", "1e99999999999999999999", "0.5", "5e-1", "1e-99999999999999999999", `"5"`, "null", "12.50", "100e-3"},
	},
	"count":  {[]string{"2147483647", "-2147483648", "2.0"}, []string{"2147483648", "-2147483649", "1.5", "9223372036854775808"}},
	"small":  {[]string{"1", "-3.4e38", "0.1"}, []string{"3.5e38", "1e39"}},
	"day":    {[]string{`"2024-02-29"`}, []string{`"2023-02-29"`, `"2024-2-29"`, `"2024-02-29T00:00:00Z"`, `""`, "20240229"}},
	"at":     {[]string{`"2024-02-29T08:30:00Z"`, `"2024-02-29T08:30:00.123456789+05:30"`, `"2016-12-31T23:59:60Z"`, `"2024-02-29t08:30:00z"`}, []string{`"2024-02-29T08:30:00"`, `"2023-02-29T08:30:00Z"`, `"2024-02-29 08:30:00Z"`, `"2024-02-29T24:00:00Z"`, `"2024-02-29T08:30:00,5Z"`, `"2024-02-29T08:30:00+24:00"`, `"2024-02-29"`, "1709195400"}},
	"clock":  {[]string{`"08:30:00"`, `"08:30:00.5"`, `"08:30:00Z"`, `"08:30:00-07:00"`, `"23:59:60"`, `"2024-02-29T08:30:00Z"`}, []string{`"8:30:00"`, `"08:30"`, `"24:00:00"`, `"08:60:00"`, `"08:30:61"`, `"08:30:00."`, `"08:30:00 Z"`, `"08:30:00\n"`, `"tomorrow"`, `830`, `{"time":"08:30:00"}`}},
	"took":   {[]string{`"PT5M"`, `"P1Y2M3DT4H5M6.7S"`, `"P2W"`, `"-P1D"`, `"PT0.5H"`}, []string{`"P"`, `"PT"`, `"5M"`, `"P1"`, `"PT5"`, `"P1DT"`, `"PY"`, `"PT1S1M"`, `"P1H"`, `"PN"`, `"PNY"`}},
	"accel":  {[]string{`{}`, `{"x":1}`}, []string{`[]`, `{"x":null}`}},
	"state":  {[]string{"0", "1.0"}, []string{"true", "-1", "0.5"}},
	"leds":   {[]string{"[]"}, []string{"[null]", "[[]]"}},
	"spot":   {[]string{`{"type":"Point","coordinates":[1,2],"bbox":[]}`}, []string{`{"type":"Point"}`, `{"type":1,"coordinates":[]}`}},
	"where":  {[]string{`{"lat":1,"lon":2,"alt":3}`}, []string{`{"lat":1,"lon":"2"}`, `{"lat":1,"lon":2,"alt":"3"}`}},
	"mode":   {[]string{`"E"`, `"\u0045"`}, []string{`"e"`, "1"}},
	"push":   {[]string{`{"x":1,"y":2,"z":3}`}, []string{`{"x":1,"y":2}`}},
	"absent": {nil, []string{"1"}},
}

func TestEachSchemaTakesItsValues(t *testing.T) {
	m := parse(t, controller)
	for name, v := range values {
		for _, good := range v.good {
			if found := m.CheckTelemetry("", []byte(`{"`+name+`":`+good+`}`)); found != nil {
				t.Errorf("%s: %s is refused: %v", name, good, found)
			}
		}
		for _, bad := range v.bad {
			if found := m.CheckTelemetry("", []byte(`{"`+name+`":`+bad+`}`)); len(found) != 1 || found[0].Name != name {
				t.Errorf("%s: %s gives %v", name, bad, found)
			}
		}
	}
}

func TestWholeNumbersHaveManySpellings(t *testing.T) {
	for text, want := range map[string]int64{
		"9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64, "9007199254740993": 9007199254740993,
		"9.007199254740993e15": 9007199254740993, "100": 100, "1.00e2": 100, "0.000000000000000000000000000001e32": 100, "1200.0": 1200, "-0.0": 0,
	} {
		if got, problem := integral(text); got != want || problem != "" {
			t.Errorf("%s is %d %s", text, got, problem)
		}
	}
	for _, text := range []string{"9007199254740993.0000000000000001", "1e-1", "9223372036854775808", "1e2147483648", "1e-2147483649"} {
		if got, problem := integral(text); problem == "" {
			t.Errorf("%s is %d", text, got)
		}
	}
	for i := int64(-3000); i < 3000; i += 7 { // in the ways JSON allows
		for _, format := range []byte{'f', 'e', 'g'} {
			text := strconv.FormatFloat(float64(i), format, -1, 64)
			if got, problem := integral(text); problem != "" || got != i {
				t.Errorf("%s is %d %s", text, got, problem)
			}
		}
	}
}

func TestDesiredPropertiesAreChecked(t *testing.T) {
	failover, controller := failover(t), parse(t, controller)
	long := `"` + strings.Repeat("x", 4097) + `"`
	tests := []struct {
		model                  *Model
		component, name, value string
		apply                  string // the value to apply; empty with an error
		kind                   Kind
		code                   int
		text                   string
	}{
		{failover, "", "fanSpeed", "1200", "1200", 0, 0, ""},
		{failover, "", "fanSpeed", " 1200.0 ", "1200.0", 0, 0, ""},
		{failover, "", "fanSpeed", `{"value":1200}`, "1200", 0, 0, ""}, // an application of the oldest kind
		{failover, "", "fanSpeed", "null", "null", 0, 0, ""},
		{failover, "", "fanSpeed", `"1200"`, "", WrongType, 400, "fanSpeed is a string, expected integer"},
		{failover, "", "fanSpeed", `{"value":"fast"}`, "", WrongType, 400, "fanSpeed is a string"},
		{failover, "", "fanSpeed", `{"value":1,"unit":2}`, "", WrongType, 400, "fanSpeed is an object"},
		{failover, "", "fanSpeed", "12.5", "", WrongType, 400, "fanSpeed is 12.5, not a whole number"},
		{failover, "", "fanSpeed", "3000000000", "", WrongType, 400, "beyond the range of integer"},
		{failover, "", "fanSpeed", "", "", WrongType, 400, "fanSpeed is not valid JSON"},
		{failover, "", "fanSpeed", "1 2", "", WrongType, 400, "fanSpeed is not valid JSON"},
		{failover, "", "battery", "5", "", NotWritable, 400, `property "battery" is read-only in the model`},
		{failover, "", "speed", "5", "", Unknown, 404, `property "speed" is not in the model dtmi:Sample:Failover;1, which has battery, fanSpeed`},
		{failover, "", "temp", "5", "", Unknown, 404, `"temp" is a telemetry in the model`},
		{failover, "pump", "fanSpeed", "5", "", Unknown, 404, `component "pump" is not in the model`},
		{controller, "thermostat1", "target", "57", "57", 0, 0, ""},
		{controller, "thermostat1", "limits", "57", "", Unknown, 404, ""},
		{controller, "", "limits", `{"x":1}`, `{"x":1}`, 0, 0, ""}, // a patch holds what changed
		{controller, "", "limits", `{"x":null}`, `{"x":null}`, 0, 0, ""},
		{controller, "", "limits", `{"value":1}`, "", WrongType, 400, `limits has a field "value"`},
		{controller, "", "modules", `{"value":"on","m":null}`, `{"value":"on","m":null}`, 0, 0, ""},
		{controller, "", "modules", `{"a.b":"on"}`, "", WrongType, 400, `has the key "a.b"`},
		{controller, "", "modules", `{"":"on"}`, "", WrongType, 400, `has the key ""`},
		{controller, "", "big", "4503599627370495", "4503599627370495", 0, 0, ""},
		{controller, "", "big", "-4503599627370496", "-4503599627370496", 0, 0, ""},
		{controller, "", "big", "4503599627370496", "", WrongType, 400, "a twin takes integers from -4503599627370496 to 4503599627370495"},
		{controller, "", "ratio", "4503599627370496", "", WrongType, 400, "a twin takes integers"},
		{controller, "", "ratio", "4503599627370496.0", "4503599627370496.0", 0, 0, ""},
		{controller, "", "label", long, "", WrongType, 400, "label has 4097 bytes, a twin takes strings of at most 4096"},
	}
	for _, test := range tests {
		got, err := test.model.Desired(test.component, test.name, json.RawMessage(test.value))
		checkVerdict(t, test.name+" "+clip(test.value), err, test.kind, test.code, test.text)
		if string(got) != test.apply {
			t.Errorf("%s %s: apply %q, want %q", test.name, clip(test.value), got, test.apply)
		}
	}
}

func checkVerdict(t *testing.T, what string, err error, kind Kind, code int, text string) {
	t.Helper()
	var check *CheckError
	switch {
	case kind == 0:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case !errors.As(err, &check):
		t.Errorf("%s: error is %T %v", what, err, err)
	case check.Kind != kind || check.Code() != code || !strings.Contains(check.Error(), text):
		t.Errorf("%s: %v %d %q, want %v %d %q", what, check.Kind, check.Code(), check, kind, code, text)
	}
}

func TestReportedPropertiesAreChecked(t *testing.T) {
	m := failover(t)
	checkVerdict(t, "battery", m.CheckProperty("", "battery", json.RawMessage("42.5")), 0, 0, "")
	checkVerdict(t, "battery gone", m.CheckProperty("", "battery", json.RawMessage("null")), 0, 0, "")
	checkVerdict(t, "fanSpeed", m.CheckProperty("", "fanSpeed", json.RawMessage("3")), 0, 0, "")
	checkVerdict(t, "battery as text", m.CheckProperty("", "battery", json.RawMessage(`"42"`)), WrongType, 400, "battery is a string")
	checkVerdict(t, "battery wrapped", m.CheckProperty("", "battery", json.RawMessage(`{"value":42}`)), WrongType, 400, "battery is an object")
	checkVerdict(t, "no JSON", m.CheckProperty("", "battery", json.RawMessage("nul")), WrongType, 400, "not valid JSON")
	checkVerdict(t, "humidity", m.CheckProperty("", "humidity", json.RawMessage("1")), Unknown, 404, "telemetry")
	checkVerdict(t, "big", m.CheckProperty("", "battery", json.RawMessage("5000000000000000")), WrongType, 400, "a twin takes integers")
}

func TestParametersOfCommandsAreChecked(t *testing.T) {
	failover, controller := failover(t), parse(t, controller)
	tests := []struct {
		model         *Model
		name, payload string
		kind          Kind
		text          string
	}{
		{failover, "echo", `"hello"`, 0, ""},
		{failover, "echo", ` "" `, 0, ""},
		{failover, "echo", `5`, WrongType, `command "echo": the parameter is a number, expected string`},
		{failover, "echo", `hello`, WrongType, "not valid JSON"}, // a direct method's payload is JSON
		{failover, "echo", "\"\xff\"", WrongType, "not valid JSON"},
		{failover, "echo", ``, Missing, `command "echo" takes string, and came without`},
		{failover, "echo", `null`, Missing, ""},
		{failover, "setAlarm", `@`, Missing, ""},
		{failover, "setAlarm", `"08:30:00"`, 0, ""},
		{failover, "setAlarm", `08:30:00`, 0, ""}, // a message's body may be the bare text
		{failover, "setAlarm", "2026-03-01T08:30:00Z\n", 0, ""},
		{failover, "setAlarm", `"soon"`, WrongType, "is not a time"},
		{failover, "setAlarm", `soon`, WrongType, "is not a time"},
		{failover, "setAlarm", `830`, WrongType, "is a number"},
		{failover, "setAlarm", `{"time":"08:30:00"}`, WrongType, "is an object"},
		{failover, "dance", ``, Unknown, `command "dance" is not in the model dtmi:Sample:Failover;1, which has echo, setAlarm`},
		{failover, "fanSpeed", ``, Unknown, `"fanSpeed" is a property`},
		{failover, "pump*echo", `"x"`, Unknown, `component "pump" is not in the model`},
		{failover, "*echo", `"x"`, Unknown, ""},
		{controller, "reboot", ``, 0, ""},
		{controller, "reboot", `{}`, 0, ""},
		{controller, "reboot", `5`, 0, ""},
		{controller, "note", `hello world`, 0, ""},
		{controller, "note", "\xff", WrongType, "not valid JSON"},
		{controller, "thermostat1*report", `"2026-03-01T08:30:00Z"`, 0, ""},
		{controller, "thermostat1*report", `"2026-03-01"`, WrongType, "is not a dateTime"},
		{controller, "report", `"2026-03-01T08:30:00Z"`, Unknown, ""},
	}
	for _, test := range tests {
		code := 400
		if test.kind == Unknown {
			code = 404
		}
		checkVerdict(t, test.name+" "+test.payload, test.model.CheckCommand(test.name, json.RawMessage(test.payload)), test.kind, code, test.text)
	}
}

// TestSentencesRepeatNoValue: the sentences go into logs and to the cloud, so they must not repeat
// the text of a value.
func TestSentencesRepeatNoValue(t *testing.T) {
	m := parse(t, controller)
	for _, name := range []string{"workingSet", "state", "mode", "leds", "where", "push", "spot", "count", "day", "at", "clock", "took"} {
		for _, f := range m.CheckTelemetry("", []byte(`{"`+name+`":"hunter2"}`)) {
			if strings.Contains(f.Text, "hunter2") {
				t.Error(f.Text)
			}
		}
	}
	if _, err := m.Desired("", "big", json.RawMessage(`"hunter2"`)); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestAckHasItsFormOnTheWire(t *testing.T) {
	for want, ack := range map[string]Ack{
		`{"value":1200,"ac":200,"av":5,"ad":"completed"}`:        {json.RawMessage("1200"), AckCompleted, 5, "completed"},
		`{"value":9007199254740993,"ac":203,"av":0}`:             {json.RawMessage("9007199254740993"), 203, 0, ""},
		`{"value":null,"ac":404,"av":1,"ad":"no such property"}`: {nil, AckUnknown, 1, "no such property"},
	} {
		got, err := json.Marshal(ack)
		if err != nil || string(got) != want {
			t.Errorf("%s %v, want %s", got, err, want)
		}
	}
}

func TestEachKindHasItsWords(t *testing.T) {
	for kind, want := range map[Kind]string{Unknown: "unknown", WrongType: "wrong type", NotObject: "not an object",
		NotWritable: "not writable", Missing: "missing", 0: "Kind(0)"} {
		if kind.String() != want {
			t.Errorf("%d is %q", kind, kind)
		}
	}
}

func FuzzCheckTelemetry(f *testing.F) {
	m := parse(f, controller)
	for name, v := range values {
		for _, value := range append(v.good, v.bad...) {
			f.Add([]byte(`{"` + name + `":` + value + `}`))
		}
	}
	f.Add([]byte("{\"a\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, component := range []string{"", "thermostat1", "none"} {
			for _, found := range m.CheckTelemetry(component, body) {
				if found.Kind < Unknown || found.Kind > NotObject || found.Text == "" {
					t.Fatalf("%+v", found)
				}
			}
		}
		for _, name := range []string{"limits", "modules", "big", "label", "ratio"} {
			plain, err := m.Desired("", name, body)
			if err == nil && !json.Valid(plain) {
				t.Fatalf("%s is applied", plain)
			}
		}
		_ = m.CheckCommand("note", body)
		_ = m.CheckCommand("thermostat1*report", body)
	})
}

func BenchmarkCheckTelemetry(b *testing.B) {
	m := failover(b)
	body := []byte(`{"temp":21.53,"humidity":40.17}`)
	b.ReportAllocs()
	for b.Loop() {
		if m.CheckTelemetry("", body) != nil {
			b.Fatal("found something")
		}
	}
}
