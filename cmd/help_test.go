package cmd

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// TestHelpFitsATerminal: no line of any help is longer than 80 characters, and no flag that is
// shown is left out of it.
func TestHelpFitsATerminal(t *testing.T) {
	root := newRootCommand(&Env{}, nil)
	all := allCommands(root)
	if len(all) < 15 {
		t.Fatalf("only %d commands", len(all))
	}
	for _, c := range all {
		var b bytes.Buffer
		help(&b, c)
		for line := range strings.SplitSeq(b.String(), "\n") {
			if n := utf8.RuneCountInString(line); n > helpWidth || strings.Contains(line, "\t") {
				t.Errorf("%s --help has a line of %d characters: %q", c.CommandPath(), n, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if shown := strings.Contains(b.String(), "--"+f.Name); !shown && !f.Hidden {
				t.Errorf("%s --help does not show --%s", c.CommandPath(), f.Name)
			}
		})
		if c.Runnable() && !strings.Contains(b.String(), "Usage:\n  hubhop") {
			t.Errorf("%s --help does not say how it is used", c.CommandPath())
		}
	}
}

// TestHelpIsFilledAndKeepsItsTables: paragraphs are filled, tables keep their columns, commands
// break where a shell allows.
func TestHelpIsFilledAndKeepsItsTables(t *testing.T) {
	long := strings.Repeat("word ", 30)
	got := reflow("One\ntwo.\n\n    term    " + long + "\n            more\n    command " + strings.Repeat("--flag value ", 8) + "\n")
	for _, want := range []string{"One two.\n\n    term    word", "\n            word", "word more\n", " \\\n        --flag value"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
