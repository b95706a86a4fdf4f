package manifest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/strict"
)

const (
	groupConnectivity = "connectivity.iotoperations.azure.com/"
	groupDevices      = "namespaces.deviceregistry.microsoft.com/"
	groupConnectors   = "akri.iotoperations.azure.com/"
)

// versions are the values of apiVersion that a kind may have.
var versions = map[Kind][]string{
	KindEndpoint:  {groupConnectivity + "v1", groupConnectivity + "v1beta1"},
	KindGraph:     {groupConnectivity + "v1", groupConnectivity + "v1beta1"},
	KindDataflow:  {groupConnectivity + "v1", groupConnectivity + "v1beta1"},
	KindProfile:   {groupConnectivity + "v1", groupConnectivity + "v1beta1"},
	KindRegistry:  {groupConnectivity + "v1", groupConnectivity + "v1beta1"},
	KindDevice:    {groupDevices + "v1"},
	KindAsset:     {groupDevices + "v1"},
	KindConnector: {groupConnectors + "v1"},
}

var kinds = []string{
	string(KindEndpoint), string(KindGraph), string(KindDataflow), string(KindProfile), string(KindRegistry),
	string(KindDevice), string(KindAsset), string(KindConnector),
}

// otherKinds are kinds of Azure IoT Operations that have no meaning here.
var otherKinds = []string{
	"Broker", "BrokerListener", "BrokerAuthentication", "BrokerAuthorization", "AkriConnector", "Connector",
	"DiscoveredAsset", "DiscoveredDevice", "AssetEndpointProfile", "Schema", "SchemaVersion", "Namespace",
}

// Bounds of a directory. They are far above what Kubernetes stores.
const (
	maxTotalBytes = 16 << 20
	maxFiles      = 2_000
	maxPerFile    = 500 // faults of a file that are told
)

// Options say how strict [Load] is.
type Options struct {
	// StrictAIO refuses what Azure IoT Operations does not know: the endpoints iothub and local,
	// the method UsernamePassword, deadLetter, local registries, and what else hubhop allows beyond
	// it.
	StrictAIO bool
}

// Set is what a directory has. It is read-only.
type Set struct {
	Dir         string
	Endpoints   map[string]*Endpoint
	Registries  map[string]*Registry // default is always there
	Profiles    map[string]*Profile  // default is always there
	Devices     map[string]*Raw
	Assets      map[string]*Raw
	Connectors  map[string]*Raw
	Definitions map[string]*Definition // graph definitions in the directory itself, by file name

	// Graphs are the DataflowGraphs and Dataflows that no error concerns, sorted by name, also
	// those that are not enabled. Faulty are the names of the others, and Unsound is what is known
	// of them, which must not run. Unread are the files that hold a document which could not be
	// read, so that even its name is not known. Partial says that what is missing may be there all
	// the same, because the directory could not be read to its end.
	Graphs  []*Graph
	Unsound []*Graph
	Faulty  []string
	Unread  []string
	Partial bool

	dataflowGraphs []*DataflowGraph
	dataflows      []*Dataflow
	files          map[string]string // of the faulty ones, by name
}

// FileOf returns the file of a graph that is among the faulty; empty: it is not.
func (s *Set) FileOf(name string) string { return s.files[name] }

