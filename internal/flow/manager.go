package flow

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/state"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
)

// Manager runs the flows of a directory.
type Manager struct {
	o      Options
	store  *state.Store
	filler *filler

	mu      sync.Mutex
	flows   map[string]*running
	rows    map[string]Status   // of those that do not run
	left    map[string]leftover // of flows that do not run
	told    map[string]bool     // faults that were told
	ran     map[string]bool     // flows that have run in this process; the loop's alone
	owed    map[string]bool     // files of sessions without a source that were told; the loop's alone
	trouble string              // what is wrong with the directory
	busy    time.Time           // since when the loop works; zero: it rests
	due     time.Time
}

// running is a flow that runs.
type running struct {
	g       *manifest.Graph
	digest  string
	graph   *graph.Graph
	says    []func() string
	builder *builder // its counters and troubles
	before  Status   // what it counted before the last change
	note    string   // why a change of its file was not taken over; empty: there is none
	ended   chan struct{}
}

// State is what a flow does.
type State string

// The states.
const (
	Running State = "running"
	Stopped State = "stopped" // its manifest says that it is disabled
	Failed  State = "failed"  // it cannot run, or something of it is tried again
)

// Status is what a flow does, and what it has done since it was started or changed.
type Status struct {
	Name      string
	State     State
	In        uint64
	Out       uint64
	Dropped   uint64
	Errors    uint64
	InFlight  int
	OldestAge time.Duration
	Gaps      uint64 // times a broker had lost the session of a source, so that messages may be missing
	Fault     string // what a person must see to; empty: nothing
	Text      string // what a person should know, the fault included; empty: nothing

	ClientIDs []string // at MQTT brokers, in the order of the nodes; nil: the flow does not run, or has none
}

// New returns a manager of a directory. It opens the state store. An error is one that a person
// must act on: the directory is none, or the state directory cannot be used.
func New(o Options) (*Manager, error) {
	if o.Drain <= 0 {
		o.Drain = DefaultDrain
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := isDirectory(dir); err != nil {
		return nil, err
	}
	o.Dir = dir
	store, err := state.Open(filepath.Join(o.StateDir, "store"), state.Options{Log: func(text string) { o.log(true, "", text) }})
	if err != nil {
		return nil, fmt.Errorf("the state store of the flows: %w", err)
	}
	return &Manager{o: o, store: store, filler: newFiller(dir, o.StateDir, store, func(text string) { o.log(true, "", text) }), flows: map[string]*running{}, rows: map[string]Status{}, told: map[string]bool{}, ran: map[string]bool{}}, nil
}

// storeOf is the state store as data sets see it.
type storeOf struct{ *state.Store }

// Get is that of transform.Store.
func (s storeOf) Get(key string) ([]byte, uint64, bool, error) {
	v, ok := s.Store.Get(key)
	return v.Data, v.Revision, ok, nil
}

// Run starts the flows, takes over changes of the directory, and stops all flows when ctx has
// ended. It returns when they have stopped. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	defer func() { _ = m.store.Close() }() // what the flows use of it is in memory
	w := watch(m.o.Dir, func(text string) { m.o.log(true, "", text) })
	defer w.close()
	m.follow(ctx, w)
	m.stopAll()
	return nil
}

// follow takes over the directory, and each change of it until ctx has ended.
func (m *Manager) follow(ctx context.Context, w *watcher) {
	for {
		if again := m.reload(ctx); again {
			w.seen = 0 // so the next look counts as a change
		}
		if !w.changed(ctx, m.rest) {
			return
		}
	}
}

// rest notes that the loop waits until due.
func (m *Manager) rest(due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy, m.due = time.Time{}, due
}

// Beat says since when the loop that takes over changes has worked on one thing, zero if it rests,
// and when it wants to go on.
func (m *Manager) Beat() (busy, due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.busy, m.due
}

