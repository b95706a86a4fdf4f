package cmd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// checkReading finds the directory for a command that prints records.
func checkReading(o *outboxFlags, limit int, newest, quarantine bool) (dir string, err error) {
	if limit < 0 {
		return "", usage(fmt.Errorf("limit is %d; it must be 0, for all, or more", limit))
	}
	if newest && quarantine {
		return "", usage(errors.New("newest and quarantine are given together; the quarantine is listed in its own order, oldest first"))
	}
	if dir, _, err = o.find(); err != nil {
		return "", err
	}
	_, err = inspect(dir)
	return dir, err
}

func queue(dir string, newest bool) iter.Seq2[outbox.Record, error] {
	if newest {
		return outbox.ReadQueueNewest(dir)
	}
	return outbox.ReadQueue(dir)
}

// each writes up to limit items. It prints all items that can be read, and returns an error at the
// end if some cannot.
func each[T any](env *Env, items iter.Seq2[T, error], limit int, write func(*bufio.Writer, T) error) error {
	w := bufio.NewWriterSize(env.Stdout, 64<<10)
	var faults []error
	n := 0
	for item, err := range items {
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if err := write(w, item); err != nil {
			return err
		}
		if n++; n == limit {
			break
		}
	}
	return errors.Join(append(faults, w.Flush())...)
}

// printLine writes one JSON document in one line.
func printLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printable keeps a producer's text from moving the terminal's cursor.
func printable(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return "-"
	}
	return s
}

// addQuarantine adds the flag in both spellings.
func addQuarantine(f *pflag.FlagSet, quarantine *bool) {
	f.BoolVar(quarantine, "quarantined", false, "what was set aside, instead of what waits")
	f.BoolVar(quarantine, "quarantine", false, "the same")
	f.Lookup("quarantine").Hidden = true
}
