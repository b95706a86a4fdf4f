package transform

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// safety is how long a window is open that has no duration of its own.
const safety = 60 * time.Second

// maxOpen bounds how many windows are open at a time: with several sources, a window stays open
// until the slowest one has passed its end.
const maxOpen = 1000

var errOpen = errors.New("the message is too far ahead of the windows that are open")

// window is the operator window. It keeps aggregates, and no messages: its memory does not grow
// with their number.
type window struct {
	work
	memory
	length   int64 // in nanoseconds
	count    limit
	size     limit
	triggers []trigger
	rules    []accumulation
	fields   []field
	panes    int // of running values that a pane has

	open     []*pane // by their ends
	spare    []*pane
	frontier int64 // windows that end by then are closed

	used   bool                   // a message has come into a window
	barren atomic.Pointer[barren] // nil: each window had a result

	values []expr.Value // of the fields of this message; absent ones are expr.Absent
	inputs []expr.Value // of the triggers
	out    tree
	buffer []byte
}

// limit closes a window when it is reached.
type limit struct {
	max  int64 // 0: there is none
	next bool  // the message that reaches it is the first of the next window
}

// trigger closes a window when its rule is true.
type trigger struct {
	rule
	next bool
	at   int // where its inputs are in window.inputs, and in pane.running
	skip bool
}

// accumulation is one rule for the output.
type accumulation struct {
	number  int
	program *expr.Program
	out     path
	fields  []int // of each use of the program
}

// field is an input of accumulation rules.
type field struct {
	path path
	need byte // what is kept of it
}

const (
	needExtremes byte = 1 << iota
	needFirst
	needLast
)

// pane is one open window.
type pane struct {
	end         int64
	count, size int64
	topic       string // of the last message
	topicSet    bool
	fields      []stats
	running     []stats
}

// stats is what a window knows of one input.
type stats struct {
	count, numbers        int64
	sum                   float64
	min, max, first, last held
	previous              held // of the message before, perhaps empty
}

// held is a value that lasts longer than its message. Its memory is used again.
type held struct {
	set bool
	v   expr.Value
}

func (h *held) keep(v *expr.Value) {
	text := append(h.v.Text[:0], v.Text...)
	h.set = true
	if v.Tuple != nil {
		h.v = v.Clone()
		return
	}
	h.v = *v
	if h.v.Text = text; v.Text == nil {
		h.v.Text = nil
	}
}

// add notes one value.
func (s *stats) add(v *expr.Value, need byte) {
	if v.Kind == expr.Absent {
		return
	}
	s.count++
	if need&needFirst != 0 && !s.first.set {
		s.first.keep(v)
	}
	if need&needLast != 0 {
		s.last.keep(v)
	}
	f, ok := v.Number()
	if !ok {
		return
	}
	s.numbers++
	s.sum += f
	if need&needExtremes == 0 {
		return
	}
	if c, _ := expr.Compare(v, &s.min.v); !s.min.set || c == -1 {
		s.min.keep(v)
	}
	if c, _ := expr.Compare(v, &s.max.v); !s.max.set || c == 1 {
		s.max.keep(v)
	}
}

// run notes one value of a trigger's input. Empty values count as messages without one.
func (s *stats) run(v *expr.Value) {
	s.previous.keep(v)
	if v.Kind == expr.Empty {
		return
	}
	s.add(v, needExtremes|needFirst|needLast)
}

func (s *stats) reset() {
	s.count, s.numbers, s.sum = 0, 0, 0
	for _, h := range s.parts() {
		h.set = false
		if cap(h.v.Text) > 1<<10 {
			h.v.Text = nil
		}
	}
}

func (c *compiler) window(settings map[string]string, version string) any {
	t := &window{memory: memory{fingerprint: c.fingerprint}, length: int64(safety), frontier: math.MinInt64}
	closes := false
	for _, key := range []string{"delay", "count", "memory", "triggers"} {
		if !hasKey(settings, key) {
			continue
		}
		closes = true
		if key != "delay" && version == "1.0.0" {
			c.fault(Fault{Key: key, Offset: -1, Text: "this came with version 1.1.0 of the window transform; name it in the artifact"})
		}
		f := c.open(key, settings[key])
		if f == nil {
			continue
		}
		switch key {
		case "delay":
			t.length = f.delay()
		case "count":
			t.count = f.limit("messageCount", "maxMessageCount")
		case "memory":
			t.size = f.limit("bufferSize", "maxBufferBytes")
		case "triggers":
			f.readTriggers(t)
		}
	}
	if !closes {
		c.fault(Fault{Offset: -1, Text: "nothing closes the window; set delay, count, memory or triggers"})
	}
	sets := t.datasets
	t.work = newWork(&c.o, sets)
	t.out.max = 4 * c.o.MaxBytes
	if f, fields := c.openAccumulate(settings); f != nil {
		for i, element := range f.list(fields["accumulate"], 0, "accumulate", maxRules) {
			f.accumulation(t, element, i+1)
		}
		if len(t.rules) == 0 && len(c.faults) == 0 {
			f.at(fields["accumulate"], 0, "a window needs an accumulation rule")
		}
	}
	t.values = make([]expr.Value, len(t.fields))
	t.inputs = make([]expr.Value, t.panes)
	t.memory.inputs = t.remembers(func(yield func(*rule) bool) {
		for i := range t.triggers {
			if !yield(&t.triggers[i].rule) {
				return
			}
		}
	})
	return t
}

