package manifest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const pipeline = `apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata: {name: flow}
spec:
  deadLetter: {}
  nodes:
    - {nodeType: Source, name: in, sourceSettings: {endpointRef: broker, dataSources: [sensors/#, $shared/group/pumps/+]}}
    - nodeType: Graph
      name: split
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-branch:1.0.0
        configuration: [{key: rules, value: '{"branch": {"inputs": ["a"], "expression": "$1 > 5"}}'}]
    - {nodeType: Graph, name: join, graphSettings: {registryEndpointRef: default, artifact: "azureiotoperations/graph-dataflow-concatenate:1.0.0"}}
    - {nodeType: Destination, name: out, destinationSettings: {endpointRef: iothub, dataDestination: telemetry/pump}}
  nodeConnections:
    - {from: {name: in}, to: {name: split}}
    - {from: {name: split.output.true}, to: {name: join}}
    - {from: {name: split.output.false}, to: {name: join}}
    - {from: {name: join}, to: {name: out}}
`

func TestAGraphIsResolved(t *testing.T) {
	set, all := load(t, map[string]string{"a.yaml": broker, "b.yml": "\ufeff" + pipeline})
	if len(all) > 0 {
		t.Fatal(all)
	}
	g := set.Graph("flow")
	if g == nil {
		t.Fatal("no graph")
	}
	if !g.Enabled || g.Profile.Name != "default" || g.DeadLetter.Directory != "deadletter" || !g.NeedsHub() || g.NeedsRegistry() {
		t.Errorf("%+v", g)
	}
	s := g.Sources[0]
	if s.Settings.Mqtt.KeepAliveSeconds != 60 || s.Settings.Mqtt.Protocol != "Mqtt" || !s.Settings.Mqtt.TLS.Enabled() {
		t.Errorf("defaults: %+v", s.Settings.Mqtt)
	}
	if s.Topics[0].Filter != "sensors/#" || s.Topics[1].Group != "group" || s.Topics[1].Filter != "pumps/+" {
		t.Errorf("topics: %+v", s.Topics)
	}
	if g.Operators[0].Native != NativeBranch || g.Operators[1].Native != NativeConcatenate || g.Operators[0].Version != "1.0.0" {
		t.Errorf("operators: %+v", g.Operators)
	}
	if c := g.Connections; c[1].Arm != TrueArm || c[2].Arm != FalseArm || c[1].From != "split" || c[0].Arm != NoArm {
		t.Errorf("connections: %+v", c)
	}
	if d := g.Destinations[0]; d.Settings != nil || d.Endpoint != EndpointHub || d.To != "telemetry/pump" {
		t.Errorf("destination: %+v", d)
	}
	if !g.NeedsJournal(func(o *Operator) bool { return o.Name == "join" }) || g.NeedsJournal(func(*Operator) bool { return false }) {
		t.Error("the journal is not asked for by the operators")
	}
}

func TestADigestChangesWithTheMeaningAlone(t *testing.T) {
	digest := func(files map[string]string) string {
		set, all := load(t, files)
		if Errors(all) || len(set.Graphs) != 1 {
			t.Fatal(all)
		}
		return set.Graphs[0].Digest
	}
	base := digest(map[string]string{"a.yaml": broker, "b.yaml": pipeline})
	if d := digest(map[string]string{"one.yaml": "# a comment\n" + pipeline + "---\n" + broker}); d != base {
		t.Error("comments and files change it")
	}
	for what, files := range map[string]map[string]string{
		"an endpoint":   {"a.yaml": strings.Replace(broker, "8883", "8884", 1), "b.yaml": pipeline},
		"an expression": {"a.yaml": broker, "b.yaml": strings.Replace(pipeline, "> 5", "> 6", 1)},
		"a connection":  {"a.yaml": broker, "b.yaml": strings.Replace(pipeline, "from: {name: in}", "from: {name: in, schema: {schemaRef: \"aio-sr://a:1\"}}", 1)},
		"a profile":     {"a.yaml": broker, "b.yaml": pipeline, "c.yaml": "apiVersion: connectivity.iotoperations.azure.com/v1\nkind: DataflowProfile\nmetadata: {name: default}\nspec: {diagnostics: {logs: {level: debug}}}\n"},
		"the mode":      {"a.yaml": broker, "b.yaml": strings.Replace(pipeline, "  nodes:", "  mode: Disabled\n  nodes:", 1)},
	} {
		if digest(files) == base {
			t.Errorf("%s does not change it", what)
		}
	}
}

