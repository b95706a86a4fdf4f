package cmd

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

func newDrillVerifyCommand(env *Env) *cobra.Command {
	var dir, earlier string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Repeat the verdict of a drill from its history",
		Long: `Verify reads history.jsonl of a drill, or standard input if FILE is -, and repeats the verdict without the run: it gives the
judge every message id that arrived, every event and every expectation again.

Each line of a history ends with a sum over itself and all lines before it. If a line was changed, removed, doubled or moved,
verify names it, and the verdict is unknown. It is unknown too if the end of the file says something else than its lines prove. The
sums are no signature. Keep the number of lines and the last sum, which the report names, where nobody can change them.

With --report it writes the files of the report again. With --compare the report is set beside an earlier one, which may be of
another device or SDK; that changes no verdict.
` + exitHelp,
		Example: `  hubhop drill verify report/history.jsonl
  hubhop drill verify report/history.jsonl --report again --compare last-year/report.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runDrillVerify(env, args[0], dir, earlier, asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "report", "", "directory to write the report into: report.html, report.md, report.json, junit.xml, timeline.svg")
	f.StringVar(&earlier, "compare", "", "report.json of an earlier run")
	f.BoolVar(&asJSON, "json", false, "print report.json")
	return c
}

func runDrillVerify(env *Env, path, dir, earlier string, asJSON bool) error {
	then, err := earlierReport(earlier)
	if err != nil {
		return err
	}
	in := env.Stdin
	if path != "-" {
		f, err := namedfile.Open("history", path)
		if err != nil {
			return usage(err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	r, err := drill.Repeat(in)
	if err != nil {
		return fmt.Errorf("history: %s: %w", secret.Quotable(path), namedfile.Cause(err))
	}
	return tellReport(env, r, dir, then, asJSON)
}

// earlierReport reads the report that --compare names. It returns nil if the flag is not given.
func earlierReport(path string) (*report.Report, error) {
	if path == "" {
		return nil, nil
	}
	f, err := namedfile.Open("compare", path)
	if err != nil {
		return nil, usage(err)
	}
	defer func() { _ = f.Close() }()
	r, err := report.Read(f)
	if err != nil {
		return nil, usage(fmt.Errorf("compare: %s: %w", secret.Quotable(path), err))
	}
	return &r, nil
}

// tellReport prints the report of a drill, and writes its files into dir unless that is "". If
// there is an earlier report, it compares the two. It returns the error of the verdict. The verdict
// is printed whatever becomes of the files.
func tellReport(env *Env, r report.Report, dir string, earlier *report.Report, asJSON bool) error {
	if earlier != nil {
		c := report.Compare(*earlier, r)
		r.Comparison = &c
	}
	var written, printed error
	if dir != "" {
		written = report.Write(dir, r)
	}
	if asJSON {
		printed = report.JSON(env.Stdout, r)
	} else {
		printed = report.Print(env.Stdout, r)
	}
	if dir != "" && written == nil {
		_, _ = fmt.Fprintf(env.Stderr, "the report is in %s\n", escaped(dir))
	}
	return errors.Join(drill.VerdictError(r), written, printed)
}