func (c *compiler) openAccumulate(settings map[string]string) (*config, map[string]int) {
	text, ok := settings["rules"]
	if !ok {
		c.fault(Fault{Key: "rules", Offset: -1, Text: `the setting is missing; it is a JSON object with "accumulate"`})
		return nil, nil
	}
	f := c.open("rules", text)
	if f == nil {
		return nil, nil
	}
	fields := f.fields(0, 0, "version", "accumulate")
	if _, ok := fields["accumulate"]; !ok {
		f.at(0, 0, "accumulate is missing")
		return nil, nil
	}
	return f, fields
}

func (f *config) delay() int64 {
	fields := f.fields(0, 0, "type", "delaySeconds", "version")
	f.word(fields, 0, 0, "type", "duration")
	n := f.count(fields, 0, "delaySeconds")
	if most := int64(100 * 366 * 24 * 3600); n > most {
		f.at(fields["delaySeconds"], 0, "delaySeconds is more than %d", most)
		return int64(safety)
	}
	return max(n, 1) * int64(time.Second)
}

func (f *config) limit(kind, key string) (l limit) {
	fields := f.fields(0, 0, "type", key, "boundaryMessage", "version")
	f.word(fields, 0, 0, "type", kind)
	l.max = f.count(fields, 0, key)
	l.next = f.word(fields, 0, 0, "boundaryMessage", "messageInCurrent", "messageInNext") == "messageInNext"
	return l
}

func (f *config) readTriggers(t *window) {
	fields := f.fields(0, 0, "type", "rules", "datasets", "version")
	f.word(fields, 0, 0, "type", "expression")
	t.datasets = f.readDatasets(fields)
	at, ok := fields["rules"]
	if !ok {
		f.at(0, 0, "rules is missing: the list of the triggers")
		return
	}
	for i, element := range f.list(at, 0, "rules", maxRules) {
		values := f.fields(element, i+1, "inputs", "trigger", "boundaryMessage", "description")
		r := trigger{rule: *f.rule(element, i+1, values, "trigger", scope{place: expr.InTrigger, datasets: t.datasets, dialect: f.o.Dialect}), at: t.panes}
		if r.expression < 0 {
			f.at(element, i+1, "trigger is missing: a condition such as running_sum($1) + $1 > 100")
		}
		r.next = f.word(values, element, i+1, "boundaryMessage", "messageInCurrent", "messageInNext") == "messageInNext"
		t.panes += len(r.inputs)
		t.triggers = append(t.triggers, r)
	}
	if len(t.triggers) == 0 {
		f.at(at, 0, "rules has no trigger")
	}
}

// accumulation reads one rule for the output.
func (f *config) accumulation(t *window, element, number int) {
	values := f.fields(element, number, f.ruleKeys("inputs", "output", "expression")...)
	r := f.rule(element, number, values, "expression", scope{place: expr.InAccumulate, dialect: f.o.Dialect})
	a := accumulation{number: number, program: r.program}
	if r.expression < 0 {
		f.at(element, number, "expression is missing: an accumulation rule needs one, such as average($1)")
	}
	at, ok := values["output"]
	if !ok {
		f.at(element, number, "output is missing: the field to write")
		return
	}
	text, ok := f.text(at, number, "output")
	if !ok {
		return
	}
	out, fault := parseOutput(text)
	switch {
	case fault != nil:
		f.inside(at, number, fault.Column, fault.Text)
		return
	case out.remove || out.to != fromPayload || out.path.star >= 0:
		f.at(at, number, "the output of an accumulation rule is one field of the payload")
		return
	}
	a.out = out.path
	for i := range t.rules {
		o := &t.rules[i]
		n := min(len(o.out.keys), len(a.out.keys))
		if slices.Equal(o.out.keys[:n], a.out.keys[:n]) {
			f.at(at, number, "the output is that of rule %d, or one of them lies in the other", o.number)
			break
		}
	}
	if r.program != nil {
		for _, use := range r.program.Uses {
			a.fields = append(a.fields, t.field(r.inputs[use.Input].path, use.Function))
		}
	}
	t.rules = append(t.rules, a)
}

