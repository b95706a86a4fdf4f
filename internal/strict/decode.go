package strict

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Free is an object whose keys are not checked here. The zero value is an empty one.
type Free struct {
	node *yaml.Node
	src  *Source
}

// Decode reads the object into v as encoding/json would, where the tags json of v's fields are the
// keys. It checks nothing.
func (f Free) Decode(v any) error {
	text, err := f.MarshalJSON()
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// MarshalJSON writes the object as JSON, its keys sorted.
func (f Free) MarshalJSON() ([]byte, error) { return json.Marshal(plainValue(f.node)) }

// At returns the place of a value by its path, such as "endpoints", "inbound", "my-endpoint". An
// item of a list is its number from 0. Where the path ends early, it is the place of the last
// value.
func (f Free) At(path ...string) Pos {
	if f.node == nil {
		return Pos{Line: 1, Column: 1}
	}
	n := f.node
	for _, key := range path {
		next := Child(n, key)
		if next == nil {
			break
		}
		n = next
	}
	return Pos{f.src.File, n.Line, n.Column}
}

// Text returns a value by its path as text; ok is false if it is not there or no single value.
func (f Free) Text(path ...string) (text string, ok bool) {
	n := f.node
	for _, key := range path {
		if n == nil {
			return "", false
		}
		n = Child(n, key)
	}
	if n == nil || n.Kind != yaml.ScalarNode || IsNull(n) {
		return "", false
	}
	return n.Value, true
}

// Child returns the value of a key of a mapping, or an item of a list by its number; nil: none.
func Child(n *yaml.Node, key string) *yaml.Node {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	default:
	}
	return nil
}

// plainValue returns a tree as encoding/json knows values.
func plainValue(n *yaml.Node) any {
	switch {
	case n == nil || IsNull(n):
		return nil
	case n.Kind == yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = plainValue(n.Content[i+1])
		}
		return m
	case n.Kind == yaml.SequenceNode:
		all := make([]any, len(n.Content))
		for i, c := range n.Content {
			all[i] = plainValue(c)
		}
		return all
	}
	switch n.Tag {
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		if x, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
			return x
		}
		if x, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsInf(x, 0) && !math.IsNaN(x) {
			return x
		}
	}
	return n.Value
}

var (
	whereType = reflect.TypeFor[Where]()
	freeType  = reflect.TypeFor[Free]()
)

// Decoder reads trees into structs, and notes all faults.
type Decoder struct {
	*Faults
	Src    *Source
	Strict bool
}

// Pos returns where a node begins.
func (d *Decoder) Pos(n *yaml.Node) Pos { return Pos{d.Src.File, n.Line, max(n.Column, 1)} }

func (d *Decoder) mark(n *yaml.Node) Mark {
	m := Mark{src: d.Src, line: n.Line, column: max(n.Column, 1)}
	if n.Kind == yaml.ScalarNode {
		m.style, m.value = n.Style, n.Value
	}
	return m
}

// FieldsOf returns the fields of a struct that stand in a file.
func FieldsOf(t reflect.Type) (all []reflect.StructField) {
	for f := range t.Fields() {
		if f.Tag.Get("key") != "" {
			all = append(all, f)
		}
	}
	return all
}

// defaults sets what is not in the file, down to the objects that are.
func defaults(v reflect.Value) {
	for _, f := range FieldsOf(v.Type()) {
		field, def := v.FieldByIndex(f.Index), f.Tag.Get("def")
		switch f.Type.Kind() {
		case reflect.Struct:
			if f.Type != freeType {
				defaults(field)
			}
		case reflect.String:
			field.SetString(def)
		case reflect.Int:
			n, _ := strconv.Atoi(def)
			field.SetInt(int64(n))
		default:
		}
	}
}

// Object reads a mapping into the struct that into points to. path names it for people. The keys
// more are known too, and left to the caller.
func (d *Decoder) Object(n *yaml.Node, into any, path string, more ...string) {
	d.object(n, reflect.ValueOf(into).Elem(), path, more...)
}

// Free reads a mapping whose keys are not checked here, except that none is there twice.
func (d *Decoder) Free(n *yaml.Node, path string) Free {
	if n.Kind != yaml.MappingNode {
		d.Error(d.Pos(n), "wrong-type", "%s is an object; it is %s", path, KindOf(n))
		return Free{}
	}
	d.unique(n, path)
	return Free{n, d.Src}
}

