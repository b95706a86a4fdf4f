package cmd

import (
	"encoding/json"
	"io"
	"slices"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/cli"
)

// printJSON writes one indented JSON document.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// failure is the JSON that a command with --json prints if it fails before it has printed anything.
type failure struct {
	Error    string `json:"error"` // the sentences of standard error
	ExitCode int    `json:"exitCode"`
}

// wantsJSON says whether --json was given, also if the command line could not be parsed.
func wantsJSON(env *Env, c *cobra.Command) bool {
	f := c.Flags().Lookup("json")
	if f == nil || !cli.IsSwitch(f) {
		return false
	}
	return f.Value.String() == "true" || slices.Contains(env.Args, "--json")
}

// counted counts the bytes written.
type counted struct {
	io.Writer
	n atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}
