package transform

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/topic"
)

// TestPublishedExamples runs the worked examples of Microsoft's pages, which lie beside the
// checkout.
func TestPublishedExamples(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "shared", "data", "aio", "worked-examples", "transforms.json"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the published examples are not beside this checkout (../shared/data/aio); they are not ours to copy")
	}
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name, Transform string
			Config          map[string]json.RawMessage
			In              []struct {
				Payload        json.RawMessage
				AdvanceSeconds int64
			}
			Out   []struct{ Payload any }
			Table map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) < 11 {
		t.Fatalf("there are %d groups of examples, 11 are known", len(file.Cases))
	}
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			switch c.Transform {
			case "destination":
				var input, output string
				json.Unmarshal(c.Config["metadataTopic"], &output)
				json.Unmarshal(c.Config["inputTopic"], &input)
				for pattern, want := range c.Table {
					p, err := topic.Parse(pattern)
					if err != nil {
						t.Fatal(err)
					}
					got, err := p.Expand(input, output)
					if string(want) == "null" {
						if err == nil {
							t.Errorf("%s = %s, want an error", pattern, got)
						}
					} else if quoted, _ := json.Marshal(got); err != nil || string(quoted) != string(want) {
						t.Errorf("%s = %s, %v; want %s", pattern, got, err, want)
					}
				}
				return
			case "path":
				for text, want := range c.Table {
					p, _, fault := split(text, nil)
					if fault != nil {
						t.Fatal(fault)
					}
					var got []string
					for _, k := range p.keys {
						got = append(got, k.Text())
					}
					if quoted, _ := json.Marshal(got); !sameJSON(t, string(quoted), string(want)) {
						t.Errorf("%s = %q, want %s", text, got, want)
					}
				}
				return
			}
			var settings []Setting
			for key, value := range c.Config {
				settings = append(settings, Setting{key, string(value)})
			}
			op, err := Compile(c.Transform, "", settings, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			at := time.Unix(1_800_000_000, 0)
			emit := func(m *node.Message) { out = append(out, string(m.Payload)) }
			for i, in := range c.In {
				m := &node.Message{Payload: in.Payload, Topic: "a/b"}
				var err error
				switch op := op.(type) {
				case node.Map:
					if err = op.Map(m); err == nil {
						emit(m)
					}
				case node.Filter:
					var pass bool
					if pass, err = op.Filter(m); pass {
						emit(m)
					}
				case node.Window:
					if in.AdvanceSeconds > 0 {
						op.Advance(node.TimeOf(at.Add(time.Duration(in.AdvanceSeconds)*time.Second)), emit)
						continue
					}
					err = op.Add(m, node.TimeOf(at.Add(time.Duration(i)*time.Millisecond)), emit)
				}
				if err != nil {
					t.Errorf("message %d: %v", i+1, err)
				}
			}
			if len(out) != len(c.Out) {
				t.Fatalf("%d messages came out, want %d: %q", len(out), len(c.Out), out)
			}
			for i := range out {
				want, _ := json.Marshal(c.Out[i].Payload)
				if !sameJSON(t, out[i], string(want)) {
					t.Errorf("message %d is %s, want %s", i+1, out[i], want)
				}
			}
		})
	}
}

// sameJSON compares two JSON texts; numbers may differ by one in 10⁹.
func sameJSON(t testing.TB, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return same(x, y)
}

func same(x, y any) bool {
	switch x := x.(type) {
	case float64:
		y, ok := y.(float64)
		return ok && math.Abs(x-y) <= 1e-9*math.Max(math.Abs(x), math.Abs(y))
	case map[string]any:
		y, ok := y.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k := range x {
			if v, ok := y[k]; !ok || !same(x[k], v) {
				return false
			}
		}
		return true
	case []any:
		y, ok := y.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !same(x[i], y[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(x, y)
}
