package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/model"
)

func newModelCommand(env *Env, builtin []byte) *cobra.Command {
	return group("model", "Look at device models (DTDL)", newModelCheckCommand(env), newModelShowCommand(env, builtin))
}

func newModelCheckCommand(env *Env) *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check that a model can be read",
		Long: `Check reads a DTDL file (version 2 or 3; one interface or an array of them) and
says whether hubhop can check telemetry, properties and commands against it.
Each thing that is not DTDL, such as a misspelled word, gets a warning, because run
ignores it. With --strict it is an error. FILE may be - for standard input.` + "\n" + exitHelp,
		Example: `  hubhop model check failover.json
  hubhop model check --strict failover.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runModelCheck(env, args[0], strict) },
	}
	c.Flags().BoolVar(&strict, "strict", false, "refuse what is no DTDL")
	return c
}

// maxWarnings is how many flaws of a model are printed; more are counted.
const maxWarnings = 50

func runModelCheck(env *Env, name string, strict bool) error {
	data, err := readArgument(env, "model", name, maxModelBytes)
	if err != nil {
		return usage(err)
	}
	m, err := model.Parse(data)
	if err != nil {
		return usage(fmt.Errorf("%s: %w", secret.Quotable(name), err))
	}
	flaws := model.Flaws(data)
	if len(flaws) == 0 {
		_, err = fmt.Fprintf(env.Stdout, "%s is in order: %s\n", secret.Quotable(name), m.ID())
		return err
	}
	var lines []error
	for _, f := range flaws[:min(len(flaws), maxWarnings)] {
		lines = append(lines, fmt.Errorf("%s: %w", secret.Quotable(name), f.At))
	}
	if more := len(flaws) - len(lines); more > 0 {
		lines = append(lines, fmt.Errorf("%s: and %d more", secret.Quotable(name), more))
	}
	if strict {
		return usage(errors.Join(lines...))
	}
	for _, line := range lines {
		if _, err := fmt.Fprintf(env.Stderr, "warning: %v\n", line); err != nil {
			return err
		}
	}
	count := fmt.Sprintf("%d warnings", len(flaws))
	if len(flaws) == 1 {
		count = "1 warning"
	}
	_, err = fmt.Fprintf(env.Stdout, "%s can be read, with %s: %s\n", secret.Quotable(name), count, m.ID())
	return err
}

func newModelShowCommand(env *Env, builtin []byte) *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show what a model contains",
		Long: `Show lists the telemetry, properties, commands and components of a DTDL file, or of the built-in model. FILE may be -
for standard input.` + "\n" + exitHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				m, err := model.Parse(builtin)
				if err != nil {
					return err
				}
				return m.Describe(env.Stdout)
			}
			m, err := parseModel(env, args[0])
			if err != nil {
				return err
			}
			return m.Describe(env.Stdout)
		},
	}
}

func parseModel(env *Env, name string) (*model.Model, error) {
	data, err := readArgument(env, "model", name, maxModelBytes)
	if err != nil {
		return nil, usage(err)
	}
	m, err := model.Parse(data)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", secret.Quotable(name), err))
	}
	return m, nil
}

// model returns the model that the device is checked against and announces: the Interface of the
// file that
// --model-id names, or the only one that no other Interface contains.
func (s *settings) model() (*model.Model, error) {
	data, name := s.builtin, "the built-in model"
	if s.modelFile != "" {
		var err error
		name = secret.Quotable(s.modelFile)
		if data, err = namedfile.Read("model", s.modelFile, maxModelBytes); err != nil {
			return nil, err
		}
	}
	m, err := model.Parse(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("model %s: %w", name, err)
	case s.modelID != "":
		chosen, ok := m.WithRoot(s.modelID)
		if !ok {
			return nil, fmt.Errorf("model-id: %s does not define %s, but %s; name one of these, or with --model the file that defines it",
				name, secret.Quotable(s.modelID), some(m.Interfaces()))
		}
		return chosen, nil
	case len(m.Roots()) > 1:
		return nil, fmt.Errorf("model: %s defines several interfaces that are no part of each other, %s; say with --model-id which one the device is",
			name, some(m.Roots()))
	}
	return m, nil
}

// some lists the first names, and how many more there are.
func some(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
