package failover

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// Link is what a session needs of a connection to a hub; *hub.Link fits.
type Link interface {
	Done() <-chan struct{}
	Err() error
	Carried() bool // a PUBACK was received
	Close(ctx context.Context)
	Abort()
}

// Target is one attempt that a session asks for.
type Target struct {
	Host, DeviceID string
	Sequential     bool
	Early          bool   // messages may leave before the session is accepted
	TLSUp          func() // to be called when TCP and TLS are through
}

// Session keeps one device connected. The functions are its only way to touch the world; all are required but Open, Save and
// Observe.
type Session[L Link] struct {
	Options Options
	Cached  State

	Dial     func(ctx context.Context, t Target) (L, error)
	Register func(ctx context.Context, r dps.Request) (dps.Assignment, error)
	// Open promises the next Register a connection that is ready. It is called from the loop and must return at once; hold makes the
	// connection and keeps it until Register has taken it or ctx ends. A process may let hold do nothing.
	Open func(ctx context.Context) (hold func())
	// Serve puts a link to work until ctx or the link ends. It is called for one link at a time. Whatever it returns, the link is
	// closed afterwards: in order when ctx ended it, else with a reset unless Serve closed it itself.
	Serve func(ctx context.Context, l L, provisional bool) error
	// Save keeps the state for the next run. It is called from the loop, so it may be slow only as a disk is.
	Save func(State)
	// Observe hears of everything worth telling, in order. It must not block, and may be called from several goroutines.
	Observe func(Note)

	sleeps atomic.Pointer[time.Time]
}

// Sleeps returns when the session wakes up by itself if it has no link and tries nothing now; else
// zero.
func (s *Session[L]) Sleeps() time.Time {
	if t := s.sleeps.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// NoteKind says what a Note tells.
type NoteKind uint8

// The kinds of notes.
const (
	NoteDialing   NoteKind = iota // an attempt starts
	NoteUp                        // a link is up and at work; Took is the time since the dial began
	NoteConfirmed                 // DPS has confirmed the provisional link that is at work
	NoteLost                      // the served link has ended (also a planned end)
	NoteAsking                    // DPS is being asked
	NoteWaiting                   // DPS has not decided yet; Took is the time since it was asked, Step the step that it has not answered
	NoteAssigned                  // DPS has decided; Took is the time of the registration, Unchanged means that it named the same hub as before
	NoteDecision                  // a row of the table was applied
)

// Note is something worth telling.
type Note struct {
	Kind        NoteKind
	Host        string
	Took        time.Duration
	Provisional bool
	Unchanged   bool     // NoteAssigned only
	Step        dps.Step // NoteWaiting only
	Err         error
	Signal      Signal
	Decision    Decision // NoteDecision only
}

// closeTimeout is how long an orderly end of a link may take.
const closeTimeout = 2 * time.Second

// Run keeps the device connected until ctx ends. It returns when everything it started has ended, links in order.
func (s *Session[L]) Run(ctx context.Context) {
	life, stop := context.WithCancel(ctx)
	r := &runner[L]{Session: s, life: life, m: NewMachine(s.Options, s.Cached), events: make(chan Event),
		ways: map[int]*way{}, turn: make(chan struct{}, 1)}
	if r.Open == nil {
		r.Open = func(context.Context) func() { return func() {} }
	}
	if r.Save == nil {
		r.Save = func(State) {}
	}
	if r.Observe == nil {
		r.Observe = func(Note) {}
	}
	r.stop = stop
	defer func() {
		if p := r.panicked.Load(); p != nil {
			panic(p)
		}
	}()
	defer r.wg.Wait()
	defer stop()
	r.perform(r.m.Step(time.Now(), Start{}))
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var wake <-chan time.Time
		next := r.m.NextWake()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			wake = timer.C
		}
		if len(r.ways) == 0 {
			s.sleeps.Store(&next)
		} else {
			s.sleeps.Store(nil)
		}
		select {
		case e := <-r.events:
			if a, ok := e.(Assigned); ok && r.ways[a.ID] != nil {
				r.Observe(Note{Kind: NoteAssigned, Host: a.Hub, Took: a.took, Unchanged: a.Hub == r.m.home.host})
			}
			effects := r.m.Step(time.Now(), e)
			r.forget(ended(e))
			r.perform(effects)
		case <-wake:
			r.perform(r.m.Step(time.Now(), Tick{}))
		case <-life.Done():
			return
		}
	}
}