// field returns the index of an input. Rules share what they read in common.
func (t *window) field(p path, function string) int {
	i := slices.IndexFunc(t.fields, func(f field) bool { return slices.Equal(f.path.keys, p.keys) })
	if i < 0 {
		i = len(t.fields)
		t.fields = append(t.fields, field{path: p})
	}
	switch function {
	case "min", "max":
		t.fields[i].need |= needExtremes
	case "first":
		t.fields[i].need |= needFirst
	case "last":
		t.fields[i].need |= needLast
	}
	return i
}

// end returns when the window of a time ends: the next multiple of the length.
func (t *window) end(nanos int64) int64 {
	start := nanos - nanos%t.length
	if nanos%t.length < 0 {
		start -= t.length
	}
	if start > math.MaxInt64-t.length {
		return math.MaxInt64
	}
	return start + t.length
}

// Add puts a message into its window. One that is late is of the earliest window that is still
// open. If Add fails, the message is in no window.
func (t *window) Add(m *node.Message, at node.Time, emit func(*node.Message)) error {
	if err := t.begin(m); err != nil {
		return err
	}
	for i := range t.fields {
		v := &t.values[i]
		*v = expr.Value{Kind: expr.Absent}
		if found := find(&t.doc, 0, t.fields[i].path.keys); found >= 0 {
			if err := t.env.Bind(&t.doc, found, v); err != nil {
				return err
			}
		}
	}
	for i := range t.triggers {
		r := &t.triggers[i]
		s, err := t.bind(&r.rule)
		if err != nil {
			return err
		}
		r.skip = s == skipped
		copy(t.inputs[r.at:], t.env.In)
	}
	p, err := t.pane(t.end(max(at.Nanos, t.frontier)))
	if err != nil {
		return err
	}
	closes, next, err := t.decide(p, m)
	if err != nil {
		if p.count == 0 {
			t.drop(p)
		}
		return err
	}
	if closes && next && p.count == 0 {
		closes = false
	}
	if closes && next {
		end := p.end
		t.close(p, at, emit)
		if p, err = t.pane(end); err != nil {
			return err
		}
	}
	p.add(t, m)
	if closes && !next {
		t.close(p, at, emit)
	}
	return nil
}

// pane returns the window that ends at a time, a new one if none is open.
func (t *window) pane(end int64) (*pane, error) {
	i, ok := slices.BinarySearchFunc(t.open, end, func(p *pane, end int64) int {
		switch {
		case p.end < end:
			return -1
		case p.end > end:
			return 1
		}
		return 0
	})
	if ok {
		return t.open[i], nil
	}
	if len(t.open) >= maxOpen {
		return nil, errOpen
	}
	var p *pane
	if n := len(t.spare); n > 0 {
		p, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		p = &pane{fields: make([]stats, len(t.fields)), running: make([]stats, t.panes)}
	}
	p.end = end
	t.open = slices.Insert(t.open, i, p)
	return p, nil
}

// decide says whether the message closes the window, and to which one it belongs then.
func (t *window) decide(p *pane, m *node.Message) (closes, next bool, err error) {
	switch {
	case t.size.max > 0 && p.size+int64(len(m.Payload)) >= t.size.max:
		return true, t.size.next, nil
	case t.count.max > 0 && p.count+1 >= t.count.max:
		return true, t.count.next, nil
	}
	for i := range t.triggers {
		r := &t.triggers[i]
		if r.skip {
			continue
		}
		t.env.In = append(t.env.In[:0], t.inputs[r.at:r.at+len(r.inputs)]...)
		t.env.Results = t.env.Results[:0]
		for _, use := range r.program.Uses {
			t.env.Results = append(t.env.Results, expr.Value{})
			p.result(&t.env.Results[len(t.env.Results)-1], use, r.at, t.env.In)
		}
		if err := r.program.Run(&t.env, &t.value); err != nil {
			return false, false, &RuleError{Rule: r.number, Err: err}
		}
		if t.value.Kind != expr.Bool {
			return false, false, &RuleError{Rule: r.number, Err: errBoolean}
		}
		if t.value.True() {
			return true, r.next, nil
		}
	}
	return false, false, nil
}

