package telemetry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Box is the end of the outbox that Drain takes records from.
type Box interface {
	// Wait waits until there is a record in one of the parts.
	Wait(ctx context.Context, parts ...outbox.Part) error
	// Read gives records of the first of the parts that has some, the oldest unacknowledged first, up to limit of them and bytes of bodies
	// but one at least; none if no part has any. They are good until the next call with the same batch.
	Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error)
	// Newest is the position behind which the newest n records are, 0 if all are to go in order.
	Newest(n int) uint64
	// Ack takes records out. It is called in any order, and may be called for some that are gone already.
	Ack(places ...uint64) error
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

// Order is which records a drain sends first.
type Order int

// The orders.
const (
	FIFO Order = iota // the oldest
	// FreshFirst lets those go ahead that are made while the link is up, and the newest few of those that it found waiting. The others,
	// the backlog, take what is left of the window. Each of the two streams keeps its order.
	FreshFirst
)

// DrainOptions are what a drain may be given; the zero value is the usual one.
type DrainOptions struct {
	Window  int // messages in flight at most; 0: 64
	Order   Order
	Created func(pos uint64, kept time.Time) time.Time // when a record was really made, if more is known now; nil: then
	Problem func(error)                                // an acknowledgement the outbox could not write down, so that the record will be sent once more; may be nil
}

// MaxInFlight bounds the bytes of bodies and properties in flight, whatever the window; one message alone may always go.
const MaxInFlight = 512 << 10

const (
	defaultWindow = 64
	// lookAgain is how long a drain with nothing in flight waits for a closed window to open: no acknowledgement will wake it then.
	lookAgain = 50 * time.Millisecond
)

// Drain sends what is in the outbox, and what comes into it, over one link: Run until its ctx ends or the link does, and Early, before
// it, what may go while the link is being opened. It starts with the oldest record that is not acknowledged (unless told otherwise, see
// Order) and keeps their order; up to a window of them are under way at any time. Only done(nil) takes a record out of the outbox, be it
// after Run has returned: an acknowledgement that comes late is one. What is left is sent again, under the same ids, by the next Drain.
//
// Who brings acknowledgements sends what there is room for now, in the same call: to wake another goroutine for it would cost as much as
// dozens of messages do (docs/adr/0008-acknowledgements-send.md).
type Drain struct {
	box     Box
	sender  Sender
	options DrainOptions
	wake    chan struct{} // full once there is something for Run to see to

	asked atomic.Int64    // how many came to send and were not served yet; the first of them serves all
	turn  sync.Mutex      // held by the goroutine that sends; guards the next six
	link  context.Context // of Run; nil before and after it: then nothing is sent for an acknowledgement
	began bool
	at    streams
	next  outgoing
	batch outbox.Batch
	needs int // bytes, of the first message that was read and did not fit; 0: not known

	acking sync.Mutex // guards what an acknowledgement is put together in; before mu
	places []uint64

	mu       sync.Mutex
	inFlight int
	bytes    int
	slots    []slot // by ticket
	free     []uint64
	lost     context.CancelCauseFunc // ends Run; nil before
	failed   error                   // the reason of the first message that failed
	pause    pause
	from     streams // where the drain had come to then

	parts [2]outbox.Part // of Run alone: what it waits for
}

// pause is why nobody is sending.
type pause int

const (
	busy pause = iota // somebody is; or the window is full, and the next acknowledgement will go on
	shut              // the window is closed and nothing is in flight
	dry               // the outbox has no more
)

// slot is a message under way. There are as many as were ever under way at once.
type slot struct {
	pos   uint64
	bytes int
}

// outgoing is what was read and is to be sent. All of it is scratch.
type outgoing struct {
	records []outbox.Record
	out     []message.Outgoing
	sizes   []int
	parts   [2]outbox.Part
}

// NewDrain returns a Drain that has sent nothing yet. It starts no goroutine.
func NewDrain(box Box, s Sender, o DrainOptions) *Drain {
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	return &Drain{box: box, sender: s, options: o, wake: make(chan struct{}, 1)}
}

// Early sends what waits already, until the link refuses more, and waits for nothing. What it leaves is for Run.
func (d *Drain) Early() {
	d.asked.Store(1) // a goroutine that comes meanwhile leaves the work to Run
	defer d.asked.Store(0)
	d.turn.Lock()
	defer d.turn.Unlock()
	d.begin()
	defer d.batch.Release() // there may be no Run: nobody knows yet whether the link comes up
	room, bytes, _ := d.room()
	if room <= 0 {
		return
	}
	records, err := d.box.Read(&d.batch, room, bytes, d.at.parts(&d.next.parts)...)
	if err != nil || len(records) == 0 {
		return // Run will see it
	}
	d.next.fill(records, d.options.Created)
	_ = d.send(max(d.next.within(bytes), 1)) // Run will see this, too: also a message that no hub would take
}

