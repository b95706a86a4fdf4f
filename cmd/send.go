package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func newSendCommand(env *Env, builtin []byte) *cobra.Command {
	s := &settings{env: env, builtin: builtin}
	c := &cobra.Command{
		Use:   "send SAMPLE",
		Short: "Send one sample by hand",
		Long: `Send puts one sample, a JSON object, into the device's outbox. It sends everything that is queued there, and ends when
the hub has acknowledged all of it. With - it reads samples from standard input, one in a line. Samples that cannot be
sent within a minute stay queued, and the next send or run sends them.` + "\n" + exitHelp,
		Example: `  hubhop send --id-scope 0ne00ABCDEF --group-key-file group.key --device-id dev-1 '{"temp":21}'
  my-sensor | hubhop send -`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runSend(c.Context(), env, s, args[0]) },
	}
	s.addFlags(c.Flags()) // all flags of run, because a configuration file may have any of them
	s.show("id-scope", "group-key", "group-key-file", "device-key", "device-key-file", "cert", "key", "connection-string", "device-id",
		"model-id", "model", "provisioning-host", "provisioning-transport", "ca-file", "state-dir", "send-queued-here", "config", "log-level", "log-format")
	quiet := c.Flags().Lookup("log-level")
	quiet.DefValue = "warn"
	_ = quiet.Value.Set(quiet.DefValue) // never fails, because any text is a value
	return c
}

func runSend(ctx context.Context, env *Env, s *settings, sample string) error {
	ctx, stop := env.Notify(ctx)
	defer stop()
	p, err := s.prepare()
	if err != nil {
		return err
	}
	p.shared.Config.Once, p.shared.Config.Outbox.Full = true, outbox.Block
	app := device.App{Model: p.sample.Model, Off: device.Paths{Reported: true, Desired: true, Methods: true, C2D: true}}
	input := env.Stdin
	if sample != "-" {
		var line bytes.Buffer
		if err := json.Compact(&line, []byte(sample)); err != nil || !strings.HasPrefix(line.String(), "{") {
			return usage(errors.New(`the sample is not a JSON object; quote it for your shell: hubhop send '{"temp":21}'`))
		}
		input = &line
	}
	lines := telemetry.Lines(input)
	lines.Unmodelled = p.sample.Unmodelled
	app.Sources = []telemetry.Source{lines}
	var hub string
	p.shared.Journal.Sink(func(e journal.Event) {
		if e.Kind == journal.Acknowledged {
			hub = e.Hub
		}
	})
	d := device.New(&p.shared, p.id, app)
	err = d.Run(ctx)
	made := d.Status().Made
	switch {
	case errors.Is(err, home.ErrLocked):
		return fmt.Errorf("%w; a device that runs takes samples by run --telemetry-source stdin", err)
	case err != nil:
		return err
	case made == 0:
		return errors.New("standard input had no sample")
	}
	what := "1 sample"
	if made > 1 {
		what = fmt.Sprintf("%d samples", made)
	}
	_, err = fmt.Fprintf(env.Stdout, "sent %s to %s\n", what, hub)
	return err
}