// reload reads the directory, and makes the flows that run equal to it. A flow whose manifests have
// an error goes on as it is. again says that a file of the state store may be taken later.
func (m *Manager) reload(ctx context.Context) (again bool) {
	m.mu.Lock()
	m.busy = time.Now()
	m.mu.Unlock()
	set, faults := manifest.Load(m.o.Dir, manifest.Options{})
	faults = append(faults, manifest.Lacks(set, m.o.Dir, manifest.Machine{Identity: m.o.Token != nil, AnyMode: onWindows})...)
	faults = append(faults, nothing(set, faults, m.o.Dir, manifest.Warning)...)
	lacking, again := m.filler.fill(ctx) // before a flow asks for it
	names := map[string]bool{}
	rows := map[string]Status{}
	var gone, changed []*running
	next := map[*running]graph.Plan{} // of those that have changed
	var start []*manifest.Graph
	b := m.builder()
	for _, g := range set.Graphs {
		names[g.Name] = true
		old := m.running(g.Name)
		switch {
		case !g.Enabled:
			rows[g.Name] = Status{Name: g.Name, State: Stopped, Text: "its manifest says mode: Disabled"}
			if old != nil {
				gone = append(gone, old)
			}
		case old == nil:
			start = append(start, g)
		case old.digest == b.digest(g):
			m.settle(old)
		default:
			p, bad := m.try(g)
			p.Close(nil)
			faults = append(faults, bad...)
			if text := firstError(bad); text != "" {
				m.refuse(old, text)
				continue
			}
			m.o.log(false, g.Name, "a change of its manifests is taken over")
			changed, start, next[old] = append(changed, old), append(start, g), p
		}
	}
	for _, name := range set.Faulty {
		names[name] = true
		text := errorOf(faults, name, set)
		if old := m.running(name); old != nil {
			m.refuse(old, text)
			continue
		}
		rows[name] = Status{Name: name, State: Failed, Fault: text, Text: text}
	}
	for name, old := range m.all() {
		switch base := filepath.Base(old.g.File); {
		case names[name]:
		case set.Partial:
			m.refuse(old, firstError(faults))
		case slices.Contains(set.Unread, base):
			m.refuse(old, worst(of(faults, base)))
		default:
			gone = append(gone, old)
		}
	}
	for _, old := range gone {
		next[old] = graph.Plan{} // so its windows give out what they hold
	}
	m.stop(append(gone, changed...), next)
	for _, old := range gone {
		m.o.log(false, old.g.Name, "the flow is stopped, because its manifest is gone or says so")
	}
	before := map[string]Status{}
	for _, old := range changed {
		before[old.g.Name] = old.status()
	}
	for _, g := range start {
		if ctx.Err() != nil {
			break
		}
		bad := m.start(ctx, b, g, before[g.Name])
		faults = append(faults, bad...)
		if text := firstError(bad); text != "" {
			rows[g.Name] = Status{Name: g.Name, State: Failed, Fault: text, Text: text}
		}
	}
	left := m.leftovers(set, names, rows)
	m.leftSessions(set, names)
	m.mu.Lock()
	m.rows, m.left, m.trouble = rows, left, ""
	if len(set.Graphs)+len(set.Faulty) == 0 && manifest.Errors(faults) {
		m.trouble = firstError(faults)
	}
	m.mu.Unlock()
	m.tell(manifest.Sort(append(faults, lacking...)))
	return again
}

// builder returns what makes plans for this process.
func (m *Manager) builder() *builder {
	return &builder{dir: m.o.Dir, modules: m.o.Modules, store: transform.Store(storeOf{m.store}),
		storeFile: m.tableFile, log: func(flow, text string) { m.o.log(true, flow, text) }}
}

func (m *Manager) tableFile(key string) string { return tableFile(m.o.Dir, key) }

// try makes the plan of a graph with its endpoints, and says what is wrong with it.
func (m *Manager) try(g *manifest.Graph) (graph.Plan, []manifest.Fault) {
	b := m.builder()
	p := b.plan(g)
	if !manifest.Errors(b.faults) {
		m.ends(b, g, &p)
	}
	return p, b.faults
}

