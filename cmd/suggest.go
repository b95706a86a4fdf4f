package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// nearest is the name among many that was probably meant, "" if none is like it. Letter case, and _ for -,
// make no difference.
func nearest(word string, names []string) string {
	word = strings.ToLower(strings.ReplaceAll(word, "_", "-"))
	best, distance := "", min(4, 1+len(word)/2) // fewer changes than half the word, or anything is like anything
	for _, name := range names {
		if d := editDistance(word, name); d < distance {
			best, distance = name, d
		}
	}
	return best
}

// flagNames are the names of the flags that may be given.
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

// unknownVariables warns of HUBHOP_ variables that set nothing. They are not errors: other programs may use the prefix.
func (s *settings) unknownVariables() (warnings []string) {
	for _, kv := range s.env.Environ {
		name, _, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || rest == "TRACE" || rest == "" {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if s.fs.Lookup(key) == nil {
			warnings = append(warnings, fmt.Sprintf("the environment variable %s sets nothing%s", quotable(name), s.suggestVariable(key)))
		}
	}
	return warnings
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
