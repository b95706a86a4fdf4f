package cmd

import "github.com/spf13/cobra"

// newDrillCommand is the group of the drills.
func newDrillCommand(env *Env) *cobra.Command {
	return group("drill", "Rehearse failures and prove what came of them",
		newDrillVerifyCommand(env),
	)
}
