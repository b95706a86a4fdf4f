package cmd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func newOutboxListCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var limit int
	var newest, quarantine, asJSON bool
	c := &cobra.Command{
		Use:   "ls",
		Short: "List the messages in the outbox",
		Long: `Ls prints a line for each message that waits: its id, when it was made, the bytes of its body, its content type, and the gap that it will
tell ("gap 5-9": the messages 5 to 9 before it were dropped by policy and may be missing).

With --quarantined it prints the messages that were set aside, each with the reason. No hub would ever take them, because they have over
256 KB with their properties or properties that cannot be sent, or the disk has damaged them.

` + outboxDirHelp + exitHelp,
		Example: `  hubhop outbox ls --device-id dev-1 -n 20
  hubhop outbox ls --device-id dev-1 --newest -n 1
  hubhop outbox ls --device-id dev-1 --quarantined`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := checkReading(o, limit, newest, quarantine)
			if err != nil {
				return err
			}
			if quarantine {
				return each(env, outbox.ReadQuarantine(dir), limit, func(w *bufio.Writer, q outbox.SetAside) error { return listAside(w, q, asJSON) })
			}
			return each(env, queue(dir, newest), limit, func(w *bufio.Writer, r outbox.Record) error { return listRecord(w, r, asJSON) })
		},
	}
	o.add(c.Flags())
	f := c.Flags()
	f.IntVarP(&limit, "limit", "n", 0, "print at most this many (default all)")
	f.BoolVar(&newest, "newest", false, "from the newest to the oldest")
	addQuarantine(f, &quarantine)
	f.BoolVar(&asJSON, "json", false, "print each as a JSON object in a line")
	return c
}

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

func listRecord(w *bufio.Writer, r outbox.Record, asJSON bool) error {
	if asJSON {
		_, seq, _ := outbox.SplitID(r.ID)
		return printLine(w, struct {
			ID          string    `json:"id"`
			Seq         uint64    `json:"seq"`
			Created     time.Time `json:"created"`
			Bytes       int       `json:"bytes"`
			ContentType string    `json:"contentType,omitempty"`
			Gap         string    `json:"gap,omitempty"`
		}{r.ID, seq, r.Created, len(r.Body), r.ContentType, r.Gap})
	}
	_, err := fmt.Fprintf(w, "%-25s  %s  %7d  %s", r.ID, stamp(r.Created), len(r.Body), printable(r.ContentType))
	if r.Gap != "" {
		_, err = fmt.Fprintf(w, "  gap %s", r.Gap)
	}
	return errors.Join(err, w.WriteByte('\n'))
}

func listAside(w *bufio.Writer, q outbox.SetAside, asJSON bool) error {
	id, created, size := q.ID, "", len(q.Body)
	if q.Lost != "" {
		id, size = q.Lost, len(q.Raw)
	}
	if q.Created != nil {
		created = stamp(*q.Created)
	}
	if asJSON {
		return printLine(w, struct {
			ID          string     `json:"id,omitempty"`
			Lost        string     `json:"lost,omitempty"`
			Created     *time.Time `json:"created,omitempty"`
			Bytes       int        `json:"bytes"`
			ContentType string     `json:"contentType,omitempty"`
			At          time.Time  `json:"at"`
			Why         string     `json:"why"`
		}{q.ID, q.Lost, q.Created, size, q.ContentType, q.At, q.Why})
	}
	_, err := fmt.Fprintf(w, "%-25s  %-24s  %7d  %s  %s\n", id, created, size, printable(q.ContentType), printable(q.Why))
	return err
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

func newOutboxExportCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var quarantine bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Print the messages in the outbox as JSON lines",
		Long: `Export prints every message that waits, oldest first, as a JSON object in a line:

    {"id","seq","created","contentType","contentEncoding",
     "component","properties","gap","body","bodyIs"}

bodyIs says what body is: json (the body itself, without the white space between its tokens), text (a JSON string), or base64 (a JSON
string with the bytes). Export takes nothing out of the outbox, so the device still sends these messages, under the same ids.

With --quarantined it prints the messages that were set aside instead, with "why" and "at". Damaged bytes have "lost", the ids of the
messages that they were, and "raw" in base64 instead of a body.

` + outboxDirHelp + exitHelp,
		Example: `  hubhop outbox export --device-id dev-1 > queued.jsonl
  hubhop outbox export --device-id dev-1 | jq .body.temp`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := checkReading(o, 0, false, quarantine)
			if err != nil {
				return err
			}
			if quarantine {
				return each(env, outbox.ReadQuarantine(dir), 0, exportAside)
			}
			return each(env, outbox.ReadQueue(dir), 0, exportRecord)
		},
	}
	o.add(c.Flags())
	addQuarantine(c.Flags(), &quarantine)
	return c
}

// addQuarantine adds the flag in both spellings.
func addQuarantine(f *pflag.FlagSet, quarantine *bool) {
	f.BoolVar(quarantine, "quarantined", false, "what was set aside, instead of what waits")
	f.BoolVar(quarantine, "quarantine", false, "the same")
	f.Lookup("quarantine").Hidden = true
}

// exported is a line of an export.
type exported struct {
	ID              string            `json:"id,omitempty"`
	Seq             uint64            `json:"seq,omitempty"`
	Lost            string            `json:"lost,omitempty"`
	Why             string            `json:"why,omitempty"`
	At              time.Time         `json:"at,omitzero"`
	Created         *time.Time        `json:"created,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ContentEncoding string            `json:"contentEncoding,omitempty"`
	Component       string            `json:"component,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
	Gap             string            `json:"gap,omitempty"`
	Body            any               `json:"body,omitempty"`
	BodyIs          string            `json:"bodyIs,omitempty"`
	Raw             []byte            `json:"raw,omitempty"`
}

func exportRecord(w *bufio.Writer, r outbox.Record) error {
	_, seq, _ := outbox.SplitID(r.ID)
	x := exported{ID: r.ID, Seq: seq, Created: &r.Created, ContentType: r.ContentType, ContentEncoding: r.ContentEncoding,
		Component: r.Component, Properties: r.Properties, Gap: r.Gap}
	x.Body, x.BodyIs = bodyOf(r.Body)
	return printLine(w, x)
}

func exportAside(w *bufio.Writer, q outbox.SetAside) error {
	_, seq, _ := outbox.SplitID(q.ID)
	x := exported{ID: q.ID, Seq: seq, Lost: q.Lost, Why: q.Why, At: q.At, Created: q.Created, ContentType: q.ContentType,
		ContentEncoding: q.ContentEncoding, Component: q.Component, Properties: q.Properties, Raw: q.Raw}
	if q.ID != "" {
		x.Body, x.BodyIs = bodyOf(q.Body)
	}
	return printLine(w, x)
}

// bodyOf is a body as it is best read.
func bodyOf(b []byte) (body any, is string) {
	switch {
	case !utf8.Valid(b):
		return b, "base64" // encoding/json's own form of bytes
	case json.Valid(b) && len(bytes.TrimSpace(b)) > 0:
		return json.RawMessage(b), "json"
	default:
		return string(b), "text"
	}
}
