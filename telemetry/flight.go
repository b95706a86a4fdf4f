package telemetry

import (
	"fmt"
	"sync"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// MaxInFlight bounds the bytes of bodies and properties in flight, whatever the window is. A single
// message may have more.
const MaxInFlight = 512 << 10

// flight holds the messages that a drain has sent and that are not acknowledged. Acknowledgements
// may come from any goroutine.
type flight struct {
	acking   sync.Mutex // guards what an acknowledgement is put together in; before mu
	finished []uint64   // positions

	mu     sync.Mutex
	count  int
	bytes  int
	slots  []slot   // by ticket; as many as were ever under way at once
	free   []uint64 // tickets
	failed error    // the reason of the first message that failed
}

// slot is a message under way.
type slot struct {
	pos   uint64
	bytes int
}

// Done is for the [Sender].
func (d *Drain) Done(tickets []uint64, err error) {
	d.done(tickets, err)
	d.pump()
}

func (d *Drain) done(tickets []uint64, err error) {
	f := &d.flight
	f.acking.Lock()
	defer f.acking.Unlock()
	f.mu.Lock()
	f.finished = f.finished[:0]
	for _, t := range tickets {
		f.finished = append(f.finished, f.slots[t].pos)
	}
	f.mu.Unlock()
	if err != nil {
		d.options.Traffic.failed(len(tickets))
		f.fail(err)
	} else {
		if err := d.box.Ack(f.finished...); err != nil && d.options.Problem != nil {
			d.options.Problem(fmt.Errorf("%d messages arrived, but that could not be written down: %w", len(tickets), err))
		}
		d.options.Traffic.acknowledged(len(tickets))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range tickets {
		f.landLocked(t)
	}
}

// rest gives back the memory that only a busy drain needs.
func (f *flight) rest() {
	if f.acking.TryLock() {
		f.finished = nil
		f.acking.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 && cap(f.slots) > 8 {
		f.slots, f.free = nil, nil
	}
}

// fail keeps the first reason why the drain cannot go on.
func (f *flight) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = err
	}
}

// end is the reason why the drain cannot go on; nil if it can.
func (f *flight) end() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// room is how many messages may go now with a window, and how many bytes; it says also how many
// messages are in flight. After a failure none may go.
func (f *flight) room(window int) (messages, bytes, inFlight int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return window - f.count, MaxInFlight - f.bytes, f.count
}

// start gives n of the next records their tickets: they are under way from now on.
func (f *flight) start(o *outgoing, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		if len(f.free) == 0 {
			f.free = append(f.free, uint64(len(f.slots)))
			f.slots = append(f.slots, slot{})
		}
		t := f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
		f.slots[t] = slot{o.records[i].Pos, o.sizes[i]}
		o.out[i].Ticket = t
		f.count++
		f.bytes += o.sizes[i]
	}
}

// land takes tickets back whose messages were not sent.
func (f *flight) land(unsent []message.Outgoing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range unsent {
		f.landLocked(unsent[i].Ticket)
	}
}

func (f *flight) landLocked(t uint64) {
	f.count--
	f.bytes -= f.slots[t].bytes
	f.free = append(f.free, t)
}
