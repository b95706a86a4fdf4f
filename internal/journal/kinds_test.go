package journal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// TestKindsHasEveryKind reads the constants of the type Kind in journal.go.
func TestKindsHasEveryKind(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "journal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Kind" {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found++
		if !slices.Contains(Kinds, Kind(value)) {
			t.Errorf("Kinds lacks %s", value)
		}
		return true
	})
	if found == 0 || found != len(Kinds) {
		t.Errorf("journal.go has %d kinds, Kinds has %d", found, len(Kinds))
	}
}
