package transform

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Limits of a configuration.
const (
	maxRules  = 10_000
	maxInputs = 1_000
	maxWild   = 100     // rules with *; each is compared with the rules after it
	maxConfig = 4 << 20 // bytes of one setting
)

// compiler collects the faults of a configuration.
type compiler struct {
	o           Options
	kind        string
	fingerprint uint64
	faults      ConfigErrors
}

func (c *compiler) fault(f Fault) { c.faults = append(c.faults, f) }

// config is one setting while it is read.
type config struct {
	*compiler
	key string
	d   jsonscan.Document
}

// open reads a setting that must be a JSON object; nil if it is none.
func (c *compiler) open(key, value string) *config {
	f := &config{compiler: c, key: key}
	if len(value) > maxConfig {
		c.fault(Fault{Key: key, Offset: -1, Text: fmt.Sprintf("the setting is longer than %d bytes", maxConfig)})
		return nil
	}
	if err := f.d.Scan([]byte(value)); err != nil {
		offset := -1
		if syntax := new(jsonscan.SyntaxError); errors.As(err, &syntax) {
			offset = syntax.Offset
		}
		c.fault(Fault{Key: key, Offset: offset, Text: err.Error()})
		return nil
	}
	if f.d.Nodes[0].Kind != jsonscan.Object {
		f.at(0, 0, "an object in { } is expected")
		return nil
	}
	return f
}

// at notes a fault at a value.
func (f *config) at(node, rule int, format string, args ...any) {
	f.fault(Fault{Key: f.key, Rule: rule, Offset: int(f.d.Nodes[node].Start), Text: fmt.Sprintf(format, args...)})
}

// inside notes a fault at a character of a string, counted from 1.
func (f *config) inside(node, rule, column int, text string) {
	n := f.d.Nodes[node]
	offset, raw := int(n.Start)+1, f.d.Text[n.Start+1:n.End-1]
	for at, i := 0, 1; i < column && at < len(raw); i++ {
		_, size := utf8.DecodeRune(raw[at:])
		if raw[at] == '\\' {
			if size = 2; raw[at+1] == 'u' {
				size = 6
				if raw[at+2]|0x20 == 'd' && raw[at+3] >= '8' {
					size = 12 // a surrogate pair
				}
			}
		}
		at += size
		offset = int(n.Start) + 1 + at
	}
	f.fault(Fault{Key: f.key, Rule: rule, Column: column, Offset: offset, Text: text})
}

// fields returns the values of an object by their keys, and notes those that are not allowed.
func (f *config) fields(node, rule int, allowed ...string) map[string]int {
	found := map[string]int{}
	if f.d.Nodes[node].Kind != jsonscan.Object {
		f.at(node, rule, "an object in { } is expected")
		return found
	}
	for i := range f.d.Children(node) {
		key := string(f.d.Key(i))
		switch {
		case !slices.Contains(allowed, key):
			text := fmt.Sprintf("unknown key %.40q; there are %s", key, strings.Join(allowed, ", "))
			if best := suggest.Nearest(key[:min(len(key), 40)], allowed, 3); best != "" {
				text = fmt.Sprintf("unknown key %.40q; did you mean %s?", key, best)
			}
			f.fault(Fault{Key: f.key, Rule: rule, Offset: int(f.d.Nodes[i].KeyStart), Text: text})
		case f.d.Nodes[i].Shadowed():
			f.fault(Fault{Key: f.key, Rule: rule, Offset: int(f.d.Nodes[i].KeyStart), Text: fmt.Sprintf("the key %q is there twice", key)})
		default:
			found[key] = i
		}
	}
	return found
}

// text returns a string; ok is false, and a fault noted, if it is none.
func (f *config) text(node, rule int, what string) (s string, ok bool) {
	if f.d.Nodes[node].Kind != jsonscan.String {
		f.at(node, rule, "%s must be a text", what)
		return "", false
	}
	b, _ := f.d.String(node, nil)
	return string(b), true
}

// list returns the elements of an array.
func (f *config) list(node, rule int, what string, limit int) (elements []int) {
	if f.d.Nodes[node].Kind != jsonscan.Array {
		f.at(node, rule, "%s must be a list in [ ]", what)
		return nil
	}
	elements = slices.Collect(f.d.Children(node))
	if len(elements) > limit {
		f.at(node, rule, "%s has %d elements, more than %d", what, len(elements), limit)
		return nil
	}
	return elements
}

// count returns a whole number from 1.
func (f *config) count(fields map[string]int, node int, key string) int64 {
	i, ok := fields[key]
	if !ok {
		f.at(node, 0, "%s is missing; it is a whole number from 1", key)
		return 0
	}
	n, ok := jsonscan.ParseInt(f.d.Raw(i))
	if f.d.Nodes[i].Kind != jsonscan.Number || !ok || n < 1 {
		f.at(i, 0, "%s must be a whole number from 1", key)
		return 0
	}
	return n
}

// word returns a string that must be one of some words.
func (f *config) word(fields map[string]int, node, rule int, key string, words ...string) string {
	i, ok := fields[key]
	if !ok {
		f.at(node, rule, "%s is missing; it is %s", key, strings.Join(words, " or "))
		return ""
	}
	s, ok := f.text(i, rule, key)
	if ok && !slices.Contains(words, s) {
		f.at(i, rule, "%s is %s, not %.40q", key, strings.Join(words, " or "), s)
	}
	return s
}

// ruleKeys are the keys of a rule. The older kind says more, which means nothing to us.
func (c *compiler) ruleKeys(keys ...string) []string {
	if c.o.Dialect == Dataflow {
		keys = append(keys, "type")
	}
	return append(keys, "description")
}

// rule reads what all rules have: inputs and an expression under a key.
func (f *config) rule(node, number int, fields map[string]int, key string, s scope) *rule {
	r := &rule{number: number}
	inputs, ok := fields["inputs"]
	if !ok {
		f.at(node, number, "inputs is missing: the list of the fields to read")
	} else {
		for _, i := range f.list(inputs, number, "inputs", maxInputs) {
			text, ok := f.text(i, number, "an input")
			if !ok {
				continue
			}
			in, fault := parseInput(text, s)
			if fault != nil {
				f.inside(i, number, fault.Column, fault.Text)
			}
			if in.from == fromContext && fault == nil && !s.record {
				if in.dataset = slices.IndexFunc(s.datasets, func(d *dataset) bool { return d.alias == in.alias }); in.dataset < 0 {
					f.inside(i, number, 1, fmt.Sprintf("there is no data set %.40q; datasets defines them, by key or alias", in.alias))
				}
			}
			r.inputs = append(r.inputs, in)
		}
	}
	r.expression = -1
	if i, ok := fields[key]; ok {
		text, ok := f.text(i, number, key)
		if strings.TrimSpace(text) == "" {
			return r
		}
		if ok {
			p, err := expr.Compile(text, expr.Options{Place: s.place, Inputs: len(r.inputs), NoRegex: f.o.Dialect == Dataflow, Wide: f.o.Dialect == Dataflow})
			if fault := new(expr.SyntaxError); errors.As(err, &fault) {
				f.inside(i, number, fault.Column, fault.Text)
			}
			r.expression, r.program = i, p
		}
	}
	return r
}
