package manifest

import "github.com/hubhop-iot/hubhop/internal/strict"

type (
	// Pos is a place in a file. Line and Column count from 1, a column in characters.
	Pos = strict.Pos
	// Severity says whether a fault keeps a flow from running.
	Severity = strict.Severity
	// Fault is one thing that is wrong in a file, or that it needs and this machine lacks.
	Fault = strict.Fault
	// Where is the place of an object of a file, and of each of its values.
	Where = strict.Where
	// Free is an object whose keys are not checked here.
	Free = strict.Free
	// faults collects what is wrong.
	faults = strict.Faults
)

// An error keeps what it concerns from running. A warning does not.
const (
	Warning = strict.Warning
	Error   = strict.Error
)

// Errors says whether any of the faults is an error.
func Errors(all []Fault) bool { return strict.Errors(all) }

// Sort sorts faults by file, line and column, and drops repetitions.
func Sort(all []Fault) []Fault { return strict.Sort(all) }