func TestAnErrorConcernsOnlyWhatItIsAbout(t *testing.T) {
	other := strings.Replace(pipeline, "name: flow", "name: other", 1)
	bad := strings.Replace(pipeline, "name: flow", "name: third", 1)
	set, all := load(t, map[string]string{
		"a.yaml": broker + "---\n" + strings.Replace(broker, "name: broker", "name: worse", 1) + "  colour: red\n",
		"b.yaml": pipeline + "---\n" + strings.Replace(other, "endpointRef: broker", "endpointRef: worse", 1) + "---\n" + bad + "  nodes: []\n",
		"c.yaml": "kind: [\n",
	})
	if !Errors(all) {
		t.Fatal("no errors")
	}
	if set.Graph("flow") == nil || len(set.Graphs) != 1 {
		t.Errorf("graphs %v", set.Graphs)
	}
	if s := fmt.Sprint(set.Faulty, set.Unread); s != "[other third] [c.yaml]" {
		t.Errorf("%s", s)
	}
}

func TestTheNameOfWhatIsNoPlainFileIsKnown(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(os.DevNull, filepath.Join(dir, "flow.yaml")); err != nil {
		t.Skipf("this system makes no symbolic links for everybody: %v", err)
	}
	set, all := Load(dir, Options{})
	if !Errors(all) || !slices.Equal(set.Unread, []string{"flow.yaml"}) {
		t.Errorf("unread %v, faults %v", set.Unread, all)
	}
}

func TestWhatTwoFilesDefineIsTakenFromNeither(t *testing.T) {
	renamed := strings.NewReplacer("name: broker", "name: second", "endpointRef: broker", "endpointRef: second", "name: flow", "name: user")
	for _, test := range []struct {
		what   string
		files  map[string]string
		faulty string
	}{
		{"a graph", map[string]string{"0.yaml": broker, "a.yaml": pipeline, "b.yaml": pipeline}, "flow"},
		{"an endpoint", map[string]string{
			"0.yaml": broker + "---\n" + renamed.Replace(broker), "1.yaml": renamed.Replace(broker), "a.yaml": pipeline, "b.yaml": renamed.Replace(pipeline),
		}, "user"},
	} {
		set, all := load(t, test.files)
		if !Errors(all) || !slices.Contains(set.Faulty, test.faulty) || set.Graph(test.faulty) != nil {
			t.Errorf("%s: faulty %v, faults %v", test.what, set.Faulty, all)
		}
		if test.faulty == "user" && set.Graph("flow") == nil {
			t.Errorf("%s: a graph without it is faulty too", test.what)
		}
	}
}

func TestBodiesOfAzureResourceManagerAreRead(t *testing.T) {
	body := func(spec string) string {
		text, _, _ := strings.Cut(spec, "\n---")
		return `{"id": "/subscriptions/x", "name": "x/broker", "type": "Microsoft.IoTOperations/x", "extendedLocation": {"name": "x"},
  "properties": {"provisioningState": "Succeeded", ` + text + `}}`
	}
	set, all := load(t, map[string]string{
		"broker.DataflowEndpoint.json": body(`"endpointType": "Mqtt", "mqttSettings": {"host": "broker.local:8883", "authentication": {"method": "Anonymous"}}`),
		"default.dataflowprofile.json": `{"properties": {"diagnostics": {"logs": {"level": "warn"}}}}`,
		"flow.yaml":                    pipeline,
	})
	if len(all) > 0 {
		t.Fatal(all)
	}
	if g := set.Graph("flow"); g == nil || g.Profile.Diagnostics.Logs.Level != "warn" || g.Sources[0].Settings.Mqtt.Host != "broker.local:8883" {
		t.Errorf("%+v", g)
	}
	if e := set.Endpoints["broker"]; e.APIVersion != "" || e.Mqtt.At("host").Column != 101 {
		t.Errorf("%+v", e.Mqtt.At("host"))
	}
}

func TestAliasesAndMergedKeysMeanWhatTheyStandFor(t *testing.T) {
	set, all := load(t, map[string]string{"f.yaml": `apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: broker}
spec:
  endpointType: Mqtt
  mqttSettings:
    <<: {qos: 0, retain: &r Never}
    retain: *r
    host: broker.local:8883
    authentication: {method: Anonymous}
`})
	if len(all) > 0 {
		t.Fatal(all)
	}
	if m := set.Endpoints["broker"].Mqtt; m.QoS != 0 || m.Retain != "Never" {
		t.Errorf("%+v", m)
	}
}

