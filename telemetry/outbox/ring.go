package outbox

import "github.com/hubhop-iot/hubhop/telemetry/outbox/format"

// maxRing bounds the memory that messages take while the disk does not work.
const maxRing = 16 << 20

// ring is where messages go while the disk does not work: the newest part of the line, in memory, under an outbox id of its own.
type ring struct {
	id    format.ID
	base  uint64 // place of items[0]
	seq   uint64 // its seq
	items []format.Item
	bytes int64
}

// cost is what an item counts against a bound.
func cost(it format.Item) int64 { return int64(len(it.Payload)) + format.FrameSize }

func (r *ring) end() uint64 { return r.base + uint64(len(r.items)) }

func (r *ring) push(it format.Item) {
	r.items = append(r.items, it)
	r.bytes += cost(it)
}

// popTo takes out what is below a place.
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
		r.items = append(make([]format.Item, 0, 2*len(r.items)), r.items...) // what was popped must not be held
	}
}
