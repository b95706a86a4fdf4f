package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

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

// ReadAsWritten makes every flag of a set accept what people write: on and off for booleans,
// decimal numbers (010 is ten), choices in any letter case, and texts with the line end of a copied
// line. For a duration without a unit it suggests one.
func (r *Rules) ReadAsWritten(fs *pflag.FlagSet) {
	readers := map[string]func(string) (string, error){
		"bool": readSwitch, "int": readDecimal, "duration": readDuration, "string": readText, "intSlice": readDecimals,
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if _, done := f.Value.(*asWritten); done {
			return
		}
		if values := r.Choices[f.Name]; values != nil {
			f.Value = &asWritten{f.Value, readChoice(values)}
			return
		}
		switch {
		case slices.Contains(r.Verbatim, f.Name):
			return
		case slices.Contains(r.Files, f.Name), slices.Contains(r.Dirs, f.Name):
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

// IsSwitch says whether a flag is a boolean, which takes its value behind = only.
func IsSwitch(f *pflag.Flag) bool { return f != nil && f.Value.Type() == "bool" }

// CheckChoices returns an error for each flag whose value is not one of its choices.
func (r *Rules) CheckChoices(fs *pflag.FlagSet) error {
	var all []error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			all = append(all, r.CheckChoice(f))
		}
	})
	return errors.Join(all...)
}

// CheckChoice returns an error for a flag whose value is not one of its choices, if it has some.
func (r *Rules) CheckChoice(f *pflag.Flag) error {
	values := r.Choices[f.Name]
	if values == nil || slices.Contains(values, f.Value.String()) {
		return nil
	}
	return fmt.Errorf("%s is %s; it must be one of %s", f.Name, secret.Quoted(f.Value.String()), strings.Join(values, ", "))
}
