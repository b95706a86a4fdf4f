package device

import (
	"context"
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

// timekeeping is what keeps a device's clock right while it runs.
type timekeeping struct {
	*clock
	source *dps.Client // is asked for the time: DPS, or the pinned hub

	// The goroutine that asks owns these:
	unanswered int  // questions in a row
	told       bool // that they are

	// Guarded by Device.mu:
	timer   *time.Timer // nil: it does not run
	current *link       // that is served
}

// openClock sets the clock by what the state directory knows. The outbox may be nil: it is not looked at.
func (d *Device) openClock(l line) failover.State {
	k := d.time.clock
	read := func() error {
		file, err := d.home.loadClock(k.horizon)
		if err == nil {
			k.restore(file, l)
		}
		return err
	}
	unread := read() != nil
	k.keep = func(file clockFile) error {
		err := error(nil)
		if unread { // a file that was not read must not be overwritten
			if err = read(); err == nil {
				unread = false
				k.mu.Lock()
				file = k.file.clone()
				k.mu.Unlock()
			}
		}
		if err == nil {
			err = d.home.saveClock(file)
		}
		d.home.mark(timeFile, err, "cannot keep the time for the next start", nil) // the clock itself tells it and tries again
		return err
	}
	if unread {
		k.mu.Lock()
		k.changed++ // so that it is tried again
		k.mu.Unlock()
	}
	d.cache = &keeper{home: d.home, who: d.who(), limit: k.horizon}
	cached, err := d.home.loadState(d.who(), k.horizon)
	d.cache.unread = err != nil
	d.home.note(stateFile, err, "cannot read which hub the device was assigned to, so DPS is asked", func() error {
		_, err := d.home.loadState(d.who(), k.horizon)
		return err
	})
	// Only times that a certificate has vouched for: not those of samples and files, which a clock that was once far ahead has made.
	k.notBefore(cached.AssignedAt)
	k.woke = d.resumed
	d.home.checkContent()
	return cached
}

// corrected makes an error say that it is settled, if it looks like that of a wrong clock and the right time has become known since there
// were that many turns.
func (d *Device) corrected(ctx context.Context, err error, turns int) error {
	switch failover.Classify(ctx, err) {
	case failover.ClockOff, failover.DPSClock, failover.DPSUnauthorized, failover.DPSRefusedConnect:
	case failover.Connack5:
		if d.id.PinnedHub == "" {
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

// askTime asks the cloud for the time, unless the time is known or was asked for just now. If that
// fails, it warns, once until it works. Without a reason for the question it warns only at the
// second failure in a row, because a failover may hit DPS for a moment, and only if the clock is
// suspect, because many networks close that port and most clocks are right.
func (d *Device) askTime(ctx context.Context, reason bool) {
	select { // a second caller gets the answer to the first one's question
	case d.time.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-d.time.turn }()
	if !d.time.due(reason) {
		return
	}
	date, err := d.time.source.AskTime(ctx)
	if err == nil {
		err = d.hear(date)
	}
	switch {
	case err == nil:
		d.time.unanswered, d.time.told = 0, false
		return
	case ctx.Err() != nil:
		return
	}
	if d.time.unanswered++; !d.time.told && (reason || d.time.unanswered > 1 && d.time.suspect()) {
		d.time.told = true
		d.warn("", d.noTime(err))
	}
}

// noTime says that the cloud could not be asked for the time, and what to do.
func (d *Device) noTime(err error) string {
	way := ""
	if d.time.source.Transport != dps.HTTPS && d.id.PinnedHub == "" {
		way = "use --provisioning-transport https (with --provisioning-host HOST:PORT if DPS has HTTPS elsewhere), "
	}
	return fmt.Sprintf("%s cannot be asked for the time at %s: %s; if this machine's clock is wrong the device cannot know: "+
		"open that port, %sor set the clock (timedatectl set-ntp true)", d.timeOf(), d.time.source.TimeAddress(), Plain(err), way)
}

// timeOf names whom the time is asked of.
func (d *Device) timeOf() string {
	if d.id.PinnedHub != "" {
		return d.id.PinnedHub
	}
	return "DPS"
}

func (d *Device) hear(date time.Time) error {
	err := d.time.hear(date, d.timeOf())
	d.hasten()
	return err
}

// hasten has the link renewed whose token ends earlier than was believed when it was made: the clock was slow, or the machine has been
// suspended meanwhile.
func (d *Device) hasten() {
	l := d.serves()
	if l == nil || l.ends.IsZero() {
		return
	}
	if ends := time.Now().Add(l.ends.Sub(d.time.now())); l.Expires().Sub(ends) > rightWithin {
		l.Hasten(ends)
	}
}

// watchClock looks at the clocks from time to time until ctx ends. It returns what waits for its end.
func (d *Device) watchClock(ctx context.Context) (wait func()) {
	asked := make(chan struct{}, 1)
	look := func() {
		defer d.lookAgain()
		linked := d.serves() != nil
		d.time.pass(linked)
		d.home.tend()
		d.hasten()
		if !linked || !d.time.wanted(false) {
			return // without a link others have the network
		}
		select {
		case asked <- struct{}{}:
			d.spawn("clock", func() {
				defer func() { <-asked }()
				d.askTime(ctx, false)
			})
		default:
		}
	}
	d.mu.Lock()
	d.time.timer = d.after(lookEvery, "clock", look)
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		d.time.timer.Stop()
		d.time.timer = nil
		d.mu.Unlock()
		asked <- struct{}{}
	}
}

// lookAgain sets the timer of the clock's watch, unless the watch has ended.
func (d *Device) lookAgain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.time.timer != nil {
		d.time.timer.Reset(lookEvery)
	}
}

// serves returns the link at work, nil if there is none.
func (d *Device) serves() *link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.time.current
}

// serving notes which link is at work, nil for none.
func (d *Device) serving(l *link) {
	d.mu.Lock()
	d.time.current = l
	d.mu.Unlock()
}

// resumed is called when the machine has slept: the other side may have closed the link meanwhile, in words that nobody heard.
func (d *Device) resumed(slept time.Duration) {
	l := d.serves()
	e := journal.Event{Kind: journal.Resumed, Took: slept, Text: fmt.Sprintf("this machine was suspended for %s", size(slept))}
	if l != nil {
		e.Hub = l.Host()
		e.Text += fmt.Sprintf("; is %s still there?", e.Hub)
		defer l.Check()
	}
	d.emit(e)
}
