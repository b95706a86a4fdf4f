package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// needs is a directory that needs something of everything.
const needs = `
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: x509}
spec:
  endpointType: Mqtt
  mqttSettings:
    host: broker.local:8883
    tls: {trustedCaCertificateConfigMapRef: roots}
    authentication: {method: X509Certificate, x509CertificateSettings: {secretRef: client}}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: sasl}
spec:
  endpointType: Kafka
  kafkaSettings:
    host: kafka.local:9093
    authentication: {method: Sasl, saslSettings: {saslType: Plain, secretRef: login}}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: token}
spec:
  endpointType: OpenTelemetry
  openTelemetrySettings:
    host: collector.local:4317
    authentication: {method: ServiceAccountToken, serviceAccountTokenSettings: {audience: x}}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: identity}
spec:
  endpointType: Mqtt
  mqttSettings:
    host: broker.local:8883
    authentication: {method: SystemAssignedManagedIdentity}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: files}
spec: {endpointType: LocalStorage, localStorageSettings: {persistentVolumeClaimRef: data}}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: RegistryEndpoint
metadata: {name: here}
spec: {host: "dir:."}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: RegistryEndpoint
metadata: {name: gone}
spec: {host: "oci-layout:layout"}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata: {name: flow}
spec:
  nodes:
    - {nodeType: Source, name: in, sourceSettings: {endpointRef: x509, dataSources: [a]}}
    - {nodeType: Graph, name: op, graphSettings: {registryEndpointRef: here, artifact: "temperature:1.0.0"}}
    - {nodeType: Destination, name: out, destinationSettings: {endpointRef: x509, dataDestination: b}}
  nodeConnections:
    - {from: {name: in, schema: {schemaRef: "aio-sr://line/readings:2"}}, to: {name: op}}
    - {from: {name: op}, to: {name: out}}
`

func TestWhatTheMachineLacksIsAWarningAtTheValueThatNeedsIt(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "f.yaml"), needs)
	set, all := Load(dir, Options{})
	if len(all) > 0 || len(set.Graphs) != 1 {
		t.Fatalf("%v", all)
	}
	lacking := Lacks(set, dir, Machine{})
	for _, f := range lacking {
		if f.Severity != Warning || !strings.HasSuffix(f.File, "f.yaml") || f.Line < 2 {
			t.Errorf("%v", f)
		}
	}
	for _, rule := range []string{"lacks-secret", "lacks-config-map", "lacks-token", "lacks-identity", "lacks-volume", "lacks-registry", "lacks-artifact", "lacks-schema"} {
		only(t, lacking, rule)
	}
	if f := only(t, lacking, "lacks-volume")[0]; f.Line != 42 || f.Column != 85 {
		t.Errorf("%v", f)
	}

	// A secret with some of its keys, one of them open to all.
	writeFile(t, filepath.Join(SecretPath(dir, "login"), "username"), "me")
	if err := os.Chmod(filepath.Join(SecretPath(dir, "login"), "username"), 0o644); err != nil {
		t.Fatal(err)
	}
	lacking = Lacks(set, dir, Machine{})
	if f := only(t, lacking, "lacks-secret-key")[0]; !strings.Contains(f.Text, "no file password, it has username;") {
		t.Errorf("%v", f)
	}
	if runtime.GOOS != "windows" {
		only(t, lacking, "secret-readable")
	} else {
		delete(unseen, "secret-readable") // Windows has no such modes
	}

	for _, file := range []string{
		"secrets/login/username", "secrets/login/password", "secrets/client/tls.crt", "secrets/client/tls.key", "secrets/client/client_cert.pem", "secrets/client/client_key.pem",
		"secrets/serviceaccount/token", "configmaps/roots/ca.crt", "volumes/data/x", "layout/oci-layout", "graphs/temperature.yaml", "schemas/line/readings/2.json",
	} {
		writeFile(t, filepath.Join(dir, file), "x")
	}
	if err := os.Chmod(filepath.Join(SecretPath(dir, "login"), "username"), 0o600); err != nil {
		t.Fatal(err)
	}
	if lacking = Lacks(set, dir, Machine{Identity: true}); len(lacking) > 0 {
		t.Errorf("everything is there, and still: %v", lacking)
	}
}

func TestWhatIsNoPlainFileIsNotRead(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.yaml", "below"), broker) // a directory
	writeFile(t, filepath.Join(dir, ".hidden.yaml"), "- x")
	writeFile(t, filepath.Join(dir, "flow.test.yaml"), "name: x")
	writeFile(t, filepath.Join(dir, "notes.txt"), "x")
	writeFile(t, filepath.Join(dir, "package.json"), "x")
	if err := os.Symlink("nowhere", filepath.Join(dir, "b.yaml")); err != nil && runtime.GOOS != "windows" {
		t.Fatal(err)
	}
	set, all := Load(dir, Options{})
	if len(all) > 0 || len(set.Endpoints) > 0 {
		t.Errorf("%v", all)
	}
	if runtime.GOOS == "windows" {
		delete(unseen, "file")
		t.Skip("Windows keeps no special files in directories")
	}
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	_, all = Load(dir, Options{})
	only(t, all, "file")
}

func TestAGraphDefinitionGetsItsParameters(t *testing.T) {
	text := `
metadata: {$schema: "https://www.schemastore.org/aio-wasm-graph-config-1.0.0.json", name: x, version: "1"}
moduleRequirements: {apiVersion: "1.1.0", runtimeVersion: "1.1.0"}
operations:
  - {name: source, operationType: source}
  - {name: a/map, operationType: map, module: "a:1.0.0"}
  - {name: b/map, operationType: map, module: "b:1.0.0"}
  - {name: sink, operationType: sink}
connections:
  - {from: {name: source}, to: {name: a/map}}
  - {from: {name: a/map}, to: {name: b/map}}
  - {from: {name: b/map}, to: {name: sink}}
moduleConfigurations:
  - name: a/map
    parameters:
      key1: {name: key2, other: [1]}
      low: {name: low, default: "-40"}
      must: {name: must, required: true}
`
	def, all := ParseGraph("g.yaml", []byte(text))
	if len(all) > 0 {
		t.Fatal(all)
	}
	got, all := def.Configure(Operator{Name: "op", Configuration: []Setting{{Key: "key2", Value: "v"}, {Key: "all", Value: "w"}}})
	only(t, all, "parameter-missing")
	only(t, all, "parameter-unknown")
	if s := fmt.Sprint(got); s != "map[a/map:[{all w} {key1 v} {low -40}] b/map:[{all w}]]" {
		t.Errorf("%s", s)
	}
}
