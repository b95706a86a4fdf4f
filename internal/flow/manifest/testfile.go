package manifest

import (
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// testRoots are what a path of select and ignores begins with.
var testRoots = []string{"payload", "topic", "properties", "destination", "contentType", "retain"}

// Test is a file *.test.yaml: messages, and what a graph makes of them (Microsoft's samples in
// Azure-Samples/explore-iot-operations). Paths are relative to the file. Flow and Dir are hubhop's
// own: they name a flow of a directory of manifests instead of a graph definition.
type Test struct {
	Where
	File     string
	Name     string   `key:"name" must:"write a name for people" about:"a name for people"`
	Graph    string   `key:"graph" about:"the file of a graph definition"`
	Flow     string   `key:"flow" about:"hubhop's own: the name of a graph or data flow"`
	Dir      string   `key:"dir" about:"hubhop's own: the directory with its manifests"`
	Input    string   `key:"input" must:"write the directory with the messages, one a file" about:"a directory with a file for each message"`
	Expected string   `key:"expected" must:"write the JSON file with the messages that come out" about:"a JSON file with what comes out: an object, an array, or lines of hubhop flow run"`
	Timeout  int      `key:"timeout" min:"1" def:"60000" about:"milliseconds that the test may take"`
	Select   []string `key:"select" about:"what is compared, such as payload, payload.<member>, topic, destination or properties.<key>; absent: payload"`
	Ignores  []string `key:"ignores" about:"what is not compared, such as payload.humidity"`
}

// ParseTest reads a test. file is its name in faults. The test is nil if the text is none at all;
// with an error among the faults it must not be run.
func ParseTest(file string, text []byte) (*Test, []Fault) {
	d, root := single(file, text, "a test")
	if root == nil {
		return nil, Sort(d.All)
	}
	t := &Test{File: file}
	d.Object(root, t, "the test")
	switch {
	case t.Graph == "" && t.Flow == "":
		d.Error(t.Pos(), "test-graph", "the test names no graph; write graph with a graph definition, or flow and dir")
	case t.Graph != "" && (t.Flow != "" || t.Dir != ""):
		d.Error(t.At("graph"), "test-graph", "the test names a graph definition and a flow; remove graph, or flow and dir")
	case t.Flow != "" && t.Dir == "":
		d.Error(t.At("flow"), "test-graph", "the test names a flow, and no directory with its manifests; write dir")
	}
	for key, paths := range map[string][]string{"select": t.Select, "ignores": t.Ignores} {
		for _, path := range paths {
			root, _, _ := strings.Cut(path, ".")
			if slices.Contains(testRoots, root) {
				continue
			}
			hint := "it begins with " + strict.Listed(testRoots)
			if near := strict.Nearest(root, testRoots); near != "" {
				hint = "did you mean " + near + "?"
			}
			d.Error(t.At(key), "test-path", "%s has %s, which no message has; %s", key, strict.Quoted(path), hint)
		}
	}
	return t, Sort(d.All)
}
