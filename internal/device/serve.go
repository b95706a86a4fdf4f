package device

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// link is a session with a hub and the drain that feeds it, which may have begun before the session was accepted.
type link struct {
	*hub.Link
	drain *telemetry.Drain // nil without telemetry
	flows *firstAck
	ends  time.Time // what its token says, by the device's clock; zero with a certificate
}

// dial makes one attempt. What waits in the outbox leaves with its CONNECT if it may: then the first PUBACK costs no round trip more
// than the first CONNACK.
func (d *Device) dial(ctx context.Context, dialer *hub.Dialer, t failover.Target) (*link, error) {
	var l link
	a := hub.Attempt{Host: t.Host, DeviceID: t.DeviceID, Gateway: d.id.Gateway, Sequential: t.Sequential, Progress: func(p hub.Phase) {
		if p == hub.PhaseTLS {
			t.TLSUp()
		}
	}}
	if t.Early && !d.app.Off.Telemetry {
		a.Early = func(raw *hub.Link) {
			d.feed(&l, raw)
			l.drain.Early()
		}
	}
	here, there := time.Now(), d.time.now()
	raw, err := dialer.Dial(ctx, a)
	if err != nil {
		d.linkBug(err)
		return nil, err
	}
	d.met(raw.Host(), raw.Peer())
	if ends := raw.Expires(); !ends.IsZero() {
		l.ends = there.Add(ends.Sub(here))
	}
	if l.drain == nil && !d.app.Off.Telemetry {
		d.feed(&l, raw)
	}
	l.Link = raw
	return &l, nil
}

// feed gives a link its drain.
func (d *Device) feed(l *link, raw *hub.Link) {
	l.flows = &firstAck{Link: raw, tell: func() {
		d.mu.Lock()
		renewed := d.renewed
		d.mu.Unlock()
		d.emit(journal.Event{Kind: journal.Acknowledged, Hub: raw.Host(), Routine: renewed, Text: "telemetry flows on " + raw.Host()})
	}}
	options := d.c.Drain
	options.Created, options.Problem = d.time.made, func(err error) { d.warn(raw.Host(), err.Error()) }
	l.drain = telemetry.NewDrain(d.box, l.flows, options)
}

// duty is what a device does on the link that it serves: the outbox drains, properties are brought
// together, and what comes in is dealt with.
type duty struct {
	d    *Device
	l    *hub.Link
	over func() // asks the session to end the link

	work             context.Context // ends when the duty must end
	stop             context.CancelCauseFunc
	drain            context.Context // of work; ends when nothing new may be sent
	stopDrain        context.CancelFunc
	sending, running sync.WaitGroup // what uses drain, and what uses work
}

// serve begins to work on a link. It returns a function that ends the work, and returns the reason
// if it knows one that the link does not.
func (d *Device) serve(ctx context.Context, s *link, over func()) (end func() error) {
	w := &duty{d: d, l: s.Link, over: over}
	w.work, w.stop = context.WithCancelCause(ctx)
	w.drain, w.stopDrain = context.WithCancel(w.work)
	if err := d.run("serving", func() error { w.begin(s); return nil }); err != nil {
		w.stop(err)
		over()
	}
	return func() error {
		defer d.serving(nil)
		defer w.running.Wait() // also after a panic, because the paths of two links must not run together
		defer w.sending.Wait()
		defer w.stopDrain()
		defer w.stop(nil)
		return d.run("serving", func() error { return w.end(ctx) })
	}
}

// part runs a path of the duty. An error of it ends the link.
func (w *duty) part(of *sync.WaitGroup, ctx context.Context, path string, run func(context.Context) error) {
	w.d.spawnIn(of, path, func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			w.stop(err)
			w.over()
		}
	})
}

// again is part for a path that begins again after a panic.
func (w *duty) again(path string, run func(context.Context) error) {
	w.part(&w.running, w.work, path, func(ctx context.Context) error { return w.d.keep(ctx, path, run) })
}

func (w *duty) begin(s *link) {
	d, l := w.d, w.l
	d.serving(s)
	changes, messages := newQueue[*hub.Desired](), newQueue[*hub.Message]()
	if !d.app.Off.Telemetry {
		s.flows.serve()
		w.part(&w.sending, w.drain, "telemetry", func(ctx context.Context) error {
			return d.run("telemetry", func() error { return s.drain.Run(ctx) }) // a panic ends the link, because a drain cannot run twice
		})
	}
	w.part(&w.running, w.work, "backlog", func(ctx context.Context) error { return d.tellBacklog(ctx, l.Host()) })
	w.again("twin", func(ctx context.Context) error { return d.twin.serve(ctx, l, changes) })
	w.again("messages", func(ctx context.Context) error { return d.messages(ctx, l, messages) })
	w.again("receiving", func(ctx context.Context) error { return d.receive(ctx, l, changes, messages) })
	d.spawnIn(&w.running, "renewal", func() {
		select {
		case <-l.Renew():
			w.over()
		case <-w.work.Done():
		}
	})
}

