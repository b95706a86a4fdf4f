package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	mostFindings = 40
	mostAround   = 60
	mostCell     = 300 // characters of a text
)

// view is a report as a page or a Markdown text shows it: in words.
type view struct {
	limits
	R        Report
	Title    string
	About    string // who, on what, when
	Verdict  string
	Mark     string // of the verdict
	Why      []string
	Tiles    []tile
	Picture  markup
	Caption  string
	Faults   []faultRow
	Budgets  bool // some faults have budgets of their own
	Expected []Expectation
	Steps    []stepRow
	Hubs     []Account
	Outboxes []Account
	Sum      string
	Decided  []decidedRow
	Facts    []fact
	Around   []fact
	Compared *comparedView
	Omitted  map[string]string // by table: what it leaves out
}

// tile is one figure that a reader looks for first.
type tile struct {
	Name, Value, Note string
	Bad               bool
	Share             float64 // of the budget, percent; below 0: there is no bar
}

type faultRow struct {
	Recovery
	Detected, Assigned, Connected, Back, Budget string
	Limit                                       string // the shorter of its own bound and the RTO
	OK                                          bool
	Bar                                         markup
}

type stepRow struct {
	Step
	At, Took string
}

type decidedRow struct {
	Mark
	At string
}

type fact struct{ Name, Value string }

type comparedView struct {
	Comparison
	Then, Now string // what the columns are of
}

// newView puts a report into words.
func newView(r Report, l limits) view {
	v := view{limits: l, R: r, Title: title(r), Verdict: strings.ToUpper(string(r.Verdict)), Omitted: map[string]string{}}
	v.Mark = map[Outcome]string{Passed: "✓", Failed: "✗"}[r.Verdict]
	v.Mark = cmp.Or(v.Mark, "?")
	v.About = strings.Join(slices.DeleteFunc([]string{r.Client, "device " + r.Device, "target " + r.Target, date(r)}, func(s string) bool { return strings.TrimSpace(s) == "" }), " · ")
	for i, f := range r.Findings {
		if f.Text == r.Reason {
			continue
		}
		if i >= mostFindings {
			v.Why = append(v.Why, fmt.Sprintf("and %d more", len(r.Findings)-i))
			break
		}
		v.Why = append(v.Why, f.Text)
	}
	v.Tiles = tiles(r)
	v.Picture = markup(inline(r, l))
	v.Caption = caption(r)
	v.Faults = faultRows(r)
	v.Budgets = slices.ContainsFunc(r.Recoveries, func(x Recovery) bool { return x.BudgetMs > 0 })
	v.leave("faults", len(v.Faults), l.rows)
	v.Faults = v.Faults[:min(len(v.Faults), l.rows)]
	v.Expected = expected(r)
	v.leave("expectations", len(v.Expected), l.rows)
	v.Expected = v.Expected[:min(len(v.Expected), l.rows)]
	v.leave("steps", len(r.Steps), l.rows)
	for _, s := range r.Steps[:min(len(r.Steps), l.rows)] {
		v.Steps = append(v.Steps, stepRow{s, offset(s.AtMs), ms(s.TookMs)})
	}
	for _, a := range r.Ledger {
		if a.Hub != "" && len(v.Hubs) < l.rows {
			v.Hubs = append(v.Hubs, a)
		}
		if a.Outbox != "" && len(v.Outboxes) < l.rows {
			v.Outboxes = append(v.Outboxes, a)
		}
	}
	v.Sum = sum(r)
	v.leave("decisions", len(r.Decisions), l.rows/4)
	for _, d := range r.Decisions[:min(len(r.Decisions), l.rows/4)] {
		v.Decided = append(v.Decided, decidedRow{d, offset(d.AtMs)})
	}
	v.Facts, v.Around = facts(r), around(r)
	if c := r.Comparison; c != nil {
		v.leave("rows", len(c.Rows), l.rows)
		v.Compared = &comparedView{*c, c.With.name(), runOf(r).name()}
		v.Compared.Rows = c.Rows[:min(len(c.Rows), l.rows)]
		if v.Compared.Then == v.Compared.Now {
			v.Compared.Then, v.Compared.Now = "earlier, "+day(c.With.RanAt, c.With.StartedAt), "now"
		}
	}
	return v
}

