package cmd

import (
	"fmt"
	"slices"

	"github.com/hubhop-iot/hubhop/cmd/cli"
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
		if why := cli.Exposed(f.path, f.secret); why != "" {
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
