package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// The measures of the picture.
const (
	picWidth  = 960.0
	picLeft   = 104.0 // where the names end
	picRight  = 20.0
	laneHigh  = 30.0
	rateHigh  = 84.0
	stockHigh = 64.0
	between   = 26.0
	charWide  = 6.3 // of a small text
)

const mostColumns = 160 // of a chart

// limits bound what a page shows, so that it stays below 1 MB.
type limits struct {
	rows  int // of a table
	cell  int // characters of a text in it
	drawn int // elements of one kind in the picture
	text  int // characters of a text in it
}

// bounds are the limits, the wide ones first. Narrower ones are for a report whose texts are as
// long as they can be.
var bounds = []limits{{400, 300, 400, 200}, {150, 120, 150, 80}, {40, 80, 60, 40}}

// style is the look of the picture. The colours are those of the page if it has some.
const style = `
.hh{--ink:#1f2328;--soft:#59636e;--rule:#d8dee4;--paper:#fff;--link:#2f6fbb;--fault:#c4342d;--back:#9a6700;--rate:#1a7f75;--stock:#8250b8;--good:#1a7f37}
@media (prefers-color-scheme:dark){.hh{--ink:#e6edf3;--soft:#9aa5b1;--rule:#30363d;--paper:#11161d;--link:#6cb0f5;--fault:#ff8078;--back:#e3b341;--rate:#4fd1c0;--stock:#c69cf4;--good:#56d364}}
@media print{.hh{--ink:#1f2328;--soft:#59636e;--rule:#d8dee4;--paper:#fff;--link:#2f6fbb;--fault:#c4342d;--back:#9a6700;--rate:#1a7f75;--stock:#8250b8;--good:#1a7f37}}
.hh text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:var(--ink)}
.hh .s{font-size:11px;fill:var(--soft)}
.hh .f{font-size:11px;fill:var(--fault)}
.hh .b{font-size:11px;font-weight:600;fill:var(--back)}
.hh .h{font-size:17px;font-weight:600}
.hh .g{font-size:15px;font-weight:700;fill:var(--good)}
.hh .r{font-size:15px;font-weight:700;fill:var(--fault)}
.hh .card{fill:var(--paper);stroke:var(--rule)}
.hh .grid{stroke:var(--rule);stroke-width:1}
.hh .link{fill:var(--link)}
.hh .prov{fill:var(--link);opacity:.5}
.hh .fault{fill:url(#hh-hatch);stroke:var(--fault);stroke-width:1}
.hh .down{fill:var(--back);opacity:.16}
.hh .edge{stroke:var(--back);stroke-width:1;stroke-dasharray:3 3}
.hh .rate{fill:var(--rate);fill-opacity:.28;stroke:var(--rate);stroke-width:1.3}
.hh .stock{fill:var(--stock);fill-opacity:.28;stroke:var(--stock);stroke-width:1.3}
.hh .mark{fill:var(--ink)}
.hh .hatch{stroke:var(--fault);stroke-width:1.6}
`

// picture is a time line that is being drawn.
type picture struct {
	*canvas
	scale
	limits
	r Report
	y float64 // where the next part begins
}

// Picture draws the time line of a run as an SVG document of its own, with the verdict above it.
// Links are bars on the row of their hub, faults are hatched bars, and the time until telemetry
// flows again is shaded through all rows. The same report always makes the same picture.
func Picture(r Report) []byte {
	p := newPicture(r, bounds[0])
	p.y = 74
	p.timeline()
	height := p.y + 30
	out := &canvas{most: p.limits.text}
	open(out, height, r)
	out.rect("card", 0.5, 0.5, picWidth-1, height-1, 10, "")
	out.text("h", 20, 32, "start", fit(title(r), picWidth-180, 9.4))
	class := "r"
	if r.Verdict == Passed {
		class = "g"
	}
	out.text(class, picWidth-20, 32, "end", strings.ToUpper(string(r.Verdict)))
	out.text("s", 20, 52, "start", fit(headline(r), picWidth-40, 6))
	out.b.WriteString(p.b.String())
	p.legend(out, height-14)
	out.raw("</svg>\n")
	return []byte(out.b.String())
}

// inline draws the time line for the page, which has a heading and a legend already.
func inline(r Report, l limits) string {
	p := newPicture(r, l)
	p.y = 8
	p.timeline()
	out := &canvas{most: l.text}
	open(out, p.y+24, r)
	out.b.WriteString(p.b.String())
	p.legend(out, p.y+16)
	out.raw("</svg>\n")
	return out.b.String()
}

