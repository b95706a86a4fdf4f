package model

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// The most characters of a name.
const (
	maxName   = 64
	maxNameV3 = 512
)

var (
	namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$`) })
	dtmiPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^dtmi(:[A-Za-z_]([A-Za-z0-9_]*[A-Za-z0-9])?)+;[1-9][0-9]{0,8}$`)
	})
	// In DTDL v3 the version may be absent, or have a second number.
	dtmiPatternV3 = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^dtmi(:[A-Za-z_]([A-Za-z0-9_]*[A-Za-z0-9])?)+(;[1-9][0-9]{0,8}(\.[1-9][0-9]{0,5})?)?$`)
	})
)

// oneType returns which of the known types n has, empty if it has none of them.
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

// list returns the objects of a member that holds a set of them. A member that is absent holds
// none, and a single object may stand without the array.
func (p *parser) list(n *node, member string) ([]*node, error) {
	elements := slices.Clone(n.fields[member].elements())
	for i, e := range elements {
		found, err := p.referred(e)
		if err != nil {
			return nil, err
		}
		if elements[i] = found; found.kind != '{' {
			return nil, p.fault(e, "expected an object in %q, this is %s", member, e.what())
		}
	}
	return elements, nil
}

// element returns the one object that a member holds, or refers to by its @id; nil when there is
// none.
func (p *parser) element(n *node, member string) (*node, error) {
	v := n.member(member)
	if v == nil {
		return nil, nil
	}
	return p.referred(v)
}

// referred returns the element whose @id n is, or n itself when n is not a text with a DTMI.
func (p *parser) referred(n *node) (*node, error) {
	if n.kind != '"' || !strings.HasPrefix(n.text, "dtmi:") {
		return n, nil
	}
	if found := p.named[n.text]; found != nil {
		return found, nil
	}
	return nil, p.fault(n, "%s is not defined in this file", quote(n.text))
}

func (p *parser) name(n *node) (string, error) {
	v, most := n.member("name"), maxName
	if p.versionAt(n) == 3 {
		most = maxNameV3
	}
	switch {
	case v == nil:
		return "", p.fault(n, "no \"name\"")
	case v.kind != '"':
		return "", p.fault(v, "a name must be a string, this is %s", v.what())
	case len(v.text) > most || !namePattern().MatchString(v.text):
		return "", p.fault(v, "%s is not a name; expected at most %d letters, digits and underscores, first a letter, last no underscore", quote(v.text), most)
	}
	return v.text, nil
}

func (p *parser) flag(n *node, member string) (bool, error) {
	v := n.member(member)
	if v == nil {
		return false, nil
	}
	if v.kind != 't' {
		return false, p.fault(v, "%q must be true or false, this is %s", member, v.what())
	}
	return v.truth, nil
}

// display is the name for people: a text, or one text per language, of which English or else the
// first is taken. Languages are the members of an object, or a list of objects with "@language".
func (p *parser) display(n *node) (string, error) {
	v := n.fields["displayName"]
	switch {
	case v == nil:
		return "", nil
	case v.kind == '[':
		english := slices.IndexFunc(v.list, func(e *node) bool {
			language := e.fields["@language"]
			return language == nil || language.text == "en"
		})
		if len(v.list) == 0 {
			return "", nil
		}
		v = v.list[max(english, 0)].single()
	case v.isValue():
		v = v.single()
	case v.kind == '{' && len(v.keys) == 0:
		return "", nil
	case v.kind == '{' && v.fields["en"] != nil:
		v = v.fields["en"]
	case v.kind == '{' && len(v.keys) > 0:
		v = v.fields[v.keys[0]]
	}
	if v == nil || v.kind != '"' {
		return "", p.fault(n.fields["displayName"], "a displayName must be a text, or one text per language")
	}
	return v.text, nil
}
