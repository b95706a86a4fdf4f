package plain

import (
	"slices"
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

// TestWrapBreaksBetweenWords: no line is too long but that of a long word, and no word is lost.
func TestWrapBreaksBetweenWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                     {""},
		"  one\n two  ":        {"one two"},
		"one two three":        {"one two", "three"},
		"über alle":            {"über", "alle"}, // it counts characters: 9 of them are too many
		"übers ü":              {"übers ü"},      // and 9 bytes are not
		"a incomprehensible b": {"a", "incomprehensible", "b"},
	} {
		if got := Wrap(text, 8); !slices.Equal(got, want) {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}
