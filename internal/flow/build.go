package flow

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

// maxSchema bounds a schema, in bytes.
const maxSchema = 1 << 20

// builder makes plans of graphs.
type builder struct {
	dir       string
	modules   Modules
	store     transform.Store
	strict    bool                    // a data set whose key the store lacks is a fault
	storeFile func(key string) string // the file that fills a key; nil: none does
	now       func() time.Time        // of throttles; nil: time.Now
	log       func(flow, text string) // what operators say of themselves; may be nil
	faults    []manifest.Fault
	unfit     []func() uint64 // how many messages each source has dropped before they came into the graph
	lost      []func() uint64 // how many messages that were safe at each destination are lost
	gaps      []func() uint64 // how often the broker of each source has lost its session
	troubles  []func() string // what is wrong with each connection; empty: nothing
}

func (b *builder) fault(at manifest.Pos, severity manifest.Severity, format string, a ...any) {
	b.faults = append(b.faults, manifest.Fault{Pos: at, Severity: severity, Text: fmt.Sprintf(format, a...)})
}

// plan makes the plan of a graph, with sources and destinations that have no endpoint yet. It is of
// no use if there is an error among the faults.
func (b *builder) plan(g *manifest.Graph) graph.Plan {
	p := graph.Plan{Name: g.Name}
	for i := range g.Sources {
		p.Sources = append(p.Sources, graph.SourceNode{Name: g.Sources[i].Name})
	}
	into, out := map[string][]string{}, map[string]map[string][]EdgeFrom{}
	for i := range g.Operators {
		o := &g.Operators[i]
		if o.Native == "" {
			b.expand(&p, g, o, into, out)
			continue
		}
		r := b.recipe(g, o)
		p.Operators = append(p.Operators, graph.OperatorNode{Name: o.Name, Op: b.compile(g, o, r), Config: configOf(o), Recipe: r.text()})
	}
	for i := range g.Destinations {
		d := &g.Destinations[i]
		prepare, err := prepareFor(d)
		if err != nil {
			b.fault(d.At("dataDestination"), manifest.Error, "%v", err)
			continue
		}
		p.Destinations = append(p.Destinations, graph.DestinationNode{Name: d.Name, Prepare: prepare})
	}
	for i := range g.Connections {
		c := &g.Connections[i]
		from := []EdgeFrom{{c.From, armOf(c.Arm)}}
		if outputs, ok := out[c.From]; ok {
			if from, ok = outputs[c.Output]; !ok {
				b.fault(c.Pos(), manifest.Error, "%s has no output %q; compare the graph definition", c.From, c.Output)
			}
		}
		to, ok := into[c.To]
		if !ok {
			to = []string{c.To}
		}
		for _, f := range from {
			for _, t := range to {
				p.Edges = append(p.Edges, graph.Edge{From: f.Operator, To: t, Arm: f.Arm})
			}
		}
	}
	return p
}

// rules makes the native operators of a graph, and nothing else of it.
func (b *builder) rules(g *manifest.Graph) (p graph.Plan) {
	for i := range g.Operators {
		if o := &g.Operators[i]; o.Native != "" {
			p.Operators = append(p.Operators, graph.OperatorNode{Name: o.Name, Op: b.compile(g, o, b.recipe(g, o))})
		}
	}
	return p
}

// expand puts modules in the place of a node.
func (b *builder) expand(p *graph.Plan, g *manifest.Graph, o *manifest.Operator, into map[string][]string, out map[string]map[string][]EdgeFrom) {
	if b.modules == nil {
		b.fault(o.Pos(), manifest.Error, "the node %s runs the WebAssembly graph %s, and this version of hubhop runs only the graphs "+
			"azureiotoperations/graph-dataflow-map, -filter, -branch, -concatenate, -window and -throttle; use one of these, or disable the graph with mode: Disabled", o.Name, artifactOf(o))
		return
	}
	x, faults := b.modules.Expand(o, schemaInto(g, o.Name))
	b.faults = append(b.faults, faults...)
	if x == nil {
		return
	}
	p.Operators, p.Edges = append(p.Operators, x.Operators...), append(p.Edges, x.Edges...)
	into[o.Name], out[o.Name] = x.In, x.Out
}

func artifactOf(o *manifest.Operator) string {
	if o.Version == "" {
		return o.Artifact
	}
	return o.Artifact + ":" + o.Version
}

func armOf(a manifest.Arm) graph.Arm {
	switch a {
	case manifest.TrueArm:
		return graph.True
	case manifest.FalseArm:
		return graph.False
	default:
		return graph.None
	}
}

// schemaInto returns the schema of what comes to a node; empty: none is said.
func schemaInto(g *manifest.Graph, name string) string {
	for i := range g.Connections {
		if c := &g.Connections[i]; c.To == name && c.Schema != "" {
			return c.Schema
		}
	}
	return ""
}

