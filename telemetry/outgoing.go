package telemetry

import (
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// outgoing holds the records that were read from the outbox, and the messages that are made of
// them. The next reading uses its memory again.
type outgoing struct {
	records []outbox.Record
	out     []message.Outgoing
	sizes   []int
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

// rest forgets the messages, and gives back the memory that only a backlog needs.
func (o *outgoing) rest() {
	if cap(o.out) > DefaultWindow {
		*o = outgoing{}
		return
	}
	clear(o.out[:cap(o.out)])
	o.records = nil
}
