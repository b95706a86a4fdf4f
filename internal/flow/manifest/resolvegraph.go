package manifest

import (
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// nodeName matches names of nodes, and keys of configurations.
var nodeName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_-]+$`) })

// artifactForm matches <name>:<version>, where the name may begin with the registry's host. The
// version may be missing.
var artifactForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^((?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)(?::([A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?$`)
})

// nativeForm matches the artifacts of native operators.
var nativeForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?:^|/)azureiotoperations/graph-dataflow-([a-z]+)$`) })

// nativeVersions are the versions of native operators that are known.
var nativeVersions = map[Native][]string{
	NativeMap: {"1.0.0"}, NativeFilter: {"1.0.0"}, NativeBranch: {"1.0.0"},
	NativeConcatenate: {"1.0.0"}, NativeWindow: {"1.0.0", "1.1.0"}, NativeThrottle: {"1.0.0"},
}

// nativeSettings are the settings that a native operator knows; those before the bar it needs.
var nativeSettings = map[Native]struct{ must, may []string }{
	NativeMap: {must: []string{"rules"}}, NativeFilter: {must: []string{"rules"}}, NativeBranch: {must: []string{"rules"}},
	NativeConcatenate: {}, NativeThrottle: {must: []string{"throttle"}},
	NativeWindow: {must: []string{"rules"}, may: []string{"delay", "count", "memory", "triggers"}},
}

// dataflowGraph resolves a DataflowGraph.
func (r *resolver) dataflowGraph(d *DataflowGraph) {
	r.base(d.Where, d.ProfileRef)
	if d.Has("fileStores") {
		r.Error(d.At("fileStores"), "file-stores", "fileStores is of a preview, and hubhop has none; remove it")
	}
	r.index, r.count = map[string]int{}, len(d.Nodes)
	g := r.graph
	for i := range d.Nodes {
		n := &d.Nodes[i]
		r.nodeShape(n)
		if first, ok := r.index[n.Name]; ok && n.Name != "" {
			r.Error(n.At("name"), "node-twice", "there is a node %s already, in line %d; give one of them another name", n.Name, d.Nodes[first].Pos().Line)
		} else {
			r.index[n.Name] = i
		}
		switch {
		case n.Type == "Source" && n.Source != nil:
			s := n.Source
			g.Sources = append(g.Sources, r.source(s.Where, n.Name, s.EndpointRef, s.DataSources, s.AssetRef))
		case n.Type == "Graph" && n.Graph != nil:
			g.Operators = append(g.Operators, r.operator(n))
		case n.Type == "Destination" && n.Destination != nil:
			s := n.Destination
			if s.OutputSchema != nil {
				r.Error(s.At("outputSchemaSettings"), "output-schema", "outputSchemaSettings is for files, and a graph writes none; remove it")
			}
			g.Destinations = append(g.Destinations, r.destination(s.Where, n.Name, s.EndpointRef, s.DataDestination, s.Headers))
		}
	}
	n := r.graphConnections(d)
	r.nodesReached(d, n)
	r.branches(d, n)
	r.overlaps()
	r.retained()
	r.outputTopics(n)
	r.schemas()
	if r.strict {
		r.repeated(d, n)
	}
}

// nodeShape checks that a node has the block of its type and no other, and a name.
func (r *resolver) nodeShape(n *Node) {
	if n.Name != "" && !nodeName().MatchString(n.Name) {
		r.Error(n.At("name"), "node-name", "%s is no name for a node; take letters, digits, _ and -", strict.Quoted(n.Name))
	}
	for _, b := range []struct {
		of, key string
		there   bool
	}{
		{"Source", "sourceSettings", n.Source != nil},
		{"Graph", "graphSettings", n.Graph != nil},
		{"Destination", "destinationSettings", n.Destination != nil},
	} {
		switch {
		case n.Type == "":
		case b.of == n.Type && !b.there:
			r.Error(n.Pos(), "node-settings", "a node of the type %s needs %s; write it", n.Type, b.key)
		case b.of != n.Type && b.there:
			r.Error(n.At(b.key), "node-settings", "%s does not belong to a node of the type %s; remove it, or change nodeType", b.key, n.Type)
		}
	}
}

// operator resolves a node of the type Graph.
func (r *resolver) operator(n *Node) Operator {
	s := n.Graph
	o := Operator{Where: s.Where, Name: n.Name, Configuration: s.Configuration}
	reg, ok := r.set.Registries[s.RegistryRef]
	if !ok && s.RegistryRef != "" {
		r.Error(s.At("registryEndpointRef"), "registry-unknown", "there is no RegistryEndpoint %s; define it, or write default", strict.Quoted(s.RegistryRef))
	}
	if ok && reg.broken {
		r.broken = true
	}
	o.Registry = reg
	m := artifactForm().FindStringSubmatch(s.Artifact)
	if m == nil && s.Artifact != "" {
		r.Error(s.At("artifact"), "artifact-form", "%s is no artifact; write <name>:<version>, such as azureiotoperations/graph-dataflow-map:1.0.0", strict.Quoted(s.Artifact))
	}
	if m != nil {
		o.Artifact, o.Version = m[1], m[2]
		full := o.Artifact
		if reg != nil {
			full = strings.TrimSuffix(reg.Host, "/") + "/" + o.Artifact
		}
		if k := nativeForm().FindStringSubmatch(full); k != nil {
			if _, known := nativeVersions[Native(k[1])]; known {
				o.Native = Native(k[1])
			} else {
				r.Error(s.At("artifact"), "native-unknown", "there is no native operator %s; there are graph-dataflow-map, -filter, -branch, -concatenate, -window and -throttle", strict.Quoted(o.Artifact))
			}
		}
		local := false
		if reg != nil {
			_, layout, is := reg.Local()
			local = is && !layout
		}
		if o.Version == "" && (o.Native != "" || !local) {
			r.Error(s.At("artifact"), "artifact-version", "the artifact has no version; write %s:<version>, such as %s:1.0.0", o.Artifact, o.Artifact)
		}
	}
	r.configuration(&o)
	if o.Native != "" {
		r.native(&o)
	}
	return o
}

func (r *resolver) configuration(o *Operator) {
	seen := map[string]bool{}
	for i := range o.Configuration {
		c := &o.Configuration[i]
		switch {
		case c.Key == "":
		case !nodeName().MatchString(c.Key):
			r.Error(c.At("key"), "setting-key", "%s is no key for a setting; take letters, digits, _ and -", strict.Quoted(c.Key))
		case seen[c.Key]:
			r.Error(c.At("key"), "setting-twice", "the setting %s is there twice; remove one", c.Key)
		}
		seen[c.Key] = true
	}
}

// native checks the settings of a native operator, as far as they are no expressions.
func (r *resolver) native(o *Operator) {
	if v := nativeVersions[o.Native]; o.Version != "" && !slices.Contains(v, o.Version) {
		r.Error(o.At("artifact"), "native-version", "the version %s of the native operator %s is not known; write %s", strict.Quoted(o.Version), o.Native, strict.Listed(v))
	}
	settings := nativeSettings[o.Native]
	known := append(slices.Clone(settings.must), settings.may...)
	closes := false
	for i := range o.Configuration {
		c := &o.Configuration[i]
		switch {
		case c.Key == "" || !nodeName().MatchString(c.Key):
			continue
		case len(known) == 0:
			r.Error(c.At("key"), "native-setting", "the native operator %s has no settings; remove %s", o.Native, c.Key)
			continue
		case !slices.Contains(known, c.Key):
			hint := "there is " + strict.Listed(known)
			if near := strict.Nearest(c.Key, known); near != "" {
				hint = "did you mean " + near + "?"
			}
			r.Error(c.At("key"), "native-setting", "the native operator %s has no setting %s; %s", o.Native, c.Key, hint)
			continue
		}
		if slices.Contains(settings.may, c.Key) {
			closes = true
		}
		if o.Native == NativeWindow && o.Version == "1.0.0" && (c.Key == "count" || c.Key == "memory" || c.Key == "triggers") {
			r.Error(c.At("key"), "window-version", "%s needs version 1.1.0 of the window; write azureiotoperations/graph-dataflow-window:1.1.0", c.Key)
		}
		r.settingJSON(c)
	}
	for _, key := range settings.must {
		if !slices.ContainsFunc(o.Configuration, func(s Setting) bool { return s.Key == key }) {
			r.Error(o.Pos(), "native-setting-missing", "the native operator %s needs the setting %s; add it to configuration", o.Native, key)
		}
	}
	if o.Native == NativeWindow && !closes {
		r.Error(o.Pos(), "window-closes", "nothing closes the window; add delay, count, memory or triggers to configuration")
	}
}

// settingJSON checks that a setting is a JSON object.
func (r *resolver) settingJSON(c *Setting) {
	if !c.Has("value") {
		return
	}
	dec := json.NewDecoder(strings.NewReader(c.Value))
	depth := 0
	for first := true; ; first = false {
		t, err := dec.Token()
		if err != nil {
			at := int(dec.InputOffset())
			var syntax *json.SyntaxError
			switch {
			case errors.Is(err, io.EOF) && !first && depth == 0:
				return
			case errors.As(err, &syntax):
				at = strict.SyntaxAt(c.Value, syntax)
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				at, err = len(strings.TrimRight(c.Value, " \t\r\n")), errors.New("it ends too early")
			}
			r.Error(c.Offset(at), "setting-json", "the setting %s is no JSON: %.120v; compare brackets, quotes and commas before this place", c.Key, err)
			return
		}
		switch d, _ := t.(json.Delim); {
		case first && d != '{':
			r.Error(c.At("value"), "setting-json", "the setting %s is a JSON object, and this is none; begin it with {", c.Key)
			return
		case !first && depth == 0:
			r.Error(c.Offset(int(dec.InputOffset())-1), "setting-json", "the setting %s is one JSON object, and something follows it; remove it", c.Key)
			return
		case d == '{' || d == '[':
			if depth++; depth > strict.MaxDepth {
				r.Error(c.Offset(int(dec.InputOffset())), "setting-json", "the setting %s is nested more than %d levels deep", c.Key, strict.MaxDepth)
				return
			}
		case d == '}' || d == ']':
			depth--
		}
	}
}

// graphConnections resolves the connections.
func (r *resolver) graphConnections(d *DataflowGraph) *ways {
	n := newWays(len(d.Nodes))
	seen := map[string]int{}
	for i := range d.Connections {
		c := &d.Connections[i]
		name, output, _ := strings.Cut(c.From.Name, ".")
		from, okFrom := r.node(d, name, c.From.At("name"))
		to, okTo := r.node(d, c.To.Name, c.To.At("name"))
		k := Connection{Where: c.Where, From: name, To: c.To.Name}
		if s := c.From.Schema; s != nil {
			r.schemaRef(s.Where, s.SchemaRef)
			k.Schema, k.Format = s.SchemaRef, s.Format
			if s.Format != "" && s.Format != "Json" {
				r.Warn(s.At("serializationFormat"), "schema-format", "hubhop converts no payloads; %s is a label without effect", s.Format)
			}
		}
		if !okFrom || !okTo || !r.edge(&d.Nodes[from], &d.Nodes[to], c) {
			continue
		}
		if !r.output(&k, c, output) {
			n.edge(from, to) // its fault is told, and nodes behind it are no others
			continue
		}
		id := strings.Join([]string{name, string(k.Arm), k.Output, c.To.Name}, "\x00")
		if first, ok := seen[id]; ok {
			r.Error(c.Pos(), "edge-twice", "the connection from %s to %s is in line %d already; remove one", c.From.Name, c.To.Name, first)
			continue
		}
		seen[id] = c.Pos().Line
		n.edge(from, to)
		r.graph.Connections = append(r.graph.Connections, k)
	}
	if loop := n.cycle(); loop != nil {
		r.Error(d.Nodes[loop[0]].At("name"), "edge-cycle", "messages would go round: %s; remove one of the connections", round(loop, func(i int) string { return d.Nodes[i].Name }))
	}
	return n
}

// node returns the number of a node, or notes that there is none.
func (r *resolver) node(d *DataflowGraph, name string, at Pos) (int, bool) {
	i, ok := r.index[name]
	if name == "" {
		return 0, false
	}
	if !ok {
		var names []string
		for j := range d.Nodes {
			names = append(names, d.Nodes[j].Name)
		}
		hint := "add it, or name another"
		if near := strict.Nearest(name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		r.Error(at, "edge-node", "there is no node %s; %s", strict.Quoted(name), hint)
	}
	return i, ok
}

// edge checks what kinds of nodes a connection joins.
func (r *resolver) edge(from, to *Node, c *GraphConnection) bool {
	switch {
	case from == to:
		r.Error(c.To.At("name"), "edge-self", "%s leads to itself; remove the connection", from.Name)
	case from.Type == "Destination":
		r.Error(c.From.At("name"), "edge-from-destination", "%s is a destination, and nothing leads out of it; exchange from and to, or remove the connection", from.Name)
	case to.Type == "Source":
		r.Error(c.To.At("name"), "edge-to-source", "%s is a source, and nothing leads into it; exchange from and to, or remove the connection", to.Name)
	default:
		return from.Type != "" && to.Type != ""
	}
	return false
}

// output reads what follows the node's name in from: the arm of a branch, or the output of a graph
// of modules.
func (r *resolver) output(k *Connection, c *GraphConnection, output string) bool {
	at := c.From.At("name")
	i := slices.IndexFunc(r.graph.Operators, func(o Operator) bool { return o.Name == k.From })
	word := strings.TrimPrefix(output, "output.")
	switch {
	case i < 0 && output != "":
		r.Error(at, "edge-output", "%s has one output without a name; write %s", k.From, k.From)
		return false
	case i < 0:
	case r.graph.Operators[i].Native == NativeBranch:
		k.Arm = Arm(strings.ToLower(word))
		switch {
		case output == "":
			r.Error(at, "branch-arm", "%s is a branch; write %s.output.true or %s.output.false", k.From, k.From, k.From)
			return false
		case k.Arm != TrueArm && k.Arm != FalseArm:
			r.Error(at, "branch-arm", "a branch has no output %s; write %s.output.true or %s.output.false", strict.Quoted(output), k.From, k.From)
			return false
		case output != "output."+string(k.Arm):
			r.Warn(at, "branch-form", "the arm is written %s; write %s.output.%s", strict.Quoted(output), k.From, k.Arm)
		}
	case r.graph.Operators[i].Native != "" && output != "":
		r.Error(at, "edge-output", "%s is no branch, and has one output without a name; write %s", k.From, k.From)
		return false
	case word != "output": // <node>.output is the only one
		k.Output = word
	}
	return true
}

// ways returns the connections.
func (r *resolver) ways() *ways {
	n := newWays(r.count)
	for i := range r.graph.Connections {
		c := &r.graph.Connections[i]
		n.edge(r.index[c.From], r.index[c.To])
	}
	return n
}

// nodesReached checks that every node is on a way from a source to a destination.
func (r *resolver) nodesReached(d *DataflowGraph, n *ways) {
	var sources, ends []int
	for i := range d.Nodes {
		switch d.Nodes[i].Type {
		case "Source":
			sources = append(sources, i)
		case "Destination":
			ends = append(ends, i)
		}
	}
	if !d.Has("nodes") {
		return
	}
	if len(sources) == 0 {
		r.Error(d.At("nodes"), "graph-source", "the graph has no source; add a node of the type Source")
	}
	if len(ends) == 0 {
		r.Error(d.At("nodes"), "graph-destination", "the graph has no destination; add a node of the type Destination")
	}
	if len(sources) == 0 || len(ends) == 0 {
		return
	}
	forth, back := reach(n.out, sources, nil), reach(n.in, ends, nil)
	for i := range d.Nodes {
		switch node := &d.Nodes[i]; {
		case node.Name == "" || node.Type == "" || r.index[node.Name] != i:
		case !forth[i]:
			r.Error(node.At("name"), "node-unreachable", "no source leads to %s; connect it, or remove it", node.Name)
		case !back[i]:
			r.Error(node.At("name"), "node-dead-end", "%s leads to no destination; connect it, or remove it", node.Name)
		}
	}
}

// branches checks that both arms of every branch are connected, and meet in a concatenate before
// any destination.
func (r *resolver) branches(d *DataflowGraph, n *ways) {
	var ends []int
	for i := range d.Nodes {
		if d.Nodes[i].Type == "Destination" {
			ends = append(ends, i)
		}
	}
	for i := range r.graph.Operators {
		o := &r.graph.Operators[i]
		if o.Native != NativeBranch {
			continue
		}
		arms := map[Arm][]int{}
		for _, c := range r.graph.Connections {
			if c.From == o.Name {
				arms[c.Arm] = append(arms[c.Arm], r.index[c.To])
			}
		}
		if len(arms[TrueArm])+len(arms[FalseArm]) == 0 {
			continue // told as a dead end
		}
		open := false
		for _, arm := range []Arm{TrueArm, FalseArm} {
			if len(arms[arm]) == 0 {
				open = true
				r.Error(d.Nodes[r.index[o.Name]].At("name"), "branch-open", "the arm %s of the branch %s leads nowhere; connect %s.output.%s, for instance with a concatenate behind it, or use a filter in place of the branch", arm, o.Name, o.Name, arm)
			}
		}
		if open {
			continue
		}
		whenTrue, whenFalse := reach(n.out, arms[TrueArm], nil), reach(n.out, arms[FalseArm], nil)
		meets := make([]bool, len(d.Nodes))
		for j := range r.graph.Operators {
			if c := &r.graph.Operators[j]; c.Native == NativeConcatenate {
				at := r.index[c.Name]
				meets[at] = whenTrue[at] && whenFalse[at]
			}
		}
		whenTrue, whenFalse = reach(n.out, arms[TrueArm], meets), reach(n.out, arms[FalseArm], meets)
		for _, end := range ends {
			if whenTrue[end] || whenFalse[end] {
				r.Error(d.Nodes[r.index[o.Name]].At("name"), "branch-meet", "the arms of the branch %s reach the destination %s without meeting; join them with a graph-dataflow-concatenate before it", o.Name, d.Nodes[end].Name)
				break
			}
		}
	}
}

// outputTopics warns of ${outputTopic} where no operator writes the topic, so that every message
// would be dropped.
func (r *resolver) outputTopics(n *ways) {
	for i := range r.graph.Destinations {
		dest := &r.graph.Destinations[i]
		if !strings.Contains(dest.To, "${outputTopic") {
			continue
		}
		leads := reach(n.in, []int{r.index[dest.Name]}, nil)
		writes := slices.ContainsFunc(r.graph.Operators, func(o Operator) bool {
			if !leads[r.index[o.Name]] {
				return false
			}
			return o.Native == "" || o.Native == NativeWindow || o.Native == NativeMap && slices.ContainsFunc(o.Configuration, writesTopic)
		})
		if !writes {
			r.Warn(dest.At("dataDestination"), "output-topic-unset", "no operator writes $metadata.topic, so that ${outputTopic} has no value and every message is dropped; add a map that writes it, or use ${inputTopic}")
		}
	}
}

// writesTopic says whether the rules of a map can write the topic.
func writesTopic(s Setting) bool {
	var rules struct{ Map []struct{ Output string } }
	if s.Key != "rules" || json.Unmarshal([]byte(s.Value), &rules) != nil {
		return false
	}
	for _, m := range rules.Map {
		if strings.HasPrefix(m.Output, "$metadata.topic") || strings.HasPrefix(m.Output, "$metadata.*") {
			return true
		}
	}
	return false
}

// schemas warns of a filter that shall check a schema which no connection gives it.
func (r *resolver) schemas() {
	for i := range r.graph.Operators {
		o := &r.graph.Operators[i]
		if o.Native != NativeFilter {
			continue
		}
		for _, s := range o.Configuration {
			var rules struct{ ValidateSchema bool }
			if s.Key != "rules" || json.Unmarshal([]byte(s.Value), &rules) != nil || !rules.ValidateSchema {
				continue
			}
			if !slices.ContainsFunc(r.graph.Connections, func(c Connection) bool { return c.To == o.Name && c.Schema != "" }) {
				r.Error(s.At("value"), "schema-missing", "validateSchema checks the schema of the connection that leads to %s, and none has a schemaRef; add schema with schemaRef to the connection's from", o.Name)
			}
		}
	}
}

// repeated refuses a graph of modules that is used twice in one chain, which Azure IoT Operations
// cannot run.
func (r *resolver) repeated(d *DataflowGraph, n *ways) {
	for i := range r.graph.Operators {
		o := &r.graph.Operators[i]
		if o.Native != "" {
			continue
		}
		leads := reach(n.out, n.out[r.index[o.Name]], nil)
		for j := range r.graph.Operators {
			if b := &r.graph.Operators[j]; i != j && b.Native == "" && b.Artifact == o.Artifact && b.Version == o.Version && leads[r.index[b.Name]] {
				r.Error(d.Nodes[r.index[b.Name]].At("name"), "strict-repeated", "%s and %s run the same graph %s in one chain, and Azure IoT Operations cannot; give one of them another version", o.Name, b.Name, strconv.Quote(o.Artifact))
			}
		}
	}
}
