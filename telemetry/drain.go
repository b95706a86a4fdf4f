package telemetry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"hubhop/telemetry/outbox"
)

// Box is the end of the outbox that Drain takes records from.
type Box interface {
	// Read waits for records in one of the parts and gives up to limit of the first that has some, the oldest unacknowledged first. They
	// are good until the next call with the same batch.
	Read(ctx context.Context, into *outbox.Batch, limit int, parts ...outbox.Part) ([]outbox.Record, error)
	// Has says whether there is a record behind a position.
	Has(after uint64) bool
	// Newest is the position behind which the newest n records are, 0 if all are to go in order.
	Newest(n int) uint64
	// Ack takes records out. It is called in any order, and may be called for some that are gone already.
	Ack(places ...uint64) error
	// Quarantine takes a record out of the line that no hub will ever take.
	Quarantine(pos uint64, why error) error
}

// Sender is all that telemetry knows of the cloud, in types that need no import, so that a link fits without either package importing
// the other.
type Sender interface {
	// Send queues messages, in order, and returns how many it has taken; what they are made of is the caller's again. Each that was taken
	// is completed exactly once, from any goroutine, maybe before Send returns: with nil on the hub's own acknowledgement, or with the
	// reason why there will be none. The error is about the first that was not taken: one with Permanent() true condemns this message
	// only; any other means that the link is of no more use.
	Send(messages []Outgoing, to Completion) (taken int, err error)
	// Window is how many messages this link wants unacknowledged now; none when it is 0 or less.
	Window() int
}

// Outgoing is a message on its way out. Props are the keys and values of its properties in turn. Ticket is what its completion names it by.
type Outgoing = struct {
	Body   []byte
	Props  []string
	Ticket uint64
}

// Completion hears what became of messages. The tickets are good until it returns.
type Completion = interface {
	Done(tickets []uint64, err error)
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

// earlyPatience is how long an outbox that says it has records may take to hand them out while a connection is being opened.
const earlyPatience = 100 * time.Millisecond

// Drain sends what is in the outbox, and what comes into it, over one link: Run until its ctx ends or the link does, and Early, before
// it, what may go while the link is being opened. It starts with the oldest record that is not acknowledged (unless told otherwise, see
// Order) and keeps their order; up to a window of them are under way at any time. Only done(nil) takes a record out of the outbox, be it
// after Run has returned: an acknowledgement that comes late is one. What is left is sent again, under the same ids, by the next Drain.
type Drain struct {
	box     Box
	sender  Sender
	options DrainOptions
	wake    chan struct{} // full after a done that nobody has looked at yet

	// Of Early and Run alone, one after the other:
	began bool
	at    streams
	next  outgoing
	batch outbox.Batch

	acking sync.Mutex // guards what an acknowledgement is put together in; before mu
	places []uint64

	mu       sync.Mutex
	inFlight int
	bytes    int
	slots    []slot // by ticket
	free     []uint64
	lost     context.CancelCauseFunc // ends Run; nil before
	failed   error                   // the reason of the first message that failed
}

// slot is a message under way. There are as many as were ever under way at once.
type slot struct {
	pos   uint64
	bytes int
	id    string
}

// outgoing is what was read and is still to be sent; all of it is scratch.
type outgoing struct {
	records []outbox.Record // the rest of them, like the next two
	out     []Outgoing
	sizes   []int

	allOut   []Outgoing
	allSizes []int
	props    []string
	times    []byte
	ends     []int // of each time in times
	parts    [2]outbox.Part
}

// NewDrain returns a Drain that has sent nothing yet. It starts no goroutine.
func NewDrain(box Box, s Sender, o DrainOptions) *Drain {
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	return &Drain{box: box, sender: s, options: o, wake: make(chan struct{}, 1)}
}

// Early sends what waits already, until the link refuses more, and waits for nothing. What it leaves is for Run.
func (d *Drain) Early(ctx context.Context) {
	if !d.box.Has(0) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, earlyPatience)
	defer cancel()
	d.begin()
	records, err := d.box.Read(ctx, &d.batch, min(d.options.Window, d.sender.Window()), d.at.parts(&d.next.parts)...)
	if err != nil {
		return // Run will see it
	}
	d.next.fill(records, d.options.Created)
	_ = d.send(d.fits()) // also what no hub would take: Run deals with it
	d.next.records = nil
}

