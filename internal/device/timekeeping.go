package device

import (
	"context"
	"fmt"
	"time"

	"hubhop/dps"
	"hubhop/failover"
	"hubhop/hub"
	"hubhop/internal/journal"
)

// timekeeping is what keeps a device's clock right while it runs.
type timekeeping struct {
	*clock
	source *dps.Client // is asked for the time: DPS, or the pinned hub

	// Guarded by Device.mu:
	timer   *time.Timer // nil: it does not run
	current *hub.Link   // that is served
}

// openClock sets the clock by what the state directory knows. last is the newest place of the outbox.
func (d *Device) openClock(last uint64) failover.State {
	k := d.time.clock
	file, err := d.home.loadClock()
	if err != nil {
		d.warn("", err.Error())
	}
	k.restore(file, last)
	cached, err := d.home.loadState(d.who())
	if err != nil {
		d.warn("", err.Error())
	}
	// Only times that a certificate has vouched for: not those of samples and files, which a clock that was once far ahead has made.
	k.notBefore(cached.AssignedAt)
	k.keep = func(f clockFile) {
		if err := d.home.saveClock(f); err != nil {
			d.warn("", fmt.Sprintf("cannot keep the time for the next start: %v", err))
		}
	}
	k.woke = d.resumed
	return cached
}

// corrected makes an error say that it is settled, if it looks like that of a wrong clock and the right time has become known since there
// were that many turns.
func (d *Device) corrected(ctx context.Context, err error, turns int) error {
	switch failover.Classify(ctx, err) {
	case failover.ClockOff, failover.DPSClock, failover.DPSUnauthorized, failover.DPSRefusedConnect:
	case failover.Connack5:
		if d.c.PinnedHub == "" {
			return err // DPS is asked anyway
		}
	default:
		return err
	}
	if d.time.turned() == turns {
		d.askTime(ctx, true)
	}
	if d.time.turned() == turns {
		return err
	}
	return fmt.Errorf("%w (%w)", err, failover.ErrClockSet)
}

// askTime asks the cloud what time it is, unless that is known, or was asked just now.
func (d *Device) askTime(ctx context.Context, reason bool) {
	select { // who comes second hears what the first was told
	case d.time.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-d.time.turn }()
	if !d.time.due(reason) {
		return
	}
	if date, err := d.time.source.AskTime(ctx); err == nil {
		d.hear(date)
	}
}

func (d *Device) hear(date time.Time) {
	whose := "DPS"
	if d.c.PinnedHub != "" {
		whose = d.c.PinnedHub
	}
	d.time.hear(date, whose)
}

// watchClock looks at the clocks from time to time until ctx ends. It returns what waits for its end.
func (d *Device) watchClock(ctx context.Context) (wait func()) {
	asked := make(chan struct{}, 1)
	look := func() {
		d.mu.Lock()
		linked := d.time.current != nil
		d.mu.Unlock()
		d.time.pass(linked)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.time.timer == nil {
			return
		}
		d.time.timer.Reset(lookEvery)
		if d.time.current == nil || !d.time.wanted(false) {
			return // without a link others have the network
		}
		select {
		case asked <- struct{}{}:
			go func() {
				d.askTime(ctx, false)
				<-asked
			}()
		default:
		}
	}
	d.mu.Lock()
	d.time.timer = time.AfterFunc(lookEvery, look)
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		d.time.timer.Stop()
		d.time.timer = nil
		d.mu.Unlock()
		asked <- struct{}{}
	}
}

// serving notes which link is at work, nil for none.
func (d *Device) serving(l *hub.Link) {
	d.mu.Lock()
	d.time.current = l
	d.mu.Unlock()
}

// resumed is called when the machine has slept: the other side may have closed the link meanwhile, in words that nobody heard.
func (d *Device) resumed(slept time.Duration) {
	d.mu.Lock()
	l := d.time.current
	d.mu.Unlock()
	e := journal.Event{Kind: journal.Resumed, Took: slept, Text: fmt.Sprintf("this machine was suspended for %s", size(slept))}
	if l != nil {
		e.Hub = l.Host()
		e.Text += fmt.Sprintf("; is %s still there?", e.Hub)
		defer l.Check()
	}
	d.emit(e)
}
