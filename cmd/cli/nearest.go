package cli

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/suggest"
)

// Nearest returns the name that was probably meant, "" if no name is similar. Letter case, and _ in
// place of -, make no difference.
func Nearest(word string, names []string) string {
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

// FlagNames returns the names of all flags of a set.
func FlagNames(fs *pflag.FlagSet) (names []string) {
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