func TestADataflowBecomesAGraph(t *testing.T) {
	set, all := load(t, map[string]string{"a.yaml": broker, "f.yaml": `apiVersion: connectivity.iotoperations.azure.com/v1
kind: Dataflow
metadata: {name: flow}
spec:
  operations:
    - operationType: Destination
      destinationSettings: {endpointRef: iothub, dataDestination: telemetry}
    - operationType: BuiltInTransformation
      builtInTransformationSettings:
        schemaRef: aio-sr://clean:1
        datasets:
          - {key: lines, inputs: [$source.id, $context.id], expression: $1 == $2}
        filter:
          - inputs:
              - temperature ? $last
            expression: >-
              $1 >
              1000
        map:
          - {inputs: ['*'], output: '*', type: PassThrough}
          - {inputs: [temperature], output: fahrenheit, expression: "cToF(\u00241)"}
    - operationType: Source
      sourceSettings: {endpointRef: broker, dataSources: [a], schemaRef: "aio-sr://raw:1"}
`})
	if len(all) > 0 {
		t.Fatal(all)
	}
	g := set.Graph("flow")
	var names []string
	for _, c := range g.Connections {
		names = append(names, c.From+">"+c.To)
	}
	if s := strings.Join(names, " "); s != "source>filter filter>map map>destination" {
		t.Errorf("%s", s)
	}
	if g.Sources[0].Schema != "aio-sr://raw:1" || g.Destinations[0].Schema != "aio-sr://clean:1" || !g.Operators[0].Dialect {
		t.Errorf("%+v", g)
	}
	filter, rules := &g.Operators[0].Configuration[0], &g.Operators[1].Configuration[0]
	if filter.Value != `{"datasets":[{"key":"lines","inputs":["$source.id","$context.id"],"expression":"$1 == $2"}],"filter":[{"inputs":["temperature ? $last"],"expression":"$1 > 1000"}]}` {
		t.Errorf("%s", filter.Value)
	}
	for path, want := range map[string]string{"filter[0].expression@6": "18:15", "filter[0].inputs[0]@1": "15:17", "datasets[0].key@1": "12:19", "filter[0]@0": "14:13", "filter[1].x@3": "1:1"} {
		path, column, _ := strings.Cut(path, "@")
		if path == "filter[1].x" {
			want = fmt.Sprint(filter.Pos().Line, ":", filter.Pos().Column)
		}
		if got := filter.Inside(path, int(column[0]-'0')); fmt.Sprint(got.Line, ":", got.Column) != want {
			t.Errorf("%s: %v, want %s", path, got, want)
		}
	}
	for text, want := range map[string]string{"> 1000": "17:18", "1000": "18:15", "$source.id": "12:35", "nothing": ""} {
		got := filter.Offset(strings.Index(filter.Value, text))
		if want == "" {
			want = fmt.Sprint(filter.Pos().Line, ":", filter.Pos().Column)
		}
		if fmt.Sprint(got.Line, ":", got.Column) != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
	if got := rules.Inside("map[1].expression", 7); got.Line != 21 || got.Column != 81 {
		t.Errorf("%v", got)
	}
}

func TestAPlaceInsideASettingIsAPlaceInTheFile(t *testing.T) {
	set, all := load(t, map[string]string{"a.yaml": broker, "f.yaml": `apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata: {name: flow}
spec:
  nodes:
    - {nodeType: Source, name: in, sourceSettings: {endpointRef: broker, dataSources: [a]}}
    - nodeType: Graph
      name: block
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-map:1.0.0
        configuration:
          - key: rules
            value: |-2

                {"map": [
                  {"inputs": ["ä"], "output": "b", "expression": "\"ä\" + $1"}]}
    - nodeType: Graph
      name: quoted
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-map:1.0.0
        configuration:
          - {key: rules, value: "{\"map\": [{\"inputs\": [\"a\"],
              \"output\": \"b\", \"expression\": \"$1 + 1\"}]}"}
    - {nodeType: Destination, name: out, destinationSettings: {endpointRef: iothub, dataDestination: telemetry}}
  nodeConnections:
    - {from: {name: in}, to: {name: block}}
    - {from: {name: block}, to: {name: quoted}}
    - {from: {name: quoted}, to: {name: out}}
`})
	if len(all) > 0 {
		t.Fatal(all)
	}
	g := set.Graph("flow")
	block, quoted := &g.Operators[0].Configuration[0], &g.Operators[1].Configuration[0]
	for _, c := range []struct {
		setting *Setting
		path    string
		column  int
		want    string
	}{
		{block, "map", 0, "16:25"},
		{block, "map[0].inputs[0]", 1, "17:32"},
		{block, "map[0].expression", 1, "17:67"},
		{block, "map[0].expression", 2, "17:69"}, // behind an escape
		{block, "map[0].expression", 7, "17:75"},
		{block, "map[0].nothing", 7, "17:19"},
		{block, "", 0, "16:17"},
		{quoted, "map[0].expression", 4, "25:55"},
		{quoted, "map[0].output", 1, "25:29"},
		{quoted, "map[0]", 0, "24:45"},
	} {
		if got := c.setting.Inside(c.path, c.column); fmt.Sprint(got.Line, ":", got.Column) != c.want {
			t.Errorf("%s column %d: %v, want %s", c.path, c.column, got, c.want)
		}
	}
	if got := block.PlaceValue(3, 3); got.Line != 17 {
		t.Errorf("%v", got)
	}
}

func TestFaultsAreTheContractsJSON(t *testing.T) {
	_, all := load(t, map[string]string{"f.yaml": "- x\n"})
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var fields []map[string]any
	if err := json.Unmarshal(text, &fields); err != nil || len(fields) != 1 {
		t.Fatal(err, string(text))
	}
	if f := fields[0]; len(f) != 5 || f["severity"] != "error" || f["line"] != 1.0 || f["column"] != 1.0 || f["text"] == "" || !strings.HasSuffix(fmt.Sprint(f["file"]), "f.yaml") {
		t.Errorf("%s", text)
	}
}

func TestRawDocumentsKeepTheirValuesAndPlaces(t *testing.T) {
	set, all := load(t, map[string]string{"f.yaml": `apiVersion: namespaces.deviceregistry.microsoft.com/v1
kind: Asset
metadata: {name: press}
spec:
  deviceRef: {deviceName: line, endpointName: rest}
  datasets: [{name: a, dataPoints: [{name: b}]}]
  version: 7
`})
	if len(all) > 0 {
		t.Fatal(all)
	}
	raw := set.Assets["press"]
	var spec struct {
		DeviceRef struct{ DeviceName string }
		Version   uint64
	}
	if err := raw.Spec.Decode(&spec); err != nil || spec.DeviceRef.DeviceName != "line" || spec.Version != 7 {
		t.Errorf("%v %+v", err, spec)
	}
	if at := raw.Spec.At("datasets", "0", "dataPoints", "0", "name"); at.Line != 6 || at.Column != 44 {
		t.Errorf("%v", at)
	}
	if text, ok := raw.Spec.Text("deviceRef", "endpointName"); !ok || text != "rest" {
		t.Errorf("%q", text)
	}
}

func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), false)
	}
	f.Add(pipeline+"---\n"+broker, false)
	f.Add(`{"properties": {"endpointType": "Mqtt", "mqttSettings": {"host": "\ud83d\ude00"}}}`, true)
	f.Fuzz(func(t *testing.T, text string, asJSON bool) {
		if len(text) > 1<<16 {
			t.Skip("the bounds of large files have their own test")
		}
		name := "f.yaml"
		if asJSON {
			name = "f.DataflowGraph.json"
		}
		l := &loader{set: &Set{Endpoints: map[string]*Endpoint{}, Registries: map[string]*Registry{}, Profiles: map[string]*Profile{}, Devices: map[string]*Raw{}, Assets: map[string]*Raw{}, Connectors: map[string]*Raw{}, Definitions: map[string]*Definition{}, files: map[string]string{}}}
		l.text(name, []byte(text))
		l.check()
		lines := strings.Count(text, "\n") + 1
		for _, fault := range Sort(l.All) {
			if fault.File != name || fault.Line < 1 || fault.Line > lines+1 || fault.Column < 1 || fault.Text == "" || fault.Rule == "" {
				t.Errorf("%+v", fault)
			}
		}
		for _, g := range l.set.Graphs {
			if g.Digest == "" || len(g.Sources) == 0 || len(g.Destinations) == 0 {
				t.Errorf("a graph without errors is not whole: %+v", g)
			}
			for i := range g.Operators {
				for j := range g.Operators[i].Configuration {
					s := &g.Operators[i].Configuration[j]
					for _, p := range []Pos{s.Offset(len(s.Value) / 2), s.Inside("map[0].inputs[0]", 3), s.Inside("filter[0].expression", 1), s.PlaceValue(2, 5)} {
						if p.Line < 1 || p.Line > lines+1 || p.Column < 1 {
							t.Errorf("%v", p)
						}
					}
				}
			}
		}
	})
}

func FuzzParseGraph(f *testing.F) {
	f.Add("metadata: {}\noperations: [{name: a, operationType: branch}]\nconnections: [{from: {name: a}, to: {name: a}}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			t.Skip("the bounds of large files have their own test")
		}
		def, all := ParseGraph("g.yaml", []byte(text))
		if def == nil && !Errors(all) {
			t.Error("no definition, and no error")
		}
		if def != nil {
			def.Configure(Operator{Configuration: []Setting{{Key: "a", Value: "b"}}})
		}
		if test, all := ParseTest("t.yaml", []byte(text)); test == nil && !Errors(all) {
			t.Error("no test, and no error")
		}
	})
}
