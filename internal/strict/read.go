package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read. They are far above what Kubernetes stores.
const (
	// MaxFileBytes and MaxDepth bound a file, and how deep its values are nested.
	MaxFileBytes = 2 << 20 // of a file
	MaxDepth     = 64      // of nested values
	maxDocuments = 1000    // of a file
	maxValues    = 100_000 // of a document, aliases counted each time
)

// Checked returns the source of a text, or notes why it cannot be read.
func Checked(f *Faults, file string, text []byte) *Source {
	at := Pos{file, 1, 1}
	switch {
	case len(text) > MaxFileBytes:
		f.Error(at, "file-too-large", "the file has more than %d bytes; split it", MaxFileBytes)
		return nil
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		f.Error(at, "file-not-utf8", "the file is UTF-16 text; save it as UTF-8")
		return nil
	case !utf8.Valid(text):
		good := 0
		for rest := text; len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			if r == utf8.RuneError && n == 1 {
				break
			}
			good, rest = good+n, rest[n:]
		}
		f.Error(NewSource(file, string(text[:good])).pos(good), "file-not-utf8", "from here on the file is not UTF-8 text; save it as UTF-8")
		return nil
	}
	return NewSource(file, strings.TrimPrefix(string(text), "\ufeff"))
}

// Document is one document of a file: a tree without aliases, with lines of the file.
type Document struct {
	Src  *Source
	Root *yaml.Node
}

// boundary matches the lines between YAML documents.
var boundary = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^(?:---|\.\.\.)(?:[ \t\r].*)?$`) })

// blank matches a document that holds nothing.
var blank = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:---|\.\.\.)?\s*$`) })

// Documents reads all documents of a file. whole is false if one of them could not be read.
func Documents(f *Faults, src *Source) (all []Document, whole bool) {
	whole = true
	from := 0
	documents := 0
	read := func(to int) {
		chunk := src.text[from:to]
		if blank().MatchString(chunk) {
			return
		}
		if documents++; documents > maxDocuments {
			if whole = false; documents == maxDocuments+1 {
				f.Error(src.pos(from), "too-many-documents", "the file has more than %d documents; split it", maxDocuments)
			}
			return
		}
		root, ok := yamlDocument(f, src, chunk, src.pos(from).Line-1)
		if root != nil {
			all = append(all, Document{src, root})
		}
		whole = whole && ok
	}
	for _, m := range boundary().FindAllStringIndex(src.text, -1) {
		if onlyDirectives(src.text[from:m[0]]) {
			continue
		}
		read(m[0])
		from = m[0]
		if strings.HasPrefix(src.text[from:], "...") {
			from = m[1]
		}
	}
	read(len(src.text))
	return all, whole
}

// onlyDirectives says whether a text has directives of YAML, and no document yet.
func onlyDirectives(text string) bool {
	found := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "%"):
			found = true
		case strings.TrimSpace(line) != "" && line[0] != '#':
			return false
		}
	}
	return found
}

