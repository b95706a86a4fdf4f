package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func newOutboxDiscardCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var yes bool
	c := &cobra.Command{
		Use:   "discard --yes",
		Short: "Throw away what waits in the outbox",
		Long: `Discard throws away every message that waits, and prints how many there were. Use it for a device that is
retired or sends to another place now. No process may have the outbox open. The ids of these messages are
never used again, and the next message of this outbox announces them as missing. Messages that were set
aside stay. To keep a copy, export the messages first.

` + outboxDirHelp + exitHelp,
		Example: `  hubhop outbox export --device-id dev-1 > queued.jsonl
  hubhop outbox discard --device-id dev-1 --yes`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runOutboxDiscard(env, o, yes) },
	}
	o.add(c.Flags())
	c.Flags().BoolVar(&yes, "yes", false, "yes, throw it away")
	return c
}

func runOutboxDiscard(env *Env, o *outboxFlags, yes bool) error {
	dir, look, err := o.look()
	if err != nil {
		return err
	}
	if look.Held {
		return fmt.Errorf("%s: %w: stop it first", dir, outbox.ErrLocked)
	}
	if !yes {
		return usage(fmt.Errorf("%d messages in %s would be thrown away, for good; give --yes to do it", look.Queued, dir))
	}
	n, err := outbox.DiscardIn(dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "%d messages were thrown away\n", n)
	return err
}
