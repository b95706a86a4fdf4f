package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// modulePath is the module's, as go.mod has it.
const modulePath = "github.com/hubhop-iot/hubhop"

// aside are the packages that are not rooms of the house: they serve tests and measurements alone.
var aside = []string{"internal/bench", "internal/bench/hold", "internal/flow/endpoint/endtest", "internal/mqtt/mqtttest", "internal/racing", "internal/sim/simtest", "internal/virtual", "telemetry/outbox/disk/memdisk"}

// TestArrows holds the code to the drawings in README.md: a room imports what is drawn, and nothing
// else. Rooms go by their whole paths.
func TestArrows(t *testing.T) {
	drawn, found := drawing(t), map[string][]string{}
	for _, p := range listPackages(t) {
		from := room(p.ImportPath)
		if slices.Contains(aside, from) {
			continue
		}
		for _, imp := range p.Imports {
			if imp == modulePath || strings.HasPrefix(imp, modulePath+"/") {
				found[from] = append(found[from], room(imp))
			}
		}
	}
	for from, tos := range found {
		for _, to := range tos {
			if !slices.Contains(drawn[from], to) {
				t.Errorf("%s must not import %s: the arrow is in no drawing", from, to)
			}
		}
	}
	for from, tos := range drawn {
		for _, to := range tos {
			if !slices.Contains(found[from], to) {
				t.Errorf("a drawing shows %s --> %s, but nothing of it is imported", from, to)
			}
		}
	}
}

// TestArrowsRunDown reads the table of rooms in README.md from top to bottom: it has each room
// once, and a room imports only rooms that stand below it.
func TestArrowsRunDown(t *testing.T) {
	rooms, rows := map[string]bool{"main": true}, tableOfRooms(t)
	for _, p := range listPackages(t) {
		rooms[room(p.ImportPath)] = true
	}
	for i, r := range rows {
		if !rooms[r] {
			t.Errorf("the table has %s, but there is no such package", r)
		}
		if slices.Contains(rows[:i], r) {
			t.Errorf("the table has %s twice", r)
		}
	}
	for r := range rooms {
		if r != "main" && !slices.Contains(rows, r) && !slices.Contains(aside, r) {
			t.Errorf("the table of rooms has no row for %s", r)
		}
	}
	for from, tos := range drawing(t) {
		for _, to := range tos {
			if slices.Index(rows, to) < slices.Index(rows, from) {
				t.Errorf("%s --> %s runs up: put the row of %s above that of %s, or turn the arrow round", from, to, from, to)
			}
		}
	}
}

// TestSimulatorArrows keeps mistakes that the simulator would share with the client from cancelling
// out: it imports nothing of the house, and its rooms nothing of what is around them.
func TestSimulatorArrows(t *testing.T) {
	const sim = "internal/sim"
	for _, p := range listPackages(t) {
		from := room(p.ImportPath)
		for _, imp := range p.Imports {
			if to := room(imp); (from == sim || strings.HasPrefix(from, sim+"/")) && strings.HasPrefix(imp, modulePath) && !strings.HasPrefix(to, sim+"/") {
				t.Errorf("%s must not import %s: it may import only rooms below %s", from, to, sim)
			}
		}
	}
}

// TestRoomsAreSmall bounds the lines of a package, without its tests and without generated code, so
// that a reader can walk it.
func TestRoomsAreSmall(t *testing.T) {
	const limit = 4500
	more := map[string]int{ // each for its reason
		"telemetry/outbox": 5000, // at 5000 it may stay: a split would cut one thing, the log, in two
	}
	for _, p := range listPackages(t) {
		lines := 0
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(file, "_test.go") && !generated.Match(text) {
				lines += bytes.Count(text, []byte("\n"))
			}
		}
		r := room(p.ImportPath)
		most, exception := more[r]
		switch {
		case !exception && lines > limit:
			t.Errorf("%s has %d lines, more than %d: split it", r, lines, limit)
		case exception && lines > most:
			t.Errorf("%s has %d lines, more than %d, and it has a larger limit already: split it", r, lines, most)
		case exception && lines <= limit:
			t.Errorf("%s has %d lines only: take its exception away", r, lines)
		}
	}
}

