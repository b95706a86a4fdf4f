// Package jsonscan reads a JSON text once, checks all of it, and remembers where each value is.
// Values stay as they were written: nothing is decoded that nobody asks for. A [Document] is used
// again for text after text and then allocates nothing.
//
// The texts are those of RFC 8259, read strictly: invalid UTF-8, half a surrogate pair and anything
// after the value are faults. Of a key that an object has twice, the last one counts, as in
// encoding/json and in most other readers. Values are nested MaxDepth deep at most.
package jsonscan

import (
	"bytes"
	"errors"
	"hash/maphash"
	"math"
	"strconv"
	"unicode/utf8"
)

// MaxDepth is how many objects and arrays may stand in each other.
const MaxDepth = 128

// MaxBytes is the longest text that can be scanned.
const MaxBytes = math.MaxInt32

// Kind is what a value is.
type Kind byte

// The kinds of values.
const (
	Null Kind = iota
	False
	True
	Number
	String
	Object
	Array
)

// Node is one value of a document. Its numbers are offsets in the text and indexes of nodes.
type Node struct {
	Start, End       int32 // of the value's text, with its quotation marks
	KeyStart, KeyEnd int32 // of the key in the object that the value is in, without quotation marks
	Next             int32 // the node after this one and all that is in it
	hash             uint32
	Kind             Kind
	flags            byte
}

const (
	keyEscaped byte = 1 << iota // the key has a \
	escaped                     // the string has a \
	integer                     // the number has no fraction and no exponent
	shadowed                    // another value follows under the same key
	empty                       // the object or array has no element
)

// Integer says whether a number is written without fraction and exponent.
func (n *Node) Integer() bool { return n.flags&integer != 0 }

// Empty says whether an object or array has no element.
func (n *Node) Empty() bool { return n.flags&empty != 0 }

// Shadowed says whether the value does not count, because its key comes again in the same object.
func (n *Node) Shadowed() bool { return n.flags&shadowed != 0 }

// SyntaxError says what is wrong with a text, and at which byte, counted from 0.
type SyntaxError struct {
	Reason string
	Offset int
}

// Error returns the reason and where it is.
func (e *SyntaxError) Error() string {
	return "invalid JSON at byte " + strconv.Itoa(e.Offset) + ": " + e.Reason
}

// ErrLong says that a text is longer than MaxBytes.
var ErrLong = errors.New("the JSON text is too long")

// Document is a text that has been scanned. The zero value is ready for Scan. It must not be used
// by several goroutines at a time.
type Document struct {
	Text  []byte
	Nodes []Node // in the order of the text; the first one is the whole value

	// Duplicates says that some object has a key twice.
	Duplicates bool

	table []int32 // for objects with many keys
}

// keep is how many nodes a document keeps room for when small texts follow a large one.
const keep = 1 << 12

// Scan reads a text. The document refers to it until the next scan.
func (d *Document) Scan(text []byte) error {
	if len(text) > MaxBytes {
		return ErrLong
	}
	if cap(d.Nodes) > keep && len(text) < keep {
		d.Nodes, d.table = nil, nil
	}
	d.Text, d.Nodes, d.Duplicates = text, d.Nodes[:0], false
	if !utf8.Valid(text) {
		return &SyntaxError{"not valid UTF-8", invalidUTF8(text)}
	}
	pos, err := d.value(skip(text, 0), 0)
	if err != nil {
		return err
	}
	if pos = skip(text, pos); pos < len(text) {
		return &SyntaxError{"something follows after the value", pos}
	}
	return nil
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
}

func skip(text []byte, pos int) int {
	for pos < len(text) && (text[pos] == ' ' || text[pos] == '\n' || text[pos] == '\t' || text[pos] == '\r') {
		pos++
	}
	return pos
}

// value reads the value at pos, which is not a space.
func (d *Document) value(pos, depth int) (int, error) {
	text := d.Text
	if pos >= len(text) {
		return 0, &SyntaxError{"the text ends where a value must stand", pos}
	}
	i := len(d.Nodes)
	d.Nodes = append(d.Nodes, Node{Start: int32(pos)})
	var end int
	var err error
	switch c := text[pos]; {
	case c == '"':
		var flags byte
		end, flags, err = stringEnd(text, pos+1)
		d.Nodes[i].Kind, d.Nodes[i].flags = String, flags
	case c == '-' || c >= '0' && c <= '9':
		var flags byte
		end, flags, err = numberEnd(text, pos)
		d.Nodes[i].Kind, d.Nodes[i].flags = Number, flags
	case c == '{':
		d.Nodes[i].Kind = Object
		end, err = d.object(i, pos+1, depth+1)
	case c == '[':
		d.Nodes[i].Kind = Array
		end, err = d.array(i, pos+1, depth+1)
	case c == 't':
		d.Nodes[i].Kind = True
		end, err = word(text, pos, "true")
	case c == 'f':
		d.Nodes[i].Kind = False
		end, err = word(text, pos, "false")
	case c == 'n':
		end, err = word(text, pos, "null")
	default:
		err = &SyntaxError{"no value begins with this character", pos}
	}
	if err != nil {
		return 0, err
	}
	d.Nodes[i].End, d.Nodes[i].Next = int32(end), int32(len(d.Nodes))
	return end, nil
}

