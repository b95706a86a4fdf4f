package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// nearest returns the name that was probably meant, "" if no name is similar. Letter case, and _ in
// place of -, make no difference.
func nearest(word string, names []string) string {
	word = strings.ToLower(strings.ReplaceAll(word, "_", "-"))
	if len(word) > 64 { // longer than any name; the work grows with the length
		return ""
	}
	// At most half of the word may differ, because otherwise any two words are similar.
	best := suggest.Nearest(word, names, min(4, 1+len(word)/2))
	if best == "" || suggest.Distance(word, best) > 1 { // a shortened name is more likely than two slips
		if whole := wordsOf(word, names); whole != "" {
			return whole
		}
	}
	return best
}

// wordsOf returns the shortest name that begins with these words, such as device-id for device.
func wordsOf(words string, names []string) (whole string) {
	for _, name := range names {
		if strings.HasPrefix(name, words+"-") && (whole == "" || len(name) < len(whole)) {
			whole = name
		}
	}
	return whole
}

// flagNames returns the names of all flags of a set.
func flagNames(fs *pflag.FlagSet) (names []string) {
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// suggest names the key that was probably meant.
func (s *settings) suggest(key string) string {
	if best := nearest(key, flagNames(s.fs)); best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return "; hubhop config show lists the keys"
}

// suggestVariable names the environment variable that was probably meant.
func (s *settings) suggestVariable(key string) string {
	if best := nearest(key, flagNames(s.fs)); best != "" {
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
