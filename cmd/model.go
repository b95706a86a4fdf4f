package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/model"
)

func newModelCommand(env *Env, builtin []byte) *cobra.Command {
	return group("model", "Look at device models (DTDL)", newModelCheckCommand(env), newModelShowCommand(env, builtin))
}

func newModelCheckCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check that a model can be read",
		Long: `Check reads a DTDL file (version 2; one interface or an array of them) and says whether hubhop can check telemetry, properties and
commands against it. FILE may be - for standard input.` + "\n" + exitHelp,
		Example: `  hubhop model check failover.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := parseModel(env, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(env.Stdout, "%s is in order: %s\n", args[0], m.ID())
			return err
		},
	}
}

func newModelShowCommand(env *Env, builtin []byte) *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show what a model contains",
		Long: `Show lists the telemetry, properties, commands and components of a DTDL file, or of the model that hubhop carries. FILE may be -
for standard input.` + "\n" + exitHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				m, err := model.Parse(builtin)
				if err != nil {
					return err
				}
				return m.Describe(env.Stdout)
			}
			m, err := parseModel(env, args[0])
			if err != nil {
				return err
			}
			return m.Describe(env.Stdout)
		},
	}
}

func parseModel(env *Env, name string) (*model.Model, error) {
	data, err := readArgument(env, "FILE", name, maxModelBytes)
	if err != nil {
		return nil, usage(err)
	}
	m, err := model.Parse(data)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", name, err))
	}
	return m, nil
}
