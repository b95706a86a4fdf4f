package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// inFlight is the receive maximum of the sources, which is the default of manifests.
const inFlight = 100

// brokerConfig is how mosquitto must be set for a queue that a kill does not empty: all that it
// drops by default is kept, and its file is written at every change.
func brokerConfig(dir, address string) string {
	host, port := address[:strings.LastIndexByte(address, ':')], address[strings.LastIndexByte(address, ':')+1:]
	text := "listener " + port + " " + host + "\nallow_anonymous true\nset_tcp_nodelay true\n" +
		"persistence true\npersistence_location " + dir + "/\nautosave_on_changes true\nautosave_interval 1\n" +
		fmt.Sprintf("max_queued_messages 0\nmax_inflight_messages %d\n", unacknowledged) +
		"log_dest stderr\nlog_type error\nlog_type warning\n"
	if os.Getuid() == 0 {
		text += "user root\n" // otherwise it becomes a user who may not write into our directory
	}
	return text
}

// operator is an operator of a graph.
type operator struct{ name, transform, settings string }

// graphOf is the manifest of a graph that takes the stream, and sends what its operators make of it
// to the hub.
func graphOf(name string, operators ...operator) string {
	var nodes, ways strings.Builder
	before := "samples"
	lead := func(to string) {
		fmt.Fprintf(&ways, "    - {from: {name: %s}, to: {name: %s}}\n", before, to)
		before = to
	}
	for _, o := range operators {
		fmt.Fprintf(&nodes, `    - nodeType: Graph
      name: %s
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-%s:1.0.0
        configuration: [%s]
`, o.name, o.transform, o.settings)
		lead(o.name)
	}
	lead("cloud")
	return fmt.Sprintf(`---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata: {name: %s}
spec:
  nodes:
    - {nodeType: Source, name: samples, sourceSettings: {endpointRef: default, dataSources: [%s+]}}
%s    - {nodeType: Destination, name: cloud, destinationSettings: {endpointRef: iothub, dataDestination: telemetry}}
  nodeConnections:
%s`, name, topics, nodes.String(), ways.String())
}

// setting is a setting of an operator, whose value is JSON.
func setting(key, value string) string { return fmt.Sprintf("{key: %s, value: '%s'}", key, value) }

// manifests are the two graphs on one broker.
func manifests(address string) string {
	rules := []string{`{"inputs": ["g"], "output": "count", "expression": "count($1)"}`, `{"inputs": ["g"], "output": "average", "expression": "average($1)"}`}
	for i := range perWindow {
		rules = append(rules, fmt.Sprintf(`{"inputs": ["x%d"], "output": "m%d", "expression": "max($1)"}`, i, i))
	}
	return fmt.Sprintf(`apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: default}
spec:
  endpointType: Mqtt
  mqttSettings:
    host: %s
    maxInflightMessages: %d
    tls: {mode: Disabled}
    authentication: {method: Anonymous, anonymousSettings: {}}
`, address, inFlight) +
		graphOf(graphs[mappedGraph],
			operator{"wanted", "filter", setting("rules", `{"filter": [{"inputs": ["drop"], "expression": "$1 == 1"}]}`)},
			operator{"twice", "map", setting("rules", `{"map": [{"inputs": ["s"], "output": "s"}, {"inputs": ["n"], "output": "n"}, `+
				`{"inputs": ["n"], "output": "twice", "expression": "$1 * 2"}]}`)}) +
		graphOf(graphs[windowsGraph],
			operator{"second", "window", setting("delay", fmt.Sprintf(`{"type": "duration", "delaySeconds": %d}`, int(window.Seconds()))) + ", " +
				setting("rules", `{"accumulate": [`+strings.Join(rules, ", ")+`]}`)})
}

// writeFlows writes the broker's settings into its directory, and the manifests.
func writeFlows(dir, brokerDir, broker, toBroker string) error {
	err := os.WriteFile(filepath.Join(brokerDir, "mosquitto.conf"), []byte(brokerConfig(brokerDir, broker)), 0o600)
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "flows", "flows.yaml"), []byte(manifests(toBroker)), 0o600))
}
