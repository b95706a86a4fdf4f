package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/flow/topic"
	"github.com/hubhop-iot/hubhop/internal/strict"
)

// check adds what always exists, and turns the documents of graphs and data flows into graphs.
func (l *loader) check() {
	s := l.set
	l.ambiguous()
	if s.Registries["default"] == nil {
		s.Registries["default"] = &Registry{
			Object: Object{Kind: KindRegistry, Name: "default"}, Host: "mcr.microsoft.com", Authentication: &Authentication{Method: Anonymous},
		}
	}
	if s.Profiles["default"] == nil {
		s.Profiles["default"] = &Profile{Object: Object{Kind: KindProfile, Name: "default"}, InstanceCount: 1, Diagnostics: Diagnostics{Logs: Logs{Level: "info"}}}
	}
	perProfile := map[string]int{}
	for _, d := range s.dataflowGraphs {
		r := &resolver{set: s, strict: l.strict, graph: &Graph{Where: d.Where, Object: d.Object, DeadLetter: d.DeadLetter, Enabled: d.Mode != "Disabled"}}
		r.dataflowGraph(d)
		l.finish(r)
	}
	for _, d := range s.dataflows {
		r := &resolver{set: s, strict: l.strict, graph: &Graph{Where: d.Where, Object: d.Object, DeadLetter: d.DeadLetter, Enabled: d.Mode != "Disabled"}}
		r.dataflow(d)
		l.finish(r)
		if perProfile[d.ProfileRef]++; l.strict && perProfile[d.ProfileRef] == 71 {
			l.Error(d.At("profileRef"), "strict-profile", "the profile %s has more than 70 data flows, and Azure IoT Operations takes no more; use another profile", d.ProfileRef)
		}
	}
	slices.SortFunc(s.Graphs, func(a, b *Graph) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(s.Faulty)
	slices.Sort(s.Unread)
}

// finish puts a graph where it belongs: among those that can run, or among the faulty.
func (l *loader) finish(r *resolver) {
	l.All = append(l.All, r.All...)
	g := r.graph
	if r.broken || g.broken || Errors(r.All) {
		l.set.Faulty, l.set.Unsound = append(l.set.Faulty, g.Name), append(l.set.Unsound, g)
		l.set.files[g.Name] = g.File
		if other, ok := l.twice[nameKey(g.Object)]; ok {
			l.set.files[g.Name] = other.File // the fault stands there
		}
		return
	}
	// A struct without functions, channels and cycles can always be written.
	text, _ := json.Marshal(g)
	endpoints, _ := json.Marshal(r.used)
	sum := sha256.Sum256(append(append(text, '\n'), endpoints...))
	g.Digest = hex.EncodeToString(sum[:])
	l.set.Graphs = append(l.set.Graphs, g)
}

// resolver turns one document into a graph, and notes what is wrong with it.
type resolver struct {
	faults
	set    *Set
	strict bool
	graph  *Graph
	used   []any // what the graph refers to
	broken bool  // an error of what it refers to concerns it

	index map[string]int // nodes by name
	count int            // of nodes
}

// base sets what both kinds have.
func (r *resolver) base(w Where, profile string) {
	p, ok := r.set.Profiles[profile]
	if !ok && profile != "" {
		r.Error(w.At("profileRef"), "profile-unknown", "there is no DataflowProfile %s; define it, or write default", strict.Quoted(profile))
	}
	if ok && p.broken {
		r.broken = true
	}
	r.graph.Profile = p
}

// endpoint returns the endpoint of a name, or notes why it cannot be used. dir is "source" or
// "destination".
func (r *resolver) endpoint(name string, at Pos, source bool) (e *Endpoint, ok bool) {
	reserved := name == EndpointHub || name == EndpointLocal
	switch {
	case name == "":
		return nil, false
	case reserved && r.strict:
		r.Error(at, "strict-endpoint", "the endpoint %s is an addition of hubhop's, and Azure IoT Operations does not know it; name a DataflowEndpoint", name)
		return nil, false
	case name == EndpointHub && source:
		r.Error(at, "endpoint-direction", "the endpoint %s takes messages, and has none to give; name another as the source", name)
		return nil, false
	case name == EndpointLocal && !source:
		r.Error(at, "endpoint-direction", "the endpoint %s gives the messages of assets, and takes none; name another as the destination", name)
		return nil, false
	case reserved:
		return nil, true
	}
	e, ok = r.set.Endpoints[name]
	if !ok {
		names := append(slices.Sorted(maps.Keys(r.set.Endpoints)), EndpointHub)
		if source {
			names[len(names)-1] = EndpointLocal
		}
		hint := "define it"
		if near := strict.Nearest(name, names); near != "" {
			hint = "did you mean " + near + "?"
		} else if name == "default" {
			hint = "define a DataflowEndpoint of this name with the host of your broker"
		}
		r.Error(at, "endpoint-unknown", "there is no DataflowEndpoint %s; %s", strict.Quoted(name), hint)
		return nil, false
	}
	r.used = append(r.used, e)
	if e.broken {
		r.broken = true
	}
	allowed := []EndpointType{TypeMqtt, TypeKafka}
	what := "a source"
	if !source {
		allowed, what = append(allowed, TypeOpenTelemetry), "a destination of a graph"
		if r.graph.Kind == KindDataflow {
			allowed, what = append(allowed, TypeLocalStorage), "a destination of a data flow"
		}
	}
	switch e.Type {
	case "", TypeDataLake, TypeDataExplorer, TypeOneLake: // its own fault is told
		r.broken = true
		return nil, false
	default:
	}
	if !slices.Contains(allowed, e.Type) {
		var words []string
		for _, t := range allowed {
			words = append(words, string(t))
		}
		r.Error(at, "endpoint-kind", "the endpoint %s is of the type %s, and %s can be of %s; name another", name, e.Type, what, strict.Listed(words))
		return nil, false
	}
	return e, true
}

// source resolves a source.
func (r *resolver) source(w Where, name string, ref string, topics []string, asset string) Source {
	s := Source{Where: w, Name: name, Endpoint: ref, Asset: asset}
	e, ok := r.endpoint(ref, w.At("endpointRef"), true)
	s.Settings = e
	if asset != "" && r.set.Assets[asset] == nil {
		hint := "define it"
		if near := strict.Nearest(asset, slices.Sorted(maps.Keys(r.set.Assets))); near != "" {
			hint = "did you mean " + near + "?"
		}
		if ref == EndpointLocal {
			r.Error(w.At("assetRef"), "asset-unknown", "there is no Asset %s; %s", strict.Quoted(asset), hint)
		} else {
			r.Warn(w.At("assetRef"), "asset-unknown", "there is no Asset %s here, and the messages come from the endpoint all the same; %s", strict.Quoted(asset), hint)
		}
	}
	if ref == EndpointLocal && asset == "" {
		r.Error(w.Pos(), "asset-missing", "the endpoint local gives the messages of an asset; write assetRef")
	}
	if len(topics) == 0 && (topics != nil || !w.Has("dataSources")) {
		r.Error(w.Pos(), "source-topics", "the source has no dataSources; list the topics that it takes, such as sensors/#")
	}
	seen := map[string]bool{}
	for i, text := range topics {
		at := w.At(fmt.Sprintf("dataSources[%d]", i))
		if text == "" {
			continue // told as an empty text
		}
		if seen[text] {
			r.Error(at, "source-topic-twice", "%s is there twice; remove one", strict.Quoted(text))
			continue
		}
		seen[text] = true
		if !ok {
			continue
		}
		f := TopicFilter{Pos: at, Filter: text}
		if e != nil && e.Type == TypeKafka {
			r.kafkaTopic(at, text)
		} else {
			f.Group, f.Filter = r.filter(at, text, e)
		}
		s.Topics = append(s.Topics, f)
	}
	if e != nil && e.Kafka != nil && e.Kafka.ConsumerGroupID == "" {
		r.Error(w.At("endpointRef"), "kafka-group", "a Kafka source needs a consumer group, and the endpoint %s has none; write consumerGroupId in its kafkaSettings", ref)
	}
	return s
}

// filter checks an MQTT topic filter, and splits off the group of a shared subscription.
func (r *resolver) filter(at Pos, text string, e *Endpoint) (group, filter string) {
	if err := topic.ValidFilter(text); err != nil {
		r.Error(at, "source-topic", "%s is no topic filter: %v; mend it", strict.Quoted(text), err)
	}
	group, filter, shared := topic.Shared(text)
	switch {
	case strings.HasPrefix(text, "$share/"):
		r.Warn(at, "shared-form", "manifests write a shared subscription as $shared/<group>/<filter>; write %s", strict.Quoted("$shared/"+strings.TrimPrefix(text, "$share/")))
	case shared && e == nil:
		r.Error(at, "shared-local", "the messages of an asset have one taker, and no shared subscription; write %s", strict.Quoted(filter))
	}
	if shared && e != nil && e.Mqtt != nil && e.Mqtt.eventGrid(e.HostType) {
		r.Error(at, "event-grid", "Event Grid has no shared subscriptions; write %s", strict.Quoted(filter))
	}
	return group, filter
}

// kafkaTopicForm matches the name of a Kafka topic.
var kafkaTopicForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`) })

func (r *resolver) kafkaTopic(at Pos, text string) {
	switch {
	case strings.ContainsAny(text, "+#*"):
		r.Error(at, "kafka-topic", "Kafka has no wildcards; name each topic instead of %s", strict.Quoted(text))
	case strings.Contains(text, "${"):
		r.Error(at, "kafka-topic", "a Kafka topic is a fixed name, without variables; write one instead of %s", strict.Quoted(text))
	case !kafkaTopicForm().MatchString(text) || text == "." || text == "..":
		r.Error(at, "kafka-topic", "%s is no Kafka topic; take letters, digits, dots, hyphens and underscores, at most 249", strict.Quoted(text))
	}
}

// component matches a component of a device model.
var component = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_]{0,62}[A-Za-z0-9])?$`) })