func (d *Decoder) object(n *yaml.Node, v reflect.Value, path string, more ...string) {
	t := v.Type()
	fields := FieldsOf(t)
	known := append([]string{}, more...) // keys that the caller reads; not nil, which would mean any
	place, _ := t.FieldByName("Where")
	open := place.Tag.Get("open") != ""
	for _, f := range fields {
		known = append(known, f.Tag.Get("key"))
	}
	where := &Where{at: d.Pos(n)}
	if w := v.FieldByName("Where"); w.IsValid() && w.Type() == whereType {
		where = w.Addr().Interface().(*Where)
		where.at = d.Pos(n)
	}
	defaults(v)
	if n.Kind != yaml.MappingNode {
		d.Error(d.Pos(n), "wrong-type", "%s is an object with %s; it is %s", path, Some(known), KindOf(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if open && !slices.Contains(known, key.Value) {
			continue
		}
		if !d.key(key, seen, known, path) || slices.Contains(more, key.Value) {
			continue
		}
		at := slices.IndexFunc(fields, func(f reflect.StructField) bool { return f.Tag.Get("key") == key.Value })
		if at < 0 || IsNull(value) { // null is as absent
			delete(seen, key.Value)
			continue
		}
		f := fields[at]
		where.set(key.Value, d.mark(value))
		if f.Tag.Get("own") != "" && d.Strict {
			d.Error(d.Pos(key), "strict-key", "%s is an addition of hubhop's, and Azure IoT Operations does not know it; remove it", Joined(path, key.Value))
		}
		d.value(value, v.FieldByIndex(f.Index), Joined(path, key.Value), key.Value, f.Tag, where)
	}
	for _, f := range fields {
		if key := f.Tag.Get("key"); f.Tag.Get("must") != "" && !seen[key] {
			d.Error(d.Pos(n), "missing-key", "%s has no %s; %s", path, key, f.Tag.Get("must"))
		}
	}
}

// key checks one key of a mapping, and says whether its value is to be read.
func (d *Decoder) key(key *yaml.Node, seen map[string]bool, known []string, path string) bool {
	switch {
	case key.Kind != yaml.ScalarNode:
		d.Error(d.Pos(key), "key-not-a-word", "a key of %s is no word; put text in quotes if it begins with { or [", path)
		return false
	case seen[key.Value]:
		d.Error(d.Pos(key), "duplicate-key", "%s is there twice; remove one of them", Joined(path, QuotedKey(key.Value)))
		return false
	}
	seen[key.Value] = true
	if known == nil || slices.Contains(known, key.Value) {
		return true
	}
	if near := Nearest(key.Value, known); near != "" {
		d.Error(d.Pos(key), "unknown-key", "%s has no key %s; did you mean %s?", path, Quoted(key.Value), near)
	} else {
		d.Error(d.Pos(key), "unknown-key", "%s has no key %s; remove it, or use one of %s", path, Quoted(key.Value), strings.Join(known, ", "))
	}
	return false
}

// value reads a node into v. path names it for people; key is its own, for w.
func (d *Decoder) value(n *yaml.Node, v reflect.Value, path, key string, tag reflect.StructTag, w *Where) {
	switch t := v.Type(); {
	case t == freeType:
		v.Set(reflect.ValueOf(d.Free(n, path)))
	case t.Kind() == reflect.Pointer:
		p := reflect.New(t.Elem())
		d.value(n, p.Elem(), path, key, tag, w)
		v.Set(p)
	case t.Kind() == reflect.Struct:
		d.object(n, v, path)
	case t.Kind() == reflect.Map:
		d.table(n, v, path)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.Error(d.Pos(n), "wrong-type", "%s is a list, each item behind a hyphen; it is %s", path, KindOf(n))
			return
		}
		all := reflect.MakeSlice(t, len(n.Content), len(n.Content))
		for i, item := range n.Content {
			at := key + "[" + strconv.Itoa(i) + "]"
			w.set(at, d.mark(item))
			if IsNull(item) {
				d.Error(d.Pos(item), "wrong-type", "%s[%d] is empty; write its value, or remove the hyphen", path, i)
				continue
			}
			d.value(item, all.Index(i), fmt.Sprintf("%s[%d]", path, i), at, tag, w)
		}
		v.Set(all)
	case t.Kind() == reflect.String:
		d.text(n, v, path, tag)
	case t.Kind() == reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.Error(d.Pos(n), "wrong-type", "%s is true or false; it is %s", path, KindOf(n))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	default:
		d.number(n, v, path, tag)
	}
}

// table reads a mapping whose keys are the user's.
func (d *Decoder) table(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.Error(d.Pos(n), "wrong-type", "%s is an object; it is %s", path, KindOf(n))
		return
	}
	all, seen := reflect.MakeMap(v.Type()), map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, item := n.Content[i], reflect.New(v.Type().Elem()).Elem()
		if !d.key(key, seen, nil, path) {
			continue
		}
		name := Joined(path, QuotedKey(key.Value))
		d.value(n.Content[i+1], item, name, key.Value, "", &Where{})
		all.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
	v.Set(all)
}

// unique checks that no key of a tree is there twice.
func (d *Decoder) unique(n *yaml.Node, path string) {
	if n.Kind == yaml.MappingNode {
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			d.key(n.Content[i], seen, nil, path)
			d.unique(n.Content[i+1], Joined(path, QuotedKey(n.Content[i].Value)))
		}
	}
	for i, c := range n.Content {
		if n.Kind == yaml.SequenceNode {
			d.unique(c, path+"["+strconv.Itoa(i)+"]")
		}
	}
}

