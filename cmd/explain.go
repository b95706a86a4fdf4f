package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/failover"
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

type explainedRule struct {
	ID       string `json:"rule"`
	Signal   string `json:"signal"`
	When     string `json:"when,omitempty"`
	Action   string `json:"action"`
	Practice string `json:"seed,omitempty"`
	Why      string `json:"why"`
	Wait     string `json:"wait,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

func runExplain(env *Env, words string, asJSON bool) error {
	rows := []explainedRule{}
	for _, r := range failover.Rules {
		row := explainedRule{r.ID, r.Signal.String(), r.When.String(), r.Action.String(), r.Practice, r.Why, r.Action.Wait(), r.Signal.Hint(failover.Proof{})}
		if row.matches(words) {
			rows = append(rows, row)
		}
	}
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
		if err := row.print(env.Stdout); err != nil {
			return err
		}
	}
	return nil
}

func (r explainedRule) matches(words string) bool {
	if words == "" || strings.EqualFold(words, r.ID) {
		return true
	}
	if len(words) == 3 && strings.ContainsAny(words[:1], "HDShds") && words[1] >= '0' && words[1] <= '9' {
		return false // another rule's name
	}
	all := strings.ToLower(strings.Join([]string{r.Signal, r.When, r.Action, r.Practice, r.Why}, "\n"))
	return strings.Contains(all, strings.ToLower(words))
}

func (r explainedRule) print(w io.Writer) error {
	signal := r.Signal
	if r.When != "" {
		signal += ", " + r.When
	}
	_, err := fmt.Fprintf(w, "%s  %s -> %s\n     %s\n", r.ID, signal, r.Action, r.Why)
	if r.Wait != "" && err == nil {
		_, err = fmt.Fprintf(w, "     waits: %s\n", r.Wait)
	}
	if r.Practice != "" && err == nil {
		_, err = fmt.Fprintf(w, "     best practice of IoT Central: %q\n", r.Practice)
	}
	if r.Hint != "" && err == nil {
		_, err = fmt.Fprintf(w, "     you can: %s\n", r.Hint)
	}
	return err
}
