package model

import (
	"slices"
	"strings"
)

// content is one element of an Interface.
type content struct {
	kind, name, display string
	at                  *node
	schema              *schema // telemetry, property
	writable, durable   bool
	request, response   *schema // command; nil when there is none
	component           *iface
}

const (
	telemetryKind    = "Telemetry"
	propertyKind     = "Property"
	commandKind      = "Command"
	componentKind    = "Component"
	relationshipKind = "Relationship"
	interfaceKind    = "Interface"
)

// maxExtends is DTDL v2's bound on Interfaces that inherit from each other.
const maxExtends = 10

// maxContents bounds the contents of all Interfaces of a file, each counted once for every
// Interface that inherits it or has it in a component. Without the bound, a file of a few kilobytes
// could have millions of them.
const maxContents = 200_000

// contents reads what an Interface itself holds.
func (p *parser) contents(i *iface) (err error) {
	if i.display, err = p.display(i.at); err != nil {
		return err
	}
	elements, err := p.list(i.at, "contents")
	if err != nil {
		return err
	}
	for _, n := range elements {
		if err := p.content(i, n); err != nil {
			return err
		}
	}
	return p.extends(i)
}

func (p *parser) extends(i *iface) error {
	n := i.at.fields["extends"]
	if n == nil {
		return nil
	}
	for _, b := range n.elements() {
		base, err := p.reference(b)
		if err != nil {
			return err
		}
		base.referred = true
		i.extends = append(i.extends, base)
	}
	return nil
}

func (p *parser) content(i *iface, n *node) error {
	kind, err := p.oneType(n, telemetryKind, propertyKind, commandKind, componentKind, relationshipKind)
	if err != nil {
		return err
	}
	if kind == "" {
		i.ignored = append(i.ignored, n.element())
		return nil
	}
	c := &content{kind: kind, at: n}
	if c.name, err = p.name(n); err != nil {
		return err
	}
	if c.display, err = p.display(n); err != nil {
		return err
	}
	switch kind {
	case telemetryKind:
		c.schema, err = p.schema(n, "schema", 0)
	case propertyKind:
		if c.writable, err = p.flag(n, "writable"); err == nil {
			c.schema, err = p.schema(n, "schema", 0)
		}
	case commandKind:
		err = p.command(n, c)
	case componentKind:
		err = p.component(n, c)
	}
	i.contents = append(i.contents, c)
	return err
}

func (p *parser) command(n *node, c *content) (err error) {
	if c.durable, err = p.flag(n, "durable"); err != nil { // IoT Central: queue if offline
		return err
	}
	if c.request, err = p.payload(n, "request"); err != nil {
		return err
	}
	c.response, err = p.payload(n, "response")
	return err
}

func (p *parser) payload(n *node, member string) (*schema, error) {
	v, err := p.element(n, member)
	if v == nil || err != nil {
		return nil, err
	}
	if v.kind != '{' {
		return nil, p.fault(v, "a %s must be an object with a name and a schema, this is %s", member, v.what())
	}
	if _, err := p.name(v); err != nil {
		return nil, err
	}
	return p.schema(v, "schema", 0)
}

func (p *parser) component(n *node, c *content) error {
	v := n.member("schema")
	if v == nil {
		return p.fault(n, "no \"schema\"; expected the @id of an Interface of this file, or the Interface itself")
	}
	i, err := p.reference(v)
	if err != nil {
		return err
	}
	i.referred = true
	c.component = i
	return nil
}

// reference resolves an Interface named by its id, or written in place.
func (p *parser) reference(n *node) (*iface, error) {
	switch n.kind {
	case '"':
		if i := p.ifaces[n.text]; i != nil {
			return i, nil
		}
		return nil, p.fault(n, "Interface %s is not defined in this file; add it to the array", quote(n.text))
	case '{':
		if i := p.at[n]; i != nil {
			return i, nil
		}
		return nil, p.fault(n, "expected an Interface, this is of @type %s", quote(strings.Join(n.types(), ", ")))
	default:
		return nil, p.fault(n, "expected the @id of an Interface, or the Interface itself, this is %s", n.what())
	}
}

// flatten puts what an Interface inherits before what it holds itself.
func (p *parser) flatten(i *iface, depth int) error {
	switch {
	case i.state == flatDone:
		return nil
	case i.state == flatBusy:
		return p.fault(i.at.fields["extends"], "Interface %s extends itself", i.id)
	case depth > maxExtends:
		return p.fault(i.at.fields["extends"], "Interfaces extend each other over more than %d levels", maxExtends)
	}
	i.state = flatBusy
	i.names = map[string]*content{}
	for _, base := range i.extends {
		if err := p.flatten(base, depth+1); err != nil {
			return err
		}
		for _, c := range base.flat {
			if err := p.add(i, c, i.at.fields["extends"]); err != nil {
				return err
			}
		}
	}
	for _, c := range i.contents {
		if err := p.add(i, c, c.at); err != nil {
			return err
		}
	}
	i.state = flatDone
	return nil
}

func (p *parser) add(i *iface, c *content, at *node) error {
	switch old := i.names[c.name]; {
	case old == c: // inherited on two ways from one Interface
		return nil
	case old != nil:
		return p.fault(at, "Interface %s has two contents named %q", i.id, c.name)
	}
	if p.flat++; p.flat > maxContents {
		return p.fault(at, "the Interfaces of this file have more than %d contents, inherited ones included", maxContents)
	}
	i.names[c.name] = c
	i.flat = append(i.flat, c)
	return nil
}

// components refuses one component inside another. DTDL v2 does not allow that, and the name
// "component*command" of a command has no place for it.
func (p *parser) components() error {
	for _, i := range p.all {
		count := 0
		for _, c := range i.flat {
			if c.kind != componentKind {
				continue
			}
			if count += len(c.component.flat); count > maxContents {
				return p.fault(c.at, "the components of %s have more than %d contents", i.id, maxContents)
			}
			if slices.ContainsFunc(c.component.flat, func(inner *content) bool { return inner.kind == componentKind }) {
				return p.fault(c.at, "a component cannot hold components, and %s does", c.component.id)
			}
		}
	}
	return nil
}
