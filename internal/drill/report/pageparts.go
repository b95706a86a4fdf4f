package report

import (
	"cmp"
	"fmt"
)

// write writes the whole page.
func (p *page) write() {
	p.head()
	p.summary()
	if len(p.Faults) > 0 {
		p.faults()
	}
	if len(p.Expected) > 0 {
		p.expected()
	}
	if p.Compared != nil {
		p.compared(p.Compared)
	}
	p.ledger()
	if len(p.Steps) > 0 {
		p.steps()
	}
	if len(p.Decided) > 0 {
		p.decisions()
	}
	p.run()
}

func (p *page) head() {
	p.add(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="generator" content="hubhop drill">
<title>%v: %v</title>
<style>
%v</style>
</head>
<body>
<main>
<header>
<p class="kind">Failover drill report</p>
<h1>%v</h1>
<p class="about">%v</p>
</header>
`, p.Verdict, p.Cut(p.Title), markup(pageStyle), p.Cut(p.Title), p.Cut(p.About))
}

// summary is what a reader looks for first: the verdict and its reasons, four figures, the picture.
func (p *page) summary() {
	p.add(`<section class="verdict %v" aria-label="Verdict">
<span class="mark" aria-hidden="true">%v</span>
<div><strong>%v</strong><p>%v</p></div>
</section>
`, p.R.Verdict, p.Mark, p.Verdict, p.Long(p.R.Reason))
	if len(p.Why) > 0 {
		p.add(`<ul class="why">`)
		for _, why := range p.Why {
			p.add("<li>%v</li>", p.Long(why))
		}
		p.add("</ul>")
	}
	p.add("\n<section class=\"tiles\" aria-label=\"Figures\">\n")
	for _, t := range p.Tiles {
		class := ""
		if t.Bad {
			class = " bad"
		}
		p.add(`<div class="tile%v"><div class="name">%v</div><div class="value">%v</div>`, class, t.Name, t.Value)
		if t.Share >= 0 {
			p.add(`<div class="meter"><svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect width="%v" height="6"/></svg></div>`, fmt.Sprintf("%.1f", t.Share))
		}
		p.add("<div class=\"note\">%v</div></div>\n", t.Note)
	}
	p.add("</section>\n")
	if p.R.Description != "" {
		p.add(`<p style="margin-top:1.2rem">%v</p>`, p.Long(p.R.Description))
	}
	p.add(`
<h2>The course of the run</h2>
<figure>%v<figcaption>%v</figcaption></figure>
`, p.Picture, p.Caption)
}

// table begins a table that may be too wide for the page.
func (p *page) table(columns markup) {
	p.add("<div class=\"scroll\"><table>\n<thead><tr>%v</tr></thead>\n<tbody>\n", columns)
}

// end ends a table, and says what it leaves out.
func (p *page) end(table string) {
	p.add("</tbody></table></div>\n")
	if left := p.Omitted[table]; left != "" {
		p.add("<p class=\"note\">%v</p>\n", left)
	}
}

// when is a column that a table has only sometimes.
func when(shown bool, column markup) markup {
	if shown {
		return column
	}
	return ""
}

func (p *page) faults() {
	p.add(`
<h2>Recovery after each fault</h2>
<p class="note">Times count from the fault. Telemetry is back with the first message that a hub has acknowledged.`)
	if p.R.RTO.BudgetMs != 0 && !p.Budgets {
		p.add(" The budget is %v for each.", ms(p.R.RTO.BudgetMs))
	}
	p.add(`</p>
<div class="scroll"><table class="faults">
<thead><tr><th>Step</th><th>Fault</th><th>Hub</th><th class="n">noticed</th><th class="n">assigned</th><th class="n">connected</th><th class="n">telemetry</th>%v`+
		`<th></th><th class="n">lost</th><th class="n">again</th><th></th></tr></thead>
<tbody>
`, when(p.Budgets, `<th class="n">budget</th>`))
	for _, f := range p.Faults {
		p.add(`<tr><th scope="row">%v</th><td class="a">%v</td><td class="h">%v → %v</td>`, p.Cut(f.Step), p.Cut(f.Fault), p.Cut(f.From), cmp.Or(p.Cut(f.To), "–"))
		p.add(`<td class="n">%v</td><td class="n">%v</td><td class="n">%v</td><td class="n"><b>%v</b></td>`, f.Detected, f.Assigned, f.Connected, f.Back)
		if p.Budgets {
			p.add(`<td class="n">%v</td>`, f.Budget)
		}
		p.add("<td class=\"w\">%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td>%v</td></tr>\n",
			f.Bar, count(f.Lost), count(f.Duplicated), chosen(f.OK, "✓ ok", "✗ no"))
	}
	p.end("faults")
	p.add(`<p class="note">
<span class="key"><svg width="10" height="10" aria-hidden="true"><rect class="p0" width="10" height="10"/></svg>to notice it</span>
<span class="key"><svg width="10" height="10" aria-hidden="true"><rect class="p1" width="10" height="10"/></svg>until a hub is assigned</span>
<span class="key"><svg width="10" height="10" aria-hidden="true"><rect class="p2" width="10" height="10"/></svg>to connect</span>
<span class="key"><svg width="10" height="10" aria-hidden="true"><rect class="p3" width="10" height="10"/></svg>to the first acknowledgement</span>
<span class="key"><svg width="4" height="12" aria-hidden="true"><line class="limit" x1="2" y1="0" x2="2" y2="12"/></svg>budget</span></p>
`)
}

func (p *page) expected() {
	p.add("\n<h2>What the scenario expects</h2>\n")
	p.table("<th>Step</th><th>Expected</th><th>Seen</th><th></th>")
	for _, x := range p.Expected {
		p.add("<tr><th scope=\"row\">%v</th><td>%v</td><td>%v</td><td>%v</td></tr>\n",
			p.Cut(x.Step), p.Cut(x.Text), p.Cut(x.Seen), chosen(x.Held, "✓ met", "✗ not met"))
	}
	p.end("expectations")
}

func (p *page) compared(c *comparedView) {
	client := ""
	if c.With.Client != "" {
		client = ", " + p.Cut(c.With.Client)
	}
	p.add(`
<h2>Compared with an earlier run</h2>
<p class="note">Earlier: %v, seed %v, device %v%v, target %v. %v better, %v worse. Recovery times that differ by less than 50 ms or 5 %% count as the same.</p>
`, p.Cut(c.With.Scenario), c.With.Seed, p.Cut(c.With.Device), client, p.Cut(c.With.Target), c.Better, c.Worse)
	p.add("<div class=\"scroll\"><table>\n<thead><tr><th></th><th class=\"n\">%v</th><th class=\"n\">%v</th><th></th></tr></thead>\n<tbody>\n", p.Cut(c.Then), p.Cut(c.Now))
	for _, r := range c.Rows {
		p.add(`<tr><th scope="row">%v</th><td class="n">%v</td><td class="n">%v</td><td>`, p.Cut(r.What), p.Cut(r.Then), p.Cut(r.Now))
		if r.Sign != 0 {
			p.add("%v", chosen(r.Sign > 0, "▲ better", "▼ worse"))
		} else {
			p.add(`<span class="note">%v</span>`, cmp.Or(p.Cut(r.Note), "same"))
		}
		p.add("</td></tr>\n")
	}
	p.end("rows")
}

func (p *page) ledger() {
	p.add("\n<h2>Ledger</h2>\n<p>%v</p>\n", p.Sum)
	const begin = `<div class="scroll keep"><table>
<thead><tr>%v</tr></thead>
<tbody>
`
	if len(p.Hubs) > 0 {
		p.add(begin, markup(`<th>Hub</th><th class="n">received</th><th class="n">samples</th><th class="n">arrived again</th><th class="n">behind newer</th><th>first and last message id</th>`))
		for _, a := range p.Hubs {
			last := ""
			if a.Last != "" {
				last = " … " + p.Cut(a.Last)
			}
			p.add("<tr><th scope=\"row\">%v</th><td class=\"n\">%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td class=\"id\">%v%v</td></tr>\n",
				p.Cut(a.Hub), count(a.Received), count(a.Distinct), count(a.Duplicated), count(a.Reordered), p.Cut(a.First), last)
		}
		p.end("")
	}
	if len(p.Outboxes) > 0 {
		p.add(begin, markup(`<th>Outbox</th><th class="n">samples</th><th class="n">waiting</th><th class="n">announced as missing</th><th class="n">lost</th><th>lost message ids</th>`))
		for _, a := range p.Outboxes {
			p.add("<tr><td class=\"id\">%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td class=\"id\">%v</td></tr>\n",
				p.Cut(a.Outbox), count(a.Distinct), count(a.Queued), count(a.Announced), count(a.Lost), cmp.Or(p.Cut(a.LostIDs), "none"))
		}
		p.end("")
	}
}

func (p *page) steps() {
	p.add("\n<h2>Steps</h2>\n")
	p.table(`<th>Step</th><th>What was done</th><th class="n">at</th><th class="n">took</th><th></th>`)
	for _, s := range p.Steps {
		p.add("<tr><th scope=\"row\">%v</th><td>%v</td><td class=\"n\">%v</td><td class=\"n\">%v</td><td>%v</td></tr>\n",
			p.Cut(s.Name), p.Cut(s.Text), s.At, s.Took, chosen(s.Held, "✓ ok", "✗ no"))
	}
	p.end("steps")
}

func (p *page) decisions() {
	p.add(`
<h2>Decisions of the device</h2>
<p class="note"><code>hubhop explain RULE</code> says what a rule is and why.</p>
`)
	p.table(`<th class="n">at</th><th>Rule</th><th>Hub</th><th>What it decided</th>`)
	for _, d := range p.Decided {
		p.add(`<tr><td class="n">%v</td><td class="w">%v</td><td>%v</td><td>%v`, d.At, p.Cut(d.Rule), p.Cut(d.Hub), p.Cut(d.Text))
		if d.Times > 1 {
			p.add(` <span class="note">(%v times)</span>`, count(d.Times))
		}
		p.add("</td></tr>\n")
	}
	p.end("decisions")
}

// run says what ran where, and how the report can be checked.
func (p *page) run() {
	p.add("\n<div class=\"two\">\n")
	p.list("The run", p.Facts)
	if len(p.Around) > 0 {
		p.list("Versions and surroundings", p.Around)
	}
	history := ""
	if p.R.History != nil {
		history = "It prints the number of lines and the sum of the last line, which must be the ones under “The run”. "
	}
	p.add(`</div>
<section class="keep">
<h2>How to check this report</h2>
<p>The file <code>history.jsonl</code> beside this page holds every event of the run and every message id that arrived. This command repeats the verdict from it, without the run:</p>
<pre>hubhop drill verify history.jsonl</pre>
<p class="note">%vA line that was changed, removed, doubled or moved breaks the chain of sums, and the verdict is then “unknown”.
Passed: each budget and expectation was met, and every sample that was made is accounted for. Failed: one was not. Unknown: the proof itself failed. A recovery time runs from the fault to the first acknowledged message; the RTO is its budget. The RPO is how many samples may be lost.</p>
</section>
<div class="sign"><div>Carried out by: name, date, signature</div><div>Reviewed by: name, date, signature</div></div>
</main>
</body>
</html>
`, history)
}

func (p *page) list(title string, facts []fact) {
	p.add(`<section class="keep"><h2>%v</h2><dl>`, title)
	for _, f := range facts {
		p.add("<dt>%v</dt><dd>%v</dd>", p.Cut(f.Name), p.Cut(f.Value))
	}
	p.add("</dl></section>\n")
}
