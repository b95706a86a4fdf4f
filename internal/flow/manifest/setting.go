package manifest

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// Offset returns where a byte of the setting's value stands in the file. It works for settings in
// JSON and for those that a Dataflow became.
func (s *Setting) Offset(n int) Pos {
	if m, ok := s.Mark("value"); ok && s.parts == nil {
		return m.Offset(n)
	}
	for path, p := range s.parts {
		if p.text == (strict.Mark{}) {
			continue
		}
		start := jsonPlace(s.Value, path, 1)
		if start > n || start == 0 || s.Value[start-1] != '"' {
			continue
		}
		at, column := start, 1
		for ; at < n && at < len(s.Value) && s.Value[at] != '"'; column++ {
			at += jsonUnit(s.Value[at:])
		}
		if at >= n {
			return p.text.Place(1, column)
		}
	}
	return s.Pos()
}

// PlaceValue returns where a character of the setting's value stands in the file. line and column
// count from 1 within the value, a column in characters.
func (s *Setting) PlaceValue(line, column int) Pos {
	if s.parts != nil {
		return s.Pos()
	}
	return s.Place("value", line, column)
}

// Inside returns where something of a native operator's rules stands in the file: path is like
// "map[0].expression" or "filter[2].inputs[1]", and column counts the characters of that text from
// 1; 0 is the value itself. Where the rules do not have the path, it is the last value on the way.
// It works for settings in JSON and for those that a Dataflow became.
func (s *Setting) Inside(path string, column int) Pos {
	if s.parts == nil {
		return s.Offset(jsonPlace(s.Value, path, column))
	}
	for p := path; p != ""; p = p[:max(strings.LastIndexAny(p, ".["), 0)] {
		part, ok := s.parts[p]
		switch {
		case !ok:
		case p == path && column > 0 && part.text != (strict.Mark{}):
			return part.text.Place(1, column)
		default:
			return part.at
		}
	}
	return s.Pos()
}

// jsonPlace returns the offset of a character of a text in JSON, by its path.
func jsonPlace(text, path string, column int) int {
	w := jsonWalker{text: text}
	return w.find(path, column)
}

// jsonWalker finds a value without reading the others. It takes what is no JSON for what it can.
type jsonWalker struct {
	text string
	at   int
}

func (w *jsonWalker) blanks() {
	for w.at < len(w.text) && strings.IndexByte(" \t\r\n", w.text[w.at]) >= 0 {
		w.at++
	}
}

func (w *jsonWalker) take(c byte) bool {
	w.blanks()
	if w.at < len(w.text) && w.text[w.at] == c {
		w.at++
		return true
	}
	return false
}

func (w *jsonWalker) find(path string, column int) int {
	w.blanks()
	best := w.at
	for path != "" {
		key, index, rest := pathStep(path)
		if !w.enter(key, index) {
			return best
		}
		w.blanks()
		best, path = w.at, rest
	}
	if column < 1 || w.at >= len(w.text) || w.text[w.at] != '"' {
		return best
	}
	w.at++
	for ; column > 1 && w.at < len(w.text) && w.text[w.at] != '"'; column-- {
		w.at += jsonUnit(w.text[w.at:])
	}
	return w.at
}

// pathStep splits the first step off a path: a key, or an index.
func pathStep(path string) (key string, index int, rest string) {
	if path[0] == '[' {
		number, rest, _ := strings.Cut(path[1:], "]")
		index, err := strconv.Atoi(number)
		if err != nil {
			index = -1
		}
		return "", index, strings.TrimPrefix(rest, ".")
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, 0, ""
	}
	return path[:end], 0, strings.TrimPrefix(path[end:], ".")
}

// enter goes to a value of an object or array.
func (w *jsonWalker) enter(key string, index int) bool {
	switch {
	case key != "" && w.take('{'):
		for !w.take('}') {
			w.blanks()
			from := w.at
			if w.at >= len(w.text) || w.text[w.at] != '"' {
				return false
			}
			w.skip()
			name, err := strconv.Unquote(w.text[from:w.at])
			if err != nil {
				name = strings.Trim(w.text[from:w.at], `"`)
			}
			if !w.take(':') {
				return false
			}
			if strings.EqualFold(name, key) {
				return true
			}
			w.skip()
			w.take(',')
		}
	case key == "" && w.take('['):
		for i := 0; !w.take(']'); i++ {
			w.blanks()
			if w.at >= len(w.text) {
				return false
			}
			if i == index {
				return true
			}
			from := w.at
			w.skip()
			w.take(',')
			if w.at == from {
				return false
			}
		}
	}
	return false
}

// skip goes behind the next value.
func (w *jsonWalker) skip() {
	w.blanks()
	for depth := 0; w.at < len(w.text); {
		switch c := w.text[w.at]; c {
		case '"':
			for w.at++; w.at < len(w.text) && w.text[w.at] != '"'; {
				w.at += jsonUnit(w.text[w.at:])
			}
			w.at = min(w.at+1, len(w.text))
		case '{', '[':
			depth++
			w.at++
			continue
		case '}', ']':
			if depth == 0 {
				return
			}
			depth--
			w.at++
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return
			}
			w.at++
			continue
		default:
			for w.at < len(w.text) && strings.IndexByte(",:]} \t\r\n\"", w.text[w.at]) < 0 {
				w.at++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// jsonUnit returns the bytes of the first character of a text in JSON.
func jsonUnit(s string) int {
	if s[0] != '\\' {
		_, n := utf8.DecodeRuneInString(s)
		return n
	}
	switch {
	case len(s) < 2 || s[1] != 'u':
		return min(2, len(s))
	case len(s) >= 12 && (s[2]|0x20) == 'd' && strings.IndexByte("89abAB", s[3]) >= 0 && s[6:8] == `\u`:
		return 12
	}
	return min(6, len(s))
}
