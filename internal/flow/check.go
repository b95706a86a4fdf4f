package flow

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// Report is what [Check] finds.
type Report struct {
	OK     bool             `json:"ok"` // there is no error
	Faults []manifest.Fault `json:"faults"`
	Graphs []Described      `json:"graphs"`
}

// Described says what a flow is, and what it needs.
type Described struct {
	Name         string   `json:"name"`
	Kind         string   `json:"kind"`
	Sources      []string `json:"sources"`      // endpoint and topic filter
	Destinations []string `json:"destinations"` // endpoint and place
	Journal      bool     `json:"journal"`      // it remembers something, so it writes a journal

	Hub      bool     `json:"-"` // it sends to the outbox of the device
	Registry bool     `json:"-"` // it runs modules
	Ways     []string `json:"-"` // of a message, see [Ways]
}

// CheckOptions say how strict Check is.
type CheckOptions struct {
	StrictAIO bool // refuses what Azure IoT Operations does not know
	Modules   Modules
}

// Check reads a directory and compiles its flows, without a network. Faults says all that is wrong.
// What this machine lacks is a warning.
func Check(dir string, o CheckOptions) Report {
	set, faults := manifest.Load(dir, manifest.Options{StrictAIO: o.StrictAIO})
	faults = append(faults, manifest.Lacks(set, dir, manifest.Machine{AnyMode: onWindows})...)
	t := readTables(dir)
	faults = append(faults, t.faults...)
	store := fixedStore(t.values)
	for key := range t.held { // its file is there, and has a fault
		store[key] = nil
	}
	r := Report{Graphs: []Described{}}
	for _, g := range set.Graphs {
		b := &builder{dir: dir, modules: o.Modules, store: store, strict: true, storeFile: func(key string) string { return tableFile(dir, key) }}
		p := b.plan(g)
		faults = append(append(faults, b.faults...), mixes(g)...)
		d := Describe(g)
		d.Journal = p.Stateful()
		p.Close(nil)
		r.Graphs = append(r.Graphs, d)
	}
	faults = append(faults, nothing(set, faults, dir, manifest.Error)...)
	for _, g := range set.Unsound { // its rules are wrong whatever else is
		b := &builder{dir: dir, store: store, strict: true, storeFile: func(key string) string { return tableFile(dir, key) }}
		b.rules(g).Close(nil)
		for _, f := range b.faults {
			isOneLine := slices.ContainsFunc(g.Operators, func(o manifest.Operator) bool { return o.Pos().Line == f.Line })
			told := func(other manifest.Fault) bool {
				return other.Pos == f.Pos || !isOneLine && other.File == f.File && other.Line == f.Line
			}
			if !slices.ContainsFunc(faults, told) { // else it is most often the same said twice
				faults = append(faults, f)
			}
		}
	}
	r.Faults = manifest.Sort(faults)
	if r.Faults == nil {
		r.Faults = []manifest.Fault{}
	}
	r.OK = !manifest.Errors(r.Faults)
	return r
}

// nothing is the fault of a directory that has no flow, and no error that says why.
func nothing(set *manifest.Set, faults []manifest.Fault, dir string, severity manifest.Severity) []manifest.Fault {
	if len(set.Graphs)+len(set.Faulty) > 0 || manifest.Errors(faults) {
		return nil
	}
	return []manifest.Fault{{Pos: manifest.Pos{File: dir, Line: 1, Column: 1}, Severity: severity, Text: Nothing(dir)}}
}

// Nothing says that a directory has no data flow, and which directory below has manifests.
func Nothing(dir string) string {
	text := "there is no data flow in " + dir
	below, _ := os.ReadDir(dir) // it was read before
	for _, d := range below {
		files, err := os.ReadDir(filepath.Join(dir, d.Name()))
		if err == nil && slices.ContainsFunc(files, func(f os.DirEntry) bool { return isManifest(f.Name()) }) {
			return fmt.Sprintf("%s; directories below it are not read: name one of them, such as %s", text, filepath.Join(dir, d.Name()))
		}
	}
	return text
}

// isManifest reports whether a file has the name of a manifest in YAML.
func isManifest(name string) bool {
	ext := filepath.Ext(name)
	return (ext == ".yaml" || ext == ".yml") && filepath.Ext(strings.TrimSuffix(name, ext)) != ".test"
}

