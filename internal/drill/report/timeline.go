package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

const mostColumns = 160 // of a chart

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
		if x.Early && !x.Open {
			continue
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
