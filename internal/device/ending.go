package device

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// How a device ends: by itself when it runs once, or because it was asked to.

// ErrUnreachable says that a device that runs once found no hub in time.
var ErrUnreachable = errors.New("no hub could be reached")

// ErrUnsent says that a device that ran once has not sent all it was given.
var ErrUnsent = errors.New("not everything was sent")

const (
	onceLimit  = time.Minute // without a link, in a row, when running once
	standLimit = 2 * time.Second
	lookAgain  = 100 * time.Millisecond
)

// once takes the input to its end, if it has one, and sends what is queued. It fails when there was no link for onceLimit, and at once
// when a person must act.
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
	if d.c.Telemetry && d.c.Source == "stdin" {
		if err := d.feedOutbox(ctx); err != nil {
			return err
		}
	}
	if err := d.awaitLink(ctx); err != nil {
		return err
	}
	if !d.c.Telemetry {
		return nil
	}
	return d.box.WaitEmpty(ctx)
}

// linked says whether a link is at work, and what is closed when that changes.
func (d *Device) linked() (up bool, changes <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status.Hub != "", d.links
}

// linkChangedLocked wakes those who wait for a link or for its end.
func (d *Device) linkChangedLocked() {
	close(d.links)
	d.links = make(chan struct{})
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

// despair returns why a device that runs once must give up, when that is so, or nil at the end of ctx.
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

// outcome is how Run ends. A device that ran once must not say that all is well if it is not: it says what was not sent and where it is.
func (d *Device) outcome(err error) error {
	if !d.c.Once || !d.c.Telemetry {
		return err
	}
	s := d.box.Stats()
	for _, part := range []struct {
		n     uint64
		what  string
		input bool // it counts only against samples that were given to this run
	}{
		{s.Queued, "queued for the next start", false},
		{gone(s), "dropped", true},
		{s.Quarantined, "set aside, because no hub would take them (hubhop outbox ls --quarantined)", true},
		{d.counters.Bad.Load(), "no samples", true},
	} {
		if part.n == 0 || part.input && d.c.Source != "stdin" {
			continue
		}
		if err == nil || errors.Is(err, context.Canceled) {
			err = ErrUnsent
		}
		err = fmt.Errorf("%w; %s: %d", err, part.what, part.n)
	}
	return err
}

// finish gives what is queued, and the methods that run, the drain timeout to end well, and says so. It does not wait for what cannot
// happen. A handler that hangs is left behind.
func (d *Device) finish(asked bool) {
	ctx, cancel := context.WithTimeout(context.Background(), d.c.DrainTimeout)
	defer cancel()
	end := time.Now().Add(d.c.DrainTimeout)
	hopeless := func() bool { return d.sleeping().After(end) }
	queued := d.box.Stats().Queued
	drains := asked && d.c.Telemetry && queued > 0 && d.c.DrainTimeout > 0 && !hopeless()
	if asked {
		d.emit(journal.Event{Kind: journal.Stopping, Queued: queued, Text: d.stoppingText(queued, drains, d.sleeping())})
	}
	if drains {
		d.drainWhile(ctx, func() bool { return !hopeless() })
	}
	d.handlers.wait(ctx)
	d.awaitStanding()
}

// sleeping is when the session will try something next, if it does nothing now; else the zero time.
func (d *Device) sleeping() time.Time {
	if s := d.current.Load(); s != nil {
		return s.Sleeps()
	}
	return time.Time{}
}

// drainWhile waits until nothing is queued, for as long as there is hope.
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

// awaitStanding waits for the session to learn that a link which has carried samples is up: the first PUBACK may come before. Then the
// session has kept the hub for the next start, which need not ask DPS again.
func (d *Device) awaitStanding() {
	d.mu.Lock()
	carried := d.status.Hub == "" && d.box.Stats().Acked > d.outage.acked
	d.mu.Unlock()
	if carried {
		ctx, cancel := context.WithTimeout(context.Background(), standLimit)
		defer cancel()
		_ = d.awaitLink(ctx)
	}
}

// stoppingText says what the end waits for, and how it can be had at once.
func (d *Device) stoppingText(queued uint64, drains bool, next time.Time) string {
	text := "stopping"
	running := d.handlers.running()
	switch {
	case drains:
		text += fmt.Sprintf(": %s, sending them for at most %v", wait(queued), d.c.DrainTimeout)
	case queued > 0 && d.c.Telemetry && !next.IsZero():
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

// wait says how many samples wait.
func wait(n uint64) string {
	if n == 1 {
		return "1 sample waits"
	}
	return samples(n) + " wait"
}

// samples counts them in words.
func samples(n uint64) string {
	if n == 1 {
		return "1 sample"
	}
	return fmt.Sprintf("%d samples", n)
}