// start starts a flow, which goes on with the counts of before. With an error among the faults it
// does not run.
func (m *Manager) start(ctx context.Context, shared *builder, g *manifest.Graph, before Status) []manifest.Fault {
	b := m.builder()
	p := b.plan(g)
	var says []func() string
	if !manifest.Errors(b.faults) {
		says = slices.Concat(m.ends(b, g, &p), notes(p), m.filler.notes(p))
	}
	if manifest.Errors(b.faults) {
		p.Close(nil)
		return b.faults
	}
	o := graph.Options{Dir: graphDir(m.o.StateDir, g.Name), Log: func(text string) { m.o.log(true, g.Name, text) }, Stage: m.o.Stage, Remake: b.remake(g.Name)}
	closeDead := func() {}
	if dead := g.DeadLetter; dead != nil {
		letters, err := graph.OpenDeadLetters(filepath.Join(m.o.StateDir, dead.Directory, g.Name), int64(dead.MaxBytes), o.Log)
		if err != nil {
			b.fault(dead.Pos(), manifest.Error, "the dead letters cannot be kept: %v", err)
			p.Close(nil)
			return b.faults
		}
		o.DeadLetters, closeDead = letters, func() { _ = letters.Close() } // it has logged what failed
	}
	gr, err := graph.New(p, o)
	if err != nil {
		b.fault(g.Pos(), manifest.Error, "%v", err)
		p.Close(nil)
		closeDead()
		return b.faults
	}
	r := &running{g: g, digest: shared.digest(g), graph: gr, says: says, builder: b, before: before, ended: make(chan struct{})}
	m.mu.Lock()
	m.flows[g.Name] = r
	m.mu.Unlock()
	m.ran[g.Name] = true
	go func() {
		defer close(r.ended)
		defer closeDead()
		_ = gr.Run(context.WithoutCancel(ctx)) // it ends by stop alone
	}()
	m.o.log(false, g.Name, "the flow runs: "+strings.Join(Ways(g), "; "))
	return b.faults
}

// stop stops flows, all at once. Some go on by another plan; that of a flow that is gone is empty.
func (m *Manager) stop(all []*running, next map[*running]graph.Plan) {
	ctx, cancel := context.WithTimeout(context.Background(), m.o.Drain)
	defer cancel()
	var stopping sync.WaitGroup
	for _, r := range all {
		stopping.Go(func() {
			if p, ok := next[r]; ok {
				r.graph.StopFor(ctx, p)
			} else {
				r.graph.Stop(ctx)
			}
			<-r.ended
		})
	}
	stopping.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range all {
		if m.flows[r.g.Name] == r {
			delete(m.flows, r.g.Name)
		}
	}
}

func (m *Manager) stopAll() { m.stop(slices.Collect(maps.Values(m.all())), nil) }

func (m *Manager) running(name string) *running {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flows[name]
}

func (m *Manager) all() map[string]*running {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.flows)
}

// refuse notes why a change of a flow's manifests is not taken over.
func (m *Manager) refuse(r *running, why string) {
	const text = "the change is not taken over, and the flow goes on as it was: "
	m.mu.Lock()
	news := r.note != text+why
	r.note = text + why
	m.mu.Unlock()
	if news {
		m.o.log(true, r.g.Name, r.note)
	}
}

// settle notes that the manifests of a flow are again as it runs.
func (m *Manager) settle(r *running) {
	m.mu.Lock()
	was := r.note
	r.note = ""
	m.mu.Unlock()
	if was != "" {
		m.o.log(false, r.g.Name, "its manifests are again as the flow runs")
	}
}

