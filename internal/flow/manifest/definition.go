package manifest

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// Definition is a graph definition: the file of an artifact that says which modules a graph runs,
// and how they are connected (Microsoft's page "Configure WebAssembly graph definitions for data
// flow graphs", and the JSON schemas aio-wasm-graph-config 1.0.0 and 1.1.0 of schemastore.org).
type Definition struct {
	Where
	File           string
	Metadata       DefinitionMetadata    `key:"metadata" must:"write metadata with $schema, name and version" about:"what the graph is"`
	Requirements   ModuleRequirements    `key:"moduleRequirements" must:"write moduleRequirements with apiVersion and runtimeVersion" about:"what the modules need"`
	Operations     []ModuleOperation     `key:"operations" must:"list a source, the operators and a sink" about:"the operators"`
	Connections    []ModuleConnection    `key:"connections" must:"list which operation leads to which" about:"which operation leads to which"`
	Configurations []ModuleConfiguration `key:"moduleConfigurations" about:"the parameters of operations"`
	Schemas        []InlineSchema        `key:"schemas" about:"schemas of payloads"`
}

// DefinitionMetadata says what a graph definition is.
type DefinitionMetadata struct {
	Where
	Schema      string `key:"$schema" must:"write \"https://www.schemastore.org/aio-wasm-graph-config-1.0.0.json\"" about:"the schema of the file"`
	Name        string `key:"name" must:"write a name for people" about:"a name for people"`
	Version     string `key:"version" must:"write the version of the graph, such as \"1.0.0\"" about:"the version of the graph"`
	Description string `key:"description" about:"a text for people" empty:"yes"`
	Vendor      string `key:"vendor" about:"a text for people" empty:"yes"`
}

// ModuleRequirements says what modules need.
type ModuleRequirements struct {
	Where
	APIVersion     string          `key:"apiVersion" must:"write the version of the modules' interface, such as \"1.1.0\"" about:"the version of the interface wasm-graph:processor"`
	RuntimeVersion string          `key:"runtimeVersion" must:"write the version of the runtime, such as \"1.1.0\"" about:"the version of the runtime"`
	Features       []ModuleFeature `key:"features" about:"what else the modules need"`
}

// ModuleFeature is something that modules need.
type ModuleFeature struct {
	Where
	Name  string `key:"name" must:"write the name of the feature" about:"the name"`
	Value string `key:"value" about:"its value" empty:"yes"`
}

// OperationType says what an operation of a graph definition does.
type OperationType string

// The types of operations.
const (
	OperationSource      OperationType = "source"
	OperationMap         OperationType = "map"
	OperationFilter      OperationType = "filter"
	OperationBranch      OperationType = "branch"
	OperationConcatenate OperationType = "concatenate"
	OperationAccumulate  OperationType = "accumulate"
	OperationDelay       OperationType = "delay"
	OperationSink        OperationType = "sink"
)

// Unbounded is the arity of an operation that takes any number of inputs.
const Unbounded = -1

// ModuleOperation is an operation: an operator of a module, or the beginning or an end of the
// graph.
type ModuleOperation struct {
	Where
	Name   string        `key:"name" must:"connections need it" about:"the name, by convention <module>/<operator>"`
	Type   OperationType `key:"operationType" must:"it says what the operation does" one:"source,map,filter,branch,concatenate,accumulate,delay,sink" about:"what the operation does"`
	Module string        `key:"module" about:"the module's artifact, relative to the registry's host"`
	Arity  int           `key:"arity" min:"1" max:"4294967295" unbounded:"yes" about:"of schema 1.1.0: how many inputs the operation takes, or unbounded; absent: 1"`
}

// ModuleConnection leads from an operation to another.
type ModuleConnection struct {
	Where
	From ModuleFrom `key:"from" must:"it names the operation that messages come from" about:"where messages come from"`
	To   ModuleTo   `key:"to" must:"it names the operation that messages go to" about:"where messages go"`
}

// ModuleFrom is the beginning of a connection.
type ModuleFrom struct {
	Where
	Name       string `key:"name" must:"it names the operation" about:"an operation"`
	Arm        string `key:"arm" one:"True,False" about:"of a branch: which output, in quotes"`
	SchemaName string `key:"schemaName" about:"one of schemas"`
}

// ModuleTo is the end of a connection.
type ModuleTo struct {
	Where
	Name string `key:"name" must:"it names the operation" about:"an operation"`
}

