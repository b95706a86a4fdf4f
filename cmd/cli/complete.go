package cli

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Complete tells the shell what may follow each flag: file names, the values of a choice, or
// nothing.
func (r *Rules) Complete(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		values, directive := r.Choices[f.Name], cobra.ShellCompDirectiveNoFileComp
		switch {
		case IsSwitch(f):
			values = []string{"true", "false"}
		case slices.Contains(r.Files, f.Name):
			directive = cobra.ShellCompDirectiveDefault
		case slices.Contains(r.Dirs, f.Name):
			directive = cobra.ShellCompDirectiveFilterDirs
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(values, directive)) // fails if it is there already
	})
}
