// Package cli reads a command line as people write it, and prints help as people read it: spellings
// of values, texts for mistakes, names that were probably meant. It knows no flag by its name.
package cli

// Rules are what is to be known about the flags of a program.
type Rules struct {
	Choices  map[string][]string // by flag: the few values that it takes
	Files    []string            // flags that name a file
	Dirs     []string            // flags that name a directory
	Secrets  []string            // flags whose values are never shown
	Verbatim []string            // flags whose values are taken as they are, line ends included

	// Usage marks an error as one of the command line.
	Usage func(error) error
}
