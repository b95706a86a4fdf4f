package manifest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var schemaDir = filepath.Join("..", "..", "..", "docs", "schemas")

func TestThePublishedSchemasAreThoseOfTheCode(t *testing.T) {
	all, err := Schemas()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range all {
		file := filepath.Join(schemaDir, name)
		if *update {
			writeFile(t, file, string(text))
		}
		if published, err := os.ReadFile(file); err != nil || !bytes.Equal(published, text) {
			t.Errorf("%s is not what the code says (%v); run go test ./internal/flow/manifest -run Schemas -update", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(schemaDir, "flow*.schema.json"))
	if err != nil || len(files) != len(all) {
		t.Errorf("published: %v, %v", files, err)
	}
}

// compiled returns a published schema, ready to check.
func compiled(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	all, err := Schemas()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(all[name]))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON returns a YAML document as a schema sees it.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestASchemaTakesWhatIsRead(t *testing.T) {
	flows := compiled(t, SchemaFlows)
	texts := []string{broker, pipeline, needs}
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files { // those with warnings alone, which are read
		text := string(readFile(t, file))
		if !strings.Contains(text, " error ") && strings.Contains(text, "apiVersion: connectivity") && ruleOf(file) != "odd-case" {
			texts = append(texts, text)
		}
	}
	checked := 0
	for _, text := range texts {
		for doc := range strings.SplitSeq(text, "\n---") {
			if strings.Contains(doc, "kind: ") {
				checked++
				if err := flows.Validate(asJSON(t, doc)); err != nil {
					t.Errorf("%s\n%v", doc, err)
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("%d documents were checked", checked)
	}
}

func TestASchemaRefusesWhatOneValueTellsIsWrong(t *testing.T) {
	flows := compiled(t, SchemaFlows)
	for _, rule := range []string{"unknown-word", "out-of-bounds", "wrong-type", "empty-text", "missing-key", "name-form", "unknown-kind"} {
		refused := false
		for doc := range strings.SplitSeq(string(readFile(t, "testdata/faults/"+rule+".yaml")), "\n---") {
			refused = refused || flows.Validate(asJSON(t, doc)) != nil
		}
		if !refused {
			t.Errorf("the schema takes the fixture of %s", rule)
		}
	}
}

func TestSchemasTakeThePublishedFiles(t *testing.T) {
	graph, test, flows := compiled(t, SchemaGraph), compiled(t, SchemaTest), compiled(t, SchemaFlows)
	for _, c := range []struct {
		pattern string
		schema  *jsonschema.Schema
	}{
		{"wasm/*.yaml", graph}, {"wasm/*/graph.dataflow.yaml", graph}, {"wasm/tests/*/*.test.yaml", test},
		{"manifests/*/*.yaml", flows}, {"connectors/*/*.yaml", flows},
	} {
		for _, file := range publishedFiles(t, c.pattern) {
			for doc := range strings.SplitSeq(strings.TrimPrefix(string(readFile(t, file)), "\ufeff"), "\n---") {
				if err := c.schema.Validate(asJSON(t, doc)); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
}