// result gives the value of a running function: of the messages before this one.
func (p *pane) result(v *expr.Value, use expr.Use, at int, in []expr.Value) {
	if use.Input < 0 {
		*v = expr.Value{Kind: expr.Int, Int: p.count}
		return
	}
	s := &p.running[at+use.Input]
	*v = in[use.Input] // what most functions return while there is nothing before
	switch use.Function {
	case "running_sum":
		*v = expr.Value{Kind: expr.Float, Float: s.sum}
	case "running_count":
		*v = expr.Value{Kind: expr.Int, Int: s.count}
	case "running_avg":
		if s.numbers > 0 {
			*v = expr.Value{Kind: expr.Float, Float: s.sum / float64(s.numbers)}
		}
	case "changed":
		changed := s.previous.set && !v.Equal(&s.previous.v)
		*v = expr.Value{Kind: expr.Bool}
		if changed {
			v.Int = 1
		}
	case "running_min":
		s.min.get(v)
	case "running_max":
		s.max.get(v)
	case "first":
		s.first.get(v)
	case "prev":
		s.last.get(v)
	}
}

func (h *held) get(v *expr.Value) {
	if h.set {
		*v = h.v
	}
}

// add takes a message into the window.
func (p *pane) add(t *window, m *node.Message) {
	t.used = true
	p.count++
	p.size += int64(len(m.Payload))
	p.topic, p.topicSet = m.Topic, m.TopicSet
	for i := range p.fields {
		p.fields[i].add(&t.values[i], t.fields[i].need)
	}
	for i := range t.triggers {
		r := &t.triggers[i]
		for k := r.at; k < r.at+len(r.inputs) && !r.skip; k++ {
			p.running[k].run(&t.inputs[k])
		}
	}
}

// close gives out the result of a window.
func (t *window) close(p *pane, at node.Time, emit func(*node.Message)) {
	defer t.drop(p)
	t.out.reset()
	for i := range t.rules {
		r := &t.rules[i]
		t.env.Results = t.env.Results[:0]
		for k, use := range r.program.Uses {
			t.env.Results = append(t.env.Results, p.fields[r.fields[k]].aggregate(use.Function))
		}
		if err := r.program.Run(&t.env, &t.value); err != nil {
			t.fail(p, fmt.Errorf("%w; it reads %s", &RuleError{Rule: r.number, Err: err}, t.reads(r)))
			return
		}
		if err := t.write(&r.out); err != nil {
			t.fail(p, &RuleError{Rule: r.number, Err: err})
			return
		}
	}
	t.buffer = t.out.appendJSON(t.buffer[:0], 0)
	if len(t.buffer) > t.o.MaxBytes {
		t.buffer = nil
		t.fail(p, errOutput)
		return
	}
	emit(&node.Message{Time: at, Topic: p.topic, TopicSet: p.topicSet, ContentType: "application/json", Payload: bytes.Clone(t.buffer)})
}

