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
	// NextOf waits for records in one of the parts and gives up to limit of the first that has some, the oldest unacknowledged first.
	NextOf(ctx context.Context, limit int, parts ...outbox.Part) ([]outbox.Record, error)
	// Has says whether there is a record behind a position.
	Has(after uint64) bool
	// Newest is the position behind which the newest n records are, 0 if all are to go in order.
	Newest(n int) uint64
	// Ack takes one record out. It is called in any order, and may be called for one that is gone already.
	Ack(pos uint64) error
	// Quarantine takes a record out of the line that no hub will ever take.
	Quarantine(pos uint64, why error) error
}

// Sender is all that telemetry knows of the cloud, in built-in types, so that a link fits without either package importing the other.
type Sender interface {
	// Publish queues a message, in order. props are the keys and values of its properties in turn; like the body they are the caller's
	// again when it returns. If it returns nil, done is called exactly once, from any goroutine: with nil on the hub's
	// own acknowledgement, or with the reason why there will be none. An error with Permanent() true condemns this message only; any
	// other means that the link is of no more use.
	Publish(body []byte, props []string, done func(error)) error
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
	props []string // scratch
	times []string
	ends  []int

	mu       sync.Mutex
	inFlight int
	bytes    int
	free     *slot
	lost     context.CancelCauseFunc // ends Run; nil before
	failed   error                   // the reason of the first message that failed
}

// slot is a message under way. There are as many as were ever under way at once, each with its own done, so that sending allocates
// nothing.
type slot struct {
	pos   uint64
	bytes int
	id    string
	done  func(error)
	next  *slot
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
	records, err := d.box.NextOf(ctx, min(d.options.Window, d.sender.Window()), d.at.parts()...)
	if err != nil {
		return // Run will see it
	}
	d.format(records)
	for i := range records {
		r := &records[i]
		if !d.fits(size(r)) || d.publish(r, d.times[i]) != nil {
			return // also what no hub would take: Run deals with it
		}
		d.at.passed(r.Pos)
	}
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
	at := &d.at
	for {
		if err := d.room(ctx, 0); err != nil {
			return err
		}
		records, err := d.box.NextOf(ctx, d.options.Window, at.parts()...)
		if err != nil {
			return err
		}
		d.format(records)
		for i := range records {
			r := &records[i]
			if err := d.room(ctx, size(r)); err != nil {
				return err
			}
			if at.isBacklog(r.Pos) && d.box.Has(at.fresh) {
				break // something was made while we waited, and goes ahead; these are read again
			}
			err := d.publish(r, d.times[i])
			if err != nil && !isPermanent(err) {
				return err
			}
			at.passed(r.Pos)
			if err == nil {
				continue
			}
			if err := d.box.Quarantine(r.Pos, err); err != nil {
				return fmt.Errorf("taking message %s out of the line: %w", r.ID, err)
			}
			break // the records behind it must be read again: the first of them says now that one is missing
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
func (s *streams) parts() []outbox.Part {
	if s.split == 0 {
		return []outbox.Part{{After: s.backlog}}
	}
	return []outbox.Part{{After: s.fresh}, {After: s.backlog, Until: s.split}}
}

func (s *streams) passed(pos uint64) {
	if s.split == 0 || s.isBacklog(pos) {
		s.backlog = pos
	} else {
		s.fresh = pos
	}
}

// room waits until a message of that size may go.
func (d *Drain) room(ctx context.Context, bytes int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.fits(bytes) {
			return nil
		}
		if err := d.wait(ctx); err != nil {
			return err
		}
	}
}

// fits says whether a message of that size may go now.
func (d *Drain) fits(bytes int) bool {
	window := min(d.options.Window, d.sender.Window())
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inFlight < window && (d.inFlight == 0 || d.bytes+bytes <= MaxInFlight)
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

func (d *Drain) publish(r *outbox.Record, created string) error {
	s := d.take(size(r)) // before the call: its done may be quicker than its return
	s.pos, s.id = r.Pos, r.ID
	d.props = appendProperties(d.props[:0], r, created)
	err := d.sender.Publish(r.Body, d.props, s.done)
	if err != nil {
		d.give(s)
	}
	return err
}

// done is the completion of what a slot holds.
func (d *Drain) done(s *slot, err error) {
	if err != nil {
		d.mu.Lock()
		if d.failed == nil {
			d.failed = err
		}
		lost := d.lost
		d.mu.Unlock()
		if lost != nil {
			lost(err)
		}
	} else if err := d.box.Ack(s.pos); err != nil && d.options.Problem != nil {
		d.options.Problem(fmt.Errorf("message %s arrived, but that could not be written down: %w", s.id, err))
	}
	d.give(s)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take returns a slot for a message of that size, which is under way from now on.
func (d *Drain) take(bytes int) *slot {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight++
	d.bytes += bytes
	s := d.free
	if s == nil {
		s = new(slot)
		s.done = func(err error) { d.done(s, err) }
	} else {
		d.free = s.next
	}
	s.bytes = bytes
	return s
}

// give takes a slot back whose message is not under way any more.
func (d *Drain) give(s *slot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight--
	d.bytes -= s.bytes
	s.next, d.free = d.free, s
}

// size is what a record counts against MaxInFlight.
func size(r *outbox.Record) int {
	n := len(r.Body) + len(r.ID) + len(r.ContentType) + len(r.ContentEncoding) + len(r.Component) + len(r.Gap)
	for k, v := range r.Properties {
		n += len(k) + len(v)
	}
	return n
}

// creationTime is how the cloud wants its times: RFC 3339, UTC, milliseconds.
const creationTime = "2006-01-02T15:04:05.000Z"

// format writes the creation times of records, all of them into one string.
func (d *Drain) format(records []outbox.Record) {
	text, ends := make([]byte, 0, len(records)*len(creationTime)), d.ends[:0]
	for i := range records {
		if r := &records[i]; !r.Created.IsZero() {
			created := r.Created
			if d.options.Created != nil {
				created = d.options.Created(r.Pos, created)
			}
			text = created.UTC().AppendFormat(text, creationTime)
		}
		ends = append(ends, len(text))
	}
	all, from := string(text), 0
	d.ends, d.times = ends, d.times[:0]
	for _, to := range ends {
		d.times = append(d.times, all[from:to])
		from = to
	}
}

// appendProperties writes the property bag of a record under the names of the wire: what the content is, when it was made, whose
// component it is of, which records before it are missing by policy, and the application's own, which overrule none of these.
func appendProperties(props []string, r *outbox.Record, created string) []string {
	for _, p := range [...][2]string{
		{"$.mid", r.ID}, {"$.ct", r.ContentType}, {"$.ce", r.ContentEncoding}, {"$.sub", r.Component},
		{"iothub-creation-time-utc", created}, {"gap", r.Gap},
	} {
		if p[1] != "" {
			props = append(props, p[0], p[1])
		}
	}
	if len(r.Properties) == 0 {
		return props
	}
	system := props
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
