package device

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry"
)

const (
	firstWord = time.Minute // first reminder of an outage; each further one after twice the time
	longWord  = time.Hour   // longest time between two reminders
)

// outage is what a device remembers of the time without a link. It is guarded by Device.mu.
type outage struct {
	timer  *time.Timer // fires at the next reminder; nil if there is a link, or the device does not run
	wait   time.Duration
	began  time.Time
	failed string          // the hub that failed last
	signal failover.Signal // what happened last
	at     string          // where it happened: a hub, or DPS
	next   time.Time       // the latest time of the next try
	acked  uint64          // samples acknowledged up to the begin of the outage
}

// begin starts an outage: at the start of a device, and at the end of each link.
func (o *outage) begin(d *Device) {
	acked := d.box.Stats().Acked
	d.mu.Lock()
	defer d.mu.Unlock()
	o.beginLocked(d, acked)
}

func (o *outage) beginLocked(d *Device, acked uint64) {
	if o.timer == nil {
		o.timer = d.after(firstWord, "outage", d.stillDown)
	}
	o.timer.Reset(firstWord)
	o.wait, o.began, o.acked = firstWord, time.Now(), acked
}

// overLocked is called when a link is at work.
func (o *outage) overLocked() {
	o.stopLocked()
	o.failed, o.signal, o.at = "", failover.Unknown, ""
}

// end is called when the device ends.
func (o *outage) end(d *Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o.stopLocked()
}

func (o *outage) stopLocked() {
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
}

// stillDown tells that there is still no link, how much waits, and what a person can do.
func (d *Device) stillDown() {
	s := d.box.Stats()
	d.mu.Lock()
	o := &d.outage
	if o.timer == nil || d.standing.Hub != "" {
		d.mu.Unlock()
		return
	}
	o.timer.Reset(o.wait)
	o.wait = min(2*o.wait, longWord)
	since, signal, at, next, last, advice := time.Since(o.began), o.signal, o.at, time.Until(o.next), d.lastText, d.adviceLocked(o.signal)
	d.mu.Unlock()
	e := journal.Event{Kind: journal.StillDown, Outage: since, Signal: signal.String(), Queued: s.Queued, Error: last, Person: signal.NeedsPerson()}
	e.Text = fmt.Sprintf("still no link after %s", journal.Duration(since))
	if !d.app.Off.Telemetry {
		e.Text += fmt.Sprintf(": %s, the outbox is %s full", wait(s.Queued), percent(s.QueuedBytes, d.c.Outbox.MaxBytes))
	}
	if at != "" {
		e.Text += "; the last failure: " + strings.Replace(at+": "+signal.String(), "DPS: DPS ", "DPS ", 1)
	}
	e.Text += "; the device goes on trying"
	if next > 0 {
		e.Text += fmt.Sprintf(", again in %s at the latest", journal.Duration(next))
		e.Wait = next
	}
	e.Text += "; " + advice
	d.emit(e)
}

// adviceLocked is what a person can do in an outage.
func (d *Device) adviceLocked(s failover.Signal) string {
	if hint := s.Hint(d.proof()); hint != "" {
		return hint
	}
	switch s {
	case failover.NetworkDown, failover.NameNotFound, failover.DialSilent:
		return "check this machine's network"
	case failover.DPSThrottled, failover.DPSError:
		return "nothing can be done here: DPS is in trouble"
	default: // the hub failed
	}
	if d.id.PinnedHub != "" {
		return "check that the hub is well; with DPS the device would find another one"
	}
	if hub := d.standing.stillNamed; hub != "" {
		return fmt.Sprintf("mend %s, or assign the device to another hub (hubhop failover does so in IoT Central): DPS does not watch hubs", hub)
	}
	return "check that the hub is well; DPS does not watch hubs: if this one is gone for good, somebody must assign the device to another"
}

// percent says which part of most is used, in words.
func percent(used, most int64) string {
	if most <= 0 || used*100 < most {
		return "less than 1 %"
	}
	return fmt.Sprintf("%d %%", used*100/most)
}

// The end of a backlog gets a line if the outage was that long or the backlog that large.
const (
	backlogAfter = 10 * time.Second
	backlogFrom  = 64 // samples
)

// waits says whether tellBacklog has something to wait for.
func (d *Device) waits() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.backlog > 0
}

// tellBacklog waits until the samples that had waited for the link are sent, and says so. It does
// nothing without a backlog.
func (d *Device) tellBacklog(ctx context.Context, host string) error {
	d.mu.Lock()
	n, goal := d.backlog, d.backlogGoal
	d.backlog = 0
	d.mu.Unlock()
	if n == 0 {
		return nil
	}
	began := time.Now()
	look := time.NewTicker(lookAgain) // not WaitEmpty, because a busy outbox is never empty
	defer look.Stop()
	for {
		s := d.box.Stats()
		left := s.Acked+gone(s)+s.Quarantined < goal
		if d.c.Drain.Order == telemetry.FreshFirst { // fresh-first: the acknowledged samples may be new ones
			left = s.Queued > s.Unsynced+1
		}
		if !left {
			took := time.Since(began)
			d.emit(journal.Event{Kind: journal.BacklogSent, Hub: host, Took: took, Queued: n,
				Text: fmt.Sprintf("the backlog is gone: what had waited, %s, was sent in %s", samples(n), journal.Duration(took))})
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