// PanicError is a panic of a goroutine that a session has started. It ends the session: Run panics
// with it in the goroutine of its caller, because only there can the caller recover.
type PanicError struct {
	Value any
	stack []byte
}

func (p *PanicError) Error() string { return fmt.Sprint(p.Value) }

// Stack returns the stack of the goroutine that panicked.
func (p *PanicError) Stack() []byte { return p.stack }

// start runs f in a goroutine of the session.
func (r *runner[L]) start(f func()) {
	r.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				r.panicked.CompareAndSwap(nil, &PanicError{p, debug.Stack()})
				r.stop()
			}
		}()
		f()
	})
}

// ended names the way that an event is the last word of, 0 if it goes on.
func ended(e Event) int {
	switch e := e.(type) {
	case DialFailed:
		return e.ID
	case Lost:
		return e.ID
	case Assigned:
		return e.ID
	case RegisterFailed:
		return e.ID
	default:
		return 0
	}
}

// runner is a running session. Its loop owns all fields but wg, events, turn, stop and panicked.
type runner[L Link] struct {
	*Session[L]
	life     context.Context // of everything the session starts
	stop     context.CancelFunc
	m        *Machine
	events   chan Event
	wg       sync.WaitGroup
	ways     map[int]*way
	turn     chan struct{}              // held by the link that is served
	panicked atomic.Pointer[PanicError] // the first one
	server   *way
	close    context.CancelFunc // ends the connection to DPS that was opened ahead; nil if there is none
}

// way is an attempt, then a link, or a registration, as the loop sees it.
type way struct {
	host   string
	ctx    context.Context    // its life
	cancel context.CancelFunc // ends it at once
	work   context.Context    // of serving
	retire context.CancelFunc // ends a link in order
	serve  chan bool          // one slot: put the link to work; the value says provisional
}

func (r *runner[L]) perform(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Dial:
			w := r.open(e.ID, e.Host)
			r.Observe(Note{Kind: NoteDialing, Host: e.Host})
			r.start(func() { r.dial(w, e) })
		case Register:
			w := r.open(e.ID, "")
			r.Observe(Note{Kind: NoteAsking})
			r.start(func() { r.register(w, e) })
		case Serve:
			w := r.ways[e.ID]
			if w == r.server { // it is at work already; only its standing has changed
				r.Observe(Note{Kind: NoteConfirmed, Host: w.host})
				continue
			}
			if r.server != nil {
				r.server.retire()
			}
			r.server = w
			w.serve <- e.Provisional
		case Retire:
			r.ways[e.ID].retire()
			r.forget(e.ID)
		case GiveUp:
			r.ways[e.ID].cancel()
			r.forget(e.ID)
		case CancelRegister:
			r.ways[e.ID].cancel()
			r.forget(e.ID)
		case OpenDPS:
			ctx, cancel := context.WithCancel(r.life)
			r.close = cancel
			hold := r.Open(ctx) // not in the goroutine: a Register that follows at once would miss it
			r.start(func() { defer cancel(); hold() })
		case CloseDPS:
			r.close()
		case Save:
			r.Save(r.m.State())
		case Decided:
			r.Observe(Note{Kind: NoteDecision, Host: e.Host, Err: e.Err, Decision: e.Decision})
		}
	}
}

func (r *runner[L]) open(id int, host string) *way {
	w := &way{host: host, serve: make(chan bool, 1)}
	w.ctx, w.cancel = context.WithCancel(r.life)
	w.work, w.retire = context.WithCancel(w.ctx)
	r.ways[id] = w
	return w
}

func (r *runner[L]) forget(id int) {
	if w := r.ways[id]; w != nil && w == r.server {
		r.server = nil
	}
	delete(r.ways, id)
}

