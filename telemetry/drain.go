package telemetry

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Box is the part of an outbox that a Drain uses. A position names a record as long as the box is
// open.
type Box interface {
	// Watch calls w.Wake once, as soon as one of the parts has a record to read, or the box is
	// closed. That may come before Watch returns. If w waits already, it waits for these parts from
	// now on.
	Watch(w *outbox.Watch, parts ...outbox.Part)
	// Unwatch takes a Watch back. It returns false if Wake has been called or is about to be.
	Unwatch(w *outbox.Watch) bool
	// Read returns records of the first part that has any, the oldest unacknowledged one first. It
	// returns at most limit records, and as many as fit in bytes of bodies, but at least one; none
	// if no part has any. The records are valid until the next call with the same batch.
	Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error)
	// Newest returns the position behind which the newest n records are, 0 if all must go in order.
	Newest(n int) uint64
	// Ack removes records. It may be called in any order, also for records that are gone already.
	Ack(positions ...uint64) error
	// Quarantine sets aside a record that no hub will ever take, so that the records behind it go
	// on.
	Quarantine(pos uint64, why error) error
}

// Sender is all that telemetry knows of the cloud.
type Sender interface {
	// Send queues messages in order, and returns how many it has accepted. It keeps none of their
	// memory. Each accepted message is completed exactly once, from any goroutine, maybe before
	// Send returns: with nil when the hub has acknowledged it, or with the reason why that will not
	// happen. The error is about the first message that was not accepted. If it has a method
	// Permanent that returns true, only this message can never be sent; any other error means that
	// the link is of no use any more.
	Send(messages []message.Outgoing, to message.Completion) (taken int, err error)
	// Window is how many messages may be unacknowledged on this link now; none if it is 0 or less.
	Window() int
}

// DrainOptions set how a drain behaves. The zero value is the default behaviour.
type DrainOptions struct {
	Window int // messages in flight at most, up to MaxWindow; 0: DefaultWindow
	Order  Order
	// Created returns when a record was really made, which may be known better than when it was
	// kept. Nil: the kept time.
	Created func(pos uint64, kept time.Time) time.Time
	// Problem is told of an acknowledgement that the outbox could not write, so that the record
	// will be sent once more. It may be nil.
	Problem func(error)
	Traffic *Traffic          // counts what is sent, for all drains of a device; nil: nobody counts
	Go      func(work func()) // starts work in a goroutine of its own; nil: the go statement
}

const (
	// DefaultWindow is the window, in messages, of a drain that is given none.
	DefaultWindow = 64
	// MaxWindow is the largest window, in messages.
	MaxWindow = 4096

	// lookAgain is how long a drain waits before it looks again whether a closed window has opened,
	// if nothing is in flight. In that case no acknowledgement will wake it.
	lookAgain = 50 * time.Millisecond
)

// Drain sends over one link what is in the outbox and what comes into it, from Start to Stop or
// until the link ends. Before that, Early sends what may go while the link is being opened. A drain
// begins with the oldest record that is not acknowledged (unless its Order says otherwise) and
// keeps their order. At any time at most a window of records is in flight. Only Done with nil takes
// a record out of the outbox, also after Stop, because a late acknowledgement is valid. The next
// Drain sends the other records again, under the same ids.
//
// A drain has no goroutine of its own. The goroutine that brings acknowledgements sends as many
// messages as there is room for, in the same call: waking another goroutine would cost as much as
// dozens of messages (docs/adr/0008-acknowledgements-send.md). If the outbox gets a message while
// nothing is in flight, a goroutine sends it and ends.
type Drain struct {
	box     Box
	sender  Sender
	options DrainOptions

	asked    atomic.Int64 // goroutines that want to send and were not served; the first serves all
	stopping atomic.Bool
	waits    atomic.Bool // for records behind at: the watch was set there and has not called
	flight   flight

	turn    sync.Mutex // held by the goroutine that sends; guards the next fields
	started bool       // and not stopped
	began   bool       // Early or Start has been called
	at      streams
	*busy       // nil while there is nothing to send
	needs   int // bytes of the first message that was read and did not fit; 0: not known
	parts   [2]outbox.Part
	watch   outbox.Watch // the newest wait for records
	again   *time.Timer  // looks again whether a closed window has opened; nil: not yet made

	telling sync.Mutex
	ended   func(error) // nil before Start, and after it was called
}

