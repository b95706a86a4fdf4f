package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// The names of the nodes that a Dataflow becomes. They do not depend on the names of its
// operations, because client ids and journals go by them.
const (
	nodeSource      = "source"
	nodeFilter      = "filter"
	nodeMap         = "map"
	nodeDestination = "destination"
)

// dataflow turns a Dataflow into a graph: source, filter, map, destination.
func (r *resolver) dataflow(d *Dataflow) {
	r.base(d.Where, d.ProfileRef)
	g := r.graph
	var source *DataflowSource
	var transformation *Transformation
	var destination *DataflowDestination
	counts := map[string]int{}
	for i := range d.Operations {
		o := &d.Operations[i]
		r.operationShape(o)
		if counts[o.Type]++; counts[o.Type] == 2 && o.Type != "" {
			r.Error(o.At("operationType"), "operations-twice", "the data flow has a second operation of the type %s, and takes one; remove it, or write a DataflowGraph", o.Type)
			continue
		} else if counts[o.Type] > 2 {
			continue
		}
		switch o.Type {
		case "Source":
			source = o.Source
		case "BuiltInTransformation":
			transformation = o.Transformation
		case "Destination":
			destination = o.Destination
		}
	}
	for _, kind := range []string{"Source", "Destination"} {
		if counts[kind] == 0 && d.Has("operations") {
			r.Error(d.At("operations"), "operations-missing", "the data flow has no operation of the type %s; add one", kind)
		}
	}
	nodes := []string{}
	if source != nil {
		r.schemaRef(source.Where, source.SchemaRef)
		s := r.source(source.Where, nodeSource, source.EndpointRef, source.DataSources, source.AssetRef)
		s.Schema = source.SchemaRef
		g.Sources, nodes = []Source{s}, append(nodes, nodeSource)
	}
	schema := ""
	if transformation != nil {
		schema = transformation.SchemaRef
		nodes = append(nodes, r.transformation(transformation, d.Beta())...)
	}
	if destination != nil {
		t := r.destination(destination.Where, nodeDestination, destination.EndpointRef, destination.DataDestination, destination.Headers)
		t.Schema = schema
		g.Destinations, nodes = []Destination{t}, append(nodes, nodeDestination)
	}
	r.index, r.count = map[string]int{}, len(nodes)
	for i, name := range nodes {
		r.index[name] = i
		if i > 0 {
			c := Connection{Where: d.Where, From: nodes[i-1], To: name}
			if i == 1 && source != nil {
				c.Schema, c.Format = source.SchemaRef, source.Format
			}
			g.Connections = append(g.Connections, c)
		}
	}
	r.overlaps()
	r.retained()
	if source != nil && destination != nil {
		r.outputTopics(r.ways())
		if r.strict {
			r.defaultBroker(d)
		}
	}
}

// defaultBroker refuses a data flow that goes past the broker of Azure IoT Operations.
func (r *resolver) defaultBroker(d *Dataflow) {
	for _, e := range []*Endpoint{r.graph.Sources[0].Settings, r.graph.Destinations[0].Settings} {
		if e != nil && e.Mqtt != nil && strings.HasPrefix(e.Mqtt.Host, "aio-broker:") {
			return
		}
	}
	r.Error(d.At("operations"), "strict-broker", "in Azure IoT Operations a Dataflow begins or ends at the broker aio-broker; name an endpoint with this host, or write a DataflowGraph")
}

// operationShape checks that an operation has the block of its type and no other.
func (r *resolver) operationShape(o *Operation) {
	for _, b := range []struct {
		of, key string
		there   bool
	}{
		{"Source", "sourceSettings", o.Source != nil},
		{"BuiltInTransformation", "builtInTransformationSettings", o.Transformation != nil},
		{"Destination", "destinationSettings", o.Destination != nil},
	} {
		switch {
		case o.Type == "":
		case b.of == o.Type && !b.there:
			r.Error(o.Pos(), "operation-settings", "an operation of the type %s needs %s; write it", o.Type, b.key)
		case b.of != o.Type && b.there:
			r.Error(o.At(b.key), "operation-settings", "%s does not belong to an operation of the type %s; remove it, or change operationType", b.key, o.Type)
		}
	}
}

