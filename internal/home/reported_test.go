package home

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// TestReportedPropertiesAreKept over restarts, each with its last value, and written only when one
// has changed.
func TestReportedPropertiesAreKept(t *testing.T) {
	dir := virtual.Dir(t)
	h, err := opened(dir, "dev-1")
	must(t, err)
	r := OpenReported(h)
	must(t, r.Set(map[string]json.RawMessage{"a": json.RawMessage(`{"x": [1, 2]}`), "b": json.RawMessage("1")}))
	must(t, r.Set(map[string]json.RawMessage{"b": json.RawMessage("null")}))
	h.Close()
	h, err = opened(dir, "dev-1")
	must(t, err)
	defer h.Close()
	r = OpenReported(h)
	if got := string(r.Value("a")); got != `{"x":[1,2]}` {
		t.Errorf("a is %s", got)
	}
	if r.Value("b") != nil || strings.Join(r.Names(), " ") != "a b" {
		t.Errorf("b is %s of %v", r.Value("b"), r.Names())
	}
	must(t, os.Remove(h.Path(ReportedFile)))
	must(t, r.Set(map[string]json.RawMessage{"a": json.RawMessage(`{"x":[1,2]}`)}))
	if _, err := os.Stat(h.Path(ReportedFile)); err == nil {
		t.Error("a value that was there already is written again")
	}
	if err := r.Set(map[string]json.RawMessage{"c": json.RawMessage("{")}); err == nil {
		t.Error("what is no JSON is kept")
	}
}

// TestReportedPropertiesThatTheDiskDoesNotTake are not kept: the caller tries again.
func TestReportedPropertiesThatTheDiskDoesNotTake(t *testing.T) {
	h, err := opened(virtual.Dir(t), "dev-1")
	must(t, err)
	defer h.Close()
	r := OpenReported(h)
	must(t, r.Set(map[string]json.RawMessage{"a": json.RawMessage("1")}))
	must(t, os.Chmod(h.dir, 0o500))
	if os.Getuid() == 0 { // root may write everywhere: a file in the place of the directory stops it too
		must(t, os.Rename(h.dir, h.dir+".gone"))
		must(t, os.WriteFile(h.dir, nil, 0o600))
	}
	if err := r.Set(map[string]json.RawMessage{"a": json.RawMessage("2")}); err == nil || string(r.Value("a")) != "1" {
		t.Errorf("%v, a is %s", err, r.Value("a"))
	}
	if os.Getuid() == 0 {
		must(t, os.Remove(h.dir))
		must(t, os.Rename(h.dir+".gone", h.dir))
	}
	must(t, os.Chmod(h.dir, 0o700))
	must(t, r.Set(map[string]json.RawMessage{"a": json.RawMessage("2")}))
	if string(r.Value("a")) != "2" {
		t.Errorf("a is %s", r.Value("a"))
	}
}
