package cmd

import (
	"context"
	"errors"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/flow"
	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// agent is how this program introduces itself to the cloud.
func agent() string { return "hubhop/" + version() }

func newRunCommand(env *Env, builtin []byte) *cobra.Command {
	s := &settings{env: env, builtin: builtin, runs: true}
	var once bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Run one device",
		Long: `Run connects a device and keeps it connected: it sends telemetry, reports properties, follows desired properties, answers
direct methods and takes cloud-to-device messages. What cannot be sent waits in the outbox, across failovers, restarts
and power cuts. Stop it with Ctrl-C: it sends what it can within --drain-timeout and keeps the rest for the next start.
A second Ctrl-C, or another signal a second later, ends it at once.

For debugging, --telemetry=false, --reported=false, --desired=false, --methods=false and --c2d=false turn one path off each.` + "\n" + exitHelp,
		Example: `  hubhop run --id-scope 0ne00ABCDEF --group-key-file group.key --device-id dev-1
  hubhop run --telemetry-source host --telemetry-interval 1s …
  my-sensor | hubhop run --telemetry-source stdin …`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runRun(c.Context(), env, s, once) },
	}
	s.addFlags(c.Flags())
	c.Flags().BoolVar(&once, "once", false, "connect, send what is queued and, with stdin, the input to its end; then stop")
	return c
}

func runRun(ctx context.Context, env *Env, s *settings, once bool) error {
	ctx, stop := env.Notify(ctx) // first of all, so that an early signal ends the command in order too
	defer stop()
	p, err := s.prepare()
	if once && s.flows != "" {
		err = errors.Join(err, usage(errors.New("once: data flows have no end; leave out --once or --flows")))
	}
	if err != nil {
		return err
	}
	p.shared.Config.Once = once
	p.shared.Journal.Sink(journal.Once(journal.Connected, debug.FreeOSMemory)) // the start needs memory that nothing after it does
	app := sample.App(p.sample)
	runtimeDir, _ := env.lookup("XDG_RUNTIME_DIR")
	w, err := window.Open(ctx, &p.shared, p.id, window.Options{Version: version(), Credential: s.credential, HTTP: s.http, TokenFile: s.httpTokenFile,
		Methods: slices.Sorted(maps.Keys(app.Commands)), RuntimeDir: runtimeDir, Log: s.log, Levels: s.levels})
	if err != nil {
		return usage(err)
	}
	flows := flow.LiveOptions{Dir: s.flows, StateDir: p.id.StateDir, Device: p.id.DeviceID, Log: s.log, DialContext: env.DialContext, Usage: usage}
	if !s.hub {
		return flow.Alone(ctx, w, flows)
	}
	d := device.New(&p.shared, p.id, app)
	if _, err := d.Open(); err != nil { // before the socket is made, because it locks the directory
		return errors.Join(err, w.Close())
	}
	if s.flows != "" {
		return flow.Beside(ctx, d, w, flows)
	}
	defer w.Serve(ctx, d, nil)()
	return d.Run(ctx)
}

// prepare reads the settings, checks them all and builds what a device needs. The journal writes to
// the log.
func (s *settings) prepare() (plan, error) {
	err := s.load()
	p, cerr := s.device(agent())
	log, lerr := s.logger(said)
	if err := errors.Join(err, cerr, lerr); err != nil {
		if s.logFormat != "json" { // the log is JSON only by default, and has no line yet: a person reads this
			s.env.jsonLog = nil
		}
		return p, usage(err)
	}
	s.log = log
	p.shared.Journal = new(journal.Journal)
	p.shared.Journal.Sink(journal.Log(log))
	for _, w := range slices.Concat(s.unknownVariables(), s.exposures(), s.warnings) {
		log.Warn().Msg(w)
	}
	if s.file != "" {
		log.Info().Msgf("the configuration file %s is read", secret.Quotable(s.file))
	}
	return p, nil
}
