package strict

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// Pos is a place in a file. Line and Column count from 1, a column in characters.
type Pos struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// Start returns the beginning of a file.
func Start(file string) Pos { return Pos{file, 1, 1} }

// String returns file:line:column.
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

func (p Pos) compare(o Pos) int {
	return cmp.Or(cmp.Compare(p.File, o.File), cmp.Compare(p.Line, o.Line), cmp.Compare(p.Column, o.Column))
}

// Severity says whether a fault keeps a flow from running.
type Severity bool

// An error keeps what it concerns from running. A warning does not.
const (
	Warning Severity = false
	Error   Severity = true
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// MarshalJSON writes "error" or "warning".
func (s Severity) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// Fault is one thing that is wrong in a file, or that it needs and this machine lacks.
type Fault struct {
	Pos
	Severity Severity `json:"severity"`
	Text     string   `json:"text"` // what is wrong; the next step
	Rule     string   `json:"-"`    // the name of the rule that is broken, such as "topic-overlap"
}

// String returns file:line:column: text, with the word "warning: " before the text of a warning.
func (f Fault) String() string {
	if f.Severity == Warning {
		return f.Pos.String() + ": warning: " + f.Text
	}
	return f.Pos.String() + ": " + f.Text
}

// Errors says whether any of the faults is an error.
func Errors(faults []Fault) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool { return f.Severity == Error })
}

// Sort sorts faults by file, line and column, and drops repetitions.
func Sort(faults []Fault) []Fault {
	slices.SortStableFunc(faults, func(a, b Fault) int { return a.compare(b.Pos) })
	return slices.Compact(faults)
}

// Faults collects what is wrong.
type Faults struct{ All []Fault }

// Error notes an error. rule is its name.
func (f *Faults) Error(at Pos, rule, format string, a ...any) {
	f.All = append(f.All, Fault{Pos: at, Severity: Error, Rule: rule, Text: fmt.Sprintf(format, a...)})
}

// Warn notes a warning.
func (f *Faults) Warn(at Pos, rule, format string, a ...any) {
	f.All = append(f.All, Fault{Pos: at, Severity: Warning, Rule: rule, Text: fmt.Sprintf(format, a...)})
}