func open(c *canvas, height float64, r Report) {
	c.raw(`<svg class="hh" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" role="img" aria-labelledby="hh-title hh-desc">`+"\n",
		num(picWidth), num(height), num(picWidth), num(height))
	c.raw("<title id=\"hh-title\">%s</title>\n<desc id=\"hh-desc\">%s</desc>\n", escape(title(r)+": time line", c.most), escape(describe(r), 4*c.most))
	c.raw("<style>%s</style>\n", style)
	c.raw(`<defs><pattern id="hh-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>` + "\n")
}

// title names a run.
func title(r Report) string {
	switch {
	case r.Title != "":
		return r.Title
	case r.Scenario != "":
		return r.Scenario
	}
	return "drill"
}

// headline says the result in one line.
func headline(r Report) string {
	parts := []string{fmt.Sprintf("%s samples made, %s lost, %s duplicated", count(r.Samples.Made), count(r.Samples.Lost), count(r.Samples.Duplicated))}
	if n := len(r.Recoveries); n > 0 {
		parts = append(parts, fmt.Sprintf("telemetry flowed again after each of %s in %s at most", faults(n), ms(r.RTO.WorstMs)))
		if open := openOnes(r); open > 0 {
			parts[1] = fmt.Sprintf("after %d of %s telemetry never flowed again", open, faults(n))
		}
	}
	return strings.Join(parts, " · ")
}

func faults(n int) string {
	if n == 1 {
		return "1 fault"
	}
	return fmt.Sprintf("%d faults", n)
}

func openOnes(r Report) (n int) {
	for _, x := range r.Recoveries {
		if x.Open {
			n++
		}
	}
	return n
}

// describe says in words what the picture shows.
func describe(r Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Verdict %s. %s.", r.Verdict, headline(r))
	for i, x := range r.Recoveries {
		if i == 8 {
			fmt.Fprintf(&b, " And %d more.", len(r.Recoveries)-i)
			break
		}
		if x.Open {
			fmt.Fprintf(&b, " %s on %s: not back.", x.Fault, x.From)
			continue
		}
		fmt.Fprintf(&b, " %s: from %s to %s in %s.", x.Fault, x.From, x.To, back(x))
	}
	return b.String()
}

// back writes the time of a recovery.
func back(x Recovery) string {
	switch {
	case x.Open:
		return "never"
	case x.FirstPubackMs == 0:
		return "at once"
	}
	return ms(x.FirstPubackMs)
}

func ms(n int64) string { return journal.Duration(time.Duration(n) * time.Millisecond) }

func newPicture(r Report, l limits) *picture {
	total := r.EndedAt.Sub(r.StartedAt).Milliseconds()
	for _, spans := range [][]Span{r.Links, r.Faults} {
		for _, s := range spans {
			total = max(total, s.UntilMs)
		}
	}
	for _, x := range r.Recoveries {
		total = max(total, x.AtMs+x.FirstPubackMs)
	}
	const longest = 100 * 365 * 24 * 3600_000 // a file may claim anything
	total = min(total, longest)
	return &picture{canvas: &canvas{most: l.text}, limits: l, scale: scale{picLeft, picWidth - picLeft - picRight, max(total, 1)}, r: r}
}

// timeline draws all rows, and moves y to their end.
func (p *picture) timeline() {
	top := p.y
	behind := p.canvas
	p.canvas = &canvas{most: p.most} // what is shaded lies behind the rows, so the rows are drawn aside
	for _, lane := range p.lanes() {
		p.lane(lane)
	}
	p.decisions()
	chartsAt := p.y
	p.chart("rate", "messages/s", rateHigh, p.rates(), true)
	p.chart("stock", "waiting", stockHigh, p.stocks(), false)
	bottom := p.y - between + 8
	p.axis(bottom)
	rows := p.canvas
	p.canvas = behind
	p.shades(top, bottom, chartsAt)
	p.b.WriteString(rows.b.String())
	p.y = bottom + 30
}

// lanes names the rows: the hubs, and other places that had a fault.
func (p *picture) lanes() []string {
	lanes := slices.Clone(p.r.Hubs)
	for _, spans := range [][]Span{p.r.Links, p.r.Faults} {
		for _, s := range spans {
			if !slices.Contains(lanes, s.Where) && s.Where != "" {
				lanes = append(lanes, s.Where)
			}
		}
	}
	const most = 12
	return lanes[:min(len(lanes), most)]
}