// Graph returns a graph by its name; nil: there is none without an error.
func (s *Set) Graph(name string) *Graph {
	for _, g := range s.Graphs {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// Load reads the manifests of a directory: every file *.yaml and *.yml with all its documents, and
// every <name>.<Kind>.json, which may hold the body of a resource of Azure Resource Manager. Other
// files, directories below, files *.test.yaml and hidden files are left out. All faults are told,
// in the order of files and lines; the set has what they do not concern.
func Load(dir string, o Options) (*Set, []Fault) {
	l := &loader{strict: o.StrictAIO, set: &Set{
		Dir: dir, Endpoints: map[string]*Endpoint{}, Registries: map[string]*Registry{}, Profiles: map[string]*Profile{},
		Devices: map[string]*Raw{}, Assets: map[string]*Raw{}, Connectors: map[string]*Raw{}, Definitions: map[string]*Definition{}, files: map[string]string{},
	}}
	l.directory(dir)
	l.check()
	return l.set, Sort(l.All)
}

type loader struct {
	faults
	strict bool
	set    *Set
	names  map[string]Pos // of documents, by what shares them
	twice  map[string]Pos // names that another document has too, and where that is
}

// directory reads the files of a directory.
func (l *loader) directory(dir string) {
	at := strict.Start(dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		l.Error(at, "directory", "the directory cannot be read: %v; name a directory with manifests", namedfile.Cause(err))
		l.set.Partial = true
		return
	}
	files, total := 0, int64(0)
	for _, e := range entries {
		name := e.Name()
		lower := strings.ToLower(name)
		switch ext := filepath.Ext(lower); {
		case strings.HasPrefix(name, "."), strings.HasSuffix(lower, ".test.yaml"), strings.HasSuffix(lower, ".test.yml"):
			continue
		case ext == ".json" && fileKind(name) == "":
			l.nearKind(filepath.Join(dir, name))
			continue
		case ext != ".yaml" && ext != ".yml" && ext != ".json":
			continue
		}
		path := filepath.Join(dir, name)
		text, ok := l.file(path, &total)
		if !ok {
			continue
		}
		if files++; files > maxFiles {
			l.Error(at, "too-many-files", "the directory has more than %d manifests; split it", maxFiles)
			l.set.Partial = true
			return
		}
		before := len(l.All)
		l.text(path, text)
		if told := len(l.All) - before; told > maxPerFile {
			l.All = l.All[:before+maxPerFile]
			l.Error(l.All[len(l.All)-1].Pos, "too-many-faults", "there are %d more faults in this file; mend these first", told-maxPerFile)
		}
	}
}

// file reads one file, bounded. It leaves out what is a directory.
func (l *loader) file(path string, total *int64) ([]byte, bool) {
	at := strict.Start(path)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it went away, or is a link to nowhere
		return nil, false
	case err != nil:
		l.Error(at, "file", "the file cannot be read: %v", namedfile.Cause(err))
		l.unread(path)
		return nil, false
	case info.IsDir():
		return nil, false
	case !info.Mode().IsRegular():
		l.Error(at, "file", "this is no plain file; remove it, or give it another name")
		l.unread(path)
		return nil, false
	}
	f, err := namedfile.Open("manifest", path) // it looks again at what it has opened
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, strict.MaxFileBytes+1))
		_ = f.Close() // it was only read
	} else if inner := errors.Unwrap(err); inner != nil {
		err = inner // the fault has the name
	}
	if err != nil {
		l.Error(at, "file", "the file cannot be read: %v", namedfile.Cause(err))
		l.unread(path)
		return nil, false
	}
	if *total += int64(len(text)); *total > maxTotalBytes {
		l.Error(at, "directory-too-large", "the manifests up to this one have more than %d bytes; split the directory", maxTotalBytes)
		l.unread(path)
		return nil, false
	}
	return text, true
}

func (l *loader) unread(path string) {
	if name := filepath.Base(path); !slices.Contains(l.set.Unread, name) {
		l.set.Unread = append(l.set.Unread, name)
	}
}

// fileKind returns the kind in <name>.<Kind>.json; empty: there is none.
func fileKind(name string) Kind {
	parts := strings.Split(name, ".")
	if len(parts) < 3 {
		return ""
	}
	for _, k := range kinds {
		if strings.EqualFold(k, parts[len(parts)-2]) {
			return Kind(k)
		}
	}
	return ""
}

