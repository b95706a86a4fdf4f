package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxReport bounds a report.json, in bytes.
const maxReport = 32 << 20

// Read reads a report.json. It may be of an earlier version, or of another program: the optional
// fields may be missing.
func Read(r io.Reader) (Report, error) {
	var rep Report
	text, err := io.ReadAll(io.LimitReader(r, maxReport+1))
	switch {
	case err != nil:
		return rep, err
	case len(text) > maxReport:
		return rep, fmt.Errorf("it has more than %d bytes; a report.json of a drill has less", maxReport)
	}
	if err := json.Unmarshal(text, &rep); err != nil {
		return rep, fmt.Errorf("it is no report.json of a drill: %w", err)
	}
	switch rep.Verdict {
	case Passed, Failed, Unknown:
	default:
		return rep, errors.New(`it is no report.json of a drill: its "verdict" is none of passed, failed, unknown`)
	}
	return rep, nil
}

// runOf says which run a report is of.
func runOf(r Report) Run {
	return Run{Verdict: r.Verdict, Scenario: r.Scenario, Seed: r.Seed, Device: r.Device, Client: r.Client, Target: r.Target, StartedAt: r.StartedAt, RanAt: r.RanAt}
}

// name is what a column of a comparison is called.
func (r Run) name() string { return cmp.Or(r.Client, r.Device, "device") }

// Compare sets a report beside an earlier one, which may be of another device or SDK. It changes no
// verdict. Runs of two scenarios are put side by side, but neither is better.
func Compare(then, now Report) Comparison {
	c := Comparison{With: runOf(then), apart: then.Scenario != now.Scenario}
	other := func(what, a, b string) {
		if a != b {
			c.add(Row{What: what, Then: a, Now: b, Note: "differs"})
		}
	}
	other("scenario", then.Scenario, now.Scenario)
	other("seed", fmt.Sprint(then.Seed), fmt.Sprint(now.Seed))
	other("target", then.Target, now.Target)
	rank := map[Outcome]int{Passed: 2, Failed: 1}
	c.add(Row{What: "verdict", Then: string(then.Verdict), Now: string(now.Verdict), Sign: cmp.Compare(rank[now.Verdict], rank[then.Verdict])})
	c.time("slowest recovery", worst(then), worst(now))
	c.number("samples lost", then.Samples.Lost, now.Samples.Lost)
	c.number("arrived again", then.Samples.Duplicated, now.Samples.Duplicated)
	c.number("arrived behind newer ones", then.Samples.Reordered, now.Samples.Reordered)
	c.number("commands without an answer", unanswered(then), unanswered(now))
	c.number("expectations not met", unmet(then), unmet(now))
	earlier := map[string]Recovery{}
	for _, x := range then.Recoveries {
		earlier[x.Step+"\x00"+x.Fault] = x
	}
	for _, x := range now.Recoveries {
		if len(c.Rows) >= mostCompared {
			break
		}
		if was, ok := earlier[x.Step+"\x00"+x.Fault]; ok {
			c.time(fmt.Sprintf("back after %s (%s)", x.Fault, x.Step), timeOf(was), timeOf(x))
			if was.Lost > 0 || x.Lost > 0 {
				c.number(fmt.Sprintf("lost after %s (%s)", x.Fault, x.Step), was.Lost, x.Lost)
			}
		}
	}
	return c
}

func (c *Comparison) add(r Row) {
	if c.apart && r.Note == "" && r.Then != r.Now { // other faults say nothing about better or worse
		r.Sign, r.Note = 0, "differs"
	}
	if c.Rows = append(c.Rows, r); r.Sign > 0 {
		c.Better++
	} else if r.Sign < 0 {
		c.Worse++
	}
}

func (c *Comparison) number(what string, then, now uint64) {
	c.add(Row{What: what, Then: count(then), Now: count(now), Sign: cmp.Compare(then, now)})
}

// mostCompared bounds the rows.
const mostCompared = 300

// never stands for a recovery that did not come about.
const never = -1

// time adds a recovery time. Two that differ by less than 50 ms or 5 % are the same.
func (c *Comparison) time(what string, then, now int64) {
	r := Row{What: what, Then: word(then), Now: word(now)}
	switch {
	case then == 0 || now == 0 || then == now: // there is nothing to compare
	case then == never:
		r.Sign = 1
	case now == never:
		r.Sign = -1
	case max(then-now, now-then) >= max(50, then/20):
		r.Sign = cmp.Compare(then, now)
	}
	c.add(r)
}

func word(n int64) string {
	if n == never {
		return "never"
	}
	return known(n)
}

func timeOf(x Recovery) int64 {
	if x.Open {
		return never
	}
	return x.FirstPubackMs
}

func worst(r Report) int64 {
	if openOnes(r) > 0 {
		return never
	}
	return r.RTO.WorstMs
}

func unanswered(r Report) uint64 { return uint64(max(r.Commands.Sent-r.Commands.Answered, 0)) }

func unmet(r Report) (n uint64) {
	for _, e := range r.Expectations {
		if !e.Held {
			n++
		}
	}
	return n
}
