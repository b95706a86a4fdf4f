// Package transform is the native operators of data flow graphs: map, filter, branch, concatenate,
// window and throttle, and the data sets that enrich them (Microsoft's pages "Transform data with
// map", "Filter and route data", "Aggregate data with window transforms", "Throttle messages" and
// "Enrich data with external datasets", all "in data flow graphs"). They do natively what the
// artifacts azureiotoperations/graph-dataflow-… do as WebAssembly modules.
//
// A configuration is compiled once, and all its faults are found then. A message is scanned once,
// and only what a rule asks for is decoded; what no rule changes keeps the text in which it was
// published. An error of an operator means that one message failed.
//
// Where Microsoft's pages leave something open, this is what the operators do: a field that is
// missing is an error, unless its input has a default or a last known value, or its expression
// contains (). null is a value; but to an input with a default or last known value it is as if it
// were missing. Of a key that an object has twice, the last one counts.
package transform

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Setting is one key of a node's configuration. Its value is JSON.
type Setting struct{ Key, Value string }

// Dialect is the kind of manifest that a configuration comes from.
type Dialect byte

// The dialects.
const (
	Graph    Dialect = iota // kind DataflowGraph
	Dataflow                // the older kind Dataflow: no ??, no regular expressions
)

// Options say what an operator works with. The zero value works for configurations without data
// sets and schemas.
type Options struct {
	Dialect Dialect

	// Now is the clock of a throttle; nil: time.Now.
	Now func() time.Time

	// Store has the records of data sets. StoreFile returns the file that fills a key, which people
	// are told if there is no record; nil: there is none. WarnLacks tells Warn of the keys that the
	// store does not have now.
	Store     Store
	StoreFile func(key string) string
	WarnLacks bool

	// Schema returns the JSON schema (draft-07) that a reference names. SchemaRef is the reference
	// of the connection that leads to a filter with validateSchema; if it is empty, each message
	// must name its schema.
	Schema    func(ref string) ([]byte, error)
	SchemaRef string

	// Log is told what no message is at fault for: a line of a data set that is no object, a window
	// that has no result. Warn is told what a configuration should not contain. Either may be nil.
	Log  func(text string)
	Warn func(f Fault)

	// MaxBytes bounds a payload on its way in and out, and each text that an expression makes; 0
	// means 1 MiB.
	MaxBytes int
}

// Store is where data sets are: a state store. A value is one JSON object per line.
type Store interface {
	// Get returns the value of a key. The revision changes whenever the value does; Get is called
	// for each message, so it should cost little while nothing changes. ok is false for a key that
	// is not there. The value is not changed after Get has returned it.
	Get(key string) (value []byte, revision uint64, ok bool, err error)
}

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Key    string // of the setting; empty: the fault is of none
	Rule   int    // counted from 1; 0: of no rule
	Column int    // in the expression or path of the rule, counted from 1; 0: unknown
	Offset int    // in bytes of the setting's value, where it is; -1: unknown
	Text   string // what is wrong, and what to do
}

// String returns the text and where it is.
func (f Fault) String() string {
	var where []string
	if f.Rule > 0 {
		where = append(where, "rule "+strconv.Itoa(f.Rule))
	}
	if f.Column > 0 {
		where = append(where, "column "+strconv.Itoa(f.Column))
	}
	text := f.Text
	if len(where) > 0 {
		text = strings.Join(where, ", ") + ": " + text
	}
	if f.Key != "" {
		text = f.Key + ": " + text
	}
	return text
}

// ConfigErrors are all faults of a configuration, in the order of its settings.
type ConfigErrors []Fault

// Error returns the faults, one a line.
func (f ConfigErrors) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].String()
	}
	return strings.Join(lines, "\n")
}

// kinds are the transforms, with the settings that each one has.
var kinds = map[string][]string{
	"map":         {"rules"},
	"filter":      {"rules"},
	"branch":      {"rules"},
	"concatenate": {},
	"window":      {"delay", "count", "memory", "triggers", "rules"},
	"throttle":    {"throttle"},
}

