package scenario

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/hubhop-iot/hubhop/internal/strict"
	"github.com/hubhop-iot/hubhop/internal/suggest"
)

const (
	maxBytes  = 1 << 20 // of a file
	maxFaults = 20      // of a file that are told
	maxDepth  = 40      // of nested values
)

// Parse reads a scenario. name is what faults call the file. The error has one line for each fault,
// each with file and line. Then there is no scenario.
func Parse(name string, text []byte) (*Scenario, error) {
	d := &decoder{name: name}
	s := &Scenario{}
	if root := d.root(text); root != nil {
		d.value(root, reflect.ValueOf(s).Elem(), "", "")
		if len(d.faults) == 0 {
			d.check(s)
		}
	}
	if len(d.faults) > 0 {
		return nil, d.err()
	}
	return s, nil
}

// fault is one thing that is wrong in a line.
type fault struct {
	line int
	text string
}

// decoder reads one file, and notes all faults of it.
type decoder struct {
	name   string
	faults []fault
}

func (d *decoder) fault(line int, format string, a ...any) {
	d.faults = append(d.faults, fault{line, fmt.Sprintf(format, a...)})
}

// err joins the faults in the order of their lines.
func (d *decoder) err() error {
	slices.SortStableFunc(d.faults, func(a, b fault) int { return a.line - b.line })
	var all []error
	for i, f := range d.faults {
		if i == maxFaults {
			all = append(all, fmt.Errorf("%s: %d more faults; mend these first", d.name, len(d.faults)-i))
			break
		}
		all = append(all, fmt.Errorf("%s:%d: %s", d.name, max(f.line, 1), f.text))
	}
	return errors.Join(all...)
}

// root reads the text as one YAML document, and returns its object; nil if there is a fault.
func (d *decoder) root(text []byte) *yaml.Node {
	switch {
	case len(text) > maxBytes:
		d.fault(1, "the file has %d bytes, and a scenario has at most %d", len(text), maxBytes)
		return nil
	case !utf8.Valid(text):
		d.fault(1, "the file is not UTF-8 text")
		return nil
	}
	trees, err := strict.Trees(string(text), 2)
	syntax, bad := errors.AsType[*strict.SyntaxError](err)
	switch {
	case bad:
		d.fault(syntax.Line, "this is no YAML: %s", syntax.Text)
	case len(trees) == 0:
		d.fault(1, "the file is empty; a scenario has at least name, title and steps")
	case len(trees) > 1:
		d.fault(trees[1].Line, "a second document begins here; a file holds one scenario")
	case d.plain(trees[0], 0):
		return trees[0]
	}
	return nil
}

// plain refuses what makes a file mean something else than it says: anchors, aliases, merged keys
// and tags. It also bounds the depth.
func (d *decoder) plain(n *yaml.Node, depth int) bool {
	switch {
	case depth > maxDepth:
		d.fault(n.Line, "values are nested more than %d levels deep", maxDepth)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n.Line, "anchors and aliases (& and *) are not read; write the value itself, in quotes if it begins so")
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n.Line, "tags (!) are not read; write the value alone, in quotes if it begins so")
	default:
		ok := true
		for _, c := range n.Content {
			ok = d.plain(c, depth+1) && ok
		}
		return ok
	}
	return false
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	jsonType     = reflect.TypeFor[JSON]()
	posType      = reflect.TypeFor[Pos]()
	wordType     = reflect.TypeFor[word]()
)

// word is a value that is written as one word, and read by its own type.
type word interface {
	// read sets the value. Its error completes the sentence "it must be …".
	read(text string) error
	// form is the value's JSON schema.
	form() map[string]any
}

// isUnion says whether exactly one field of a struct is set.
func isUnion(t reflect.Type) bool { return t == reflect.TypeFor[Action]() }

// bare says whether a value of the type may be left out: an object without a field that it must
// have.
func bare(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct &&
		!slices.ContainsFunc(strict.FieldsOf(t.Elem()), func(f reflect.StructField) bool { return f.Tag.Get("must") != "" })
}

// value reads a node into v. path names it for people.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	t := v.Type()
	switch {
	case t == jsonType:
		d.json(n, v, path)
		return
	case reflect.PointerTo(t).Implements(wordType):
		if text, ok := d.scalar(n, path, "one word"); ok {
			if err := v.Addr().Interface().(word).read(text); err != nil {
				d.fault(n.Line, "%s must be %v; it is %s", path, err, strict.Quoted(text))
			}
		}
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		before := len(d.faults)
		d.value(n, p.Elem(), path, tag)
		if len(d.faults) == before {
			v.Set(p)
		}
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Slice:
		d.list(n, v, path, tag)
	case reflect.Map:
		d.table(n, v, path)
	default:
		d.word(n, v, path, tag)
	}
}