// The rules of native operators, as JSON.
type (
	datasetJSON struct {
		Key        string   `json:"key"`
		Inputs     []string `json:"inputs"`
		Expression string   `json:"expression,omitempty"`
	}
	filterJSON struct {
		Inputs     []string `json:"inputs"`
		Expression string   `json:"expression"`
	}
	mapJSON struct {
		Inputs     []string `json:"inputs"`
		Output     string   `json:"output"`
		Expression string   `json:"expression,omitempty"`
	}
)

// transformation turns a transformation into operators, and returns their names.
func (r *resolver) transformation(t *Transformation, beta bool) (nodes []string) {
	r.schemaRef(t.Where, t.SchemaRef)
	if t.Format == "Delta" || t.Format == "Parquet" {
		r.Error(t.At("serializationFormat"), "transformation-format", "hubhop writes no %s; write Json, or remove serializationFormat", t.Format)
	}
	datasets := []datasetJSON{}
	parts := map[string]part{}
	for i := range t.Datasets {
		d := &t.Datasets[i]
		r.schemaRef(d.Where, d.SchemaRef)
		datasets = append(datasets, datasetJSON{d.Key, filled(d.Inputs), d.Expression})
		note(parts, fmt.Sprintf("datasets[%d]", i), d.Where)
	}
	add := func(name string, native Native, rules map[string]any, own map[string]part) {
		if len(datasets) > 0 {
			rules["datasets"] = datasets
			maps.Copy(own, parts)
		}
		var text strings.Builder
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false) // for those who read a setting
		_ = e.Encode(rules)    // lists of texts can always be written
		r.graph.Operators = append(r.graph.Operators, Operator{
			Where: t.Where, Name: name, Native: native, Registry: r.set.Registries["default"], Dialect: true,
			Artifact: "azureiotoperations/graph-dataflow-" + string(native), Version: "1.0.0",
			Configuration: []Setting{{Where: t.Where, Key: "rules", Value: strings.TrimSpace(text.String()), parts: own}},
		})
		nodes = append(nodes, name)
	}
	if len(t.Filter) > 0 {
		if beta {
			r.Warn(t.At("filter"), "filter-polarity", "a message for which a filter is true is dropped; texts of the preview said that it passes; check the rules")
		}
		rules, own := []filterJSON{}, map[string]part{}
		for i := range t.Filter {
			f := &t.Filter[i]
			rules = append(rules, filterJSON{filled(f.Inputs), f.Expression})
			note(own, fmt.Sprintf("filter[%d]", i), f.Where)
		}
		add(nodeFilter, NativeFilter, map[string]any{"filter": rules}, own)
	}
	if len(t.Map) > 0 {
		rules, own := []mapJSON{}, map[string]part{}
		for i := range t.Map {
			m := &t.Map[i]
			rules = append(rules, mapJSON{filled(m.Inputs), m.Output, m.Expression})
			note(own, fmt.Sprintf("map[%d]", i), m.Where)
		}
		add(nodeMap, NativeMap, map[string]any{"map": rules}, own)
	}
	if len(t.Datasets) > 0 && len(nodes) == 0 {
		r.Warn(t.At("datasets"), "datasets-unused", "no rule of filter or map uses the data sets; add one, or remove datasets")
	}
	return nodes
}

// filled returns a list that JSON writes as [], not as null.
func filled(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// part is the place of a value that became a part of a setting.
type part struct {
	at   Pos
	text strict.Mark // the zero value: it is no text
}

// note keeps the places of a rule's values by their paths.
func note(parts map[string]part, path string, w Where) {
	parts[path] = part{at: w.Pos()}
	for key := range w.Keys() {
		m, _ := w.Mark(key)
		parts[path+"."+key] = part{m.Pos(), m}
	}
}
