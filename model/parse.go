// Package model reads a device model written in DTDL v2 or v3, the language of IoT Central and of
// IoT Plug and Play, and says whether values fit it: telemetry a device is about to send,
// properties it is told or reports, parameters of commands.
//
// The package only judges; the caller decides. IoT Central accepts telemetry that a model does not
// know, so a misfit there is a [Finding], of which the caller can warn. A desired property or a
// command that does not fit is a [*CheckError], which has the code for the answer. [Parse] reads
// more than the language allows, because published models break rules and a device must run with
// them. [Flaws] checks a file against all rules, for its author.
package model

import (
	"cmp"
	"slices"
	"strings"
)

// Model is a parsed model file, with one of its Interfaces as the device's own. It never changes,
// so any goroutine may use it.
type Model struct {
	root  *iface
	all   []*iface // in file order, those inside components too
	order []*iface // those at the top of the file
}

// iface is one DTDL Interface. contents and ignored hold its own contents; names also holds those
// that it inherits.
type iface struct {
	id, display string
	at          *node
	contents    []*content
	ignored     []string // contents of a type this package does not know
	extends     []*iface
	flat        []*content // inherited first, then its own, each once
	names       map[string]*content
	referred    bool // by a component or an extends
	state       flatState
}

type flatState int

const (
	flatNot flatState = iota
	flatBusy
	flatDone
)

// Parse reads a model file: one DTDL Interface, or an array of them, as IoT Central exports it.
// Components and "extends" may refer to any Interface of the file or hold one in place. Parse
// ignores further types of a content, units, and contents of an unknown @type; Describe lists the
// last.
//
// The device's own Interface is the first one of the file that no other one refers to. WithRoot
// chooses another one. The error is a [*ParseError]: one fault, with its place.
func Parse(data []byte) (*Model, error) {
	r, top, err := readTree(data)
	if err != nil {
		return nil, err
	}
	p := &parser{reader: r, ifaces: map[string]*iface{}, named: map[string]*node{}, read: map[*node]*schema{}, at: map[*node]*iface{}}
	return p.file(top)
}

// ID is the DTMI of the device's own Interface. The device announces it as its model id.
func (m *Model) ID() string { return m.root.id }

// WithRoot returns the same model with another Interface of the file as the device's own, for a
// file that holds several models. It returns false if the file has no Interface of that id.
func (m *Model) WithRoot(id string) (*Model, bool) {
	for _, i := range m.all {
		if i.id == id {
			return &Model{root: i, all: m.all, order: m.order}, true
		}
	}
	return nil, false
}

// Interfaces returns the ids of all Interfaces of the file in its order, nested ones included.
func (m *Model) Interfaces() []string {
	ids := make([]string, len(m.all))
	for n, i := range m.all {
		ids[n] = i.id
	}
	return ids
}

// Roots returns the ids of the Interfaces at the top of the file that no other one refers to, in
// the order of the file. Each can be the device's own. There is at least one.
func (m *Model) Roots() []string {
	var ids []string
	for _, i := range m.order {
		if !i.referred {
			ids = append(ids, i.id)
		}
	}
	return ids
}

// HasComponent reports whether the device has a component of that name. The default component has
// no name, and every device has it.
func (m *Model) HasComponent(name string) bool {
	_, ok := m.interfaceOf(name)
	return ok
}

func (m *Model) interfaceOf(component string) (*iface, bool) {
	if component == "" {
		return m.root, true
	}
	c := m.root.names[component]
	if c == nil || c.kind != componentKind {
		return nil, false
	}
	return c.component, true
}

type parser struct {
	*reader
	version int // of the language, for an element that names none
	flat    int // contents of all Interfaces, inherited ones included
	ifaces  map[string]*iface
	at      map[*node]*iface
	all     []*iface
	named   map[string]*node // the elements that have an @id
	read    map[*node]*schema
}

