package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	docFile     = "../../../docs/drill.md"
	libraryMark = "## The scenarios that hubhop brings along\n"
	tableMark   = "The tables are made from the code.\n"
)

// TestTheDocumentSaysWhatTheCodeSays holds two parts of docs/drill.md to the code: the list of
// scenarios, and the tables of the language.
func TestTheDocumentSaysWhatTheCodeSays(t *testing.T) {
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Library(os.DirFS(filepath.Dir(schemaFile)))
	if err != nil {
		t.Fatal(err)
	}
	list := "\n| scenario | what happens |\n|---|---|\n"
	for _, s := range all {
		list += fmt.Sprintf("| [`%s`](../scripts/scenarios/%s.yaml) | %s |\n", s.Name, s.Name, s.Title)
	}
	doc := string(text)
	head, rest, ok := strings.Cut(doc, libraryMark)
	old, tail, ok2 := strings.Cut(rest, "\n`make drills`")
	middle, tables, ok3 := strings.Cut(tail, tableMark)
	if !ok || !ok2 || !ok3 {
		t.Fatal("docs/drill.md lacks one of its marks")
	}
	want := head + libraryMark + list + "\n`make drills`" + middle + tableMark + reference()
	if *update {
		if err := os.WriteFile(docFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != list {
		t.Error("the list of scenarios is not that of the library; go test ./internal/drill/scenario -update writes it")
	}
	if tables != reference() {
		t.Error("the tables are not what the types say; go test ./internal/drill/scenario -update writes them")
	}
}

func TestTheExampleInTheDocumentIsRight(t *testing.T) {
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if _, err := Parse("example.yaml", []byte(example)); err != nil || !ok {
		t.Error(err)
	}
}