// busy is the memory of a drain that sends. An idle drain has none.
type busy struct {
	next  outgoing
	batch outbox.Batch
}

// busies are shared by all drains, because most of them are idle most of the time.
var busies = sync.Pool{New: func() any { return new(busy) }}

// work gets the memory for sending. d.turn is held.
func (d *Drain) work() {
	if d.busy == nil {
		d.busy = busies.Get().(*busy)
	}
}

// rest gives back the memory that only a busy drain needs. d.turn is held.
func (d *Drain) rest() {
	if d.busy == nil {
		return
	}
	d.batch.Release()
	d.next.rest()
	busies.Put(d.busy)
	d.busy = nil
}

// Validate returns an error for each option that is out of its bounds. The text begins with the
// option's name as it is spelled on the command line.
func (o DrainOptions) Validate() error {
	if o.Window < 1 || o.Window > MaxWindow {
		return fmt.Errorf("drain-window must lie between 1 and %d, it is %d", MaxWindow, o.Window)
	}
	return nil
}

// NewDrain returns a Drain that has sent nothing yet.
func NewDrain(box Box, s Sender, o DrainOptions) *Drain {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	if o.Go == nil {
		o.Go = func(work func()) { go work() }
	}
	d := &Drain{box: box, sender: s, options: o}
	d.watch.Wake = d.woken
	return d
}

// Early sends records that wait already, until the link refuses more. It waits for nothing, and
// leaves the rest to Start.
func (d *Drain) Early() {
	d.asked.Store(1) // a goroutine that comes meanwhile leaves the work to Start
	defer d.asked.Store(0)
	d.turn.Lock()
	defer d.turn.Unlock()
	d.begin()
	defer d.rest() // the link may not come up, and then there is no Start
	room, bytes, _ := d.room()
	if room <= 0 {
		return
	}
	d.work()
	records, err := d.box.Read(&d.batch, room, bytes, d.at.parts(&d.parts)...)
	if err != nil || len(records) == 0 {
		return // Start will see it
	}
	d.next.fill(records, d.options.Created)
	_ = d.send(max(d.next.within(bytes), 1)) // Start will see this error, too
}

// Start sends what may go now, and goes on by itself until Stop. If the drain cannot go on, it
// calls ended, at most once, with the reason of the link's end or an error of the outbox. Any
// goroutine may call ended, but none does after Stop has returned. ended must neither block nor
// call the drain. A drain may be started only once.
func (d *Drain) Start(ended func(error)) {
	d.telling.Lock()
	d.ended = ended
	d.telling.Unlock()
	d.turn.Lock()
	d.started = true
	d.begin()
	d.turn.Unlock()
	d.pump()
}

// Stop ends the sending. After it has returned nothing new goes out. Stop does not wait for
// acknowledgements; those that come later still count.
func (d *Drain) Stop() {
	d.stopping.Store(true)
	d.stopSending()
	d.telling.Lock()
	defer d.telling.Unlock()
	d.ended = nil
}

func (d *Drain) stopSending() {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.started = false
	d.box.Unwatch(&d.watch)
	if d.again != nil {
		d.again.Stop()
	}
	d.rest()
}

func (d *Drain) begin() {
	if !d.began && d.options.Order == FreshFirst {
		d.at = freshFirst(d.box.Newest(max(d.options.Window/4, 1)))
	}
	d.began = true
}

// pump sends what may go. If another goroutine sends already, that one will look again.
func (d *Drain) pump() {
	if d.asked.Add(1) > 1 {
		return
	}
	for served := int64(1); ; served = d.asked.Load() {
		d.push()
		if d.asked.CompareAndSwap(served, 0) {
			break
		}
	}
	if err := d.flight.end(); err != nil {
		d.tell(err)
	}
}

