package cmd

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

// exposures returns warnings of secrets that others on this machine can read or replace. They are
// not errors, so that a device that runs goes on running.
func (s *settings) exposures() (warnings []string) {
	for _, key := range secrets {
		if s.sources[key] == "flag" {
			warnings = append(warnings, onCommandLine(key))
		}
	}
	for _, f := range []struct {
		key, path string
		secret    bool
	}{
		{"group-key-file", s.groupKeyFile, true}, {"device-key-file", s.deviceKeyFile, true}, {"key", s.certKey, true},
		{"http-token-file", s.httpTokenFile, true},
		{"config", s.file, slices.ContainsFunc(secrets, func(key string) bool { return s.sources[key] == s.file })},
	} {
		if f.path == "" || s.sources[f.key] == fromSystemd {
			continue
		}
		if why := exposed(f.path, f.secret); why != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s %s", f.key, secret.Quotable(f.path), why))
		}
	}
	return warnings
}

// onCommandLine returns the warning of a secret on the command line.
func onCommandLine(key string) string {
	better := map[string]string{"group-key": "--group-key-file", "device-key": "--device-key-file"}
	where := "in " + envName(key)
	if file := better[key]; file != "" {
		where = fmt.Sprintf("in a file that %s names, or %s", file, where)
	}
	return fmt.Sprintf("%s stands on the command line, where every user of this machine can read it (ps); put it %s", key, where)
}

// exposed says how others can change a file, put another in its place or, if it holds a secret,
// read it, and what to do; "" if they cannot. It does not mention a group that may read, because
// services get their keys that way.
func exposed(path string, holdsSecret bool) string {
	if runtime.GOOS == "windows" { // Windows has no such modes
		return ""
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	dirs := []string{filepath.Dir(path)} // of the link, and of what it leads to
	if target, err := filepath.EvalSymlinks(path); err == nil && !slices.Contains(dirs, filepath.Dir(target)) {
		dirs = append(dirs, filepath.Dir(target))
	}
	var hows []string
	switch mode := info.Mode().Perm(); {
	case mode&0o022 != 0:
		hows = append(hows, fmt.Sprintf("can be changed by others (mode %04o): chmod 600 it", mode))
	case mode&0o004 != 0 && holdsSecret:
		hows = append(hows, fmt.Sprintf("holds a secret and can be read by everybody (mode %04o): chmod 600 it", mode))
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			hows = append(hows, fmt.Sprintf("is in %s, where everybody can put another in its place (mode %04o): chmod o-w that", secret.Quotable(dir), info.Mode().Perm()))
		}
	}
	return strings.Join(hows, ", and ")
}
