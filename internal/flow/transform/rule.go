package transform

import (
	"errors"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// rule is one rule, compiled: its inputs and its expression.
type rule struct {
	number     int // counted from 1
	inputs     []input
	expression int           // where its text is in the setting; -1: there is none
	program    *expr.Program // nil: there is none
}

// The reasons why a rule fails.
var (
	errMissing = errors.New("the message does not have this field, and the input has no default")
	errBoolean = errors.New("the expression gives no boolean")
	errNaN     = errors.New("the result is no number that JSON can write")
)

// work is what an operator needs while it handles one message. It is used again for the next one.
type work struct {
	o        *Options
	doc      jsonscan.Document
	env      expr.Env
	value    expr.Value // the result of an expression
	datasets []*dataset
	message  *node.Message
	turn     uint64 // counts messages, so that each asks a data set once
}

func newWork(o *Options, datasets []*dataset) work {
	return work{o: o, datasets: datasets, env: expr.Env{MaxBytes: o.MaxBytes, Wide: o.Dialect == Dataflow}}
}

// begin scans the payload of a message, which must be an object.
func (w *work) begin(m *node.Message) error {
	w.message = m
	w.turn++
	w.env.Reset()
	if len(m.Payload) > w.o.MaxBytes {
		return errLarge
	}
	if err := w.doc.Scan(m.Payload); err != nil {
		return err
	}
	if w.doc.Nodes[0].Kind != jsonscan.Object {
		return errObject
	}
	return nil
}

// find follows a path without a wildcard; -1: nothing is there.
func find(d *jsonscan.Document, at int, keys []jsonscan.Key) int {
	for _, key := range keys {
		if at = d.Find(at, key); at < 0 {
			return -1
		}
	}
	return at
}

// status is what became of the inputs of a rule.
type status byte

const (
	bound   status = iota
	missing        // a field is not there
	skipped        // a data set has no record for the message
)

// bind gives the inputs of a rule their values. A field that is missing is an error, but to an
// expression that asks for it with ().
func (w *work) bind(r *rule) (status, error) {
	if cap(w.env.In) < len(r.inputs) {
		w.env.In = make([]expr.Value, len(r.inputs))
	}
	w.env.In = w.env.In[:len(r.inputs)]
	for i := range r.inputs {
		s, err := w.load(&r.inputs[i], &w.env.In[i])
		if err != nil {
			return s, &RuleError{r.number, i + 1, err}
		}
		switch {
		case s == skipped:
			return skipped, nil
		case s == missing && (r.program == nil || !r.program.UsesEmpty):
			return missing, &RuleError{r.number, i + 1, errMissing}
		}
	}
	return bound, nil
}

// load gives the value of one input; a missing one is empty.
func (w *work) load(in *input, v *expr.Value) (status, error) {
	d := &w.doc
	var at int
	switch in.from {
	case fromPayload:
		at = find(d, 0, in.path.keys)
	case fromContext:
		set := w.datasets[in.dataset]
		record, err := set.match(w)
		if err != nil {
			return bound, err
		}
		if record == nil {
			return skipped, nil
		}
		d, at = record, find(record, 0, in.path.keys)
	default:
		return w.loadMetadata(in, v)
	}
	if at < 0 {
		return w.loadMissing(in, v)
	}
	if in.last || in.fallback {
		if d.Nodes[at].Kind == jsonscan.Null {
			return w.loadMissing(in, v)
		}
		if in.last {
			in.known = append(in.known[:0], d.Raw(at)...)
		}
	}
	return bound, w.env.Bind(d, at, v)
}

func (w *work) loadMetadata(in *input, v *expr.Value) (status, error) {
	text, ok := w.message.Topic, true
	switch in.from {
	case fromContentType:
		text = w.message.ContentType
		ok = text != ""
	case fromProperty:
		text, ok = w.message.Get(in.property)
	default:
	}
	if !ok {
		return w.loadMissing(in, v)
	}
	if in.last {
		in.known = jsonscan.AppendString(in.known[:0], text)
	}
	w.env.BindText(text, v)
	return bound, nil
}

// loadMissing gives the last known value, or the default.
func (w *work) loadMissing(in *input, v *expr.Value) (status, error) {
	switch {
	case in.known != nil:
		if err := in.knownDoc.Scan(in.known); err != nil {
			return bound, err
		}
		return bound, w.env.Bind(&in.knownDoc, 0, v)
	case in.fallback:
		*v = in.value
		return bound, nil
	}
	*v = expr.Value{}
	return missing, nil
}

// holds says whether the expression of a rule is true for the message. A rule whose data set has no
// record for it is not.
func (w *work) holds(r *rule) (bool, error) {
	s, err := w.bind(r)
	if err != nil || s == skipped {
		return false, err
	}
	if err := r.program.Run(&w.env, &w.value); err != nil {
		return false, &RuleError{Rule: r.number, Err: err}
	}
	if w.value.Kind != expr.Bool {
		return false, &RuleError{Rule: r.number, Err: errBoolean}
	}
	return w.value.True(), nil
}
