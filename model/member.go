package model

import (
	"regexp"
	"slices"
	"strings"
)

var (
	namePattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$`)
	dtmiPattern = regexp.MustCompile(`^dtmi(:[A-Za-z_]([A-Za-z0-9_]*[A-Za-z0-9])?)+;[1-9][0-9]{0,8}$`)
)

// oneType is which of the known types n is; empty when it is of none of them.
func (p *parser) oneType(n *node, known ...string) (string, error) {
	types := n.types()
	if len(types) == 0 {
		return "", p.fault(n, "no \"@type\"; expected %s", strings.Join(known, ", "))
	}
	found := ""
	for _, t := range types {
		if !slices.Contains(known, t) || t == found {
			continue
		}
		if found != "" {
			return "", p.fault(n.fields["@type"], "this cannot be both %s and %s", found, t)
		}
		found = t
	}
	return found, nil
}

// list is a member that holds a set of objects; absent is empty, and one object may stand without the array.
func (p *parser) list(n *node, member string) ([]*node, error) {
	v := n.fields[member]
	if v == nil {
		return nil, nil
	}
	elements := v.list
	if v.kind != '[' {
		elements = []*node{v}
	}
	for _, e := range elements {
		if e.kind != '{' {
			return nil, p.fault(e, "expected an object in %q, this is %s", member, e.what())
		}
	}
	return elements, nil
}

func (p *parser) name(n *node) (string, error) {
	v := n.fields["name"]
	switch {
	case v == nil:
		return "", p.fault(n, "no \"name\"")
	case v.kind != '"':
		return "", p.fault(v, "a name is a string, this is %s", v.what())
	case len(v.text) > 64 || !namePattern.MatchString(v.text):
		return "", p.fault(v, "%s is no name; expected at most 64 letters, digits and underscores, first a letter, last no underscore", quote(v.text))
	}
	return v.text, nil
}

func (p *parser) flag(n *node, member string) (bool, error) {
	v := n.fields[member]
	if v == nil {
		return false, nil
	}
	if v.kind != 't' {
		return false, p.fault(v, "%q is true or false, this is %s", member, v.what())
	}
	return v.truth, nil
}

// display is the name for people: a text, or one text per language, of which English or else the first is taken.
func (p *parser) display(n *node) (string, error) {
	v := n.fields["displayName"]
	switch {
	case v == nil:
		return "", nil
	case v.kind == '{' && v.fields["en"] != nil:
		v = v.fields["en"]
	case v.kind == '{' && len(v.keys) > 0:
		v = v.fields[v.keys[0]]
	}
	if v.kind != '"' {
		return "", p.fault(v, "a displayName is a text, or an object of texts by language")
	}
	return v.text, nil
}
