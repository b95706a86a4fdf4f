package transform

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync/atomic"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
)

// Limits of a data set in memory.
const (
	maxRecords = 1 << 20
	maxDataset = 64 << 20 // bytes
)

// dataset is one data set. Its records are read again when the store has another revision.
type dataset struct {
	key, alias string
	rule       rule // its inputs are of the message, or of the record
	number     int

	loaded   bool
	revision uint64
	records  [][]byte
	index    map[string]int32 // the first record of each value, if the expression compares two inputs
	source   int              // the input of the message in that comparison; -1: there is no index
	buffer   []byte

	lack atomic.Uint32 // why it has no record at all; others than the operator read it

	turn   uint64 // of the message that asked last
	found  bool
	err    error
	record jsonscan.Document
}

// Why a data set has no record.
const (
	lacksNothing uint32 = iota
	lacksKey
	lacksRecords
	lacksRoom
)

// note notes whether there are records at all, and tells when there are none any more: each rule
// that asks for one is passed over, which nobody sees in what comes out.
func (s *dataset) note(w *work, lack uint32) {
	if s.lack.Swap(lack) != lack && lack != lacksNothing {
		w.o.Log(s.says(w.o, lack))
	}
}

func (s *dataset) says(o *Options, lack uint32) (text string) {
	switch lack {
	case lacksKey:
		text = fmt.Sprintf("the state store has no key %.40q", s.key)
	case lacksRecords:
		text = fmt.Sprintf("the value of the key %.40q has none", s.key)
	case lacksRoom:
		text = tooLarge(s.key)
	default:
		return ""
	}
	text = fmt.Sprintf("data set %.40q has no record, because %s: rules that need one are passed over", s.alias, text)
	if o.StoreFile != nil && lack != lacksRoom {
		text += fmt.Sprintf(" until %s has records, a JSON object in each line", o.StoreFile(s.key))
	}
	return text
}

func tooLarge(key string) string {
	return fmt.Sprintf("the value of the key %.40q has more than %d bytes", key, maxDataset)
}

// Keys returns the keys of the state store that the data sets read.
func (w *work) Keys() (keys []string) {
	for _, s := range w.datasets {
		keys = append(keys, s.key)
	}
	return keys
}

