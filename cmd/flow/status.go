package flow

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/status"
)

func newStatus(e *Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what the data flows of a running client do",
		Long: `Status asks a client that hubhop run --flows runs, and prints its flows: what they do, and since they were started or changed, how many messages
came in, went out, were dropped on purpose, and failed. It finds the client as hubhop status does.` + "\n" + e.Help + `
Of this command: 1 nobody answers · 3 a flow has a fault: it failed, a change of its manifests is not taken over, or it is gone and has left messages.`,
		Example: `  hubhop flow status --device-id dev-1`,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return e.status(c.Context(), asJSON) },
	}
	c.Flags().AddFlagSet(e.Flags)
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func (e *Env) status(ctx context.Context, asJSON bool) error {
	v, err := e.Ask(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		flows := v.Flows
		if flows == nil {
			flows = []status.Flow{}
		}
		return errors.Join(e.printJSON(flows), faulty(v))
	}
	if len(v.Flows) == 0 {
		_, err := fmt.Fprintf(e.Stdout, "%s runs no data flow\n", e.Clean(v.Device))
		return err
	}
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FLOW\tSTATE\tIN\tOUT\tDROPPED\tERRORS\tIN FLIGHT\tOLDEST")
	for _, f := range v.Flows {
		oldest := "-"
		if f.OldestAgeSeconds > 0 {
			oldest = time.Duration(f.OldestAgeSeconds * float64(time.Second)).Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", e.Clean(f.Name), e.Clean(f.State), f.In, f.Out, f.Dropped, f.Errors, f.InFlight, oldest)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range v.Flows {
		if f.Text != "" {
			if _, err := fmt.Fprintf(e.Stdout, "%s: %s\n", e.Clean(f.Name), e.Clean(f.Text)); err != nil {
				return err
			}
		}
	}
	return faulty(v)
}

// faulty says which flow a person must see to first; nil: there is none.
func faulty(v status.View) error {
	if all := v.Faulty(); len(all) > 0 {
		return fmt.Errorf("%w: %s", ErrFaulty, all[0].Name)
	}
	return nil
}