// pumpLater is pump in a goroutine of its own.
func (d *Drain) pumpLater() { d.options.Go(d.pump) }

// tell calls ended, once: the drain cannot go on.
func (d *Drain) tell(err error) {
	d.telling.Lock()
	defer d.telling.Unlock()
	if ended := d.ended; ended != nil {
		d.ended = nil
		ended(err)
	}
}

func (d *Drain) push() {
	d.turn.Lock()
	defer d.turn.Unlock()
	if !d.started {
		return
	}
	in, err := d.sendAll()
	if err != nil {
		d.flight.fail(err)
	}
	switch in {
	case nothing:
	case window:
		d.awaitWindow()
	case empty:
		d.awaitRecords()
	}
}

// obstacle is a reason why no more messages can be sent, which the drain itself must watch.
type obstacle int

const (
	nothing obstacle = iota // none, or one that the next acknowledgement removes
	window                  // the window is closed, and nothing is in flight
	empty                   // the outbox has no more records
)

// sendAll sends until there is an obstacle, and returns it.
func (d *Drain) sendAll() (obstacle, error) {
	for !d.stopping.Load() && d.flight.end() == nil {
		room, bytes, inFlight := d.room()
		switch {
		case room <= 0 && inFlight == 0:
			return window, nil
		case room <= 0 || bytes < max(d.needs, 1) && inFlight > 0:
			return nothing, nil
		}
		d.work()
		records, err := d.box.Read(&d.batch, room, bytes, d.at.parts(&d.parts)...)
		if err != nil {
			return nothing, err
		}
		if len(records) == 0 {
			d.rest()
			d.flight.rest()
			return empty, nil
		}
		d.next.fill(records, d.options.Created)
		n := d.next.within(bytes)
		if d.needs = 0; n < len(records) && d.at.split == 0 { // else the next one may be smaller
			d.needs = d.next.sizes[n]
		}
		if n == 0 && inFlight > 0 {
			return nothing, nil
		}
		err = d.send(max(n, 1))
		if isPermanent(err) {
			r := &d.next.records[0]
			d.passed(r.Pos)
			if err = d.box.Quarantine(r.Pos, err); err != nil {
				err = fmt.Errorf("taking message %s out of the line: %w", r.ID, err)
			}
			d.needs = 0 // read again, because the next record now announces the gap
		}
		if err != nil {
			return nothing, err
		}
	}
	return nothing, nil
}

func (d *Drain) room() (messages, bytes, inFlight int) {
	return d.flight.room(min(d.options.Window, d.sender.Window()))
}

// send sends the first n of the next records, or as many as the link accepts. An error is about the
// first record that is left.
func (d *Drain) send(n int) error {
	d.flight.start(&d.next, n) // before the call: a completion may be quicker than its return
	out := d.next.out[:n]
	taken, err := d.sender.Send(out, d)
	d.options.Traffic.sent(taken)
	if taken > 0 {
		d.passed(d.next.records[taken-1].Pos)
	}
	if taken < n {
		d.flight.land(out[taken:])
	}
	d.next.records = d.next.records[taken:]
	return err
}

// passed notes that the drain has come to a position. d.turn is held.
func (d *Drain) passed(pos uint64) {
	d.at.passed(pos)
	d.waits.Store(false)
}

// awaitRecords lets the outbox wake the drain when there is a record that the drain has not sent.
// d.turn is held.
func (d *Drain) awaitRecords() {
	if d.waits.Swap(true) {
		return
	}
	d.box.Watch(&d.watch, d.at.parts(&d.parts)...)
}

// woken is called when there is a record that the drain has not sent. It may come late, for a wait
// that a newer one has followed; the drain then waits anew for the newer one.
func (d *Drain) woken() {
	d.waits.Store(false)
	d.pumpLater()
}

// awaitWindow lets the drain look again after lookAgain. d.turn is held.
func (d *Drain) awaitWindow() {
	if d.again == nil {
		d.again = time.AfterFunc(lookAgain, d.pumpLater)
		return
	}
	d.again.Reset(lookAgain)
}