func word(text []byte, pos int, want string) (int, error) {
	if len(text)-pos < len(want) || string(text[pos:pos+len(want)]) != want {
		return 0, &SyntaxError{"no value begins with this character", pos}
	}
	return pos + len(want), nil
}

func (d *Document) object(self, pos, depth int) (int, error) {
	text := d.Text
	if depth > MaxDepth {
		return 0, &SyntaxError{"too deeply nested", pos - 1}
	}
	if pos = skip(text, pos); pos < len(text) && text[pos] == '}' {
		d.Nodes[self].flags |= empty
		return pos + 1, nil
	}
	var seen [4]uint64 // which hashes there have been, roughly
	twice, count := false, 0
	for {
		if pos >= len(text) || text[pos] != '"' {
			return 0, &SyntaxError{"a key in quotation marks must stand here", pos}
		}
		keyStart := pos + 1
		end, flags, err := stringEnd(text, keyStart)
		if err != nil {
			return 0, err
		}
		if pos = skip(text, end); pos >= len(text) || text[pos] != ':' {
			return 0, &SyntaxError{"a colon must follow the key", pos}
		}
		child := len(d.Nodes)
		if pos, err = d.value(skip(text, pos+1), depth); err != nil {
			return 0, err
		}
		n := &d.Nodes[child]
		n.KeyStart, n.KeyEnd = int32(keyStart), int32(end-1)
		if flags&escaped != 0 {
			n.flags |= keyEscaped
			n.hash = hash(Unescape(nil, text[keyStart:end-1]))
		} else {
			n.hash = hash(text[keyStart : end-1])
		}
		mixed := n.hash * 0x9E3779B1 >> 24
		bit := uint64(1) << (mixed & 63)
		twice = twice || seen[mixed>>6]&bit != 0
		seen[mixed>>6] |= bit
		count++
		if pos = skip(text, pos); pos >= len(text) {
			return 0, &SyntaxError{"the text ends inside of an object", pos}
		}
		switch text[pos] {
		case ',':
			pos = skip(text, pos+1)
		case '}':
			if twice {
				d.Nodes[self].Next = int32(len(d.Nodes))
				d.shadow(self, count)
			}
			return pos + 1, nil
		default:
			return 0, &SyntaxError{"a comma or } must follow a value in an object", pos}
		}
	}
}

func (d *Document) array(self, pos, depth int) (int, error) {
	text := d.Text
	if depth > MaxDepth {
		return 0, &SyntaxError{"too deeply nested", pos - 1}
	}
	if pos = skip(text, pos); pos < len(text) && text[pos] == ']' {
		d.Nodes[self].flags |= empty
		return pos + 1, nil
	}
	for {
		var err error
		if pos, err = d.value(pos, depth); err != nil {
			return 0, err
		}
		if pos = skip(text, pos); pos >= len(text) {
			return 0, &SyntaxError{"the text ends inside of an array", pos}
		}
		switch text[pos] {
		case ',':
			pos = skip(text, pos+1)
		case ']':
			return pos + 1, nil
		default:
			return 0, &SyntaxError{"a comma or ] must follow a value in an array", pos}
		}
	}
}

// stringEnd reads a string whose first character is at pos. end is after the closing mark.
func stringEnd(text []byte, pos int) (end int, flags byte, err error) {
	for pos < len(text) {
		switch c := text[pos]; {
		case c == '"':
			return pos + 1, flags, nil
		case c < 0x20:
			return 0, 0, &SyntaxError{"a control character in a string must be written as \\u00..", pos}
		case c != '\\':
			pos++
			continue
		}
		flags = escaped
		n := escapeLen(text[pos:])
		if n == 0 {
			return 0, 0, &SyntaxError{"no valid escape after \\", pos}
		}
		pos += n
	}
	return 0, 0, &SyntaxError{"the text ends inside of a string", pos}
}

// escapeLen is how long the escape is that text begins with; a surrogate pair is one. 0: it is
// none.
func escapeLen(text []byte) int {
	if len(text) < 2 {
		return 0
	}
	switch text[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		r := hex4(text[2:])
		switch {
		case r < 0 || r >= 0xDC00 && r <= 0xDFFF:
			return 0
		case r < 0xD800 || r > 0xDFFF:
			return 6
		case len(text) >= 12 && text[6] == '\\' && text[7] == 'u':
			if low := hex4(text[8:]); low >= 0xDC00 && low <= 0xDFFF {
				return 12
			}
		}
	}
	return 0
}

