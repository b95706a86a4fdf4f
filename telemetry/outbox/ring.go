package outbox

import (
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// maxRing bounds the memory of messages that the disk does not take.
const maxRing = 16 << 20

// ring is the newest part of the line, in memory, under an outbox id of its own: the messages that
// the disk did not take, or all messages of a box in memory.
type ring struct {
	id    format.ID
	base  uint64 // position of items[0]
	seq   uint64 // its seq
	items []format.Item
	bytes int64
}

// cost is how much an item counts against a bound.
func cost(it format.Item) int64 { return int64(len(it.Payload)) + format.FrameSize }

func (r *ring) end() uint64 { return r.base + uint64(len(r.items)) }

func (r *ring) push(it format.Item) {
	r.items = append(r.items, it)
	r.bytes += cost(it)
}

// popTo takes out what is below a position.
func (r *ring) popTo(pos uint64) {
	if pos > r.base {
		r.pop(int(pos - r.base))
	}
}

// pop takes the n oldest out.
func (r *ring) pop(n int) {
	for i := range n {
		r.bytes -= cost(r.items[i])
		r.items[i] = format.Item{}
	}
	r.items = r.items[n:]
	r.base += uint64(n)
	r.seq += uint64(n)
	switch {
	case len(r.items) == 0:
		r.items = nil
	case cap(r.items) > 64 && len(r.items) < cap(r.items)/4:
		r.items = append(make([]format.Item, 0, 2*len(r.items)), r.items...)
	}
}

// keepInRing puts items into the ring.
func (b *Box) keepInRing(items []format.Item) {
	if len(items) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring == nil {
		b.ring = &ring{id: format.NewID(), base: b.next, seq: 1}
	}
	r := b.ring
	for _, it := range items {
		for b.opt.Full == DropOldest && len(r.items) > 0 && r.bytes+cost(it) > b.ringLimit() {
			b.drop(runs.Of(r.base, r.base), "for room in memory") // which takes it out of the ring
		}
		r.push(it)
		b.next++
		b.appended++
	}
	b.rouse(0)
}

func (b *Box) ringLimit() int64 {
	if b.files == nil {
		return b.opt.MaxBytes
	}
	return min(maxRing, b.opt.MaxBytes)
}