func (p *picture) lane(name string) {
	mid := p.y + laneHigh/2
	p.canvas.text("", picLeft-12, mid+4, "end", fit(name, picLeft-16, 6.8))
	p.line("grid", p.left, mid, p.left+p.width, mid)
	faults := p.joined(p.r.Faults, name)
	for _, s := range faults {
		p.rect("fault", p.x(s.FromMs), mid-11, p.wide(s), 22, 2, fmt.Sprintf("%s: %s, from %s for %s", s.Where, s.What, ms(s.FromMs), ms(s.UntilMs-s.FromMs)))
	}
	for _, s := range p.joined(p.r.Links, name) {
		class := "link"
		if s.Provisional {
			class = "prov"
		}
		p.rect(class, p.x(s.FromMs), mid-5, max(p.x(s.UntilMs)-p.x(s.FromMs), 1.5), 10, 2, fmt.Sprintf("link to %s, from %s for %s", s.Where, ms(s.FromMs), ms(s.UntilMs-s.FromMs)))
	}
	for i, s := range faults { // the words come last, and a plate keeps them readable
		x, w, label := p.x(s.FromMs), p.wide(s), plainText(s.What, p.most)
		wide := widthOf(label, charWide) + 10
		end := p.left + p.width
		if i+1 < len(faults) {
			end = p.x(faults[i+1].FromMs)
		}
		switch {
		case wide < w:
			p.rect("card", x+w/2-wide/2, mid-8, wide, 16, 3, "")
			p.canvas.text("f", x+w/2, mid+4, "middle", label)
		case x+w+wide < end:
			p.canvas.text("f", x+w+4, mid+4, "start", label)
		}
	}
	p.y += laneHigh
}

// wide is how wide the bar of a fault is. One that is over at once can still be seen.
func (p *picture) wide(s Span) float64 { return max(p.x(s.UntilMs)-p.x(s.FromMs), 3) }

// joined are the spans of one row. Where there are too many, spans that nobody could tell apart
// become one.
func (p *picture) joined(spans []Span, where string) (all []Span) {
	gap := int64(0)
	if len(spans) > p.drawn {
		gap = p.total / int64(p.drawn)
	}
	for _, s := range spans {
		if s.Where != where {
			continue
		}
		if n := len(all); n > 0 && gap > 0 && s.FromMs-all[n-1].UntilMs <= gap && s.What == all[n-1].What {
			all[n-1].UntilMs = max(all[n-1].UntilMs, s.UntilMs)
			continue
		}
		all = append(all, s)
	}
	return all[:min(len(all), p.drawn)]
}

// decisions draws the marks, with the rules where there is room.
func (p *picture) decisions() {
	if len(p.r.Decisions) == 0 {
		p.y += 14
		return
	}
	mid := p.y + laneHigh/2
	p.canvas.text("", picLeft-12, mid+4, "end", "decisions")
	free, shown := p.left-100, p.left-100
	for i, d := range p.r.Decisions {
		x, next := p.x(d.AtMs), p.left+p.width
		for _, after := range p.r.Decisions[i+1:] {
			if at := p.x(after.AtMs); at-x >= 2 { // it has a mark of its own
				next = at - 5
				break
			}
		}
		if x-shown < 2 {
			continue
		}
		shown = x
		p.raw(`<path class="mark" d="M%s %sl4 5l-4 5l-4 -5z"><title>%s</title></path>`+"\n", num(x), num(mid-5), escape(fmt.Sprintf("%s after %s: %s", d.Rule, ms(d.AtMs), d.Text), p.most))
		if label := fit(d.Rule, 60, charWide); x-6 >= free && label != "" && x+8+widthOf(label, charWide) < next {
			p.canvas.text("s", x+7, mid+4, "start", label)
			free = x + 14 + widthOf(label, charWide)
		}
	}
	p.y += laneHigh + 14
}

// shades draws the time between each fault and the first telemetry after it.
func (p *picture) shades(top, bottom, chartsAt float64) {
	free, edge := p.left-100, p.left-100
	for i, x := range p.r.Recoveries {
		if i == p.drawn {
			break
		}
		end, word := x.AtMs+x.FirstPubackMs, back(x)
		if x.Open {
			end, word = p.total, "not back"
		}
		from, to := p.x(x.AtMs), p.x(end)
		p.rect("down", from, top, max(to-from, 1.5), bottom-top, 0, fmt.Sprintf("%s: %s, telemetry again after %s", x.Step, x.Fault, word))
		if from-edge > 5 { // lines that touch would hide the rest
			p.line("edge", from, top, from, bottom)
			edge = from
		}
		if wide := widthOf(word, charWide); from-2 >= free && from+wide < p.left+p.width {
			p.canvas.text("b", from+3, chartsAt-3, "start", word)
			free = from + wide + 10
		}
	}
}

// rates are the messages a second, in columns.
func (p *picture) rates() []float64 {
	return p.columns(func(points []Point, stepMs int64) float64 {
		n := uint64(0)
		for _, x := range points {
			n += x.Arrived
		}
		return float64(n) * 1000 / float64(stepMs*int64(len(points)))
	})
}

// stocks are the samples that waited, in columns.
func (p *picture) stocks() []float64 {
	return p.columns(func(points []Point, _ int64) float64 {
		n := uint64(0)
		for _, x := range points {
			n = max(n, x.Backlog)
		}
		return float64(n)
	})
}

