package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// errLost is the verdict that messages are lost.
var errLost = errors.New("messages are lost")

func newOutboxVerifyCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var where string
	var partial, asJSON bool
	c := &cobra.Command{
		Use:   "verify --ledger URL|FILE",
		Short: "Compare the outbox with what arrived",
		Long: `Verify proves that the outbox lost nothing: every message that was ever put in has arrived, or still waits, or is announced as missing. A
message id is <outbox id>-<seq>, and the seqs have no holes, so verify needs only a list of the ids that arrived. This list, the
ledger, is one of

    http://127.0.0.1:8090    the control address of hubhop sim; --device-id says whose messages count
    FILE, or - for stdin     the simulator's ledger as JSON (GET /api/ledger?device=ID&messages=1), or the output of an Event Hub,
                             a message route or a tool: JSON objects, one a line, or arrays of them

In an object the field $.mid, mid, messageId, message-id or message_id is the id, and the field gap names messages that are missing. Verify
looks for both in the object itself and in its properties, systemProperties (system_properties), applicationProperties,
messageProperties and annotations, with and without an "event" around it, in any letter case, but not in the body. It ignores
objects that name another device (deviceId, connectionDeviceId, iothub-connection-device-id, origin).

For each outbox id it prints

    arrived     different messages in the ledger
    queued      not in the ledger, and still in the outbox
    announced   in neither, but announced as missing: by the gap of a message that arrived, by a gap that is still to be sent,
                or by the quarantine. The device dropped or set aside these messages by policy, or its disk destroyed them
    in flight   in neither, but newer than the ledger: the device runs, and sent them after the ledger was written. Write the
                ledger again to see them; the ledger of the simulator is never older than the outbox
    lost        in neither, and not announced. This must be 0
    duplicated  arrived again (delivery is at least once; drop them by id)
    reordered   arrived for the first time after a later message; with --drain-order fresh-first this is normal

Use --partial for a ledger that does not begin with the first message, because Event Hubs forget: then verify asks for nothing below the
lowest seq in it. A device with --drain-order fresh-first sends its newest messages first. Its ledger must begin in a quiet time. An
outbox id that is not the current one (the state directory was moved, or the disk had failed) is judged up to the last seq that
arrived. Messages that a running device makes after verify has begun are not judged.

The exit code is 3 if something is lost, or if ids will be used again because the outbox is an older copy. It is 0 only if neither
is so.

` + outboxDirHelp + exitHelp,
		Example: `  hubhop outbox verify --device-id dev-1 --ledger http://127.0.0.1:8090
  hubhop outbox verify --device-id dev-1 --ledger events.jsonl --partial`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := env.Notify(c.Context())
			defer stop()
			return runOutboxVerify(ctx, env, o, where, partial, asJSON)
		},
	}
	o.add(c.Flags())
	f := c.Flags()
	f.StringVar(&where, "ledger", "", "what arrived: the simulator's control address, a URL, a file, or -")
	f.BoolVar(&partial, "partial", false, "the ledger may lack its beginning")
	f.BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func runOutboxVerify(ctx context.Context, env *Env, o *outboxFlags, where string, partial, asJSON bool) error {
	if where == "" {
		return usage(errors.New("ledger is missing: where did the messages arrive? Give the simulator's control address, or a file; see hubhop outbox verify --help"))
	}
	dir, deviceID, err := o.find()
	if err != nil {
		return err
	}
	if _, err := inspect(dir); err != nil {
		return err
	}
	// Outbox and ledger are read one after the other. If both change meanwhile, a sample that was
	// on its way may seem lost. Another reading decides.
	var v drill.Verdict
	for range 3 {
		open := func() (*drill.Ledger, error) { return openLedger(ctx, env, where, deviceID) }
		v, err = drill.Verify(dir, deviceID, open, !isLive(where), partial)
		if errors.Is(err, drill.ErrLedger) {
			err = usage(err)
		}
		if err != nil {
			return err
		}
		if look, err := outbox.Inspect(dir); v.Lost == 0 || where == "-" || err != nil || !look.Held {
			break
		}
	}
	if asJSON {
		err = printJSON(env.Stdout, struct {
			Verdict  drill.Outcome   `json:"verdict"`
			Lost     uint64          `json:"lost"`
			Messages uint64          `json:"messages"` // in the ledger, of this device
			Foreign  uint64          `json:"foreign"`  // of those: with ids that no outbox makes
			Partial  bool            `json:"partial"`
			Outboxes []audit.Account `json:"outboxes"`
		}{v.Outcome, v.Lost, v.Messages, v.Foreign, v.Partial, v.Accounts})
	} else {
		err = printVerdict(env.Stdout, &v)
	}
	switch {
	case err != nil:
		return err
	case v.Lost > 0:
		return fmt.Errorf("%w: %d of them", errLost, v.Lost)
	}
	return v.Err()
}

func printVerdict(out io.Writer, v *drill.Verdict) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, n uint64, ids []string) {
		fmt.Fprintf(w, "  %s\t%d", name, n)
		if len(ids) > 0 {
			fmt.Fprintf(w, "  %s", list(ids, ""))
		}
		fmt.Fprintln(w)
	}
	var announced, moving uint64
	for _, x := range v.Accounts {
		what := ""
		if !x.Current {
			what = ", not the current one"
		}
		fmt.Fprintf(w, "outbox %s%s: seq %d to %d\n", x.Outbox, what, x.From, x.Last)
		row("arrived", x.Distinct, nil)
		row("queued", x.Queued, nil)
		row("announced", x.Announced, x.GapIDs)
		if x.InFlight > 0 {
			row("in flight", x.InFlight, nil)
			moving += x.InFlight
		}
		row("lost", x.Lost, x.LostIDs)
		row("duplicated", x.Duplicated, x.DoubleIDs)
		row("reordered", x.Reordered, x.LateIDs)
		announced += x.Announced
		if x.Reused > 0 {
			fmt.Fprintf(w, "  seq %d has arrived, but %d is the last that this outbox knows of: it is an older copy, and will use ids again; start with an empty one\n", x.Reused, x.Last)
		}
	}
	if moving > 0 {
		fmt.Fprintf(w, "%d messages are newer than the ledger; the device runs: write the ledger again to see them\n", moving)
	}
	if v.Foreign > 0 {
		fmt.Fprintf(w, "%d messages have other ids and were passed over\n", v.Foreign)
	}
	switch {
	case v.Lost > 0:
		fmt.Fprintf(w, "verdict FAILED: %d messages are lost\n", v.Lost)
	case v.Outcome != drill.Passed:
		fmt.Fprintln(w, "verdict FAILED: ids will be used again")
	case announced > 0:
		fmt.Fprintf(w, "verdict PASSED: nothing is lost; %d messages are missing, and the device says so\n", announced)
	default:
		fmt.Fprintln(w, "verdict PASSED: nothing is lost")
	}
	return w.Flush()
}
