package flow

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// FuzzFlow reads any manifests, and feeds any messages to each flow that they make: nothing panics,
// what goes wrong has a reason, and the same messages give the same outputs again.
func FuzzFlow(f *testing.F) {
	seeds, err := filepath.Glob("../../examples/flows/*/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("there are no examples: %v", err)
	}
	broker, err := os.ReadFile("../../examples/flows/averages/broker.yaml")
	if err != nil {
		f.Fatal(err)
	}
	lines := `{"topic":"sensors/a/temperature","payload":{"temperature":21.5,"name":"a","value":[1,{"x":null}]},"properties":{"__ts":"2026-01-01T00:00:00Z","id":"7"}}
{"topic":"sensors/b/temperature","payload":{"temperature":"high"},"time":"2026-01-01T00:01:30Z","contentType":"application/json"}
not JSON
{"topic":"sensors/a/temperature","payloadBase64":"/w=="}`
	for _, path := range seeds {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(lines), "__ts", "2099-12-31T23:59:59Z")
		if !bytes.Contains(text, []byte("kind: DataflowEndpoint")) {
			f.Add(bytes.Join([][]byte{text, broker}, []byte("\n---\n")), []byte(lines), "id", "x")
		}
	}
	f.Fuzz(func(t *testing.T, manifests, messages []byte, key, value string) {
		if len(manifests) > 64<<10 || len(messages) > 64<<10 {
			return // large inputs have tests of their own, and make the fuzzer slow
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "flows.yaml"), manifests, 0o600); err != nil {
			t.Fatal(err)
		}
		report := Check(dir, CheckOptions{})
		set, _ := manifest.Load(dir, manifest.Options{})
		for _, g := range set.Graphs {
			_, _ = Text(g), Mermaid(g)
			first, ok := trial(t, dir, g, messages, key, value)
			if !ok && report.OK {
				t.Errorf("the check finds nothing, and the flow %s does not start", g.Name)
			}
			if second, _ := trial(t, dir, g, messages, key, value); first != second {
				t.Errorf("the same messages give\n%s\nand then\n%s", first, second)
			}
		}
	})
}

// trial feeds the lines of messages to a flow, and returns what came of them. ok is false if the
// flow does not start.
func trial(t *testing.T, dir string, g *manifest.Graph, messages []byte, key, value string) (outcome string, ok bool) {
	var b strings.Builder
	run, faults := NewTrial(g, TrialOptions{
		Dir: dir, Start: time.Unix(1_700_000_000, 0),
		Out: func(destination string, m node.Message) {
			fmt.Fprintf(&b, "%s %s\n", m.ID, Line(destination, &m))
		},
		Drop: func(line int, node, reason string, _ bool) {
			if strings.HasPrefix(reason, "panicked") {
				t.Errorf("line %d: node %s: %s", line, node, reason)
			}
			if reason == "" {
				t.Errorf("line %d: node %s drops it for no reason", line, node)
			}
			fmt.Fprintf(&b, "%d %s %s\n", line, node, reason)
		},
	})
	if run == nil {
		if !manifest.Errors(faults) {
			t.Error("a flow that does not start has no error")
		}
		return "", false
	}
	for l := range bytes.Lines(messages) {
		m, err := ParseInput(l)
		if err != nil {
			m = Input{Message: node.Message{Payload: bytes.Clone(l), Properties: []node.Property{{Key: key, Value: value}}}}
		}
		if m.Topic == "" {
			m.Topic = "sensors/a/temperature"
		}
		if err := run.Feed(m); err != nil {
			m.Topic = "" // for every source
			if err := run.Feed(m); err != nil {
				t.Errorf("a message without a topic: %v", err)
			}
		}
	}
	run.Close()
	return b.String(), true
}