// nearKind warns of a JSON file that was probably meant to be read.
func (l *loader) nearKind(path string) {
	parts := strings.Split(filepath.Base(path), ".")
	if len(parts) < 3 {
		return
	}
	if near := strict.Nearest(parts[len(parts)-2], kinds); near != "" {
		l.Warn(strict.Start(path), "file-kind", "the file is left out: %s is no kind; did you mean %s.%s.json?",
			strict.Quoted(parts[len(parts)-2]), strings.Join(parts[:len(parts)-2], "."), near)
	}
}

// text reads the documents of one file.
func (l *loader) text(path string, text []byte) {
	if len(bytes.TrimSpace(text)) == 0 { // perhaps somebody is about to write it
		l.Warn(strict.Start(path), "file-empty", "the file is empty; write a manifest, or remove the file")
		l.unread(path)
		return
	}
	src := strict.Checked(&l.faults, path, text)
	if src == nil {
		l.unread(path)
		return
	}
	if strings.EqualFold(filepath.Ext(path), ".json") {
		if root := strict.JSON(&l.faults, src); root != nil {
			l.document(strict.Document{Src: src, Root: root}, path)
		} else {
			l.unread(path)
		}
		return
	}
	all, whole := strict.Documents(&l.faults, src)
	if !whole {
		l.unread(path)
	}
	for _, d := range all {
		l.document(d, path)
	}
}

// header is what a custom resource has around its spec.
type header struct {
	Where
	APIVersion string   `key:"apiVersion"`
	Kind       string   `key:"kind"`
	Metadata   metadata `key:"metadata" must:"write metadata with a name"`
}

type metadata struct {
	Where
	Name      string `key:"name" must:"each document needs a name"`
	Namespace string `key:"namespace" empty:"yes"`
}

// kept are keys of metadata that Kubernetes knows, and that have no meaning here.
var kept = []string{
	"labels", "annotations", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields",
	"finalizers", "ownerReferences", "selfLink", "generateName",
}

// armKeys are the keys of a resource of Azure Resource Manager that have no meaning here.
var armKeys = []string{
	"id", "type", "apiVersion", "location", "extendedLocation", "systemData", "tags", "dependsOn", "identity", "properties",
}

// document reads one document into the set.
func (l *loader) document(doc strict.Document, path string) {
	d := &strict.Decoder{Faults: &faults{}, Src: doc.Src, Strict: l.strict}
	defer func() {
		l.All = append(l.All, d.All...)
	}()
	if doc.Root.Kind != yaml.MappingNode {
		d.Error(d.Pos(doc.Root), "document", "a document is an object with apiVersion, kind, metadata and spec; this is %s", strict.KindOf(doc.Root))
		l.unread(path)
		return
	}
	spec, object := strict.Child(doc.Root, "spec"), Object{File: doc.Src.File}
	version, kind := strict.Child(doc.Root, "apiVersion"), strict.Child(doc.Root, "kind")
	var name Pos
	switch properties := strict.Child(doc.Root, "properties"); {
	case version == nil && kind == nil && isDefinition(doc.Root):
		l.set.Definitions[filepath.Base(path)] = decodeDefinition(d, doc.Root)
		return
	case kind == nil && spec == nil && properties != nil && fileKind(filepath.Base(path)) != "":
		object.Kind, spec = fileKind(filepath.Base(path)), properties
		base := filepath.Base(path)
		object.Name = strings.Join(strings.Split(base, ".")[:strings.Count(base, ".")-1], ".")
		name = l.resource(d, doc.Root, object)
	default:
		var h header
		if !l.kind(d, doc.Root, version, kind, &object) {
			return
		}
		if fk := fileKind(filepath.Base(path)); strings.EqualFold(filepath.Ext(path), ".json") && fk != object.Kind {
			d.Error(d.Pos(kind), "file-kind", "the file's name says %s, and the document is of the kind %s; rename the file", fk, object.Kind)
		}
		meta := strict.Child(doc.Root, "metadata")
		d.Object(doc.Root, &h, "the document", "spec", "status", "metadata")
		if meta != nil && !strict.IsNull(meta) {
			d.Object(meta, &h.Metadata, "metadata", kept...)
		}
		object.APIVersion, object.Name, name = h.APIVersion, h.Metadata.Name, h.Metadata.At("name")
		if object.Name == "" {
			l.unread(path)
			return
		}
	}
	if spec == nil || strict.IsNull(spec) {
		spec = &yaml.Node{Kind: yaml.MappingNode, Line: doc.Root.Line, Column: doc.Root.Column}
		if object.Kind != KindProfile {
			d.Error(d.Pos(doc.Root), "missing-key", "the document has no spec; write spec with the settings of %s", object.Kind)
			return
		}
	}
	l.object(d, object, name, spec)
}

