// Package flow is the command line of data flows: hubhop flow with its commands, and the flows that
// hubhop run --flows runs.
package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/flow"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// ErrFailed says that a test failed.
var ErrFailed = errors.New("a test of flows failed")

// ErrFaulty says that a flow that runs has a fault.
var ErrFaulty = errors.New("a person must see to a data flow")

// Env is what the commands need of the process.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Usage          func(error) error                                  // marks an error as one of usage or configuration
	Clean          func(string) string                                // makes a text fit for a terminal
	ReadFile       func(key, path string, most int64) ([]byte, error) // of a file that a flag names
	OpenFile       func(key, path string) (*os.File, error)           // that a flag names
	// Ask returns the status of the client that runs. Flags finds it.
	Ask   func(ctx context.Context) (status.View, error)
	Flags *pflag.FlagSet
	Help  string // of the exit codes
}

// NewCommand returns hubhop flow.
func NewCommand(e Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "flow",
		Short: "Check, show and try data flows, and ask those that run",
		Long: `A data flow takes messages from a broker, changes them, and sends them on: to the hub of the device, to a broker, or to a file. Its files, which
are called manifests, are those of Azure IoT Operations: data flow endpoints, data flow graphs and data flows. DIR is a directory with manifests.
hubhop run --flows DIR runs its data flows; the commands here need no broker and no hub, except status, which asks a hubhop run.
docs/flows.md is the guide.

    hubhop flow check DIR                is it right?
    hubhop flow show DIR                 what does it do?
    hubhop flow run DIR --topic T        what becomes of these messages?
    hubhop flow test DIR                 is it still what its tests say?
    hubhop flow status                   how does it run?
    hubhop flow replay DIR --from FILE   what becomes of messages that wait, or have failed?` + "\n" + e.Help,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCheck(&e), newShow(&e), newRun(&e), newTest(&e), newStatus(&e), newReplay(&e))
	return c
}

// find returns a flow of a directory; without a name, the only one. The error has the faults that
// keep it from running.
func (e *Env) find(dir, name string) (*manifest.Graph, error) {
	set, faults := manifest.Load(dir, manifest.Options{})
	if g := set.Graph(name); g != nil && name != "" {
		return g, nil
	}
	if err := errorsOf(faults); err != nil {
		return nil, e.Usage(err)
	}
	var names []string
	for _, g := range set.Graphs {
		names = append(names, g.Name)
	}
	switch {
	case len(names) == 0:
		return nil, e.Usage(errors.New(e.Clean(flow.Nothing(dir))))
	case name == "" && len(names) == 1:
		return set.Graphs[0], nil
	case name == "":
		return nil, e.Usage(fmt.Errorf("%s has several data flows; name one of %s", e.Clean(dir), strings.Join(names, ", ")))
	}
	return nil, e.Usage(fmt.Errorf("%s has no data flow %q; it has %s", e.Clean(dir), name, strings.Join(names, ", ")))
}

// errorsOf returns the errors among faults, one for each.
func errorsOf(faults []manifest.Fault) error {
	var all []error
	for _, f := range faults {
		if f.Severity == manifest.Error {
			all = append(all, errors.New(f.String()))
		}
	}
	return errors.Join(all...)
}

// warn writes the warnings among faults to standard error.
func (e *Env) warn(faults []manifest.Fault) {
	for _, f := range faults {
		if f.Severity == manifest.Warning {
			fmt.Fprintln(e.Stderr, e.Clean(f.String()))
		}
	}
}

// cleanLines makes a text of several lines fit for a terminal.
func (e *Env) cleanLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimSuffix(line, "\n")
		b.WriteString(e.Clean(bare) + line[len(bare):])
	}
	return b.String()
}

// printJSON writes one indented JSON document.
func (e *Env) printJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := e.Stdout.Write(flow.Printable(b.Bytes()))
	return err
}