// configOf returns a text that changes with what an operator does.
func configOf(o *manifest.Operator) string {
	h := sha256.New()
	for _, s := range append([]manifest.Setting{{Key: string(o.Native), Value: o.Version}}, o.Configuration...) {
		_, _ = fmt.Fprintf(h, "%d %s %d %s ", len(s.Key), s.Key, len(s.Value), s.Value)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// recipe is all that a native operator is made of. A checkpoint keeps it, so that what the operator
// holds can be given out by the old rules when they have changed.
type recipe struct {
	Kind, Version string
	Settings      []transform.Setting
	Dialect       bool   `json:",omitempty"`
	SchemaRef     string `json:",omitempty"`
	Schema        []byte `json:",omitempty"`
}

func (b *builder) recipe(g *manifest.Graph, o *manifest.Operator) recipe {
	r := recipe{Kind: string(o.Native), Version: o.Version, Dialect: o.Dialect, SchemaRef: schemaInto(g, o.Name)}
	for i := range o.Configuration {
		r.Settings = append(r.Settings, transform.Setting{Key: o.Configuration[i].Key, Value: o.Configuration[i].Value})
	}
	if r.SchemaRef != "" {
		r.Schema, _ = b.schema(r.SchemaRef) // whoever needs it says what is wrong with it
	}
	return r
}

func (r recipe) text() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // it has nothing but texts
	}
	return string(text)
}

// make makes the operator.
func (r recipe) make(b *builder, flow, node string, o transform.Options) (any, error) {
	o.Now, o.Store, o.SchemaRef = b.now, b.store, r.SchemaRef
	if r.Dialect {
		o.Dialect = transform.Dataflow
	}
	if b.log != nil {
		o.Log = func(text string) { b.log(flow, "node "+node+": "+text) }
	}
	return transform.Compile(r.Kind, r.Version, r.Settings, o)
}

// remake makes operators of an older plan of a flow.
func (b *builder) remake(flow string) func(node, text string) (any, error) {
	return func(node, text string) (any, error) {
		var r recipe
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return nil, fmt.Errorf("its recipe: %w", err)
		}
		return r.make(b, flow, node, transform.Options{Schema: func(ref string) ([]byte, error) {
			if ref == r.SchemaRef {
				return r.Schema, nil
			}
			return b.schema(ref)
		}})
	}
}

// compile makes a native operator.
func (b *builder) compile(g *manifest.Graph, o *manifest.Operator, r recipe) any {
	op, err := r.make(b, g.Name, o.Name, transform.Options{
		StoreFile: b.storeFile, WarnLacks: b.strict, Schema: b.schema,
		Warn: func(f transform.Fault) { b.fault(placeOf(o, f), manifest.Warning, "%s", f.Text) },
	})
	faults, ok := errors.AsType[transform.ConfigErrors](err)
	for _, f := range faults {
		b.fault(placeOf(o, f), manifest.Error, "%s", f.Text)
	}
	if err != nil && !ok {
		b.fault(o.Pos(), manifest.Error, "%v", err)
	}
	return op
}

// placeOf returns where a fault of a configuration is in its file.
func placeOf(o *manifest.Operator, f transform.Fault) manifest.Pos {
	i := slices.IndexFunc(o.Configuration, func(s manifest.Setting) bool { return s.Key == f.Key })
	if i < 0 {
		return o.Pos()
	}
	s := &o.Configuration[i]
	if f.Offset >= 0 {
		return s.Offset(f.Offset)
	}
	if f.Rule == 0 {
		return s.Pos()
	}
	list := map[manifest.Native]string{manifest.NativeWindow: "accumulate"}[o.Native]
	if list == "" {
		list = string(o.Native)
	}
	return s.Inside(fmt.Sprintf("%s[%d].expression", list, f.Rule-1), f.Column)
}

// schema reads the schema that a reference names.
func (b *builder) schema(ref string) ([]byte, error) {
	r, ok := manifest.ParseSchemaRef(ref)
	if !ok {
		return nil, fmt.Errorf("%q is no reference of a schema; it is aio-sr://[<namespace>/]<name>:<version>", ref)
	}
	return namedfile.Read("schema "+ref, manifest.SchemaPath(b.dir, r), maxSchema)
}

// digest changes with whatever decides what a graph does: its manifests and the schemas that it
// names.
func (b *builder) digest(g *manifest.Graph) string {
	h := sha256.New()
	_, _ = io.WriteString(h, g.Digest)
	for i := range g.Connections {
		ref := g.Connections[i].Schema
		if ref == "" {
			continue
		}
		text, err := b.schema(ref)
		_, _ = fmt.Fprintf(h, " %s %d %s %v", ref, len(text), text, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// notes returns what says what a person should know of the operators of a plan.
func notes(p graph.Plan) (says []func() string) {
	for _, o := range p.Operators {
		if op, ok := o.Op.(interface{ Says() string }); ok {
			says = append(says, func() string {
				if text := op.Says(); text != "" {
					return "node " + o.Name + ": " + text
				}
				return ""
			})
		}
	}
	return says
}

// fixedStore is a state store that a file has filled.
type fixedStore map[string][]byte

// Get is that of transform.Store.
func (s fixedStore) Get(key string) ([]byte, uint64, bool, error) {
	v, ok := s[key]
	return v, 1, ok, nil
}

// ParseStore reads a JSON object of keys and texts.
func ParseStore(text []byte) (transform.Store, error) {
	var all map[string]string
	if err := json.Unmarshal(text, &all); err != nil || all == nil {
		return nil, fmt.Errorf("the store must be a JSON object whose values are texts, such as {\"assets\": \"{\\\"id\\\":1}\\n{\\\"id\\\":2}\"}")
	}
	s := fixedStore{}
	for key, v := range all {
		s[key] = []byte(v)
	}
	return s, nil
}

// graphDir is where a graph keeps its journal and what else it remembers.
func graphDir(stateDir, name string) string { return filepath.Join(stateDir, "graphs", name) }
