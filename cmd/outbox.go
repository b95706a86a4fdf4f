package cmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// errLost is the verdict that messages are lost.
var errLost = errors.New("messages are lost")

func newOutboxCommand(env *Env, builtin []byte) *cobra.Command {
	c := group("outbox", "Look into a device's outbox",
		newOutboxStatCommand(env, builtin), newOutboxListCommand(env, builtin), newOutboxExportCommand(env, builtin), newOutboxVerifyCommand(env, builtin),
		newOutboxDiscardCommand(env, builtin))
	c.Long = `The outbox is where a device keeps its messages until a hub has acknowledged them. These commands look into it, whether hubhop run is at
work with it or not. All but discard take no lock and change nothing. What they show of a running device may be a moment old.

They find the outbox as run does: give the same --state-dir, --device-id, variables and configuration file, or the whole command line of run.
Or name the directory itself with --dir.
` + exitHelp
	return c
}

const outboxDirHelp = `The outbox is found as run finds it, by --state-dir and --device-id, or named with --dir.
`

// outboxFlags find the outbox. Every setting of a device is taken, so that its configuration file is understood, but only those that
// matter are told of.
type outboxFlags struct {
	settings
	dir string
}

func (o *outboxFlags) add(f *pflag.FlagSet) {
	own := pflag.NewFlagSet("", pflag.ContinueOnError) // the keys of the configuration are these alone
	o.addFlags(own)
	own.VisitAll(func(f *pflag.Flag) {
		switch f.Name {
		case "state-dir", "device-id", "config", "connection-string":
		default:
			f.Hidden = true
		}
	})
	f.AddFlagSet(own)
	f.StringVar(&o.dir, "dir", "", "the outbox's directory itself, instead of --state-dir and --device-id")
}

// find returns the directory and whose outbox it is, "" if that is not known.
func (o *outboxFlags) find() (dir, deviceID string, err error) {
	if err := o.load(); err != nil && o.dir == "" {
		return "", "", usage(err)
	}
	if o.dir != "" {
		if _, err := os.Stat(o.dir); err != nil && looksSecret(o.dir) {
			return "", "", usage(errors.New("dir is the name of a directory, and what was given looks like a secret"))
		}
		return o.dir, o.deviceID, nil
	}
	stateDir, err := o.stateDirectory()
	if err != nil {
		return "", "", usage(err)
	}
	if deviceID, _, err = o.name(); err != nil {
		return "", "", usage(err)
	}
	dir = device.OutboxDir(stateDir, deviceID)
	if _, err := outbox.Inspect(dir); errors.Is(err, fs.ErrNotExist) {
		hint := "give the --state-dir and --device-id of hubhop run"
		if ids := device.OutboxDevices(stateDir); len(ids) > 0 {
			hint = fmt.Sprintf("%s has one of %s: give --device-id", stateDir, strings.Join(ids, ", "))
		}
		return "", "", usage(fmt.Errorf("the device %s has no outbox in %s; %s", deviceID, dir, hint))
	}
	return dir, deviceID, nil
}

func newOutboxStatCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var asJSON bool
	c := &cobra.Command{
		Use:   "stat",
		Short: "Say how much is in the outbox",
		Long: `Stat says what the outbox holds: how many messages wait, how old they are, what is missing by policy and not yet told ("gaps"), what was
set aside because no hub would ever take it ("quarantined"), and whether a process is at work with it.

The outbox id is the first half of every message id, <outbox id>-<seq>; last seq is the second half of the newest.

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

// look finds the outbox and looks at it.
func (o *outboxFlags) look() (dir string, look outbox.Look, err error) {
	if dir, _, err = o.find(); err != nil {
		return dir, look, err
	}
	look, err = inspect(dir)
	return dir, look, err
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

// inspect is outbox.Inspect; a directory without an outbox is a usage error.
func inspect(dir string) (outbox.Look, error) {
	look, err := outbox.Inspect(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = usage(err)
	}
	return look, err
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

func newOutboxListCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var limit int
	var newest, quarantine, asJSON bool
	c := &cobra.Command{
		Use:   "ls",
		Short: "List the messages in the outbox",
		Long: `Ls prints a line for each message that waits: its id, when it was made, the bytes of its body, its content type, and the gap that it will
tell ("gap 5-9": the messages 5 to 9 before it were dropped by policy and may be missing).

With --quarantined it prints those that no hub would ever take, over 256 KB with their properties or with properties that cannot be sent,
and what the disk has damaged, each with the reason.

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
	f.IntVarP(&limit, "limit", "n", 0, "print so many at most (default all)")
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

// each writes up to limit items. What cannot be read is told of at the end, and what can be is printed all the same.
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
string with the bytes). Export takes nothing out of the outbox: a device that runs sends it all the same, under the same ids.

