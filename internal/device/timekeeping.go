package device

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

// timekeeping is what keeps a device's clock right while it runs.
type timekeeping struct {
	*epochs
	current atomic.Pointer[link] // the link at work; nil: none
	life    context.Context      // of the device; set before it looks at the clock
	tending atomic.Bool          // a goroutine looks after the files
	asking  atomic.Bool          // a goroutine asks for the time
	looking sync.WaitGroup       // of these goroutines
}

// openClock sets the clock by the times in the state directory. The outbox may be nil, because
// openClock does not use it.
func (d *Device) openClock(l line) failover.State {
	k := d.time.epochs
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
	// Use only times that a certificate has vouched for. Times of samples and files may come from a
	// clock that was once far ahead.
	k.notBefore(cached.AssignedAt)
	d.home.checkContent()
	k.attach(k)
	return cached
}

// corrected wraps failover.ErrClockSet around an error that looks like that of a wrong clock, if
// the right time has become known since. turns is the number of corrections before the failed call
// began.
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
	source := d.timeSource()
	date, err := source.AskTime(ctx)
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
		d.warn("", d.noTime(source, err))
	}
}

// timeSource returns whom the time is asked of: DPS, or the pinned hub.
func (d *Device) timeSource() *dps.Client {
	c := d.provisioner()
	if d.id.PinnedHub != "" {
		c.Host, c.Transport = cmp.Or(d.id.Gateway, d.id.PinnedHub), dps.MQTT
	}
	return c
}

// noTime says that the cloud could not be asked for the time, and what to do.
func (d *Device) noTime(source *dps.Client, err error) string {
	way := ""
	if source.Transport != dps.HTTPS && d.id.PinnedHub == "" {
		way = "use --provisioning-transport https (with --provisioning-host HOST:PORT if DPS has HTTPS elsewhere), "
	}
	return fmt.Sprintf("%s cannot be asked for the time at %s: %s; if this machine's clock is wrong the device cannot know: "+
		"open that port, %sor set the clock (timedatectl set-ntp true)", d.timeOf(), source.TimeAddress(), Plain(err), way)
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

// hasten renews the link if its token ends earlier than was believed when the token was made,
// because the clock was slow or the machine was suspended meanwhile.
func (d *Device) hasten() {
	l := d.serves()
	if l == nil || l.ends.IsZero() {
		return
	}
	if ends := time.Now().Add(l.ends.Sub(d.time.now())); l.Expires().Sub(ends) > rightWithin {
		l.Hasten(ends)
	}
}

// watchClock looks at the clocks from time to time until ctx ends. It returns what ends that, and
// waits for it.
func (d *Device) watchClock(ctx context.Context) (end func()) {
	d.time.life = ctx
	d.time.watch(d)
	return func() {
		d.time.unwatch(d)
		d.time.looking.Wait()
	}
}

// watch lets a device look at the clock every few seconds. One timer serves all devices.
func (k *clock) watch(d *Device) {
	k.watching.Lock()
	defer k.watching.Unlock()
	if k.watchers = append(k.watchers, d); len(k.watchers) == 1 {
		k.timer = d.after(lookEvery, "clock", k.look)
	}
}

// unwatch ends that. When it returns the device does not look any more.
func (k *clock) unwatch(d *Device) {
	k.watching.Lock()
	defer k.watching.Unlock()
	k.watchers = slices.DeleteFunc(k.watchers, func(one *Device) bool { return one == d })
	if len(k.watchers) == 0 {
		k.timer.Stop()
	}
}

// look lets each device look.
func (k *clock) look() {
	k.watching.Lock()
	defer k.watching.Unlock()
	if len(k.watchers) == 0 {
		return
	}
	defer k.timer.Reset(lookEvery)
	asks := false // one device asks for all
	for _, d := range k.watchers {
		_ = d.run("clock", func() error {
			asks = d.look(!asks) || asks
			return nil
		})
	}
}

// look notices what has happened to the clocks and to the link's token. If there is something to do
// about the device's files, or if the device may ask and the time is wanted, it lets others do
// that: it does not block. It says whether the device asks.
func (d *Device) look(may bool) (asks bool) {
	linked := d.serves() != nil
	d.hasten()
	if (d.time.stale(linked) || d.home.restless()) && d.time.tending.CompareAndSwap(false, true) {
		d.spawnIn(&d.time.looking, "clock", func() {
			defer d.time.tending.Store(false)
			d.time.pass(linked)
			d.home.tend()
		})
	}
	// Without a link others have the network.
	if !may || !linked || !d.time.wanted(false) || !d.time.asking.CompareAndSwap(false, true) {
		return false
	}
	d.spawnIn(&d.time.looking, "clock", func() {
		defer d.time.asking.Store(false)
		d.askTime(d.time.life, false)
	})
	return true
}

// serves returns the link at work, nil if there is none.
func (d *Device) serves() *link { return d.time.current.Load() }

// serving notes which link is at work, nil for none.
func (d *Device) serving(l *link) { d.time.current.Store(l) }

// resumed is called when the machine has slept. The hub may have closed the link meanwhile without
// the machine hearing it.
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
