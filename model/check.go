package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Kind says how a value does not fit the model.
type Kind int

// The kinds.
const (
	Unknown     Kind = iota + 1 // the model has no such name
	WrongType                   // the name is known, the value is not of its schema
	NotObject                   // a telemetry body is not a JSON object
	NotWritable                 // a desired property that only the device sets
	Missing                     // a command came without the parameter it takes
)

// String is the kind in words.
func (k Kind) String() string {
	switch k {
	case Unknown:
		return "unknown"
	case WrongType:
		return "wrong type"
	case NotObject:
		return "not an object"
	case NotWritable:
		return "not writable"
	case Missing:
		return "missing"
	default:
		return fmt.Sprintf("Kind(%d)", int(k))
	}
}

// Finding is one thing to warn of in a telemetry body. The body can be sent all the same.
type Finding struct {
	Name string // of the field, or of a component that the model does not know; empty for NotObject
	Kind Kind   // Unknown, WrongType or NotObject
	Text string // a sentence; it repeats no text of the body
}

// CheckError is why a desired or reported property, or a command, does not fit the model.
type CheckError struct {
	Component string // empty for the default component
	Name      string
	Kind      Kind
	Text      string // a sentence, also for the description of an Ack; it repeats no text of the value
}

// Error is the sentence.
func (e *CheckError) Error() string { return e.Text }

// Code is the answer to the cloud, as the code of an Ack or the status of a command. It is 404 for
// a name that the model does not have, else 400.
func (e *CheckError) Code() int {
	if e.Kind == Unknown {
		return AckUnknown
	}
	return AckRefused
}

// CheckTelemetry lists what the model does not expect in a body, ordered by name: fields that it
// does not know, and values of another schema. It returns nil if the body fits. component is empty
// for the default component.
func (m *Model) CheckTelemetry(component string, body []byte) []Finding {
	i, ok := m.interfaceOf(component)
	if !ok {
		return []Finding{{component, Unknown, "component " + quote(component) + " is not in the model " + m.ID()}}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return []Finding{{"", NotObject, notObject(body, err)}}
	}
	var found []Finding
	for name, raw := range fields {
		c := i.names[name]
		if c == nil || c.kind != telemetryKind {
			found = append(found, Finding{name, Unknown, i.unknown("telemetry", telemetryKind, name)})
		} else if problem := (checker{}).value(c.schema, raw, name); problem != "" {
			found = append(found, Finding{name, WrongType, problem})
		}
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Name, b.Name) })
	return found
}

func notObject(body []byte, err error) string {
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return fmt.Sprintf("not a JSON object: %v (byte %d)", err, syntax.Offset)
	}
	return "not a JSON object but " + kindName(kindOf(body))
}

// unknown is the sentence for a name that is not a content of the wanted kind.
func (i *iface) unknown(what, kind, name string) string {
	if c := i.names[name]; c != nil {
		return fmt.Sprintf("%s is a %s in the model %s, not %s", quote(name), strings.ToLower(c.kind), i.id, what)
	}
	var known []string
	for _, c := range i.flat {
		if c.kind == kind {
			known = append(known, c.name)
		}
	}
	if len(known) == 0 {
		return fmt.Sprintf("%s %s is not in the model %s, which has none", what, quote(name), i.id)
	}
	return fmt.Sprintf("%s %s is not in the model %s, which has %s", what, quote(name), i.id, clip(strings.Join(known, ", ")))
}

// Desired checks one desired property, as it stands in the twin under its component, and returns
// the value to apply. That is the value of the twin, without the {"value":…} that applications of
// the oldest kind put around it. null means that the property has no desired value any more; every
// writable property accepts it. The error is a [*CheckError].
func (m *Model) Desired(component, name string, value json.RawMessage) (json.RawMessage, error) {
	c, err := m.property(component, name)
	if err != nil {
		return nil, err
	}
	if !c.writable {
		return nil, &CheckError{component, name, NotWritable, fmt.Sprintf("property %q is read-only in the model", name)}
	}
	if !isJSON(value) {
		return nil, &CheckError{component, name, WrongType, name + " is not valid JSON"}
	}
	value = bytes.TrimSpace(value)
	if kindOf(value) == 'n' {
		return value, nil
	}
	if inner, ok := wrapped(c.schema, value); ok {
		value = inner
	}
	if problem := (checker{twin: true}).value(c.schema, value, name); problem != "" {
		return nil, &CheckError{component, name, WrongType, problem}
	}
	return value, nil
}

