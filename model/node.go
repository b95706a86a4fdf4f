package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a model file. DTDL needs about 15 levels. Without a bound a
// hostile file could exhaust the stack.
const maxDepth = 64

// maxValues bounds the values of a model file, each of which takes about 200 bytes while it is
// read. The largest published model has 3,000.
const maxValues = 250_000

// ParseError is the one fault that makes a model file unusable. It says where the fault is, in
// which element, and what was expected there.
type ParseError struct {
	Line, Column int    // both from 1, the column counted in bytes
	Path         string // from the top of the file, "[0].contents[2].schema"; empty for the file as a whole
	Element      string // the nearest named element, `Property "fanSpeed"`; empty outside of any
	Text         string // what is wrong and what is expected
}

// Error is one line: position, path, element, fault.
func (e *ParseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "line %d, column %d: ", e.Line, e.Column)
	if e.Path != "" {
		b.WriteString(e.Path)
		if e.Element != "" {
			fmt.Fprintf(&b, " (%s)", e.Element)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Text)
	return b.String()
}

// plainKey is what can stand in a path without quotes.
var plainKey = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[@$A-Za-z_][A-Za-z0-9_-]{0,63}$`) })

// node is one JSON value. It remembers where it stands, so that a fault that is found long after
// reading can name its place.
type node struct {
	kind   byte // one of { [ " 0 t n: what the value begins with, numbers as 0, booleans as t
	at     int  // offset of its first byte
	up     *node
	key    string // its name in an object above
	index  int    // its place in an array above
	text   string // the string, or the number as written
	truth  bool
	keys   []string // members in file order
	fields map[string]*node
	list   []*node
}

// what is the name of the value's type, for a sentence.
func (n *node) what() string { return kindName(n.kind) }

// types is the value of "@type" as a list of short names; a single name and a list of names mean
// the same, and so do "Property" and its full name "dtmi:dtdl:class:Property;2".
func (n *node) types() []string {
	t := n.fields["@type"]
	if t == nil {
		return nil
	}
	if t.kind == '"' {
		return []string{shortName(t.text, "dtmi:dtdl:class:")}
	}
	var names []string
	for _, e := range t.list {
		if e.kind == '"' {
			names = append(names, shortName(e.text, "dtmi:dtdl:class:"))
		}
	}
	return names
}

// shortName is the word of the language that a full name with one of these prefixes stands for,
// "schema" for "dtmi:dtdl:property:schema;2". Any other text is returned as it is.
func shortName(name string, prefixes ...string) string {
	for _, prefix := range prefixes {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if word, version, _ := strings.Cut(rest, ";"); version == "2" || version == "3" {
				return word
			}
		}
	}
	return name
}

// single returns the value of a member that takes one value. A list of one element means that
// element, and an object with "@value" means that value. An empty list means that there is no
// value: single returns nil. It returns a longer list as it is, for the caller to refuse.
func (n *node) single() *node {
	for n != nil {
		switch {
		case n.kind == '[' && len(n.list) == 0:
			return nil
		case n.kind == '[' && len(n.list) == 1:
			n = n.list[0]
		case n.isValue():
			n = n.fields["@value"]
		default:
			return n
		}
	}
	return nil
}

// isValue says whether n is an object that only wraps a literal: "@value", perhaps with "@type" or
// "@language".
func (n *node) isValue() bool {
	if n.kind != '{' || n.fields["@value"] == nil {
		return false
	}
	return !slices.ContainsFunc(n.keys, func(key string) bool { return !strings.HasPrefix(key, "@") })
}

// elements returns the elements of a list, or n itself when it is not a list; nothing when n is
// nil.
func (n *node) elements() []*node {
	switch {
	case n == nil:
		return nil
	case n.kind == '[':
		return n.list
	default:
		return []*node{n}
	}
}

// version returns the version of the language at n, 2 or 3. The nearest "@context" at or above n
// that names a version decides; 0 means that none does.
func (n *node) version() int {
	for ; n != nil; n = n.up {
		for _, e := range slices.Backward(n.fields["@context"].elements()) {
			switch e.text {
			case contextV2:
				return 2
			case contextV3:
				return 3
			}
		}
	}
	return 0
}

// The contexts that name a version of the language.
const (
	contextV2 = "dtmi:dtdl:context;2"
	contextV3 = "dtmi:dtdl:context;3"
)

// member returns the single value of the member with this short name; nil when there is none.
func (n *node) member(name string) *node { return n.fields[name].single() }

// path returns the place of the value, from the top of the file.
func (n *node) path() string {
	switch {
	case n.up == nil:
		return ""
	case n.up.kind == '[':
		return fmt.Sprintf("%s[%d]", n.up.path(), n.index)
	case !plainKey().MatchString(n.key): // a key can hold anything, a line feed too
		return fmt.Sprintf("%s[%s]", n.up.path(), quote(n.key))
	case n.up.up == nil:
		return n.key
	default:
		return n.up.path() + "." + n.key
	}
}

// element names the nearest element around n that a person would look for in the file.
func (n *node) element() string {
	for ; n != nil; n = n.up {
		if n.kind != '{' {
			continue
		}
		label := "element"
		if t := n.types(); len(t) > 0 {
			if label = t[0]; !plainKey().MatchString(label) {
				label = quote(label)
			}
		}
		if name := n.fields["name"]; name != nil && name.kind == '"' && name.text != "" {
			return label + " " + quote(name.text)
		}
		if id := n.fields["@id"]; id != nil && id.kind == '"' && id.text != "" {
			return label + " " + quote(id.text)
		}
	}
	return ""
}

// reader turns the bytes of a file into nodes.
type reader struct {
	data   []byte
	dec    *json.Decoder
	values int // read so far
}

// fault returns an error about node n, or about the whole file if n is nil.
func (r *reader) fault(n *node, format string, args ...any) *ParseError {
	if n == nil {
		return r.faultAt(0, format, args...)
	}
	err := r.faultAt(n.at, format, args...)
	err.Path, err.Element = n.path(), n.element()
	if err.Path == "" {
		err.Path = "the file"
	}
	return err
}

func (r *reader) faultAt(at int, format string, args ...any) *ParseError {
	before := r.data[:min(max(at, 0), len(r.data))]
	return &ParseError{
		Line:   1 + bytes.Count(before, []byte{'\n'}),
		Column: len(before) - bytes.LastIndexByte(before, '\n'),
		Text:   fmt.Sprintf(format, args...),
	}
}

// readTree reads a whole file into nodes. It refuses a file that is not one JSON text in UTF-8,
// with the position of the fault.
func readTree(data []byte) (*reader, *node, error) {
	r := &reader{data: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))} // editors on Windows begin a file with a mark
	if len(bytes.TrimSpace(r.data)) == 0 {
		return nil, nil, r.faultAt(0, "the file is empty; expected a DTDL Interface or an array of them")
	}
	if b := r.data; len(b) > 1 && (b[0] == 0xff && b[1] == 0xfe || b[0] == 0xfe && b[1] == 0xff || b[0] == 0 || b[1] == 0) {
		return nil, nil, r.faultAt(0, "the file is UTF-16; save it as UTF-8")
	}
	if !utf8.Valid(r.data) {
		at := 0
		for at < len(r.data) {
			c, n := utf8.DecodeRune(r.data[at:])
			if c == utf8.RuneError && n <= 1 {
				break
			}
			at += n
		}
		return nil, nil, r.faultAt(at, "not UTF-8 text")
	}
	var raw json.RawMessage
	if err := json.Unmarshal(r.data, &raw); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, nil, r.faultAt(int(syntax.Offset)-1, "not valid JSON: %v", err)
		}
		return nil, nil, r.faultAt(0, "not valid JSON: %v", err)
	}
	r.dec = json.NewDecoder(bytes.NewReader(r.data))
	r.dec.UseNumber()
	root, err := r.value(&node{}, 0)
	if err != nil {
		return nil, nil, err
	}
	return r, root, nil
}

// here is where the next token begins.
func (r *reader) here() int {
	at := int(r.dec.InputOffset())
	for at < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[at]) >= 0 {
		at++
	}
	return at
}

// value reads the next JSON value. The text is known to be valid JSON, so only rules beyond the
// grammar can be broken.
func (r *reader) value(n *node, depth int) (*node, error) {
	n.at = r.here()
	if depth > maxDepth {
		return nil, r.fault(n, "nested deeper than %d levels", maxDepth)
	}
	if r.values++; r.values > maxValues {
		return nil, r.fault(n, "a model file has at most %d values", maxValues)
	}
	tok, err := r.dec.Token()
	if err != nil {
		return nil, r.fault(n, "not valid JSON: %v", err)
	}
	switch t := tok.(type) {
	case nil:
		n.kind = 'n'
	case bool:
		n.kind, n.truth = 't', t
	case string:
		n.kind, n.text = '"', t
	case json.Number:
		n.kind, n.text = '0', t.String()
	case json.Delim:
		n.kind = byte(t)
		if t == '{' {
			err = r.members(n, depth)
		} else {
			err = r.elements(n, depth)
		}
	}
	return n, err
}

func (r *reader) members(n *node, depth int) error {
	n.fields = map[string]*node{}
	for r.dec.More() {
		at := r.here()
		tok, err := r.dec.Token()
		if err != nil {
			return r.fault(n, "not valid JSON: %v", err)
		}
		key, _ := tok.(string)
		if n.fields[key] != nil { // JSON readers disagree about which of the two counts
			return r.fault(&node{at: at, up: n, key: key}, "%s appears twice in the same object", quote(key))
		}
		v, err := r.value(&node{up: n, key: key}, depth+1)
		if err != nil {
			return err
		}
		n.keys = append(n.keys, key)
		n.fields[key] = v
	}
	for _, key := range n.keys {
		short := shortName(key, "dtmi:dtdl:property:")
		if n.fields[short] == nil { // a member with a full name is found under its short one too
			n.fields[short] = n.fields[key]
		}
	}
	_, err := r.dec.Token()
	return err
}

func (r *reader) elements(n *node, depth int) error {
	for i := 0; r.dec.More(); i++ {
		v, err := r.value(&node{up: n, index: i}, depth+1)
		if err != nil {
			return err
		}
		n.list = append(n.list, v)
	}
	_, err := r.dec.Token()
	return err
}

// kindName names a JSON type for a sentence.
func kindName(kind byte) string {
	switch kind {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// quote shows a piece of somebody else's text on one line, cut to a readable length.
func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

// printable quotes a text if it holds more than printable characters, because escapes in the text
// of a model file could command a reader's terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return quote(s)
	}
	return s
}

func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
