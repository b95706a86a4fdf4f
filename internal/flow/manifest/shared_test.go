package manifest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// published is where the public manifests of others are: beside the checkout, because none of them
// is copied into it.
var published = filepath.Join("..", "..", "..", "..", "shared", "data", "aio")

// publishedFiles lists published files by a pattern, and says so if they are not there.
func publishedFiles(t *testing.T, pattern string) []string {
	t.Helper()
	if _, err := os.Stat(published); err != nil {
		t.Skipf("the public manifests of Azure IoT Operations are not beside this checkout (%s), so nothing is compared with them; our own fixtures are tested all the same", published)
	}
	files, err := filepath.Glob(filepath.Join(published, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

// missing is what the published manifests refer to and do not bring along.
const missing = `
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: kafka-mirror}
spec:
  endpointType: Mqtt
  mqttSettings: {host: "broker.local:8883", authentication: {method: Anonymous}}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: RegistryEndpoint
metadata: {name: registry-endpoint-acr}
spec: {host: myregistry.azurecr.io, authentication: {method: Anonymous}}
`

func TestPublishedManifestsAreRead(t *testing.T) {
	dir := t.TempDir()
	for _, file := range publishedFiles(t, "manifests/*/*.yaml") {
		copyFile(t, file, dir)
	}
	writeFile(t, filepath.Join(dir, "missing.yaml"), missing)
	set, faults := Load(dir, Options{})

	// What hubhop says otherwise than Azure IoT Operations, each for its reason.
	differences := []string{
		// The page's endpoint mq has a name of two letters, which today's schema does not allow.
		`dataflow-filter-map.yaml:12:22: there is no DataflowEndpoint "mq"; define it`,
		`dataflow-filter-map.yaml:36:22: there is no DataflowEndpoint "mq"; define it`,
		// The page writes the type in another case than the schema.
		`dataflow-filter-map.yaml:16:22: warning: spec.operations[1].operationType is "builtInTransformation", and Azure IoT Operations writes BuiltInTransformation; use that form`,
		// Texts of the preview disagree with today's about what a true filter does.
		`dataflow-filter-map.yaml:19:11: warning: a message for which a filter is true is dropped; texts of the preview said that it passes; check the rules`,
	}
	var found []string
	for _, f := range faults {
		found = append(found, strings.TrimPrefix(f.String(), dir+string(filepath.Separator)))
	}
	for _, f := range found {
		if !slices.Contains(differences, f) {
			t.Errorf("not among the documented differences: %s", f)
		}
	}
	for _, f := range differences {
		if !slices.Contains(found, f) {
			t.Errorf("a documented difference is gone: %s", f)
		}
	}
	var names []string
	for _, g := range set.Graphs {
		names = append(names, g.Name)
	}
	if want := []string{"alert-routing", "broker-to-broker", "dynamic-topic-routing", "graph", "sensors-throttle", "temperature-conversion", "temperature-window"}; !slices.Equal(names, want) {
		t.Errorf("graphs %v, want %v", names, want)
	}
}

func TestPublishedConnectorsAreKnown(t *testing.T) {
	for _, file := range publishedFiles(t, "connectors/*/*.yaml") {
		dir := t.TempDir()
		copyFile(t, file, dir)
		set, faults := Load(dir, Options{})
		if len(faults) > 0 {
			t.Errorf("%s: %v", file, faults)
		}
		if len(set.Devices)+len(set.Assets)+len(set.Connectors) == 0 {
			t.Errorf("%s: nothing was read", file)
		}
	}
}

func TestPublishedGraphDefinitionsAreRead(t *testing.T) {
	for _, pattern := range []string{"wasm/*.yaml", "wasm/*/graph.dataflow.yaml"} {
		for _, file := range publishedFiles(t, pattern) {
			def, faults := ParseGraph(file, readFile(t, file))
			if len(faults) > 0 || def == nil || len(def.Operations) < 3 {
				t.Errorf("%s: %v", file, faults)
			}
		}
	}
}

func TestPublishedTestsAreRead(t *testing.T) {
	for _, file := range publishedFiles(t, "wasm/tests/*/*.test.yaml") {
		test, faults := ParseTest(file, readFile(t, file))
		if len(faults) > 0 || test == nil || test.Graph == "" || len(test.Select) == 0 {
			t.Errorf("%s: %v", file, faults)
		}
	}
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, file, dir string) {
	t.Helper()
	writeFile(t, filepath.Join(dir, filepath.Base(file)), string(readFile(t, file)))
}
