package flow

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/flow"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

const (
	maxLine  = 4 << 20  // bytes of a line of input
	maxStore = 64 << 20 // bytes of the file of --store
)

// errMessages says that messages failed, with --strict.
var errMessages = errors.New("messages failed")

// trying are the flags of a flow that is tried.
type trying struct {
	topic, store string
	strict       bool
}

func newRun(e *Env) *cobra.Command {
	var t trying
	c := &cobra.Command{
		Use:   "run DIR [NAME]",
		Short: "Run one data flow on messages of standard input",
		Long: `Run puts messages of standard input through one flow and prints what comes out, without a broker and a hub. NAME may be left out if the
directory has one flow. Windows close at the end of the input.

With --topic each line of input is the payload of a message on this topic. Without it each line is a message in JSON:

    {"topic": "sensors/1", "payload": {"temp": 21.5}}

payload is any JSON. payloadText, for text that is no JSON, or payloadBase64 may stand in its place. contentType, properties (an object of keys and
texts), time (RFC 3339, such as 2026-01-31T10:00:00Z) and retain (true or false) may follow.

The time of a message decides to which window it belongs, and what a throttle lets through. It is the time of the line, else that of the property
__ts, else the start of the run and 1 ms more for each line.

A message goes to every source whose filter takes its topic. Each line of output is a message too, and destination says which node it reached. A
message that is dropped is told on standard error, as line N: node X: reason.` + "\n" + e.Help + `
Of this command: 2 the manifests are faulty, or no source takes --topic · 1 with --strict: a message failed.`,
		Example: `  echo '{"temperature": 212, "pressure": 14.5}' | hubhop flow run examples/flows/units --topic sensors/1
  hubhop flow run flows averages < messages.jsonl`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error { return e.run(args, t) },
	}
	c.Flags().StringVar(&t.topic, "topic", "", "each line of input is a payload on this topic")
	c.Flags().StringVar(&t.store, "store", "", "file with a JSON object of keys and texts that fills the state store (default: the files DIR/store/KEY)")
	c.Flags().BoolVar(&t.strict, "strict", false, "end with 1 if any message failed")
	return c
}

// trial is a flow that is tried, and what became of the messages.
type trial struct {
	*flow.Trial
	name   string
	out    *bufio.Writer
	err    error // of out, which keeps its first one
	failed int
	sums   map[string]int // messages that were dropped on purpose, by what is said of them; nil: each is told
}

// trial begins the trial of a flow: args are its directory and, if there are several, its name.
func (e *Env) trial(args []string, store string) (*trial, error) {
	dir, name := args[0], ""
	if len(args) > 1 {
		name = args[1]
	}
	g, err := e.find(dir, name)
	if err != nil {
		return nil, err
	}
	t := &trial{name: g.Name, out: bufio.NewWriter(e.Stdout)}
	o := flow.TrialOptions{Dir: dir, Start: time.Now(),
		Out: func(destination string, m node.Message) {
			_, t.err = t.out.Write(append(flow.Line(destination, &m), '\n'))
		},
		Drop: func(line int, node, reason string, failed bool) {
			if failed {
				t.failed++
			} else if t.sums != nil {
				t.sums["node "+node+": "+reason]++
				return
			}
			fmt.Fprintf(e.Stderr, "line %d: node %s: %s\n", line, node, e.Clean(reason))
		},
		Log: func(text string) { fmt.Fprintln(e.Stderr, e.Clean(text)) },
	}
	if store != "" {
		text, err := e.ReadFile("store", store, maxStore)
		if err != nil {
			return nil, e.Usage(err)
		}
		if o.Store, err = flow.ParseStore(text); err != nil {
			return nil, e.Usage(err)
		}
	}
	var faults []manifest.Fault
	if t.Trial, faults = flow.NewTrial(g, o); t.Trial == nil {
		return nil, e.Usage(errorsOf(faults))
	}
	e.warn(faults)
	return t, nil
}

func (e *Env) run(args []string, o trying) error {
	t, err := e.trial(args, o.store)
	if err != nil {
		return err
	}
	if o.topic != "" && len(t.Takes(o.topic)) == 0 {
		return e.Usage(fmt.Errorf("no source of %s takes the topic %q; hubhop flow show says which topics they take", t.name, o.topic))
	}
	return e.feed(t, e.Stdin, o)
}

