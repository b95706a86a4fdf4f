package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// suggest names the key that was probably meant.
func (s *settings) suggest(key string) string {
	best, distance := "", min(4, 1+len(key)/2) // fewer changes than half the key, or anything is like anything
	s.fs.VisitAll(func(f *pflag.Flag) {
		if d := editDistance(key, f.Name); d < distance {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return "; hubhop config show lists the keys"
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// unknownVariables warns of HUBHOP_ variables that set nothing. They are not errors: other programs may use the prefix.
func (s *settings) unknownVariables() (warnings []string) {
	for _, kv := range s.env.Environ {
		name, _, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || rest == "TRACE" {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if s.fs.Lookup(key) == nil {
			warnings = append(warnings, fmt.Sprintf("the environment variable %s sets nothing%s", name, s.suggest(key)))
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
