package cmd

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/linequeue"
)

// Main runs one command line and returns the exit code. builtinModel is the DTDL model that the
// binary carries.
func Main(env *Env, builtinModel []byte) (code int) {
	log := linequeue.New(env.Stderr)
	env.Stderr = log
	defer log.CloseSoon()
	defer func() {
		if p := recover(); p != nil {
			env.tellBug(p)
			code = exitFailure
		}
	}()
	stdout := &counted{Writer: env.Stdout}
	env.Stdout = stdout
	root := newRootCommand(env, builtinModel)
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	c, err := root.ExecuteContextC(context.Background())
	if err != nil {
		env.tellEnd(err)
		if stdout.n.Load() == 0 && wantsJSON(env, c) {
			err = errors.Join(err, printJSON(env.Stdout, failure{strings.Join(faults(err), "; "), exitCode(err)}))
		}
	}
	return exitCode(err)
}

func newRootCommand(env *Env, builtinModel []byte) *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "hubhop",
		Short: "A device client for Azure IoT that survives the loss of its hub",
		Long: `hubhop connects a device to Azure IoT Central, or to any Device Provisioning Service (DPS) with two or more
IoT Hubs. It keeps data and commands flowing while hubs die, move and come back. It also contains a local DPS with
hubs, so that everything can be tried offline.

    hubhop demo                          see it work, offline, in half a minute
    hubhop sim --out sim                 a DPS and two hubs on this machine
    hubhop run --id-scope … --group-key-file …   a device
` + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if showVersion {
				return printVersion(env)
			}
			return c.Help()
		},
	}
	root.SetFlagErrorFunc(rules.FlagError)
	// cobra's own flag needs a template for this text, which costs the program a fifth of its size.
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "print what hubhop version prints")
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { cli.Help(c.OutOrStdout(), c, flagGroups) })
	root.AddCommand(
		newRunCommand(env, builtinModel),
		newStatusCommand(env, builtinModel),
		newFlowCommand(env, builtinModel),
		newSendCommand(env, builtinModel),
		newProvisionCommand(env, builtinModel),
		newFailoverCommand(env, builtinModel),
		newFailbackCommand(env, builtinModel),
		newSimCommand(env),
		newDemoCommand(env, builtinModel),
		newDrillCommand(env, builtinModel),
		newKeyCommand(env),
		newModelCommand(env, builtinModel),
		newOutboxCommand(env, builtinModel),
		newConfigCommand(env, builtinModel),
		newExplainCommand(env),
		newVersionCommand(env),
	)
	root.SetHelpCommand(newHelpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd() // now, so that the rules below hold for it too
	for _, c := range allCommands(root) {
		if !c.Runnable() {
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
		c.InitDefaultHelpFlag()
		c.Flags().Lookup("help").Usage = "print this help"
		rules.ReadAsWritten(c.Flags())
		rules.Complete(c)
		check := c.Args
		if check == nil {
			check = cobra.ArbitraryArgs
		}
		c.Args = func(c *cobra.Command, args []string) error { return rules.CheckArgs(env.Args, c, args, check) }
	}
	return root
}

func allCommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, allCommands(sub)...)
	}
	return all
}

// group is a command that only has subcommands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(subs...)
	return c
}
