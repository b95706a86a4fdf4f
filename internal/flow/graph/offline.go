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
		if !hasJournal(dir) {
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

// Leftover is what a graph that does not run has left in its directory.
type Leftover struct {
	// Messages are in no result that is safe: those that its windows hold, as far as they say, and
	// those in the journal behind its checkpoint.
	Messages int
	Opaque   bool // the checkpoint is damaged, or of a former format, so its windows may hold more
	Empty    bool // it has left no message, and its operators remember nothing
}

// Left returns what a graph that does not run has left. dir is the directory of the graph
// ([Options].Dir), which stays as it is.
func Left(dir string) (l Leftover, err error) {
	at, l, err := heldIn(filepath.Join(dir, checkpointName))
	if err != nil {
		return Leftover{}, err
	}
	journal := filepath.Join(dir, journalName)
	if !hasJournal(journal) {
		return l, nil
	}
	for r, err := range outbox.ReadQueue(journal) {
		if err != nil {
			return Leftover{}, err
		}
		if r.Pos <= at {
			continue
		}
		if e, err := decodeEvent(r.Body); err != nil || e.isMessage() {
			l.Messages++
			l.Empty = false
		}
	}
	return l, nil
}

// heldIn returns the position of a checkpoint, and what the graph has left in it.
func heldIn(path string) (at uint64, l Leftover, err error) {
	file, err := os.ReadFile(path) // #nosec G304 -- in the directory of the device
	if errors.Is(err, fs.ErrNotExist) {
		return 0, Leftover{Empty: true}, nil
	}
	if err != nil {
		return 0, Leftover{}, err
	}
	body, isOld, ok := checked(file)
	if !ok {
		return 0, Leftover{Opaque: true}, nil
	}
	d := decoder{b: body}
	at = d.uint()
	if isOld { // nobody can read what it holds without its plan
		return at, Leftover{Opaque: true}, nil
	}
	_ = d.bytes() // the plan
	m := d.memories(nil, false)
	if d.failed {
		return at, Leftover{Opaque: true}, nil
	}
	l.Empty = true
	for i := range m.nodes {
		n := &m.nodes[i]
		l.Messages += n.waiting
		l.Empty = l.Empty && n.waiting == 0 && len(n.saved)+len(n.holds)+len(n.groups) == 0
	}
	return at, l, nil
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

// hasJournal says whether a directory can be read and has segments of a journal.
func hasJournal(dir string) bool {
	files, _ := os.ReadDir(dir)
	return slices.ContainsFunc(files, func(f os.DirEntry) bool { return filepath.Ext(f.Name()) == ".seg" })
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
