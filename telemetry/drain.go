package telemetry

import (
	"context"
	"fmt"
	"maps"
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
	// Publish queues a message, in order. If it returns nil, done is called exactly once, from any goroutine: with nil on the hub's
	// own acknowledgement, or with the reason why there will be none. An error with Permanent() true condemns this message only; any
	// other means that the link is of no more use.
	Publish(body []byte, props map[string]string, done func(error)) error
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
	Problem func(error) // an acknowledgement the outbox could not write down, so that the record will be sent once more; may be nil
}

// MaxInFlight bounds the bytes of bodies and properties in flight, whatever the window; one message alone may always go.
const MaxInFlight = 512 << 10

const (
	defaultWindow = 64
	// lookAgain is how long a drain with nothing in flight waits for a closed window to open: no acknowledgement will wake it then.
	lookAgain = 50 * time.Millisecond
)

// Drain sends what is in the outbox, and what comes into it, over one link, until ctx ends or the link does. It starts with the oldest
// record that is not acknowledged (unless told otherwise, see Order) and keeps their order; up to a window of them are under way at any time. Only done(nil) takes a
// record out of the outbox, be it after Drain has returned: an acknowledgement that comes late is one. What is left is sent again, under
// the same ids, by the next Drain.
//
// Drain starts no goroutine. It returns ctx.Err(), the link's reason, or an error of the outbox.
func Drain(ctx context.Context, box Box, s Sender, o DrainOptions) error {
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	link, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	d := &drain{box: box, sender: s, options: o, lost: lost, wake: make(chan struct{}, 1)}
	err := d.run(link)
	if cause := context.Cause(link); cause != nil && ctx.Err() == nil {
		return cause // the link's reason says more than the wait that it ended
	}
	return err
}

type drain struct {
	box     Box
	sender  Sender
	options DrainOptions
	lost    context.CancelCauseFunc // ends the drain with the reason of the first message that failed
	wake    chan struct{}           // full after a done that nobody has looked at yet

	mu       sync.Mutex
	inFlight int
	bytes    int
}

// run returns when it has a reason to.
func (d *drain) run(ctx context.Context) error {
	var at streams
	if d.options.Order == FreshFirst {
		at = freshFirst(d.box.Newest(max(d.options.Window/4, 1)))
	}
	for {
		if err := d.room(ctx, 0); err != nil {
			return err
		}
		records, err := d.box.NextOf(ctx, d.options.Window, at.parts()...)
		if err != nil {
			return err
		}
		for i := range records {
			r := &records[i]
			if err := d.room(ctx, size(r)); err != nil {
				return err
			}
			if at.isBacklog(r.Pos) && d.box.Has(at.fresh) {
				break // something was made while we waited, and goes ahead; these are read again
			}
			err := d.publish(r)
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
func (d *drain) room(ctx context.Context, bytes int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		window := min(d.options.Window, d.sender.Window())
		d.mu.Lock()
		idle := d.inFlight == 0
		free := d.inFlight < window && (idle || d.bytes+bytes <= MaxInFlight)
		d.mu.Unlock()
		if free {
			return nil
		}
		if err := d.wait(ctx, idle); err != nil {
			return err
		}
	}
}

func (d *drain) wait(ctx context.Context, idle bool) error {
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

func (d *drain) publish(r *outbox.Record) error {
	n, pos, id := size(r), r.Pos, r.ID
	d.add(1, n) // before the call: its done may be quicker than its return
	err := d.sender.Publish(r.Body, properties(r), func(err error) {
		if err != nil {
			d.lost(err)
		} else if err := d.box.Ack(pos); err != nil && d.options.Problem != nil {
			d.options.Problem(fmt.Errorf("message %s arrived, but that could not be written down: %w", id, err))
		}
		d.add(-1, -n)
		select {
		case d.wake <- struct{}{}:
		default:
		}
	})
	if err != nil {
		d.add(-1, -n)
	}
	return err
}

func (d *drain) add(messages, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight += messages
	d.bytes += bytes
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

// properties is the property bag of a record under the names of the wire: the application's own, what the content is, when it was
// made, whose component it is of, and which records before it are missing by policy.
func properties(r *outbox.Record) map[string]string {
	props := make(map[string]string, len(r.Properties)+6)
	maps.Copy(props, r.Properties)
	set := func(key, value string) {
		if value != "" {
			props[key] = value
		}
	}
	set("$.mid", r.ID)
	set("$.ct", r.ContentType)
	set("$.ce", r.ContentEncoding)
	set("$.sub", r.Component)
	set("gap", r.Gap)
	if !r.Created.IsZero() {
		set("iothub-creation-time-utc", r.Created.UTC().Format(creationTime))
	}
	return props
}
