package configfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"go.yaml.in/yaml/v3"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

// yamlWhere matches the line number in an error of the YAML library.
var yamlWhere = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: (?:line (\d+): )?`) })

func (d *Decoder) yaml(text []byte) {
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	for _, separator := range []string{"\u0085", "\u2028", "\u2029"} { // they end a line in YAML, but in no editor
		if at := bytes.Index(text, []byte(separator)); at >= 0 {
			d.fault(lineOf(text, at), "there is a line separator %+q here that no editor shows; take it out", separator)
			return
		}
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var document, another yaml.Node
	switch err := documents.Decode(&document); {
	case errors.Is(err, io.EOF):
		return // nothing but comments
	case err != nil:
		d.noYAML(text, err)
		return
	}
	switch err := documents.Decode(&another); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.noYAML(text, err)
		return
	default:
		d.fault(another.Line, "a second document begins here; only one is read, put everything in it")
		return
	}
	lines := strings.Split(string(text), "\n")
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" && root.Value == "" && root.Anchor == "" {
		return // "---" and nothing else
	}
	if root.Kind != yaml.MappingNode || d.yamlExtras(root, "the file") {
		d.fault(root.Line, "this is not a list of keys and values, such as device-id: dev-1")
		return
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!merge":
			d.fault(key.Line, "a key is one word, such as device-id; anchors, aliases and merged keys are not read")
		case d.yamlExtras(key, key.Value) || d.yamlExtras(value, key.Value):
		case value.Kind != yaml.ScalarNode:
			d.notFlat(value.Line, key.Value)
		case value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
			d.fault(value.Line, "the value of %s goes over several lines; write it in one line", secret.KeyName(key.Value))
		case value.Style == 0 && value.Tag == "!!null":
			d.noValue(value.Line, key.Value, value.Value)
		case value.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 && !closedInLine(lines, value):
			d.fault(value.Line, "the value of %s goes over several lines; write it in one line", secret.KeyName(key.Value))
		case value.Style == 0 && !standsThere(lines, value):
			d.fault(value.Line, "the value of %s goes over several lines; put it in quotes, in one line", secret.KeyName(key.Value))
		default:
			d.put(key.Value, value.Value, value.Line)
		}
	}
}

// yamlExtras refuses anchors, aliases and tags, with which a value is not its text. It says whether
// there is one.
func (d *Decoder) yamlExtras(n *yaml.Node, key string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n.Line, "anchors and aliases (& and *) are not read; write the value of %s itself, in quotes if it begins so", secret.KeyName(key))
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n.Line, "tags (!) are not read; write the value of %s alone, in quotes if it begins so", secret.KeyName(key))
	default:
		return false
	}
	return true
}

// standsThere says whether a scalar without quotes is exactly the text of its line.
func standsThere(lines []string, n *yaml.Node) bool {
	if n.Line < 1 || n.Line > len(lines) {
		return false
	}
	line := []rune(lines[n.Line-1])
	return n.Column >= 1 && n.Column <= len(line) && strings.HasPrefix(string(line[n.Column-1:]), n.Value)
}

// quotedInLine matches a scalar in quotes at the start of a text, up to its closing quote.
var quotedInLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:'(?:[^']|'')*'(?:[^']|$)|"(?:[^"\\]|\\.)*")`) })

// closedInLine says whether a scalar in quotes ends on its first line. If it does not, YAML turns
// each line end into a blank, so the value is not the text of the file.
func closedInLine(lines []string, n *yaml.Node) bool {
	if n.Line < 1 || n.Line > len(lines) {
		return false
	}
	line := []rune(lines[n.Line-1])
	return n.Column >= 1 && n.Column <= len(line) && quotedInLine().MatchString(string(line[n.Column-1:]))
}

// noYAML says why a file is not YAML. It keeps the library's text, except about anchors: there the
// library quotes the anchor's name, which may be a part of a secret.
func (d *Decoder) noYAML(text []byte, err error) {
	where := yamlWhere().FindStringSubmatch(err.Error())
	line, why := 1, err.Error() // the library leaves line 1 out
	if where != nil {
		line = max(atoi(where[1]), line)
		why = strings.TrimPrefix(why, where[0])
	}
	if name, found := strings.CutPrefix(why, "unknown anchor '"); found {
		name, _, _ = strings.Cut(name, "'")
		line = lineOf(text, bytes.Index(text, []byte("*"+name)))
	}
	if strings.Contains(why, "anchor") || strings.Contains(why, "alphabetic or numeric") {
		why = "anchors and aliases (& and *) are not read; put a value that begins so in quotes"
	}
	d.fault(line, "this is no YAML: %s", why)
}

// atoi is a decimal number, or 0.
func atoi(digits string) int {
	n, _ := strconv.Atoi(digits)
	return n
}

