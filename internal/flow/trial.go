package flow

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/topic"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
)

// Trial runs one flow without endpoints: messages are fed to it, and it gives out what would go to
// its destinations. Time is that of the messages, and nothing is kept. One goroutine may use it at
// a time.
type Trial struct {
	g    *manifest.Graph
	off  *graph.Offline
	plan graph.Plan
	now  time.Time
	line int
	o    TrialOptions
}

// TrialOptions say what a trial works with.
type TrialOptions struct {
	Dir     string          // of the manifests
	Store   transform.Store // nil: the files of the directory store below Dir
	Modules Modules         // nil: graphs with modules are refused
	Start   time.Time       // the time of a message that has none is this and 1 ms for each line
	Out     func(destination string, m node.Message)
	// Drop hears of each message that leaves the flow without an output; it may be nil. line is
	// that of the message that was fed last. failed says that it was not dropped on purpose.
	Drop func(line int, node, reason string, failed bool)
	Log  func(text string) // what operators say of themselves; may be nil
}

// NewTrial returns a trial of a flow. It is nil if there is an error among the faults.
func NewTrial(g *manifest.Graph, o TrialOptions) (*Trial, []manifest.Fault) {
	t := &Trial{g: g, o: o, now: o.Start}
	b := &builder{dir: o.Dir, modules: o.Modules, store: o.Store, now: func() time.Time { return t.now }}
	if o.Store == nil {
		files := readTables(o.Dir)
		b.store, b.faults = fixedStore(files.values), files.faults
		b.storeFile = func(key string) string { return tableFile(o.Dir, key) }
	}
	if o.Log != nil {
		b.log = func(_, text string) { o.Log(text) }
	}
	t.plan = b.plan(g)
	if !manifest.Errors(b.faults) {
		var err error
		if t.off, err = graph.NewOffline(t.plan, o.Out, t.drop); err != nil {
			b.fault(g.Pos(), manifest.Error, "%v", err)
		}
	}
	if manifest.Errors(b.faults) {
		t.plan.Close(nil)
		return nil, b.faults
	}
	return t, b.faults
}

func (t *Trial) drop(d graph.Drop, _ node.Message) {
	if t.o.Drop == nil {
		return
	}
	reason := d.Reason.String()
	isThrottle := func(o manifest.Operator) bool { return o.Name == d.Node && o.Native == manifest.NativeThrottle }
	if d.Reason == graph.Filtered && slices.ContainsFunc(t.g.Operators, isThrottle) {
		reason = "throttled"
	}
	if d.Err != nil {
		reason += ": " + d.Err.Error()
	}
	t.o.Drop(t.line, d.Node, reason, d.Reason.IsError())
}

// Takes returns the sources that take a topic.
func (t *Trial) Takes(name string) (sources []string) {
	for i := range t.g.Sources {
		s := &t.g.Sources[i]
		isTopic := s.Settings == nil || s.Settings.Mqtt != nil
		if slices.ContainsFunc(s.Topics, func(f manifest.TopicFilter) bool {
			return isTopic && topic.Match(f.Filter, name) && !strings.ContainsAny(name, "+#") || !isTopic && f.Filter == name
		}) {
			sources = append(sources, s.Name)
		}
	}
	return sources
}

// Feed processes the next message, see FeedAt.
func (t *Trial) Feed(m Input) error { return t.FeedAt(t.line+1, m) }

// FeedAt processes the message of a line. It goes to each source that takes its topic; a message
// without a topic goes to all of them. The error says that nobody takes it.
func (t *Trial) FeedAt(line int, m Input) error {
	t.line = line
	arrival := t.o.Start.Add(time.Duration(t.line) * time.Millisecond)
	if m.Said.IsZero() {
		m.Time = node.Time{}
		m.Time, _ = graph.EventTime(&m.Message, arrival)
	} else {
		m.Time = node.TimeOf(m.Said)
	}
	t.now = m.Time.Wall()
	sources := t.Takes(m.Topic)
	if m.Topic == "" {
		sources = nil
		for i := range t.g.Sources {
			sources = append(sources, t.g.Sources[i].Name)
		}
	}
	if len(sources) == 0 {
		return fmt.Errorf("no source of %s takes the topic %q", t.g.Name, m.Topic)
	}
	for _, name := range sources {
		if err := t.off.Feed(name, m.Message, strconv.Itoa(t.line)); err != nil {
			return err
		}
	}
	return nil
}