// destination resolves a destination.
func (r *resolver) destination(w Where, name, ref, to string, headers []Header) Destination {
	d := Destination{Where: w, Name: name, Endpoint: ref, To: to, Headers: headers}
	e, ok := r.endpoint(ref, w.At("endpointRef"), false)
	d.Settings = e
	at := w.At("dataDestination")
	switch {
	case !ok || to == "":
	case e == nil:
		r.hubDestination(at, to)
	case e.Type == TypeMqtt:
		r.topicOf(at, to)
	case e.Type == TypeKafka:
		r.kafkaTopic(at, to)
	case e.Type == TypeOpenTelemetry:
		if strings.Contains(to, "${") || strings.ContainsAny(to, "+#") {
			r.Error(at, "destination-static", "for a collector dataDestination is a fixed name, without variables; write one instead of %s", strict.Quoted(to))
		}
	case e.Type == TypeLocalStorage:
		if strings.Contains(to, "${") || !localPath(to) {
			r.Error(at, "destination-directory", "%s is no directory below the volume; write one without .., such as measurements/raw", strict.Quoted(to))
		}
	}
	for i := range headers {
		r.header(&headers[i])
	}
	return d
}

// localPath says whether a path stays below its directory, on every system.
func localPath(path string) bool {
	if strings.ContainsAny(path, "\\:\x00") || strings.HasPrefix(path, "/") {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." || part == "" && path != "" && !strings.HasSuffix(path, "/") {
			return false
		}
	}
	return true
}

