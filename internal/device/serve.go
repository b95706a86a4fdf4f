package device

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/leash"
)

// duty is what a device does on the link that it serves: the outbox drains, properties are brought
// together, and what comes in is dealt with. While nothing happens no goroutine runs for it.
type duty struct {
	d      *Device
	l      *link
	over   func() // asks the session to end the link
	renews atomic.Bool
	twin   following

	ctx context.Context // of the service; the work ends with it

	mu      sync.Mutex
	cause   error           // why the work ended the link; nil: it has not
	stopped bool            // the work must end
	closed  bool            // no goroutine is started any more
	paths   int             // that run
	work    context.Context // of these; nil: none runs, and a link at rest needs no context
	cancel  context.CancelFunc
	running sync.WaitGroup // the goroutines of the paths
}

// serve begins to work on a link. It returns a function that ends the work, and returns the reason
// if it knows one that the link does not.
func (d *Device) serve(ctx context.Context, l *link, over func()) (end func() error) {
	w := &duty{d: d, l: l, over: over, ctx: ctx}
	w.twin.w = w
	l.duty.Store(w)
	if err := d.run("serving", func() error { w.begin(); return nil }); err != nil {
		w.fail(err)
	}
	return func() error {
		defer d.serving(nil)
		defer w.wait() // also after a panic, because the paths of two links must not run together
		defer w.halt()
		defer w.stop(nil)
		return d.run("serving", w.end)
	}
}

// fail ends the link for a reason that the link does not know.
func (w *duty) fail(err error) {
	w.stop(err)
	w.over()
}

// stop ends the work. The first reason that is given to it counts.
func (w *duty) stop(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.stopped, w.cause = true, why
	}
	if w.cancel != nil {
		w.cancel()
	}
}

// ended says whether the work must end.
func (w *duty) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped || w.ctx.Err() != nil
}

// enter begins a path. Its context ends when the work must end. leave ends the path.
func (w *duty) enter() context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enterLocked()
}

func (w *duty) enterLocked() context.Context {
	if w.paths++; w.work == nil {
		w.work, w.cancel = leash.Under(w.ctx)
	}
	if w.stopped {
		w.cancel()
	}
	return w.work
}

func (w *duty) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paths--; w.paths == 0 {
		w.cancel()
		w.work, w.cancel = nil, nil
	}
}

// start runs a path of the work in a goroutine. After a panic the path begins again. An error of it
// ends the link.
func (w *duty) start(path string, run func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	ctx := w.enterLocked()
	w.d.spawnIn(&w.running, path, func() {
		defer w.leave()
		if err := w.d.keep(ctx, path, run); err != nil && ctx.Err() == nil {
			w.fail(err)
		}
	})
}

// wait waits for the paths. No path begins any more.
func (w *duty) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.twin.stop()
	w.running.Wait()
}

// halt sends nothing new any more.
func (w *duty) halt() {
	if w.l.drain != nil {
		w.l.drain.Stop()
	}
}

func (w *duty) begin() {
	w.d.serving(w.l)
	w.l.Serve(w)
	if w.l.drain != nil {
		w.l.drain.Start(func(err error) {
			if !w.ended() {
				w.fail(err)
			}
		})
	}
	if w.d.waits() {
		w.start("backlog", func(ctx context.Context) error { return w.d.tellBacklog(ctx, w.l.Host()) })
	}
	if !w.d.app.Off.Desired || !w.d.app.Off.Reported {
		w.twin.wake(false)
	}
}

// FirstAck tells that telemetry flows.
func (w *duty) FirstAck() {
	w.d.mu.Lock()
	renewed := w.d.renewed
	w.d.mu.Unlock()
	w.d.emit(journal.Event{Kind: journal.Acknowledged, Hub: w.l.Host(), Routine: renewed, Text: "telemetry flows on " + w.l.Host()})
}

// Method answers a direct method, in a goroutine of its own.
func (w *duty) Method(m *hub.Method) {
	d := w.d
	if !d.methods.enter(m.Size()) {
		status := http.StatusServiceUnavailable
		if err := w.l.Respond(m, status, explain("too many methods are running")); err != nil {
			status = 0
		}
		d.answered(m, status, 0)
		return
	}
	d.handlers.run(d.bulkheads, func() {
		defer d.methods.leave(m.Size())
		// The method does not end with the work: it may still answer while its link is replaced or
		// the device stops.
		d.method(context.WithoutCancel(w.ctx), w.l.Link, m)
	})
}

// Desired lets the twin take the changes of desired properties.
func (w *duty) Desired() { w.twin.wake(true) }

// Messages handles the cloud-to-device messages, until none waits.
func (w *duty) Messages() {
	w.start("messages", func(ctx context.Context) error { return w.d.messages(ctx, w.l.Link) })
}

// Renew ends the link, because its token ends soon.
func (w *duty) Renew() {
	w.renews.Store(true)
	w.over()
}

// end winds the duty down, so that the next link need not send again what this one has sent.
func (w *duty) end() error {
	d, l := w.d, w.l.Link
	var err error
	calm := false
	if w.renews.Load() && !ended(l) && !w.ended() {
		// An hour's token leaves minutes, and telemetry flows on meanwhile.
		calm = w.await(renewalTimeout)
		err = &hub.Error{Phase: hub.PhaseSession, Host: l.Host(), Err: hub.ErrRenewal}
	}
	// Nothing new goes out from here on. What is under way gets the time for its PUBACK.
	w.halt()
	switch {
	case d.stopping.Load(): // it has waited already
	case err == nil:
		settle(l, retireTimeout)
	default:
		began := time.Now()
		settle(l, within(l, settleTimeout))
		if calm { // methods that came in the last moment
			w.await(settleTimeout - time.Since(began))
		}
	}
	w.stop(nil)
	w.wait()
	if err != nil { // unless the link was lost before: it knows
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l.Close(short, err)
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil || errors.Is(w.cause, context.Canceled) {
		return nil
	}
	return w.cause
}

func ended(l *hub.Link) bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// settle waits for PUBACKs.
func settle(l *hub.Link, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_ = l.Settle(ctx)
}

// await waits until no method runs, up to limit or the end of the work, and says whether that came.
func (w *duty) await(limit time.Duration) bool {
	defer w.leave()
	ctx, cancel := context.WithTimeout(w.enter(), within(w.l.Link, limit))
	defer cancel()
	w.d.handlers.wait(ctx)
	return ctx.Err() == nil
}

// within shortens a limit so that it ends before the token does, because the hub then closes the
// link. It leaves half of the rest of the token's time, or a few seconds.
func within(l *hub.Link, limit time.Duration) time.Duration {
	left := max(0, time.Until(l.Expires()))
	return min(limit, left-min(left/2, swapMargin))
}
