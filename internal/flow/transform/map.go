package transform

import (
	"bytes"
	"errors"
	"slices"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// mapRule is a rule of a map.
type mapRule struct {
	rule
	out   output
	wild  bool // the first input has a *
	reads bool // all inputs are fields of the payload
	first bool // no earlier rule writes the same user property

	nodes  []int // where the inputs are in the payload, for a rule without *
	rivals []int // for one with *: later rules that may read the same inputs, and are not marked
}

// mapper is the operator map.
type mapper struct {
	work
	rules    []mapRule
	wild     bool   // some rule has a *
	identity bool   // the payload stays as it is
	marks    []byte // for each value of the payload, whether a rule without * reads or removes it
	out      tree
	buffer   []byte
	captured []int // of a wildcard, as values of from
	stack    []int
	from     *jsonscan.Document

	topic, contentType       string
	topicSet, contentTypeSet bool
	properties               []node.Property
	propertiesSet            bool
}

// The reasons why metadata cannot be written.
var (
	errProperty = errors.New("the value for a property or topic is longer than 65,535 bytes")
	errStructed = errors.New("an object cannot be written to metadata")
)

func (c *compiler) mapping(settings map[string]string) any {
	f, fields := c.openRules(settings, "map")
	if f == nil {
		return nil
	}
	t := &mapper{work: newWork(&c.o, f.readDatasets(fields))}
	t.out.max = 4 * c.o.MaxBytes
	specific, wild := 0, 0
	keys := c.ruleKeys("inputs", "output", "expression")
	for i, element := range f.list(fields["map"], 0, "map", maxRules) {
		r := f.mapRule(element, i+1, f.fields(element, i+1, keys...), t.datasets)
		switch {
		case r.wild && specific > 0:
			f.at(element, i+1, "a rule with * must stand before the rules without one; move it above rule %d", specific)
		case r.wild && i > 0:
			c.o.Warn(Fault{Key: "rules", Rule: i + 1, Offset: int(f.d.Nodes[element].Start),
				Text: "Azure IoT Operations may take one rule with * only, as the first rule"})
		case !r.wild && specific == 0:
			specific = i + 1
		}
		r.first = !slices.ContainsFunc(t.rules, func(o mapRule) bool { return o.out.to == fromProperty && o.out.property == r.out.property })
		t.wild = t.wild || r.wild
		if r.wild {
			if wild++; wild == maxWild+1 {
				f.at(element, i+1, "there are more than %d rules with *", maxWild)
			}
		}
		t.rules = append(t.rules, r)
	}
	t.findRivals()
	t.identity = len(t.rules) > 0 && t.rules[0].copiesAll()
	for i := range t.rules[min(1, len(t.rules)):] {
		t.identity = t.identity && t.rules[i+1].out.to != fromPayload
	}
	remembers := t.remembers(func(yield func(*rule) bool) {
		for i := range t.rules {
			if !yield(&t.rules[i].rule) {
				return
			}
		}
	})
	if len(remembers) > 0 {
		return &statefulMap{t, memory{c.fingerprint, remembers}}
	}
	return t
}

// openRules reads what map, filter and branch have in common.
func (c *compiler) openRules(settings map[string]string, kind string) (*config, map[string]int) {
	text, ok := settings["rules"]
	if !ok {
		c.fault(Fault{Key: "rules", Offset: -1, Text: `the setting is missing; it is a JSON object with "` + kind + `"`})
		return nil, nil
	}
	f := c.open("rules", text)
	if f == nil {
		return nil, nil
	}
	keys := []string{"version", "datasets", kind}
	if kind == "filter" {
		keys = append(keys, "validateSchema")
	}
	fields := f.fields(0, 0, keys...)
	if _, ok := fields[kind]; !ok {
		f.at(0, 0, "%s is missing", kind)
		return nil, nil
	}
	return f, fields
}

// copiesAll says whether a rule copies the whole payload.
func (r *mapRule) copiesAll() bool {
	return r.wild && r.program == nil && len(r.inputs) == 1 && r.inputs[0].from == fromPayload && len(r.inputs[0].path.keys) == 0 &&
		r.out.to == fromPayload && !r.out.remove && len(r.out.path.keys) == 0
}

func (f *config) mapRule(element, number int, fields map[string]int, sets []*dataset) mapRule {
	r := mapRule{rule: *f.rule(element, number, fields, "expression", scope{datasets: sets, wildcard: true, dialect: f.o.Dialect})}
	r.out.path.star = -1
	outAt, ok := fields["output"]
	if !ok {
		f.at(element, number, `output is missing: the field to write, or "" to leave the inputs out`)
		return r
	}
	text, ok := f.text(outAt, number, "output")
	if !ok {
		return r
	}
	var fault *expr.SyntaxError
	if r.out, fault = parseOutput(text); fault != nil {
		f.inside(outAt, number, fault.Column, fault.Text)
		return r
	}
	r.reads = true
	for i := range r.inputs {
		star := r.inputs[i].hasStar()
		r.reads = r.reads && r.inputs[i].from == fromPayload
		if i == 0 {
			r.wild = star
		} else if star && !r.wild {
			f.at(element, number, "input %d has a * and the first input has none; the first one decides what * stands for", i+1)
		}
	}
	if len(r.inputs) == 0 && (r.program == nil || r.out.remove) {
		f.at(element, number, "a rule without inputs needs an expression, and an output")
	}
	if r.out.remove {
		if r.program != nil {
			f.at(r.expression, number, "a rule that leaves fields out has no expression")
		}
		for i := range r.inputs {
			if r.inputs[i].from != fromPayload {
				f.at(element, number, "only fields of the payload can be left out")
			}
		}
		return r
	}
	switch outStar := r.out.to == fromPayload && r.out.path.star >= 0; {
	case r.wild && !outStar:
		f.at(outAt, number, "the output must have a * too, or all fields that the input finds would be written to one place")
	case outStar && !r.wild:
		f.at(outAt, number, "the output has a *, and the first input has none")
	}
	if r.program == nil && len(r.inputs) > 1 {
		f.o.Warn(Fault{Key: f.key, Rule: number, Offset: int(f.d.Nodes[element].Start), Text: "without an expression, only the first input is copied"})
		r.inputs = r.inputs[:1]
	}
	return r
}

func (in *input) hasStar() bool {
	return (in.from == fromPayload || in.from == fromContext) && in.path.star >= 0
}

// Map changes a message. If it fails, the message is as it was.
func (t *mapper) Map(m *node.Message) error {
	if err := t.begin(m); err != nil {
		return err
	}
	t.out.reset()
	t.topicSet, t.contentTypeSet, t.propertiesSet = false, false, false
	same := t.identity && !t.doc.Duplicates
	if t.wild && !same {
		t.mark()
	}
	for i := range t.rules {
		r := &t.rules[i]
		var err error
		switch {
		case r.out.remove || same && i == 0:
		case r.wild:
			err = t.spread(i)
		default:
			err = t.apply(r)
		}
		if err != nil {
			return err
		}
	}
	if !same {
		t.buffer = t.out.appendJSON(t.buffer[:0], 0)
		if len(t.buffer) > t.o.MaxBytes {
			t.buffer = nil
			return errOutput
		}
		if !bytes.Equal(t.buffer, m.Payload) {
			m.Payload = bytes.Clone(t.buffer)
		}
	}
	if t.topicSet {
		if m.InputTopic == "" {
			m.InputTopic = m.Topic
		}
		m.Topic, m.TopicSet = t.topic, t.topic != ""
	}
	if t.contentTypeSet {
		m.ContentType = t.contentType
	}
	if t.propertiesSet {
		m.Properties = t.properties
		t.properties = nil
	}
	return nil
}

// apply runs a rule without a wildcard.
func (t *mapper) apply(r *mapRule) error {
	if r.program == nil && r.out.to == fromPayload {
		return t.copy(r)
	}
	s, err := t.bind(&r.rule)
	if err != nil || s == skipped {
		return err
	}
	v := &t.value
	if r.program == nil {
		*v = t.env.In[0]
	} else if err := r.program.Run(&t.env, v); err != nil {
		return &RuleError{Rule: r.number, Err: err}
	}
	if r.out.to != fromPayload {
		err = t.metadata(r, v)
	} else {
		err = t.write(&r.out.path, v)
	}
	return r.failed(err)
}

func (r *mapRule) failed(err error) error {
	if err == nil {
		return nil
	}
	return &RuleError{Rule: r.number, Err: err}
}

// copy puts the text of a value where a rule wants it.
func (t *mapper) copy(r *mapRule) error {
	in := &r.inputs[0]
	if in.from != fromPayload && in.from != fromContext {
		s, err := t.loadMetadata(in, &t.value)
		if err == nil && s == missing {
			err = errMissing
		}
		if err != nil {
			return &RuleError{r.number, 1, err}
		}
		return r.failed(t.write(&r.out.path, &t.value))
	}
	d := &t.doc
	if in.from == fromContext {
		var err error
		if d, err = t.datasets[in.dataset].match(&t.work); err != nil || d == nil {
			return r.failed(err)
		}
	}
	var text []byte
	at := find(d, 0, in.path.keys)
	switch suffix := in.last || in.fallback; {
	case at >= 0 && (!suffix || d.Nodes[at].Kind != jsonscan.Null):
		if text = d.Raw(at); in.last {
			in.known = append(in.known[:0], text...)
		}
	case in.known != nil:
		text = in.known
	case in.fallback:
		return r.failed(t.write(&r.out.path, &in.value))
	default:
		return &RuleError{r.number, 1, errMissing}
	}
	n, err := t.out.walk(0, &r.out.path, 0, len(r.out.path.keys))
	if err == nil {
		err = t.out.put(n, text)
	}
	return r.failed(err)
}

// write puts a value at a path without a wildcard.
func (t *mapper) write(p *path, v *expr.Value) error {
	n, err := t.out.walk(0, p, 0, len(p.keys))
	if err != nil {
		return err
	}
	return t.put(n, v)
}

func (t *mapper) put(n int32, v *expr.Value) error {
	start := len(t.out.text)
	var ok bool
	if t.out.text, ok = v.AppendJSON(t.out.text); !ok {
		return errNaN
	}
	return t.out.put(n, t.out.text[start:len(t.out.text):len(t.out.text)])
}

// metadata writes a value to the topic, the content type or a user property.
func (t *mapper) metadata(r *mapRule, v *expr.Value) error {
	text := ""
	switch v.Kind {
	case expr.Empty:
	case expr.JSON:
		return errStructed
	default:
		start := len(t.out.text)
		t.out.text = v.AppendText(t.out.text)
		text = string(t.out.text[start:])
	}
	if len(text) > 65535 {
		return errProperty
	}
	switch r.out.to {
	case fromTopic:
		t.topic, t.topicSet = text, true
	case fromContentType:
		t.contentType, t.contentTypeSet = text, true
	default:
		if !t.propertiesSet {
			t.properties, t.propertiesSet = slices.Clone(t.message.Properties), true
		}
		if r.first || v.Kind == expr.Empty {
			t.properties = slices.DeleteFunc(t.properties, func(p node.Property) bool { return p.Key == r.out.property })
		}
		if v.Kind != expr.Empty {
			t.properties = append(t.properties, node.Property{Key: r.out.property, Value: text})
		}
	}
	return nil
}

// mark notes which values rules without a wildcard read or leave out: they say more about them than
// any wildcard, and replace it there.
func (t *mapper) mark() {
	n := len(t.doc.Nodes)
	if cap(t.marks) < n || cap(t.marks) > 1<<16 && n < 1<<12 {
		t.marks = make([]byte, n)
	}
	t.marks = t.marks[:n]
	clear(t.marks)
	for i := range t.rules {
		r := &t.rules[i]
		if r.wild || !r.reads || r.out.to != fromPayload {
			continue
		}
		r.nodes = r.nodes[:0]
		for k := range r.inputs {
			at := find(&t.doc, 0, r.inputs[k].path.keys)
			r.nodes = append(r.nodes, at)
			switch {
			case at >= 0 && r.out.remove: // with all that is in it
				for i := at; i < int(t.doc.Nodes[at].Next); i++ {
					t.marks[i] = 1
				}
			case at >= 0 && len(r.inputs) == 1:
				t.marks[at] = 1
			}
		}
	}
}

// spread runs a rule with a wildcard for all that it stands for.
func (t *mapper) spread(number int) error {
	r := &t.rules[number]
	in := &r.inputs[0]
	t.from, t.captured = &t.doc, t.captured[:0]
	if in.from == fromContext {
		d, err := t.datasets[in.dataset].match(&t.work)
		if err != nil || d == nil {
			return r.failed(err)
		}
		t.from = d
	}
	at := find(t.from, 0, in.path.keys[:in.path.star])
	if at < 0 {
		return nil
	}
	return t.descend(number, at)
}

// descend looks at what is in a value that the wildcard stands for, or stands before.
func (t *mapper) descend(number, at int) error {
	r := &t.rules[number]
	in := &r.inputs[0]
	d, suffix := t.from, in.path.keys[in.path.star:]
	if d.Nodes[at].Kind != jsonscan.Object {
		return nil
	}
	for c := range d.Children(at) {
		n := &d.Nodes[c]
		if n.Shadowed() {
			continue
		}
		t.captured = append(t.captured, c)
		inner := n.Kind == jsonscan.Object && !n.Empty() && in.from == fromPayload
		var err error
		if len(suffix) > 0 {
			if found := find(d, c, suffix); found >= 0 {
				err = t.capture(number, found)
			}
		} else if !inner {
			err = t.capture(number, c)
		}
		if err == nil && inner {
			err = t.descend(number, c)
		}
		if err != nil {
			return err
		}
		t.captured = t.captured[:len(t.captured)-1]
	}
	return nil
}

// capture runs a rule for one thing that its wildcard stands for: t.captured.
func (t *mapper) capture(number, found int) error {
	r := &t.rules[number]
	if r.reads {
		t.stack = append(t.stack[:0], found)
		for i := 1; i < len(r.inputs); i++ {
			t.stack = append(t.stack, t.resolve(&r.inputs[i]))
		}
		if t.replaced(number) {
			return nil
		}
	}
	if r.program == nil {
		n, err := t.target(&r.out.path)
		if err == nil {
			err = t.out.put(n, t.from.Raw(found))
		}
		return r.failed(err)
	}
	if cap(t.env.In) < len(r.inputs) {
		t.env.In = make([]expr.Value, len(r.inputs))
	}
	t.env.In = t.env.In[:len(r.inputs)]
	for i := range r.inputs {
		in := &r.inputs[i]
		if !in.hasStar() {
			s, err := t.load(in, &t.env.In[i])
			switch {
			case err != nil:
				return &RuleError{r.number, i + 1, err}
			case s == skipped, s == missing && !r.program.UsesEmpty:
				return nil
			}
			continue
		}
		at, d := found, t.from
		if i > 0 {
			at = t.resolve(in)
			if d = &t.doc; in.from == fromContext {
				d, _ = t.datasets[in.dataset].match(&t.work)
			}
		}
		switch {
		case at >= 0 && (!in.fallback || d.Nodes[at].Kind != jsonscan.Null):
			if err := t.env.Bind(d, at, &t.env.In[i]); err != nil {
				return &RuleError{r.number, i + 1, err}
			}
		case in.fallback:
			t.env.In[i] = in.value
		case r.program.UsesEmpty:
			t.env.In[i] = expr.Value{}
		default:
			return nil
		}
	}
	if err := r.program.Run(&t.env, &t.value); err != nil {
		return &RuleError{Rule: r.number, Err: err}
	}
	n, err := t.target(&r.out.path)
	if err == nil {
		err = t.put(n, &t.value)
	}
	return r.failed(err)
}

// target goes to the place in the output that a path with a wildcard names.
func (t *mapper) target(p *path) (int32, error) {
	if len(p.keys)+len(t.captured) > jsonscan.MaxDepth {
		return 0, errDepth
	}
	n, err := t.out.walk(0, p, 0, p.star)
	for _, c := range t.captured {
		if err == nil {
			err = t.out.enter(n)
		}
		if err != nil {
			return 0, err
		}
		n = t.out.child(n, t.from.Key(c), t.from.RawKey(c))
	}
	if err != nil {
		return 0, err
	}
	return t.out.walk(n, p, p.star, len(p.keys))
}

// resolve finds another input for what the wildcard stands for; -1: it is not there.
func (t *mapper) resolve(in *input) int {
	d := &t.doc
	if in.from == fromContext {
		d, _ = t.datasets[in.dataset].match(&t.work)
	}
	if d == nil || in.from != fromPayload && in.from != fromContext {
		return -1
	}
	if in.path.star < 0 {
		return find(d, 0, in.path.keys)
	}
	at := find(d, 0, in.path.keys[:in.path.star])
	for _, c := range t.captured {
		if at < 0 {
			return -1
		}
		at = d.FindLike(at, t.from, c)
	}
	if at < 0 {
		return -1
	}
	return find(d, at, in.path.keys[in.path.star:])
}

// replaced says whether a later rule reads the same inputs (t.stack) and captures fewer segments:
// it is the more specific one, and stands for the wildcard there.
func (t *mapper) replaced(number int) bool {
	r := &t.rules[number]
	if slices.Contains(t.stack, -1) {
		return false
	}
	if len(t.stack) == 1 && t.marks[t.stack[0]] != 0 {
		return true
	}
	for _, i := range r.rivals {
		if s := &t.rules[i]; s.wild && t.covers(s, r) || !s.wild && slices.Equal(s.nodes, t.stack) {
			return true
		}
	}
	return false
}

// findRivals notes which later rules may replace a rule with a wildcard. Those of one input without
// a wildcard are found by their marks.
func (t *mapper) findRivals() {
	for i := range t.rules {
		r := &t.rules[i]
		for k := i + 1; k < len(t.rules) && r.wild && r.reads; k++ {
			s := &t.rules[k]
			if s.reads && s.out.to == fromPayload && len(s.inputs) == len(r.inputs) && (s.wild || len(s.inputs) > 1) {
				r.rivals = append(r.rivals, k)
			}
		}
	}
}

// covers says whether the wildcard rule s finds what r has captured, with fewer segments for its *.
func (t *mapper) covers(s, r *mapRule) bool {
	captured := t.captured
	defer func() { t.captured = captured }()
	p, q := &r.inputs[0].path, &s.inputs[0].path
	if len(q.keys) <= len(p.keys) {
		return false
	}
	// The same keys, cut in another way: more of them are fixed.
	total := len(p.keys) + len(captured)
	key := func(i int) string {
		switch {
		case i < p.star:
			return p.keys[i].Text()
		case i < p.star+len(captured):
			return string(t.from.Key(captured[i-p.star]))
		}
		return p.keys[i-len(captured)].Text()
	}
	wild := total - len(q.keys)
	if wild < 1 {
		return false
	}
	for i := range q.keys {
		at := i
		if i >= q.star {
			at += wild
		}
		if key(at) != q.keys[i].Text() {
			return false
		}
	}
	if len(s.inputs) == 1 {
		return q.star < len(q.keys) || t.leaf(t.stack[0])
	}
	// Find the values that s captures, from the path of the first input.
	at, chain := 0, make([]int, 0, total)
	for i := range total {
		if at = t.doc.Find(at, jsonscan.MakeKey(key(i))); at < 0 {
			return false
		}
		chain = append(chain, at)
	}
	t.captured = chain[q.star : q.star+wild]
	for i := range s.inputs {
		if t.resolve(&s.inputs[i]) != t.stack[i] {
			return false
		}
	}
	return true
}

func (t *mapper) leaf(at int) bool {
	n := &t.doc.Nodes[at]
	return n.Kind != jsonscan.Object || n.Empty()
}

// statefulMap is a map that remembers last known values.
type statefulMap struct {
	*mapper
	memory
}