// reads names the inputs of a rule.
func (t *window) reads(r *accumulation) string {
	var names []string
	for _, i := range r.fields {
		if name := string(bytes.Join(t.fields[i].path.text, []byte("."))); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// barren are the windows without a result.
type barren struct {
	windows  uint64
	messages int64  // of the last of them
	why      string // it has none
}

func (b *barren) text() string {
	if b.windows == 1 {
		return fmt.Sprintf("a window of %d messages has no result: %s", b.messages, b.why)
	}
	return fmt.Sprintf("%d windows have no result; the last, of %d messages: %s",
		b.windows, b.messages, b.why)
}

// fail tells that a window has no result.
func (t *window) fail(p *pane, err error) {
	b := &barren{windows: 1, messages: p.count, why: err.Error()}
	t.o.Log(b.text())
	if before := t.barren.Load(); before != nil {
		b.windows += before.windows
	}
	t.barren.Store(b)
}

// Says returns what a person should know of the windows; empty: nothing. Any goroutine may call it.
func (t *window) Says() string {
	text := t.work.Says()
	if b := t.barren.Load(); b != nil {
		if text != "" {
			text += "; "
		}
		text += b.text()
	}
	return text
}

// Unused says that no message has come into a window, so none can have a result.
func (t *window) Unused() bool { return !t.used }

func (t *window) write(p *path) error {
	n, err := t.out.walk(0, p, 0, len(p.keys))
	if err != nil {
		return err
	}
	start := len(t.out.text)
	var ok bool
	if t.out.text, ok = t.value.AppendJSON(t.out.text); !ok {
		return errNaN
	}
	return t.out.put(n, t.out.text[start:len(t.out.text):len(t.out.text)])
}

func (s *stats) aggregate(function string) expr.Value {
	v := expr.Value{Kind: expr.Absent}
	switch function {
	case "average":
		if s.numbers > 0 {
			v = expr.Value{Kind: expr.Float, Float: s.sum / float64(s.numbers)}
		}
	case "sum":
		v = expr.Value{Kind: expr.Float, Float: s.sum}
	case "count":
		v = expr.Value{Kind: expr.Int, Int: s.count}
	case "min":
		s.min.get(&v)
	case "max":
		s.max.get(&v)
	case "first":
		s.first.get(&v)
	case "last":
		s.last.get(&v)
	}
	return v
}

// drop ends a window without a result.
func (t *window) drop(p *pane) {
	i := slices.Index(t.open, p)
	t.open = slices.Delete(t.open, i, i+1)
	p.count, p.size, p.topic, p.topicSet = 0, 0, "", false
	for i := range p.fields {
		p.fields[i].reset()
	}
	for i := range p.running {
		p.running[i].reset()
	}
	if len(t.spare) < 4 {
		t.spare = append(t.spare, p)
	}
}

// Advance closes the windows that end by a time, in the order of their ends.
func (t *window) Advance(at node.Time, emit func(*node.Message)) {
	t.frontier = max(t.frontier, at.Nanos)
	for len(t.open) > 0 && t.open[0].end <= t.frontier {
		t.env.Reset()
		t.close(t.open[0], node.Time{Nanos: t.open[0].end}, emit)
	}
}

// Flush closes all windows, in the order of their ends.
func (t *window) Flush(emit func(*node.Message)) {
	for len(t.open) > 0 {
		t.env.Reset()
		t.close(t.open[0], node.Time{Nanos: t.open[0].end}, emit)
	}
}

// Held returns how many messages are in open windows.
func (t *window) Held() (messages int) {
	for _, p := range t.open {
		messages += int(p.count)
	}
	return messages
}

// Due returns when the next window ends.
func (t *window) Due() (end node.Time, ok bool) {
	if len(t.open) == 0 {
		return node.Time{}, false
	}
	return node.Time{Nanos: t.open[0].end}, true
}

// Save appends all that the window remembers.
func (t *window) Save(out []byte) []byte {
	out = t.memory.Save(out)
	out = binary.AppendVarint(out, t.frontier)
	out = binary.AppendUvarint(out, uint64(len(t.open)))
	for _, p := range t.open {
		out = binary.AppendVarint(out, p.end)
		out = binary.AppendVarint(out, p.count)
		out = binary.AppendVarint(out, p.size)
		out = appendBytes(out, p.topic)
		out = append(out, 0)
		if p.topicSet {
			out[len(out)-1] = 1
		}
		for i := range p.fields {
			out = p.fields[i].save(out)
		}
		for i := range p.running {
			out = p.running[i].save(out)
		}
	}
	return out
}

func (s *stats) parts() []*held { return []*held{&s.min, &s.max, &s.first, &s.last, &s.previous} }

func (s *stats) save(out []byte) []byte {
	out = binary.AppendVarint(out, s.count)
	out = binary.AppendVarint(out, s.numbers)
	out = binary.BigEndian.AppendUint64(out, math.Float64bits(s.sum))
	for _, h := range s.parts() {
		if !h.set {
			out = append(out, 0)
			continue
		}
		text, _ := h.v.AppendJSON(nil)
		out = appendBytes(out, text)
	}
	return out
}

// Restore puts the saved state back.
func (t *window) Restore(saved []byte) error {
	rest, err := t.restore(saved)
	if err != nil {
		return err
	}
	r := reader{rest: rest}
	t.frontier = r.varint()
	t.open = t.open[:0]
	for n := r.uvarint(); n > 0 && !r.failed; n-- {
		p := &pane{fields: make([]stats, len(t.fields)), running: make([]stats, t.panes)}
		p.end, p.count, p.size = r.varint(), r.varint(), r.varint()
		p.topic = string(r.bytes())
		p.topicSet = r.uvarint() != 0
		for i := range p.fields {
			r.stats(&p.fields[i])
		}
		for i := range p.running {
			r.stats(&p.running[i])
		}
		if r.failed || p.count < 1 || len(t.open) > 0 && t.open[len(t.open)-1].end >= p.end {
			return errSaved
		}
		t.open = append(t.open, p)
	}
	if r.failed || len(r.rest) > 0 {
		return errSaved
	}
	return nil
}
