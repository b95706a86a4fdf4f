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

// Bounds of a configuration file. One with every key is about 2 kB, and what is wrong in many lines is
// told of the first ones.
const (
	maxConfigBytes  = 64 << 10
	maxConfigFaults = 20
)

// fileValue is a value of the configuration file: the text that stands there, whatever it looks like.
type fileValue struct {
	key  string // as it is spelled there
	text string
	line int
}

// readFile finds and reads the configuration file. No file is no fault unless one was asked for.
// Where some of it cannot be read, values holds the rest, and the error has a line for each fault.
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
			// No error: a service may live where it can look at nothing, and have no file at all.
			s.warn(fmt.Sprintf("config: whether there is a file %s cannot be told: %v; name one with --config, or set it right", quotable(c), cause(err)))
		}
	}
	return ""
}

// fileDecoder is how viper reads a file. Viper's own decoders give each value a type, and so change
// the text of many: 00012345 becomes the number 5349. This one hands every value on as it stands in
// the file, and passes nothing over: what it cannot hand on is a fault with its line.
// No fault quotes a value.
type fileDecoder struct {
	path   string
	values map[string]fileValue
	faults []error
}

// Decoder gives viper the decoder of a format; it is the same one for all.
func (d *fileDecoder) Decoder(string) (viper.Decoder, error) { return d, nil }

// format is the file's by its name. A name without an ending, such as /dev/stdin, is YAML.
func (d *fileDecoder) format() string {
	ext := strings.ToLower(strings.TrimPrefix(filepath.Ext(d.path), "."))
	if ext == "" {
		return "yaml"
	}
	return ext
}

// Decode reads a file's content into a flat map of what can be read; the faults tell of the rest.
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

// put keeps a value. Letter case does not tell keys apart, so no key may stand there twice in any.
func (d *fileDecoder) put(key, value string, line int) {
	lower := strings.ToLower(key)
	if was, twice := d.values[lower]; twice {
		d.fault(line, "%s stands there twice, first in line %d; leave one out", keyName(key), was.line)
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

// notFlat is the fault of a value that is more than one text.
func (d *fileDecoder) notFlat(line int, key string) {
	d.fault(line, "%s must be one value; keys are flat, and lists and nested keys are not read", keyName(key))
}

// noValue is the fault of a key with nothing behind it, or with what the format takes for nothing.
func (d *fileDecoder) noValue(line int, key, value string) {
	if value == "" {
		d.fault(line, "%s has no value; leave the line out, or write \"\" for the empty text", keyName(key))
		return
	}
	d.fault(line, "the value of %s stands for nothing in this format; if it is the text %s, put it in quotes", keyName(key), value)
}

// lineOf is the line of an offset in a text, from 1.
func lineOf(text []byte, offset int) int {
	return 1 + bytes.Count(text[:min(max(offset, 0), len(text))], []byte{'\n'})
}

// sortedByLine are the keys of a file in their order.
func sortedByLine(values map[string]fileValue) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return values[a].line - values[b].line })
	return keys
}
