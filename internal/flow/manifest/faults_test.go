package manifest

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the fixtures and schemas are now, for a look at the difference")

// A fixture is testdata/faults/<rule>.yaml or <rule>@<variant>.yaml, one file, or .txtar with
// several. Lines "# want line:column severity rule: text" say all faults of it. A line "# strict"
// asks for the strict check.
func TestEachFixtureHasExactlyTheFaultsThatItSays(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/faults/*")
	if err != nil || len(fixtures) < 100 {
		t.Fatalf("%d fixtures, %v", len(fixtures), err)
	}
	for _, fixture := range fixtures {
		t.Run(filepath.Base(fixture), func(t *testing.T) {
			text := string(readFile(t, fixture))
			var got []string
			rule := ruleOf(fixture)
			found := false
			for _, f := range faultsOf(t, fixture, said.ReplaceAllString(text, "")) {
				got = append(got, fmt.Sprintf("# want %s:%d:%d %s %s: %s", f.File, f.Line, f.Column, f.Severity, f.Rule, f.Text))
				found = found || f.Rule == rule
			}
			if !found {
				t.Errorf("no fault of the rule %s; there are:\n%s", rule, strings.Join(got, "\n"))
			}
			var want, rest []string
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "# want ") {
					want = append(want, strings.TrimRight(line, "\n"))
				} else {
					rest = append(rest, line)
				}
			}
			if *update {
				told := strings.Join(got, "\n") + "\n"
				text = strings.Join(rest, "") + told
				if filepath.Ext(fixture) == ".txtar" {
					text = told + strings.Join(rest, "")
				}
				if err := os.WriteFile(fixture, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !slices.Equal(got, want) {
				t.Errorf("found:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// said matches what a fixture says of its faults.
var said = regexp.MustCompile(`(?m)^# want .*\n`)

func ruleOf(fixture string) string {
	name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(fixture), filepath.Ext(fixture)), "@")
	return name
}

// faultsOf loads a fixture as a directory. Its tests and graph definitions are read too.
func faultsOf(t *testing.T, fixture, text string) (all []Fault) {
	t.Helper()
	dir := t.TempDir()
	files := []txtar.File{{Name: "f.yaml", Data: []byte(text)}}
	if filepath.Ext(fixture) == ".txtar" {
		files = txtar.Parse([]byte(text)).Files
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, ".test.yaml") {
			_, faults := ParseTest(f.Name, f.Data)
			all = append(all, faults...)
			continue
		}
		writeFile(t, filepath.Join(dir, f.Name), string(f.Data))
	}
	_, faults := Load(dir, Options{StrictAIO: strings.Contains(text, "# strict\n")})
	for _, f := range faults {
		f.File = strings.TrimPrefix(f.File, dir+string(filepath.Separator))
		f.Text = strings.ReplaceAll(f.Text, dir+string(filepath.Separator), "")
		all = append(all, f)
	}
	return all
}

// made are the rules whose fixtures are made by tests below, because they are too large for a file
// of the repository, no text, or a matter of this machine.
var made = map[string]string{
	"file-too-large": "", "file-not-utf8": "", "too-deep": "", "too-many-values": "", "too-many-faults": "", "too-many-documents": "", "too-many-files": "",
	"directory": "", "directory-too-large": "", "file": "", "strict-profile": "",
	"parameter-missing": "", "parameter-unknown": "",
	"lacks-volume": "", "lacks-registry": "", "lacks-config-map": "", "lacks-token": "", "lacks-identity": "", "lacks-secret": "",
	"lacks-secret-key": "", "lacks-artifact": "", "lacks-schema": "", "secret-readable": "",
}

func TestEachRuleHasAFixture(t *testing.T) {
	rules := map[string]bool{}
	for _, pattern := range []string{"*.go", "../../strict/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				rulesIn(t, file, rules)
			}
		}
	}
	if len(rules) < 100 {
		t.Fatalf("found %d rules only", len(rules))
	}
	fixtures, err := filepath.Glob("testdata/faults/*")
	if err != nil {
		t.Fatal(err)
	}
	have := maps.Clone(made)
	for _, f := range fixtures {
		if _, twice := made[ruleOf(f)]; twice {
			t.Errorf("%s has a fixture, and is among those that are made", ruleOf(f))
		}
		have[ruleOf(f)] = f
	}
	for rule := range rules {
		if _, ok := have[rule]; !ok {
			t.Errorf("the rule %s has no fixture", rule)
		}
	}
	for rule := range have {
		if !rules[rule] {
			t.Errorf("there is a fixture for %s, and no such rule", rule)
		}
	}
}

// rulesIn collects the names of rules in a file: the second argument of Error, Warn and fail.
func rulesIn(t *testing.T, file string, rules map[string]bool) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 3 {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Error", "Warn", "fail"}, f.Sel.Name) {
			return true
		}
		switch arg := call.Args[1].(type) {
		case *ast.BasicLit:
			rule, err := strconv.Unquote(arg.Value)
			if err != nil {
				t.Fatal(err)
			}
			rules[rule] = true
		case *ast.Ident: // handed on by fail
		default:
			t.Errorf("%s: a rule has no constant name", file)
		}
		return true
	})
}

// only returns the faults of a rule, and fails if there is none.
func only(t *testing.T, all []Fault, rule string) (some []Fault) {
	t.Helper()
	for _, f := range all {
		if f.Rule == rule {
			some = append(some, f)
		}
	}
	if len(some) == 0 {
		t.Errorf("no fault of the rule %s among %v", rule, all)
	}
	delete(unseen, rule)
	return some
}

// unseen are the rules of made that no test has met yet. The last test looks at it.
var unseen = maps.Clone(made)

func TestMain(m *testing.M) {
	code := m.Run()
	all := true // tests have run
	for _, choice := range []string{"test.run", "test.skip", "test.fuzz", "test.list"} {
		all = all && flag.Lookup(choice).Value.String() == ""
	}
	if code == 0 && all && len(unseen) > 0 {
		fmt.Fprintln(os.Stderr, "no test has made a fault of", slices.Sorted(maps.Keys(unseen)))
		code = 1
	}
	os.Exit(code)
}

const broker = `apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: broker}
spec:
  endpointType: Mqtt
  mqttSettings: {host: "broker.local:8883", authentication: {method: Anonymous}}
`

func load(t *testing.T, files map[string]string) (*Set, []Fault) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		writeFile(t, filepath.Join(dir, name), text)
	}
	return Load(dir, Options{})
}

func TestWhatIsTooMuchIsRefused(t *testing.T) {
	deep := broker + "  x: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n"
	bomb := "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
	for c := byte('b'); c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ","))
	}
	own := "a: &a\n  b: *a\n"
	for rule, text := range map[string]string{
		"file-too-large":     broker + "#" + strings.Repeat("x", 4<<20),
		"too-deep":           deep,
		"too-many-values":    bomb,
		"too-many-documents": strings.Repeat("---\na: 1\n", 1100),
		"too-many-faults":    broker + strings.Repeat("  x: 1\n", 5000),
	} {
		set, all := load(t, map[string]string{"f.yaml": text})
		only(t, all, rule)
		if len(all) > 1100 {
			t.Errorf("%s: %d faults", rule, len(all))
		}
		if rule != "too-many-faults" && len(set.Endpoints) > 0 {
			t.Errorf("%s: something was read all the same", rule)
		}
	}
	_, all := load(t, map[string]string{"f.yaml": own})
	only(t, all, "too-deep")
	_, all = load(t, map[string]string{"f.Dataflow.json": strings.Repeat("[", 200), "g.Dataflow.json": "[" + strings.Repeat("1,", 200_000) + "1]"})
	only(t, all, "too-deep")
	only(t, all, "too-many-values")
}

func TestADirectoryIsBounded(t *testing.T) {
	_, all := Load(filepath.Join(t.TempDir(), "none"), Options{})
	only(t, all, "directory")
	dir := t.TempDir()
	large := strings.Repeat(" ", 2<<20)
	for i := range 9 {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i, ".yaml")), large)
	}
	_, all = Load(dir, Options{})
	only(t, all, "directory-too-large")
	dir = t.TempDir()
	for i := range maxFiles + 1 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".yaml")), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, all = Load(dir, Options{})
	only(t, all, "too-many-files")
}

func TestWhatIsNoTextIsRefused(t *testing.T) {
	set, all := load(t, map[string]string{
		"a.yaml": "kind: \xff\n", "b.yaml": "\xff\xfek\x00", "c.yaml": broker,
	})
	if f := only(t, all, "file-not-utf8"); len(f) != 2 || f[0].Line != 1 || f[0].Column != 7 {
		t.Errorf("%v", f)
	}
	if len(set.Endpoints) != 1 || !slices.Equal(set.Unread, []string{"a.yaml", "b.yaml"}) {
		t.Errorf("endpoints %v, unread %v", set.Endpoints, set.Unread)
	}
}

func TestAStrictCheckCountsTheDataFlowsOfAProfile(t *testing.T) {
	var text bytes.Buffer
	text.WriteString(strings.Replace(broker, "broker.local:8883", "aio-broker:18883", 1))
	for i := range 71 {
		fmt.Fprintf(&text, `---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: Dataflow
metadata: {name: flow-%d}
spec:
  operations:
    - {operationType: Source, sourceSettings: {endpointRef: broker, dataSources: [a]}}
    - {operationType: Destination, destinationSettings: {endpointRef: broker, dataDestination: b}}
`, i)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "f.yaml"), text.String())
	if _, all := Load(dir, Options{}); len(all) > 0 {
		t.Errorf("%v", all)
	}
	_, all := Load(dir, Options{StrictAIO: true})
	only(t, all, "strict-profile")
}