// ModuleConfiguration lists the parameters of an operation.
type ModuleConfiguration struct {
	Where
	Name       string               `key:"name" must:"it names the operation" about:"an operation"`
	Parameters map[string]Parameter `key:"parameters" must:"list the parameters, each with its name" about:"the parameters by the keys that the module knows"`
}

// Parameter is a parameter of an operation. It may have other keys, which have no meaning here.
type Parameter struct {
	Where       `open:"yes"`
	Name        string `key:"name" must:"it is the key in a graph's configuration" about:"the key in a graph's configuration"`
	Description string `key:"description" about:"a text for people" empty:"yes"`
	Default     string `key:"default" about:"the value if a graph does not say it" empty:"yes"`
	Required    bool   `key:"required" about:"a graph must say the value"`
	Schema      string `key:"schema" about:"of schema 1.1.0: what the value may be" empty:"yes"`
}

// InlineSchema is a schema of payloads.
type InlineSchema struct {
	Where
	Name   string `key:"name" must:"connections need it" about:"the name for connections"`
	Format string `key:"format" must:"write the format of the schema" about:"the format of the schema"`
	Schema string `key:"schema" must:"write the schema as a text" about:"the schema"`
}

// isDefinition says whether a document without a kind is a graph definition.
func isDefinition(root *yaml.Node) bool {
	return strict.Child(root, "operations") != nil && (strict.Child(root, "moduleRequirements") != nil || strict.Child(root, "connections") != nil)
}

// ParseGraph reads a graph definition. file is its name in faults. The definition is nil if the
// text is none at all; with an error among the faults it must not be run.
func ParseGraph(file string, text []byte) (*Definition, []Fault) {
	d, root := single(file, text, "a graph definition")
	if root == nil {
		return nil, Sort(d.All)
	}
	def := decodeDefinition(d, root)
	return def, Sort(d.All)
}

// single reads a file with one document.
func single(file string, text []byte, what string) (*strict.Decoder, *yaml.Node) {
	d := &strict.Decoder{Faults: &faults{}}
	d.Src = strict.Checked(d.Faults, file, text)
	if d.Src == nil {
		return d, nil
	}
	all, whole := strict.Documents(d.Faults, d.Src)
	switch {
	case !whole:
		return d, nil
	case len(all) == 0:
		d.Error(strict.Start(file), "document", "the file is empty; it should have %s", what)
		return d, nil
	case len(all) > 1:
		d.Error(d.Pos(all[1].Root), "document", "a second document begins here; a file holds one, %s", what)
		return d, nil
	}
	return d, all[0].Root
}

func decodeDefinition(d *strict.Decoder, root *yaml.Node) *Definition {
	def := &Definition{File: d.Src.File}
	d.Object(root, def, "the graph definition")
	c := &definitionChecker{Decoder: d, def: def, index: map[string]int{}}
	c.metadata()
	c.operations()
	c.connections()
	c.configurations()
	return def
}

type definitionChecker struct {
	*strict.Decoder
	def   *Definition
	index map[string]int // operations by name
}

const definitionSchema = "https://www.schemastore.org/aio-wasm-graph-config-"

func (c *definitionChecker) metadata() {
	m, r := &c.def.Metadata, &c.def.Requirements
	if v := c.version(); v == "" && m.Schema != "" {
		c.Warn(m.At("$schema"), "definition-schema", "the schema %s is not known; write %s1.0.0.json or %s1.1.0.json", strict.Quoted(m.Schema), definitionSchema, definitionSchema)
	}
	for _, v := range []struct{ key, value string }{{"apiVersion", r.APIVersion}, {"runtimeVersion", r.RuntimeVersion}} {
		if v.value != "" && !strings.HasPrefix(v.value, "1.") {
			c.Error(r.At(v.key), "definition-version", "modules of version %s cannot be run; build them for a version 1.x", strict.Clip(v.value))
		}
	}
	for _, f := range r.Features {
		if f.Name == "wasi-nn" {
			c.Error(f.At("name"), "definition-feature", "the modules need wasi-nn, an engine for neural networks, and hubhop has none; take a graph without it")
		} else if f.Name != "" {
			c.Warn(f.At("name"), "definition-feature", "the feature %s is not known; the modules may not run", strict.Quoted(f.Name))
		}
	}
}

// version returns the version of the file's schema; empty: it is not known.
func (c *definitionChecker) version() string {
	s := c.def.Metadata.Schema
	for _, v := range []string{"1.0.0", "1.1.0"} {
		if strings.HasSuffix(s, "/aio-wasm-graph-config-"+v+".json") {
			return v
		}
	}
	return ""
}