// Says returns what a person should know of the data sets; empty: nothing. Any goroutine may call
// it.
func (w *work) Says() string {
	var all []string
	for _, s := range w.datasets {
		if text := s.says(w.o, s.lack.Load()); text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}

// readDatasets reads the data sets of a setting.
func (f *config) readDatasets(fields map[string]int) (sets []*dataset) {
	at, ok := fields["datasets"]
	if !ok {
		return nil
	}
	keys := []string{"key", "inputs", "expression", "description"}
	if f.o.Dialect == Dataflow {
		keys = append(keys, "schemaRef")
	}
	for i, element := range f.list(at, 0, "datasets", 100) {
		set := &dataset{number: i + 1, source: -1}
		values := f.fields(element, 0, keys...)
		if key, ok := values["key"]; !ok {
			f.at(element, 0, "data set %d: key is missing: the key in the state store, and perhaps \"as\" and an alias", i+1)
		} else if text, ok := f.text(key, 0, "key"); ok {
			set.key, set.alias, ok = strings.Cut(text, " as ")
			set.key, set.alias = strings.TrimSpace(set.key), strings.TrimSpace(set.alias)
			if !ok {
				set.alias = set.key
			}
			if set.key == "" || set.alias == "" {
				f.at(key, 0, "data set %d: the key or the alias is empty", i+1)
			}
			f.warnLacks(key, set)
			for _, other := range sets {
				if other.alias == set.alias {
					f.at(key, 0, "data set %d: %.40q is the name of data set %d already; give it another alias with \"as\"", i+1, set.alias, other.number)
				}
			}
		}
		set.rule = *f.rule(element, 0, values, "expression", scope{record: true, dialect: f.o.Dialect})
		if set.rule.expression < 0 {
			f.at(element, 0, "data set %d: expression is missing: it says which record belongs to a message", i+1)
		}
		if p := set.rule.program; p != nil {
			set.findIndex(p)
		}
		if f.o.Store == nil {
			f.at(element, 0, "data set %d: there is no state store to read it from", i+1)
		}
		sets = append(sets, set)
	}
	return sets
}

// warnLacks warns of a key that nobody has filled yet, and of lines that are no records.
func (f *config) warnLacks(node int, set *dataset) {
	if !f.o.WarnLacks || set.key == "" || f.o.Store == nil || f.o.StoreFile == nil {
		return
	}
	warn := func(format string, a ...any) {
		f.o.Warn(Fault{Key: f.key, Offset: int(f.d.Nodes[node].Start), Text: fmt.Sprintf("data set %d: ", set.number) + fmt.Sprintf(format, a...)})
	}
	value, _, ok, err := f.o.Store.Get(set.key)
	switch {
	case err != nil:
		warn("the key %.40q of the state store cannot be read: %v", set.key, err)
	case !ok:
		warn("nothing fills the key %.40q of the state store; write its records to %s, a JSON object in each line, unless somebody else sets it later",
			set.key, f.o.StoreFile(set.key))
	case len(value) > maxDataset:
		warn("%s, so all of it is left out; make %s smaller", tooLarge(set.key), f.o.StoreFile(set.key))
	default:
		records := 0
		out := set.each(value, func(int, []byte) { records++ })
		if text := out.text(); text != "" {
			warn("%s: %s", f.o.StoreFile(set.key), text)
		} else if records == 0 && len(value) > 0 {
			warn("%s has no record; write a JSON object in each line", f.o.StoreFile(set.key))
		}
	}
}

// leftOut is which lines of a value are left out. Lines are counted from 1; 0: there is none.
type leftOut struct {
	bad, first int // lines that are no records, and the first of them
	from       int // the first record that is too many: nothing behind it is looked at
}

// each gives the records of a value to take.
func (s *dataset) each(value []byte, take func(n int, record []byte)) (out leftOut) {
	number, n := 0, 0
	for line := range bytes.Lines(value) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if s.record.Scan(line) != nil || s.record.Nodes[0].Kind != jsonscan.Object {
			if out.bad++; out.bad == 1 {
				out.first = number
			}
			continue
		}
		if n == maxRecords {
			out.from = number
			return out
		}
		take(n, line)
		n++
	}
	return out
}

// text says what is left out, and what to do; empty: nothing is.
func (l leftOut) text() string {
	var all []string
	if l.bad == 1 {
		all = append(all, fmt.Sprintf("line %d is no JSON object, and is left out; mend it", l.first))
	} else if l.bad > 1 {
		all = append(all, fmt.Sprintf("%d lines are no JSON object, the first is line %d; they are left out; mend them", l.bad, l.first))
	}
	if l.from > 0 {
		all = append(all, fmt.Sprintf("line %d and all after it are left out: a data set has at most %d records", l.from, maxRecords))
	}
	return strings.Join(all, "; ")
}

// findIndex sees whether a map can answer the expression: one input of the message equals one of
// the record, and that is all.
func (s *dataset) findIndex(p *expr.Program) {
	a, b, ok := p.Equality()
	if !ok || len(s.rule.inputs) != 2 || a == b {
		return
	}
	if s.rule.inputs[a].from == fromContext {
		a, b = b, a
	}
	if s.rule.inputs[a].from == fromPayload && s.rule.inputs[b].from == fromContext && !s.rule.inputs[a].fallback && !s.rule.inputs[b].fallback {
		s.source = a
	}
}

// match returns the first record that belongs to the message, and nil if there is none. None
// belongs to a message that lacks a field that the data set asks for.
func (s *dataset) match(w *work) (*jsonscan.Document, error) {
	if s.turn != w.turn {
		s.turn = w.turn
		s.found, s.err = s.search(w)
	}
	if s.err != nil || !s.found {
		return nil, s.err
	}
	return &s.record, nil
}