// Cut bounds a text from outside.
func (v view) Cut(s string) string { return plainText(s, v.cell) }

// Long bounds a sentence from outside.
func (v view) Long(s string) string { return plainText(s, 3*v.cell) }

// leave notes that a table shows only its first rows.
func (v *view) leave(table string, has, shown int) {
	if has > shown {
		v.Omitted[table] = fmt.Sprintf("%s more are in report.json.", count(uint64(has-shown)))
	}
}

// date says when a run took place: on the wall clock, not in virtual time.
func date(r Report) string { return day(r.RanAt, r.StartedAt) }

func day(ran, started time.Time) string {
	if ran.IsZero() {
		ran = started
	}
	if ran.IsZero() {
		return ""
	}
	return ran.UTC().Format("2 January 2006")
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// offset writes an offset as a table has it.
func offset(n int64) string {
	d := time.Duration(n) * time.Millisecond
	switch {
	case n < 120_000:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case n < 2*3600_000:
		return fmt.Sprintf("%d:%02d min", n/60_000, n/1000%60)
	default:
		return fmt.Sprintf("%d:%02d:%02d h", n/3600_000, n/60_000%60, n/1000%60)
	}
}

func tiles(r Report) []tile {
	worst := tile{Name: "Slowest recovery", Value: ms(r.RTO.WorstMs), Note: "no budget is set", Share: -1}
	switch {
	case len(r.Recoveries) == 0:
		worst.Value, worst.Note = "–", "no fault that a device has to come back from"
	case openOnes(r) > 0:
		worst.Value, worst.Bad = "never", true
		worst.Note = fmt.Sprintf("not back after %d of %s", openOnes(r), faults(len(r.Recoveries)))
	case r.Timed() == 0:
		worst.Value, worst.Note = "–", "the device was back before the end of each fault"
	case r.RTO.BudgetMs > 0:
		worst.Share = 100 * float64(r.RTO.WorstMs) / float64(r.RTO.BudgetMs)
		worst.Note, worst.Bad = "budget (RTO) "+ms(r.RTO.BudgetMs), r.RTO.WorstMs > r.RTO.BudgetMs
	}
	lost := tile{Name: "Samples lost", Value: count(r.RPO.Lost), Share: -1, Bad: r.RPO.Lost > r.RPO.Budget,
		Note: fmt.Sprintf("of %s made; budget (RPO) %s", count(r.Samples.Made), count(r.RPO.Budget))}
	if r.Verdict == Unknown && r.Samples.Made == 0 {
		lost.Value, lost.Note = "–", "nothing is known of any sample"
	}
	twice := tile{Name: "Arrived again", Value: count(r.Samples.Duplicated), Share: -1, Note: "same message id, so a consumer can drop them"}
	if r.Samples.Reordered > 0 {
		twice.Note = fmt.Sprintf("%s samples arrived behind newer ones", count(r.Samples.Reordered))
	}
	held := 0
	for _, e := range r.Expectations {
		if e.Held {
			held++
		}
	}
	met := tile{Name: "Expectations met", Value: fmt.Sprintf("%d of %d", held, len(r.Expectations)), Share: -1, Bad: held < len(r.Expectations),
		Note: fmt.Sprintf("%d of %d commands answered", r.Commands.Answered, r.Commands.Sent)}
	if r.Commands.Sent == 0 {
		met.Note = "no command was sent"
	}
	return []tile{worst, lost, twice, met}
}

func caption(r Report) string {
	s := "Links of the device per hub, the faults, what arrived each second, and what waited on the device, over the time of the run."
	if r.Speed == "virtual" {
		s += " The run used virtual time: the clock of all programs jumps to the next thing that happens."
	}
	if r.Proof == ByAcknowledgements {
		s += " The target has no ledger, so nothing is known of what arrived; the samples are judged by what the device counts."
	}
	return s
}

func faultRows(r Report) (rows []faultRow) {
	longest := r.RTO.BudgetMs
	for _, x := range r.Recoveries {
		longest = max(longest, x.FirstPubackMs, x.BudgetMs)
	}
	for _, x := range r.Recoveries {
		budget, limit := cmp.Or(x.BudgetMs, r.RTO.BudgetMs), r.RTO.BudgetMs
		if x.BudgetMs > 0 && (limit == 0 || x.BudgetMs < limit) {
			limit = x.BudgetMs
		}
		row := faultRow{Recovery: x, Detected: known(x.DetectedMs), Assigned: known(x.AssignedMs), Connected: known(x.ConnectedMs), Back: back(x),
			Budget: known(budget), Limit: known(limit), OK: !x.Open && (limit == 0 || x.FirstPubackMs <= limit) && x.Lost == 0}
		row.Bar = bar(x, budget, longest)
		rows = append(rows, row)
	}
	return rows
}

// known writes a time that may not be known.
func known(n int64) string {
	if n == 0 {
		return "–"
	}
	return ms(n)
}

// bar draws the parts of one recovery, and its budget as a line.
func bar(x Recovery, budget, longest int64) markup {
	const wide, high = 84.0, 12.0
	if longest == 0 || x.Open {
		return ""
	}
	c := &canvas{}
	c.raw(`<svg class="bar" viewBox="0 0 %s %s" width="%s" height="%s" aria-hidden="true">`, num(wide+2), num(high), num(wide+2), num(high))
	from := int64(0)
	for i, to := range []int64{x.DetectedMs, x.AssignedMs, x.ConnectedMs, x.FirstPubackMs} {
		if to <= from {
			continue
		}
		a, b := wide*float64(from)/float64(longest), wide*float64(to)/float64(longest)
		c.rect(fmt.Sprintf("p%d", i), a, 2, b-a, high-4, 0, "")
		from = to
	}
	if budget > 0 {
		at := wide * float64(budget) / float64(longest)
		c.line("limit", at, 0, at, high)
	}
	c.raw("</svg>")
	return markup(c.b.String())
}

// expected puts what was not held first.
func expected(r Report) []Expectation {
	all := slices.Clone(r.Expectations)
	slices.SortStableFunc(all, func(a, b Expectation) int {
		switch {
		case a.Held == b.Held:
			return 0
		case b.Held:
			return -1
		}
		return 1
	})
	return all
}

// sum says how the numbers of the ledger belong together.
func sum(r Report) string {
	s := r.Samples
	distinct := s.Received - min(s.Duplicated, s.Received)
	text := fmt.Sprintf("%s messages received − %s that had arrived before = %s samples; %s samples made, %s lost", count(s.Received), count(s.Duplicated),
		count(distinct), count(s.Made), count(s.Lost))
	if known := distinct + s.Lost; known < s.Made {
		text += fmt.Sprintf(", %s still waiting on the device or given up and announced", count(s.Made-known))
	}
	return text + "."
}

func facts(r Report) []fact {
	all := []fact{{"Scenario", r.Scenario}, {"Seed", fmt.Sprint(r.Seed)}, {"Device", r.Device}, {"Program under test", r.Client}, {"Target", r.Target}}
	if !r.RanAt.IsZero() {
		all = append(all, fact{"Carried out", stamp(r.RanAt)})
	}
	lasted := r.EndedAt.Sub(r.StartedAt).Milliseconds()
	if r.Speed == "virtual" {
		all = append(all, fact{"Lasted", fmt.Sprintf("%s of virtual time, from %s", offset(lasted), stamp(r.StartedAt))})
	} else {
		all = append(all, fact{"Began", stamp(r.StartedAt)}, fact{"Ended", stamp(r.EndedAt)}, fact{"Lasted", offset(lasted)})
	}
	if r.WallMs > 0 {
		all = append(all, fact{"Took on the wall clock", ms(r.WallMs)})
	}
	judged := "the ledger of what the hubs received"
	if r.Proof == ByAcknowledgements {
		judged = "what the device counts as acknowledged by hubs; the target has no ledger"
	}
	all = append(all, fact{"Judged by", judged})
	if h := r.History; h != nil {
		all = append(all, fact{"History", fmt.Sprintf("%s lines, the last one with the sum %s", count(h.Lines), h.Sum)})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.Value == "" })
}

// around are the versions and the surroundings, by name.
func around(r Report) (all []fact) {
	for _, m := range []map[string]string{r.Versions, r.Environment} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if len(all) < mostAround {
				all = append(all, fact{k, m[k]})
			}
		}
	}
	return all
}