// end winds the duty down, so that the next link need not send again what this one has sent.
func (w *duty) end(ctx context.Context) error {
	d, l := w.d, w.l
	var err error
	calm := false
	if w.renews() {
		// An hour's token leaves minutes, and telemetry flows on meanwhile.
		calm = d.await(w.work, l, renewalTimeout)
		err = &hub.Error{Phase: hub.PhaseSession, Host: l.Host(), Err: hub.ErrRenewal}
	}
	// Nothing new goes out from here on. What is under way gets the time for its PUBACK.
	w.stopDrain()
	w.sending.Wait()
	switch {
	case d.stopping.Load(): // it has waited already
	case err == nil:
		d.settle(context.Background(), l, retireTimeout)
	default:
		began := time.Now()
		d.settle(context.Background(), l, within(l, settleTimeout))
		if calm { // methods that came in the last moment
			d.await(w.work, l, settleTimeout-time.Since(began))
		}
	}
	if ended(l) {
		err = nil // it was lost before it could be renewed
	}
	w.stop(nil)
	w.running.Wait()
	if err != nil {
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l.Close(short, err)
		return err
	}
	if err := context.Cause(w.work); ctx.Err() == nil && err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// renews says whether the link is well and ends because its token does.
func (w *duty) renews() bool {
	if ended(w.l) || w.work.Err() != nil {
		return false
	}
	select {
	case <-w.l.Renew():
		return true
	default:
		return false
	}
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
func (d *Device) settle(ctx context.Context, l *hub.Link, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_ = l.Settle(ctx)
}

// await waits until no method runs, up to limit or the end of the link, and says whether that came.
func (d *Device) await(work context.Context, l *hub.Link, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(work, within(l, limit))
	defer cancel()
	d.handlers.wait(ctx)
	return ctx.Err() == nil
}

// within is a limit that ends before the token does, because the hub closes the link then: half of what is left, or all but a few
// seconds of it.
func within(l *hub.Link, limit time.Duration) time.Duration {
	left := max(0, time.Until(l.Expires()))
	return min(limit, left-min(left/2, swapMargin))
}

// receive hands each inbound value to the path that handles it, so that no path waits for another.
// It must not wait itself, because the link would stop reading.
func (d *Device) receive(ctx context.Context, l *hub.Link, changes *queue[*hub.Desired], messages *queue[*hub.Message]) error {
	for {
		in, err := l.Receive(ctx)
		if err != nil {
			return err
		}
		switch in := in.(type) {
		case *hub.Desired:
			if !changes.put(in) { // no room: reading the twin once replaces all changes
				changes.replace(&hub.Desired{Missed: true})
			}
		case *hub.Message:
			if !messages.put(in) { // no room; without it no later PUBACK could be sent, because PUBACKs go in order
				return &hub.Error{Phase: hub.PhaseSession, Host: l.Host(), Err: fmt.Errorf("%w: more than %d messages, or %d MiB of them, "+
					"are waiting to be handled; a hub sends 50 of 64 KB before it waits", hub.ErrProtocol, maxQueued, maxQueuedBytes>>20)}
			}
		case *hub.Method:
			if !d.methods.enter(in.Size()) {
				_ = l.Respond(in, http.StatusServiceUnavailable, explain("too many methods are running"))
				continue
			}
			d.handlers.run(func() {
				defer d.methods.leave(in.Size())
				// The method does not end with ctx: it may still answer while its link is replaced
				// or the device stops.
				d.method(context.WithoutCancel(ctx), l, in)
			})
		}
	}
}

// firstAck tells of the first PUBACK of a link, once the link is at work: only then does telemetry really flow again.
type firstAck struct {
	*hub.Link
	tell func()

	mu     sync.Mutex
	to     message.Completion
	served bool
	acked  bool
	told   atomic.Bool
}

// serve is called when the link is put to work, which may be after its first PUBACK.
func (f *firstAck) serve() { f.note(&f.served) }

func (f *firstAck) note(what *bool) {
	f.mu.Lock()
	*what = true
	now := f.served && f.acked && f.told.CompareAndSwap(false, true)
	f.mu.Unlock()
	if now {
		f.tell()
	}
}

func (f *firstAck) Send(messages []message.Outgoing, to message.Completion) (int, error) {
	if f.told.Load() {
		return f.Link.Send(messages, to)
	}
	f.mu.Lock()
	f.to = to // always the drain
	f.mu.Unlock()
	return f.Link.Send(messages, f)
}

// Done is for the link.
func (f *firstAck) Done(tickets []uint64, err error) {
	f.mu.Lock()
	to := f.to
	f.mu.Unlock()
	if err == nil {
		f.note(&f.acked) // first: more may be sent in Done
	}
	to.Done(tickets, err)
}
