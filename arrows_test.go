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

// TestArrows holds the code to the picture in README.md: what is not drawn must not be imported, and what is drawn must be.
func TestArrows(t *testing.T) {
	drawn := drawing(t)
	found := map[string][]string{}
	for _, p := range listPackages(t) {
		from := room(p.ImportPath)
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, "hubhop/") {
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
	for _, leaf := range []string{"model", "dps", "hub", "outbox", "journal", "sim"} {
		if len(found[leaf]) > 0 {
			t.Errorf("%s is a leaf, but imports %v", leaf, found[leaf])
		}
	}
}

// TestThirdPartyArrows keeps each dependency in the rooms where it has its role.
func TestThirdPartyArrows(t *testing.T) {
	only := map[string][]string{
		"github.com/spf13/cobra":              {"cmd"},
		"github.com/spf13/viper":              {"cmd"},
		"github.com/eclipse/paho.mqtt.golang": {"hub", "dps"},
		"github.com/amenzhinsky/iothub":       {"hub", "dps"},
		"github.com/shirou/gopsutil":          {"telemetry"},
		"github.com/muesli/cancelreader":      {"telemetry"},
		"github.com/gofrs/flock":              {"device", "outbox", "sim"},
		"github.com/gorilla/websocket":        {"sim"}, // paho brings it along for the client
	}
	used := map[string]bool{}
	for _, p := range listPackages(t) {
		for _, imp := range p.Imports {
			for lib, rooms := range only {
				if imp != lib && !strings.HasPrefix(imp, lib+"/") {
					continue
				}
				used[lib] = true
				if from := room(p.ImportPath); !slices.Contains(rooms, from) {
					t.Errorf("%s must not import %s: that is the business of %v", from, imp, rooms)
				}
			}
		}
	}
	for _, lib := range []string{"github.com/spf13/cobra", "github.com/spf13/viper", "github.com/eclipse/paho.mqtt.golang", "github.com/amenzhinsky/iothub"} {
		if !used[lib] {
			t.Errorf("%s has no role any more", lib)
		}
	}
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
	if path == "hubhop" {
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
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...").Output()
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
