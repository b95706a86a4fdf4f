package cmd

import "github.com/spf13/cobra"

// newDrillCommand is the group of the drills.
func newDrillCommand(env *Env, builtin []byte) *cobra.Command {
	return group("drill", "Rehearse failures and prove what came of them",
		newDrillListCommand(env),
		newDrillCheckCommand(env, builtin),
		newDrillRunCommand(env, builtin),
		newDrillVerifyCommand(env),
	)
}
