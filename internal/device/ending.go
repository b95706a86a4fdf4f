package device

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// This file is about the end of a device: after Once has done its work, or when the device is
// stopped.

// ErrUnreachable says that a device with Once had no link for a minute.
var ErrUnreachable = errors.New("no hub could be reached")

// ErrUnsent says that a device with Once ended before all its samples were sent.
var ErrUnsent = errors.New("not everything was sent")

// ErrLeave is the cause of the end of Run's context if what is queued is to stay queued.
var ErrLeave = errors.New("leave without sending")

const (
	onceLimit  = time.Minute // without a link, in a row, when running once
	standLimit = 2 * time.Second
	anotherGo  = time.Second // what a stopping device leaves for another link
	lookAgain  = 100 * time.Millisecond
)

// once reads the input to its end, if it has one, and sends what is queued. It returns
// ErrUnreachable after onceLimit without a link, and an error at once if a person must act.
func (d *Device) once(ctx context.Context) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	d.spawnIn(&watching, "running once", func() { giveUp(d.despair(ctx)) })
	defer watching.Wait()
	defer giveUp(nil)

	err := d.sendAll(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (d *Device) sendAll(ctx context.Context) error {
	if ending := d.app.ending(); len(ending) > 0 {
		if err := d.feedOutbox(ctx, ending); err != nil {
			return err
		}
		d.inputEnded.Store(true)
	}
	if err := d.awaitLink(ctx); err != nil {
		return err
	}
	if d.app.Off.Telemetry {
		return nil
	}
	return d.box.WaitEmpty(ctx)
}

// linked says whether a link is at work. changes is closed when that changes.
func (d *Device) linked() (up bool, changes <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.links == nil {
		d.links = make(chan struct{})
	}
	return d.standing.Hub != "", d.links
}

// linkChangedLocked wakes the goroutines that wait for a link or for its end.
func (d *Device) linkChangedLocked() {
	if d.links != nil {
		close(d.links)
		d.links = nil
	}
}

// awaitLink waits until a link is at work.
func (d *Device) awaitLink(ctx context.Context) error {
	for {
		up, changes := d.linked()
		if up {
			return nil
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// despair waits until a device with Once must give up, and returns why; it returns nil at the end
// of ctx.
func (d *Device) despair(ctx context.Context) error {
	limit := time.NewTimer(onceLimit)
	defer limit.Stop()
	was := false
	for {
		up, changes := d.linked()
		switch {
		case up && !was:
			limit.Stop()
		case !up && was:
			limit.Reset(onceLimit)
		}
		was = up
		select {
		case <-changes:
		case err := <-d.refused:
			if !up {
				return err
			}
		case <-limit.C:
			d.mu.Lock()
			defer d.mu.Unlock()
			return fmt.Errorf("%w within %s; the last failure: %s", ErrUnreachable, journal.Duration(onceLimit), d.lastText)
		case <-ctx.Done():
			return nil
		}
	}
}

// outcome returns the error of Run. If a device with Once has not sent everything, the error says
// how many samples were not sent and where they are.
func (d *Device) outcome(err error) error {
	if !d.c.Once || d.app.Off.Telemetry {
		return err
	}
	s := d.box.Stats()
	for _, part := range []struct {
		n     uint64
		what  string
		input bool // counts only if there is an input that ends
	}{
		{s.Queued, "queued for the next start", false},
		{gone(s), "dropped", true},
		{s.Quarantined, "set aside, because no hub would take them (hubhop outbox ls --quarantined)", true},
		{d.counters.Bad.Load(), "no samples", true},
	} {
		if part.n == 0 || part.input && len(d.app.ending()) == 0 {
			continue
		}
		if err == nil || errors.Is(err, context.Canceled) {
			err = ErrUnsent
		}
		err = fmt.Errorf("%w; %s: %d", err, part.what, part.n)
	}
	if errors.Is(err, context.Canceled) && d.inputEnded.Load() && s.Acked > 0 && s.Queued == 0 {
		return nil // it was interrupted, and had the time to do all it was started for
	}
	return err
}

// finish waits at most the drain timeout for queued samples and running methods, and says so. It
// does not wait for samples if no hub will be tried in that time. It leaves a handler that hangs
// behind. A device that leaves sends nothing more.
func (d *Device) finish(asked, leaves bool) {
	ctx, cancel := context.WithTimeout(context.Background(), d.c.DrainTimeout)
	defer cancel()
	end := time.Now().Add(d.c.DrainTimeout)
	hopeless := func() bool { return d.sleeping().After(end) }
	queued := d.box.Stats().Queued
	drains := asked && !leaves && !d.app.Off.Telemetry && queued > 0 && d.c.DrainTimeout > 0 && !hopeless()
	if asked {
		d.emit(journal.Event{Kind: journal.Stopping, Queued: queued, Text: d.stoppingText(queued, drains, d.sleeping())})
	}
	if drains {
		// A hub that withholds a PUBACK may be a minute away from being given up. Another link may
		// still bring what is in flight: it would be sent again after the next start anyway. Only
		// this one link is given up, so at most its window is sent twice.
		if l := d.serves(); l != nil {
			l.Hurry(end.Add(-anotherGo))
		}
		d.drainWhile(ctx, func() bool { return !hopeless() })
	}
	d.handlers.wait(ctx)
	d.awaitStanding()
}

// sleeping returns when the session will try something next; zero if it does something now.
func (d *Device) sleeping() time.Time {
	if s := d.current.Load(); s != nil {
		return s.Sleeps()
	}
	return time.Time{}
}

// drainWhile waits until nothing is queued, as long as hope returns true.
func (d *Device) drainWhile(ctx context.Context, hope func() bool) {
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	d.spawnIn(&looking, "stopping", func() {
		defer cancel()
		look := time.NewTicker(lookAgain)
		defer look.Stop()
		for hope() {
			select {
			case <-look.C:
			case <-ctx.Done():
				return
			}
		}
	})
	_ = d.box.WaitEmpty(ctx) // the rest stays queued for the next start
	cancel()
	looking.Wait()
}

// awaitStanding waits until the session knows that the link is up, because the first PUBACK may
// come earlier. Then the session has saved the hub, and the next start need not ask DPS.
func (d *Device) awaitStanding() {
	d.mu.Lock()
	carried := d.standing.Hub == "" && d.box.Stats().Acked > d.outage.acked
	d.mu.Unlock()
	if carried {
		ctx, cancel := context.WithTimeout(context.Background(), standLimit)
		defer cancel()
		_ = d.awaitLink(ctx)
	}
}

// stoppingText says what the end waits for, and how to end at once.
func (d *Device) stoppingText(queued uint64, drains bool, next time.Time) string {
	text, running := "stopping", d.handlers.running()
	switch {
	case drains:
		text += fmt.Sprintf(": %s, sending them for at most %v", wait(queued), d.c.DrainTimeout)
	case queued > 0 && !d.app.Off.Telemetry && !next.IsZero():
		text += fmt.Sprintf(": %s for the next start; no hub would be tried for another %s", wait(queued), journal.Duration(time.Until(next)))
	case queued > 0:
		text += fmt.Sprintf(": %s for the next start", wait(queued))
	}
	if running > 0 {
		text += fmt.Sprintf("; %d methods run and have as long to end", running)
	}
	if drains || running > 0 {
		text += "; Ctrl-C again to stop at once"
	}
	return text
}

// wait says in words how many samples wait.
func wait(n uint64) string {
	if n == 1 {
		return "1 sample waits"
	}
	return samples(n) + " wait"
}

// samples says a number of samples in words.
func samples(n uint64) string {
	if n == 1 {
		return "1 sample"
	}
	return fmt.Sprintf("%d samples", n)
}
