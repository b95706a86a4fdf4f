package cli

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/plain"
)

// HelpWidth is how many characters a line of a help has at most.
const HelpWidth = 80

const flagColumn = 30 // where the descriptions of flags begin

// Group is a heading under which help lists flags.
type Group struct {
	Title    string
	Names    []string // in this order
	Prefixes []string // a flag that no group names is under the first group with a prefix of it
}

// groupOf returns the index of a flag's group. What no group claims is under the last one.
func groupOf(groups []Group, name string) int {
	for i, g := range groups {
		if slices.Contains(g.Names, name) {
			return i
		}
	}
	for i, g := range groups {
		if slices.ContainsFunc(g.Prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return i
		}
	}
	return len(groups) - 1
}

// Help prints what a command does and takes, with its flags under the headings of groups. The last
// group takes the flags that no other one claims.
func Help(w io.Writer, c *cobra.Command, groups []Group) {
	var b strings.Builder
	text := c.Long
	if text == "" {
		text = c.Short
	}
	b.WriteString(reflow(text))
	b.WriteString("\n\nUsage:\n")
	if c.Runnable() && !c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", c.CommandPath())
	}
	if c.Example != "" {
		b.WriteString("\nExamples:\n")
		for line := range strings.SplitSeq(c.Example, "\n") {
			b.WriteString(breakCommand(line) + "\n")
		}
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				b.WriteString(hang("  "+sub.Name(), sub.Short, 14))
			}
		}
	}
	flags := make([][]*pflag.Flag, len(groups))
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if i := groupOf(groups, f.Name); !f.Hidden {
			flags[i] = append(flags[i], f)
		}
	})
	for i, all := range flags {
		if len(all) == 0 {
			continue
		}
		slices.SortStableFunc(all, func(a, b *pflag.Flag) int {
			return slices.Index(groups[i].Names, a.Name) - slices.Index(groups[i].Names, b.Name)
		})
		fmt.Fprintf(&b, "\n%s:\n", groups[i].Title)
		for _, f := range all {
			b.WriteString(describe(f))
		}
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nMore of a command: %s COMMAND --help\n", c.CommandPath())
	}
	_, _ = io.WriteString(w, b.String())
}

// describe is a flag's line, or lines.
func describe(f *pflag.Flag) string {
	kind, usage := pflag.UnquoteUsage(f)
	name := "  --" + f.Name
	if f.Shorthand != "" {
		name = "  -" + f.Shorthand + ", --" + f.Name
	}
	if kind != "" {
		name += " " + kind
	}
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
	default:
		if !strings.Contains(usage, "(default") {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
	}
	return hang(name, usage, flagColumn)
}

// hang writes a term and its description, which begins at a column and goes on there.
func hang(term, text string, column int) string {
	lines := plain.Wrap(text, HelpWidth-column)
	first := term + strings.Repeat(" ", max(0, column-utf8.RuneCountInString(term)))
	if utf8.RuneCountInString(term) > column-2 {
		first = term + "\n" + strings.Repeat(" ", column)
	}
	return first + strings.Join(lines, "\n"+strings.Repeat(" ", column)) + "\n"
}

// row is a line of a table in a help text: a term, and behind two blanks what it means.
var row = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^( +\S.*?)( {2,})(\S.*)$`) })

// reflow gives a help text the width of help. Lines that begin with a blank are tables or commands
// and keep their shape; the others are paragraphs.
func reflow(text string) string {
	var out []string
	var paragraph []string
	term, meaning, column := "", "", 0
	flush := func() {
		if len(paragraph) > 0 {
			out = append(out, plain.Wrap(strings.Join(paragraph, " "), HelpWidth)...)
		}
		if term != "" {
			out = append(out, strings.TrimSuffix(hang(term, meaning, column), "\n"))
		}
		paragraph, term = nil, ""
	}
	text = strings.ReplaceAll(text, "\t", "    ")
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch parts := row().FindStringSubmatch(line); {
		case term != "" && indent == column:
			meaning += " " + strings.TrimSpace(line)
			continue
		case parts != nil:
			flush()
			term, meaning, column = parts[1], parts[3], utf8.RuneCountInString(parts[1]+parts[2])
			continue
		case line == "":
			flush()
			out = append(out, "")
		case indent > 0:
			flush()
			out = append(out, breakCommand(line))
		default:
			if term != "" {
				flush()
			}
			paragraph = append(paragraph, line)
		}
	}
	flush()
	return strings.Join(out, "\n")
}

// breakCommand breaks a command that is too long for a line, as a shell takes it.
func breakCommand(line string) string {
	indent := strings.Repeat(" ", len(line)-len(strings.TrimLeft(line, " "))+4)
	var lines []string
	for utf8.RuneCountInString(line) > HelpWidth {
		runes := []rune(line)
		room := string(runes[:HelpWidth-2])
		at := strings.LastIndex(room, " --")
		if at <= len(indent) {
			at = strings.LastIndex(room, " ")
		}
		if at <= len(indent) {
			break
		}
		lines, line = append(lines, line[:at]+" \\"), indent+strings.TrimSpace(line[at:])
	}
	return strings.Join(append(lines, line), "\n")
}
