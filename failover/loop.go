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
	"github.com/hubhop-iot/hubhop/internal/leash"
)

// closeTimeout is how long an orderly end of a link may take.
const closeTimeout = 2 * time.Second

// Run keeps the device connected until ctx ends. It returns when everything that it started has
// ended, the links in order.
func (s *Session[L]) Run(ctx context.Context) {
	ended := make(chan *PanicError, 1)
	r := s.begin(ctx, func(p *PanicError) { ended <- p })
	defer context.AfterFunc(ctx, r.stop)()
	if p := <-ended; p != nil {
		panic(p)
	}
}

// Start keeps the device connected until stop is called, and returns at once. It calls ended once,
// in a goroutine of its own, when everything that it started has ended, the links in order. p is
// the panic that has ended the session, nil if there was none. stop may be called more than once,
// by any goroutine.
func (s *Session[L]) Start(ended func(p *PanicError)) (stop func()) {
	return s.begin(context.Background(), ended).stop
}

func (s *Session[L]) begin(life context.Context, ended func(p *PanicError)) *loop[L] {
	var cached State
	if s.Cached != nil {
		cached, s.Cached = *s.Cached, nil
	}
	r := &loop[L]{Session: s, m: newMachine(&s.Options, cached), life: life, ended: ended}
	if r.Open == nil {
		r.Open = func(context.Context) func() { return func() {} }
	}
	if r.Save == nil {
		r.Save = func(State) {}
	}
	if r.Observe == nil {
		r.Observe = func(Note) {}
	}
	r.post(func() { r.step(Start{}) })
	return r
}

// PanicError is a panic in a goroutine of a session. It ends the session. Run panics with it in the
// goroutine of its caller, because only there can the caller recover.
type PanicError struct {
	Value any
	State State // what the next session should know
	stack []byte
}

func (p *PanicError) Error() string { return fmt.Sprint(p.Value) }

// Stack returns the stack of the goroutine that panicked.
func (p *PanicError) Stack() []byte { return p.stack }

// loop is a running session. It is a mailbox: all other goroutines and timers put in what has
// happened, and whoever puts in the first event starts the goroutine that deals with all of them
// and then ends. That goroutine alone uses the fields below mu's. So while a link is at work and
// nothing happens, the session has no goroutine and no timer.
type loop[L Link] struct {
	*Session[L]
	life  context.Context // of Run; no event is dealt with after its end
	ended func(*PanicError)
	wg    sync.WaitGroup // of all other goroutines of the session

	mu       sync.Mutex
	events   []event // what has happened and was not dealt with
	works    bool    // the goroutine runs
	over     bool    // the session ends: no event is taken any more
	panicked *PanicError

	m        *Machine
	timer    *time.Timer // of the machine's next wake; nil while it waits for nothing
	ways     []*way[L]
	server   *way[L]            // the link that is served, or is next when working has ended
	working  *way[L]            // the link that Serve was called for, until its work ends
	closeDPS context.CancelFunc // ends the connection to DPS that was opened ahead, if any
}

// way is an attempt and then the link that it becomes, or a registration.
type way[L Link] struct {
	id      int
	host    string
	began   time.Time
	life    leash.Leash
	givenUp atomic.Bool // the link is to be reset, not closed in order; set before life ends

	isUp        bool // link is set
	link        L
	provisional bool
	over        atomic.Bool  // the work wants the link to end
	stopWork    func() error // nil: Serve has not been called
	ending      bool
}

// event is something that has happened. forget, unless it is nil, is called in do's place if the
// session ends before.
type event struct{ do, forget func() }

// post puts in an event that may be forgotten if the session ends.
func (r *loop[L]) post(do func()) { r.put(event{do: do}) }

// put puts in an event.
func (r *loop[L]) put(e event) {
	if !r.take(e) && e.forget != nil {
		e.forget()
	}
}

// take returns false if the session ends.
func (r *loop[L]) take(e event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.endsLocked() {
		return false
	}
	r.events = append(r.events, e)
	r.wakeLocked()
	return true
}

// stop ends the session.
func (r *loop[L]) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopLocked()
}

func (r *loop[L]) stopLocked() {
	if !r.over {
		r.over = true
		r.wakeLocked()
	}
}

// ends says whether the session ends.
func (r *loop[L]) ends() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.endsLocked()
}

func (r *loop[L]) endsLocked() bool { return r.over || r.life.Err() != nil }

func (r *loop[L]) wakeLocked() {
	if !r.works {
		r.works = true
		go r.run()
	}
}

// run deals with events until there is none, or the session ends.
func (r *loop[L]) run() {
	for {
		events, over := r.next()
		if over {
			r.wait(events)
			return
		}
		if len(events) == 0 {
			return
		}
		for i, e := range events {
			if r.ends() {
				r.wait(events[i:])
				return
			}
			r.beat.begin()
			r.guard(func() {
				e.do()
				r.plan()
			})
			r.beat.rest()
		}
	}
}

// next returns the events that have come. If there is none, the goroutine must end.
func (r *loop[L]) next() (events []event, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, r.events = r.events, nil
	over = r.endsLocked()
	r.works = over || len(events) > 0
	return events, over
}

// wait ends everything that the session has started, and tells that the session has ended. left are
// events that nobody has dealt with.
func (r *loop[L]) wait(left []event) {
	r.mu.Lock()
	left = append(left, r.events...)
	r.events = nil
	r.mu.Unlock()
	for _, e := range left {
		if e.forget != nil {
			r.start(e.forget)
		}
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.beat.plan(time.Time{})
	if r.closeDPS != nil {
		r.closeDPS()
	}
	for _, w := range r.ways {
		w.life.End()
		r.end(w)
	}
	r.wg.Wait()
	r.mu.Lock()
	p := r.panicked
	r.mu.Unlock()
	if p != nil {
		p.State = r.m.State()
	}
	r.ended(p)
}

// plan sets the timer to when the machine wants to be woken.
func (r *loop[L]) plan() {
	next := r.m.NextWake()
	switch {
	case r.timer != nil && next.IsZero():
		r.timer.Stop()
		r.timer = nil
	case r.timer != nil:
		r.timer.Reset(time.Until(next))
	case !next.IsZero():
		r.timer = time.AfterFunc(time.Until(next), func() { r.post(func() { r.step(Tick{}) }) })
	}
	r.beat.plan(next)
	if len(r.ways) > 0 {
		r.sleeps.Store(nil)
		return
	}
	at := next
	r.sleeps.Store(&at)
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
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.panicked == nil {
			r.panicked = &PanicError{Value: p, stack: debug.Stack()}
		}
		r.stopLocked()
	}
}

// start runs f in a goroutine of the session.
func (r *loop[L]) start(f func()) { r.wg.Go(func() { r.guard(f) }) }

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
			ctx, cancel := context.WithCancel(context.Background())
			r.closeDPS = cancel
			hold := r.Open(ctx) // here, so that a Register that follows at once knows of it
			r.start(func() { defer cancel(); hold() })
		case CloseDPS:
			r.closeDPS()
		case Save:
			r.beat.rest()
			r.Save(r.m.State())
			r.beat.begin()
		case Decided:
			r.Observe(Note{Kind: NoteDecision, Host: e.Host, Err: e.Err, Decision: e.Decision})
		}
	}
}

func (r *loop[L]) open(id int, host string) *way[L] {
	w := &way[L]{id: id, host: host, began: time.Now()}
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
	w.life.End()
	r.end(w)
	r.forget(w)
}

// dial makes one attempt. It ends when the attempt has failed, or has become a link.
func (r *loop[L]) dial(w *way[L], e Dial) {
	ctx, cancel := leash.Under(&w.life)
	defer cancel()
	link, err := r.Dial(ctx, Target{Host: e.Host, DeviceID: e.DeviceID, Sequential: e.Sequential, Early: e.Early,
		TLSUp: func() { r.post(func() { r.step(TLSUp{ID: e.ID}) }) }})
	if err != nil {
		defer w.life.End()
		if w.life.Err() == nil {
			signal := Classify(&w.life, err)
			r.post(func() { r.last(w, DialFailed{ID: e.ID, Signal: signal, Err: err}) })
		}
		return
	}
	took := time.Since(w.began)
	r.put(event{do: func() { r.up(w, link, took) }, forget: func() { r.finish(w, link) }})
}

// up takes over a new link.
func (r *loop[L]) up(w *way[L], link L, took time.Duration) {
	if w.life.Err() != nil { // given up at the last moment
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
		old.life.End()
		r.end(old)
	}
	r.server, w.provisional = w, provisional
	w.link.OnEnd(func() { r.post(func() { r.end(w) }) })
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
	w.stopWork = r.Serve(&w.life, w.link, w.provisional, func() {
		if w.over.CompareAndSwap(false, true) {
			r.post(func() { r.end(w) })
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
	if w.life.Err() != nil { // ended by us
		r.post(func() { r.idle(w) })
		r.finish(w, w.link)
		return
	}
	defer w.life.End()
	carried := w.link.Carried()
	// The link knows which reason came first: its own, which then caused the error of the work, or
	// the error of the work.
	w.link.Abort(err)
	err = w.link.Err()
	signal := Classify(&w.life, err)
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
	defer w.life.End()
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
	defer w.life.End()
	ctx, cancel := leash.Under(&w.life)
	defer cancel()
	progress, stop := stillWaiting(r.Observe)
	a, err := r.Register(ctx, dps.Request{Patience: e.Patience, Sequential: e.Sequential, Progress: progress})
	stop()
	took := time.Since(w.began)
	if w.life.Err() != nil {
		return
	}
	if err != nil {
		f := failed(&w.life, e.ID, err)
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
