package report

import (
	"fmt"
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
	if n := r.Timed(); n > 0 {
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
		if x.Early {
			fmt.Fprintf(&b, " %s: on %s, where it was before.", x.Fault, x.To)
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
	case x.Early:
		return "before its end"
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