// FeedJournal processes the messages in the journal of a graph, in the directory of that graph or
// its journal: those that no checkpoint covers. They go to the sources that took them, at their own
// times. fault hears of each record that is no message for this flow. The error says that there is
// no journal.
func (t *Trial) FeedJournal(dir string, fault func(line int, err error)) error {
	for m, err := range graph.ReadJournal(dir) {
		if errors.Is(err, graph.ErrNoJournal) {
			return err
		}
		t.line++
		if err == nil {
			t.now = m.Message.Time.Wall()
			err = t.off.Feed(m.Source, m.Message, strconv.Itoa(t.line))
		}
		if err != nil {
			fault(t.line, err)
		}
	}
	return nil
}

// KeepsJournal says whether the flow, when it runs, writes a journal: it does if it remembers
// something from one message to the next.
func (t *Trial) KeepsJournal() bool { return t.plan.Stateful() }

// Close is the end of the input: it closes all windows.
func (t *Trial) Close() {
	t.off.Close()
	for _, o := range t.plan.Operators {
		if w, ok := o.Op.(interface{ Unused() bool }); ok && w.Unused() && t.o.Log != nil {
			t.o.Log("node " + o.Name + ": no message has come into a window, so no result has come out")
		}
	}
	t.plan.Close(nil)
}

// Input is a message of a trial.
type Input struct {
	node.Message
	Said time.Time // the time that the line says; zero: it says none
}