func (p *parser) file(top *node) (*Model, error) {
	nodes := []*node{top}
	switch top.kind {
	case '[':
		nodes = top.list
	case '{':
	default:
		return nil, p.fault(top, "expected a DTDL Interface (an object) or an array of them, this is %s", top.what())
	}
	if len(nodes) == 0 {
		return nil, p.fault(top, "the array is empty; expected at least one DTDL Interface")
	}
	for _, n := range nodes {
		if err := p.topLevel(n); err != nil {
			return nil, err
		}
	}
	if err := p.context(nodes); err != nil {
		return nil, err
	}
	if err := p.collect(top); err != nil {
		return nil, err
	}
	for _, i := range p.all {
		if err := p.contents(i); err != nil {
			return nil, err
		}
	}
	for _, i := range p.all {
		if err := p.flatten(i, 0); err != nil {
			return nil, err
		}
	}
	if err := p.components(); err != nil {
		return nil, err
	}
	m := &Model{all: p.all}
	for _, n := range nodes {
		i := p.at[n]
		m.order = append(m.order, i)
		if m.root == nil && !i.referred {
			m.root = i
		}
	}
	if m.root == nil {
		return nil, p.fault(top, "every Interface of the file is part of another one, so none can be the device's own")
	}
	for _, i := range p.all { // the text of the file is not needed any more, and may be large
		i.at = nil
		for _, c := range i.contents {
			c.at = nil
		}
	}
	return m, nil
}

func (p *parser) topLevel(n *node) error {
	if n.kind != '{' {
		return p.fault(n, "expected a DTDL Interface (an object), this is %s", n.what())
	}
	if n.fields["capabilityModel"] != nil {
		return p.fault(n, "this is a whole device template; expected its model only, the Interface under \"capabilityModel\"")
	}
	kind, err := p.oneType(n, interfaceKind)
	if err == nil && kind == "" {
		err = p.fault(n, "@type is %s; expected \"Interface\"", quote(strings.Join(n.types(), ", ")))
	}
	return err
}

// context checks that the file names the version of the language at least once, as DTDL demands.
func (p *parser) context(nodes []*node) error {
	for _, n := range nodes {
		c := n.fields["@context"]
		if c == nil {
			continue
		}
		for _, e := range c.elements() {
			if e.text == contextV2 || e.text == contextV3 {
				p.version = n.version()
				return nil
			}
		}
		return p.fault(c, "expected the language \"%s\" or \"%s\" among the contexts", contextV2, contextV3)
	}
	return p.fault(nodes[0], "no \"@context\"; expected [\"dtmi:iotcentral:context;2\", \"dtmi:dtdl:context;2\"]")
}

// versionAt is the version of the language that holds at n, 2 or 3.
func (p *parser) versionAt(n *node) int { return cmp.Or(n.version(), p.version, 2) }

// collect finds every Interface and every named schema of the file, so that a reference may come
// before the element that it refers to.
func (p *parser) collect(n *node) error {
	for _, e := range n.list {
		if err := p.collect(e); err != nil {
			return err
		}
	}
	if n.kind != '{' {
		return nil
	}
	id := n.fields["@id"]
	pattern := dtmiPattern
	if p.versionAt(n) == 3 {
		pattern = dtmiPatternV3
	}
	if id != nil && (id.kind != '"' || !pattern().MatchString(id.text)) {
		return p.fault(id, "%s is not a DTMI; expected one like \"dtmi:com:example:Thermostat;1\"", quote(cmp.Or(id.text, id.what())))
	}
	if id != nil && p.named[id.text] == nil {
		p.named[id.text] = n
	}
	if slices.Contains(n.types(), interfaceKind) {
		if err := p.addInterface(n, id); err != nil {
			return err
		}
	}
	for _, key := range n.keys {
		if err := p.collect(n.fields[key]); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) addInterface(n, id *node) error {
	switch {
	case id == nil:
		return p.fault(n, "an Interface needs an \"@id\" like \"dtmi:com:example:Thermostat;1\"")
	case len(id.text) > 128:
		return p.fault(id, "the @id of an Interface has at most 128 characters, this has %d", len(id.text))
	case p.ifaces[id.text] != nil:
		return p.fault(id, "the file defines Interface %s twice", id.text)
	}
	i := &iface{id: id.text, at: n}
	p.ifaces[i.id], p.at[n] = i, i
	p.all = append(p.all, i)
	return nil
}
