//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The rules that every program is given: a message passes as it is, or five fields of it are
// mapped, one of them from degrees Celsius to Fahrenheit.
const (
	passthrough = "passthrough"
	fiveFields  = "map of five fields"
)

const fiveRules = `{"map":[{"inputs":["deviceId"],"output":"id"},{"inputs":["temperature"],"output":"temperature_f","expression":"cToF($1)"},` +
	`{"inputs":["pressure"],"output":"env.pressure"},{"inputs":["humidity"],"output":"env.humidity"},{"inputs":["vibration.x","vibration.y"],"output":"vibration","expression":"$1 + $2"}]}`

// subject is a program that takes messages from a broker and keeps them.
type subject struct {
	name  string
	rules []string
	// start runs it in a directory of its own, with the broker at an address. It returns nil if the
	// program is not installed. Each has a topic filter of its own: mosquitto goes on gathering
	// messages for those that have gone.
	start func(t *testing.T, dir, broker, filter, rule string) *exec.Cmd
}

// put writes a file, and makes its directory.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// environment is that of a process whose files are all in dir.
func environment(dir string, more ...string) []string {
	return append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, more...)
}

// startBare runs the floor.
func startBare(t *testing.T, dir, broker, filter, _ string) *exec.Cmd {
	t.Helper()
	return startProcess(t, os.Args[0], []string{jobVariable + "=" + fmt.Sprintf(`{"Role":%q,"Host":%q,"Dir":%q,"Kind":%q}`, bareFlow, broker, dir, filter)})
}

// endpointFile is the broker for hubhop.
func endpointFile(broker string) string {
	return "apiVersion: connectivity.iotoperations.azure.com/v1\nkind: DataflowEndpoint\nmetadata: {name: default}\nspec:\n  endpointType: Mqtt\n  mqttSettings:\n    host: " +
		broker + "\n    tls: {mode: Disabled}\n    authentication: {method: Anonymous, anonymousSettings: {}}\n"
}

// flowFile is a flow of hubhop from a topic filter to the outbox: without operators, or with one.
func flowFile(name, filter, kind, key, value string) string {
	nodes := []string{
		fmt.Sprintf("{nodeType: Source, name: in, sourceSettings: {endpointRef: default, dataSources: [%q]}}", filter),
		"{nodeType: Destination, name: out, destinationSettings: {endpointRef: iothub, dataDestination: telemetry}}",
	}
	edges := "{from: {name: in}, to: {name: out}}"
	if kind != "" {
		nodes = append(nodes, fmt.Sprintf("{nodeType: Graph, name: op, graphSettings: {registryEndpointRef: default, artifact: \"azureiotoperations/graph-dataflow-%s:1.0.0\", configuration: [{key: %s, value: '%s'}]}}", kind, key, value))
		edges = "{from: {name: in}, to: {name: op}}, {from: {name: op}, to: {name: out}}"
	}
	return "apiVersion: connectivity.iotoperations.azure.com/v1\nkind: DataflowGraph\nmetadata: {name: " + name + "}\nspec:\n  nodes:\n    - " +
		strings.Join(nodes, "\n    - ") + "\n  nodeConnections: [" + edges + "]\n"
}

// edge runs hubhop with flows. Without a cloud, nobody listens where it asks for its hub: so all
// goes into the outbox, and nothing leaves it.
func edge(t *testing.T, dir, broker string, c *cloud, flows map[string]string) *exec.Cmd {
	t.Helper()
	put(t, filepath.Join(dir, "flows", "broker.yaml"), endpointFile(broker))
	for name, text := range flows {
		put(t, filepath.Join(dir, "flows", name+".yaml"), text)
	}
	program, err := filepath.Abs(*hubhop)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "group.key")
	args := []string{"run", "--device-id", fmt.Sprintf("edge-%d", used), "--group-key-file", key, "--state-dir", filepath.Join(dir, "state"), "--flows", filepath.Join(dir, "flows"), "--outbox-max-bytes", "2GiB"}
	if c == nil {
		put(t, key, "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0")
		args = append(args, "--id-scope", "0ne00ABCDEF", "--provisioning-host", near(79))
	} else {
		put(t, key, c.info.GroupKey)
		args = append(args, "--id-scope", c.info.IDScope, "--provisioning-host", c.info.ProvisioningHost, "--ca-file", filepath.Join(c.dir, "ca.pem"))
	}
	return startProcess(t, program, environment(dir), args...)
}