// line is a message as a line of JSON.
type line struct {
	Destination   string          `json:"destination,omitempty"`
	Topic         string          `json:"topic"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadText   *string         `json:"payloadText,omitempty"`
	PayloadBase64 *string         `json:"payloadBase64,omitempty"`
	ContentType   string          `json:"contentType,omitempty"`
	Properties    properties      `json:"properties,omitempty"`
	Time          *time.Time      `json:"time,omitempty"`
	Retain        bool            `json:"retain,omitempty"`
}

// text is the value of a property, or of several with the same name.
type text []string

// properties are those of a message by their keys.
type properties map[string]text

// UnmarshalJSON reads an object of keys and values, or a list of pairs as dead letters have it.
func (p *properties) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*map[string]text)(p))
	}
	var pairs []struct{ Key, Value string }
	if err := json.Unmarshal(b, &pairs); err != nil {
		return err
	}
	*p = properties{}
	for _, pair := range pairs {
		(*p)[pair.Key] = append((*p)[pair.Key], pair.Value)
	}
	return nil
}

func (t text) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(t))
	}
	*t = make(text, 1)
	return json.Unmarshal(b, &(*t)[0])
}

// ParseInput reads a message from a line: a JSON object with topic, payload (any JSON) or
// payloadText or payloadBase64, contentType, properties, time (RFC 3339) and retain. A line of
// hubhop outbox export and a dead letter are understood too.
func ParseInput(b []byte) (m Input, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var l struct {
		line
		exported
		failed
	}
	const next = "write {\"topic\": …, \"payload\": …}"
	if first := bytes.TrimLeft(b, " \t\r\n"); len(first) > 0 && first[0] != '{' {
		return m, errors.New("it is no message: it must be a JSON object; " + next)
	}
	if err := dec.Decode(&l); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fmt.Errorf("%s is a %s, which it must not be", e.Field[strings.LastIndexByte(e.Field, '.')+1:], e.Value)
		}
		return m, fmt.Errorf("it is no message: %w; %s", err, next)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) { // More takes a closing bracket for the end
		return m, errors.New("something follows the message; write one message in a line")
	}
	m.Topic, m.ContentType, m.Retain = l.Topic, l.ContentType, l.Retain
	said := 0
	if l.Payload != nil {
		m.Payload, said = l.Payload, said+1
	}
	if l.PayloadText != nil {
		m.Payload, said = []byte(*l.PayloadText), said+1
	}
	if l.PayloadBase64 != nil {
		if m.Payload, err = base64.StdEncoding.DecodeString(*l.PayloadBase64); err != nil {
			return m, fmt.Errorf("payloadBase64 is not base64: %w", err)
		}
		said++
	}
	if l.BodyIs != "" {
		if m.Payload, err = l.body(); err != nil {
			return m, err
		}
		said++
	}
	if said > 1 {
		return m, errors.New("it has more than one payload; write payload, payloadText or payloadBase64")
	}
	for _, key := range slices.Sorted(maps.Keys(l.Properties)) {
		for _, v := range l.Properties[key] {
			m.Properties = append(m.Properties, node.Property{Key: key, Value: v})
		}
	}
	if l.Time != nil {
		m.Said = *l.Time
	} else if l.Created != nil {
		m.Said = *l.Created
	}
	return m, nil
}

// exported is what a line of hubhop outbox export has beside that.
type exported struct {
	ID              string          `json:"id"`
	Seq             uint64          `json:"seq"`
	Created         *time.Time      `json:"created"`
	ContentEncoding string          `json:"contentEncoding"`
	Component       string          `json:"component"`
	Gap             string          `json:"gap"`
	Body            json.RawMessage `json:"body"`
	BodyIs          string          `json:"bodyIs"`
}

// failed is what a dead letter has beside that. It says why the message failed, and that may be
// different now.
type failed struct {
	At     time.Time `json:"at"`
	Graph  string    `json:"graph"`
	Node   string    `json:"node"`
	Reason string    `json:"reason"`
	Error  string    `json:"error"`
}

func (x *exported) body() (body []byte, err error) {
	switch x.BodyIs {
	case "json":
		return x.Body, nil
	case "text":
		var s string
		err = json.Unmarshal(x.Body, &s)
		return []byte(s), err
	case "base64":
		err = json.Unmarshal(x.Body, &body)
		return body, err
	}
	return nil, fmt.Errorf("bodyIs is %q; it is json, text or base64", x.BodyIs)
}

// Line writes a message that came out as a line of JSON, without the end of the line.
func Line(destination string, m *node.Message) []byte {
	l := line{Destination: destination, Topic: m.Topic, ContentType: m.ContentType, Retain: m.Retain}
	switch {
	case json.Valid(m.Payload) && utf8.Valid(m.Payload):
		l.Payload = m.Payload
	case utf8.Valid(m.Payload):
		l.PayloadText = new(string(m.Payload))
	default:
		l.PayloadBase64 = new(base64.StdEncoding.EncodeToString(m.Payload))
	}
	for _, p := range m.Properties {
		if l.Properties == nil {
			l.Properties = properties{}
		}
		l.Properties[p.Key] = append(l.Properties[p.Key], p.Value)
	}
	if m.Time != (node.Time{}) {
		l.Time = new(m.Time.Wall())
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil { // a property that is not UTF-8 is written as well as it can be
		return fmt.Appendf(nil, `{"destination":%q}`, destination)
	}
	return Printable(bytes.TrimSuffix(out.Bytes(), []byte("\n")))
}

// Printable writes characters of JSON that a terminal might obey, or that hide what is written, as
// escapes. It is the same JSON.
func Printable(text []byte) []byte {
	special := func(r rune) bool { return r != '\n' && !strconv.IsPrint(r) }
	if bytes.IndexFunc(text, special) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for _, r := range string(text) {
		switch {
		case !special(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