// object reads a mapping.
func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) {
	t := v.Type()
	fields := strict.FieldsOf(t)
	var known []string
	for _, f := range fields {
		known = append(known, f.Tag.Get("key"))
	}
	if p := v.FieldByName("Pos"); p.IsValid() && p.Type() == posType {
		p.Set(reflect.ValueOf(Pos{n.Line}))
	}
	name := cmp.Or(path, "the file")
	if isUnion(t) && n.Kind == yaml.ScalarNode && n.Tag == "!!str" { // a word alone
		i := slices.Index(known, n.Value)
		switch {
		case i < 0:
			d.unknown(n, path, n.Value, known, nil)
		case !bare(fields[i].Type):
			d.fault(n.Line, "%s needs more than its name; write %s: and behind it what it needs", n.Value, n.Value)
		default:
			v.FieldByIndex(fields[i].Index).Set(reflect.New(fields[i].Type.Elem()))
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fault(n.Line, "%s must be an object, keys with values: %s; it is %s", name, strict.Some(known), strict.KindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := slices.Index(known, key.Value)
		switch first, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!merge":
			d.fault(key.Line, "a key is one word; merged keys are not read")
		case twice:
			d.fault(key.Line, "%s is given twice, first in line %d; leave one out", strict.Joined(path, key.Value), first)
		case at < 0:
			d.unknown(key, path, key.Value, known, places(fields, key.Value))
		case strict.IsNull(value) && bare(fields[at].Type):
			v.FieldByIndex(fields[at].Index).Set(reflect.New(fields[at].Type.Elem()))
		case strict.IsNull(value):
			d.fault(key.Line, "%s has no value; leave the line out, or write one", strict.Joined(path, key.Value))
		default:
			d.value(value, v.FieldByIndex(fields[at].Index), strict.Joined(path, key.Value), fields[at].Tag)
		}
		seen[key.Value] = key.Line
	}
	for _, f := range fields {
		if key := f.Tag.Get("key"); f.Tag.Get("must") != "" && seen[key] == 0 {
			d.fault(n.Line, "%s needs %s: %s", name, key, f.Tag.Get("about"))
		}
	}
	if isUnion(t) && len(seen) != 1 {
		d.fault(n.Line, "%s must have exactly one key, one action; it has %d; give each action a hyphen of its own", name, len(seen))
	}
}

// places are the fields whose own objects have a key.
func places(fields []reflect.StructField, key string) (all []string) {
	for _, f := range fields {
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && slices.ContainsFunc(strict.FieldsOf(inner), func(f reflect.StructField) bool { return f.Tag.Get("key") == key }) {
			all = append(all, f.Tag.Get("key"))
		}
	}
	return all
}

// unknown notes the fault of a key that nobody knows here. under are the keys under which it could
// stand.
func (d *decoder) unknown(n *yaml.Node, path, key string, known, under []string) {
	where := ""
	if path != "" {
		where = " in " + path
	}
	if len(under) > 0 {
		d.fault(n.Line, "%s is no key%s; it belongs under %s", strict.Quoted(key), where, strings.Join(under, " or "))
		return
	}
	if len(key) < 40 {
		if near := suggest.Nearest(key, known, 3); near != "" {
			d.fault(n.Line, "%s is no key%s; did you mean %s?", strict.Quoted(key), where, near)
			return
		}
	}
	d.fault(n.Line, "%s is no key%s; there are %s", strict.Quoted(key), where, strings.Join(known, ", "))
}

// list reads a sequence.
func (d *decoder) list(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n.Line, "%s must be a list, each item behind a hyphen; it is %s", path, strict.KindOf(n))
		return
	}
	if len(n.Content) == 0 {
		d.fault(n.Line, "%s is an empty list; leave it out, or put something in it", path)
	}
	all := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, all.Index(i), fmt.Sprintf("%s[%d]", path, i+1), tag)
	}
	v.Set(all)
}

// table reads a mapping whose keys are the user's.
func (d *decoder) table(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		d.fault(n.Line, "%s must be an object with at least one key; it is %s", path, strict.KindOf(n))
		return
	}
	all := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		item := reflect.New(v.Type().Elem()).Elem()
		if all.MapIndex(reflect.ValueOf(key.Value)).IsValid() {
			d.fault(key.Line, "%s is given twice; leave one out", strict.Joined(path, key.Value))
		}
		d.value(value, item, strict.Joined(path, key.Value), "")
		all.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
	v.Set(all)
}

// json reads any value as JSON.
func (d *decoder) json(n *yaml.Node, v reflect.Value, path string) {
	if d.hasNumberTooLarge(n) {
		return
	}
	var value any
	err := n.Decode(&value)
	var text []byte
	if err == nil {
		text, err = json.Marshal(value)
	}
	if err != nil {
		d.fault(n.Line, "%s cannot be written as JSON: its keys must be texts, and its numbers finite", path)
		return
	}
	v.SetBytes(text)
}

// scalar returns the text of a node that is one value.
func (d *decoder) scalar(n *yaml.Node, path, want string) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n.Line, "%s must be %s; it is %s", path, want, strict.KindOf(n))
		return "", false
	}
	return n.Value, true
}