// text reads a text, or one of the words that the tag allows.
func (d *Decoder) text(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	one := tag.Get("one")
	switch {
	case n.Kind != yaml.ScalarNode:
		d.Error(d.Pos(n), "wrong-type", "%s is a text; it is %s", path, KindOf(n))
	case one == "" && n.Tag != "!!str" && n.Tag != "!!timestamp":
		d.Error(d.Pos(n), "wrong-type", "%s is a text, and without quotes %s is none; write %q", path, Quoted(n.Value), Clip(n.Value))
	case one == "":
		if n.Value == "" && tag.Get("empty") == "" {
			d.Error(d.Pos(n), "empty-text", "%s is empty; write its value, or remove the key", path)
		}
		v.SetString(n.Value)
	default:
		words := strings.Split(one, ",")
		i := slices.IndexFunc(words, func(word string) bool { return strings.EqualFold(word, n.Value) })
		if i >= 0 && n.Tag == "!!bool" {
			d.Error(d.Pos(n), "wrong-type", "%s is a text, and without quotes %s is a truth value; write %q", path, n.Value, words[i])
			return
		}
		if i < 0 && tag.Get("old") != "" { // old=<word>:<new word>
			if old, now, _ := strings.Cut(tag.Get("old"), ":"); strings.EqualFold(old, n.Value) {
				d.Warn(d.Pos(n), "old-word", "%s is %s, an old form; write %s", path, Quoted(n.Value), now)
				v.SetString(now)
				return
			}
		}
		if i < 0 {
			if near := Nearest(n.Value, words); near != "" {
				d.Error(d.Pos(n), "unknown-word", "%s cannot be %s; did you mean %s?", path, Quoted(n.Value), near)
			} else {
				d.Error(d.Pos(n), "unknown-word", "%s cannot be %s; write %s", path, Quoted(n.Value), Listed(words))
			}
			v.SetString("")
			return
		}
		if words[i] != n.Value {
			d.Warn(d.Pos(n), "odd-case", "%s is %s, and Azure IoT Operations writes %s; use that form", path, Quoted(n.Value), words[i])
		}
		v.SetString(words[i])
	}
}

// digits matches a whole number.
var digits = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[-+]?[0-9]+$`) })

// number reads a whole number within the bounds of the tag.
func (d *Decoder) number(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if tag.Get("unbounded") != "" && n.Tag == "!!str" && n.Value == "unbounded" {
		v.SetInt(-1)
		return
	}
	long := n.Tag == "!!float" && n.Style == 0 && digits().MatchString(n.Value) // more digits than an int64 has
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && !long {
		more := ""
		if _, err := strconv.Atoi(n.Value); err == nil && n.Kind == yaml.ScalarNode {
			more = "; remove the quotes"
		}
		d.Error(d.Pos(n), "wrong-type", "%s is a whole number; it is %s%s", path, KindOf(n), more)
		return
	}
	low, high := Bounds(tag)
	x, err := strconv.ParseInt(n.Value, 0, 64)
	if err != nil || x < low || x > high {
		allowed := fmt.Sprintf("from %d to %d", low, high)
		if low == high {
			allowed = strconv.FormatInt(low, 10)
		}
		d.Error(d.Pos(n), "out-of-bounds", "%s is %s, and must be %s; change it", path, Clip(n.Value), allowed)
		return
	}
	v.SetInt(x)
}

// Bounds returns the bounds of a number.
func Bounds(tag reflect.StructTag) (low, high int64) {
	low, high = 0, math.MaxInt32
	if s := tag.Get("min"); s != "" {
		low, _ = strconv.ParseInt(s, 10, 64)
	}
	if s := tag.Get("max"); s != "" {
		high, _ = strconv.ParseInt(s, 10, 64)
	}
	return low, high
}

// Joined joins the path of an object and a key.
func Joined(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// IsNull says whether a node is empty.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// KindOf names what a node is.
func KindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "an object"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case IsNull(n):
		return "empty"
	case n.Tag == "!!str":
		return "the text " + Quoted(n.Value)
	}
	return Clip(n.Value)
}

const maxText = 120 // bytes of a value that a fault quotes

// Clip shortens a text of the file.
func Clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// Quoted quotes a text of a file, shortened.
func Quoted(s string) string { return strconv.Quote(Clip(s)) }

// QuotedKey quotes a key that is no plain word.
func QuotedKey(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r > '~' }) || s == "" || len(s) > maxText {
		return Quoted(s)
	}
	return s
}

// Nearest returns the word that was probably meant; empty: none.
func Nearest(word string, known []string) string {
	if len(word) > 60 {
		return ""
	}
	lower := map[string]string{}
	var words []string
	for _, k := range known {
		lower[strings.ToLower(k)] = k
		words = append(words, strings.ToLower(k))
	}
	slices.Sort(words)
	return lower[suggest.Nearest(strings.ToLower(word), words, min(4, 1+len(word)/2))]
}

// Some names the first of many words.
func Some(known []string) string {
	const most = 6
	if len(known) > most {
		return strings.Join(known[:most], ", ") + ", …"
	}
	return Listed(known)
}

// Listed joins words: "A, B or C".
func Listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
