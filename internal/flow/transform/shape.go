package transform

import (
	"bytes"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
)

// shape is a schema with the keywords that most schemas have. It is compared with a scanned text as
// it stands there, which the library cannot: that decodes the text again, and makes a fraction of
// big integers of each number with a bound. A schema with other keywords is left to the library.
type shape struct {
	never    bool     // nothing fits
	kinds    [7]bool  // by jsonscan.Kind: what may be here
	whole    bool     // of numbers, integers alone
	words    []string // the strings that are allowed, if there is an enum
	literals [3]bool  // the same of null, false and true
	enum     bool
	required []jsonscan.Key
	members  map[string]*shape
	others   *shape // of members that are not named; nil: anything
	items    *shape // of an array; nil: anything
	size     [jsonscan.Array + 1]extent
	format   *jsonschema.Format
	pattern  jsonschema.Regexp
	least    []edge
	most     []edge
}

// extent bounds a number of members, elements or characters. most is -1 if there is none.
type extent struct{ least, most int }

// edge is a bound of a number.
type edge struct {
	exact     *big.Rat
	near      float64
	exclusive bool
}

// plainKeywords are the fields of a compiled schema that a shape is made of, or that say nothing
// about a value.
var plainKeywords = []string{
	"DraftVersion", "Location", "Bool", "ID", "Ref", "Anchor", "Types", "Enum", "Format", "MaxProperties", "MinProperties", "Required", "Properties",
	"AdditionalProperties", "MinItems", "MaxItems", "Items", "MinLength", "MaxLength", "Pattern", "Maximum", "Minimum", "ExclusiveMaximum",
	"ExclusiveMinimum", "Title", "Description", "Default", "Comment", "ReadOnly", "WriteOnly", "Examples", "Deprecated",
}

// shapes makes shapes of schemas, each once, because a schema may contain itself.
type shapes map[*jsonschema.Schema]*shape

// maxRefs bounds how many references lead from one to the next.
const maxRefs = 32

// of returns the shape of a schema; nil: it has other keywords.
func (all shapes) of(s *jsonschema.Schema) *shape {
	for n := 0; s.Ref != nil; s = s.Ref { // beside it, draft-07 knows nothing
		if n++; n > maxRefs || s.DraftVersion >= 2019 {
			return nil
		}
	}
	if known, ok := all[s]; ok {
		return known
	}
	v := reflect.ValueOf(s).Elem()
	for field, said := range v.Fields() {
		if field.IsExported() && !said.IsZero() && !slices.Contains(plainKeywords, field.Name) {
			return nil
		}
	}
	out := &shape{format: s.Format, pattern: s.Pattern}
	all[s] = out
	if s.Bool != nil {
		out.never = !*s.Bool
	}
	if !out.types(s.Types) || !out.choices(s.Enum) || !out.parts(all, s) {
		return nil
	}
	for kind, b := range map[jsonscan.Kind][2]*int{
		jsonscan.Object: {s.MinProperties, s.MaxProperties}, jsonscan.Array: {s.MinItems, s.MaxItems}, jsonscan.String: {s.MinLength, s.MaxLength},
	} {
		size := &out.size[kind]
		if size.most = -1; b[1] != nil {
			size.most = *b[1]
		}
		if b[0] != nil {
			size.least = *b[0]
		}
	}
	add := func(to *[]edge, exact *big.Rat, exclusive bool) {
		if exact != nil {
			near, _ := exact.Float64()
			*to = append(*to, edge{exact, near, exclusive})
		}
	}
	add(&out.least, s.Minimum, false)
	add(&out.least, s.ExclusiveMinimum, true)
	add(&out.most, s.Maximum, false)
	add(&out.most, s.ExclusiveMaximum, true)
	return out
}

// types takes over what kinds a value may have.
func (out *shape) types(types *jsonschema.Types) bool {
	if types == nil || types.IsEmpty() {
		out.kinds = [7]bool{true, true, true, true, true, true, true}
		return true
	}
	names := types.ToStrings()
	for _, name := range names {
		switch name {
		case "null":
			out.kinds[jsonscan.Null] = true
		case "boolean":
			out.kinds[jsonscan.False], out.kinds[jsonscan.True] = true, true
		case "number", "integer":
			out.kinds[jsonscan.Number] = true
		case "string":
			out.kinds[jsonscan.String] = true
		case "object":
			out.kinds[jsonscan.Object] = true
		case "array":
			out.kinds[jsonscan.Array] = true
		default:
			return false
		}
	}
	out.whole = slices.Contains(names, "integer") && !slices.Contains(names, "number")
	return true
}

// choices takes over an enum of strings, booleans and null.
func (out *shape) choices(enum *jsonschema.Enum) bool {
	if enum == nil {
		return true
	}
	out.enum = true
	for _, value := range enum.Values {
		switch v := value.(type) {
		case nil:
			out.literals[jsonscan.Null] = true
		case bool:
			if v {
				out.literals[jsonscan.True] = true
			} else {
				out.literals[jsonscan.False] = true
			}
		case string:
			out.words = append(out.words, v)
		default:
			return false
		}
	}
	return true
}

// parts takes over what is said of members and elements.
func (out *shape) parts(all shapes, s *jsonschema.Schema) bool {
	for _, name := range s.Required {
		out.required = append(out.required, jsonscan.MakeKey(name))
	}
	out.members = make(map[string]*shape, len(s.Properties))
	for name, member := range s.Properties {
		if out.members[name] = all.of(member); out.members[name] == nil {
			return false
		}
	}
	other := func(to **shape, said any) bool {
		switch said := said.(type) {
		case nil:
		case bool:
			if !said {
				*to = &shape{never: true}
			}
		case *jsonschema.Schema:
			*to = all.of(said)
			return *to != nil
		default: // a schema for each element
			return false
		}
		return true
	}
	return other(&out.others, s.AdditionalProperties) && other(&out.items, s.Items)
}

