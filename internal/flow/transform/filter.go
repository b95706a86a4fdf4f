package transform

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// filter is the operator filter: it drops a message for which a rule is true.
type filter struct {
	work
	rules    []rule
	validate bool
	schemas  map[string]schema
	buffer   []byte
}

// schema is a schema of payloads.
type schema struct {
	whole *jsonschema.Schema
	shape *shape // the same; nil: it has keywords that a shape has not
}

// branch is the operator branch: its rule says which arm a message takes.
type branch struct {
	work
	rule rule
}

type statefulFilter struct {
	*filter
	memory
}

type statefulBranch struct {
	*branch
	memory
}

func (c *compiler) filter(settings map[string]string) any {
	f, fields := c.openRules(settings, "filter")
	if f == nil {
		return nil
	}
	t := &filter{work: newWork(&c.o, f.readDatasets(fields)), schemas: map[string]schema{}}
	keys := c.ruleKeys("inputs", "expression")
	for i, element := range f.list(fields["filter"], 0, "filter", maxRules) {
		t.rules = append(t.rules, *f.condition(element, i+1, keys, t.datasets))
	}
	if at, ok := fields["validateSchema"]; ok {
		switch f.d.Nodes[at].Kind {
		case jsonscan.True:
			t.validate = true
		case jsonscan.False:
		default:
			f.at(at, 0, "validateSchema is true or false")
		}
	}
	if t.validate {
		f.checkSchema(t, fields["validateSchema"])
	} else if len(t.rules) == 0 {
		f.at(fields["filter"], 0, "a filter needs a rule, unless it validates a schema")
	}
	remembers := t.remembers(func(yield func(*rule) bool) {
		for i := range t.rules {
			if !yield(&t.rules[i]) {
				return
			}
		}
	})
	if len(remembers) > 0 {
		return &statefulFilter{t, memory{c.fingerprint, remembers}}
	}
	return t
}

// condition reads a rule that gives a boolean.
func (f *config) condition(element, number int, keys []string, sets []*dataset) *rule {
	r := f.rule(element, number, f.fields(element, number, keys...), "expression", scope{datasets: sets, dialect: f.o.Dialect})
	if r.expression < 0 {
		f.at(element, number, "expression is missing: a condition such as $1 > 100")
	}
	return r
}

func (c *compiler) branch(settings map[string]string) any {
	f, fields := c.openRules(settings, "branch")
	if f == nil {
		return nil
	}
	t := &branch{work: newWork(&c.o, f.readDatasets(fields))}
	if at := fields["branch"]; f.d.Nodes[at].Kind == jsonscan.Array {
		f.at(at, 0, "branch is one rule, an object in { }, and not a list")
	} else {
		t.rule = *f.condition(at, 1, c.ruleKeys("inputs", "expression"), t.datasets)
	}
	remembers := t.remembers(func(yield func(*rule) bool) { yield(&t.rule) })
	if len(remembers) > 0 {
		return &statefulBranch{t, memory{c.fingerprint, remembers}}
	}
	return t
}

// Filter says whether a message goes on: no rule is true, and it fits its schema if that is asked
// for.
func (t *filter) Filter(m *node.Message) (pass bool, err error) {
	if err := t.begin(m); err != nil {
		return false, err
	}
	if t.validate {
		if ok, err := t.valid(m); err != nil || !ok {
			return false, err
		}
	}
	for i := range t.rules {
		if yes, err := t.holds(&t.rules[i]); err != nil || yes {
			return false, err
		}
	}
	return true, nil
}

// Branch returns the arm of a message. A message that has no record in the data set that the rule
// asks for takes the arm false.
func (t *branch) Branch(m *node.Message, _ node.Time) (arm bool, err error) {
	if err := t.begin(m); err != nil {
		return false, err
	}
	return t.holds(&t.rule)
}

// maxSchemas bounds how many schemas a filter knows at a time.
const maxSchemas = 64

var errExtreme = fmt.Errorf("a number has more than %d digits, or an exponent beyond that, and a schema is not computed with these", maxDigits)

var errNoSchema = errors.New("the message names no schema, and neither does the connection")

// checkSchema compiles the schema of the connection at once.
func (f *config) checkSchema(t *filter, at int) {
	if f.o.Schema == nil {
		f.at(at, 0, "validateSchema: there are no schemas here")
		return
	}
	if f.o.SchemaRef == "" {
		return
	}
	if _, err := t.schema(f.o.SchemaRef); err != nil {
		f.at(at, 0, "validateSchema: %v", err)
	}
}

// valid says whether the payload fits the schema.
func (t *filter) valid(m *node.Message) (bool, error) {
	ref := t.o.SchemaRef
	if ref == "" {
		ref = m.Schema
	}
	if ref == "" {
		return false, errNoSchema
	}
	s, err := t.schema(ref)
	if err != nil {
		return false, err
	}
	if s.shape != nil {
		return s.shape.fits(&t.doc, 0, &t.buffer), nil
	}
	for i := range t.doc.Nodes {
		if t.doc.Nodes[i].Kind == jsonscan.Number && isExtreme(t.doc.Raw(i)) {
			return false, errExtreme
		}
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Payload))
	if err != nil {
		return false, err
	}
	return s.whole.Validate(value) == nil, nil
}

func (t *filter) schema(ref string) (s schema, err error) {
	if s, ok := t.schemas[ref]; ok {
		return s, nil
	}
	text, err := t.o.Schema(ref)
	if err != nil {
		return schema{}, fmt.Errorf("schema %.80q: %w", ref, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return schema{}, fmt.Errorf("schema %.80q: %w", ref, err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.UseLoader(noLoader{})
	const name = "schema:///message"
	if err := c.AddResource(name, doc); err != nil {
		return schema{}, fmt.Errorf("schema %.80q: %w", ref, err)
	}
	if s.whole, err = c.Compile(name); err != nil {
		return schema{}, fmt.Errorf("schema %.80q: %s", ref, short(err.Error()))
	}
	if len(t.schemas) >= maxSchemas {
		clear(t.schemas)
	}
	s.shape = shapes{}.of(s.whole)
	t.schemas[ref] = s
	return s, nil
}

// short makes the text of a library fit for one line.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

// noLoader keeps schemas from loading others.
type noLoader struct{}

// Load refuses.
func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a schema cannot refer to other files")
}
