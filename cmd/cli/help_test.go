package cli

import (
	"strings"
	"testing"
)

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