// generated matches the line that marks generated code.
var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// TestThirdPartyArrows keeps each dependency in the rooms where it has its role. One that has none
// serves tests alone.
func TestThirdPartyArrows(t *testing.T) {
	only := map[string][]string{
		"github.com/spf13/cobra":              {"cmd", "cmd/cli", "cmd/flow"},
		"github.com/spf13/pflag":              {"cmd", "cmd/cli", "cmd/flow"},
		"github.com/fsnotify/fsnotify":        {"internal/flow"},
		"github.com/spf13/viper":              {"cmd"},
		"go.yaml.in/yaml/v3":                  {"internal/configfile", "internal/drill/scenario", "internal/flow/manifest", "internal/strict"},
		"github.com/pelletier/go-toml/v2":     {"internal/configfile"},
		"github.com/prometheus/client_golang": {"internal/status"},
		"golang.org/x/term":                   {"cmd"},
		"golang.org/x/time":                   {"cmd", "failover", "internal/device"},
		"golang.org/x/sys":                    {"internal/clock"},
		"github.com/eclipse/paho.mqtt.golang": {"internal/mqtt", "internal/mqtt/mqtttest"},
		"github.com/eclipse/paho.golang":      {},
		"github.com/mochi-mqtt/server/v2":     {},
		"github.com/amenzhinsky/iothub":       {"hub", "dps", "internal/drill/target"},
		"github.com/shirou/gopsutil/v4":       {"internal/sample"},
		"github.com/muesli/cancelreader":      {"telemetry"},
		"github.com/gofrs/flock":              {"internal/sim/store"},
		"github.com/gorilla/websocket":        {"internal/flow/endpoint/mqtt", "internal/sim/wire"}, // paho brings it along for the client
		"github.com/rs/zerolog":               {"cmd", "cmd/flow", "cmd/window", "internal/journal", "internal/sim", "internal/sim/iothub", "internal/sim/ledger", "internal/sim/provisioning", "internal/sim/store", "internal/sim/wire"},
		"github.com/rogpeppe/go-internal":     {},
		"go.uber.org/goleak":                  {},
		"github.com/chromedp/chromedp":        {},
		"github.com/chromedp/cdproto":         {},
		"go.opentelemetry.io/proto/otlp":      {"internal/flow/endpoint/otlp"},
		"google.golang.org/grpc":              {},
		"google.golang.org/protobuf":          {"internal/flow/endpoint/otlp"},
		"github.com/twmb/franz-go":            {"internal/flow/endpoint/kafka"},
		"github.com/twmb/franz-go/pkg/kfake":  {},
		"github.com/twmb/franz-go/pkg/kmsg":   {},

		"github.com/santhosh-tekuri/jsonschema/v6": {"internal/flow/transform"}, // the blank line keeps the columns above
	}
	if runtime.GOOS == "windows" { // the other systems lock without a library
		only["github.com/gofrs/flock"] = append(only["github.com/gofrs/flock"], "internal/lock")
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

// drawing reads the arrows of the drawings in README.md.
func drawing(t *testing.T) map[string][]string {
	t.Helper()
	pictures := regexp.MustCompile("(?s)```mermaid\n(.*?)```").FindAllStringSubmatch(readDocument(t, "README.md"), -1)
	if len(pictures) != 3 {
		t.Fatalf("README.md has %d drawings, it should have one of the house, one of the edge and one of the simulator", len(pictures))
	}
	arrow := regexp.MustCompile(`^    ([\w/]+) --> ([\w/]+(?: & [\w/]+)*)$`)
	arrows := map[string][]string{}
	for _, picture := range pictures {
		for line := range strings.Lines(picture[1]) {
			line = strings.TrimRight(line, "\n")
			m := arrow.FindStringSubmatch(line)
			if m == nil {
				if line != "graph LR" && line != "graph TD" {
					t.Errorf("a drawing has a line that is no arrow: %q", line)
				}
				continue
			}
			arrows[m[1]] = append(arrows[m[1]], strings.Split(m[2], " & ")...)
		}
	}
	if len(arrows) < 5 {
		t.Fatalf("the drawings have arrows from %d rooms only", len(arrows))
	}
	return arrows
}

// tableOfRooms returns the rooms that the table in README.md names, from top to bottom.
func tableOfRooms(t *testing.T) (rows []string) {
	t.Helper()
	_, table, ok := strings.Cut(readDocument(t, "README.md"), "| room | what is in it |\n|---|---|\n")
	table, _, ok2 := strings.Cut(table, "\n\n")
	if !ok || !ok2 {
		t.Fatal("README.md has no table of the rooms")
	}
	name := regexp.MustCompile("\\[`([\\w/]+)`\\]")
	for row := range strings.Lines(table) {
		names := name.FindAllStringSubmatch(strings.SplitN(row, "|", 3)[1], -1)
		if len(names) == 0 {
			t.Errorf("a row of the table names no room: %s", row)
		}
		for _, n := range names {
			rows = append(rows, n[1])
		}
	}
	return rows
}

// room returns the name of a package in the drawings: its path within the module.
func room(path string) string {
	if path == modulePath {
		return "main"
	}
	return strings.TrimPrefix(path, modulePath+"/")
}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
}

func listPackages(t *testing.T) (all []listed) {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Imports", "./...")
	list.Env = append(os.Environ(), "GOOS=linux") // on other systems some files, and their imports, are left out
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
