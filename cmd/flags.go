package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

// asWritten is a flag's value that accepts several spellings.
type asWritten struct {
	pflag.Value
	read func(string) (string, error) // returns the spelling that Value accepts
}

func (v *asWritten) Set(text string) error {
	known, err := v.read(text)
	if err != nil {
		return err
	}
	return v.Value.Set(known)
}

// readAsWritten makes every flag of a set accept what people write: on and off for booleans,
// decimal numbers (010 is ten), choices in any letter case, and texts with the line end of a copied
// line. For a duration without a unit it suggests one.
func readAsWritten(fs *pflag.FlagSet) {
	readers := map[string]func(string) (string, error){
		"bool": readSwitch, "int": readDecimal, "duration": readDuration, "string": readText, "intSlice": readDecimals,
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if _, done := f.Value.(*asWritten); done {
			return
		}
		if values := choices[f.Name]; values != nil {
			f.Value = &asWritten{f.Value, readChoice(values)}
			return
		}
		switch {
		case f.Name == "connection-string": // may be copied in several lines
			return
		case slices.Contains(files, f.Name), slices.Contains(dirs, f.Name):
			f.Value = &asWritten{f.Value, readPath}
			return
		}
		if read := readers[f.Value.Type()]; read != nil {
			f.Value = &asWritten{f.Value, read}
		}
	})
}

// readText returns a text without the line end that a file from Windows leaves after it.
func readText(text string) (string, error) {
	text = strings.TrimRight(text, "\r\n")
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "", errors.New("it contains a control character")
	}
	return text, nil
}

// readPath accepts the name of a file or directory. It refuses ~ and variables, because only a
// shell expands them, and here they would become a part of the name.
func readPath(text string) (string, error) {
	text, err := readText(text)
	if err == nil && (text == "~" || strings.HasPrefix(text, "~/") || strings.HasPrefix(text, "$") || strings.Contains(text, "${")) {
		return "", errors.New("~ and variables are not expanded here; write the whole path")
	}
	return text, err
}

// readChoice accepts one of a few values in any letter case. Another value is reported later,
// together with all other faults.
func readChoice(values []string) func(string) (string, error) {
	return func(text string) (string, error) {
		text = strings.TrimSpace(text)
		for _, v := range values {
			if strings.EqualFold(v, text) {
				return v, nil
			}
		}
		return text, nil
	}
}

func readSwitch(text string) (string, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "t", "yes", "y", "on", "1":
		return "true", nil
	case "false", "f", "no", "n", "off", "0":
		return "false", nil
	}
	return "", errors.New("it must be true or false, or yes, no, on, off")
}

func readDecimal(text string) (string, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return "", errors.New("it must be a whole number")
	}
	return strconv.Itoa(n), nil
}

func readDecimals(text string) (string, error) {
	var all []string
	for one := range strings.SplitSeq(text, ",") {
		n, err := readDecimal(one)
		if err != nil {
			return "", errors.New("it must be whole numbers, such as 3,1")
		}
		all = append(all, n)
	}
	return strings.Join(all, ","), nil
}

func readDuration(text string) (string, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if n, err := strconv.ParseFloat(text, 64); err == nil && n != 0 {
		return "", fmt.Errorf("it has no unit: write %ss for %[1]s seconds", text)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return "", errors.New("it must be a duration, such as 500ms, 5s or 1h30m")
	}
	return d.String(), nil
}

// isSwitch says whether a flag is a boolean, which takes its value behind = only.
func isSwitch(f *pflag.Flag) bool { return f != nil && f.Value.Type() == "bool" }

// flagError returns a sentence about a wrong flag, with the flag that was probably meant.
func flagError(c *cobra.Command, err error) error {
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
		if best := nearest(name, shownFlags(c)); best != "" {
			hint = fmt.Sprintf("; did you mean --%s?", best)
		}
		text += hint
	case errors.As(err, &empty):
		text = fmt.Sprintf("--%s needs a value", empty.GetFlag().Name)
	case errors.As(err, &invalid):
		name := invalid.GetFlag().Name
		text = fmt.Sprintf("%s is not a value for --%s: %v", valueOf(name, invalid.GetValue()), name, plainParse(invalid.Unwrap()))
	default:
		text = secret.Quotable(err.Error())
	}
	return usage(fmt.Errorf("%s%s", text, seeHelp(text, c)))
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

// checkArgs returns an error for wrong arguments, with a guess. An argument too many is most often
// the value of a flag, a flag without its dashes, or a mistyped command.
func checkArgs(env *Env, c *cobra.Command, args []string, check cobra.PositionalArgs) error {
	if err := forgottenValue(c); err != nil {
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
		text = strayArgument(env, c, args[0])
	}
	return usage(fmt.Errorf("%s%s", text, seeHelp(text, c)))
}

func strayArgument(env *Env, c *cobra.Command, arg string) string {
	if at := slices.Index(env.Args, arg); at > 0 {
		name := strings.TrimLeft(env.Args[at-1], "-")
		f := c.Flags().Lookup(name)
		if f != nil && f.NoOptDefVal != "" && !isSwitch(f) {
			return fmt.Sprintf("--%[2]s takes its value after =, without a blank: --%[2]s=%[1]s", secret.Quotable(arg), name)
		}
		if isSwitch(f) && strings.HasPrefix(env.Args[at-1], "--") {
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
		if best := nearest(arg, names); best != "" {
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
func forgottenValue(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		name, isFlag := strings.CutPrefix(f.Value.String(), "--")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && err == nil && c.Flags().Lookup(name) != nil {
			err = usage(fmt.Errorf("--%s has no value: the next flag, --%s, stands in its place; see %s --help", f.Name, name, c.CommandPath()))
		}
	})
	return err
}

// valueOf makes the value of a key fit for an error. It never shows the value of a key that is a
// secret.
func valueOf(key, value string) string {
	if slices.Contains(secrets, key) {
		return "what was given"
	}
	return secret.Quoted(value)
}
