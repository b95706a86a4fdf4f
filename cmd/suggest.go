package cmd

import (
	"fmt"
	"strings"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// suggest names the key that was probably meant.
func (s *settings) suggest(key string) string {
	if best := cli.Nearest(key, cli.FlagNames(s.fs)); best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return "; hubhop config show lists the keys"
}

// suggestVariable names the environment variable that was probably meant.
func (s *settings) suggestVariable(key string) string {
	if best := cli.Nearest(key, cli.FlagNames(s.fs)); best != "" {
		return fmt.Sprintf("; did you mean %s?", envName(best))
	}
	return "; hubhop config show lists the keys, and a variable is HUBHOP_ and a key in upper snake case"
}

// unknownVariables warns of HUBHOP_ variables that set nothing. They are not errors: other programs
// may use the prefix.
func (s *settings) unknownVariables() (warnings []string) {
	for _, kv := range s.env.Environ {
		name, _, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || rest == "TRACE" || rest == "" {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if s.fs.Lookup(key) == nil {
			warnings = append(warnings, fmt.Sprintf("the environment variable %s sets nothing%s", secret.Quotable(name), s.suggestVariable(key)))
		}
	}
	return warnings
}
