package flow

import (
	"fmt"
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

	Hub      bool   `json:"-"` // it sends to the outbox of the device
	Registry bool   `json:"-"` // it runs modules
	Way      string `json:"-"` // of a message
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
	r := Report{Graphs: []Described{}}
	for _, g := range set.Graphs {
		b := &builder{dir: dir, modules: o.Modules, store: fixedStore{}}
		p := b.plan(g)
		faults = append(faults, b.faults...)
		d := Describe(g)
		d.Journal = p.Stateful()
		closeOperators(p)
		r.Graphs = append(r.Graphs, d)
	}
	r.Faults = manifest.Sort(faults)
	if r.Faults == nil {
		r.Faults = []manifest.Fault{}
	}
	r.OK = !manifest.Errors(r.Faults)
	return r
}

// Describe says what a flow is. Journal is left to the caller.
func Describe(g *manifest.Graph) Described {
	d := Described{Name: g.Name, Kind: string(g.Kind), Sources: []string{}, Destinations: []string{}, Hub: g.NeedsHub(), Registry: g.NeedsRegistry(), Way: Way(g)}
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

// Way says in a line how a message goes through a flow: the sources, the operators in their order,
// and the destinations.
func Way(g *manifest.Graph) string {
	d := make([]string, 0, 8)
	var parts []string
	for i := range g.Sources {
		for _, f := range filtersOf(&g.Sources[i]) {
			parts = append(parts, fmt.Sprintf("%s %s", g.Sources[i].Endpoint, f))
		}
	}
	d = append(d, strings.Join(parts, " + "))
	d = append(d, ordered(g)...)
	parts = nil
	for i := range g.Destinations {
		parts = append(parts, fmt.Sprintf("%s %s", g.Destinations[i].Endpoint, g.Destinations[i].To))
	}
	return strings.Join(append(d, strings.Join(parts, " + ")), " → ")
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
