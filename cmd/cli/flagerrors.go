package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

// FlagError returns a sentence about a wrong flag, with the flag that was probably meant.
func (r *Rules) FlagError(c *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	var empty *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	text := ""
	switch {
	case errors.As(err, &missing):
		name, hint := missing.GetSpecifiedName(), ""
		text = "there is no flag --" + secret.KeyName(name)
		if short := missing.GetSpecifiedShortnames(); short != "" { // one dash, and a word
			short, _, _ = strings.Cut(short, "=")
			name, text = short, "there is no flag -"+secret.KeyName(short)
		}
		if best := Nearest(name, shownFlags(c)); best != "" {
			hint = fmt.Sprintf("; did you mean --%s?", best)
		}
		text += hint
	case errors.As(err, &empty):
		text = fmt.Sprintf("--%s needs a value", empty.GetFlag().Name)
	case errors.As(err, &invalid):
		name := invalid.GetFlag().Name
		text = fmt.Sprintf("%s is not a value for --%s: %v", r.ValueOf(name, invalid.GetValue()), name, PlainParse(invalid.Unwrap()))
	default:
		text = secret.Quotable(err.Error())
	}
	return r.Usage(fmt.Errorf("%s%s", text, seeHelp(text, c)))
}

// seeHelp ends a sentence about a mistyped command line with the help to read.
func seeHelp(text string, c *cobra.Command) string {
	if strings.HasSuffix(text, "?") {
		return " See " + c.CommandPath() + " --help"
	}
	return "; see " + c.CommandPath() + " --help"
}

// shownFlags returns the names of the flags that a command's help shows.
func shownFlags(c *cobra.Command) (names []string) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// CheckArgs returns an error for wrong arguments, with a guess. An argument too many is most often
// the value of a flag, a flag without its dashes, or a mistyped command.
func (r *Rules) CheckArgs(line []string, c *cobra.Command, args []string, check cobra.PositionalArgs) error {
	if err := r.forgottenValue(c); err != nil {
		return err
	}
	if err := check(c, args); err == nil {
		return nil
	}
	text := fmt.Sprintf("%s does not take %d arguments", c.CommandPath(), len(args))
	if len(args) == 0 {
		text = "an argument is missing"
	}
	text += "; write " + c.UseLine()
	if len(args) > 0 && c.Args != nil && !strings.ContainsAny(c.Use, " ") {
		text = strayArgument(line, c, args[0])
	}
	return r.Usage(fmt.Errorf("%s%s", text, seeHelp(text, c)))
}

func strayArgument(line []string, c *cobra.Command, arg string) string {
	if at := slices.Index(line, arg); at > 0 {
		name := strings.TrimLeft(line[at-1], "-")
		f := c.Flags().Lookup(name)
		if f != nil && f.NoOptDefVal != "" && !IsSwitch(f) {
			return fmt.Sprintf("--%[2]s takes its value after =, without a blank: --%[2]s=%[1]s", secret.Quotable(arg), name)
		}
		if IsSwitch(f) && strings.HasPrefix(line[at-1], "--") {
			if _, err := readSwitch(arg); err == nil {
				return fmt.Sprintf("--%[2]s is a switch and takes its value after =, without a blank: --%[2]s=%[1]s", arg, name)
			}
			return fmt.Sprintf("--%s is a switch: it takes true or false after =, and %s is neither", name, secret.Quoted(arg))
		}
	}
	if c.HasAvailableSubCommands() {
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		text := "there is no command " + secret.Quoted(arg)
		if c.HasParent() {
			text += " of " + c.CommandPath()
		}
		if best := Nearest(arg, names); best != "" {
			text += fmt.Sprintf("; did you mean %s?", best)
		}
		return text
	}
	name, _, _ := strings.Cut(arg, "=")
	if c.Flags().Lookup(name) != nil {
		return fmt.Sprintf("%s takes no argument, and %s is one; did you mean --%[2]s?", c.CommandPath(), secret.Quotable(name))
	}
	return fmt.Sprintf("%s takes no argument, and %s is one", c.CommandPath(), secret.Quoted(arg))
}

// forgottenValue finds a flag that has swallowed the next one in place of its own value.
func (r *Rules) forgottenValue(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		name, isFlag := strings.CutPrefix(f.Value.String(), "--")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && err == nil && c.Flags().Lookup(name) != nil {
			err = r.Usage(fmt.Errorf("--%s has no value: the next flag, --%s, stands in its place; see %s --help", f.Name, name, c.CommandPath()))
		}
	})
	return err
}

// ValueOf makes the value of a key fit for an error. It never shows the value of a key that is a
// secret.
func (r *Rules) ValueOf(key, value string) string {
	if slices.Contains(r.Secrets, key) {
		return "what was given"
	}
	return secret.Quoted(value)
}

// PlainParse returns the cause of a strconv error, without its function and its text.
func PlainParse(err error) error {
	if n, ok := errors.AsType[*strconv.NumError](err); ok {
		return n.Err
	}
	return err
}