// kind reads the kind of a custom resource. It returns false if the document is none that is read.
func (l *loader) kind(d *strict.Decoder, root, version, kind *yaml.Node, o *Object) bool {
	switch {
	case kind == nil || kind.Kind != yaml.ScalarNode || kind.Value == "":
		d.Error(d.Pos(root), "kind-missing", "the document has no kind; write apiVersion and kind, or remove the document")
		l.unread(d.Src.File)
		return false
	case version == nil || version.Kind != yaml.ScalarNode || version.Value == "":
		d.Error(d.Pos(root), "api-version", "the document has no apiVersion; write apiVersion: %sv1", groupConnectivity)
		l.unread(d.Src.File)
		return false
	}
	i := slices.IndexFunc(kinds, func(k string) bool { return strings.EqualFold(k, kind.Value) })
	group, _, _ := strings.Cut(version.Value, "/")
	ours := slices.Contains([]string{groupConnectivity, groupDevices, groupConnectors}, group+"/")
	near := strict.Nearest(kind.Value, kinds)
	switch {
	case i < 0 && (slices.Contains(otherKinds, kind.Value) || !ours && near == ""):
		hint := "move it to another directory if it is not meant"
		switch kind.Value {
		case "Secret":
			hint = "write each key as a file secrets/<name>/<key>"
		case "ConfigMap":
			hint = "write each key as a file configmaps/<name>/<key>"
		}
		d.Warn(d.Pos(kind), "foreign-kind", "a document of the kind %s is left out; %s", strict.Clip(kind.Value), hint)
		return false
	case i < 0 && near != "":
		d.Error(d.Pos(kind), "unknown-kind", "there is no kind %s; did you mean %s?", strict.Quoted(kind.Value), near)
		l.unread(d.Src.File)
		return false
	case i < 0:
		d.Error(d.Pos(kind), "unknown-kind", "there is no kind %s; there are %s", strict.Quoted(kind.Value), strings.Join(kinds, ", "))
		l.unread(d.Src.File)
		return false
	}
	o.Kind = Kind(kinds[i])
	if kinds[i] != kind.Value {
		d.Warn(d.Pos(kind), "odd-case", "the kind is %s, and Azure IoT Operations writes %s; use that form", strict.Quoted(kind.Value), kinds[i])
	}
	if !slices.Contains(versions[o.Kind], version.Value) {
		d.Error(d.Pos(version), "api-version", "the apiVersion of %s is not %s; write %s", o.Kind, strict.Quoted(version.Value), strict.Listed(versions[o.Kind]))
	}
	return true
}

// resource reads what stands around the properties of a resource of Azure Resource Manager.
func (l *loader) resource(d *strict.Decoder, root *yaml.Node, o Object) Pos {
	var r struct {
		Where
		Name string `key:"name"`
	}
	d.Object(root, &r, "the resource", armKeys...)
	if last := r.Name[strings.LastIndexByte(r.Name, '/')+1:]; r.Name != "" && last != o.Name {
		d.Error(r.At("name"), "file-name", "the resource's name is %s, and the file's name says %s; make them equal", strict.Quoted(last), strict.Quoted(o.Name))
	}
	return r.At("name")
}

