package cmd

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
)

// TestHelpFitsATerminal: no line of any help is longer than 80 characters, and no flag that is
// shown is left out of it.
func TestHelpFitsATerminal(t *testing.T) {
	root := newRootCommand(&Env{}, nil)
	all := allCommands(root)
	if len(all) < 15 {
		t.Fatalf("only %d commands", len(all))
	}
	for _, c := range all {
		var b bytes.Buffer
		cli.Help(&b, c, flagGroups)
		for line := range strings.SplitSeq(b.String(), "\n") {
			if n := utf8.RuneCountInString(line); n > cli.HelpWidth || strings.Contains(line, "\t") {
				t.Errorf("%s --help has a line of %d characters: %q", c.CommandPath(), n, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if shown := strings.Contains(b.String(), "--"+f.Name); !shown && !f.Hidden {
				t.Errorf("%s --help does not show --%s", c.CommandPath(), f.Name)
			}
		})
		if c.Runnable() && !strings.Contains(b.String(), "Usage:\n  hubhop") {
			t.Errorf("%s --help does not say how it is used", c.CommandPath())
		}
	}
}

// TestPoliciesOfServicesAreNoBehaviourOfASimulator: the flags of drill run that name the policies
// of a DPS and its hubs stand under a heading of their own.
func TestPoliciesOfServicesAreNoBehaviourOfASimulator(t *testing.T) {
	c, _, err := newRootCommand(&Env{}, nil).Find([]string{"drill", "run"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	cli.Help(&b, c, flagGroups)
	_, policies, ok := strings.Cut(b.String(), "Policies of a DPS and its hubs")
	for _, flag := range []string{"--dps-service-file", "--hub-service-file"} {
		if !ok || !strings.Contains(policies, flag) {
			t.Errorf("%s does not stand there:\n%s", flag, b.String())
		}
	}
	for _, heading := range []string{"What DPS does", "What the hubs do"} {
		if strings.Contains(b.String(), heading) {
			t.Errorf("the help has the heading %q", heading)
		}
	}
}
