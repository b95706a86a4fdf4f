package transform

import (
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
)

// path is where a value is in an object.
type path struct {
	keys []jsonscan.Key
	text [][]byte // the keys once more
	raw  [][]byte // the keys as JSON writes them, without quotation marks
	star int      // the wildcard stands before keys[star]; -1: there is none
}

// split cuts a path into its segments: at each dot, but for those in a segment that begins with a
// quotation mark. stop ends the path early, at an unquoted place where it is true.
func split(text string, stop func(rest string) bool) (p path, end int, f *expr.SyntaxError) {
	fault := func(at int, text2 string) *expr.SyntaxError {
		return &expr.SyntaxError{Column: utf8.RuneCountInString(text[:at]) + 1, Text: text2}
	}
	p.star = -1
	pos := 0
	for {
		var segment string
		start, quoted, ended := pos, false, false
		if strings.HasPrefix(text[pos:], `"`) {
			n := strings.IndexByte(text[pos+1:], '"')
			if n < 0 {
				return p, 0, fault(pos, `the segment begins with " and has no closing "`)
			}
			segment, quoted = text[pos+1:pos+1+n], true
			pos += n + 2
		}
		rest := pos
		for pos < len(text) && text[pos] != '.' {
			if stop != nil && stop(text[pos:]) {
				ended = true
				break
			}
			pos++
		}
		tail := text[rest:pos]
		if ended {
			tail = strings.TrimRight(tail, " \t")
		}
		switch {
		case quoted && tail != "":
			return p, 0, fault(rest, "a dot or the end must follow the closing quotation mark")
		case !quoted:
			segment = tail
		}
		switch {
		case segment == "" && !quoted:
			return p, 0, fault(start, `a segment of the path is empty; an empty key is written as ""`)
		case segment == "*" && !quoted && p.star >= 0:
			return p, 0, fault(start, "a path has one * at most")
		case segment == "*" && !quoted:
			p.star = len(p.keys)
		case len(p.keys) == jsonscan.MaxDepth:
			return p, 0, fault(start, "the path has more than "+strconv.Itoa(jsonscan.MaxDepth)+" segments")
		default:
			p.keys = append(p.keys, jsonscan.MakeKey(segment))
			p.text = append(p.text, []byte(segment))
			p.raw = append(p.raw, jsonscan.AppendEscaped(nil, segment))
		}
		if ended || pos == len(text) {
			return p, pos, nil
		}
		pos++ // the dot
	}
}

// origin is where an input comes from.
type origin byte

const (
	fromPayload origin = iota
	fromTopic
	fromContentType
	fromProperty
	fromContext // the record of a data set
)

// input is one input of a rule, compiled.
type input struct {
	from     origin
	path     path
	property string // key of a user property or header
	alias    string // of a data set
	dataset  int    // its index

	last     bool // ? $last
	fallback bool // ?? value
	value    expr.Value

	known    []byte // the last known value as JSON; nil: there has been none
	knownDoc jsonscan.Document
}

// scope says what the inputs of a rule may be.
type scope struct {
	place    expr.Place
	datasets []*dataset
	record   bool // those of a data set: $source.… and $context.…
	wildcard bool // *
	dialect  Dialect
}

