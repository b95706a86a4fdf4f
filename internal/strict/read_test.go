package strict

import (
	"errors"
	"testing"
)

// TestTreesOfAText: as many documents as are asked for, none for comments, and an error that says
// where and why.
func TestTreesOfAText(t *testing.T) {
	for text, want := range map[string]struct {
		trees, line int
		why         string
	}{
		"":                   {},
		"# a comment\n":      {},
		"a: 1\n":             {trees: 1},
		"a: &x 1\nb: *x\n":   {trees: 1},
		"a: 1\n---\nb: 2\n":  {trees: 2},
		"---\n---\n---\n":    {trees: 2},
		"a: 1\n---\nb: 'x\n": {trees: 1, line: 3, why: "found unexpected end of stream"},
		"a:\n\tb: 1\n":       {line: 2, why: "found character that cannot start any token; YAML takes blanks for indentation, and no tabs"},
		"a: *nobody\n":       {line: 1, why: "unknown anchor 'nobody' referenced"},
	} {
		trees, err := Trees(text, 2)
		e, _ := errors.AsType[*SyntaxError](err)
		if e == nil {
			e = &SyntaxError{}
		}
		if len(trees) != want.trees || e.Line != want.line || e.Text != want.why {
			t.Errorf("%q has %d trees, and line %d: %q", text, len(trees), e.Line, e.Text)
		}
	}
}

// FuzzTrees looks for texts that end the process, and for errors without a line or a reason.
func FuzzTrees(f *testing.F) {
	f.Add("a: &x [1]\nb: *x\n---\n? {a: b}\n: !!int c\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := Trees(text, 3)
		if e, bad := errors.AsType[*SyntaxError](err); bad && (e.Line < 1 || e.Text == "") || err != nil && !bad {
			t.Errorf("%v", err)
		}
	})
}
