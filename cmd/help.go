package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// flagGroups are the headings under which help lists flags, in their order. A flag that no group
// names is under the first whose prefix it has, or under the last heading.
var flagGroups = []cli.Group{
	{Title: "Who the device is", Names: []string{
		"id-scope", "group-key-file", "group-key", "device-key-file", "device-key", "cert", "key", "connection-string", "device-id",
		"model-id", "model",
	}},
	{Title: "Where it connects", Names: []string{
		"provisioning-host", "provisioning-transport", "ca-file", "hedge-delay", "known-hubs", "pipeline", "dps-rate", "keep-alive", "sas-ttl",
	}},
	{Title: "What it does", Names: []string{
		"once", "telemetry", "reported", "desired", "methods", "c2d", "telemetry-source", "telemetry-interval", "reported-interval", "method-timeout",
	}},
	{Title: "Data flows", Names: []string{"flows", "hub"}},
	{Title: "What waits", Prefixes: []string{"outbox-", "drain-", "send-"}},
	{Title: "Who moves the device", Names: []string{"app", "token-file", "via", "app-id", "sim", "ttl-minutes"}},
	{Title: "Policies of a DPS and its hubs", Names: []string{"dps-service-file", "hub-service-file"}},
	{Title: "Where the simulator listens", Names: []string{"layout", "base-address", "https-port", "control", "connect-proxy", "listen-any", "advertise"}},
	{Title: "What DPS does", Names: []string{
		"allocation", "webhook", "reprovision", "retry-after", "retry-after-first", "polls", "auto-approve", "enrollments",
	}, Prefixes: []string{"dps-"}},
	{Title: "What the hubs do", Names: []string{"move", "disabled-refusal", "sas-grace", "template", "ledger-keep", "clock-offset"}, Prefixes: []string{"hub", "c2d-"}},
	{Title: "The program"},
}

// newHelpCommand is cobra's help, but for a command that there is not it is an error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say what a command does and takes",
		Long:  "Help prints what COMMAND --help prints." + "\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usage(fmt.Errorf("there is no command %s; see %s --help", secret.Quoted(strings.Join(args, " ")), c.Root().CommandPath()))
			}
			return about.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if about, rest, err := c.Root().Find(args); err == nil && len(rest) == 0 {
				for _, sub := range about.Commands() {
					if sub.IsAvailableCommand() {
						names = append(names, sub.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}