func (r *resolver) hubDestination(at Pos, to string) {
	what, rest, has := strings.Cut(to, "/")
	switch {
	case what == "telemetry" && (!has || component().MatchString(rest)), to == "property":
	case what == "telemetry":
		r.Error(at, "destination-hub", "%s is no component of a device model; write telemetry/<component> with letters, digits and _, at most 64", strict.Quoted(rest))
	default:
		r.Error(at, "destination-hub", "%s is no destination at the hub; write telemetry, telemetry/<component> or property", strict.Quoted(to))
	}
}

// topicOf checks the topic of an MQTT destination.
func (r *resolver) topicOf(at Pos, to string) {
	if _, err := topic.Parse(to); err != nil {
		r.Error(at, "destination-topic", "%s is no topic for a destination: %v; mend it", strict.Quoted(to), err)
		return
	}
	foreign, own := "${inputTopic", "${outputTopic"
	if r.graph.Kind == KindDataflow {
		foreign, own = own, foreign
	}
	if r.strict && strings.Contains(to, foreign) {
		r.Error(at, "strict-variable", "in a %s Azure IoT Operations does not know %s}; use %s}", r.graph.Kind, foreign, own)
	}
}

func (r *resolver) header(h *Header) {
	adds := h.Action == "AddIfNotPresent" || h.Action == "AddOrReplace"
	switch {
	case adds && !h.Has("value"):
		r.Error(h.Pos(), "header-value", "%s needs a value; write value", h.Action)
	case h.Action == "Remove" && h.Has("value"):
		r.Error(h.At("value"), "header-value", "Remove takes no value; remove value")
	}
	if strings.HasPrefix(h.Key, "__") && adds {
		r.Warn(h.At("key"), "header-reserved", "names that begin with __ belong to Azure IoT Operations; take another than %s", strict.Quoted(h.Key))
	}
}

