package model

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"

	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Flaw is one place of a model file that breaks a rule of DTDL, although [Parse] may read the file:
// an unknown word, a bound that is exceeded, or a value of the wrong kind.
type Flaw struct {
	At *ParseError // where it is, and what is wrong with it
	// Unchecked says that the place may be right: the file uses an extension of the language that
	// this package does not know, so the words of the extension are not checked.
	Unchecked bool
}

// maxFlaws bounds the answer of Flaws: in a bad file every value may be a flaw.
const maxFlaws = 1000

// Flaws checks a model file against all rules of DTDL v2 or v3, for the author of the file. [Parse]
// is not enough for an author: it ignores unknown words, so a misspelled "writable" makes a
// property read-only without a message. Flaws returns the flaws in the order of the file, at most
// 1000. A file that is not JSON has exactly one flaw.
func Flaws(data []byte) []Flaw {
	r, top, err := readTree(data)
	if err != nil {
		fault, _ := errors.AsType[*ParseError](err)
		return []Flaw{{At: fault}}
	}
	l := &linter{reader: r, named: map[string]*node{}, kinds: map[*node]string{}, misfits: map[*node]string{}}
	l.collect(top)
	for _, n := range top.elements() {
		l.topLevel(n)
	}
	for _, ref := range l.references {
		l.reference(ref)
	}
	l.graph()
	slices.SortStableFunc(l.flaws, func(x, y Flaw) int {
		return cmp.Or(x.At.Line-y.At.Line, x.At.Column-y.At.Column)
	})
	return l.flaws
}

// linter visits each element of a file once, from the top.
type linter struct {
	*reader
	flaws      []Flaw
	named      map[string]*node // the first element with each @id
	kinds      map[*node]string // what each element that was walked is
	elements   []*node          // the same in the order of the walk
	references []reference
	misfits    map[*node]string // see misfit
}

// reference is a text that stands for an element elsewhere in the file.
type reference struct {
	at      *node
	classes []string
	active  context
}

// context is the language and the extensions that hold at a place of the file, by "@context".
type context struct {
	version  int  // of the language, 2 or 3
	central  bool // IoT Central's extension holds
	foreign  bool // an extension holds that this package does not know
	quantity bool // v3: the extension with the semantic types holds
}

func (l *linter) flaw(n *node, format string, args ...any) {
	l.add(Flaw{}, n, format, args...)
}

func (l *linter) add(f Flaw, n *node, format string, args ...any) {
	if len(l.flaws) < maxFlaws { // before its place is found out, which takes time
		f.At = l.fault(n, format, args...)
		l.flaws = append(l.flaws, f)
	}
}

func (l *linter) collect(n *node) {
	for _, e := range n.list {
		l.collect(e)
	}
	if id := n.fields["@id"]; id != nil && id.kind == '"' {
		if l.named[id.text] != nil {
			l.flaw(id, "the file has the @id %s twice", quote(id.text))
		} else {
			l.named[id.text] = n
		}
	}
	for _, key := range n.keys {
		l.collect(n.fields[key])
	}
}

func (l *linter) topLevel(n *node) {
	if n.kind != '{' {
		l.flaw(n, "expected a DTDL Interface (an object), this is %s", n.what())
		return
	}
	version := n.version()
	if version == 0 {
		l.flaw(n, "an Interface at the top of a file needs a \"@context\" with \"%s\"", contextV2)
		version = 2
	}
	l.element(n, []string{interfaceKind}, context{version: version})
}

// element checks one element, which must be of one of the classes.
func (l *linter) element(n *node, classes []string, above context) {
	active := l.context(n, above)
	if active.version > above.version || active.version < above.version && !slices.ContainsFunc(classes, mayBeOlder) {
		l.flaw(n.fields["@context"], "an element of DTDL v%d cannot be part of one of v%d here", active.version, above.version)
	}
	l.id(n, active)
	kind, others, informal := l.kind(n, classes, active)
	if kind == "" {
		return // without a kind there is no rule for its members
	}
	l.kinds[n] = kind
	l.elements = append(l.elements, n)
	class := languages()[active.version][kind]
	l.names(n, kind, class, others, informal, active)
	for _, name := range slices.Sorted(maps.Keys(class.members)) {
		l.member(n, name, class.members[name], active)
	}
	if kind == interfaceKind {
		for _, s := range n.fields["schemas"].elements() {
			if s.kind == '{' && s.fields["@id"] == nil {
				l.flaw(s, "a schema under \"schemas\" needs an \"@id\", or nothing can refer to it")
			}
		}
	}
}

