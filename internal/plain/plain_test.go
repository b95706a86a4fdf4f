package plain

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTextsOfPeersFitALine: whatever a peer sends, the text is bounded, valid and of one line.
func TestTextsOfPeersFitALine(t *testing.T) {
	for _, s := range []string{"", "plain", "two words", "a\nb", "\x1b[31m", "\xff\xfe", "ü\u2028", strings.Repeat("ü", 1000), strings.Repeat("\xff", 1000)} {
		for what, got := range map[string]string{"line": Line(s, 50), "value": Value([]byte(s)), "quoted": Quoted(s)} {
			if !utf8.ValidString(got) || strings.ContainsAny(got, "\n\x1b\u2028") || len(got) > 3*Most+10 {
				t.Errorf("%s of %.40q: %.80q, %d bytes", what, s, got, len(got))
			}
		}
	}
	for s, want := range map[string]string{"echo": "echo", "": `""`, "two words": `"two words"`, "a\nb": `"a\nb"`} {
		if got := Quoted(s); got != want {
			t.Errorf("%q: %s, not %s", s, got, want)
		}
	}
	if got := Name(strings.Repeat("ü", 100)); got != strings.Repeat("ü", 64)+"…" {
		t.Errorf("%s", got)
	}
	if got := Name("x" + strings.Repeat("ü", 100)); got != "x"+strings.Repeat("ü", 63)+"…" { // not in the middle of a letter
		t.Errorf("%s", got)
	}
	if got := Line("a\tb\u00a0c", 3); got != "a b…" {
		t.Errorf("%q", got)
	}
}