// Run sends until ctx ends or the link does. It returns ctx.Err(), the link's reason, or an error of the outbox.
func (d *Drain) Run(ctx context.Context) error {
	link, lost := context.WithCancelCause(ctx)
	defer d.leave()
	defer lost(nil)
	d.mu.Lock()
	d.lost = lost
	failed := d.failed
	d.mu.Unlock()
	if failed != nil {
		return failed
	}
	d.enter(link)
	err := d.run(link)
	if cause := context.Cause(link); cause != nil && ctx.Err() == nil {
		return cause // the link's reason says more than the wait that it ended
	}
	return err
}

// enter lets those who bring acknowledgements send, until link ends.
func (d *Drain) enter(link context.Context) {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.link = link
	d.begin()
}

// leave waits until nobody sends any more.
func (d *Drain) leave() {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.link = nil
	d.batch.Release()
}

func (d *Drain) begin() {
	if !d.began && d.options.Order == FreshFirst {
		d.at = freshFirst(d.box.Newest(max(d.options.Window/4, 1)))
	}
	d.began = true
}

// run sends, and waits for what no acknowledgement tells.
func (d *Drain) run(ctx context.Context) error {
	for {
		d.pump()
		d.mu.Lock()
		pause, from := d.pause, d.from
		d.mu.Unlock()
		var err error
		switch pause {
		case busy:
			err = d.wait(ctx, nil)
		case shut:
			again := time.NewTimer(lookAgain)
			err = d.wait(ctx, again.C)
			again.Stop()
		case dry:
			err = d.box.Wait(ctx, from.parts(&d.parts)...)
		}
		if err != nil {
			return err
		}
	}
}