// ruleFile is the flow of a rule.
func ruleFile(name, filter, rule string) string {
	if rule == passthrough {
		return flowFile(name, filter, "", "", "")
	}
	return flowFile(name, filter, "map", "rules", fiveRules)
}

// oneFlow is one flow, with a name that no other process has: the broker keeps a session for each.
func oneFlow(filter, rule string) map[string]string {
	name := "flow-" + filter[:7]
	return map[string]string{name: ruleFile(name, filter, rule)}
}

func startOurs(t *testing.T, dir, broker, filter, rule string) *exec.Cmd {
	t.Helper()
	return edge(t, dir, broker, nil, oneFlow(filter, rule))
}

// startTelegraf runs Telegraf, which writes to a file whenever 100 messages are there, or a tenth
// of a second has gone by: it acknowledges then.
func startTelegraf(t *testing.T, dir, broker, filter, rule string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("telegraf")
	if err != nil {
		return nil
	}
	text := `[agent]
  metric_batch_size = 100
  flush_interval = "100ms"
  omit_hostname = true
[[outputs.file]]
  files = ["` + dir + `/kept"]
  data_format = "json"
[[inputs.mqtt_consumer]]
  servers = ["tcp://` + broker + `"]
  topics = ["` + filter + `"]
  qos = 1
  client_id = "` + filter[:7] + `"
  persistent_session = true
`
	if rule == passthrough {
		text += "  data_format = \"value\"\n  data_type = \"string\"\n"
	} else {
		text += `  data_format = "json_v2"
  [[inputs.mqtt_consumer.json_v2]]
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "deviceId"
      rename = "id"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "temperature"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "pressure"
      rename = "env_pressure"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "humidity"
      rename = "env_humidity"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "vibration.x"
      rename = "x"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "vibration.y"
      rename = "y"
[[processors.starlark]]
  source = '''
def apply(m):
    m.fields["temperature_f"] = m.fields.pop("temperature") * 9 / 5 + 32
    m.fields["vibration"] = m.fields.pop("x") + m.fields.pop("y")
    return m
'''
`
	}
	file := filepath.Join(dir, "telegraf.conf")
	put(t, file, text)
	return startProcess(t, program, environment(dir), "--config", file, "--quiet")
}

// startNodeRED runs Node-RED, which appends each message to a file. It acknowledges when it has
// handed a message to its first node, before anything is kept.
func startNodeRED(t *testing.T, dir, broker, filter, rule string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("node-red")
	if err != nil {
		return nil
	}
	host, port, _ := strings.Cut(broker, ":")
	type list = []any
	type object = map[string]any
	in := object{"id": "in", "type": "mqtt in", "z": "tab", "topic": filter, "qos": "1", "datatype": "utf8", "broker": "broker", "wires": list{list{"out"}}}
	out := object{"id": "out", "type": "file", "z": "tab", "filename": filepath.Join(dir, "kept"), "filenameType": "str", "appendNewline": true, "overwriteFile": "false", "createDir": false, "encoding": "none", "wires": list{list{}}}
	all := list{object{"id": "tab", "type": "tab", "label": "flow"},
		object{"id": "broker", "type": "mqtt-broker", "broker": host, "port": port, "clientid": filter[:7], "autoConnect": true, "protocolVersion": "4", "keepalive": "60", "cleansession": false}, in, out}
	if rule != passthrough {
		in["datatype"], in["wires"] = "json", list{list{"map"}}
		all = append(all, object{"id": "map", "type": "function", "z": "tab", "outputs": 1, "wires": list{list{"out"}},
			"func": "const p = msg.payload; msg.payload = {id: p.deviceId, temperature_f: p.temperature * 9 / 5 + 32, env: {pressure: p.pressure, humidity: p.humidity}, vibration: p.vibration.x + p.vibration.y}; return msg;"})
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "flows.json"), string(text))
	put(t, filepath.Join(dir, "settings.js"), fmt.Sprintf("module.exports = {uiHost: %q, uiPort: 1880, httpAdminRoot: false, httpNodeRoot: false, flowFile: 'flows.json', logging: {console: {level: 'error'}}};", near(78)))
	return startProcess(t, program, environment(dir), "--userDir", dir, "--settings", filepath.Join(dir, "settings.js"))
}
