package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Library reads all scenarios of a directory, the files <name>.yaml, in the order of their names.
func Library(files fs.FS) (all []*Scenario, err error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		s, err := Parse(name, text)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// IsFile says whether an argument names a file, and not a scenario of the library: it looks like a
// path, or there is such a file.
func IsFile(name string) bool {
	if name == "-" || strings.ContainsAny(name, `/\.`) {
		return true
	}
	info, err := os.Stat(name)
	return err == nil && !info.IsDir()
}

// Named reads one scenario of a library.
func Named(files fs.FS, name string) (*Scenario, error) {
	text, err := fs.ReadFile(files, name+".yaml")
	if err == nil {
		return Parse(name+".yaml", text)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
		return nil, err
	}
	all, err := Library(files)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, s := range all {
		known = append(known, s.Name)
	}
	if len(name) < 64 {
		if near := suggest.Nearest(name, known, 4); near != "" {
			return nil, fmt.Errorf("there is no scenario %s; did you mean %s?", strict.Quoted(name), near)
		}
	}
	return nil, fmt.Errorf("there is no scenario %s, and no such file; there are %s", strict.Quoted(name), strings.Join(known, ", "))
}