func newCheck(e *Env) *cobra.Command {
	var asJSON bool
	var o flow.CheckOptions
	c := &cobra.Command{
		Use:   "check DIR",
		Short: "Say all that is wrong with the manifests of a directory",
		Long: `Check reads the manifests of a directory and compiles their flows. It uses no network. It prints each fault as file:line:column, what is
wrong and what to do, and then the ways of a message through each flow, in lines: from the sources, and from each arm of a branch. At last it says
what the flow needs: a journal, because it remembers something from one message to the next; the hub; a registry. What this machine lacks, such as a secret, is a warning.` + "\n" + e.Help + `
Of this command: 0 there is no error · 2 there is one, or no data flow.`,
		Example: `  hubhop flow check examples/flows/averages
  hubhop flow check flows --strict-aio --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return e.check(args[0], o, asJSON) },
	}
	c.Flags().BoolVar(&o.StrictAIO, "strict-aio", false, "also refuse what Azure IoT Operations does not know")
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func (e *Env) check(dir string, o flow.CheckOptions, asJSON bool) error {
	r := flow.Check(dir, o)
	n := 0
	for _, f := range r.Faults {
		if f.Severity == manifest.Error {
			n++
		}
	}
	if asJSON {
		if err := e.printJSON(r); err != nil {
			return err
		}
	} else if err := e.printCheck(r); err != nil {
		return err
	}
	switch n {
	case 0:
		return nil
	case 1:
		return e.Usage(errors.New("the manifests have an error"))
	}
	return e.Usage(fmt.Errorf("the manifests have %d errors", n))
}

func (e *Env) printCheck(r flow.Report) error {
	var b strings.Builder
	for _, f := range r.Faults {
		fmt.Fprintln(&b, e.Clean(f.String()))
	}
	for _, g := range r.Graphs {
		var needs []string
		for _, need := range []struct {
			is   bool
			name string
		}{{g.Journal, "a journal"}, {g.Hub, "the hub"}, {g.Registry, "a registry"}} {
			if need.is {
				needs = append(needs, need.name)
			}
		}
		text := "nothing"
		if len(needs) > 0 {
			text = strings.Join(needs, ", ")
		}
		lines := make([]string, len(g.Ways))
		for i, way := range g.Ways {
			lines[i] = e.Clean(way)
		}
		fmt.Fprintf(&b, "%s: %s\n    needs %s\n", e.Clean(g.Name), strings.Join(lines, "\n    "), text)
	}
	_, err := io.WriteString(e.Stdout, b.String())
	return err
}

func newShow(e *Env) *cobra.Command {
	format := "text"
	c := &cobra.Command{
		Use:   "show DIR [NAME]",
		Short: "Draw the data flows of a directory",
		Long:  `Show draws each flow of a directory, or one of them: as text, or as a diagram of Mermaid, which GitHub and many editors show.` + "\n" + e.Help,
		Example: `  hubhop flow show examples/flows/alarms
  hubhop flow show examples/flows/alarms alarms --format mermaid`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "text" && format != "mermaid" {
				return e.Usage(fmt.Errorf("format is %q; it must be text or mermaid", format))
			}
			return e.show(args, format)
		},
	}
	c.Flags().StringVar(&format, "format", format, "text or mermaid")
	return c
}

func (e *Env) show(args []string, format string) error {
	set, faults := manifest.Load(args[0], manifest.Options{})
	graphs := set.Graphs
	if len(args) == 2 {
		g, err := e.find(args[0], args[1])
		if err != nil {
			return err
		}
		graphs = []*manifest.Graph{g}
	} else if len(graphs) == 0 {
		if err := errorsOf(faults); err != nil {
			return e.Usage(err)
		}
		return e.Usage(errors.New(e.Clean(flow.Nothing(args[0]))))
	}
	for i, g := range graphs {
		text := flow.Text(g)
		if format == "mermaid" {
			text = flow.Mermaid(g)
		}
		if i > 0 {
			text = "\n" + text
		}
		if _, err := io.WriteString(e.Stdout, e.cleanLines(text)); err != nil {
			return err
		}
	}
	return nil
}
