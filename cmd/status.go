package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// errNotReady says that a device has no link, or stops.
var errNotReady = errors.New("the device is not ready")

// statusFlags find a device that runs. They include every setting of a device, so that its
// configuration file is understood.
type statusFlags struct {
	settings
	asJSON, watch bool
}

func newStatusCommand(env *Env, builtin []byte) *cobra.Command {
	o := &statusFlags{settings: settings{env: env, builtin: builtin}}
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how a running device does",
		Long: `Status asks a device that hubhop run keeps connected. Four answers come first: how old is the oldest sample that was not sent, why is
there no link, when is the next try, and what can a person do.

It finds the device as run does: give the same --state-dir, --device-id, variables and configuration file. If only one device runs with
that state directory, its id is not needed. docs/status.md describes the JSON.

With --watch it goes on until Ctrl-C. On a terminal it draws the status anew when something happens, at most once a second. Elsewhere, and
with --json, it writes a line whenever the state has changed.` + "\n" + exitHelp + `
Of this command: 0 ready · 1 nobody answers · 3 not ready: there is no link, or the device stops.`,
		Example: `  hubhop status --device-id dev-1
  hubhop status --device-id dev-1 --watch
  hubhop status --device-id dev-1 --json | jq .outbox.oldestAgeSeconds`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runStatus(c.Context(), o) },
	}
	own := pflag.NewFlagSet("", pflag.ContinueOnError) // the keys of the configuration are these alone
	o.addFlags(own)
	o.show("state-dir", "device-id", "config", "connection-string")
	c.Flags().AddFlagSet(own)
	c.Flags().BoolVar(&o.asJSON, "json", false, "print the status as JSON")
	c.Flags().BoolVar(&o.watch, "watch", false, "go on until Ctrl-C, and show what changes")
	return c
}

func runStatus(ctx context.Context, o *statusFlags) error {
	ctx, stop := o.env.Notify(ctx)
	defer stop()
	if err := o.load(); err != nil {
		return usage(err)
	}
	stateDir, err := o.stateDirectory()
	if err != nil {
		return usage(err)
	}
	who, _, err := o.name()
	guessed := o.deviceID+o.connectionString+o.cert == ""
	if err != nil && !guessed {
		return usage(err)
	}
	if who, err = window.Find(ctx, stateDir, who, guessed); err != nil {
		return usage(err)
	}
	dir := home.Dir(stateDir, who)
	if o.watch {
		f := window.Follower{Dir: dir, Out: o.env.Stdout, Err: o.env.Stderr, Redraw: o.env.StdoutTerminal && !o.asJSON, JSON: o.asJSON, Clean: escaped, Spawn: o.env.spawn}
		return f.Run(ctx)
	}
	v, raw, err := window.Ask(ctx, dir)
	if err != nil {
		return fmt.Errorf("nobody answers for the device %s in %s (%w); if hubhop run is running, give its --state-dir and --device-id; "+
			"if it is not, hubhop outbox stat says what waits", secret.Quotable(who), secret.Quotable(dir), err)
	}
	if o.asJSON {
		err = printJSON(o.env.Stdout, json.RawMessage(raw))
	} else {
		err = v.Print(o.env.Stdout, time.Now(), escaped)
	}
	if err != nil || v.State.Linked() {
		return err
	}
	return fmt.Errorf("%w: its state is %s", errNotReady, v.State)
}
