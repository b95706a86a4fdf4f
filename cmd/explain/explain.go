// Package explain puts the decision table into words: what a device does about each failure, and
// why.
package explain

import (
	"fmt"
	"io"
	"strings"

	"github.com/hubhop-iot/hubhop/failover"
)

// Rule is a row of the decision table.
type Rule struct {
	ID       string `json:"rule"`
	Signal   string `json:"signal"`
	When     string `json:"when,omitempty"`
	Action   string `json:"action"`
	Practice string `json:"seed,omitempty"`
	Why      string `json:"why"`
	Wait     string `json:"wait,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

// Rules returns the rows that contain words: the name of a rule, words of an error, or an action.
// Without words it returns them all.
func Rules(words string) []Rule {
	rows := []Rule{}
	for _, r := range failover.Rules {
		row := Rule{r.ID, r.Signal.String(), r.When.String(), r.Action.String(), r.Practice, r.Why, r.Action.Wait(), r.Signal.Hint(failover.Proof{})}
		if row.matches(words) {
			rows = append(rows, row)
		}
	}
	return rows
}

func (r Rule) matches(words string) bool {
	if words == "" || strings.EqualFold(words, r.ID) {
		return true
	}
	if len(words) == 3 && strings.ContainsAny(words[:1], "HDShds") && words[1] >= '0' && words[1] <= '9' {
		return false // another rule's name
	}
	all := strings.ToLower(strings.Join([]string{r.Signal, r.When, r.Action, r.Practice, r.Why}, "\n"))
	return strings.Contains(all, strings.ToLower(words))
}

// Print writes a row for a person.
func (r Rule) Print(w io.Writer) error {
	signal := r.Signal
	if r.When != "" {
		signal += ", " + r.When
	}
	_, err := fmt.Fprintf(w, "%s  %s -> %s\n     %s\n", r.ID, signal, r.Action, r.Why)
	if r.Wait != "" && err == nil {
		_, err = fmt.Fprintf(w, "     waits: %s\n", r.Wait)
	}
	if r.Practice != "" && err == nil {
		_, err = fmt.Fprintf(w, "     best practice of IoT Central: %q\n", r.Practice)
	}
	if r.Hint != "" && err == nil {
		_, err = fmt.Fprintf(w, "     you can: %s\n", r.Hint)
	}
	return err
}