func (s *dataset) search(w *work) (found bool, err error) {
	value, revision, ok, err := w.o.Store.Get(s.key)
	if err != nil {
		return false, fmt.Errorf("data set %.40q: %w", s.alias, err)
	}
	if !ok {
		s.loaded, s.records, s.index = false, nil, nil
		s.note(w, lacksKey)
		return false, nil
	}
	if !s.loaded || revision != s.revision {
		s.load(w, value)
		s.loaded, s.revision = true, revision
	}
	if s.source < 0 {
		return s.scan(w)
	}
	in := &s.rule.inputs[s.source]
	at := find(&w.doc, 0, in.path.keys)
	if at < 0 {
		return false, nil
	}
	var v expr.Value
	if err := w.env.Bind(&w.doc, at, &v); err != nil {
		return false, err
	}
	if f, ok := v.Number(); v.Kind == expr.JSON || ok && math.Abs(f) >= 1<<53 {
		return s.scan(w) // what a map cannot tell, or must not
	}
	s.buffer = appendKey(s.buffer[:0], &v)
	i, ok := s.index[string(s.buffer)]
	if !ok {
		return false, nil
	}
	return true, s.record.Scan(s.records[i])
}

// appendKey appends what is the same for equal values, and for them alone.
func appendKey(dst []byte, v *expr.Value) []byte {
	if f, ok := v.Number(); ok {
		*v = expr.Value{Kind: expr.Float, Float: f + 0} // -0 is 0
		if f == 0 {
			v.Float = 0
		}
	}
	dst = append(dst, byte(v.Kind))
	if v.Kind == expr.Tuple {
		for i := range v.Tuple {
			dst = appendKey(append(dst, ','), &v.Tuple[i])
		}
		return dst
	}
	dst, _ = v.AppendJSON(dst)
	return dst
}

// load reads the records of a new value.
func (s *dataset) load(w *work, value []byte) {
	s.records, s.index = nil, nil
	if len(value) > maxDataset {
		s.note(w, lacksRoom)
		return
	}
	if s.source >= 0 {
		s.index = map[string]int32{}
	}
	out := s.each(value, func(n int, line []byte) {
		s.records = append(s.records, line)
		if s.source < 0 {
			return
		}
		at := find(&s.record, 0, s.rule.inputs[1-s.source].path.keys)
		var v expr.Value
		if at < 0 || w.env.Bind(&s.record, at, &v) != nil || v.Kind == expr.JSON {
			return
		}
		s.buffer = appendKey(s.buffer[:0], &v)
		if _, ok := s.index[string(s.buffer)]; !ok {
			s.index[string(s.buffer)] = int32(n)
		}
	})
	if len(s.records) > 0 {
		s.note(w, lacksNothing)
	} else {
		s.note(w, lacksRecords)
	}
	if text := out.text(); text != "" {
		w.o.Log(fmt.Sprintf("data set %.40q: %s", s.alias, text))
	}
}

// scan tries one record after another. A record that lacks a field does not match.
func (s *dataset) scan(w *work) (bool, error) {
	text, values := w.env.Mark()
	saved := w.env.In
	defer func() { w.env.In = saved }()
	w.env.In = make([]expr.Value, len(s.rule.inputs))
	for i := range s.rule.inputs {
		if in := &s.rule.inputs[i]; in.from == fromPayload {
			st, err := w.load(in, &w.env.In[i])
			if err != nil {
				return false, err
			}
			if st == missing && !s.rule.program.UsesEmpty {
				return false, nil
			}
		}
	}
	textIn, valuesIn := w.env.Mark()
	defer w.env.Rewind(text, values)
next:
	for _, record := range s.records {
		w.env.Rewind(textIn, valuesIn)
		if err := s.record.Scan(record); err != nil {
			return false, err
		}
		for i := range s.rule.inputs {
			in := &s.rule.inputs[i]
			if in.from != fromContext {
				continue
			}
			at := find(&s.record, 0, in.path.keys)
			switch {
			case at >= 0:
				if err := w.env.Bind(&s.record, at, &w.env.In[i]); err != nil {
					continue next
				}
			case in.fallback:
				w.env.In[i] = in.value
			case s.rule.program.UsesEmpty:
				w.env.In[i] = expr.Value{}
			default:
				continue next
			}
		}
		var v expr.Value
		if err := s.rule.program.Run(&w.env, &v); err != nil {
			return false, &RuleError{Err: err}
		}
		if v.Kind != expr.Bool {
			return false, &RuleError{Err: errBoolean}
		}
		if v.True() {
			return true, nil
		}
	}
	return false, nil
}
