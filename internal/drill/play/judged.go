package play

import (
	"reflect"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
)

// anywhere is the need of what every target can judge.
const anywhere drill.Need = ""

// judgedBy says what a target needs to judge what a scenario asks of a run, by its key in the file.
// A bound on what nobody counts would hold always, and prove nothing.
var judgedBy = map[string]drill.Need{
	"expect.back":          anywhere,
	"expect.backOnceOver":  anywhere,
	"expect.on":            drill.NeedNamedHubs,
	"expect.drained":       drill.NeedOutbox,
	"expect.silent":        anywhere,
	"expect.gap":           anywhere,
	"expect.lost":          anywhere,
	"expect.duplicates":    drill.NeedLedger,
	"expect.answered":      anywhere, // the step has a command, which needs more
	"expect.acknowledged":  anywhere, // the same
	"expect.moves":         anywhere,
	"expect.registrations": drill.NeedCounts,
	"expect.connects":      drill.NeedCounts,
	"expect.dials":         drill.NeedOutbox,
	"expect.rules":         drill.NeedOutbox,
	"budget.rto":           anywhere,
	"budget.rpo":           anywhere,
	"budget.duplicates":    drill.NeedLedger,
	"steady.within":        anywhere,
	"steady.lasts":         anywhere,
	"steady.gap":           anywhere,
	"steady.backlog":       drill.NeedOutbox,
	"stop.gap":             anywhere,
	"stop.backlog":         drill.NeedOutbox,
	"stop.givenUp":         drill.NeedOutbox,
	"stop.lasts":           anywhere,
}

// asked is a key of a scenario that asks something of a run.
type asked struct {
	key  string
	line int
}

// asks returns what a scenario asks of a run, in the order of its language.
func asks(s *scenario.Scenario) (all []asked) {
	add := func(name string, line int, object any) {
		v := reflect.ValueOf(object)
		for f, value := range v.Fields() {
			if key := f.Tag.Get("key"); key != "" && !value.IsZero() {
				all = append(all, asked{name + "." + key, line})
			}
		}
	}
	add("steady", s.Steady.Line, s.Steady)
	for i := range s.Steps {
		add("expect", s.Steps[i].Expect.Line, s.Steps[i].Expect)
	}
	add("stop", s.Stop.Line, s.Stop)
	add("budget", s.Budget.Line, s.Budget)
	return all
}