func hex4(text []byte) rune {
	if len(text) < 4 {
		return -1
	}
	var r rune
	for _, c := range text[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

func digits(text []byte, pos int) int {
	for pos < len(text) && text[pos] >= '0' && text[pos] <= '9' {
		pos++
	}
	return pos
}

func numberEnd(text []byte, pos int) (end int, flags byte, err error) {
	flags = integer
	if text[pos] == '-' {
		pos++
	}
	start := pos
	pos = digits(text, pos)
	if pos == start || text[start] == '0' && pos > start+1 {
		return 0, 0, &SyntaxError{"a number has one 0 or no 0 in front", start}
	}
	if pos < len(text) && text[pos] == '.' {
		flags, start = 0, pos+1
		if pos = digits(text, start); pos == start {
			return 0, 0, &SyntaxError{"a digit must follow the point", pos}
		}
	}
	if pos < len(text) && text[pos]|0x20 == 'e' {
		flags, start = 0, pos+1
		if start < len(text) && (text[start] == '+' || text[start] == '-') {
			start++
		}
		if pos = digits(text, start); pos == start {
			return 0, 0, &SyntaxError{"a digit must follow the exponent's e", pos}
		}
	}
	return pos, flags, nil
}

// hash tells most keys apart at a small price. It decides nothing alone.
func hash(key []byte) uint32 {
	if len(key) == 0 {
		return 0
	}
	return uint32(len(key))<<24 | uint32(key[0])<<16 | uint32(key[len(key)/2])<<8 | uint32(key[len(key)-1])
}

var seed = maphash.MakeSeed()

// shadow marks the values of an object whose key comes again.
func (d *Document) shadow(object, count int) {
	if count <= 32 {
		for a := range d.Children(object) {
			for b := int(d.Nodes[a].Next); b < len(d.Nodes); b = int(d.Nodes[b].Next) {
				if d.sameKey(a, b) {
					d.Nodes[a].flags |= shadowed
					d.Duplicates = true
					break
				}
			}
		}
		return
	}
	size := 1
	for size < 2*count {
		size *= 2
	}
	if cap(d.table) < size {
		d.table = make([]int32, size)
	}
	table := d.table[:size]
	clear(table)
	for a := range d.Children(object) {
		at := maphash.Bytes(seed, d.Key(a)) & uint64(size-1)
		for table[at] != 0 && !d.sameKey(int(table[at]), a) {
			at = (at + 1) & uint64(size-1)
		}
		if table[at] != 0 {
			d.Nodes[table[at]].flags |= shadowed
			d.Duplicates = true
		}
		table[at] = int32(a) // never 0: that is the whole value
	}
}

func (d *Document) sameKey(a, b int) bool {
	return d.Nodes[a].hash == d.Nodes[b].hash && bytes.Equal(d.Key(a), d.Key(b))
}

// Children yields the elements of an object or array, as indexes of nodes.
func (d *Document) Children(of int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i, end := of+1, int(d.Nodes[of].Next); i < end; i = int(d.Nodes[i].Next) {
			if !yield(i) {
				return
			}
		}
	}
}

// RawKey returns the key of a value as it is written, without quotation marks.
func (d *Document) RawKey(i int) []byte { return d.Text[d.Nodes[i].KeyStart:d.Nodes[i].KeyEnd] }

// Key returns the key of a value. It is part of the text where the text has no escape.
func (d *Document) Key(i int) []byte {
	if d.Nodes[i].flags&keyEscaped == 0 {
		return d.RawKey(i)
	}
	return Unescape(nil, d.RawKey(i))
}

// Raw returns the text of a value.
func (d *Document) Raw(i int) []byte { return d.Text[d.Nodes[i].Start:d.Nodes[i].End] }

// String returns what a string says. It is part of the text, or it has been appended to buffer.
func (d *Document) String(i int, buffer []byte) (s, grown []byte) {
	n := &d.Nodes[i]
	raw := d.Text[n.Start+1 : n.End-1]
	if n.flags&escaped == 0 {
		return raw, buffer
	}
	start := len(buffer)
	buffer = Unescape(buffer, raw)
	return buffer[start:len(buffer):len(buffer)], buffer
}

// Key is a key to look for.
type Key struct {
	text string
	hash uint32
}

// MakeKey prepares the search for a key.
func MakeKey(text string) Key { return Key{text, hash([]byte(text))} }

// Text returns the key.
func (k Key) Text() string { return k.text }

// Find returns the value of a key in an object, or -1. Anything else than an object has no key.
func (d *Document) Find(object int, key Key) int {
	if d.Nodes[object].Kind != Object {
		return -1
	}
	for i, end := object+1, int(d.Nodes[object].Next); i < end; {
		n := &d.Nodes[i]
		if n.hash == key.hash && n.flags&shadowed == 0 && (n.flags&keyEscaped == 0 && string(d.Text[n.KeyStart:n.KeyEnd]) == key.text ||
			n.flags&keyEscaped != 0 && string(d.Key(i)) == key.text) {
			return i
		}
		i = int(n.Next)
	}
	return -1
}

// FindLike returns the value in an object whose key is that of value i of another document, or -1.
func (d *Document) FindLike(object int, other *Document, i int) int {
	if d.Nodes[object].Kind != Object {
		return -1
	}
	want := other.Key(i)
	for c := range d.Children(object) {
		n := &d.Nodes[c]
		if n.hash == other.Nodes[i].hash && n.flags&shadowed == 0 && bytes.Equal(d.Key(c), want) {
			return c
		}
	}
	return -1
}