// Run sends until ctx ends or the link does. It returns ctx.Err(), the link's reason, or an error of the outbox.
func (d *Drain) Run(ctx context.Context) error {
	link, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	d.mu.Lock()
	d.lost = lost
	failed := d.failed
	d.mu.Unlock()
	if failed != nil {
		return failed
	}
	d.begin()
	err := d.run(link)
	if cause := context.Cause(link); cause != nil && ctx.Err() == nil {
		return cause // the link's reason says more than the wait that it ended
	}
	return err
}

func (d *Drain) begin() {
	if !d.began && d.options.Order == FreshFirst {
		d.at = freshFirst(d.box.Newest(max(d.options.Window/4, 1)))
	}
	d.began = true
}

// run returns when it has a reason to.
func (d *Drain) run(ctx context.Context) error {
	at, next := &d.at, &d.next
	for {
		next.records = nil
		if _, err := d.room(ctx); err != nil {
			return err
		}
		records, err := d.box.Read(ctx, &d.batch, d.options.Window, at.parts(&next.parts)...)
		if err != nil {
			return err
		}
		next.fill(records, d.options.Created)
		for len(next.records) > 0 {
			room, err := d.room(ctx)
			if err != nil {
				return err
			}
			if at.isBacklog(next.records[0].Pos) && d.box.Has(at.fresh) {
				break // something was made while we waited, and goes ahead; these are read again
			}
			if err = d.send(room); err == nil {
				continue
			}
			if !isPermanent(err) {
				return err
			}
			r := &next.records[0]
			at.passed(r.Pos)
			if err := d.box.Quarantine(r.Pos, err); err != nil {
				return fmt.Errorf("taking message %s out of the line: %w", r.ID, err)
			}
			break // the records behind it must be read again: the first of them says now that one is missing
		}
		if !d.box.Has(at.fresh) && !d.box.Has(at.backlog) {
			next.rest()
		}
	}
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

// room waits until some of the next records may go, and returns how many; if there are none, until one could.
func (d *Drain) room(ctx context.Context) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if n := d.fits(); n > 0 {
			return n, nil
		}
		if err := d.wait(ctx); err != nil {
			return 0, err
		}
	}
}

// fits is how many of the next records may go now; if there are none, how many more could, but for their bytes.
func (d *Drain) fits() int {
	window := min(d.options.Window, d.sender.Window())
	d.mu.Lock()
	defer d.mu.Unlock()
	room := window - d.inFlight
	if len(d.next.records) == 0 {
		return room
	}
	n, bytes := 0, d.bytes
	for n < min(room, len(d.next.sizes)) {
		if bytes += d.next.sizes[n]; bytes > MaxInFlight && d.inFlight+n > 0 {
			break
		}
		n++
	}
	return n
}

