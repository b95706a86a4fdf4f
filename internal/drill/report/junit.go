package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Time       string          `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr,omitempty"`
	Properties []junitProperty `xml:"properties>property,omitempty"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Time    string     `xml:"time,attr"`
	Failure *junitFail `xml:"failure"`
	Error   *junitFail `xml:"error"`
}

type junitFail struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

// JUnit writes the report as JUnit XML, for a CI system. The names of the test cases come from the
// scenario alone, so they are the same in each run. The verdict is the first case, and no sample
// lost, each recovery and each expectation are one case each.
func JUnit(w io.Writer, r Report) error {
	lasted := seconds(r.EndedAt.Sub(r.StartedAt).Milliseconds())
	s := junitSuite{Name: "drill." + plainText(r.Scenario, mostCell), Time: lasted}
	at := r.RanAt
	if at.IsZero() {
		at = r.StartedAt
	}
	if !at.IsZero() {
		s.Timestamp = at.UTC().Format("2006-01-02T15:04:05")
	}
	for _, f := range append(facts(r), around(r)...) {
		s.Properties = append(s.Properties, junitProperty{plainText(f.Name, mostCell), plainText(f.Value, mostCell)})
	}
	c := cases{class: s.Name, seen: map[string]int{}}
	verdict := c.add("verdict", lasted, "")
	if r.Verdict == Unknown {
		verdict.Error = &junitFail{plainText(r.Reason, 3*mostCell), "unknown", ""}
	} else if r.Verdict != Passed {
		verdict.Failure = &junitFail{plainText(r.Reason, 3*mostCell), "failed", texts(r.Findings)}
	}
	why := ""
	if r.RPO.Lost > r.RPO.Budget {
		why = fmt.Sprintf("%d samples were lost, and %d may be", r.RPO.Lost, r.RPO.Budget)
	}
	c.add("no more samples lost than the budget allows", "0", why)
	for _, f := range faultRows(r) {
		why := ""
		switch {
		case f.Open:
			why = "telemetry did not flow again until the end of the run"
		case !f.OK && f.Lost > 0:
			why = fmt.Sprintf("%d samples were lost", f.Lost)
		case !f.OK:
			why = fmt.Sprintf("telemetry flowed again after %s, and the budget is %s", f.Back, f.Limit)
		}
		c.add(f.Step+": back after "+f.Fault, seconds(f.FirstPubackMs), why)
	}
	for _, e := range r.Expectations {
		why := ""
		if !e.Held {
			why = "seen: " + e.Seen
		}
		c.add(e.Step+": "+e.Text, "0", why)
	}
	for _, x := range c.all {
		s.Cases = append(s.Cases, *x)
		if x.Failure != nil {
			s.Failures++
		}
		if x.Error != nil {
			s.Errors++
		}
	}
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	err := e.Encode(junitSuites{Name: "hubhop drill", Tests: s.Tests, Failures: s.Failures, Errors: s.Errors, Time: lasted, Suites: []junitSuite{s}})
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// cases are the test cases of a report. Two that would have the same name are numbered.
type cases struct {
	class string
	seen  map[string]int
	all   []*junitCase
}

// add adds a case that fails if there is a reason why.
func (c *cases) add(name, took, why string) *junitCase {
	name = plainText(name, mostCell)
	if c.seen[name]++; c.seen[name] > 1 {
		name = fmt.Sprintf("%s (%d)", name, c.seen[name])
	}
	x := &junitCase{Class: c.class, Name: name, Time: took}
	if why != "" {
		x.Failure = &junitFail{Message: plainText(why, mostCell), Type: "failed"}
	}
	c.all = append(c.all, x)
	return x
}

func seconds(ms int64) string {
	return strconv.FormatFloat((time.Duration(ms) * time.Millisecond).Seconds(), 'f', 3, 64)
}

func texts(findings []Finding) (all string) {
	for _, f := range findings {
		all += plainText(f.Text, 3*mostCell) + "\n"
	}
	return all
}
