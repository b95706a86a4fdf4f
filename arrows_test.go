package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// modulePath is the module's, as go.mod has it.
const modulePath = "github.com/hubhop-iot/hubhop"

// TestArrows holds the code to the picture in README.md: what is not drawn must not be imported, and what is drawn must be.
func TestArrows(t *testing.T) {
	drawn := drawing(t)
	found := map[string][]string{}
	for _, p := range listPackages(t) {
		from := room(p.ImportPath)
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, modulePath+"/") {
				found[from] = append(found[from], room(imp))
			}
		}
	}
	delete(found, "memnet")
	for from, tos := range found {
		for _, to := range tos {
			if !slices.Contains(drawn[from], to) {
				t.Errorf("%s must not import %s: the arrow is not in the picture", from, to)
			}
		}
	}
	for from, tos := range drawn {
		for _, to := range tos {
			if !slices.Contains(found[from], to) {
				t.Errorf("the picture shows %s --> %s, but nothing of it is imported", from, to)
			}
		}
	}
	for _, leaf := range []string{"model", "dps", "hub", "outbox", "journal", "query"} {
		if len(found[leaf]) > 0 {
			t.Errorf("%s is a leaf, but imports %v", leaf, found[leaf])
		}
	}
}

// TestThirdPartyArrows keeps each dependency in the rooms where it has its role. One that has none serves tests alone.
func TestThirdPartyArrows(t *testing.T) {
	only := map[string][]string{
		"github.com/spf13/cobra":              {"cmd"},
		"github.com/spf13/pflag":              {"cmd"},
		"github.com/spf13/viper":              {"cmd"},
		"go.yaml.in/yaml/v3":                  {"cmd"},
		"github.com/pelletier/go-toml/v2":     {"cmd"},
		"golang.org/x/term":                   {"cmd"},
		"golang.org/x/time":                   {"cmd", "device"},
		"golang.org/x/sys":                    {"device"},
		"github.com/eclipse/paho.mqtt.golang": {"hub", "dps"},
		"github.com/amenzhinsky/iothub":       {"hub", "dps"},
		"github.com/shirou/gopsutil/v4":       {"telemetry"},
		"github.com/muesli/cancelreader":      {"telemetry"},
		"github.com/gofrs/flock":              {"device", "outbox", "sim"},
		"github.com/gorilla/websocket":        {"sim"}, // paho brings it along for the client
		"github.com/rs/zerolog":               {"cmd", "journal", "sim"},
		"github.com/rogpeppe/go-internal":     {},
		"go.uber.org/goleak":                  {},
	}
	used := map[string][]string{}
	for _, p := range listPackages(t) {
		from := room(p.ImportPath)
		for _, imp := range p.Imports {
			for lib, rooms := range only {
				if imp != lib && !strings.HasPrefix(imp, lib+"/") {
					continue
				}
				used[lib] = append(used[lib], from)
				if !slices.Contains(rooms, from) {
					t.Errorf("%s must not import %s: that is the business of %v", from, imp, rooms)
				}
			}
		}
	}
	required := requirements(t)
	for lib, rooms := range only {
		if !slices.Contains(required, lib) {
			t.Errorf("go.mod does not require %s any more", lib)
		}
		for _, r := range rooms {
			if !slices.Contains(used[lib], r) {
				t.Errorf("%s has no role in %s any more", lib, r)
			}
		}
	}
	for _, lib := range required {
		if _, ok := only[lib]; !ok {
			t.Errorf("go.mod requires %s, but nothing here says where it has its role", lib)
		}
	}
}

// requirements are the modules that go.mod names for their own sake.
func requirements(t *testing.T) (direct []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	return direct
}

// drawing reads the arrows of the picture.
func drawing(t *testing.T) map[string][]string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```mermaid\n")
	picture, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("README.md has no picture of the rooms")
	}
	arrows := map[string][]string{}
	for line := range strings.Lines(picture) {
		m := regexp.MustCompile(`^\s*(\w+) --> ([\w& ]+?)\s*$`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for to := range strings.SplitSeq(m[2], "&") {
			arrows[m[1]] = append(arrows[m[1]], strings.TrimSpace(to))
		}
	}
	if len(slices.Collect(maps.Keys(arrows))) < 5 {
		t.Fatalf("the picture has arrows from %d rooms only", len(arrows))
	}
	return arrows
}

// room is the name of a package in the picture.
func room(path string) string {
	if path == modulePath {
		return "main"
	}
	return path[strings.LastIndex(path, "/")+1:]
}

type listed struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) (all []listed) {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	list.Env = append(os.Environ(), "GOOS=linux") // elsewhere less of the kernel is asked, and less imported
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}
