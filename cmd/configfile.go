package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/viper"
)

// readFile finds and reads the configuration file. No file is no fault unless one was asked for.
func (s *settings) readFile() (path string, values map[string]any, err error) {
	path = s.config
	if path == "" {
		path = s.findFile()
	}
	if path == "" {
		return "", nil, nil
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00")) // keys are flat
	v.SetConfigFile(path)
	if filepath.Ext(path) == "" {
		v.SetConfigType("yaml")
	}
	if err := v.ReadInConfig(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil, fmt.Errorf("config: there is no file %s; write one or leave --config out", path)
		}
		return path, nil, fmt.Errorf("%s cannot be read: %s", path, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return path, v.AllSettings(), nil
}

func (s *settings) findFile() string {
	candidates := []string{configName}
	if dir, err := os.UserConfigDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "hubhop", configName))
	}
	for _, c := range candidates {
		if info, err := os.Stat(c); err == nil && !info.IsDir() {
			return c
		}
	}
	return ""
}
