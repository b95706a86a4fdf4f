package cmd

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// choices maps each flag that takes one of a few values to these values.
var choices = map[string][]string{
	"provisioning-transport":  {"mqtt", "https"},
	"telemetry-source":        {"simulated", "host", "stdin"},
	"drain-order":             {"fifo", "fresh-first"},
	"pipeline":                {"auto", "on", "off"},
	"outbox-full":             {"drop-oldest", "block"},
	"log-level":               {"trace", "debug", "info", "warn", "error"},
	"log-format":              {"console", "json"},
	"layout":                  {"loopback", "ports"},
	"move":                    {"disable", "delete"},
	"allocation":              {"static", "hashed", "geoLatency", "custom"},
	"reprovision":             {"migrate", "reset", "never"},
	"dps-malformed":           {"refuse", "close"},
	"disabled-refusal":        {"3", "5"},
	"c2d-before-subscription": {"deliver", "reject"},
}

// files are the flags that name a file; dirs are the flags that name a directory.
var (
	files = []string{
		"group-key-file", "device-key-file", "cert", "key", "model", "ca-file", "config", "enrollments", "template", "ledger",
	}
	dirs = []string{"state-dir", "out", "dir"}
)

// completeFlags tells the shell what may follow each flag: file names, the values of a choice, or
// nothing.
func completeFlags(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		values, directive := choices[f.Name], cobra.ShellCompDirectiveNoFileComp
		switch {
		case isSwitch(f):
			values = []string{"true", "false"}
		case slices.Contains(files, f.Name):
			directive = cobra.ShellCompDirectiveDefault
		case slices.Contains(dirs, f.Name):
			directive = cobra.ShellCompDirectiveFilterDirs
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(values, directive)) // fails if it is there already
	})
}
