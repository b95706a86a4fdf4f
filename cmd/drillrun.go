package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/drill/play"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/scripts/scenarios"
)

// maxScenarioBytes bounds a file with a scenario.
const maxScenarioBytes = 1 << 20

// listedScenario is a scenario as drill list prints it with --json.
type listedScenario struct {
	Name        string `json:"name"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Steps       int    `json:"steps"`
}

func newDrillListCommand(env *Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the scenarios that hubhop brings along",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := scenario.Library(scenarios.Files)
			if err != nil {
				return err
			}
			if asJSON {
				shown := make([]listedScenario, len(all))
				for i, s := range all {
					shown[i] = listedScenario{s.Name, s.Title, s.Description, len(s.Steps)}
				}
				return printJSON(env.Stdout, shown)
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 3, ' ', 0)
			for _, s := range all {
				_, _ = fmt.Fprintf(t, "%s\t%s\n", s.Name, s.Title)
			}
			return t.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	return c
}

func newDrillCheckCommand(env *Env, builtin []byte) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE-OR-NAME",
		Short: "Say what is wrong with a scenario",
		Long: `Check reads a scenario and names everything that is wrong in it, each with its line and with what is allowed. It also says what the
embedded target cannot do. It plays nothing. docs/drill.md describes the language; scripts/scenarios/schema.json is its JSON schema, for editors.` +
			"\n" + exitHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, file, err := readScenario(env, args[0])
			if err != nil {
				return err
			}
			t, err := insideTarget(env, builtin)
			if err == nil {
				err = play.Check(s, file, t, s.Speed != "real", 1)
			}
			if err != nil {
				return usage(err)
			}
			steps := fmt.Sprintf("%d steps", len(s.Steps))
			if len(s.Steps) == 1 {
				steps = "1 step"
			}
			_, err = fmt.Fprintf(env.Stdout, "%s is right: %s, %s\n", secret.Quotable(file), s.Name, steps)
			return err
		},
	}
}

// drillFlags are the flags of drill run.
type drillFlags struct {
	targetFlags
	speed, dir, earlier string
	seed                uint64
	asJSON, quiet       bool
}

func newDrillRunCommand(env *Env, builtin []byte) *cobra.Command {
	f := drillFlags{targetFlags: targetFlags{moveFlags: moveFlags{settings: settings{env: env, builtin: builtin}}}}
	c := &cobra.Command{
		Use:   "run FILE-OR-NAME",
		Short: "Play a scenario, and prove what came of it",
		Long: `Run breaks what a scenario says and when, and looks whether the device comes back in time without losing a sample. A scenario is a file,
or one of those that hubhop drill list names. Everything that it has changed is put back, also after Ctrl-C and after a step that fails.

The verdict is passed, failed, or unknown, if the proof itself failed: then there was no device, or nobody knows what has arrived. The exit code
is 0 only if it is passed. Time is virtual unless --speed or the scenario says otherwise, so an hour passes in seconds.` + "\n" + targetHelp + exitHelp,
		Example: `  hubhop drill run giant-lizard
  hubhop drill run seeded-chaos --seed 42 --report out
  hubhop drill run my-scenario.yaml --speed real
  hubhop drill run planned-failover --target central --app myapp.azureiotcentral.com --token-file token --id-scope 0ne00ABCDEF --group-key-file group.key
  hubhop drill run my-scenario.yaml --device external --sequence-field seq --exec 'node app.js'`,
		Args: func(c *cobra.Command, args []string) error {
			if at := c.ArgsLenAtDash(); at >= 0 {
				args = args[:at]
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			f.args = args[1:]
			return runDrill(c.Context(), env, builtin, args[0], &f)
		},
	}
	fs := c.Flags()
	f.add(fs)
	fs.StringVar(&f.speed, "speed", "", "virtual or real; the default is what the scenario says, else virtual where that is possible")
	fs.Uint64Var(&f.seed, "seed", 1, "of everything that chance decides; the same seed gives the same schedule of faults")
	fs.StringVar(&f.dir, "report", "", "directory to write the report into: report.html, report.md, report.json, junit.xml, history.jsonl")
	fs.StringVar(&f.earlier, "compare", "", "report.json of an earlier run, also of another device or SDK; it changes no verdict")
	fs.BoolVar(&f.asJSON, "json", false, "print report.json on standard output, and nothing else")
	fs.BoolVar(&f.quiet, "quiet", false, "show nothing while it runs")
	return c
}

func runDrill(ctx context.Context, env *Env, builtin []byte, name string, f *drillFlags) error {
	s, file, err := readScenario(env, name)
	if err != nil {
		return err
	}
	then, err := earlierReport(f.earlier)
	if err != nil {
		return err
	}
	if f.speed != "" && f.speed != "virtual" && f.speed != "real" {
		return usage(fmt.Errorf("speed must be virtual or real, it is %s", secret.Quoted(f.speed)))
	}
	speed := cmp.Or(f.speed, s.Speed)
	target, elsewhere, err := f.choose(f.dir)
	if err != nil {
		return err
	}
	if !elsewhere {
		here, err := insideTarget(env, builtin)
		if err != nil {
			return usage(err)
		}
		here.Real = speed == "real"
		target = here
	}
	virtual := speed == "virtual" || speed == "" && target.Lacks(drill.NeedVirtual) == ""
	if err := play.Check(s, file, target, virtual, f.seed); err != nil {
		return usage(err)
	}
	if note := play.CloudNote(s, file, target); note != "" {
		_, _ = fmt.Fprintf(env.Stderr, "hubhop: %s\n", escaped(note))
	}
	ctx, stop := env.Notify(ctx)
	defer stop()
	show, done := f.shown(env)
	began := time.Now()
	record, err := drill.NewRecord(f.dir, show, began)
	if err != nil {
		done()
		return err
	}
	run := play.Run{
		Scenario: s, Target: target, Device: f.deviceID, Seed: f.seed, Virtual: virtual, Began: began, Take: record.Take,
		Client: f.named(), Versions: map[string]string{"hubhop": version(), "go": runtime.Version()},
		Environment: map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH, "cpus": strconv.Itoa(runtime.NumCPU())},
	}
	ended := run.Play(ctx)
	done()
	r, err := record.Close(ended, time.Now())
	return errors.Join(tellReport(env, r, f.dir, then, f.asJSON), err)
}

// shown returns who shows a run while it runs, and what ends that.
func (f *drillFlags) shown(env *Env) (watch report.Watch, done func()) {
	switch {
	case f.quiet || f.asJSON:
		return nil, func() {}
	case !env.Terminal || dumb(env):
		return report.Lines(env.Stderr), func() {}
	}
	live := report.NewLive(env.Stderr, func() (columns, lines int) {
		columns, lines, err := term.GetSize(2)
		if err != nil {
			return 0, 0
		}
		return columns, lines
	}, env.colours())
	return live.Take, live.Close
}

// dumb says that the terminal cannot draw over what is there.
func dumb(env *Env) bool {
	kind, _ := env.lookup("TERM")
	return kind == "dumb"
}

// insideTarget is the embedded target, with the sample as the application of its device. Its time
// is virtual.
func insideTarget(env *Env, builtin []byte) (*inside.Target, error) {
	s := &settings{env: env, builtin: builtin}
	s.addFlags(pflag.NewFlagSet("drill", pflag.ContinueOnError)) // for the defaults
	p, err := s.behaviour(agent())
	if err != nil {
		return nil, err
	}
	p.shared.DPSLimit, p.shared.DPSOpenLimit = nil, nil // their clock is that of the real world
	return &inside.Target{Shared: p.shared, Spoil: env.spoilDrill, App: func(interval time.Duration, chance *rand.Rand) device.App {
		o := p.sample
		o.Interval, o.Rand = interval, chance
		return sample.App(o)
	}}, nil
}

// readScenario reads the scenario that an argument names: a file, or one of the library.
func readScenario(env *Env, name string) (s *scenario.Scenario, file string, err error) {
	if !scenario.IsFile(name) {
		s, err := scenario.Named(scenarios.Files, name)
		if err != nil {
			return nil, "", usage(err)
		}
		return s, name + ".yaml", nil
	}
	text, err := readArgument(env, "scenario", name, maxScenarioBytes)
	if err != nil {
		return nil, "", usage(err)
	}
	if text, err = namedfile.PlainText(text); err != nil {
		return nil, "", usage(fmt.Errorf("%s %w", secret.Quotable(name), err))
	}
	if s, err = scenario.Parse(secret.Quotable(name), text); err != nil {
		return nil, "", usage(err)
	}
	return s, name, nil
}
