package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/flow"
	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/status"
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
	c.Flags().AddFlagSet(o.own())
	c.Flags().BoolVar(&o.asJSON, "json", false, "print the status as JSON")
	c.Flags().BoolVar(&o.watch, "watch", false, "go on until Ctrl-C, and show what changes")
	return c
}

// own returns the flags that find a device: the keys of the configuration are these alone.
func (o *statusFlags) own() *pflag.FlagSet {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.addFlags(own)
	o.show("state-dir", "device-id", "config", "connection-string")
	return own
}

// find returns the directory of the device, and its id.
func (o *statusFlags) find(ctx context.Context) (dir, who string, err error) {
	if err := o.load(); err != nil {
		return "", "", usage(err)
	}
	stateDir, err := o.stateDirectory()
	if err != nil {
		return "", "", usage(err)
	}
	who, _, err = o.name()
	guessed := o.deviceID+o.connectionString+o.cert == ""
	if err != nil && !guessed {
		return "", "", usage(err)
	}
	if who, err = window.Find(ctx, stateDir, who, guessed); err != nil {
		return "", "", usage(err)
	}
	return home.Dir(stateDir, who), who, nil
}

// newFlowCommand returns hubhop flow, whose status finds a device as hubhop status does.
func newFlowCommand(env *Env, builtin []byte) *cobra.Command {
	o := &statusFlags{settings: settings{env: env, builtin: builtin}}
	return flow.NewCommand(flow.Env{Stdin: env.Stdin, Stdout: env.Stdout, Stderr: env.Stderr, Usage: usage, Clean: escaped, ReadFile: namedfile.Read, OpenFile: namedfile.Open, Flags: o.own(), Help: exitHelp,
		Ask: func(ctx context.Context) (status.View, error) {
			dir, who, err := o.find(ctx)
			if err != nil {
				return status.View{}, err
			}
			v, _, err := window.Ask(ctx, dir)
			return v, nobody(who, dir, err)
		}})
}

// nobody says that no device answers, unless err is nil.
func nobody(who, dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("nobody answers for the device %s in %s (%w); if hubhop run is running, give its --state-dir and --device-id; "+
		"if it is not, hubhop outbox stat says what waits", secret.Quotable(who), secret.Quotable(dir), err)
}

func runStatus(ctx context.Context, o *statusFlags) error {
	ctx, stop := o.env.Notify(ctx)
	defer stop()
	dir, who, err := o.find(ctx)
	if err != nil {
		return err
	}
	if o.watch {
		f := window.Follower{Dir: dir, Out: o.env.Stdout, Err: o.env.Stderr, Redraw: o.env.StdoutTerminal && !o.asJSON, JSON: o.asJSON, Clean: escaped, Spawn: o.env.spawn}
		return f.Run(ctx)
	}
	v, raw, err := window.Ask(ctx, dir)
	if err != nil {
		return nobody(who, dir, err)
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