// post tells the loop, unless it has ended.
func (r *runner[L]) post(e Event) {
	select {
	case r.events <- e:
	case <-r.life.Done():
	}
}

// dial is the life of one attempt and of the link it becomes.
func (r *runner[L]) dial(w *way, e Dial) {
	defer w.cancel()
	began := time.Now()
	link, err := r.Dial(w.ctx, Target{Host: e.Host, DeviceID: e.DeviceID, Sequential: e.Sequential, Early: e.Early,
		TLSUp: func() { r.post(TLSUp{ID: e.ID}) }})
	if err != nil {
		if w.ctx.Err() == nil {
			r.post(DialFailed{ID: e.ID, Signal: Classify(w.ctx, err), Err: err})
		}
		return
	}
	r.post(Up{ID: e.ID, Took: time.Since(began)})

	var provisional bool
	select {
	case provisional = <-w.serve:
	case <-w.work.Done():
		r.finish(w, link)
		return
	case <-link.Done():
		link.Abort()
		r.post(Lost{ID: e.ID, Signal: Classify(w.ctx, link.Err()), Err: link.Err(), Acked: link.Carried()})
		return
	}
	select { // the one before may still be winding down
	case r.turn <- struct{}{}:
	case <-w.work.Done():
		r.finish(w, link)
		return
	}
	r.Observe(Note{Kind: NoteUp, Host: e.Host, Took: time.Since(began), Provisional: provisional})
	err = r.Serve(w.work, link, provisional)
	<-r.turn
	if w.work.Err() != nil { // ended by us
		r.finish(w, link)
		return
	}
	carried := link.Carried()
	// The reason of a link that has ended comes first: whatever Serve tripped over was its consequence. A planned end is Serve's to say,
	// and so is what was wrong with a link that lives.
	select {
	case <-link.Done():
		if err == nil || Classify(w.ctx, err) != TokenRenewal {
			err = link.Err()
		}
		link.Abort()
	default:
		link.Abort()
		err = cmp.Or(err, link.Err())
	}
	signal := Classify(w.ctx, err)
	r.Observe(Note{Kind: NoteLost, Host: e.Host, Err: err, Signal: signal})
	r.post(Lost{ID: e.ID, Signal: signal, Err: err, Acked: carried})
}

// finish ends a link that is not needed any more: at once when it was given up, else in order.
func (r *runner[L]) finish(w *way, link L) {
	if w.ctx.Err() != nil && r.life.Err() == nil {
		link.Abort()
		return
	}
	closeInOrder(link)
}

func closeInOrder(link Link) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	link.Close(ctx)
}

func (r *runner[L]) register(w *way, e Register) {
	defer w.cancel()
	ctx, began := w.ctx, time.Now()
	progress, stop := stillWaiting(r.Observe)
	a, err := r.Register(ctx, dps.Request{Patience: e.Patience, Sequential: e.Sequential, Progress: progress})
	stop()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.post(failed(ctx, e.ID, err))
		return
	}
	r.post(Assigned{ID: e.ID, Hub: a.Hub, DeviceID: a.DeviceID, Substatus: a.Substatus, took: time.Since(began)})
}

// tellAfter is how long DPS may take until an observer is told. It is told again after twice that
// time, and so on.
const tellAfter = 10 * time.Second

// stillWaiting tells observe after 10 s, 20 s, 40 s and so on that DPS has not answered, and in
// which step. progress sets the step. After stop has returned, observe is not called any more.
func stillWaiting(observe func(Note)) (progress func(dps.Step), stop func()) {
	var step atomic.Value
	step.Store(dps.StepDial)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		began, next := time.Now(), time.NewTimer(tellAfter)
		defer next.Stop()
		for {
			select {
			case <-next.C:
				took := time.Since(began)
				observe(Note{Kind: NoteWaiting, Took: took, Step: step.Load().(dps.Step)})
				next.Reset(took)
			case <-done:
				return
			}
		}
	})
	return func(s dps.Step) { step.Store(s) }, func() { close(done); wg.Wait() }
}
