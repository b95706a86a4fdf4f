package cmd

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

const (
	helpWidth  = 80
	flagColumn = 30 // where the descriptions of flags begin
)

// flagGroups are the headings under which help lists flags, in their order. A flag that no group
// names is under the first whose prefix it has, or under the last heading.
var flagGroups = []struct {
	title    string
	names    []string
	prefixes []string
}{
	{"Who the device is", []string{
		"id-scope", "group-key-file", "group-key", "device-key-file", "device-key", "cert", "key", "connection-string", "device-id",
		"model-id", "model",
	}, nil},
	{"Where it connects", []string{
		"provisioning-host", "provisioning-transport", "ca-file", "hedge-delay", "known-hubs", "pipeline", "dps-rate", "keep-alive", "sas-ttl",
	}, nil},
	{"What it does", []string{
		"once", "telemetry", "reported", "desired", "methods", "c2d", "telemetry-source", "telemetry-interval", "reported-interval", "method-timeout",
	}, nil},
	{"What waits", nil, []string{"outbox-", "drain-", "send-"}},
	{"Where the simulator listens", []string{"layout", "base-address", "https-port", "control", "connect-proxy", "listen-any", "advertise"}, nil},
	{"What DPS does", []string{
		"allocation", "webhook", "reprovision", "retry-after", "retry-after-first", "polls", "auto-approve", "enrollments",
	}, []string{"dps-"}},
	{"What the hubs do", []string{"move", "disabled-refusal", "sas-grace", "template", "ledger-keep", "clock-offset"}, []string{"hub", "c2d-"}},
	{"The program", nil, nil},
}

func groupOf(name string) int {
	for i, g := range flagGroups {
		if slices.Contains(g.names, name) {
			return i
		}
	}
	for i, g := range flagGroups {
		if slices.ContainsFunc(g.prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return i
		}
	}
	return len(flagGroups) - 1
}

// help prints what a command does and takes, in 80 columns.
func help(w io.Writer, c *cobra.Command) {
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
	groups := make([][]*pflag.Flag, len(flagGroups))
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if i := groupOf(f.Name); !f.Hidden {
			groups[i] = append(groups[i], f)
		}
	})
	for i, g := range groups {
		if len(g) == 0 {
			continue
		}
		slices.SortStableFunc(g, func(a, b *pflag.Flag) int {
			return slices.Index(flagGroups[i].names, a.Name) - slices.Index(flagGroups[i].names, b.Name)
		})
		fmt.Fprintf(&b, "\n%s:\n", flagGroups[i].title)
		for _, f := range g {
			b.WriteString(describe(f))
		}
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nMore of a command: %s COMMAND --help\n", c.CommandPath())
	}
	_, _ = io.WriteString(w, b.String())
}

// newHelpCommand is cobra's help, but for a command that there is not it is an error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say what a command does and takes",
		Long:  "Help prints what COMMAND --help prints." + "\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usage(fmt.Errorf("there is no command %s; see %s --help", secret.Quoted(strings.Join(args, " ")), c.Root().CommandPath()))
			}
			return about.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if about, rest, err := c.Root().Find(args); err == nil && len(rest) == 0 {
				for _, sub := range about.Commands() {
					if sub.IsAvailableCommand() {
						names = append(names, sub.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
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
	lines := wrap(text, helpWidth-column)
	first := term + strings.Repeat(" ", max(0, column-utf8.RuneCountInString(term)))
	if utf8.RuneCountInString(term) > column-2 {
		first = term + "\n" + strings.Repeat(" ", column)
	}
	return first + strings.Join(lines, "\n"+strings.Repeat(" ", column)) + "\n"
}

// wrap breaks a text into lines of at most so many characters, where its words allow.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	return append(lines, line)
}

// row is a line of a table in a help text: a term, and behind two blanks what it means.
var row = regexp.MustCompile(`^( +\S.*?)( {2,})(\S.*)$`)

// reflow gives a help text the width of help. Lines that begin with a blank are tables or commands
// and keep their shape; the others are paragraphs.
func reflow(text string) string {
	var out []string
	var paragraph []string
	term, meaning, column := "", "", 0
	flush := func() {
		if len(paragraph) > 0 {
			out = append(out, wrap(strings.Join(paragraph, " "), helpWidth)...)
		}
		if term != "" {
			out = append(out, strings.TrimSuffix(hang(term, meaning, column), "\n"))
		}
		paragraph, term = nil, ""
	}
	text = strings.ReplaceAll(text, "\t", "    ")
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch parts := row.FindStringSubmatch(line); {
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
	for utf8.RuneCountInString(line) > helpWidth {
		runes := []rune(line)
		room := string(runes[:helpWidth-2])
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
