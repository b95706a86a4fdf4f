package graph

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Offline runs a graph without endpoints, goroutines, clocks and disks: for a trial, a test, or a
// replay. One goroutine may use it at a time.
type Offline struct {
	c       *core
	sources map[string]int
}

// NewOffline returns the graph of a plan whose sources and destinations need not be there. out gets
// each output with the name of its destination; drop, which may be nil, each message that leaves
// the graph without one. Both are called by Feed and by Close, and the messages are theirs.
func NewOffline(p Plan, out func(destination string, m node.Message), drop func(Drop, node.Message)) (*Offline, error) {
	c, err := p.compile()
	if err != nil {
		return nil, err
	}
	o := &Offline{c: c, sources: map[string]int{}}
	for i, s := range p.Sources {
		o.sources[s.Name] = i
	}
	c.emit = func(dest int, m *node.Message) { out(p.Destinations[dest].Name, *m) }
	if drop != nil {
		c.drop = func(d Drop, m *node.Message) { drop(d, *m) }
	}
	return o, nil
}

// Feed processes a message that a source hands in, and all that its logical time lets out. The
// message has its Time, see [EventTime]; pos, which may be empty, names it in the ids of its
// outputs.
func (o *Offline) Feed(source string, m node.Message, pos string) error {
	i, ok := o.sources[source]
	if !ok {
		return fmt.Errorf("graph %s has no source %q", o.c.name, source)
	}
	o.c.feed(i, &m, position{text: pos})
	return nil
}

// Close is the end of the input: it closes all windows, and gives out everything that is held. Then
// it closes nothing else: the operators belong to the caller.
func (o *Offline) Close() {
	end := make([]node.Time, len(o.c.fronts))
	for i := range end {
		end[i] = node.Time{Nanos: math.MaxInt64, Counter: math.MaxUint64}
	}
	o.c.tick(end, position{text: "end"})
}

// Late returns how many messages came behind the frontier so far.
func (o *Offline) Late() uint64 { return o.c.late.Load() }

// Journaled is a message of a journal.
type Journaled struct {
	Source  string // that took it
	Message node.Message
}

// ErrNoJournal says that a directory has no journal.
var ErrNoJournal = errors.New("there is no journal")

// ReadJournal returns the messages in the journal of a graph, oldest first: those that no
// checkpoint covers. dir is the directory of the graph ([Options].Dir), or its journal. Nothing is
// changed, and the graph may run.
func ReadJournal(dir string) iter.Seq2[Journaled, error] {
	return func(yield func(Journaled, error) bool) {
		if below := filepath.Join(dir, journalName); isDir(below) {
			dir = below
		}
		if segments, _ := filepath.Glob(filepath.Join(dir, "*.seg")); len(segments) == 0 {
			yield(Journaled{}, fmt.Errorf("%w in %s", ErrNoJournal, dir))
			return
		}
		for r, err := range outbox.ReadQueue(dir) {
			var e event
			if err == nil {
				if e, err = decodeEvent(slices.Clone(r.Body)); err != nil {
					err = fmt.Errorf("record %s of the journal: %w", r.ID, err)
				}
			}
			if err == nil && !e.isMessage() {
				continue // time went on, or the plan was about to change
			}
			if !yield(Journaled{Source: e.source, Message: e.m}, err) {
				return
			}
		}
	}
}

// Left returns how many messages of a graph that does not run are in no result that is safe: those
// that its windows hold, as far as they say, and those in the journal behind its checkpoint. dir is
// the directory of the graph ([Options].Dir), which stays as it is. Of a checkpoint that cannot be
// read, the journal alone counts.
func Left(dir string) (messages int, err error) {
	at, messages, err := heldIn(filepath.Join(dir, checkpointName))
	if err != nil {
		return 0, err
	}
	journal := filepath.Join(dir, journalName)
	if segments, _ := filepath.Glob(filepath.Join(journal, "*.seg")); len(segments) == 0 {
		return messages, nil
	}
	for r, err := range outbox.ReadQueue(journal) {
		if err != nil {
			return 0, err
		}
		if r.Pos <= at {
			continue
		}
		if e, err := decodeEvent(r.Body); err != nil || e.isMessage() {
			messages++
		}
	}
	return messages, nil
}

// heldIn returns the position of a checkpoint, and how many messages its windows hold.
func heldIn(path string) (at uint64, messages int, err error) {
	file, err := os.ReadFile(path) // #nosec G304 -- in the directory of the device
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	body, isOld, ok := checked(file)
	if !ok {
		return 0, 0, nil
	}
	d := decoder{b: body}
	at = d.uint()
	if isOld { // nobody can read what it holds without its plan
		return at, 0, nil
	}
	_ = d.bytes() // the plan
	m := d.memories(nil, false)
	if d.failed {
		return at, 0, nil
	}
	for i := range m.nodes {
		messages += m.nodes[i].waiting
	}
	return at, messages, nil
}

// Remove removes the journal and the checkpoint of a graph that does not run, and its directory
// unless others keep files there.
func Remove(dir string) error {
	for _, name := range []string{journalName, checkpointName, checkpointName + ".tmp"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err
	}
	return os.Remove(dir)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
