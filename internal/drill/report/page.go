package report

import (
	"bytes"
	_ "embed" // the template of the page
	"html/template"
	"io"
	"sync"
)

// maxPage bounds the page, in bytes.
const maxPage = 1 << 20

//go:embed page.html
var pageText string

// page is the page of a report. The template escapes each text from outside for its place.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Funcs(template.FuncMap{"count": count, "ms": ms}).Parse(pageText))
})

// HTML writes the report as one page. It needs no other file, no network and no script, and has
// less than 1 MB.
func HTML(w io.Writer, r Report) error {
	var b bytes.Buffer
	for _, l := range bounds {
		b.Reset()
		if err := page().Execute(&b, newView(r, l)); err != nil {
			return err
		}
		if b.Len() < maxPage {
			break
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}