// Describe says what a flow is. Journal is left to the caller.
func Describe(g *manifest.Graph) Described {
	d := Described{Name: g.Name, Kind: string(g.Kind), Sources: []string{}, Destinations: []string{}, Hub: g.NeedsHub(), Registry: g.NeedsRegistry(), Ways: Ways(g)}
	for i := range g.Sources {
		for _, f := range filtersOf(&g.Sources[i]) {
			d.Sources = append(d.Sources, g.Sources[i].Endpoint+": "+f)
		}
	}
	for i := range g.Destinations {
		d.Destinations = append(d.Destinations, g.Destinations[i].Endpoint+": "+g.Destinations[i].To)
	}
	return d
}

// Ways says how a message goes through a flow, each way in a line: from the sources, from each arm
// of a branch, and from where it is copied. A way ends at a destination, or where it divides.
func Ways(g *manifest.Graph) []string {
	w := ways{next: map[string][]string{}, ends: map[string]string{}}
	for i := range g.Destinations {
		d := &g.Destinations[i]
		w.ends[d.Name] = d.Endpoint + " " + d.To
	}
	for i := range g.Connections {
		from := fromOf(&g.Connections[i])
		w.next[from] = append(w.next[from], g.Connections[i].To)
	}
	var sources []string
	for i := range g.Sources {
		for _, f := range filtersOf(&g.Sources[i]) {
			sources = append(sources, g.Sources[i].Endpoint+" "+f)
		}
		this := w.next[g.Sources[i].Name]
		if i+1 == len(g.Sources) || !slices.Equal(this, w.next[g.Sources[i+1].Name]) {
			w.walk(strings.Join(sources, " + "), this)
			sources = nil
		}
	}
	for _, name := range ordered(g) {
		var seen []string
		for i := range g.Connections {
			from := fromOf(&g.Connections[i])
			if g.Connections[i].From != name || slices.Contains(seen, from) {
				continue
			}
			seen = append(seen, from)
			if from != name || w.divides(w.next[name]) {
				w.walk(from, w.next[from])
			}
		}
	}
	return w.lines
}

// fromOf returns where a connection begins: a node, or one of its outputs.
func fromOf(c *manifest.Connection) string {
	return strings.TrimSpace(c.From + " " + string(c.Arm) + c.Output)
}

// ways are the lines of Ways.
type ways struct {
	next  map[string][]string // of a node, or of one of its outputs
	ends  map[string]string   // what destinations are
	lines []string
}

// What nobody reads is left out: the lines behind so many, and the nodes of a line.
const (
	maxWays   = 1000
	maxOnAWay = 100
)

// end returns the text of nodes that are all destinations.
func (w *ways) end(nodes []string) (text string, ok bool) {
	var ends []string
	for _, name := range nodes {
		end, ok := w.ends[name]
		if !ok {
			return "", false
		}
		ends = append(ends, end)
	}
	return strings.Join(ends, " + "), true
}

func (w *ways) divides(nodes []string) bool {
	_, ok := w.end(nodes)
	return len(nodes) > 1 && !ok
}

// walk adds the way that has come so far, and goes on to some nodes. A branch ends it, since its
// arms are ways of their own.
func (w *ways) walk(text string, nodes []string) {
	if w.divides(nodes) {
		for _, name := range nodes {
			w.walk(text, []string{name})
		}
		return
	}
	for n := 0; len(nodes) > 0; n++ {
		if end, ok := w.end(nodes); ok {
			text += " → " + end
			break
		}
		if n == maxOnAWay {
			text += " → …"
			break
		}
		text += " → " + nodes[0]
		if nodes = w.next[nodes[0]]; w.divides(nodes) {
			break
		}
	}
	switch {
	case len(w.lines) < maxWays:
		w.lines = append(w.lines, text)
	case len(w.lines) == maxWays:
		w.lines = append(w.lines, "…")
	}
}

// ordered returns the operators so that each stands behind those that lead to it.
func ordered(g *manifest.Graph) (names []string) {
	before := map[string]int{}
	for i := range g.Operators {
		before[g.Operators[i].Name] = 0
	}
	isOperator := func(name string) bool {
		return slices.ContainsFunc(g.Operators, func(o manifest.Operator) bool { return o.Name == name })
	}
	for i := range g.Connections {
		if c := &g.Connections[i]; isOperator(c.From) && isOperator(c.To) {
			before[c.To]++
		}
	}
	for len(before) > 0 {
		at := len(names)
		for i := range g.Operators {
			name := g.Operators[i].Name
			if n, ok := before[name]; ok && n == 0 {
				names = append(names, name)
				delete(before, name)
			}
		}
		if len(names) == at {
			return names // a circle, which the manifest does not allow
		}
		for _, name := range names[at:] {
			for i := range g.Connections {
				if c := &g.Connections[i]; c.From == name && isOperator(c.To) {
					before[c.To]--
				}
			}
		}
	}
	return names
}