func (d *Drain) wait(ctx context.Context) error {
	d.mu.Lock()
	idle := d.inFlight == 0
	d.mu.Unlock()
	var again <-chan time.Time
	if idle {
		timer := time.NewTimer(lookAgain)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-d.wake:
	case <-again:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// send sends n of the next records, or as many as the link takes.
func (d *Drain) send(n int) error {
	next := &d.next
	d.take(n) // before the call: a completion may be quicker than its return
	taken, err := d.sender.Send(next.out[:n], d)
	if taken > 0 {
		d.at.passed(next.records[taken-1].Pos)
	}
	if taken < n {
		d.mu.Lock()
		for i := taken; i < n; i++ {
			d.giveLocked(next.out[i].Ticket)
		}
		d.mu.Unlock()
	}
	next.records, next.out, next.sizes = next.records[taken:], next.out[taken:], next.sizes[taken:]
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
	if err != nil && d.failed == nil {
		d.failed = err
	}
	lost, last := d.lost, d.slots[tickets[len(tickets)-1]].id
	d.mu.Unlock()
	if err != nil {
		if lost != nil {
			lost(err)
		}
	} else if err := d.box.Ack(d.places...); err != nil && d.options.Problem != nil {
		d.options.Problem(fmt.Errorf("%d messages up to %s arrived, but that could not be written down: %w", len(tickets), last, err))
	}
	d.mu.Lock()
	for _, t := range tickets {
		d.giveLocked(t)
	}
	d.mu.Unlock()
	d.acking.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take gives n of the next records their tickets: they are under way from now on.
func (d *Drain) take(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, r := range d.next.records[:n] {
		if len(d.free) == 0 {
			d.free = append(d.free, uint64(len(d.slots)))
			d.slots = append(d.slots, slot{})
		}
		t := d.free[len(d.free)-1]
		d.free = d.free[:len(d.free)-1]
		d.slots[t] = slot{pos: r.Pos, bytes: d.next.sizes[i], id: r.ID}
		d.next.out[i].Ticket = t
		d.inFlight++
		d.bytes += d.next.sizes[i]
	}
}

// giveLocked takes a ticket back whose message is not under way any more.
func (d *Drain) giveLocked(t uint64) {
	d.inFlight--
	d.bytes -= d.slots[t].bytes
	d.slots[t] = slot{}
	d.free = append(d.free, t)
}

// size is what a record counts against MaxInFlight.
func size(r *outbox.Record) int {
	n := len(r.Body) + len(r.ID) + len(r.ContentType) + len(r.ContentEncoding) + len(r.Component) + len(r.Gap)
	for k, v := range r.Properties {
		n += len(k) + len(v)
	}
	return n
}

// fill makes messages of records. created corrects when they were made, and may be nil.
func (o *outgoing) fill(records []outbox.Record, created func(pos uint64, at time.Time) time.Time) {
	o.times, o.ends, o.props, o.allOut, o.allSizes = o.times[:0], o.ends[:0], o.props[:0], o.allOut[:0], o.allSizes[:0]
	var c clock
	for i := range records {
		at := records[i].Created
		if created != nil && !at.IsZero() {
			at = created(records[i].Pos, at)
		}
		o.times = c.append(o.times, at)
		o.ends = append(o.ends, len(o.times))
	}
	times, at := string(o.times), 0 // one string for all
	for i := range records {
		r, from := &records[i], len(o.props)
		o.props = appendProperties(o.props, r, times[at:o.ends[i]])
		at = o.ends[i]
		o.allOut = append(o.allOut, Outgoing{Body: r.Body, Props: o.props[from:]})
		o.allSizes = append(o.allSizes, size(r))
	}
	o.records, o.out, o.sizes = records, o.allOut, o.allSizes
}

// rest gives back what only a backlog needs.
func (o *outgoing) rest() {
	if cap(o.allOut) > 8 {
		*o = outgoing{}
	}
}

// creationTime is how the cloud wants its times: RFC 3339, UTC, milliseconds.
const creationTime = "2006-01-02T15:04:05.000Z"

// clock writes creation times. Those of one second have all but the milliseconds in common.
type clock struct {
	second int64
	text   []byte // of the last one; empty: none
}

func (c *clock) append(out []byte, t time.Time) []byte {
	switch {
	case t.IsZero():
		return out
	case len(c.text) == 0 || t.Unix() != c.second:
		from := len(out)
		out = t.UTC().AppendFormat(out, creationTime)
		c.second, c.text = t.Unix(), out[from:]
		return out
	}
	ms := t.Nanosecond() / int(time.Millisecond)
	out = append(out, c.text[:len(c.text)-len("000Z")]...)
	return append(out, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendProperties writes the property bag of a record under the names of the wire: what the content is, when it was made, whose
// component it is of, which records before it are missing by policy, and the application's own, which overrule none of these.
func appendProperties(props []string, r *outbox.Record, created string) []string {
	from := len(props)
	add := func(key, value string) {
		if value != "" {
			props = append(props, key, value)
		}
	}
	add("$.mid", r.ID)
	add("$.ct", r.ContentType)
	add("$.ce", r.ContentEncoding)
	add("$.sub", r.Component)
	add("iothub-creation-time-utc", created)
	add("gap", r.Gap)
	if len(r.Properties) == 0 {
		return props
	}
	system := props[from:]
	for _, key := range slices.Sorted(maps.Keys(r.Properties)) {
		if !isKey(system, key) {
			props = append(props, key, r.Properties[key])
		}
	}
	return props
}

func isKey(props []string, key string) bool {
	for i := 0; i < len(props); i += 2 {
		if props[i] == key {
			return true
		}
	}
	return false
}