func (c *definitionChecker) operations() {
	sources, sinks := 0, 0
	for i := range c.def.Operations {
		o := &c.def.Operations[i]
		if first, ok := c.index[o.Name]; ok && o.Name != "" {
			c.Error(o.At("name"), "operation-twice", "there is an operation %s already, in line %d; give one of them another name", strict.Quoted(o.Name), c.def.Operations[first].Pos().Line)
		} else {
			c.index[o.Name] = i
		}
		none := false
		switch o.Type {
		case OperationSource:
			sources, none = sources+1, true
		case OperationSink:
			sinks, none = sinks+1, true
		case OperationConcatenate:
			none = true
		default:
			if o.Module == "" && o.Type != "" {
				c.Error(o.Pos(), "operation-module", "the operation %s has no module; write module with the artifact that has the operator", o.Name)
			}
		}
		if none && o.Module != "" {
			c.Warn(o.At("module"), "operation-module", "a %s runs no module; remove module", o.Type)
		}
		if o.Has("arity") && c.version() == "1.0.0" {
			c.Error(o.At("arity"), "operation-arity", "arity belongs to schema 1.1.0, and the file says 1.0.0; remove it, or write %s1.1.0.json", definitionSchema)
		}
	}
	if c.def.Has("operations") && sources == 0 {
		c.Error(c.def.At("operations"), "definition-source", "there is no operation of the type source; add one, and connect it")
	}
	if c.def.Has("operations") && sinks == 0 {
		c.Error(c.def.At("operations"), "definition-sink", "there is no operation of the type sink; add one, and connect it")
	}
}

// find returns the operation of a name, or notes that there is none.
func (c *definitionChecker) find(name string, at Pos) (int, bool) {
	i, ok := c.index[name]
	if !ok && name != "" {
		c.Error(at, "connection-name", "there is no operation %s%s", strict.Quoted(name), c.suggest(name))
	}
	return i, ok && name != ""
}

func (c *definitionChecker) suggest(name string) string {
	var names []string
	for _, o := range c.def.Operations {
		names = append(names, o.Name)
	}
	if near := strict.Nearest(name, names); near != "" {
		return "; did you mean " + near + "?"
	}
	return "; add it, or name another"
}

func (c *definitionChecker) connections() {
	ops := c.def.Operations
	n := newWays(len(ops))
	arms := map[int]map[string]bool{}
	seen := map[string]Pos{}
	for i := range c.def.Connections {
		k := &c.def.Connections[i]
		from, okFrom := c.find(k.From.Name, k.From.At("name"))
		to, okTo := c.find(k.To.Name, k.To.At("name"))
		if s := k.From.SchemaName; s != "" && !slices.ContainsFunc(c.def.Schemas, func(x InlineSchema) bool { return x.Name == s }) {
			c.Error(k.From.At("schemaName"), "connection-schema", "there is no schema %s; add it to schemas, or remove schemaName", strict.Quoted(s))
		}
		if !okFrom || !okTo {
			continue
		}
		a, b := &ops[from], &ops[to]
		branch := a.Type == OperationBranch
		switch {
		case a.Type == OperationSink:
			c.Error(k.From.At("name"), "connection-from-sink", "%s is a sink, and nothing leads out of it; exchange from and to, or remove the connection", a.Name)
			continue
		case b.Type == OperationSource:
			c.Error(k.To.At("name"), "connection-to-source", "%s is a source, and nothing leads into it; exchange from and to, or remove the connection", b.Name)
			continue
		case from == to:
			c.Error(k.To.At("name"), "connection-self", "%s leads to itself; remove the connection", a.Name)
			continue
		case branch && !k.From.Has("arm"):
			c.Error(k.From.Pos(), "arm-missing", "%s is a branch; write arm: \"True\" or arm: \"False\"", a.Name)
		case !branch && k.From.Arm != "":
			c.Error(k.From.At("arm"), "arm-of-no-branch", "%s is no branch, and has no arms; remove arm", a.Name)
		}
		id := fmt.Sprint(from, k.From.Arm, to)
		if first, ok := seen[id]; ok {
			c.Error(k.Pos(), "connection-twice", "the connection from %s to %s is in line %d already; remove one", a.Name, b.Name, first.Line)
			continue
		}
		seen[id] = k.Pos()
		if arms[from] == nil {
			arms[from] = map[string]bool{}
		}
		arms[from][k.From.Arm] = true
		n.edge(from, to)
	}
	for i := range ops {
		c.inputs(n, i)
		if o := &ops[i]; o.Type == OperationBranch && len(n.out[i]) > 0 && !arms[i][""] {
			for _, arm := range []string{"True", "False"} {
				if !arms[i][arm] {
					c.Error(o.At("name"), "arm-open", "the arm %q of the branch %s leads nowhere; connect it, for instance with a concatenate", arm, o.Name)
				}
			}
		}
	}
	if loop := n.cycle(); loop != nil {
		c.Error(ops[loop[0]].At("name"), "connection-cycle", "messages would go round: %s; remove one of the connections", round(loop, func(i int) string { return ops[i].Name }))
	}
	c.reach(n)
}

