package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/page"
	"github.com/hubhop-iot/hubhop/internal/sample"
)

func newDemoCommand(env *Env, builtin []byte) *cobra.Command {
	var keep, asJSON bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "See a device survive the loss of its hub, offline",
		Long: `Demo starts a DPS and two hubs on free ports of this machine, and a device that makes ten samples a second. Then the giant lizard
comes. A hub is killed, healed and silenced. The operator moves the device, and it returns by itself. A method, a queued command
and a desired change arrive, two of them while there is no hub. At the end the verdict comes from what the hubs have received:
the exit code is 0 only if no sample is missing.` + "\n" + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runDemo(c.Context(), env, builtin, keep, asJSON) },
	}
	c.Flags().BoolVar(&keep, "keep", false, "leave everything running after the verdict, until Ctrl-C")
	c.Flags().BoolVar(&asJSON, "json", false, "print the verdict as JSON on standard output, the story on standard error")
	return c
}

func runDemo(ctx context.Context, env *Env, builtin []byte, keep, asJSON bool) error {
	s := &settings{env: env, builtin: builtin}
	s.addFlags(pflag.NewFlagSet("demo", pflag.ContinueOnError)) // for the defaults
	p, err := s.behaviour(agent())
	if err != nil {
		return err
	}
	ctx, stop := env.Notify(ctx)
	defer stop()
	result := linequeue.New(env.Stdout) // a slow reader must not hold up the demo
	defer result.Close(ctx)
	out := io.Writer(result)
	if asJSON {
		out = env.Stderr
	}
	p.sample.Interval = drill.DemoInterval
	demo := drill.Demo{Shared: p.shared, App: sample.App(p.sample), Keep: keep, Page: page.Simulator(), Tell: teller(out), OpenOutbox: env.demoOutbox}
	err = demo.Run(ctx, func(r drill.Report) error {
		if asJSON {
			err := printJSON(result, r)
			return errors.Join(err, kept(env.Stderr, keep, r.Control))
		}
		_, _ = fmt.Fprintln(out)
		return errors.Join(r.Print(out), kept(out, keep, r.Control))
	})
	if keep && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// kept tells a person what can be done with a demo that is kept running.
func kept(w io.Writer, keep bool, control string) error {
	if !keep {
		return nil
	}
	_, err := fmt.Fprintf(w, `
Everything goes on running; Ctrl-C ends it. Open %[1]s in a browser, or use the control API there:
  curl %[1]s/api/state
  curl -X POST %[1]s/api/hubs/hub-a/fault -d '{"kind":"kill"}'
  curl -X DELETE %[1]s/api/hubs/hub-a/fault
  curl -X POST %[1]s/api/devices/demo-1/methods/echo -d '"hello"'
`, control)
	return err
}

// teller returns a function that prints the story as it happens.
func teller(w io.Writer) func(drill.StoryLine) {
	var mu sync.Mutex
	return func(l drill.StoryLine) {
		mu.Lock()
		defer mu.Unlock()
		mark := "     "
		if l.Scene {
			mark = "  >> "
		}
		_, _ = fmt.Fprintf(w, "%6.2f s%s%s\n", l.At.Seconds(), mark, escaped(l.Text))
	}
}