// object decodes a spec, and puts the object into the set.
func (l *loader) object(d *strict.Decoder, o Object, name Pos, spec *yaml.Node) {
	var more []string
	if o.APIVersion == "" {
		more = []string{"provisioningState", "healthState"} // what Azure adds
	}
	if !validName(o.Kind, o.Name) {
		d.Error(name, "name-form", "%s is no name for a %s; take 3 to 63 small letters, digits and hyphens, with a letter or digit at both ends", strict.Quoted(o.Name), o.Kind)
	}
	read := func(v any) { d.Object(spec, v, "spec", more...) }
	first := l.once(d, o, name)
	switch o.Kind {
	case KindEndpoint:
		e := &Endpoint{}
		read(e)
		checkEndpoint(d, e, o, name)
		e.Object = finished(o, d)
		put(l.set.Endpoints, o.Name, e, first)
	case KindRegistry:
		r := &Registry{}
		read(r)
		checkRegistry(d, r)
		r.Object = finished(o, d)
		put(l.set.Registries, o.Name, r, first)
	case KindProfile:
		p := &Profile{}
		read(p)
		p.Object = finished(o, d)
		put(l.set.Profiles, o.Name, p, first)
	case KindGraph:
		g := &DataflowGraph{}
		read(g)
		if first {
			g.Object = finished(o, d)
			l.set.dataflowGraphs = append(l.set.dataflowGraphs, g)
		}
	case KindDataflow:
		f := &Dataflow{}
		read(f)
		if first {
			f.Object = finished(o, d)
			l.set.dataflows = append(l.set.dataflows, f)
		}
	case KindDevice, KindAsset, KindConnector:
		r := &Raw{Where: strict.Begin(d.Pos(spec)), Spec: d.Free(spec, "spec")}
		r.Object = finished(o, d)
		put(map[Kind]map[string]*Raw{KindDevice: l.set.Devices, KindAsset: l.set.Assets, KindConnector: l.set.Connectors}[o.Kind], o.Name, r, first)
	}
}

func finished(o Object, d *strict.Decoder) Object {
	o.broken = Errors(d.All)
	return o
}

// put puts an object into a map if it is the first of its name.
func put[T any](all map[string]T, name string, v T, first bool) {
	if first {
		all[name] = v
	}
}

// nameKey is a name together with what shares it. Graphs and data flows share their names, because
// journals and commands go by them.
func nameKey(o Object) string {
	if o.Kind == KindGraph || o.Kind == KindDataflow {
		return "graph or data flow " + o.Name
	}
	return string(o.Kind) + " " + o.Name
}

// ambiguous marks the objects whose name another document has too: the order of files must not say
// which of them is meant.
func (l *loader) ambiguous() {
	mark := func(o *Object) {
		if _, ok := l.twice[nameKey(*o)]; ok {
			o.broken = true
		}
	}
	for _, e := range l.set.Endpoints {
		mark(&e.Object)
	}
	for _, r := range l.set.Registries {
		mark(&r.Object)
	}
	for _, p := range l.set.Profiles {
		mark(&p.Object)
	}
	for _, g := range l.set.dataflowGraphs {
		mark(&g.Object)
	}
	for _, f := range l.set.dataflows {
		mark(&f.Object)
	}
}

// once takes a name, or says that it is taken.
func (l *loader) once(d *strict.Decoder, o Object, name Pos) bool {
	key := nameKey(o)
	if first, ok := l.names[key]; ok {
		if l.twice == nil {
			l.twice = map[string]Pos{}
		}
		l.twice[key] = name
		d.Error(name, "name-twice", "there is a %s already, in %s; give one of them another name", key, first)
		return false
	}
	if l.names == nil {
		l.names = map[string]Pos{}
	}
	l.names[key] = name
	return true
}

var (
	strictName  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`) })
	kubeName    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`) })
	maxKubeName = 253
)

// validName says whether a name is one of the kind.
func validName(k Kind, name string) bool {
	switch k {
	case KindDevice, KindAsset, KindConnector:
		return len(name) <= maxKubeName && kubeName().MatchString(name)
	default:
		return strictName().MatchString(name)
	}
}
