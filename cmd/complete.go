package cmd

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completeFlags tells the shell what may follow each flag: file names, the values of a choice, or
// nothing.
func completeFlags(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		values, directive := choices[f.Name], cobra.ShellCompDirectiveNoFileComp
		switch {
		case isSwitch(f):
			values = []string{"true", "false"}
		case slices.Contains(files, f.Name):
			directive = cobra.ShellCompDirectiveDefault
		case slices.Contains(dirs, f.Name):
			directive = cobra.ShellCompDirectiveFilterDirs
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(values, directive)) // fails if it is there already
	})
}
