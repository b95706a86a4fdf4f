package model

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"text/tabwriter"
)

// Describe writes the model for a person to read: the device's own Interface with what it inherits,
// one line for each content, then its components, then the other Interfaces at the top of the file.
// The same file always gives the same text. The error is that of the writer.
func (m *Model) Describe(w io.Writer) error {
	var text bytes.Buffer
	out := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	m.root.describe(out, "")
	for _, c := range m.root.flat {
		if c.kind == componentKind {
			fmt.Fprintf(out, "\ncomponent %s: ", c.name)
			c.component.describe(out, c.name+"*")
		}
	}
	for _, i := range m.order {
		if i != m.root && !i.referred {
			fmt.Fprintf(out, "\nalso in the file: %s\n", i.title())
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(trailing().ReplaceAll(text.Bytes(), nil))
	return err
}

// trailing matches the blanks that the table leaves behind its last filled cell.
var trailing = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m) +$`) })

func (i *iface) title() string {
	if i.display == "" {
		return i.id
	}
	return i.id + " (" + oneLine(i.display) + ")"
}

func (i *iface) describe(w io.Writer, prefix string) {
	fmt.Fprintln(w, i.title())
	for _, c := range i.flat {
		schema, note := c.words()
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", strings.ToLower(c.kind), prefixed(prefix, c), schema, note, oneLine(c.display))
	}
	for _, what := range i.ignored {
		fmt.Fprintf(w, "  ignored\t%s\t\t\t\n", what)
	}
}

// prefixed is the name by which the cloud calls a content. Only a command has its component in it.
func prefixed(prefix string, c *content) string {
	if c.kind == commandKind {
		return prefix + c.name
	}
	return c.name
}

func (c *content) words() (schema, note string) {
	switch c.kind {
	case propertyKind:
		if c.writable {
			return c.schema.String(), "writable"
		}
		return c.schema.String(), "read-only"
	case telemetryKind:
		return c.schema.String(), ""
	case componentKind:
		return c.component.id, ""
	case commandKind:
		if c.request != nil {
			schema = c.request.String()
		}
		if c.response != nil {
			schema = strings.TrimSpace(schema + " → " + c.response.String())
		}
		if c.durable {
			note = "durable"
		}
	}
	return schema, note
}

// oneLine keeps a display name from breaking the table.
func oneLine(s string) string { return printable(strings.Join(strings.Fields(s), " ")) }