// fits says whether a value of a text has the shape. buffer is room for a string.
func (s *shape) fits(d *jsonscan.Document, at int, buffer *[]byte) bool {
	n := &d.Nodes[at]
	if s.never || !s.kinds[n.Kind] {
		return false
	}
	switch n.Kind {
	case jsonscan.Null, jsonscan.False, jsonscan.True:
		return !s.enum || s.literals[n.Kind]
	case jsonscan.Number:
		return !s.enum && s.number(d.Raw(at), n.Integer())
	case jsonscan.String:
		return s.text(d, at, buffer)
	case jsonscan.Object:
		return !s.enum && s.object(d, at, buffer)
	default:
		return !s.enum && s.array(d, at, buffer)
	}
}

func (s *shape) object(d *jsonscan.Document, at int, buffer *[]byte) bool {
	for _, key := range s.required {
		if d.Find(at, key) < 0 {
			return false
		}
	}
	count := 0
	for i := range d.Children(at) {
		if d.Nodes[i].Shadowed() {
			continue
		}
		count++
		member, ok := s.members[string(d.Key(i))]
		if !ok {
			member = s.others
		}
		if member != nil && !member.fits(d, i, buffer) {
			return false
		}
	}
	return s.size[jsonscan.Object].has(count)
}

func (s *shape) array(d *jsonscan.Document, at int, buffer *[]byte) bool {
	count := 0
	for i := range d.Children(at) {
		if count++; s.items != nil && !s.items.fits(d, i, buffer) {
			return false
		}
	}
	return s.size[jsonscan.Array].has(count)
}

func (s *shape) text(d *jsonscan.Document, at int, buffer *[]byte) bool {
	size := s.size[jsonscan.String]
	if !s.enum && size == (extent{most: -1}) && s.format == nil && s.pattern == nil {
		return true
	}
	text, grown := d.String(at, (*buffer)[:0])
	*buffer = grown
	if s.enum && !slices.ContainsFunc(s.words, func(word string) bool { return string(text) == word }) {
		return false
	}
	return size.has(utf8.RuneCount(text)) &&
		(s.format == nil || s.format.Validate(string(text)) == nil) && (s.pattern == nil || s.pattern.MatchString(string(text)))
}

func (b extent) has(n int) bool { return n >= b.least && (b.most < 0 || n <= b.most) }

func (s *shape) number(text []byte, integer bool) bool {
	if s.whole && !integer && !isWhole(text) {
		return false
	}
	if len(s.least)+len(s.most) == 0 {
		return true
	}
	near, ok := jsonscan.ParseFloat(text)
	if !ok { // it is beyond what a float64 can hold
		near = math.Inf(1)
		if text[0] == '-' {
			near = math.Inf(-1)
		}
	}
	for i := range s.least {
		if c := s.least[i].compare(text, near); c < 0 || c == 0 && s.least[i].exclusive {
			return false
		}
	}
	for i := range s.most {
		if c := s.most[i].compare(text, near); c > 0 || c == 0 && s.most[i].exclusive {
			return false
		}
	}
	return true
}

// compare returns -1, 0 or 1 as a number is below, at or above the edge. Rounding keeps the order,
// so only two numbers that have one nearest float64 need a closer look.
func (l *edge) compare(text []byte, near float64) int {
	switch {
	case near < l.near:
		return -1
	case near > l.near:
		return 1
	}
	if e := exponentOf(text); max(e, -e) > maxDigits { // both are 0, or beyond all, for a float64
		switch {
		case !bytes.ContainsAny(mantissaOf(text), "123456789"):
			return -l.exact.Sign()
		case text[0] == '-':
			return -1
		}
		return 1
	}
	if len(text) > maxExact {
		return 0
	}
	if exact, ok := new(big.Rat).SetString(string(text)); ok {
		return exact.Cmp(l.exact)
	}
	return 0
}

// maxExact is how many bytes of a number are compared exactly.
const maxExact = 10_000

// maxDigits bounds the numbers that the library sees, and their exponents: it computes with all
// digits that a number stands for.
const maxDigits = 400

// isExtreme says whether a number would keep the library busy.
func isExtreme(text []byte) bool {
	e := exponentOf(text)
	return len(text) > maxDigits || max(e, -e) > maxDigits
}

// mantissaOf returns a JSON number without its exponent.
func mantissaOf(text []byte) []byte {
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		return text[:i]
	}
	return text
}

// exponentOf returns the exponent of a JSON number, or a very large one instead of one that is
// larger.
func exponentOf(text []byte) int {
	i := bytes.IndexAny(text, "eE")
	if i < 0 {
		return 0
	}
	const most = 1 << 30
	switch e, err := strconv.Atoi(string(text[i+1:])); {
	case err != nil && text[i+1] == '-':
		return -most
	case err != nil:
		return most
	default:
		return max(min(e, most), -most)
	}
}

// isWhole says whether a JSON number with a fraction or an exponent is an integer all the same.
func isWhole(text []byte) bool {
	exponent := exponentOf(text)
	before, after, _ := bytes.Cut(bytes.TrimPrefix(mantissaOf(text), []byte("-")), []byte("."))
	after = bytes.TrimRight(after, "0")
	if len(after) > 0 {
		return exponent >= len(after)
	}
	zeros := len(before) - len(bytes.TrimRight(before, "0"))
	return zeros == len(before) || exponent >= -zeros
}
