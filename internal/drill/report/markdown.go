package report

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the report as a text for a repository, a ticket or a pull request. It has no
// picture.
func Markdown(w io.Writer, r Report) error {
	v := newView(r, bounds[0])
	d := &document{}
	d.line("# %s: %s", v.Verdict, md(v.Title))
	d.line("")
	d.line("%s", md(r.Reason))
	d.line("")
	d.line("%s", md(v.About))
	if len(v.Why) > 0 {
		d.line("")
		for _, why := range v.Why {
			d.line("- %s", md(why))
		}
	}
	d.table([]string{"", "", ""}, func(row func(...string)) {
		for _, t := range v.Tiles {
			row(t.Name, "**"+t.Value+"**", t.Note)
		}
	})
	if r.Description != "" {
		d.line("")
		d.line("%s", md(r.Description))
	}
	if len(v.Faults) > 0 {
		d.heading("Recovery after each fault")
		d.line("Times count from the fault. Telemetry is back with the first message that a hub has acknowledged.")
		d.table([]string{"step", "fault", "from", "to", "noticed", "assigned", "connected", "telemetry", "budget", "lost", "again", ""}, func(row func(...string)) {
			for _, x := range v.Faults {
				row(md(x.Step), md(x.Fault), md(x.From), md(x.To), x.Detected, x.Assigned, x.Connected, x.Back, x.Budget, count(x.Lost), count(x.Duplicated), yes(x.OK, "ok", "no"))
			}
		})
		d.omitted(v, "faults")
	}
	if len(v.Expected) > 0 {
		d.heading("What the scenario expects")
		d.table([]string{"step", "expected", "seen", ""}, func(row func(...string)) {
			for _, x := range v.Expected {
				row(md(x.Step), md(x.Text), md(x.Seen), yes(x.Held, "met", "not met"))
			}
		})
		d.omitted(v, "expectations")
	}
	if c := v.Compared; c != nil {
		d.heading("Compared with an earlier run")
		d.line("Earlier: %s, seed %d, device %s, target %s. %d better, %d worse.", md(c.With.Scenario), c.With.Seed, md(c.With.Device), md(c.With.Target), c.Better, c.Worse)
		d.table([]string{"", md(c.Then), md(c.Now), ""}, func(row func(...string)) {
			for _, x := range c.Rows {
				row(md(x.What), md(x.Then), md(x.Now), sign(x))
			}
		})
	}
	d.heading("Ledger")
	d.line("%s", v.Sum)
	if len(v.Hubs) > 0 {
		d.table([]string{"hub", "received", "samples", "arrived again", "behind newer"}, func(row func(...string)) {
			for _, x := range v.Hubs {
				row(md(x.Hub), count(x.Received), count(x.Distinct), count(x.Duplicated), count(x.Reordered))
			}
		})
	}
	if len(v.Outboxes) > 0 {
		d.table([]string{"outbox", "samples", "waiting", "announced as missing", "lost", "lost message ids"}, func(row func(...string)) {
			for _, x := range v.Outboxes {
				row(md(x.Outbox), count(x.Distinct), count(x.Queued), count(x.Announced), count(x.Lost), md(x.LostIDs))
			}
		})
	}
	d.heading("The run")
	for _, f := range append(v.Facts, v.Around...) {
		d.line("- %s: %s", md(f.Name), md(f.Value))
	}
	d.line("")
	d.line("`hubhop drill verify history.jsonl` repeats the verdict without the run.")
	_, err := io.WriteString(w, d.b.String())
	return err
}

// document collects the lines of a Markdown text.
type document struct{ b strings.Builder }

func (d *document) line(format string, a ...any) { fmt.Fprintf(&d.b, format+"\n", a...) }

func (d *document) heading(text string) { d.line("\n## %s\n", text) }

func (d *document) omitted(v view, table string) {
	if text := v.Omitted[table]; text != "" {
		d.line("\n%s", text)
	}
}

// table writes a table. Its cells have been escaped.
func (d *document) table(heads []string, rows func(row func(...string))) {
	row := func(cells ...string) { d.line("| %s |", strings.Join(cells, " | ")) }
	d.line("")
	row(heads...)
	d.line("|%s", strings.Repeat("---|", len(heads)))
	rows(row)
}

// md makes a text from outside fit for a line or a cell of Markdown.
func md(s string) string {
	var b strings.Builder
	for _, r := range plainText(s, mostCell) {
		switch r {
		case '&':
			b.WriteString("&amp;")
		case '<':
			b.WriteString("&lt;")
		case '>':
			b.WriteString("&gt;")
		case '\\', '`', '*', '_', '[', ']', '|', '#', '~', '!':
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func yes(ok bool, good, bad string) string {
	if ok {
		return good
	}
	return "**" + bad + "**"
}

func sign(r Row) string {
	switch {
	case r.Sign > 0:
		return "better"
	case r.Sign < 0:
		return "**worse**"
	case r.Note != "":
		return md(r.Note)
	}
	return "same"
}