func (d *Decoder) json(text []byte) {
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	line := func() int { return lineOf(text, int(in.InputOffset())) }
	start, err := in.Token()
	switch {
	case errors.Is(err, io.EOF):
		return // an empty file
	case err != nil:
		d.fault(line(), "this is no JSON: %v", err)
		return
	case start != json.Delim('{'):
		d.fault(line(), "this is not a JSON object of keys and values, such as {\"device-id\": \"dev-1\"}")
		return
	}
	for in.More() {
		token, err := in.Token()
		if err != nil {
			d.fault(line(), "this is no JSON: %v", err)
			return
		}
		key, _ := token.(string) // a key of a JSON object is always a string
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			d.fault(line(), "this is no JSON: %v", err)
			return
		}
		d.jsonValue(key, value, line())
	}
	if _, err := in.Token(); err != nil {
		d.fault(line(), "this is no JSON: the object does not end")
		return
	}
	end := int(in.InputOffset())
	if rest := bytes.TrimSpace(text[end:]); len(rest) > 0 {
		d.fault(lineOf(text, len(text)-len(bytes.TrimLeft(text[end:], " \t\r\n"))),
			"something stands behind the end of the object; one object is the whole file")
	}
}

func (d *Decoder) jsonValue(key string, value json.RawMessage, line int) {
	switch value[0] {
	case '{', '[':
		d.notFlat(line, key)
	case 'n':
		d.noValue(line, key, "null")
	case '"':
		var text string
		if err := json.Unmarshal(value, &text); err != nil || strings.ContainsRune(text, utf8.RuneError) || strings.ContainsRune(key, utf8.RuneError) {
			d.fault(line, "the text of %s has an escape that is no character", secret.KeyName(key))
			return
		}
		d.put(key, text, line)
	default: // a number, true or false: its text in the file
		d.put(key, string(value), line)
	}
}

// maxTOMLNesting bounds the opening brackets of a TOML file and the dots of each of its lines. It
// refuses no honest file, because keys are flat: brackets and dots can be only in texts and
// comments.
const maxTOMLNesting = 500

// tooNested returns the first line with too many brackets or dots, 0 if there is none. The TOML
// library calls itself for each of them, and a stack overflow ends the process.
func tooNested(text []byte) (line int) {
	opened := 0 // an array may go over lines, so brackets are counted over all of them
	for i, row := range bytes.Split(text, []byte("\n")) {
		opened += bytes.Count(row, []byte("[")) + bytes.Count(row, []byte("{"))
		if opened > maxTOMLNesting || bytes.Count(row, []byte(".")) > maxTOMLNesting {
			return i + 1
		}
	}
	return 0
}

func (d *Decoder) toml(text []byte) {
	if line := tooNested(text); line > 0 {
		d.fault(line, "there are hundreds of brackets or dots here; keys are flat, and lists and nested keys are not read")
		return
	}
	var whole map[string]any
	if wrong, ok := errors.AsType[*toml.DecodeError](toml.Unmarshal(text, &whole)); ok {
		line, _ := wrong.Position()
		why, _, _ := strings.Cut(strings.TrimPrefix(wrong.Error(), "toml: "), ": ") // the rest may quote a value
		d.fault(line, "this is no TOML: %s; put texts in quotes", why)
		return
	}
	// The library's other faults, double keys and tables, are found below with their lines.
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		keys := e.Key()
		if !keys.Next() {
			continue
		}
		key := string(keys.Node().Data)
		line := lineOf(text, int(keys.Node().Raw.Offset))
		switch {
		case e.Kind != unstable.KeyValue:
			d.fault(line, "tables ([%s]) are not read; keys are flat", secret.KeyName(key))
			return // what follows belongs to the table
		case keys.Next():
			d.notFlat(line, key)
		case e.Value().Kind == unstable.Array || e.Value().Kind == unstable.InlineTable:
			d.notFlat(line, key)
		default:
			d.put(key, string(e.Value().Data), line)
		}
	}
	if p.Error() != nil {
		d.fault(0, "this is no TOML; put texts in quotes")
	}
}

// envLine matches KEY=value, as in a file for a shell or for Docker.
var envLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_-]*)[ \t]*=[ \t]*(.*)$`)
})

// envValue matches a value in single, double or no quotes, and a comment.
var envValue = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile("^(?:'([^']*)'|\"([^\"\\\\$`]*)\"|([^'\"\\\\$`#][^'\"\\\\$`]*?)?)(?:[ \t]+#.*)?$")
})

func (d *Decoder) dotenv(text []byte) {
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		parts := envLine().FindStringSubmatch(line)
		if parts == nil || len(parts[1]) > 20 && strings.Trim(parts[2], "=") == "" { // the second case is a bare base64 key
			d.fault(i+1, "this is not KEY=value, such as HUBHOP_DEVICE_ID=dev-1")
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(parts[1], "_", "-"))
		key = strings.TrimPrefix(key, strings.ToLower(strings.ReplaceAll(d.prefix, "_", "-")))
		value := envValue().FindStringSubmatch(parts[2])
		switch {
		case value == nil:
			d.fault(i+1, "the value of %s has a quote, a $, a ` or a backslash that is not taken literally everywhere; put it in single quotes", secret.KeyName(key))
		case value[0] == "" || value[1]+value[2]+value[3] == "" && !strings.ContainsAny(parts[2][:1], `'"`):
			d.noValue(i+1, key, "")
		default:
			d.put(key, value[1]+value[2]+value[3], i+1)
		}
	}
}
