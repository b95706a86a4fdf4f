package report

import (
	"bytes"
	_ "embed" // the look of the page
	"fmt"
	"html"
	"io"
)

// maxPage bounds the page, in bytes.
const maxPage = 1 << 20

//go:embed page.css
var pageStyle string

// HTML writes the report as one page. It needs no other file, no network and no script, and has
// less than 1 MB.
func HTML(w io.Writer, r Report) error {
	var p page
	for _, l := range bounds {
		p = page{view: newView(r, l)}
		p.write()
		if p.b.Len() < maxPage {
			break
		}
	}
	_, err := w.Write(p.b.Bytes())
	return err
}

// page is a report that is being written as HTML. Plain Go writes it: html/template calls methods
// by names that the linker cannot know, so a program with it keeps each exported method of each
// type, which is a fifth of its size.
type page struct {
	view
	b bytes.Buffer
}

// markup is HTML that is complete: no text from outside is in it that was not escaped.
type markup string

// add writes HTML. The format is markup, and each argument a text for %v, in an element or between
// double quotes: it is escaped unless it is markup itself.
func (p *page) add(format string, texts ...any) {
	for i, text := range texts {
		if m, ok := text.(markup); ok {
			texts[i] = string(m)
		} else {
			texts[i] = html.EscapeString(fmt.Sprint(text))
		}
	}
	fmt.Fprintf(&p.b, format, texts...)
}

// chosen is what is said of something that is right, or of what is wrong.
func chosen(right bool, yes, no string) markup {
	if right {
		return markup(`<span class="yes">` + html.EscapeString(yes) + `</span>`)
	}
	return markup(`<span class="no">` + html.EscapeString(no) + `</span>`)
}
