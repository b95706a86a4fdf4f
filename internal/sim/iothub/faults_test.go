package iothub

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A kind that has no row would be refused, and DPS would not learn of it.
func TestEveryKindOfFaultHasARow(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "faults.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, d := range file.Decls {
		if d, ok := d.(*ast.GenDecl); !ok || d.Tok != token.CONST {
			continue
		}
		for _, s := range d.(*ast.GenDecl).Specs {
			s := s.(*ast.ValueSpec)
			if !strings.HasPrefix(s.Names[0].Name, "Fault") {
				continue
			}
			kind, err := strconv.Unquote(s.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, kind)
		}
	}
	if rows := kindsWith(every); !reflect.DeepEqual(sorted(rows), sorted(kinds)) || len(rows) == 0 {
		t.Errorf("the constants are %q, the rows %q", kinds, rows)
	}
}

// The control API's documentation says what the table says.
func TestFaultsAreThoseOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/control-api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "### `POST /api/hubs/{name}/fault`")
	section, _, _ = strings.Cut(section, "\n### ")
	names := regexp.MustCompile("`([a-z0-9-]+)`")
	for _, v := range []struct {
		field, after string // the names stand between the two
		before       string
		want         []string
	}{
		{"kind", "", " |", kindsWith(every)},
		{"dpsKnows", "Default: true under ", " |", kindsWith(dpsKnows)},
		{"whenOver", "", ":", kindsWith(silent)},
	} {
		_, row, found := strings.Cut(section, "\n| `"+v.field+"` | ")
		row, _, _ = strings.Cut(row, "\n")
		_, row, ok := strings.Cut(row, v.after)
		row, _, _ = strings.Cut(row, v.before)
		var got []string
		for _, m := range names.FindAllStringSubmatch(row, -1) {
			got = append(got, m[1])
		}
		if !found || !ok || !reflect.DeepEqual(got, v.want) {
			t.Errorf("%s: the documentation names %q, the table %q", v.field, got, v.want)
		}
	}
}

func TestWhatFollowsFromAKindOfFault(t *testing.T) {
	yes, no := true, false
	for _, k := range faultKinds {
		reached := k.name != FaultKill && k.name != FaultBlackhole && k.name != FaultSYNDrop
		h := &Hub{}
		f := Fault{Kind: k.name}
		nothing := func() error { return nil }
		if err := h.faults.Begin(f, f.Kind, 0, nothing, nothing); err != nil {
			t.Fatal(err)
		}
		if h.Reachable() != reached {
			t.Errorf("%s: reachable is %v", k.name, h.Reachable())
		}
		if h.DeadForDPS() != k.dpsKnows {
			t.Errorf("%s: dead for DPS is %v", k.name, h.DeadForDPS())
		}
		if told, hidden := (&Fault{Kind: k.name, DPSKnows: &yes}), (&Fault{Kind: k.name, DPSKnows: &no}); !told.dpsKnows() || hidden.dpsKnows() {
			t.Errorf("%s: DPSKnows does not count", k.name)
		}
		if err := (&Fault{Kind: k.name, WhenOver: WaitingReset}).check(); (err == nil) != k.silent {
			t.Errorf("%s: whenOver: %v", k.name, err)
		}
	}
	if h := new(Hub); !h.Reachable() || h.DeadForDPS() {
		t.Error("a hub without a fault cannot be reached or is dead")
	}
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }
