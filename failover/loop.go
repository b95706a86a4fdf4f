package failover

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// closeTimeout is how long an orderly end of a link may take.
const closeTimeout = 2 * time.Second

// Run keeps the device connected until ctx ends. It returns when everything that it started has
// ended, the links in order.
func (s *Session[L]) Run(ctx context.Context) {
	r := s.begin(ctx)
	r.run()
	r.wait()
}

// begin is not part of Run, because the stack of Run stays small for as long as the session runs,
// if Run does next to nothing itself.
//
//go:noinline
func (s *Session[L]) begin(ctx context.Context) *loop[L] {
	r := &loop[L]{Session: s, life: ctx, m: NewMachine(s.Options, s.Cached), do: make(chan func()), over: make(chan struct{}),
		bound: context.WithoutCancel(ctx)}
	if r.Open == nil {
		r.Open = func(context.Context) func() { return func() {} }
	}
	if r.Save == nil {
		r.Save = func(State) {}
	}
	if r.Observe == nil {
		r.Observe = func(Note) {}
	}
	return r
}

// stop ends the session.
func (r *loop[L]) stop() { r.stopOnce.Do(func() { close(r.over) }) }

// wait ends everything that the session has started.
func (r *loop[L]) wait() {
	r.stop()
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.closeDPS != nil {
		r.closeDPS()
	}
	for _, w := range r.ways {
		w.cancel()
		r.end(w)
	}
	r.wg.Wait()
	if p := r.panicked.Load(); p != nil {
		panic(p)
	}
}

// PanicError is a panic in a goroutine of a session. It ends the session: Run panics with it in the
// goroutine of its caller, because only there can the caller recover.
type PanicError struct {
	Value any
	stack []byte
}

func (p *PanicError) Error() string { return fmt.Sprint(p.Value) }

// Stack returns the stack of the goroutine that panicked.
func (p *PanicError) Stack() []byte { return p.stack }

// loop is a running session. The goroutine of Run owns all fields but do, wg, over and panicked.
// While a link is at work and nothing happens, that goroutine is the only one, and no timer runs.
type loop[L Link] struct {
	*Session[L]
	life     context.Context // of Run; the session ends with it
	over     chan struct{}   // closed by stop: the session ends, too; a context below life would cost an idle device more
	stopOnce sync.Once
	bound    context.Context // of ways, which the loop cancels itself: so they cost life nothing
	m        *Machine
	do       chan func() // the other goroutines report here; the loop calls each function
	timer    *time.Timer // fires at the machine's next wake; nil while it waits for nothing
	wg       sync.WaitGroup
	ways     []*way[L]
	server   *way[L]                    // the link that is served, or is next when working has ended
	working  *way[L]                    // the link that Serve was called for, until its work ends
	panicked atomic.Pointer[PanicError] // the first one
	closeDPS context.CancelFunc         // ends the connection to DPS that was opened ahead, if any
}

// way is an attempt and then the link that it becomes, or a registration.
type way[L Link] struct {
	id      int
	host    string
	began   time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	givenUp atomic.Bool // the link is to be reset, not closed in order; set before cancel is called

	isUp        bool // link is set
	link        L
	provisional bool
	over        atomic.Bool  // the work wants the link to end
	stopWork    func() error // nil: Serve has not been called
	ending      bool
}

// run is the loop. It stays in the leanest frames while it waits, because a stack shrinks only as
// far as its waiting goroutine uses little of it.
func (r *loop[L]) run() {
	defer r.contain()
	r.step(Start{})
	for r.turn() {
	}
}

// turn waits for one thing and deals with it. It returns false when the session ends.
func (r *loop[L]) turn() bool {
	wake, lost := r.plan()
	select {
	case f := <-r.do:
		f()
	case <-wake:
		r.step(Tick{})
	case <-lost:
		r.end(r.server)
	case <-r.life.Done():
		return false
	case <-r.over:
		return false
	}
	return true
}

// plan sets the timer to when the machine wants to be woken. It returns the channels of the timer
// and of the served link's end, nil for one that there is not.
//
//go:noinline
func (r *loop[L]) plan() (wake <-chan time.Time, lost <-chan struct{}) {
	next := r.m.NextWake()
	switch {
	case r.timer != nil && next.IsZero():
		r.timer.Stop()
		r.timer = nil
	case r.timer != nil:
		r.timer.Reset(time.Until(next))
		wake = r.timer.C
	case !next.IsZero():
		r.timer = time.NewTimer(time.Until(next))
		wake = r.timer.C
	}
	if len(r.ways) == 0 {
		r.sleeps.Store(&next)
	} else {
		r.sleeps.Store(nil)
	}
	if w := r.server; w != nil && !w.ending {
		lost = w.link.Done()
	}
	return wake, lost
}

func (r *loop[L]) step(e Event) { r.perform(r.m.Step(time.Now(), e)) }

// last is step for the last event of a way.
func (r *loop[L]) last(w *way[L], e Event) {
	effects := r.m.Step(time.Now(), e)
	r.forget(w)
	r.perform(effects)
}

// guard calls f. A panic in f ends the session.
func (r *loop[L]) guard(f func()) {
	defer r.contain()
	f()
}

// contain is deferred. It ends the session if there is a panic.
func (r *loop[L]) contain() {
	if p := recover(); p != nil {
		r.panicked.CompareAndSwap(nil, &PanicError{p, debug.Stack()})
		r.stop()
	}
}

// start runs f in a goroutine of the session.
func (r *loop[L]) start(f func()) { r.wg.Go(func() { r.guard(f) }) }

// post lets the loop call f. It returns false if the loop has ended.
func (r *loop[L]) post(f func()) bool {
	select {
	case r.do <- f:
		return true
	case <-r.life.Done():
		return false
	case <-r.over:
		return false
	}
}

// ends says whether the session ends.
func (r *loop[L]) ends() bool {
	select {
	case <-r.over:
		return true
	default:
		return r.life.Err() != nil
	}
}

func (r *loop[L]) perform(effects []Effect) {
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
			r.serve(r.way(e.ID), e.Provisional)
		case Retire:
			r.retire(r.way(e.ID))
		case GiveUp:
			w := r.way(e.ID)
			w.givenUp.Store(true)
			r.retire(w)
		case CancelRegister:
			r.retire(r.way(e.ID))
		case OpenDPS:
			ctx, cancel := context.WithCancel(r.bound)
			r.closeDPS = cancel
			hold := r.Open(ctx) // here, so that a Register that follows at once knows of it
			r.start(func() { defer cancel(); hold() })
		case CloseDPS:
			r.closeDPS()
		case Save:
			r.Save(r.m.State())
		case Decided:
			r.Observe(Note{Kind: NoteDecision, Host: e.Host, Err: e.Err, Decision: e.Decision})
		}
	}
}

func (r *loop[L]) open(id int, host string) *way[L] {
	w := &way[L]{id: id, host: host, began: time.Now()}
	w.ctx, w.cancel = context.WithCancel(r.bound) //nolint:gosec // the way keeps cancel, and its owner calls it when the way ends
	r.ways = append(r.ways, w)
	return w
}

func (r *loop[L]) forget(w *way[L]) {
	if w == r.server {
		r.server = nil
	}
	r.ways = slices.DeleteFunc(r.ways, func(other *way[L]) bool { return other == w })
}

// way returns the way with an id that the machine still knows.
func (r *loop[L]) way(id int) *way[L] {
	for _, w := range r.ways {
		if w.id == id {
			return w
		}
	}
	return nil
}

// retire ends a way, and the machine will not speak of it again.
func (r *loop[L]) retire(w *way[L]) {
	w.cancel()
	r.end(w)
	r.forget(w)
}

// dial makes one attempt. It ends when the attempt has failed, or has become a link.
func (r *loop[L]) dial(w *way[L], e Dial) {
	link, err := r.Dial(w.ctx, Target{Host: e.Host, DeviceID: e.DeviceID, Sequential: e.Sequential, Early: e.Early,
		TLSUp: func() { r.post(func() { r.step(TLSUp{ID: e.ID}) }) }})
	if err != nil {
		defer w.cancel()
		if w.ctx.Err() == nil {
			signal := Classify(w.ctx, err)
			r.post(func() { r.last(w, DialFailed{ID: e.ID, Signal: signal, Err: err}) })
		}
		return
	}
	took := time.Since(w.began)
	if !r.post(func() { r.up(w, link, took) }) {
		r.finish(w, link)
	}
}

// up takes over a new link.
func (r *loop[L]) up(w *way[L], link L, took time.Duration) {
	if w.ctx.Err() != nil { // given up at the last moment
		r.start(func() { r.finish(w, link) })
		return
	}
	w.isUp, w.link = true, link
	r.step(Up{ID: w.id, Took: took})
}

// serve makes w the link that is served.
func (r *loop[L]) serve(w *way[L], provisional bool) {
	if w == r.server { // it is at work already; only its standing has changed
		r.Observe(Note{Kind: NoteConfirmed, Host: w.host})
		return
	}
	if old := r.server; old != nil {
		old.cancel()
		r.end(old)
	}
	r.server, w.provisional = w, provisional
	r.work()
}

// work puts the link to work that is to be served, if no other one is at work any more.
func (r *loop[L]) work() {
	w := r.server
	if w == nil || w.ending || r.working != nil {
		return
	}
	select {
	case <-w.link.Done(): // it never gets to work
		r.end(w)
		return
	default:
	}
	r.working = w
	r.Observe(Note{Kind: NoteUp, Host: w.host, Took: time.Since(w.began), Provisional: w.provisional})
	w.stopWork = r.Serve(w.ctx, w.link, w.provisional, func() {
		if w.over.CompareAndSwap(false, true) {
			go r.post(func() { r.end(w) }) // not here, because this may be the loop itself
		}
	})
}

// end lets the work on a link wind down, and closes the link. It does nothing for a way that has no
// link.
func (r *loop[L]) end(w *way[L]) {
	if !w.isUp || w.ending {
		return
	}
	w.ending = true
	r.start(func() { r.windDown(w) })
}

// windDown ends a link: because ctx has ended, or the link, or because its work wants it.
func (r *loop[L]) windDown(w *way[L]) {
	var err error
	served := w.stopWork != nil
	if served {
		err = w.stopWork()
	}
	if w.ctx.Err() != nil { // ended by us
		r.post(func() { r.idle(w) })
		r.finish(w, w.link)
		return
	}
	defer w.cancel()
	carried := w.link.Carried()
	// The link knows which reason came first: its own, which then caused the error of the work, or
	// the error of the work.
	w.link.Abort(err)
	err = w.link.Err()
	signal := Classify(w.ctx, err)
	r.post(func() {
		if served {
			r.Observe(Note{Kind: NoteLost, Host: w.host, Err: err, Signal: signal})
		}
		r.idle(w)
		r.last(w, Lost{ID: w.id, Signal: signal, Err: err, Acked: carried})
	})
}

// idle notes that the work on w has ended, so that the next link can be put to work.
func (r *loop[L]) idle(w *way[L]) {
	if r.working == w {
		r.working = nil
		r.work()
	}
}

// finish ends a link that is not needed any more: with a reset if it was given up, else in order.
func (r *loop[L]) finish(w *way[L], link L) {
	defer w.cancel()
	if w.givenUp.Load() && !r.ends() {
		link.Abort(nil)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	link.Close(ctx, nil)
}

// register makes one registration.
func (r *loop[L]) register(w *way[L], e Register) {
	defer w.cancel()
	progress, stop := stillWaiting(r.Observe)
	a, err := r.Register(w.ctx, dps.Request{Patience: e.Patience, Sequential: e.Sequential, Progress: progress})
	stop()
	took := time.Since(w.began)
	if w.ctx.Err() != nil {
		return
	}
	if err != nil {
		f := failed(w.ctx, e.ID, err)
		r.post(func() { r.last(w, f) })
		return
	}
	r.post(func() {
		if r.way(w.id) == nil { // it was cancelled at the last moment
			return
		}
		r.Observe(Note{Kind: NoteAssigned, Host: a.Hub, Took: took, Unchanged: a.Hub == r.m.home.host})
		r.last(w, Assigned{ID: e.ID, Hub: a.Hub, DeviceID: a.DeviceID, Substatus: a.Substatus})
	})
}