// yamlWhere matches the line in an error of the YAML library.
var yamlWhere = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: (?:line (\d+): )?`) })

// SyntaxError says why a text is no YAML. Line counts from 1.
type SyntaxError struct {
	Line int
	Text string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// Trees reads at most so many YAML documents of a text as they are written: aliases stay aliases.
// Documents of comments alone are passed over. The error is a [*SyntaxError].
func Trees(text string, most int) (all []*yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil { // the library's, for texts that it does not expect
			all, err = nil, &SyntaxError{1, fmt.Sprint(p)}
		}
	}()
	documents := yaml.NewDecoder(strings.NewReader(text))
	for range most {
		var n yaml.Node
		switch err := documents.Decode(&n); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			e := &SyntaxError{1, yamlWhere().ReplaceAllString(err.Error(), "")}
			if m := yamlWhere().FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
				e.Line, _ = strconv.Atoi(m[1])
			}
			if strings.Contains(e.Text, "cannot start any token") {
				e.Text += "; YAML takes blanks for indentation, and no tabs"
			}
			return all, e
		case n.Kind == yaml.DocumentNode && len(n.Content) == 1:
			all = append(all, n.Content[0])
		}
	}
	return all, nil
}

func yamlDocument(f *Faults, src *Source, chunk string, before int) (root *yaml.Node, ok bool) {
	trees, err := Trees(chunk, 1)
	if syntax, bad := errors.AsType[*SyntaxError](err); bad {
		f.Error(Pos{src.File, before + syntax.Line, 1}, "yaml-syntax", "this is no YAML: %.300s; compare quotes, brackets and indentation up to this line", syntax.Text)
		return nil, false
	}
	if len(trees) == 0 {
		return nil, true // comments alone
	}
	e := &expander{Faults: f, src: src, before: before}
	root = e.expand(trees[0], 0)
	return root, root != nil
}

// expander copies a tree with its aliases resolved and its merge keys merged, within bounds.
type expander struct {
	*Faults
	src    *Source
	before int // lines before the document
	values int
	failed bool
}

func (e *expander) fail(n *yaml.Node, rule, format string, a ...any) *yaml.Node {
	if !e.failed {
		e.failed = true
		e.Error(Pos{e.src.File, n.Line + e.before, max(n.Column, 1)}, rule, format, a...)
	}
	return nil
}

func (e *expander) expand(n *yaml.Node, depth int) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return e.expand(n.Alias, depth+1)
	}
	e.values++
	switch {
	case depth > MaxDepth:
		return e.fail(n, "too-deep", "values are nested more than %d levels deep here; an alias (*) within its own anchor (&) does that too", MaxDepth)
	case e.values > maxValues:
		return e.fail(n, "too-many-values", "the document has more than %d values when its aliases (*) are resolved; split it", maxValues)
	case n.Kind == yaml.ScalarNode && n.Style&yaml.TaggedStyle != 0 && !strings.HasPrefix(n.Tag, "!!"):
		return e.fail(n, "yaml-tag", "the tag %s has no meaning here; write the value alone, in quotes if it begins with !", Quoted(n.Tag))
	}
	c := &yaml.Node{Kind: n.Kind, Style: n.Style, Tag: n.Tag, Value: n.Value, Line: n.Line + e.before, Column: n.Column}
	var merged []*yaml.Node
	for i := 0; i < len(n.Content); i++ {
		if n.Kind == yaml.MappingNode && i%2 == 0 && n.Content[i].Tag == "!!merge" && i+1 < len(n.Content) {
			from := e.expand(n.Content[i+1], depth+1)
			if from == nil {
				return nil
			}
			list := []*yaml.Node{from}
			if from.Kind == yaml.SequenceNode {
				list = from.Content
			}
			for _, m := range list {
				if m.Kind != yaml.MappingNode {
					return e.fail(n.Content[i], "yaml-merge", "<< merges objects, and this is none; write the keys out")
				}
				merged = append(merged, m.Content...)
			}
			i++
			continue
		}
		child := e.expand(n.Content[i], depth+1)
		if child == nil {
			return nil
		}
		c.Content = append(c.Content, child)
	}
	if len(merged) > 0 {
		has := map[string]bool{}
		for i := 0; i < len(c.Content); i += 2 {
			has[c.Content[i].Value] = true
		}
		for i := 0; i+1 < len(merged); i += 2 {
			if key := merged[i].Value; !has[key] {
				has[key] = true
				c.Content = append(c.Content, merged[i], merged[i+1])
			}
		}
	}
	return c
}

// JSON reads a file of JSON into the same form.
func JSON(f *Faults, src *Source) *yaml.Node {
	r := &jsonReader{Faults: f, src: src, dec: json.NewDecoder(strings.NewReader(src.text)), line: 1, column: 1}
	r.dec.UseNumber()
	root := r.value(0)
	if root == nil {
		return nil
	}
	if rest := strings.TrimLeft(src.text[r.dec.InputOffset():], " \t\r\n"); rest != "" {
		f.Error(src.pos(len(src.text)-len(rest)), "json-syntax", "this is no JSON: something follows the value; remove it")
		return nil
	}
	return root
}

type jsonReader struct {
	*Faults
	src    *Source
	dec    *json.Decoder
	values int
	last   int // an offset, and where it is
	line   int
	column int
}

// pos is as that of the source, for offsets that grow: a file may be one long line.
func (r *jsonReader) pos(offset int) Pos {
	between := r.src.text[r.last:max(offset, r.last)]
	if n := strings.Count(between, "\n"); n > 0 {
		r.line, r.column = r.line+n, 1
		between = between[strings.LastIndexByte(between, '\n')+1:]
	}
	r.column += utf8.RuneCountInString(between)
	r.last = max(offset, r.last)
	return Pos{r.src.File, r.line, r.column}
}

// token reads the next token, and returns where it begins.
func (r *jsonReader) token() (json.Token, int, bool) {
	from := int(r.dec.InputOffset())
	t, err := r.dec.Token()
	if err != nil {
		at := from
		var syntax *json.SyntaxError
		text := err.Error()
		switch {
		case errors.As(err, &syntax):
			at = SyntaxAt(r.src.text, syntax)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			at, text = len(r.src.text), "it ends too early"
		}
		r.Error(r.src.pos(at), "json-syntax", "this is no JSON: %.200s; compare brackets, quotes and commas before this place", text)
		return nil, 0, false
	}
	for from < len(r.src.text) && strings.IndexByte(" \t\r\n,:", r.src.text[from]) >= 0 {
		from++
	}
	return t, from, true
}

// SyntaxAt returns the offset of the character that an error of encoding/json is about. The library
// counts it in for some errors, and not for others.
func SyntaxAt(text string, err *json.SyntaxError) int {
	at := min(max(int(err.Offset), 0), len(text))
	_, quoted, _ := strings.Cut(err.Error(), "invalid character ")
	if quoted, e := strconv.QuotedPrefix(quoted); e == nil && at < len(text) {
		if c, e := strconv.Unquote(quoted); e == nil && strings.HasPrefix(text[at:], c) {
			return at
		}
	}
	return max(at-1, 0)
}

func (r *jsonReader) value(depth int) *yaml.Node {
	t, from, ok := r.token()
	if !ok {
		return nil
	}
	return r.node(t, from, depth)
}

func (r *jsonReader) node(t json.Token, from, depth int) *yaml.Node {
	at := r.pos(from)
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: at.Line, Column: at.Column}
	r.values++
	switch {
	case depth > MaxDepth:
		r.Error(at, "too-deep", "values are nested more than %d levels deep here", MaxDepth)
		return nil
	case r.values > maxValues:
		r.Error(at, "too-many-values", "the file has more than %d values; split it", maxValues)
		return nil
	}
	switch t := t.(type) {
	case string:
		n.Tag, n.Value, n.Style = "!!str", t, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(t)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for r.dec.More() {
			child := r.value(depth + 1)
			if child == nil {
				return nil
			}
			n.Content = append(n.Content, child)
		}
		if _, _, ok := r.token(); !ok {
			return nil
		}
	}
	return n
}