// SchemaRef is the reference of a schema: aio-sr://[<namespace>/]<name>:<version>.
type SchemaRef struct {
	Namespace string // empty: not said
	Name      string
	Version   string
}

var schemaForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(aio-sr://)?(?:([A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*)/)?([A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*):([0-9]+)$`)
})

// ParseSchemaRef reads the reference of a schema. The form without aio-sr:// is accepted too.
func ParseSchemaRef(text string) (SchemaRef, bool) {
	m := schemaForm().FindStringSubmatch(text)
	if m == nil {
		return SchemaRef{}, false
	}
	return SchemaRef{m[2], m[3], m[4]}, true
}

func (r *resolver) schemaRef(w Where, ref string) {
	_, ok := ParseSchemaRef(ref)
	switch {
	case ref == "":
	case !ok:
		r.Error(w.At("schemaRef"), "schema-ref", "%s is no reference of a schema; write aio-sr://<name>:<version> or aio-sr://<namespace>/<name>:<version>", strict.Quoted(ref))
	case !strings.HasPrefix(ref, "aio-sr://"):
		r.Warn(w.At("schemaRef"), "schema-scheme", "the reference of a schema begins with aio-sr://; write aio-sr://%s", ref)
	}
}

// overlaps checks that no message can come back to the graph by its own destination.
func (r *resolver) overlaps() {
	n := r.ways()
	for i := range r.graph.Sources {
		s := &r.graph.Sources[i]
		if s.Settings == nil || s.Settings.Mqtt == nil && s.Settings.Kafka == nil {
			continue
		}
		leads := reach(n.out, []int{r.index[s.Name]}, nil)
		for j := range r.graph.Destinations {
			d := &r.graph.Destinations[j]
			if d.Settings == nil || !leads[r.index[d.Name]] || d.To == "" {
				continue
			}
			host := d.Endpoint != s.Endpoint && sameHost(s.Settings, d.Settings)
			if d.Endpoint != s.Endpoint && !host {
				continue
			}
			for _, f := range s.Topics {
				if s.Settings.Kafka != nil && f.Filter != d.To || s.Settings.Mqtt != nil && !topic.Overlap(f.Filter, d.To) {
					continue
				}
				if host {
					r.Warn(d.At("dataDestination"), "topic-overlap-host", "a message to %s could come back as %s, because the endpoints %s and %s have one host; take another topic", strict.Quoted(d.To), strict.Quoted(f.Filter), s.Endpoint, d.Endpoint)
				} else {
					r.Error(d.At("dataDestination"), "topic-overlap", "a message to %s would come back as %s of the source %s, and go round for ever; take another topic", strict.Quoted(d.To), strict.Quoted(f.Filter), s.Name)
				}
				break
			}
		}
	}
}

// sameHost says whether two endpoints are the same broker.
func sameHost(a, b *Endpoint) bool {
	switch {
	case a.Mqtt != nil && b.Mqtt != nil:
		return a.Mqtt.Host != "" && strings.EqualFold(a.Mqtt.Host, b.Mqtt.Host)
	case a.Kafka != nil && b.Kafka != nil:
		return a.Kafka.Host != "" && strings.EqualFold(a.Kafka.Host, b.Kafka.Host)
	}
	return false
}

// retained warns of retained messages for a broker that takes none.
func (r *resolver) retained() {
	mqtt := slices.ContainsFunc(r.graph.Sources, func(s Source) bool { return s.Settings != nil && s.Settings.Mqtt != nil })
	for i := range r.graph.Destinations {
		d := &r.graph.Destinations[i]
		if e := d.Settings; mqtt && e != nil && e.Mqtt != nil && e.Mqtt.eventGrid(e.HostType) && e.Mqtt.Retain == "Keep" {
			r.Warn(d.At("endpointRef"), "event-grid-retain", "Event Grid refuses retained messages, and the endpoint %s keeps the flag; write retain: Never in its mqttSettings", d.Endpoint)
		}
	}
}
