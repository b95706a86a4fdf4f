package cmd

import (
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

func newConfigCommand(env *Env, builtin []byte) *cobra.Command {
	return group("config", "Look at the configuration", newConfigShowCommand(env, builtin))
}

func newConfigShowCommand(env *Env, builtin []byte) *cobra.Command {
	s := &settings{env: env, builtin: builtin}
	var asJSON bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the effective configuration and where each value comes from",
		Long: `Show takes every flag of hubhop run. It prints every key with its value and its source. A flag wins over the environment (HUBHOP_
and the key in upper snake case), the environment over the configuration file (--config, else ./hubhop.yaml, else the
user's), and the file over the default. Keys in the file are flat and spelled like the flags. Secrets are masked. Faults
are printed on standard error, and the exit code is then 2.` + "\n" + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runConfigShow(env, s, asJSON) },
	}
	s.addFlags(c.Flags())
	s.show("config")
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func runConfigShow(env *Env, s *settings, asJSON bool) error {
	err := s.load()
	type entry struct {
		Value  string `json:"value"`
		Source string `json:"source"`
	}
	all := map[string]entry{}
	var keys []string
	s.fs.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Name == "json" {
			return
		}
		e := entry{f.Value.String(), s.sources[f.Name]}
		if e.Source == "" {
			e.Value, e.Source = s.resolved(f)
		}
		pasted := secret.Looks(e.Value) && (f.Name != "device-id" || cli.CheckRegistrationID(e.Value) != nil)
		if e.Value != "" && (slices.Contains(secrets, f.Name) || pasted) {
			e.Value = "********"
		}
		all[f.Name] = e
		keys = append(keys, f.Name)
	})
	if asJSON {
		err = errors.Join(err, printJSON(env.Stdout, all))
	} else {
		w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
		for _, k := range keys {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", k, secret.OneLine(all[k].Value), secret.OneLine(all[k].Source))
		}
		err = errors.Join(err, w.Flush())
	}
	_, cerr := s.device(agent())
	for _, w := range slices.Concat(s.unknownVariables(), s.exposures(), s.warnings) {
		_, _ = fmt.Fprintln(env.Stderr, "hubhop: warning:", w)
	}
	if err := errors.Join(err, cerr); err != nil {
		return usage(err)
	}
	return nil
}

// resolved is the value that a key nobody has set stands for, and where it comes from.
func (s *settings) resolved(f *pflag.Flag) (value, source string) {
	value, source = f.Value.String(), "default"
	switch f.Name {
	case "device-id":
		if name, from, err := s.name(); err == nil {
			return name, from
		}
	case "model-id":
		switch m, err := s.model(); {
		case err != nil: // the error is printed too
		case s.modelFile == "":
			return m.ID(), "default (built-in model)"
		default:
			return m.ID(), "default (model file)"
		}
	case "state-dir":
		if dir, err := s.stateDirectory(); err == nil {
			return dir, source
		}
	case "config":
		if s.file != "" {
			return s.file, "found"
		}
	case "outbox-full":
		if s.plan.sample.Source == sample.Stdin {
			return "block", "default (stdin)"
		}
		return "drop-oldest", source
	case "hedge-delay":
		return value, "default (250ms or 3 × the hub's last dial)"
	case "outbox-max-age":
		return value, "default (off)"
	}
	return value, source
}
