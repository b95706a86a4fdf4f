package cmd

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/failover"
)

// TestExplainPrintsTheTable: every row, and from the very variable that a device decides by: a row
// that is changed there is printed so.
func TestExplainPrintsTheTable(t *testing.T) {
	explain := func() string {
		var out bytes.Buffer
		if err := runExplain(&Env{Stdout: &out}, "", false); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	table := failover.Rules
	defer func() { failover.Rules = table }()
	text := explain()
	for i, r := range table {
		for _, want := range []string{r.ID + "  " + r.Signal.String(), "-> " + r.Action.String() + "\n", r.Why} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not printed", r.ID, want)
			}
		}
		failover.Rules = slices.Clone(table)
		failover.Rules[i].Action = failover.Stop
		if r.Action == failover.Stop {
			failover.Rules[i].Action = failover.Move
		}
		if explain() == text {
			t.Errorf("%s with another action is printed as before", r.ID)
		}
	}
}