// columns joins the points of the series to columns that are wide enough to see.
func (p *picture) columns(value func([]Point, int64) float64) (all []float64) {
	s := p.r.Series
	if s == nil || s.StepMs <= 0 || len(s.Points) == 0 {
		return nil
	}
	k := int(p.columnMs() / s.StepMs)
	points := s.Points[:min(int64(len(s.Points)), p.total/s.StepMs+1)]
	for i := 0; i < len(points); i += k {
		all = append(all, value(points[i:min(i+k, len(points))], s.StepMs))
	}
	return all
}

// chart draws one series as an area with steps. mayCut says that peaks matter less than the rest.
func (p *picture) chart(class, label string, high float64, values []float64, mayCut bool) {
	base := p.y + high
	p.line("grid", p.left, base, p.left+p.width, base)
	top, cut := ceiling(values, mayCut)
	p.canvas.text("", picLeft-12, p.y+high/2+4, "end", label)
	p.canvas.text("s", picLeft-6, base+4, "end", "0")
	if len(values) == 0 || top == 0 {
		p.y = base + between
		return
	}
	p.canvas.text("s", picLeft-6, p.y+8, "end", short(top))
	p.line("grid", p.left, p.y+4, p.left+p.width, p.y+4)
	step := p.columnMs()
	var d strings.Builder
	fmt.Fprintf(&d, "M%s %s", num(p.left), num(base))
	at := func(v float64) float64 { return base - (high-4)*min(v, top)/top }
	for i, v := range values {
		if i == 0 || v != values[i-1] {
			fmt.Fprintf(&d, "V%s", num(at(v)))
		}
		if i == len(values)-1 || v != values[i+1] {
			fmt.Fprintf(&d, "H%s", num(p.x(int64(i+1)*step)))
		}
	}
	fmt.Fprintf(&d, "V%sZ", num(base))
	p.raw(`<path class="%s" d="%s"/>`+"\n", class, d.String())
	if cut {
		i := slices.Index(values, slices.Max(values))
		p.canvas.text("s", min(p.x(int64(i)*step)+8, p.left+p.width-60), p.y+15, "start", "↑ "+short(values[i]))
	}
	p.y = base + between
}

// columnMs is how much time a column of columns stands for.
func (p *picture) columnMs() int64 {
	s := p.r.Series
	wide := max(p.total/mostColumns, 500)
	if p.total >= 30_000 {
		wide = max(wide, 1000)
	}
	return max((wide+s.StepMs-1)/s.StepMs, 1) * s.StepMs
}

// ceiling is the value at the top of a chart. One peak must not make the rest flat: a chart is cut
// above four times its middle, and cut says so.
func ceiling(values []float64, mayCut bool) (top float64, cut bool) {
	var some []float64
	for _, v := range values {
		top = max(top, v)
		if v > 0 {
			some = append(some, v)
		}
	}
	if len(some) > 4 && mayCut {
		slices.Sort(some)
		if mid := some[len(some)/2]; top > 8*mid {
			return nice(4 * mid), true
		}
	}
	return nice(top), false
}

// nice rounds up to 1, 2 or 5 times a power of ten.
func nice(v float64) float64 {
	if v <= 0 {
		return 0
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if v <= m*p*1.0001 {
			return m * p
		}
	}
	return 10 * p
}

// axis draws the times below the rows.
func (p *picture) axis(y float64) {
	p.line("grid", p.left, y, p.left+p.width, y)
	tick := p.tick()
	for t := int64(0); t <= p.total; t += tick {
		x := p.x(t)
		p.line("grid", x, y, x, y+5)
		p.canvas.text("s", x, y+17, "middle", p.label(t))
	}
	p.canvas.text("s", picLeft-26, y+17, "end", p.unit())
}

// legend explains the marks.
func (p *picture) legend(c *canvas, y float64) {
	x := p.left
	item := func(wide float64, text string) {
		c.text("s", x+wide+6, y, "start", text)
		x += wide + 6 + widthOf(text, 5.9) + 22
	}
	c.rect("link", x, y-9, 18, 10, 2, "")
	item(18, "link to a hub")
	c.rect("fault", x, y-10, 18, 12, 2, "")
	item(18, "fault")
	c.rect("down", x, y-11, 18, 14, 0, "")
	c.line("edge", x, y-11, x, y+3)
	item(18, "from the fault until telemetry flows again")
	if len(p.r.Decisions) > 0 {
		c.raw(`<path class="mark" d="M%s %sl4 5l-4 5l-4 -5z"/>`+"\n", num(x+4), num(y-9))
		item(8, "decision of the device, with its rule")
	}
}
