package device

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/leash"
)

// timekeeping is what keeps a device's clock right while it runs.
type timekeeping struct {
	*clock.Epochs
	current atomic.Pointer[link] // the link at work; nil: none
	life    context.Context      // of the device; set before it looks at the clock
	tending atomic.Bool          // a goroutine looks after the files
	asking  atomic.Bool          // a goroutine asks for the time
	looking sync.WaitGroup       // of these goroutines
}

// clockFile keeps what the next run should know of the clock.
type clockFile struct{ d *Device }

func (f clockFile) Load() (clock.File, error) { return loadClock(f.d.home, f.d.time.Horizon) }

func (f clockFile) Save(file clock.File) error { return f.d.home.Save(home.ClockFile, file) }

// Mark notes what is wrong with the file. The clock itself tells it and tries again.
func (f clockFile) Mark(err error) {
	f.d.home.Mark(home.ClockFile, err, "cannot keep the time for the next start", nil)
}

// loadClock reads clock.json. horizon returns the latest time that is believed in it.
func loadClock(h *home.Home, horizon func(sealed bool) time.Time) (f clock.File, err error) {
	found, err := h.Load(home.ClockFile, &f, func(sealed bool) error { return f.Check(sealed, horizon) })
	if !found {
		return clock.File{}, err
	}
	return f, nil
}

// openClock sets the clock by the times in the state directory, and returns the cached state of the
// session. l is the outbox; nil: it is not open.
func (d *Device) openClock(l clock.Line) failover.State {
	d.time.Open(clockFile{d}, l)
	limit := d.time.Horizon
	d.cache = &keeper{home: d.home, who: d.who, limit: limit}
	cached, err := loadState(d.home, d.who(), limit)
	d.cache.unread = err != nil
	d.home.Note(home.StateFile, err, "cannot read which hub the device was assigned to, so DPS is asked", func() error {
		_, err := loadState(d.home, d.who(), limit)
		return err
	})
	// Only times that a certificate has vouched for: not those of samples and files, which a clock
	// that was once far ahead has made.
	d.time.NotBefore(cached.AssignedAt)
	d.home.CheckContent()
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
	if d.time.Turned() == turns {
		d.askTime(ctx, true)
	}
	if d.time.Turned() == turns {
		return err
	}
	return fmt.Errorf("%w (%w)", err, failover.ErrClockSet)
}

// askTime asks the cloud for the time, if it is wanted.
func (d *Device) askTime(ctx context.Context, reason bool) {
	source := d.timeSource()
	d.time.Ask(ctx, reason, func(ctx context.Context) error {
		date, err := source.AskTime(ctx)
		if err != nil {
			return err
		}
		return d.hear(date)
	}, func(err error) { d.warn("", d.noTime(source, err)) })
}

// timeSource returns whom the time is asked of: DPS, or the pinned hub.
func (d *Device) timeSource() *dps.Client {
	c := d.provisioner()
	c.Host, c.Transport = d.timeHost()
	c.TLS = d.tlsFor(c.Host)
	return c
}

func (d *Device) timeHost() (string, dps.Transport) {
	if d.id.PinnedHub != "" {
		return cmp.Or(d.id.Gateway, d.id.PinnedHub), dps.MQTT
	}
	return d.c.ProvisioningHost, d.c.ProvisioningTransport
}

// timeAddress returns where that is.
func (d *Device) timeAddress() string {
	var c dps.Client
	c.Host, c.Transport = d.timeHost()
	return c.TimeAddress()
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
	err := d.time.Hear(date, d.timeOf())
	d.hasten(d.time.Now())
	return err
}

// hasten renews the link if its token ends earlier than was believed when the token was made,
// because the clock was slow or the machine was suspended meanwhile. now is the time.
func (d *Device) hasten(now time.Time) {
	l := d.serves()
	if l == nil || l.ends.IsZero() {
		return
	}
	if ends := time.Now().Add(l.ends.Sub(now)); l.Expires().Sub(ends) > clock.RightWithin {
		l.Hasten(ends)
	}
}

// watchClock looks at the clocks from time to time until ctx ends. It returns what ends that, and
// waits for it.
func (d *Device) watchClock(ctx context.Context) (end func()) {
	d.time.life = ctx
	watch := d.time.Watch(func(r *clock.Round, may bool) (asks bool) {
		_ = d.run("clock", func() error {
			asks = d.look(r, may)
			return nil
		})
		return asks
	})
	return func() {
		watch.End()
		d.time.looking.Wait()
	}
}

// look notices what has happened to the clocks and to the link's token. If there is something to do
// about the device's files, or if the device may ask and the time is wanted, it lets others do
// that: it does not block. It says whether the device asks.
func (d *Device) look(r *clock.Round, may bool) (asks bool) {
	linked := d.serves() != nil
	d.hasten(r.Now())
	if (d.time.Stale(r, linked) || d.home.Restless()) && d.time.tending.CompareAndSwap(false, true) {
		d.spawnIn(&d.time.looking, "clock", func() {
			defer d.time.tending.Store(false)
			d.time.Pass(linked)
			d.home.Tend()
		})
	}
	// Without a link others have the network.
	if !may || !linked || !d.time.Wanted(r) || !d.time.asking.CompareAndSwap(false, true) {
		return false
	}
	d.spawnIn(&d.time.looking, "clock", func() {
		defer d.time.asking.Store(false)
		ctx, cancel := leash.Under(d.time.life)
		defer cancel()
		d.askTime(ctx, false)
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
	e := journal.Event{Kind: journal.Resumed, Took: slept, Text: fmt.Sprintf("this machine was suspended for %s", clock.Size(slept))}
	if l != nil {
		e.Hub = l.Host()
		e.Text += fmt.Sprintf("; is %s still there?", e.Hub)
		defer l.Check()
	}
	d.emit(e)
}
