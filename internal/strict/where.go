package strict

import (
	"iter"
	"maps"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Where is the place of an object of a file, and of each of its values.
type Where struct {
	at   Pos
	keys map[string]Mark
}

// Pos returns where the object begins.
func (w Where) Pos() Pos { return w.at }

// At returns where the value of a key begins, or an item of a list: "host", "dataSources[0]". It is
// the object's own place if the file does not have the key.
func (w Where) At(key string) Pos {
	if m, ok := w.keys[key]; ok {
		return m.Pos()
	}
	return w.at
}

// Has says whether the file has the key.
func (w Where) Has(key string) bool {
	_, ok := w.keys[key]
	return ok
}

// Place returns where a character of a text value stands in the file. line and column count from 1
// within the text, a column in characters. It knows all styles of YAML and JSON: blocks behind |
// and >, quotes with escapes, folded lines. For white space between two lines that YAML joins it is
// the end of the word before.
func (w Where) Place(key string, line, column int) Pos {
	if m, ok := w.keys[key]; ok {
		return m.Place(line, column)
	}
	return w.at
}

func (w *Where) set(key string, m Mark) {
	if w.keys == nil {
		w.keys = map[string]Mark{}
	}
	w.keys[key] = m
}

// Mark returns the mark of a key's value; ok is false if the file does not have the key.
func (w Where) Mark(key string) (m Mark, ok bool) {
	m, ok = w.keys[key]
	return m, ok
}

// Keys returns the keys that the file has, items of lists among them, in no order.
func (w Where) Keys() iter.Seq[string] { return maps.Keys(w.keys) }

// Begin returns the place of an object that begins at p, and has no keys.
func Begin(p Pos) Where { return Where{at: p} }

// Source is the text of one file.
type Source struct {
	File  string
	text  string
	lines []int // where each line begins
}

// NewSource returns the source of a text, which is valid UTF-8. file is its name in faults.
func NewSource(file, text string) *Source {
	s := &Source{File: file, text: text, lines: []int{0}}
	for i := 0; i < len(text); i++ {
		if text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// offset returns where a line and column are in the text.
func (s *Source) offset(line, column int) int {
	if line < 1 || line > len(s.lines) {
		return len(s.text)
	}
	i := s.lines[line-1]
	for ; column > 1 && i < len(s.text) && s.text[i] != '\n'; column-- {
		_, n := utf8.DecodeRuneInString(s.text[i:])
		i += n
	}
	return i
}

// pos is the opposite of offset.
func (s *Source) pos(offset int) Pos {
	lo, hi := 0, len(s.lines) // the last line that begins at or before offset
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; s.lines[mid] <= offset {
			lo = mid
		} else {
			hi = mid
		}
	}
	return Pos{s.File, lo + 1, 1 + utf8.RuneCountInString(s.text[s.lines[lo]:min(offset, len(s.text))])}
}

// Mark is one value of a file. The zero value is nowhere.
type Mark struct {
	src          *Source
	line, column int
	style        yaml.Style
	value        string // of a scalar
}

// Pos returns where the value begins.
func (m Mark) Pos() Pos {
	if m.src == nil {
		return Pos{Line: 1, Column: 1}
	}
	return Pos{m.src.File, m.line, m.column}
}

// Place finds a character of the value in the file.
func (m Mark) Place(line, column int) Pos {
	i, rest := 0, m.value
	for ; line > 1; line-- {
		n := strings.IndexByte(rest, '\n')
		if n < 0 {
			break
		}
		i, rest = i+n+1, rest[n+1:]
	}
	for ; column > 1 && rest != "" && rest[0] != '\n'; column-- {
		_, n := utf8.DecodeRuneInString(rest)
		i, rest = i+n, rest[n:]
	}
	return m.Offset(i)
}

// Offset finds a byte of the value in the file. All styles keep the characters that are no white
// space, in their order, so these are counted: in the value up to i, then in the file.
func (m Mark) Offset(i int) Pos {
	if m.src == nil {
		return m.Pos()
	}
	i = min(max(i, 0), len(m.value))
	s := m.src.text
	at, style := m.src.offset(m.line, m.column), m.style&^yaml.FlowStyle
	end := at
	switch {
	case style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		n := strings.IndexByte(s[at:], '\n') // behind | and what follows it
		if n < 0 {
			return m.Pos()
		}
		at += n + 1
		end = at
	case style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		at = min(at+1, len(s))
		end = at
	}
	seen := strings.Count(m.value[:i], "") - 1
	for _, r := range m.value[:i] {
		if isBlank(r) {
			seen--
		}
	}
	exact := i < len(m.value) && !isBlank(rune(m.value[i]))
	blanks := 0 // before i, of the same line: a literal block keeps them
	for j := i; j > 0 && (m.value[j-1] == ' ' || m.value[j-1] == '\t'); j-- {
		blanks++
	}
	for at < len(s) {
		r, n := unit(s[at:], style)
		switch {
		case n == 0:
			return m.src.pos(end)
		case isBlank(r):
		case seen == 0 && exact:
			return m.src.pos(at)
		case seen == 0:
			return m.src.pos(min(end+blanks, at))
		default:
			seen--
			end = at + n
		}
		at += n
	}
	return m.src.pos(min(end+blanks, len(s)))
}

func isBlank(r rune) bool { return r == ' ' || r == '\n' || r == '\t' || r == '\r' }

// unit returns the first character that a scalar's text means, and its bytes in the file. n is 0 at
// the end of a quoted scalar.
func unit(s string, style yaml.Style) (r rune, n int) {
	switch {
	case style&yaml.DoubleQuotedStyle != 0 && s[0] == '"':
		return 0, 0
	case style&yaml.SingleQuotedStyle != 0 && s[0] == '\'':
		if strings.HasPrefix(s, "''") {
			return '\'', 2
		}
		return 0, 0
	case style&yaml.DoubleQuotedStyle != 0 && s[0] == '\\' && len(s) > 1:
		switch s[1] {
		case 'n', 't', 'r', ' ', '\t', '\n', '\r':
			return ' ', 2
		case 'x':
			return hexUnit(s, 4)
		case 'u':
			if r, n = hexUnit(s, 6); r >= 0xd800 && r < 0xdc00 && strings.HasPrefix(s[min(n, len(s)):], `\u`) {
				return r, min(12, len(s)) // a surrogate pair of JSON
			}
			return r, n
		case 'U':
			return hexUnit(s, 10)
		}
		_, n := utf8.DecodeRuneInString(s[1:])
		return '\\', 1 + n
	}
	return utf8.DecodeRuneInString(s)
}

// hexUnit reads an escape of n bytes: white space, if it is that, else any other character.
func hexUnit(s string, n int) (rune, int) {
	var r rune
	for _, c := range []byte(s[2:min(n, len(s))]) {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r |= rune(c|0x20-'a') + 10
		}
	}
	return r, min(n, len(s))
}
