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

// manifests are the two graphs on one broker.
func manifests(address string) string {
	var rules []string
	for i := range perWindow {
		rules = append(rules, fmt.Sprintf(`{"inputs": ["x%d"], "output": "m%d", "expression": "max($1)"}`, i, i))
	}
	return fmt.Sprintf(`apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata:
  name: default
spec:
  endpointType: Mqtt
  mqttSettings:
    host: %s
    maxInflightMessages: %d
    tls:
      mode: Disabled
    authentication:
      method: Anonymous
      anonymousSettings: {}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata:
  name: mapped
spec:
  nodes:
    - nodeType: Source
      name: samples
      sourceSettings:
        endpointRef: default
        dataSources: [%[3]s+]
    - nodeType: Graph
      name: wanted
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-filter:1.0.0
        configuration:
          - key: rules
            value: '{"filter": [{"inputs": ["drop"], "expression": "$1 == 1"}]}'
    - nodeType: Graph
      name: twice
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-map:1.0.0
        configuration:
          - key: rules
            value: |
              {"map": [
                {"inputs": ["s"], "output": "s"},
                {"inputs": ["n"], "output": "n"},
                {"inputs": ["n"], "output": "twice", "expression": "$1 * 2"}
              ]}
    - nodeType: Destination
      name: cloud
      destinationSettings:
        endpointRef: iothub
        dataDestination: telemetry
  nodeConnections:
    - {from: {name: samples}, to: {name: wanted}}
    - {from: {name: wanted}, to: {name: twice}}
    - {from: {name: twice}, to: {name: cloud}}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata:
  name: windows
spec:
  nodes:
    - nodeType: Source
      name: samples
      sourceSettings:
        endpointRef: default
        dataSources: [%[3]s+]
    - nodeType: Graph
      name: second
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-window:1.0.0
        configuration:
          - key: delay
            value: '{"type": "duration", "delaySeconds": %[5]d}'
          - key: rules
            value: |
              {"accumulate": [
                {"inputs": ["g"], "output": "count", "expression": "count($1)"},
                {"inputs": ["g"], "output": "average", "expression": "average($1)"},
                %[4]s
              ]}
    - nodeType: Destination
      name: cloud
      destinationSettings:
        endpointRef: iothub
        dataDestination: telemetry
  nodeConnections:
    - {from: {name: samples}, to: {name: second}}
    - {from: {name: second}, to: {name: cloud}}
`, address, inFlight, topics, strings.Join(rules, ",\n                "), int(window.Seconds()))
}

// writeFlows writes the broker's settings into its directory, and the manifests.
func writeFlows(dir, brokerDir, broker, toBroker string) error {
	err := os.WriteFile(filepath.Join(brokerDir, "mosquitto.conf"), []byte(brokerConfig(brokerDir, broker)), 0o600)
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "flows", "flows.yaml"), []byte(manifests(toBroker)), 0o600))
}