// feed puts the lines of an input through a trial.
func (e *Env) feed(t *trial, in io.Reader, o trying) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		l, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, errLong) {
			return errors.Join(fmt.Errorf("line %d: %w", n, err), t.out.Flush())
		}
		var m flow.Input
		switch {
		case err != nil:
		case o.topic != "":
			m.Topic, m.Payload = o.topic, l
		case len(bytes.TrimSpace(l)) == 0:
			continue
		default:
			if m, err = flow.ParseInput(l); err != nil {
				err = fmt.Errorf("%w, or name the topic with --topic if each line is a payload", err)
			}
		}
		if err == nil {
			err = t.FeedAt(n, m)
		}
		if err != nil {
			t.failed++
			fmt.Fprintf(e.Stderr, "line %d: %s\n", n, e.Clean(err.Error()))
		}
		if lines.Buffered() == 0 { // a person types
			t.err = t.out.Flush()
		}
		if t.err != nil {
			break // nobody sees what comes out
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	if o.strict && t.failed > 0 {
		return fmt.Errorf("%w: %d", errMessages, t.failed)
	}
	return nil
}

// end is the end of the input. Its error is that of the output.
func (t *trial) end() error {
	t.Close()
	return t.out.Flush()
}

// errLong says that a line was too long, and was passed over.
var errLong = fmt.Errorf("the line has more than %d bytes", maxLine)

// readLine reads a line without its end. With errLong the next call reads the line after it.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, more, e := r.ReadLine()
		switch {
		case e != nil:
			return nil, e
		case len(line)+len(part) > maxLine:
			line, err = nil, errLong
		case err == nil:
			line = append(line, part...)
		}
		if !more {
			return line, err
		}
	}
}

func newReplay(e *Env) *cobra.Command {
	var from, store string
	c := &cobra.Command{
		Use:   "replay DIR [NAME] --from FILE",
		Short: "Run one data flow on messages that wait, or that have failed",
		Long: `Replay puts messages through one flow and prints what comes out, as hubhop flow run does. Nothing is sent and nothing is changed. The file has lines of
hubhop outbox export, dead letters (deadletter.jsonl), or lines of hubhop flow run; - is standard input. A message without a topic, such as one of an
outbox, goes to every source of the flow. Messages that a rule drops on purpose are counted at the end; each one that fails is told.

The directory of a flow that writes a journal, flows/graphs/NAME in the directory of the device, may stand for the file. The messages are then those
that came in since the last checkpoint, at the sources and the times that they had. The flow may run meanwhile.` + "\n" + e.Help,
		Example: `  hubhop outbox export --device-id dev-1 > queued.jsonl
  hubhop flow replay flows averages --from queued.jsonl
  hubhop flow replay flows averages --from ~/.local/state/hubhop/dev-1/flows/graphs/averages`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			if from == "" {
				return e.Usage(errors.New("from is missing; name the file with the messages, such as --from queued.jsonl"))
			}
			t, err := e.trial(args, store)
			if err != nil {
				return err
			}
			t.sums = map[string]int{}
			defer e.tellSums(t)
			if from == "-" {
				return e.feed(t, e.Stdin, trying{})
			}
			if info, err := os.Stat(from); err == nil && info.IsDir() {
				return e.replayJournal(t, from)
			}
			f, err := e.OpenFile("from", from)
			if err != nil {
				return e.Usage(err)
			}
			defer func() { _ = f.Close() }() // it was only read
			return e.feed(t, f, trying{})
		},
	}
	c.Flags().StringVar(&from, "from", "", "file with the messages, or the directory of a flow that writes a journal")
	c.Flags().StringVar(&store, "store", "", "file with a JSON object of keys and texts that fills the state store (default: the files DIR/store/KEY)")
	return c
}

// tellSums says how many messages were dropped on purpose.
func (e *Env) tellSums(t *trial) {
	for _, text := range slices.Sorted(maps.Keys(t.sums)) {
		fmt.Fprintf(e.Stderr, "%s (%d)\n", e.Clean(text), t.sums[text])
	}
}

// replayJournal puts the messages of a journal through a trial.
func (e *Env) replayJournal(t *trial, dir string) error {
	err := t.FeedJournal(dir, func(line int, err error) { fmt.Fprintf(e.Stderr, "line %d: %s\n", line, e.Clean(err.Error())) })
	switch {
	case err != nil && !t.KeepsJournal():
		return e.Usage(fmt.Errorf("from: %w: %s keeps none, because it remembers nothing from one message to the next; name a file with messages", err, t.name))
	case err != nil:
		return e.Usage(fmt.Errorf("from: %w; name a file with messages, or flows/graphs/NAME of the directory of a device", err))
	}
	return t.end()
}
