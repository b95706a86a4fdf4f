// Package plain makes the texts of peers, and of files that anybody may have written, fit for a
// line of a log: bounded, and without characters that break the line. It also breaks long texts of
// this program into lines.
package plain

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Most is how many bytes of a peer's text an event has, and how many bytes of a JSON value.
const Most = 200

// maxName bounds a name, in bytes.
const maxName = 128

// Quoted returns a name for a sentence. A short, plain name stays as it is; another one is cut and
// quoted.
func Quoted(name string) string {
	short := Name(name)
	if name != "" && short == name && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		return name
	}
	return strconv.Quote(short)
}

// Name cuts a name to 128 bytes.
func Name(name string) string {
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return name
}

// Value returns a JSON value as a text of one line, cut to Most bytes.
func Value(value []byte) string {
	return Line(string(value[:min(len(value), Most+1)]), Most)
}

// Line returns a text as one line. It cuts the text to limit bytes, and replaces what would break
// the line by blanks.
func Line(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}

// Wrap breaks a text into lines of at most width characters. A word that is longer has a line of
// its own. There is always a line; it is empty for a text without words.
func Wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	return append(lines, line)
}
