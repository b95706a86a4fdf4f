package telemetry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Box is the end of the outbox that Drain takes records from. A position names a record for as long as the box is open.
type Box interface {
	// Notify calls wake once, as soon as one of the parts has a record to read, or the box is closed. wake must not block, and may be
	// called before Notify returns. stop takes the call back; it returns false if wake has been called or is about to be.
	Notify(wake func(), parts ...outbox.Part) (stop func() bool)
	// Read gives records of the first of the parts that has some, the oldest unacknowledged first, up to limit of them and bytes of bodies
	// but one at least; none if no part has any. They are good until the next call with the same batch.
	Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error)
	// Newest is the position behind which the newest n records are, 0 if all are to go in order.
	Newest(n int) uint64
	// Ack takes records out. It is called in any order, and may be called for some that are gone already.
	Ack(positions ...uint64) error
	// Quarantine takes a record out of the line that no hub will ever take.
	Quarantine(pos uint64, why error) error
}

// Sender is all that telemetry knows of the cloud.
type Sender interface {
	// Send queues messages, in order, and returns how many it has taken; what they are made of is the caller's again. Each that was taken
	// is completed exactly once, from any goroutine, maybe before Send returns: with nil on the hub's own acknowledgement, or with the
	// reason why there will be none. The error is about the first that was not taken: one with Permanent() true condemns this message
	// only; any other means that the link is of no more use.
	Send(messages []message.Outgoing, to message.Completion) (taken int, err error)
	// Window is how many messages this link wants unacknowledged now; none when it is 0 or less.
	Window() int
}

// DrainOptions are what a drain may be given; the zero value is the usual one.
type DrainOptions struct {
	Window  int // messages in flight at most, up to MaxWindow; 0: DefaultWindow
	Order   Order
	Created func(pos uint64, kept time.Time) time.Time // when a record was really made, if more is known now; nil: then
	Problem func(error)                                // an acknowledgement the outbox could not write down, so that the record will be sent once more; may be nil
	Go      func(work func())                          // starts work in a goroutine of its own; nil: the go statement
}

const (
	// DefaultWindow is the window of a drain that is given none, and MaxWindow the largest one.
	DefaultWindow = 64
	MaxWindow     = 4096

	// lookAgain is how long a drain with nothing in flight waits for a closed window to open: no acknowledgement will wake it then.
	lookAgain = 50 * time.Millisecond
)

// Drain sends what is in the outbox, and what comes into it, over one link: from Start to Stop or until the link ends, and Early,
// before that, what may go while the link is being opened. It starts with the oldest record that is not acknowledged (unless told
// otherwise, see Order) and keeps their order; up to a window of them are under way at any time. Only Done with nil takes a record out
// of the outbox, even after Stop: an acknowledgement that comes late is one. What is left is sent again, under the same ids, by the
// next Drain.
//
// A drain has no goroutine of its own. Whoever brings acknowledgements sends what there is room for now, in the same call, because to
// wake another goroutine for it would cost as much as dozens of messages do (docs/adr/0008-acknowledgements-send.md). When nothing is
// in flight and the outbox gets a message, a goroutine sends it and ends.
type Drain struct {
	box     Box
	sender  Sender
	options DrainOptions

	asked    atomic.Int64 // how many came to send and were not served yet; the first of them serves all
	stopping atomic.Bool
	flight   flight

	turn    sync.Mutex // held by the goroutine that sends; guards the next fields
	started bool       // and not stopped
	began   bool       // sending, by Early or Start
	at      streams
	next    outgoing
	batch   outbox.Batch
	needs   int // bytes, of the first message that was read and did not fit; 0: not known
	parts   [2]outbox.Part
	waiting *waiting    // for records; nil: not yet
	again   *time.Timer // looks whether a closed window has opened; nil: not yet

	telling sync.Mutex
	ended   func(error) // nil before Start, and once it was called
}

// waiting is one wait of a drain for a record.
type waiting struct {
	behind streams // where the drain had come to
	over   atomic.Bool
	stop   func() bool
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
	return &Drain{box: box, sender: s, options: o}
}