// status returns what its graph does. Its counts go on over changes.
func (r *running) status() Status {
	g, b := r.graph.Status(), &r.before
	s := Status{Name: r.g.Name, State: Running, In: b.In + g.In, Out: b.Out + g.Out, Dropped: b.Dropped + g.Dropped, Errors: b.Errors + g.Errors,
		InFlight: g.InFlight, OldestAge: g.OldestAge, Gaps: b.Gaps}
	for _, unfit := range r.builder.unfit { // its source has taken those too, and they failed
		n := unfit()
		s.In, s.Errors = s.In+n, s.Errors+n
	}
	for _, lost := range r.builder.lost {
		s.Errors += lost()
	}
	for _, gaps := range r.builder.gaps {
		s.Gaps += gaps()
	}
	var troubles, texts []string
	if g.State == graph.Failing {
		troubles = append(troubles, g.Text)
	} else {
		texts = append(texts, g.Text)
	}
	for _, trouble := range r.builder.troubles {
		troubles = append(troubles, trouble())
	}
	for _, say := range r.says {
		texts = append(texts, say())
	}
	texts = append(texts, forgotten(s.Gaps), g.LastError)
	if troubles = distinct(troubles...); len(troubles) > 0 {
		s.State = Failed
	}
	s.Fault, s.Text = strings.Join(troubles, "; "), strings.Join(distinct(append(troubles, texts...)...), "; ")
	return s
}

// Status returns what the flows do, sorted by name.
func (m *Manager) Status() (all []Status) {
	m.mu.Lock()
	flows, rows, left := maps.Clone(m.flows), maps.Clone(m.rows), m.left
	notes := map[string]string{}
	for name, r := range flows {
		notes[name] = r.note
	}
	m.mu.Unlock()
	m.addLeft(rows, left)
	for name, r := range flows {
		s := r.status()
		s.ClientIDs = m.clientIDs(r.g)
		s.Fault = strings.Join(distinct(notes[name], s.Fault), "; ")
		s.Text = strings.Join(distinct(notes[name], s.Text), "; ")
		rows[name] = s
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		all = append(all, rows[name])
	}
	return all
}

// distinct returns each text once, and no empty one.
func distinct(texts ...string) (all []string) {
	for _, text := range texts {
		if text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// Trouble says what is wrong with the directory as a whole; empty: nothing.
func (m *Manager) Trouble() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble
}

// maxTold bounds the faults that are remembered.
const maxTold = 10_000

// tell logs the faults that were not there before.
func (m *Manager) tell(faults []manifest.Fault) {
	now := map[string]bool{}
	for _, f := range faults {
		text := f.String()
		if len(now) >= maxTold || now[text] {
			continue
		}
		now[text] = true
		if !m.told[text] {
			m.o.log(true, "", text)
		}
	}
	m.told = now
}

// firstError returns the text of the first error, and how many there are beside it; empty: there is
// none.
func firstError(faults []manifest.Fault) string {
	text, more := "", 0
	for _, f := range faults {
		switch {
		case f.Severity != manifest.Error:
		case text == "":
			text = f.String()
		default:
			more++
		}
	}
	if more > 0 {
		text += fmt.Sprintf("; hubhop flow check names %d more", more)
	}
	return text
}

// worst returns the text of the first error, or else of the first warning; empty: there is none.
func worst(faults []manifest.Fault) string {
	if text := firstError(faults); text != "" || len(faults) == 0 {
		return text
	}
	return faults[0].String()
}

// of returns the faults of a file.
func of(faults []manifest.Fault, base string) (all []manifest.Fault) {
	for _, f := range faults {
		if filepath.Base(f.File) == base {
			all = append(all, f)
		}
	}
	return all
}

// errorOf returns the error that keeps a flow from running: one of its own file, or any.
func errorOf(faults []manifest.Fault, name string, set *manifest.Set) string {
	if file := set.FileOf(name); file != "" {
		if text := firstError(of(faults, filepath.Base(file))); text != "" {
			return text
		}
	}
	if text := firstError(faults); text != "" {
		return text
	}
	return "its manifest has an error"
}