// mayBeOlder says whether an element of this class can be of an older version of the language than
// the element that contains it. The parts of a schema and of a command cannot.
func mayBeOlder(class string) bool {
	return !languages()[2][class].named && !languages()[3][class].named
}

// These patterns are DTDL's. They are stricter than those of Parse.
var (
	strictDTMI = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^dtmi(:[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?)+;[1-9][0-9]{0,8}$`)
	})
	strictDTMIV3 = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^dtmi(:[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?)+(;[1-9][0-9]{0,8}(\.[1-9][0-9]{0,5})?)?$`)
	})
	languageCode = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z]{2,4}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$`)
	})
)

func isDTMI(text string, version int) bool {
	if version == 3 {
		return strictDTMIV3().MatchString(text)
	}
	return strictDTMI().MatchString(text)
}

// context reads the "@context" of an element. It inherits from active what "@context" leaves out.
func (l *linter) context(n *node, active context) context {
	c := n.fields["@context"]
	if c == nil {
		return active
	}
	if c.kind != '"' && c.kind != '[' {
		l.flaw(c, "a @context must be a text or a list of texts, this is %s", c.what())
		return active
	}
	extension := false // one of another kind came before
	var language *node // the last one that names a version of the language
	for _, e := range c.elements() {
		switch {
		case e.kind != '"':
			l.flaw(e, "a @context must be a text or a list of texts, this is %s", e.what())
		case strings.HasPrefix(e.text, "dtmi:dtdl:context;"):
			language = e
			if extension {
				l.flaw(e, "%s must stand before the extensions", quote(e.text))
			}
		case e.text == "dtmi:iotcentral:context;2":
			active.central = true
		case !strictDTMI().MatchString(e.text):
			l.flaw(e, "%s is not a context; expected one like \"%s\"", quote(e.text), contextV2)
		case strings.HasPrefix(e.text, "dtmi:dtdl:extension:quantitativeTypes;"):
			active.quantity, extension = true, true
		default:
			active.foreign, extension = true, true
			l.add(Flaw{Unchecked: true}, e, "hubhop does not know the extension %s, and does not check its words", quote(e.text))
		}
	}
	switch {
	case language == nil:
	case language.text == contextV2:
		active.version = 2
	case language.text == contextV3:
		active.version = 3
	default:
		l.flaw(language, "%s is not a version of DTDL that hubhop knows; expected \"%s\" or \"%s\"", quote(language.text), contextV2, contextV3)
	}
	return active
}

func (l *linter) id(n *node, active context) {
	id := n.fields["@id"]
	switch {
	case id == nil:
	case id.kind != '"':
		l.flaw(id, "an @id must be a text, this is %s", id.what())
	case !isDTMI(id.text, active.version):
		l.flaw(id, "%s is not a DTMI; expected one like \"dtmi:com:example:Thermostat;1\"", quote(id.text))
	case strings.HasPrefix(id.text, "dtmi:dtdl:") || strings.HasPrefix(id.text, "dtmi:standard:") ||
		active.central && strings.HasPrefix(id.text, "dtmi:iotcentral:"):
		l.flaw(id, "%s begins like the words of the language itself; choose another prefix", quote(id.text))
	}
}

// kind reads "@type": which of the classes n is, and which other types it has. informal says that
// the author made up one of the other types; then the element may have members of any name.
func (l *linter) kind(n *node, classes []string, active context) (kind string, others []string, informal bool) {
	t := n.fields["@type"]
	if t == nil {
		if len(classes) == 1 && languages()[active.version][classes[0]].named {
			return classes[0], nil, false
		}
		l.flaw(n, "no \"@type\"; expected %s", strings.Join(classes, ", "))
		return "", nil, false
	}
	if t.kind != '"' && t.kind != '[' {
		l.flaw(t, "a @type must be a text or a list of texts, this is %s", t.what())
		return "", nil, false
	}
	var unknown []*node
	for _, e := range t.elements() {
		if e.kind != '"' {
			l.flaw(e, "a @type must be a text or a list of texts, this is %s", e.what())
			continue
		}
		name := l.typeName(e.text, active)
		switch {
		case slices.Contains(classes, name):
			if kind != "" && kind != name {
				l.flaw(t, "this cannot be both %s and %s", kind, name)
			}
			kind = name
		default:
			unknown = append(unknown, e)
		}
	}
	if kind == "" {
		l.flaw(t, "@type is %s; expected %s%s", quote(strings.Join(n.types(), ", ")), strings.Join(classes, ", "),
			didYouMean(strings.Join(n.types(), " "), classes))
		return "", nil, false
	}
	for _, e := range unknown {
		name := l.typeName(e.text, active)
		switch {
		case l.isExtra(name, kind, active):
			others = append(others, name)
		case active.foreign:
			informal = true
		case active.version == 3:
			l.flaw(e, "%s is not a type of DTDL, nor of an extension that is named in @context", quote(e.text))
		case strings.HasPrefix(name, "dtmi:"):
			l.flaw(e, "%s is not a type of DTDL, nor of an extension that is named in @context", quote(e.text))
		case reserved()[name]:
			l.flaw(e, "%s cannot be of type %s too", a(kind), name)
		default:
			informal = true
		}
		if active.foreign && strings.Contains(e.text, ":") && !isDTMI(e.text, active.version) &&
			(active.version == 3 || strings.HasPrefix(e.text, "dtmi:")) {
			l.flaw(e, "%s is not a DTMI", quote(e.text))
		}
	}
	if len(others) > 1 {
		l.extraTypes(t, others)
	}
	return kind, others, informal
}

// typeName is the word that a type is known by, for types of the language and of its extensions.
func (l *linter) typeName(text string, active context) string {
	prefixes := []string{"dtmi:dtdl:class:", "dtmi:standard:class:"}
	if active.central {
		prefixes = append(prefixes, "dtmi:iotcentral:class:")
	}
	if active.quantity {
		prefixes = append(prefixes, "dtmi:dtdl:extension:quantitativeTypes:v1:class:")
	}
	for _, prefix := range prefixes {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			word, version, versioned := strings.Cut(rest, ";")
			if !versioned || version == "2" && active.version >= 2 || version == "3" && active.version == 3 {
				if versioned || active.quantity {
					return word
				}
			}
		}
	}
	return text
}

// isExtra says whether a Telemetry or a Property can have this type beside its own.
func (l *linter) isExtra(name, kind string, active context) bool {
	if kind != telemetryKind && kind != propertyKind {
		return false
	}
	if _, ok := units()[name]; ok {
		return active.version == 2 || active.quantity
	}
	_, ok := adjuncts[name]
	return ok && active.central
}

// extraTypes refuses two semantic types at once.
func (l *linter) extraTypes(t *node, others []string) {
	first := ""
	for _, name := range others {
		if _, ok := units()[name]; !ok || name == first {
			continue
		}
		if first != "" {
			l.flaw(t, "this cannot be both %s and %s; one of them says what is measured", first, name)
			return
		}
		first = name
	}
}

// names looks at the names of all members of an element.
func (l *linter) names(n *node, kind string, class class, others []string, informal bool, active context) {
	unit := l.unit(n, others, active)
	for _, key := range n.keys {
		short := key
		if rest, ok := strings.CutPrefix(key, "dtmi:dtdl:property:"); ok {
			word, version, _ := strings.Cut(rest, ";")
			if version == "2" || version == "3" && active.version == 3 {
				short = word
			}
		}
		_, known := class.members[short]
		known = known || short == "unit" && unit || short == "durable" && kind == commandKind && active.central
		switch {
		case key == "@graph":
			l.flaw(n.fields[key], "an element has no \"@graph\"")
		case key == "@id" || key == "@type" || key == "@context" || strings.HasPrefix(key, "@") && active.version == 2:
		case active.version == 3 && strings.Contains(key, ":") && !isDTMI(key, 3):
			l.flaw(n.fields[key], "%s has no %s", a(kind), quote(key))
		case known && short != key && slices.Contains(n.keys, short):
			l.flaw(n.fields[key], "%q is given twice, in short and in full", short)
		case known || informal:
		case short == "unit" && (kind == telemetryKind || kind == propertyKind):
			l.flaw(n.fields[key], "a unit needs a semantic type that says what is measured: \"@type\": [%q, \"Temperature\"]", kind)
		default:
			l.flaw(n.fields[key], "%s has no %s%s", a(kind), quote(key), didYouMean(key, append(slices.Sorted(maps.Keys(class.members)), "unit")))
		}
	}
}

// unit judges the member "unit", and says whether there can be one: a semantic type says what is
// measured, and the unit is one of those.
func (l *linter) unit(n *node, others []string, active context) (allowed bool) {
	for _, name := range others {
		choice, needed := units()[name]
		schemas, adjunct := adjuncts[name]
		if !needed {
			choice = units()[vectorUnits[name]]
		}
		if needed {
			schemas, adjunct = []string{"double", "float", "integer", "long"}, true
		}
		if adjunct && active.version == 2 {
			l.extraSchema(n, name, schemas)
		}
		if len(choice) == 0 {
			continue
		}
		allowed = true
		given := n.fields["unit"]
		v := given.single()
		switch {
		case given == nil && needed && active.version == 2:
			l.flaw(n, "%s needs a \"unit\": %s", a(name), clip(strings.Join(choice, ", ")))
		case given == nil || active.version != 2:
		case v == nil || v.kind != '"' || given.kind == '{' || given.kind == '[' && given.list[0].kind == '{':
			l.flaw(given, "a unit must be a text; expected %s", clip(strings.Join(choice, ", ")))
		case !slices.Contains(choice, shortName(v.text, "dtmi:standard:unit:")):
			l.flaw(v, "%s is not a unit of %s; expected %s%s", quote(v.text), a(name), clip(strings.Join(choice, ", ")), didYouMean(v.text, choice))
		}
	}
	return allowed
}

// extraSchema checks that the schema of an element is one of those that its second type allows.
func (l *linter) extraSchema(n *node, name string, allowed []string) {
	s := n.member("schema")
	if s == nil {
		return // said elsewhere
	}
	s = l.found(s)
	if allowed == nil {
		if !slices.Contains(s.types(), enumKind) {
			l.flaw(s, "the schema of %s must be an Enum", a(name))
		}
	} else if s.kind != '"' || !slices.Contains(allowed, shortName(s.text, schemaPrefixes...)) {
		l.flaw(s, "the schema of %s must be one of %s", a(name), strings.Join(allowed, ", "))
	}
}

// member checks one member of an element against its rule.
func (l *linter) member(n *node, name string, r rule, active context) {
	v := n.fields[name]
	if v == nil {
		if r.needed {
			l.flaw(n, "no %q", name)
		}
		return
	}
	switch r.holds {
	case holdsTexts:
		l.texts(v, name, r.most)
		return
	case holdsElements:
		l.elementList(v, name, r, active)
		return
	case holdsText, holdsBoolean, holdsInteger, holdsWord, holdsDTMI, holdsValue, holdsElement, holdsSchema:
	}
	values := v.elements()
	switch {
	case len(values) == 0 && r.needed:
		l.flaw(v, "%q needs a value", name)
	case len(values) > 1:
		l.flaw(v, "%q takes one value, this has %d", name, len(values))
	case len(values) == 1:
		l.value(values[0], name, r, active)
	}
}

func (l *linter) value(v *node, name string, r rule, active context) {
	switch r.holds {
	case holdsText:
		l.text(v, name, r.most)
	case holdsBoolean:
		l.literal(v, 't', "boolean", name)
	case holdsInteger:
		l.integer(v, name, r)
	case holdsValue: // see enumValues
	case holdsWord:
		if v.kind != '"' || !slices.Contains(r.words, v.text) {
			l.flaw(v, "%q must be one of %s%s", name, strings.Join(shortWords(r.words), ", "), didYouMean(v.text, r.words))
		}
	case holdsDTMI:
		if v.kind != '"' || !isDTMI(v.text, active.version) {
			l.flaw(v, "%q must be a DTMI like \"dtmi:com:example:Thermostat;1\"", name)
		}
	case holdsElement, holdsElements, holdsSchema:
		l.child(v, name, r, active)
	case holdsTexts: // see member
	}
}

// child checks an element inside of a member, or keeps a reference to one for later.
func (l *linter) child(v *node, name string, r rule, active context) {
	switch {
	case v.kind == '{':
		l.element(v, r.classes, active)
	case v.kind != '"':
		l.flaw(v, "%q must hold one of %s; this is %s", name, strings.Join(r.classes, ", "), v.what())
	case r.holds == holdsSchema && l.isSimple(v.text, active):
	default:
		l.references = append(l.references, reference{v, r.classes, active})
	}
}

// isSimple says whether text is the name of a schema of the language or of an extension that holds.
func (l *linter) isSimple(text string, active context) bool {
	short := text
	for _, prefix := range schemaPrefixes {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			word, version, _ := strings.Cut(rest, ";")
			if version == "2" || version == "3" && active.version == 3 {
				short = word
			}
		}
	}
	if vectors[short] != nil {
		return active.central
	}
	return slices.Contains(primitives, short) || geospatial[short] != ""
}

func (l *linter) elementList(v *node, name string, r rule, active context) {
	for _, e := range v.elements() {
		l.child(e, name, r, active)
	}
	switch count := len(v.elements()); {
	case count < r.least:
		l.flaw(v, "%q needs at least %d element", name, r.least)
	case r.most > 0 && count > r.most:
		l.flaw(v, "%q takes at most %d elements, this has %d", name, r.most, count)
	}
}

// wrapper checks an object that wraps a literal, and returns the literal; nil when there is none.
func (l *linter) wrapper(v *node, name, beside string) *node {
	for _, key := range v.keys {
		switch {
		case key == "@value" || key == beside:
		case !strings.HasPrefix(key, "@") || key == "@id" || key == "@context" || key == "@graph" || l.version(v) == 3:
			l.flaw(v.fields[key], "%q cannot hold an object with %s", name, quote(key))
		}
	}
	if v.fields["@value"] == nil {
		l.flaw(v, "%q is an object without \"@value\"", name)
	}
	return v.fields["@value"]
}

// literal checks a value of one JSON type, bare or in an object with "@value", and returns it.
func (l *linter) literal(v *node, kind byte, word, name string) *node {
	if v.kind == '{' {
		if t := v.fields["@type"].single(); v.fields["@type"] != nil && (t == nil || v.fields["@type"].kind == '{' || t.kind != '"' || t.text != "xsd:"+word && t.text != "http://www.w3.org/2001/XMLSchema#"+word) {
			l.flaw(v.fields["@type"], "the @type of this value must be \"xsd:%s\"", word)
		}
		if v = l.wrapper(v, name, "@type"); v == nil {
			return nil
		}
	}
	if v.kind != kind {
		l.flaw(v, "%q must be %s, this is %s", name, kindName(kind), v.what())
		return nil
	}
	return v
}

func (l *linter) text(v *node, name string, most int) {
	if v = l.literal(v, '"', "string", name); v == nil {
		return
	}
	l.length(v, name, most)
	if name == "name" && !namePattern().MatchString(v.text) {
		l.flaw(v, "%s is not a name; expected letters, digits and underscores, first a letter, last no underscore", quote(v.text))
	}
}

// length checks the length of a text in UTF-16 units, as JavaScript and .NET count it.
func (l *linter) length(v *node, name string, most int) {
	if count := len(utf16.Encode([]rune(v.text))); most > 0 && count > most {
		l.flaw(v, "%q may have at most %d characters, this has %d", name, most, count)
	}
}

func (l *linter) integer(v *node, name string, r rule) {
	if v = l.literal(v, '0', "integer", name); v == nil {
		return
	}
	i, problem := integral(v.text)
	switch {
	case problem != "" || i < math.MinInt32 || i > math.MaxInt32 || strings.ContainsAny(v.text, ".eE"):
		l.flaw(v, "%q must be a whole number of 32 bits", name)
	case name == "minMultiplicity" && i != 0:
		l.flaw(v, "%q must be 0, or be left out", name)
	case i < int64(r.least) || r.most > 0 && i > int64(r.most):
		l.flaw(v, "%q must lie between %d and %d", name, r.least, r.most)
	}
}

// texts looks at a text for people: one for all, or one per language.
func (l *linter) texts(v *node, name string, most int) {
	switch v.kind {
	case '"':
		l.length(v, name, most)
	case '{':
		for _, language := range v.keys {
			text := v.fields[language]
			if !languageCode().MatchString(language) {
				l.flaw(text, "%s is not a language; expected one like \"en\" or \"en-US\"", quote(language))
			}
			if text.kind != '"' {
				l.flaw(text, "%q must be a text, this is %s", name, text.what())
			}
			l.length(text, name, most)
		}
	case '[':
		seen := map[string]bool{}
		for _, e := range v.list {
			l.length(e, name, most)
			l.taggedText(e, name, most, seen)
		}
	default:
		l.flaw(v, "%q must be a text, or one text per language, this is %s", name, v.what())
	}
}

// taggedText is one of a list of texts, {"@value":"Raum","@language":"de"}.
func (l *linter) taggedText(e *node, name string, most int, seen map[string]bool) {
	language := "en" // of a text that names none
	switch e.kind {
	case '"':
	case '{':
		if tag := e.fields["@language"]; tag != nil {
			if tag.kind != '"' || !languageCode().MatchString(tag.text) {
				l.flaw(tag, "a language must be a text like \"en\" or \"en-US\"")
			}
			language = tag.text
		}
		text := l.wrapper(e, name, "@language")
		if text != nil && text.kind != '"' {
			l.flaw(text, "%q must be a text, this is %s", name, text.what())
		} else if text != nil {
			l.length(text, name, most)
		}
	default:
		l.flaw(e, "%q must be a text, or one text per language, this is %s", name, e.what())
	}
	if seen[language] {
		l.flaw(e, "%q has two texts for the language %s", name, quote(language))
	}
	seen[language] = true
}

// enumValues checks the values of an Enum against its valueSchema. It also follows references,
// because the values of an Enum may be defined elsewhere in the file.
func (l *linter) enumValues(n *node) {
	of := n.member("valueSchema")
	if of == nil {
		return
	}
	kind, word := byte('"'), "string"
	if shortName(of.text, schemaPrefixes...) == "integer" {
		kind, word = '0', "integer"
	}
	seen := map[string]bool{}
	for _, e := range n.fields["enumValues"].elements() {
		v := l.found(e).fields["enumValue"]
		if v == nil || len(v.elements()) != 1 {
			continue
		}
		if v = l.literal(v.elements()[0], kind, word, "enumValue"); v == nil {
			continue
		}
		if seen[v.text] {
			l.flaw(v, "value %s appears twice in its Enum", quote(v.text))
		}
		seen[v.text] = true
		if kind == '0' {
			l.integer(v, "enumValue", rule{least: math.MinInt32, most: math.MaxInt32})
		}
	}
}

// reference checks a text that refers to an element elsewhere in the file.
func (l *linter) reference(ref reference) {
	n := ref.at
	found := l.named[n.text]
	kind := l.kinds[found]
	switch {
	case !isDTMI(n.text, ref.active.version):
		l.flaw(n, "%s is not one of %s, nor the @id of one", quote(n.text), strings.Join(ref.classes, ", "))
	case found == nil:
		l.flaw(n, "%s is not defined in this file", quote(n.text))
	case kind == "":
		// What is wrong with it was said where it stands.
	case !slices.Contains(ref.classes, kind):
		l.flaw(n, "%s is %s; expected %s", quote(n.text), a(kind), strings.Join(ref.classes, ", "))
	case kind != interfaceKind && l.partition(n) != l.partition(found):
		l.flaw(n, "%s belongs to another Interface; only Interfaces can be referred to from outside", quote(n.text))
	case l.version(found) > ref.active.version:
		l.flaw(n, "%s is of DTDL v%d and cannot be part of v%d", quote(n.text), l.version(found), ref.active.version)
	}
}

// partition is the Interface that n belongs to.
func (l *linter) partition(n *node) *node {
	for ; n != nil; n = n.up {
		if l.kinds[n] == interfaceKind {
			return n
		}
	}
	return nil
}

// graph checks the rules about which elements may contain which, when all elements are known.
func (l *linter) graph() {
	for _, n := range l.elements {
		switch l.kinds[n] {
		case propertyKind:
			if s := n.member("schema"); s != nil && l.version(n) == 2 {
				if what := l.misfit(s); what != "" {
					l.flaw(n, "a Property cannot hold %s in DTDL v2; Telemetry can", what)
				}
			}
		case relationshipKind:
			l.uniqueNames(n, "properties")
		case objectKind:
			l.uniqueNames(n, "fields")
		case enumKind:
			l.uniqueNames(n, "enumValues")
			l.enumValues(n)
		case interfaceKind:
			member, most := "contents", 300
			if l.version(n) == 3 {
				member, most = "extends", 1024
			}
			if count := l.count(n, member, map[*node]bool{}); count > most {
				l.flaw(n, "%q may have at most %d elements, inherited ones included; this has %d", member, most, count)
			}
		}
	}
}

// misfit returns in words what a Property of DTDL v2 cannot hold, an Array or a place, if s
// contains it at any depth. Each schema is checked once, however many elements refer to it.
func (l *linter) misfit(s *node) (what string) {
	if s = l.found(s); s.kind == '"' {
		if word := shortName(s.text, schemaPrefixes...); geospatial[word] != "" {
			return "a " + word
		}
		return ""
	}
	what, seen := l.misfits[s]
	if seen {
		return what
	}
	l.misfits[s] = "" // ends the recursion; Parse reports a schema inside itself
	switch l.kinds[s] {
	case arrayKind:
		what = "an Array"
	case mapKind, objectKind:
		for _, holder := range append(slices.Clone(s.fields["fields"].elements()), s.fields["mapValue"].elements()...) {
			if inner := l.found(holder).member("schema"); inner != nil && what == "" {
				what = l.misfit(inner)
			}
		}
	}
	l.misfits[s] = what
	return what
}

// uniqueNames reports elements of a member that have the same name.
func (l *linter) uniqueNames(n *node, member string) {
	seen := map[string]bool{}
	for _, e := range n.fields[member].elements() {
		e = l.found(e)
		name := e.member("name")
		if name == nil {
			continue
		}
		if seen[name.text] {
			l.flaw(e, "two of the %s of this %s are named %s", member, l.kinds[n], quote(name.text))
		}
		seen[name.text] = true
	}
}

// count returns how many elements a member of an Interface has, including inherited ones.
func (l *linter) count(n *node, member string, seen map[*node]bool) int {
	if seen[n] {
		return 0
	}
	seen[n] = true
	count := len(n.fields[member].elements())
	for _, base := range n.fields["extends"].elements() {
		count += l.count(l.found(base), member, seen)
	}
	return count
}

// found returns n if it is an element, or the element whose @id n is.
func (l *linter) found(n *node) *node {
	if found := l.named[n.text]; n.kind == '"' && found != nil {
		return found
	}
	return n
}

// version is the version of the language at n.
func (l *linter) version(n *node) int { return cmp.Or(n.version(), 2) }

// shortWords are the words of a rule without their full names.
func shortWords(words []string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.Contains(w, ":") })
}

// a puts the article before a word of the language.
func a(word string) string {
	if strings.ContainsRune("AEIO", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

// didYouMean ends a sentence with the word that was probably meant; empty when none is near.
func didYouMean(word string, known []string) string {
	if len(word) > 80 { // longer than any word of the language; the work grows with the length
		return ""
	}
	short := map[string]string{} // as it is written, by its lower-case letters
	var lower []string
	for _, k := range known {
		if l := strings.ToLower(k); !strings.Contains(k, ":") && short[l] == "" {
			short[l], lower = k, append(lower, l)
		}
	}
	best := short[suggest.Nearest(strings.ToLower(word), lower, min(3, 1+len(word)/3))]
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