// Kinds returns the names of the transforms, sorted.
func Kinds() []string {
	return []string{"branch", "concatenate", "filter", "map", "throttle", "window"}
}

// Compile makes the operator of a kind (map, filter, branch, concatenate, window, throttle).
// version is the tag of the artifact; it matters for window, whose closing by count, memory and
// triggers came with 1.1.0. Without a version everything is allowed.
//
// The operator is a node.Map, node.Filter, node.Branch or node.Window; it is nil for concatenate,
// which changes nothing. It is also node.Stateful if it remembers anything from one message to the
// next. A throttle is not: its memory is of the time that passes while it runs. An error is of type
// [ConfigErrors].
func Compile(kind, version string, configuration []Setting, o Options) (operator any, err error) {
	allowed, ok := kinds[kind]
	if !ok {
		return nil, ConfigErrors{{Offset: -1, Text: fmt.Sprintf("there is no transform %.40q; there are %s", kind, strings.Join(Kinds(), ", "))}}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 20
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.Warn == nil {
		o.Warn = func(Fault) {}
	}
	c := &compiler{o: o, kind: kind}
	fingerprint := fnv.New64a()
	settings := map[string]string{}
	for _, s := range configuration {
		fmt.Fprintf(fingerprint, "%q%q", s.Key, s.Value)
		switch {
		case !slices.Contains(allowed, s.Key):
			c.fault(Fault{Key: s.Key, Offset: -1, Text: unknownKey(kind, s.Key, allowed)})
		case hasKey(settings, s.Key):
			c.fault(Fault{Key: s.Key, Offset: -1, Text: "this setting is there twice"})
		default:
			settings[s.Key] = s.Value
		}
	}
	c.fingerprint = fingerprint.Sum64()
	c.checkVersion(version)
	switch kind {
	case "map":
		operator = c.mapping(settings)
	case "filter":
		operator = c.filter(settings)
	case "branch":
		operator = c.branch(settings)
	case "window":
		operator = c.window(settings, version)
	case "throttle":
		operator = c.throttle(settings)
	}
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	return operator, nil
}

func hasKey(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

func unknownKey(kind, key string, allowed []string) string {
	if len(allowed) == 0 {
		return "a " + kind + " has no settings; remove it"
	}
	text := "a " + kind + " has no such setting; it has " + strings.Join(allowed, ", ")
	if best := suggest.Nearest(key[:min(len(key), 40)], allowed, 3); best != "" {
		text += "; did you mean " + best + "?"
	}
	return text
}

// checkVersion warns of tags that Microsoft has not published.
func (c *compiler) checkVersion(version string) {
	if version == "" || version == "1.0.0" || c.kind == "window" && version == "1.1.0" {
		return
	}
	c.o.Warn(Fault{Offset: -1, Text: fmt.Sprintf("version %.40q of the %s transform is not known; it runs as the newest that is", version, c.kind)})
}

// The reasons why a message fails, whatever the rules are.
var (
	errObject = errors.New("the payload is no JSON object")
	errLarge  = errors.New("the payload is larger than the limit")
	errOutput = errors.New("the result is larger than the limit")
)

// RuleError says which rule a message failed in, and why. Its text is put together only when
// somebody reads it.
type RuleError struct {
	Rule  int // counted from 1; 0: a data set
	Input int // counted from 1; 0: none
	Err   error
}

// Unwrap returns the reason.
func (e *RuleError) Unwrap() error { return e.Err }

// Error returns the rule and the reason.
func (e *RuleError) Error() string {
	text := "data set"
	if e.Rule > 0 {
		text = "rule " + strconv.Itoa(e.Rule)
	}
	if e.Input > 0 {
		text += ", input " + strconv.Itoa(e.Input)
	}
	reason := e.Err.Error()
	if strings.HasPrefix(reason, "column ") {
		return text + ", " + reason
	}
	return text + ": " + reason
}
