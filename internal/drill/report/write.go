package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// JSON writes the report as one indented JSON document.
func JSON(w io.Writer, r Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// SVG writes the time line as a picture; see [Picture].
func SVG(w io.Writer, r Report) error {
	_, err := w.Write(Picture(r))
	return err
}

// Files are the names of what Write writes, beside [HistoryFile].
var Files = []string{"report.html", "report.md", "report.json", "junit.xml", "timeline.svg"}

// Write writes the report into dir, which it makes: report.html, report.md, report.json,
// junit.xml and timeline.svg. A file is there whole or not at all, and an earlier one stays until
// then. Write tries each file, and returns what went wrong with each.
func Write(dir string, r Report) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("report: %w; name another directory", err)
	}
	var all []error
	for i, write := range []func(io.Writer, Report) error{HTML, Markdown, JSON, JUnit, SVG} {
		if err := replace(filepath.Join(dir, Files[i]), func(w io.Writer) error { return write(w, r) }); err != nil {
			all = append(all, fmt.Errorf("report: %s is not written: %w", Files[i], err))
		}
	}
	return errors.Join(all...)
}

// replace writes a file beside its place, and then puts it there.
func replace(path string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		_ = os.Remove(part)
	}
	return err
}