var lastSuffix = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)^\?[ \t]*\$last[ \t]*`) })

// suffix says whether a ? begins ? $last or ?? default.
func suffix(rest string) bool {
	return rest[0] == '?' && (strings.HasPrefix(rest, "??") || lastSuffix().MatchString(rest))
}

// parseInput reads an input.
func parseInput(text string, s scope) (in input, f *expr.SyntaxError) {
	fault := func(at int, what string) (input, *expr.SyntaxError) {
		return in, &expr.SyntaxError{Column: utf8.RuneCountInString(text[:at]) + 1, Text: what}
	}
	if len(text) > expr.MaxLength {
		return fault(0, "the path is longer than "+strconv.Itoa(expr.MaxLength)+" bytes")
	}
	rest, at := text, 0
	cut := func(prefix string) bool {
		if !strings.HasPrefix(rest, prefix) {
			return false
		}
		rest, at = rest[len(prefix):], at+len(prefix)
		return true
	}
	switch {
	case s.place == expr.InAccumulate && (strings.HasPrefix(text, "$metadata.") || strings.HasPrefix(text, "$context")):
		return fault(0, "an accumulation rule reads fields of the payload only")
	case cut("$source."):
	case s.record && !strings.HasPrefix(text, "$context"):
		return fault(0, "an input of a data set is $source.field of the message, or $context.field of the record")
	case s.record && cut("$context."), s.record && s.dialect == Dataflow && strings.HasPrefix(text, "$context("):
		in.from = fromContext
		if at == 0 { // $context(key).field
			i := strings.Index(text, ").")
			if i < 0 {
				return fault(0, "write $context.field for a field of the record")
			}
			rest, at = text[i+2:], i+2
		}
	case cut("$context("):
		i := strings.IndexByte(rest, ')')
		if i < 0 || !strings.HasPrefix(rest[i:], ").") {
			return fault(at, "write $context(alias).field")
		}
		in.from, in.alias = fromContext, rest[:i]
		rest, at = rest[i+2:], at+i+2
	case cut("$metadata."):
		var what string
		if in.from, in.property, what, f = parseMetadata(rest, &at, suffix); f != nil {
			return fault(at, f.Text)
		}
		rest = what
	case strings.HasPrefix(text, "$"):
		return fault(0, `an input that begins with $ is $source.…, $metadata.… or $context(alias).…; a field of such a name stands in "quotation marks"`)
	}
	if in.from == fromPayload || in.from == fromContext {
		var end int
		if in.path, end, f = split(rest, suffix); f != nil {
			f.Column += utf8.RuneCountInString(text[:at])
			return in, f
		}
		rest, at = rest[end:], at+end
	}
	if in.path.star >= 0 && in.from <= fromContext && (in.from == fromPayload || in.from == fromContext) && !s.wildcard {
		return fault(0, "only the rules of a map can have a *")
	}
	if m := lastSuffix().FindString(rest); m != "" {
		switch {
		case s.place == expr.InAccumulate || s.record:
			return fault(at, "? $last has no meaning here")
		case in.path.star >= 0 && (in.from == fromPayload || in.from == fromContext):
			return fault(at, "a path with * has no last known value; name the fields that need one")
		}
		in.last = true
		rest, at = rest[len(m):], at+len(m)
	}
	if strings.HasPrefix(rest, "??") {
		switch {
		case s.place == expr.InAccumulate:
			return fault(at, "?? has no meaning here: messages without the field do not count")
		case s.dialect == Dataflow:
			return fault(at, "?? exists in data flow graphs only, not in the kind Dataflow")
		}
		var ok bool
		if in.value, ok = parseDefault(strings.Trim(rest[2:], " \t")); !ok {
			return fault(at, `after ?? comes a number, true, false, null or a "text"`)
		}
		in.fallback, rest = true, ""
	}
	if rest != "" {
		return fault(at, "only ?? and a default may follow ? $last")
	}
	return in, nil
}

// parseMetadata reads what follows $metadata. and moves at to a fault, or past what it has read.
func parseMetadata(text string, at *int, stop func(string) bool) (from origin, property, rest string, f *expr.SyntaxError) {
	if tail, ok := strings.CutPrefix(text, "topic"); ok && (tail == "" || endsHere(tail, stop)) {
		*at += len("topic")
		return fromTopic, "", strings.TrimLeft(tail, " \t"), nil
	}
	if tail, ok := strings.CutPrefix(text, "system_property.content_type"); ok && (tail == "" || endsHere(tail, stop)) {
		*at += len("system_property.content_type")
		return fromContentType, "", strings.TrimLeft(tail, " \t"), nil
	}
	for _, prefix := range []string{"user_property.", "header."} {
		tail, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		*at += len(prefix)
		p, end, f := split(tail, stop)
		if f == nil && (len(p.keys) != 1 || p.star >= 0) {
			f = &expr.SyntaxError{Text: `one key must follow; one with dots or * stands in "quotation marks"`}
		}
		if f != nil {
			return 0, "", "", f
		}
		*at += end
		return fromProperty, p.keys[0].Text(), tail[end:], nil
	}
	return 0, "", "", &expr.SyntaxError{Text: "there are $metadata.topic, .user_property.<key>, .header.<key> and .system_property.content_type"}
}

func endsHere(tail string, stop func(string) bool) bool {
	tail = strings.TrimLeft(tail, " \t")
	return tail != "" && stop != nil && stop(tail)
}

// parseDefault reads the value after ??.
func parseDefault(text string) (v expr.Value, ok bool) {
	var d jsonscan.Document
	if d.Scan([]byte(text)) != nil || d.Nodes[0].Kind == jsonscan.Object || d.Nodes[0].Kind == jsonscan.Array {
		return v, false
	}
	var e expr.Env
	return v, e.Bind(&d, 0, &v) == nil
}

// output is where a rule of a map writes to.
type output struct {
	to       origin // fromPayload, fromTopic, fromContentType or fromProperty
	remove   bool   // the inputs are left out
	path     path
	property string
}

// parseOutput reads the output of a rule.
func parseOutput(text string) (out output, f *expr.SyntaxError) {
	switch {
	case len(text) > expr.MaxLength:
		return out, &expr.SyntaxError{Column: 1, Text: "the path is longer than " + strconv.Itoa(expr.MaxLength) + " bytes"}
	case text == "":
		out.remove = true
		return out, nil
	case strings.HasPrefix(text, "$metadata."):
		at := len("$metadata.")
		if out.to, out.property, _, f = parseMetadata(text[at:], &at, nil); f != nil {
			f.Column = utf8.RuneCountInString(text[:at]) + 1
		}
		return out, f
	case strings.HasPrefix(text, "$"):
		return out, &expr.SyntaxError{Column: 1, Text: `an output that begins with $ is $metadata.…; a field of such a name stands in "quotation marks"`}
	}
	out.path, _, f = split(text, nil)
	return out, f
}
