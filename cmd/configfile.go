package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// Bounds of a configuration file. A file with every key has about 2 kB. If many lines are wrong,
// only the first ones are told.
const (
	maxConfigBytes  = 64 << 10
	maxConfigFaults = 20
)

// fileValue is a value of the configuration file: its text, without a type.
type fileValue struct {
	key  string // as the file spells it
	text string
	line int
}

// readFile finds and reads the configuration file. A missing file is an error only if --config
// names it. If parts of the file cannot be read, values holds the rest, and the error has a line
// for each fault.
func (s *settings) readFile() (path string, values map[string]fileValue, err error) {
	path = s.config
	if path == "" {
		path = s.findFile()
	}
	if path == "" {
		return "", nil, nil
	}
	data, err := readNamed("config", path, maxConfigBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil, fmt.Errorf("config: there is no file %s; write one or leave --config out", quotable(path))
	case err != nil:
		return path, nil, err
	}
	d := &fileDecoder{path: path}
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"), viper.WithDecoderRegistry(d)) // keys are flat
	v.SetConfigType(d.format())
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return path, nil, fmt.Errorf("%s is no format that is read; name it .yaml, .json, .toml or .env", quotable(path))
	}
	values = map[string]fileValue{}
	for key, value := range v.AllSettings() {
		values[key], _ = value.(fileValue)
	}
	return path, values, errors.Join(d.faults...)
}

func (s *settings) findFile() string {
	candidates := []string{configName}
	if dir, err := os.UserConfigDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "hubhop", configName))
	}
	for _, c := range candidates {
		info, err := os.Stat(c)
		switch {
		case err == nil && !info.IsDir():
			return c
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			// This is only a warning: a service may be unable to look into a directory that has no
			// file for it.
			s.warn(fmt.Sprintf("config: whether there is a file %s cannot be told: %v; name one with --config, or set it right", quotable(c), cause(err)))
		}
	}
	return ""
}

// fileDecoder decodes a file for viper. Viper's own decoders give each value a type and so change
// texts: 00012345 becomes the number 5349. This decoder returns every value as its text in the
// file. It ignores nothing: a value that it cannot return is a fault with its line. No fault quotes
// a value.
type fileDecoder struct {
	path   string
	values map[string]fileValue
	faults []error
}

// Decoder gives viper the decoder of a format. All formats have this one.
func (d *fileDecoder) Decoder(string) (viper.Decoder, error) { return d, nil }

// format returns the format by the name of the file. A name without an ending, such as /dev/stdin,
// is YAML.
func (d *fileDecoder) format() string {
	ext := strings.ToLower(strings.TrimPrefix(filepath.Ext(d.path), "."))
	if ext == "" {
		return "yaml"
	}
	return ext
}

// Decode reads the values of a file into a flat map, and notes a fault for every other part.
func (d *fileDecoder) Decode(data []byte, into map[string]any) error {
	read := map[string]func([]byte){
		"yaml": d.yaml, "yml": d.yaml, "json": d.json, "toml": d.toml, "env": d.dotenv, "dotenv": d.dotenv,
	}[d.format()]
	if read == nil {
		return errors.New("unknown format")
	}
	text, err := plainText(data)
	if err != nil {
		d.faults = append(d.faults, fmt.Errorf("%s %w", quotable(d.path), err))
		return nil
	}
	d.values = map[string]fileValue{}
	read(text)
	for key, value := range d.values {
		into[key] = value
	}
	return nil
}

// fault notes what is wrong in a line. Line 0 is the whole file.
func (d *fileDecoder) fault(line int, format string, a ...any) {
	switch {
	case len(d.faults) > maxConfigFaults:
		return
	case len(d.faults) == maxConfigFaults:
		format, a = "more is wrong from here on; mend the lines above first", nil
	}
	at := quotable(d.path)
	if line > 0 {
		at = fmt.Sprintf("%s:%d", at, line)
	}
	d.faults = append(d.faults, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, a...)))
}

// put keeps a value. Keys that differ only in letter case are the same key, and no key may be there
// twice.
func (d *fileDecoder) put(key, value string, line int) {
	lower := strings.ToLower(key)
	if was, twice := d.values[lower]; twice {
		d.fault(line, "%s is given twice, first in line %d; leave one out", keyName(key), was.line)
		return
	}
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		d.fault(line, "a key is one word, such as device-id")
		return
	}
	if strings.ContainsRune(value, 0) {
		d.fault(line, "the value of %s contains a NUL character", keyName(key))
		return
	}
	d.values[lower] = fileValue{key, value, line}
}

// notFlat notes the fault of a value that is more than one text.
func (d *fileDecoder) notFlat(line int, key string) {
	d.fault(line, "%s must be one value; keys are flat, and lists and nested keys are not read", keyName(key))
}

// noValue notes the fault of a key without a value, or with a value that means null in this format.
func (d *fileDecoder) noValue(line int, key, value string) {
	if value == "" {
		d.fault(line, "%s has no value; leave the line out, or write \"\" for the empty text", keyName(key))
		return
	}
	d.fault(line, "the value of %s stands for nothing in this format; if it is the text %s, put it in quotes", keyName(key), value)
}

// lineOf returns the line of an offset in a text; the first line is 1.
func lineOf(text []byte, offset int) int {
	return 1 + bytes.Count(text[:min(max(offset, 0), len(text))], []byte{'\n'})
}

// sortedByLine returns the keys of a file in the order of their lines.
func sortedByLine(values map[string]fileValue) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return values[a].line - values[b].line })
	return keys
}
