package cmd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

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