// word reads a text, a number, a duration, or yes and no.
func (d *decoder) word(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	text, ok := d.scalar(n, path, wanted(v.Type(), tag))
	if !ok {
		return
	}
	wrong := func() { d.fault(n.Line, "%s must be %s; it is %s", path, wanted(v.Type(), tag), strict.Quoted(text)) }
	switch t := v.Type(); {
	case t == durationType:
		span, err := duration(text)
		if err != nil || outside(float64(span), tag, func(s string) float64 { d, _ := duration(s); return float64(d) }) {
			wrong()
			return
		}
		v.SetInt(int64(span))
	case t.Kind() == reflect.String:
		if n.Tag != "!!str" && tag.Get("one") == "" && tag.Get("pattern") == "" {
			d.fault(n.Line, "%s must be a text; put %s in quotes", path, strict.Quoted(text))
			return
		}
		if !allowed(text, tag) {
			wrong()
			return
		}
		v.SetString(text)
	case t.Kind() == reflect.Bool:
		if n.Tag != "!!bool" {
			wrong()
			return
		}
		v.SetBool(strings.EqualFold(text, "true"))
	case t.Kind() == reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(x) || outside(x, tag, number) {
			wrong()
			return
		}
		v.SetFloat(x)
	case t.Kind() == reflect.Uint64:
		x, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			wrong()
			return
		}
		v.SetUint(x)
	default: // an int
		x, err := strconv.Atoi(text)
		if err != nil || outside(float64(x), tag, number) {
			wrong()
			return
		}
		v.SetInt(int64(x))
	}
}

// hubName matches the name of a hub.
var hubName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^hub-[a-z]$`) })

// allowed says whether a text is one that the tag allows.
func allowed(text string, tag reflect.StructTag) bool {
	switch {
	case tag.Get("one") != "":
		return slices.Contains(strings.Split(tag.Get("one"), ","), text)
	case tag.Get("hub") != "":
		return hubName().MatchString(text)
	case tag.Get("place") != "":
		return hubName().MatchString(text) || text == "dps" || text == "all"
	case tag.Get("pattern") != "":
		return regexp.MustCompile(tag.Get("pattern")).MatchString(text)
	}
	return strings.TrimSpace(text) != ""
}

// outside says whether a value is not within the bounds of the tag.
func outside(x float64, tag reflect.StructTag, read func(string) float64) bool {
	least, most := tag.Get("min"), tag.Get("max")
	return least != "" && x < read(least) || most != "" && x > read(most)
}

func number(s string) float64 {
	x, _ := strconv.ParseFloat(s, 64)
	return x
}

// wanted says what a value must be, to complete the sentence "it must be …".
func wanted(t reflect.Type, tag reflect.StructTag) string {
	within := ""
	switch least, most := tag.Get("min"), tag.Get("max"); {
	case least != "" && most != "":
		within = fmt.Sprintf(" from %s to %s", least, most)
	case least != "":
		within = " of at least " + least
	case most != "":
		within = " of at most " + most
	}
	switch {
	case t == durationType:
		return "a duration" + within + ", such as 500ms, 10s, 3m, 72h or 7d"
	case tag.Get("one") != "":
		return "one of " + strings.ReplaceAll(tag.Get("one"), ",", ", ")
	case tag.Get("hub") != "":
		return "the name of a hub, such as hub-a"
	case tag.Get("place") != "":
		return "the name of a hub, such as hub-a, or dps, or all"
	case t.Kind() == reflect.String && tag.Get("form") != "":
		return tag.Get("form")
	case t.Kind() == reflect.String:
		return "a text that is not empty"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number" + within
	}
	return "a whole number" + cmp.Or(within, " of at least 0")
}

// days matches a duration in days.
var days = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(\d+(?:\.\d+)?)d$`) })

// maxDuration bounds all times of a scenario.
const maxDuration = 366 * 24 * time.Hour

// duration reads a duration: as in Go, or in days.
func duration(text string) (span time.Duration, err error) {
	if m := days().FindStringSubmatch(text); m != nil {
		n := number(m[1])
		if n > maxDuration.Hours()/24 {
			return 0, errors.New("it is longer than a year")
		}
		return time.Duration(n * 24 * float64(time.Hour)), nil
	}
	span, err = time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, err
	case span < 0 || span > maxDuration || text == "0": // the number 0 has no unit, and a schema could not tell it from 1
		return 0, errors.New("it must be from 0s to a year")
	}
	return span, nil
}

// looksLikeNumber matches what a person who writes no quotes means as a number.
var looksLikeNumber = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$`) })

// hasNumberTooLarge notes a number that YAML reads as a text, because no computer holds it.
func (d *decoder) hasNumberTooLarge(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode && n.Style == 0 && n.Tag == "!!str" && looksLikeNumber().MatchString(n.Value) {
		d.fault(n.Line, "the number %s is too large; put it in quotes if it is a text", strict.Quoted(n.Value))
		return true
	}
	found := false
	for _, c := range n.Content {
		found = d.hasNumberTooLarge(c) || found
	}
	return found
}