// Early sends what waits already, until the link refuses more, and waits for nothing. What it leaves is for Start.
func (d *Drain) Early() {
	d.asked.Store(1) // a goroutine that comes meanwhile leaves the work to Start
	defer d.asked.Store(0)
	d.turn.Lock()
	defer d.turn.Unlock()
	d.begin()
	defer d.batch.Release() // there may be no Start: nobody knows yet whether the link comes up
	room, bytes, _ := d.room()
	if room <= 0 {
		return
	}
	records, err := d.box.Read(&d.batch, room, bytes, d.at.parts(&d.parts)...)
	if err != nil || len(records) == 0 {
		return // Start will see it
	}
	d.next.fill(records, d.options.Created)
	_ = d.send(max(d.next.within(bytes), 1)) // Start will see this, too: also a message that no hub would take
}

// Start sends what may go now, and goes on by itself until Stop. ended is called at most once, when the drain cannot go on: with the
// link's reason or an error of the outbox. It is called without a lock, by any goroutine, and never once Stop has returned. It must
// neither block nor call the drain. A drain is started once.
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

// Stop ends the sending. When it returns nothing new goes out. It does not wait for acknowledgements, and those that come later still
// count.
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
	if d.waiting != nil {
		d.waiting.stop()
	}
	if d.again != nil {
		d.again.Stop()
	}
	d.batch.Release()
}

// Run is Start, and Stop when ctx ends or the drain does. It returns ctx.Err(), the link's reason, or an error of the outbox.
func (d *Drain) Run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	d.Start(func(err error) { ended <- err })
	defer d.Stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Drain) begin() {
	if !d.began && d.options.Order == FreshFirst {
		d.at = freshFirst(d.box.Newest(max(d.options.Window/4, 1)))
	}
	d.began = true
}

// pump sends what may go. If another goroutine is at it already, that one will look again.
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

// tell says, once, that the drain cannot go on.
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

// obstacle is what is in the way of more messages, and what nobody but the drain looks after.
type obstacle int

const (
	nothing obstacle = iota // or what the next acknowledgement will remove
	window                  // it is closed, and nothing is in flight
	empty                   // the outbox has no more
)

// sendAll sends until something is in the way, and returns what.
func (d *Drain) sendAll() (obstacle, error) {
	for !d.stopping.Load() && d.flight.end() == nil {
		room, bytes, inFlight := d.room()
		switch {
		case room <= 0 && inFlight == 0:
			return window, nil
		case room <= 0 || bytes < max(d.needs, 1) && inFlight > 0:
			return nothing, nil
		}
		records, err := d.box.Read(&d.batch, room, bytes, d.at.parts(&d.parts)...)
		if err != nil {
			return nothing, err
		}
		if len(records) == 0 {
			d.next.rest()
			d.flight.rest()
			return empty, nil
		}
		d.next.fill(records, d.options.Created)
		n := d.next.within(bytes)
		if d.needs = 0; n < len(records) && d.at.split == 0 { // else what is fresh by then may be smaller
			d.needs = d.next.sizes[n]
		}
		if n == 0 && inFlight > 0 {
			return nothing, nil
		}
		err = d.send(max(n, 1))
		if isPermanent(err) {
			r := &d.next.records[0]
			d.at.passed(r.Pos)
			if err = d.box.Quarantine(r.Pos, err); err != nil {
				err = fmt.Errorf("taking message %s out of the line: %w", r.ID, err)
			}
			d.needs = 0 // those behind it are read again: the first of them says now that one is missing
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

// send sends the first n of the next records, or as many as the link takes. An error is about the first of those that are left.
func (d *Drain) send(n int) error {
	d.flight.start(&d.next, n) // before the call: a completion may be quicker than its return
	out := d.next.out[:n]
	taken, err := d.sender.Send(out, d)
	if taken > 0 {
		d.at.passed(d.next.records[taken-1].Pos)
	}
	if taken < n {
		d.flight.land(out[taken:])
	}
	d.next.records = d.next.records[taken:]
	return err
}

// awaitRecords lets the outbox wake the drain when there is something behind what it has sent. d.turn is held.
func (d *Drain) awaitRecords() {
	if w := d.waiting; w != nil && !w.over.Load() {
		if w.behind == d.at {
			return
		}
		w.stop()
	}
	w := &waiting{behind: d.at}
	d.waiting = w
	w.stop = d.box.Notify(func() {
		w.over.Store(true)
		d.pumpLater()
	}, d.at.parts(&d.parts)...)
}

// awaitWindow looks again in a while. d.turn is held.
func (d *Drain) awaitWindow() {
	if d.again == nil {
		d.again = time.AfterFunc(lookAgain, d.pumpLater)
		return
	}
	d.again.Reset(lookAgain)
}
