package flow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// A test of a flow compares what it selects, or fails and says why.
func TestFlowTestsCompareWhatTheySelect(t *testing.T) {
	const printed = `{"destination":"site","topic":"site/a/climate","payload":{"temperature":10},"properties":{"priority":"low"}}
{"destination":"cloud","topic":"rooms/a/climate","payload":{"temperature":10},"properties":{"priority":"low"}}
`
	array := `[` + strings.ReplaceAll(strings.TrimSpace(printed), "\n", ",") + `]`
	microsoft := strings.ReplaceAll(array, `{"priority":"low"}`, `{"user-properties":{"priority":"low"}}`)
	for _, v := range []struct{ name, chosen, ignored, expected, want string }{
		{"lines as they are printed", "[topic, destination, payload, properties, contentType, retain]", "[]", printed, ""},
		{"an array of them", "[destination, payload.temperature, properties.priority]", "[]", array, ""},
		{"properties of Microsoft's samples", "[properties.user-properties.priority, properties.priority]", "[]", microsoft, ""},
		{"a member that is ignored", "[topic, payload]", "[payload.temperature]", strings.ReplaceAll(printed, `{"temperature":10}`, `{"temperature":11}`), ""},
		{"another number", "[payload.temperature]", "[]", strings.Replace(array, "10", "10.0", 1), "2 messages are expected"},
		{"another destination", "[destination]", "[]", strings.Replace(printed, "cloud", "clout", 1), `+ {"destination":"cloud"}`},
		{"another property", "[properties]", "[]", strings.Replace(printed, "low", "high", 1), "2 messages are expected"},
		{"an unknown root", "[desination]", "[]", array, `select has "desination", which no message has; did you mean destination?`},
		{"an unknown root that is ignored", "[payload]", "[paylod.temperature]", array, `ignores has "paylod.temperature", which no message has; did you mean payload?`},
		{"a member that is nowhere", "[topic, payload.temprature]", "[]", array, "select: no message has payload.temprature"},
		{"a property that is nowhere", "[properties.prority]", "[]", array, "select: no message has properties.prority"},
		{"what is selected is ignored", "[topic]", "[topic]", array, "select: no message has topic"},
		{"a line that is no message", "[topic]", "[]", printed + "7\n", "line 3 is no message"},
		{"a line that is no JSON", "[topic]", "[]", printed + "{]\n", "after line 2: invalid character ']'"},
		{"a member of an array that is no message", "[topic]", "[]", `[7]`, "message 1 is no JSON object"},
		{"something behind the array", "[topic]", "[]", array + "{}", "something follows the array"},
	} {
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, err := range []error{
				os.CopyFS(filepath.Join(dir, "alarms"), os.DirFS("../../examples/flows/alarms")),
				os.Mkdir(filepath.Join(dir, "input"), 0o700),
				os.WriteFile(filepath.Join(dir, "input", "a.jsonl"), []byte(`{"topic":"rooms/a/climate","payload":{"temperature":10},"time":"2026-01-01T00:00:00Z"}`), 0o600),
				os.WriteFile(filepath.Join(dir, "expected"), []byte(v.expected), 0o600),
				os.WriteFile(filepath.Join(dir, "a.test.yaml"), []byte("name: a\nflow: alarms\ndir: alarms\ninput: input\nexpected: expected\nselect: "+v.chosen+"\nignores: "+v.ignored+"\n"), 0o600),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			r := RunTest(filepath.Join(dir, "a.test.yaml"), nil)
			if r.OK != (v.want == "") || !strings.Contains(r.Text, v.want) {
				t.Errorf("ok %v, not %q:\n%s", r.OK, v.want, r.Text)
			}
		})
	}
}

// A JSON string whose text is JSON too is expected as flow run prints it. The text of any other
// JSON is expected as Microsoft's samples write it.
func TestFlowTestsTakeAPayloadThatIsATextAsItIsPrinted(t *testing.T) {
	for _, v := range []struct{ name, payload, expected, want string }{
		{"a string", `"95"`, `"95"`, ""},
		{"a string with an object", `"{\"a\":1}"`, `"{\"a\":1}"`, ""},
		{"a number as its text", `95`, `"95"`, ""},
		{"a number", `95`, `95`, ""},
		{"another string", `"96"`, `"95"`, "1 message is expected"},
		{"a number for a string", `"95"`, `95`, "1 message is expected"},
	} {
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			through := endpointOf("default", brokerAddress) + `---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: Dataflow
metadata: {name: through}
spec:
  operations:
    - {operationType: Source, sourceSettings: {endpointRef: default, dataSources: [in]}}
    - {operationType: Destination, destinationSettings: {endpointRef: default, dataDestination: out}}
`
			do(t, os.Mkdir(filepath.Join(dir, "input"), 0o700))
			put(t, filepath.Join(dir, "flows.yaml"), through)
			put(t, filepath.Join(dir, "input", "a.jsonl"), `{"topic":"in","payload":`+v.payload+`}`)
			put(t, filepath.Join(dir, "expected"), `{"payload":`+v.expected+`}`)
			put(t, filepath.Join(dir, "a.test.yaml"), "name: a\nflow: through\ndir: .\ninput: input\nexpected: expected\n")
			r := RunTest(filepath.Join(dir, "a.test.yaml"), nil)
			if r.OK != (v.want == "") || !strings.Contains(r.Text, v.want) {
				t.Errorf("ok %v, not %q:\n%s", r.OK, v.want, r.Text)
			}
		})
	}
}

// A manifest may be one line, as programs write it: its faults are told by their column.
func TestCheckTellsTheFaultsOfRulesInOneLine(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "flow.Dataflow.json"), `{"apiVersion": "connectivity.iotoperations.azure.com/v1", "kind": "Dataflow", "metadata": {"name": "flow"}, "spec": {"operations": [`+
		`{"operationType": "Source", "sourceSettings": {"endpointRef": "nowhere", "dataSources": ["a"]}}, `+
		`{"operationType": "BuiltInTransformation", "builtInTransformationSettings": {"map": [{"inputs": ["n"], "output": "n", "expression": "avg($1)"}]}}, `+
		`{"operationType": "Destination", "destinationSettings": {"endpointRef": "iothub", "dataDestination": "telemetry"}}]}}`)
	r := Check(dir, CheckOptions{})
	for _, want := range []string{`"nowhere"`, `there is no function "avg"`} {
		if !slices.ContainsFunc(r.Faults, func(f manifest.Fault) bool { return strings.Contains(f.Text, want) && f.Line == 1 }) {
			t.Errorf("%s is not told: %v", want, r.Faults)
		}
	}
}

// A fault of the wiring hides no fault of a rule: who mends the one need not come again for the
// other.
func TestCheckTellsTheFaultsOfRulesBesideThoseOfTheWiring(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/flows/alarms")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "alarms.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.NewReplacer("    - {from: {name: hot.output.false}, to: {name: normal}}\n", "", `"$1 > 30"`, `"avg($1) > 30"`).Replace(string(text))
	if err := os.WriteFile(filepath.Join(dir, "alarms.yaml"), []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	r := Check(dir, CheckOptions{})
	for _, want := range []string{"the arm false of the branch hot leads nowhere", `there is no function "avg"`} {
		n := 0
		for _, f := range r.Faults {
			if strings.Contains(f.Text, want) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%q is told %d times: %v", want, n, r.Faults)
		}
	}
}