// inputs checks how many connections lead into an operation.
func (c *definitionChecker) inputs(n *ways, i int) {
	o := &c.def.Operations[i]
	most := max(o.Arity, 1)
	if o.Arity == Unbounded || o.Type == OperationConcatenate || o.Type == OperationSink || o.Type == "" {
		return
	}
	if len(n.in[i]) > most {
		c.Error(o.At("name"), "operation-inputs", "%d connections lead into %s, and it takes %d; join them with a concatenate", len(n.in[i]), o.Name, most)
	}
}

// reach checks that every operation is on a way from a source to a sink.
func (c *definitionChecker) reach(n *ways) {
	var sources, sinks []int
	for i, o := range c.def.Operations {
		switch o.Type {
		case OperationSource:
			sources = append(sources, i)
		case OperationSink:
			sinks = append(sinks, i)
		default:
		}
	}
	if len(sources) == 0 || len(sinks) == 0 {
		return
	}
	forth, back := reach(n.out, sources, nil), reach(n.in, sinks, nil)
	for i, o := range c.def.Operations {
		switch {
		case o.Type == "" || c.index[o.Name] != i:
		case !forth[i]:
			c.Error(o.At("name"), "operation-unreachable", "no source leads to %s; connect it, or remove it", o.Name)
		case !back[i]:
			c.Error(o.At("name"), "operation-dead-end", "%s leads to no sink; connect it, or remove it", o.Name)
		}
	}
}

func (c *definitionChecker) configurations() {
	seen := map[string]bool{}
	for i := range c.def.Configurations {
		m := &c.def.Configurations[i]
		if _, ok := c.index[m.Name]; !ok && m.Name != "" {
			c.Error(m.At("name"), "configuration-name", "there is no operation %s%s", strict.Quoted(m.Name), c.suggest(m.Name))
		}
		if seen[m.Name] && m.Name != "" {
			c.Error(m.At("name"), "configuration-twice", "the parameters of %s are listed already; join the lists", strict.Quoted(m.Name))
		}
		seen[m.Name] = true
	}
}

// Value is a setting as a module gets it.
type Value struct{ Key, Value string }

// Configure returns what each operation of a graph definition gets of a node's configuration, by
// the operations' names, sorted by key. A setting counts for each parameter whose key or name it
// has, and the module gets it under the parameter's key. What a node does not say has its default.
// Faults are a required parameter that is missing, at the node, and a setting that fits no
// parameter: that goes to every operation.
func (d *Definition) Configure(node Operator) (map[string][]Value, []Fault) {
	f := &faults{}
	used := map[string]bool{}
	all := map[string][]Value{}
	for _, m := range d.Configurations {
		for key, p := range m.Parameters {
			i := slices.IndexFunc(node.Configuration, func(s Setting) bool { return s.Key == key || s.Key == p.Name })
			switch {
			case i >= 0:
				all[m.Name] = append(all[m.Name], Value{key, node.Configuration[i].Value})
			case p.Has("default"):
				all[m.Name] = append(all[m.Name], Value{key, p.Default})
			case p.Required:
				f.Error(node.At("configuration"), "parameter-missing", "the node %s has no setting %s, and the operation %s of its graph needs it; add it to configuration", node.Name, strict.Quoted(p.Name), m.Name)
			}
			used[key], used[p.Name] = true, true
		}
	}
	for _, s := range node.Configuration {
		if used[s.Key] {
			continue
		}
		f.Warn(s.At("key"), "parameter-unknown", "no operation of the graph has a parameter %s; all of them get it", strict.Quoted(s.Key))
		for _, o := range d.Operations {
			if o.Module != "" {
				all[o.Name] = append(all[o.Name], Value{s.Key, s.Value})
			}
		}
	}
	for _, values := range all {
		slices.SortFunc(values, func(a, b Value) int { return strings.Compare(a.Key, b.Key) })
	}
	return all, Sort(f.All)
}
