package cmd

import (
	"bufio"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

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
