package cmd

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newOutboxStatCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var asJSON bool
	c := &cobra.Command{
		Use:   "stat",
		Short: "Say how much is in the outbox",
		Long: `Stat says what the outbox holds: how many messages wait, and how old they are. "gaps" are the messages that were dropped by policy
and are not yet announced as missing. "quarantined" messages were set aside because no hub would ever take them. "in use" says
whether a process has the outbox open.

A message id is <outbox id>-<seq>. "last seq" is the seq of the newest message.

` + outboxDirHelp + exitHelp,
		Example: `  hubhop outbox stat --device-id dev-1
  hubhop outbox stat --dir /var/lib/hubhop/dev-1/outbox --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runOutboxStat(env, o, asJSON) },
	}
	o.add(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func runOutboxStat(env *Env, o *outboxFlags, asJSON bool) error {
	dir, look, err := o.look()
	if err != nil {
		return err
	}
	gaps := make([]string, 0, len(look.Gaps))
	for _, g := range look.Gaps {
		gaps = append(gaps, g.String())
	}
	if asJSON {
		return printJSON(env.Stdout, struct {
			Dir         string    `json:"dir"`
			Outbox      string    `json:"outbox"`
			LastSeq     uint64    `json:"lastSeq"`
			Queued      uint64    `json:"queued"`
			Bytes       int64     `json:"bytes"`
			Oldest      time.Time `json:"oldest,omitzero"`
			Newest      time.Time `json:"newest,omitzero"`
			Segments    int       `json:"segments"`
			Gaps        []string  `json:"gaps"`
			Quarantined int       `json:"quarantined"`
			For         string    `json:"for,omitempty"`
			InUse       bool      `json:"inUse"`
		}{dir, look.ID, look.LastSeq, look.Queued, look.QueuedBytes, look.Oldest, look.Newest, look.Segments, gaps, look.Quarantined, look.For, look.Held})
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("directory", dir)
	row("outbox id", look.ID)
	row("last seq", look.LastSeq)
	if look.For != "" {
		row("made for", look.For)
	}
	segments := fmt.Sprintf("%d segments", look.Segments)
	if look.Segments == 1 {
		segments = "1 segment"
	}
	row("queued", fmt.Sprintf("%d messages, %d bytes in %s", look.Queued, look.QueuedBytes, segments))
	if !look.Oldest.IsZero() {
		row("oldest", stamp(look.Oldest))
		row("newest", stamp(look.Newest))
	}
	row("gaps", list(gaps, "none"))
	row("quarantined", look.Quarantined)
	row("in use", map[bool]string{true: "yes, by a running process", false: "no"}[look.Held])
	return w.Flush()
}

// list writes some of many.
func list(all []string, none string) string {
	const most = 20
	switch {
	case len(all) == 0:
		return none
	case len(all) > most:
		return strings.Join(all[:most], ", ") + ", …"
	default:
		return strings.Join(all, ", ")
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
