package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Outbox is what a device needs of the queue of its samples. [*outbox.Box] fits.
type Outbox interface {
	telemetry.Intake
	telemetry.Box
	Stats() outbox.Stats
	WaitEmpty(ctx context.Context) error
	Close() error
	AppendDurable(ctx context.Context, messages ...message.Message) error
	Last() uint64 // position of the newest sample
	ID() string
	HasID(id string) bool
}

// Open locks the device's directory, reads what the last run has left there, and opens the outbox.
// It returns that, so that others can append to it until Run returns. Run calls Open if nobody has,
// and closes what it has opened. An error is one that a person must act on: [home.ErrLocked],
// [home.ErrStateDir], an outbox with samples for another identity, or a fault of the App.
func (d *Device) Open() (Outbox, error) {
	d.mu.Lock()
	box := d.box
	d.mu.Unlock()
	if box != nil {
		return box, nil
	}
	if err := d.app.Validate(); err != nil {
		return nil, err
	}
	d.app.Reported = nil // the twin has them
	if err := d.open(); err != nil {
		return nil, err
	}
	return d.box, nil
}

// Append is AppendDurable of [outbox.Box], from Open to the end of Run.
func (d *Device) Append(ctx context.Context, messages ...message.Message) error {
	err := d.box.AppendDurable(ctx, messages...)
	if err == nil {
		d.counters.Made.Add(uint64(len(messages)))
	}
	return err
}

// open takes the state directory and what is in it.
func (d *Device) open() (err error) {
	if err = d.openHome(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.home.Close()
		}
	}()
	o := d.c.Outbox
	o.Age, o.Stamp, o.For, o.Report = d.time.Age, d.time.Stamp, d.id.queuesFor(), d.outboxProblem
	open := d.id.OpenOutbox
	if open == nil {
		open = func(dir string, o outbox.Options) (Outbox, error) { return outbox.Open(dir, o) }
	}
	box, err := open(d.home.Path(home.OutboxName), o)
	switch {
	case errors.Is(err, outbox.ErrLocked):
		return fmt.Errorf("%w: %w", home.ErrLocked, err)
	case errors.Is(err, outbox.ErrOther):
		return fmt.Errorf("%w; give this device another --state-dir, or give --send-queued-here to send what waits here to the new place "+
			"(hubhop outbox discard throws it away)", err)
	case err != nil:
		return fmt.Errorf("%w: %w", home.ErrStateDir, err)
	}
	d.mu.Lock()
	d.box = box
	d.mu.Unlock()
	d.home.Made(home.OutboxName)
	d.handled, d.kept = home.OpenHandled(d.home), home.OpenReported(d.home)
	d.cached = new(d.openClock(box))
	return nil
}