func (d *Drain) wait(ctx context.Context, again <-chan time.Time) error {
	select {
	case <-d.wake:
	case <-again:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// pump sends what may go, and returns what was in the way in the end. If another one is at it already, that one will look again.
func (d *Drain) pump() (why pause) {
	if d.asked.Add(1) > 1 {
		return busy
	}
	for served := int64(1); ; served = d.asked.Load() {
		d.turn.Lock()
		if d.link != nil {
			why = d.push(d.link)
		}
		d.turn.Unlock()
		if d.asked.CompareAndSwap(served, 0) {
			return why
		}
	}
}

func (d *Drain) push(ctx context.Context) pause {
	d.paused(busy)
	why, err := d.sendAll(ctx)
	if err != nil {
		d.fail(err)
	}
	d.paused(why)
	return why
}

// paused notes why nobody is sending.
func (d *Drain) paused(why pause) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pause, d.from = why, d.at
}

// fail ends Run.
func (d *Drain) fail(err error) {
	d.mu.Lock()
	if d.failed == nil {
		d.failed = err
	}
	lost := d.lost
	d.mu.Unlock()
	if lost != nil {
		lost(err)
	}
}

// sendAll sends until something is in the way, and returns what.
func (d *Drain) sendAll(ctx context.Context) (pause, error) {
	for ctx.Err() == nil {
		room, bytes, inFlight := d.room()
		switch {
		case room <= 0 && inFlight == 0:
			return shut, nil
		case room <= 0 || bytes < max(d.needs, 1) && inFlight > 0:
			return busy, nil
		}
		records, err := d.box.Read(&d.batch, room, bytes, d.at.parts(&d.next.parts)...)
		if err != nil {
			return busy, err
		}
		if len(records) == 0 {
			d.next.rest()
			return dry, nil
		}
		d.next.fill(records, d.options.Created)
		n := d.next.within(bytes)
		if d.needs = 0; n < len(records) && d.at.split == 0 { // else what is fresh by then may be smaller
			d.needs = d.next.sizes[n]
		}
		if n == 0 && inFlight > 0 {
			return busy, nil
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
			return busy, err
		}
	}
	return busy, nil
}

// streams is how far a drain has come: in the whole line, or in two parts of it.
type streams struct {
	backlog uint64 // the last position sent of the backlog, or of the whole line
	fresh   uint64 // the last position sent of the fresh ones
	split   uint64 // the first position that is fresh; 0: there is but one stream
}

// freshFirst splits the line behind a position; 0: not at all.
func freshFirst(behind uint64) streams {
	if behind == 0 {
		return streams{}
	}
	return streams{fresh: behind, split: behind + 1}
}

func (s *streams) isBacklog(pos uint64) bool { return pos < s.split }

// parts are where the next records come from, the first that has some.
func (s *streams) parts(into *[2]outbox.Part) []outbox.Part {
	if s.split == 0 {
		return append(into[:0], outbox.Part{After: s.backlog})
	}
	return append(into[:0], outbox.Part{After: s.fresh}, outbox.Part{After: s.backlog, Until: s.split})
}

func (s *streams) passed(pos uint64) {
	if s.split == 0 || s.isBacklog(pos) {
		s.backlog = pos
	} else {
		s.fresh = pos
	}
}

// room is how many messages may go now, and how many bytes; it says also how many messages are in flight.
func (d *Drain) room() (messages, bytes, inFlight int) {
	window := min(d.options.Window, d.sender.Window())
	d.mu.Lock()
	defer d.mu.Unlock()
	return window - d.inFlight, MaxInFlight - d.bytes, d.inFlight
}

// send sends the first n of the next records, or as many as the link takes. An error is about the first of those that are left.
func (d *Drain) send(n int) error {
	d.take(n) // before the call: a completion may be quicker than its return
	out := d.next.out[:n]
	taken, err := d.sender.Send(out, d)
	if taken > 0 {
		d.at.passed(d.next.records[taken-1].Pos)
	}
	if taken < n {
		d.mu.Lock()
		for i := range out[taken:] {
			d.giveLocked(out[taken+i].Ticket)
		}
		d.mu.Unlock()
	}
	d.next.records = d.next.records[taken:]
	return err
}

// Done is for the [Sender].
func (d *Drain) Done(tickets []uint64, err error) {
	d.acking.Lock()
	d.mu.Lock()
	d.places = d.places[:0]
	for _, t := range tickets {
		d.places = append(d.places, d.slots[t].pos)
	}
	d.mu.Unlock()
	if err != nil {
		d.fail(err)
	} else if err := d.box.Ack(d.places...); err != nil && d.options.Problem != nil {
		d.options.Problem(fmt.Errorf("%d messages arrived, but that could not be written down: %w", len(tickets), err))
	}
	d.mu.Lock()
	for _, t := range tickets {
		d.giveLocked(t)
	}
	d.mu.Unlock()
	d.acking.Unlock()
	if d.pump() == busy {
		return
	}
	select {
	case d.wake <- struct{}{}: // Run has something to wait for now
	default:
	}
}

// take gives n of the next records their tickets: they are under way from now on.
func (d *Drain) take(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range n {
		if len(d.free) == 0 {
			d.free = append(d.free, uint64(len(d.slots)))
			d.slots = append(d.slots, slot{})
		}
		t := d.free[len(d.free)-1]
		d.free = d.free[:len(d.free)-1]
		d.slots[t] = slot{d.next.records[i].Pos, d.next.sizes[i]}
		d.next.out[i].Ticket = t
		d.inFlight++
		d.bytes += d.next.sizes[i]
	}
}

// giveLocked takes a ticket back whose message is not under way any more.
func (d *Drain) giveLocked(t uint64) {
	d.inFlight--
	d.bytes -= d.slots[t].bytes
	d.free = append(d.free, t)
}

// size is what a message counts against MaxInFlight.
func size(m *message.Outgoing) int {
	n := len(m.Body) + len(m.ID) + len(m.ContentType) + len(m.ContentEncoding) + len(m.Component) + len(m.Gap)
	for k, v := range m.Properties {
		n += len(k) + len(v)
	}
	return n
}

// fill makes messages of records. created corrects when they were made, and may be nil.
func (o *outgoing) fill(records []outbox.Record, created func(pos uint64, at time.Time) time.Time) {
	n := len(records)
	o.records = records
	o.out, o.sizes = slices.Grow(o.out[:0], n)[:n], slices.Grow(o.sizes[:0], n)[:n]
	for i := range records {
		r, m := &records[i], &o.out[i]
		m.Message, m.ID, m.Gap = r.Message, r.ID, r.Gap
		if created != nil && !r.Created.IsZero() {
			m.Created = created(r.Pos, r.Created)
		}
		o.sizes[i] = size(m)
	}
}

// within is how many of the messages have so many bytes together.
func (o *outgoing) within(bytes int) (n int) {
	for n < len(o.sizes) && o.sizes[n] <= bytes {
		bytes -= o.sizes[n]
		n++
	}
	return n
}

// rest gives back what only a backlog needs.
func (o *outgoing) rest() {
	if cap(o.out) > 8 {
		*o = outgoing{}
	}
}
