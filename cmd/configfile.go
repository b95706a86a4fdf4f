package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/viper"

	"github.com/hubhop-iot/hubhop/internal/configfile"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// maxConfigBytes bounds a configuration file. A file with every key has about 2 kB.
const maxConfigBytes = 64 << 10

// onlyDecoder gives viper one decoder for every format.
type onlyDecoder struct{ decoder *configfile.Decoder }

func (d onlyDecoder) Decoder(string) (viper.Decoder, error) { return d.decoder, nil }

// readFile finds and reads the configuration file. A missing file is an error only if --config
// names it. If parts of the file cannot be read, values holds the rest, and the error has a line
// for each fault.
func (s *settings) readFile() (path string, values map[string]configfile.Value, err error) {
	path = s.config
	if path == "" {
		path = s.findFile()
	}
	if path == "" {
		return "", nil, nil
	}
	data, err := namedfile.Read("config", path, maxConfigBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil, fmt.Errorf("config: there is no file %s; write one or leave --config out", secret.Quotable(path))
	case err != nil:
		return path, nil, err
	}
	d := configfile.NewDecoder(path, envPrefix)
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"), viper.WithDecoderRegistry(onlyDecoder{d})) // keys are flat
	v.SetConfigType(d.Format())
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return path, nil, fmt.Errorf("%s is no format that is read; name it .yaml, .json, .toml or .env", secret.Quotable(path))
	}
	values = map[string]configfile.Value{}
	for key, value := range v.AllSettings() {
		values[key], _ = value.(configfile.Value)
	}
	return path, values, d.Faults()
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
			s.warn(fmt.Sprintf("config: whether there is a file %s cannot be told: %v; name one with --config, or set it right", secret.Quotable(c), namedfile.Cause(err)))
		}
	}
	return ""
}