With --quarantined it prints what was set aside instead, with "why" and "at"; damaged bytes have "lost", the ids of the messages that
they were, and "raw" in base64 instead of a body.

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

func newOutboxDiscardCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var yes bool
	c := &cobra.Command{
		Use:   "discard --yes",
		Short: "Throw away what waits in the outbox",
		Long: `Discard throws away every message that waits, for a device that is retired or has got another place to send to,
and prints how many these were. No process may have the outbox open. The ids of what was thrown away are
never used again, and the next message of this outbox tells that they are missing. What was set aside stays;
export saves what waits before.

` + outboxDirHelp + exitHelp,
		Example: `  hubhop outbox export --device-id dev-1 > queued.jsonl
  hubhop outbox discard --device-id dev-1 --yes`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runOutboxDiscard(env, o, yes) },
	}
	o.add(c.Flags())
	c.Flags().BoolVar(&yes, "yes", false, "yes, throw it away")
	return c
}

func runOutboxDiscard(env *Env, o *outboxFlags, yes bool) error {
	dir, look, err := o.look()
	if err != nil {
		return err
	}
	if look.Held {
		return fmt.Errorf("%s: %w: stop it first", dir, outbox.ErrLocked)
	}
	if !yes {
		return usage(fmt.Errorf("%d messages in %s would be thrown away, for good; give --yes to do it", look.Queued, dir))
	}
	n, err := outbox.DiscardIn(dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "%d messages were thrown away\n", n)
	return err
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

func newOutboxVerifyCommand(env *Env, builtin []byte) *cobra.Command {
	o := &outboxFlags{settings: settings{env: env, builtin: builtin}}
	var where string
	var partial, asJSON bool
	c := &cobra.Command{
		Use:   "verify --ledger URL|FILE",
		Short: "Compare the outbox with what arrived",
		Long: `Verify holds the outbox to its promise: every message that was ever put in has arrived, or still waits, or is announced as missing. A message
id is <outbox id>-<seq>, and the seqs have no holes, so a list of the ids that arrived is all it needs. That list, the ledger, is

    http://127.0.0.1:8090    the control address of hubhop sim; whose messages is said by --device-id
    FILE, or - for stdin     that ledger as JSON (GET /api/ledger?device=ID&messages=1), or what an Event Hub, a route or a tool
                             has written: JSON objects, one a line, or arrays of them

In an object the id is called $.mid, mid, messageId, message-id or message_id; the gap that it tells is called gap. Both are looked for in
the object itself and in its properties, systemProperties (system_properties), applicationProperties, messageProperties and
annotations, with and without an "event" around it, in any case; not in the body. Objects that name another device (deviceId,
connectionDeviceId, iothub-connection-device-id, origin) are passed over.

For each outbox id it prints

    arrived     different messages in the ledger
    queued      not in the ledger, and still in the outbox
    announced   in neither, but told: by the gap of a message that arrived, by a gap still to be told, or by the quarantine.
                The device dropped these by policy, set them aside, or its disk destroyed them
    in flight   in neither, but newer than the ledger, of a device that runs: they left the outbox after the ledger
                was written. Write it again to see them; the simulator's own is never older than the outbox
    lost        in neither, and nobody said so. This must be 0
    duplicated  arrived again (delivery is at least once; drop them by id)
    reordered   first arrivals behind a later message; --drain-order fresh-first makes them by design

A ledger that does not begin with the first message (Event Hubs forget) is given with --partial: then nothing below the lowest seq in it
is asked for; of a device with --drain-order fresh-first, whose newest messages come first, that is only fair if the ledger begins in a
quiet time. An outbox id that is not the current one (the state directory was moved, or the disk had failed) is judged up to the last
seq that arrived. While the device runs, what it made after verify began is not judged.

The exit code is 0 only if nothing is lost, and 3 if something is.

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
	f.StringVar(&where, "ledger", "", "what arrived: the simulator's control address, an URL, a file, or -")
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
	// The outbox and the ledger are looked at one after the other. If both change meanwhile, what seems lost may only have been on its way:
	// then another look decides.
	var v verdict
	for range 3 {
		if v, err = audit(ctx, env, dir, deviceID, where, partial); err != nil {
			return err
		}
		if look, err := outbox.Inspect(dir); v.Lost == 0 || where == "-" || err != nil || !look.Held {
			break
		}
	}
	if asJSON {
		err = printJSON(env.Stdout, v)
	} else {
		err = v.print(env.Stdout)
	}
	switch {
	case err != nil || v.Verdict == "passed":
		return err
	case v.Lost > 0:
		return fmt.Errorf("%w: %d of them", errLost, v.Lost)
	}
	return fmt.Errorf("%w: the outbox is older than what has arrived, and its ids will be used again", drill.ErrVerdict)
}

// verdict is what verify says.
type verdict struct {
	Verdict  string           `json:"verdict"` // passed or failed
	Lost     uint64           `json:"lost"`
	Messages int              `json:"messages"` // in the ledger, of this device
	Foreign  uint64           `json:"foreign"`  // of those: with ids that no outbox makes
	Partial  bool             `json:"partial"`
	Outboxes []outbox.Account `json:"outboxes"`
}

// audit looks once: at the outbox, at the ledger, and at the outbox again, for what it announced meanwhile.
func audit(ctx context.Context, env *Env, dir, deviceID, where string, partial bool) (v verdict, err error) {
	a := outbox.Audit{Stale: !isLive(where)}
	if err := a.Holds(dir); err != nil {
		return v, err
	}
	l, err := openLedger(ctx, env, where, deviceID)
	if err != nil {
		return v, err
	}
	defer func() { _ = l.Close() }()
	n, truncated, err := l.read(func(m arrival) {
		if m.device != "" && deviceID != "" && m.device != deviceID {
			return
		}
		v.Messages++
		a.Arrived(m.id, m.gap)
	})
	if err != nil {
		return v, err
	}
	if n > 0 && v.Messages == 0 {
		return v, usage(fmt.Errorf("ledger: none of the %d messages in %s is of the device %s", n, l.name, deviceID))
	}
	if n > 0 && uint64(v.Messages) == a.Foreign() {
		return v, usage(fmt.Errorf("ledger: none of the %d messages in %s has an id <outbox id>-<seq>; verify --help says where it is looked for, "+
			"and the simulator tells its messages only when asked with messages=1", v.Messages, l.name))
	}
	if err := a.Holds(dir); err != nil {
		return v, err
	}
	v.Verdict, v.Foreign, v.Partial = "passed", a.Foreign(), partial || truncated
	v.Outboxes = a.Accounts(v.Partial)
	for _, x := range v.Outboxes {
		v.Lost += x.Lost
		if x.Lost > 0 || x.Reused > 0 {
			v.Verdict = "failed"
		}
	}
	return v, nil
}

func (v verdict) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, n uint64, ids []string) {
		fmt.Fprintf(w, "  %s\t%d", name, n)
		if len(ids) > 0 {
			fmt.Fprintf(w, "  %s", list(ids, ""))
		}
		fmt.Fprintln(w)
	}
	var announced, moving uint64
	for _, x := range v.Outboxes {
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
	case v.Verdict != "passed":
		fmt.Fprintln(w, "verdict FAILED: ids will be used again")
	case announced > 0:
		fmt.Fprintf(w, "verdict PASSED: nothing is lost; %d messages are missing, and the device says so\n", announced)
	default:
		fmt.Fprintln(w, "verdict PASSED: nothing is lost")
	}
	return w.Flush()
}
