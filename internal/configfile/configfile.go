// Package configfile reads configuration files as text. A file in YAML, JSON, TOML or .env gives
// flat keys and, for each, the text that stands there. Everything else in a file is a fault with
// its line.
package configfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// MaxFaults is how many faults of a file are reported.
const MaxFaults = 20

// Value is a value of a configuration file: its text, without a type.
type Value struct {
	Key  string // as the file spells it
	Text string
	Line int // from 1
}

// Decoder decodes one configuration file. Other decoders give each value a type and so change
// texts: 00012345 becomes the number 5349. This one returns every value as its text in the file. It
// ignores nothing: a value that it cannot return is a fault with its line. No fault quotes a value.
type Decoder struct {
	path   string
	prefix string // of environment variables
	values map[string]Value
	faults []error
}

// NewDecoder returns a decoder of the file at path. Faults name the file so, and the ending of the
// name says which format it has. A .env file may spell its keys as environment variables with this
// prefix, such as HUBHOP_.
func NewDecoder(path, prefix string) *Decoder { return &Decoder{path: path, prefix: prefix} }

// Faults returns everything that is wrong in the file, one error for each fault; nil if nothing is.
func (d *Decoder) Faults() error { return errors.Join(d.faults...) }

// Format returns the format by the name of the file. A name without an ending, such as /dev/stdin,
// is YAML.
func (d *Decoder) Format() string {
	ext := strings.ToLower(strings.TrimPrefix(filepath.Ext(d.path), "."))
	if ext == "" {
		return "yaml"
	}
	return ext
}

// Decode reads the values of a file into a flat map, by their keys in small letters, each as a
// [Value]. It notes a fault for every other part. It returns an error only for an unknown format.
func (d *Decoder) Decode(data []byte, into map[string]any) error {
	read := map[string]func([]byte){
		"yaml": d.yaml, "yml": d.yaml, "json": d.json, "toml": d.toml, "env": d.dotenv, "dotenv": d.dotenv,
	}[d.Format()]
	if read == nil {
		return errors.New("unknown format")
	}
	text, err := namedfile.PlainText(data)
	if err != nil {
		d.faults = append(d.faults, fmt.Errorf("%s %w", secret.Quotable(d.path), err))
		return nil
	}
	d.values = map[string]Value{}
	read(text)
	for key, value := range d.values {
		into[key] = value
	}
	return nil
}

// fault notes what is wrong in a line. Line 0 is the whole file.
func (d *Decoder) fault(line int, format string, a ...any) {
	switch {
	case len(d.faults) > MaxFaults:
		return
	case len(d.faults) == MaxFaults:
		format, a = "more is wrong from here on; mend the lines above first", nil
	}
	at := secret.Quotable(d.path)
	if line > 0 {
		at = fmt.Sprintf("%s:%d", at, line)
	}
	d.faults = append(d.faults, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, a...)))
}

// put keeps a value. Keys that differ only in letter case are the same key, and no key may be there
// twice.
func (d *Decoder) put(key, value string, line int) {
	lower := strings.ToLower(key)
	if was, twice := d.values[lower]; twice {
		d.fault(line, "%s is given twice, first in line %d; leave one out", secret.KeyName(key), was.Line)
		return
	}
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		d.fault(line, "a key is one word, such as device-id")
		return
	}
	if strings.ContainsRune(value, 0) {
		d.fault(line, "the value of %s contains a NUL character", secret.KeyName(key))
		return
	}
	d.values[lower] = Value{key, value, line}
}

// notFlat notes the fault of a value that is more than one text.
func (d *Decoder) notFlat(line int, key string) {
	d.fault(line, "%s must be one value; keys are flat, and lists and nested keys are not read", secret.KeyName(key))
}

// noValue notes the fault of a key without a value, or with a value that means null in this format.
func (d *Decoder) noValue(line int, key, value string) {
	if value == "" {
		d.fault(line, "%s has no value; leave the line out, or write \"\" for the empty text", secret.KeyName(key))
		return
	}
	d.fault(line, "the value of %s stands for nothing in this format; if it is the text %s, put it in quotes", secret.KeyName(key), value)
}

// lineOf returns the line of an offset in a text; the first line is 1.
func lineOf(text []byte, offset int) int {
	return 1 + bytes.Count(text[:min(max(offset, 0), len(text))], []byte{'\n'})
}

// ByLine returns the keys of a file in the order of their lines. Keys of one line are in
// alphabetical order, so that the same file always gives the same errors.
func ByLine(values map[string]Value) []string {
	return slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		return cmp.Or(values[a].Line-values[b].Line, strings.Compare(a, b))
	})
}
