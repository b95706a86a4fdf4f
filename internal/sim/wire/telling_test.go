package wire

import (
	"testing"
)

// The memory that recognises repeated lines is bounded.
func TestFewLinesAreRemembered(t *testing.T) {
	n := &Novelty{}
	for i := range 3 * linesRemembered {
		n.IsNew(string(rune(i)) + "x")
	}
	if len(n.seen) > linesRemembered {
		t.Errorf("%d lines are remembered", len(n.seen))
	}
}
