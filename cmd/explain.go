package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/explain"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

func newExplainCommand(env *Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain [RULE or WORDS]",
		Short: "Explain what a device does about each failure",
		Long: `Explain prints the decision table: what happened, what the device does, and why. The log names the rule of each decision.
With an argument, explain prints only the rows that contain it: the name of a rule (H07), words of an error (CONNACK 5,
refused), or an action (back off).` + "\n" + exitHelp,
		Example: `  hubhop explain
  hubhop explain H19
  hubhop explain CONNACK 3`,
		RunE: func(_ *cobra.Command, args []string) error {
			return runExplain(env, strings.Join(args, " "), asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func runExplain(env *Env, words string, asJSON bool) error {
	rows := explain.Rules(words)
	if asJSON {
		return printJSON(env.Stdout, rows)
	}
	if len(rows) == 0 {
		return usage(fmt.Errorf("no rule speaks of %s; hubhop explain prints them all", secret.Quoted(words)))
	}
	for i, row := range rows {
		if i > 0 {
			_, _ = fmt.Fprintln(env.Stdout)
		}
		if err := row.Print(env.Stdout); err != nil {
			return err
		}
	}
	return nil
}