// wrapped takes the value out of {"value":…}, unless the schema describes an object.
func wrapped(s *schema, value json.RawMessage) (json.RawMessage, bool) {
	if s.kind == objectKind || s.kind == mapKind || kindOf(value) != '{' {
		return nil, false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) != nil || len(members) != 1 {
		return nil, false
	}
	inner, ok := members["value"]
	return inner, ok
}

// CheckProperty checks a value that a device is about to report, of a read-only or a writable
// property. The value must fit the schema of the property and the bounds of a twin. null takes a
// property out of the twin, so it fits every property. The error is a [*CheckError].
func (m *Model) CheckProperty(component, name string, value json.RawMessage) error {
	c, err := m.property(component, name)
	if err != nil {
		return err
	}
	if !isJSON(value) {
		return &CheckError{component, name, WrongType, name + " is not valid JSON"}
	}
	if kindOf(value) == 'n' {
		return nil
	}
	if problem := (checker{twin: true}).value(c.schema, value, name); problem != "" {
		return &CheckError{component, name, WrongType, problem}
	}
	return nil
}

func (m *Model) property(component, name string) (*content, error) {
	i, ok := m.interfaceOf(component)
	if !ok {
		return nil, &CheckError{component, name, Unknown, "component " + quote(component) + " is not in the model " + m.ID()}
	}
	c := i.names[name]
	if c == nil || c.kind != propertyKind {
		return nil, &CheckError{component, name, Unknown, i.unknown("property", propertyKind, name)}
	}
	return c, nil
}

// Command is what the model says of a command.
type Command struct {
	Name     string // as the cloud calls it: "reboot", or "thermostat1*getMaxMinReport" for a component's
	Durable  bool   // queued while the device is away: it comes as a message, not as a direct method
	Request  string // schema of the parameter in words; empty when the command takes none
	Response string // schema of the answer in words; empty when the command gives none
}

// Command looks a command up by the name by which the cloud calls it, "command" or
// "component*command".
func (m *Model) Command(name string) (Command, bool) {
	c, err := m.command(name)
	if err != nil {
		return Command{}, false
	}
	cmd := Command{Name: name, Durable: c.durable}
	if c.request != nil {
		cmd.Request = c.request.String()
	}
	if c.response != nil {
		cmd.Response = c.response.String()
	}
	return cmd, true
}

func (m *Model) command(name string) (*content, error) {
	component, short, found := strings.Cut(name, "*")
	if !found {
		component, short = "", name
	}
	i, ok := m.interfaceOf(component)
	if !ok || found && component == "" {
		return nil, &CheckError{component, short, Unknown, "component " + quote(component) + " is not in the model " + m.ID()}
	}
	c := i.names[short]
	if c == nil || c.kind != commandKind {
		return nil, &CheckError{component, short, Unknown, i.unknown("command", commandKind, short)}
	}
	return c, nil
}

// CheckCommand checks the parameter of a command, name as for Command. An empty payload, null, and
// the "@" that stands in for one in a queued command mean that there is none. A payload for a
// command without a parameter is accepted, because callers fill that place with {} or null as they
// like. A durable command comes as the body of a message, where a text may stand without its
// quotes. The error is a [*CheckError]; its Kind is Missing when the parameter is.
func (m *Model) CheckCommand(name string, payload json.RawMessage) error {
	c, err := m.command(name)
	if err != nil {
		return err
	}
	if c.request == nil {
		return nil
	}
	component, _, found := strings.Cut(name, "*")
	if !found {
		component = ""
	}
	payload = bytes.TrimSpace(payload)
	switch string(payload) {
	case "", "null", "@":
		return &CheckError{component, c.name, Missing, fmt.Sprintf("command %q takes %s, and came without", c.name, c.request)}
	}
	problem := ""
	switch s := c.request; {
	case isJSON(payload):
		problem = checker{}.value(s, payload, "the parameter")
	case c.durable && utf8.Valid(payload) && slices.Contains(textKinds, s.kind):
		problem = spelled(s.kind, string(payload), "the parameter")
	default:
		problem = "the parameter is not valid JSON"
	}
	if problem != "" {
		return &CheckError{component, c.name, WrongType, fmt.Sprintf("command %q: %s", c.name, problem)}
	}
	return nil
}

// textKinds are the schemas whose values are JSON strings.
var textKinds = []string{"string", "date", "dateTime", "time", "duration"}

// isJSON reports whether raw is JSON in UTF-8. Go's own check accepts other encodings.
func isJSON(raw []byte) bool { return json.Valid(raw) && utf8.Valid(raw) }
