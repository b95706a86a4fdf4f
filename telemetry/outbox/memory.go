package outbox

import (
	"fmt"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// NewMemory returns an outbox that keeps everything in memory and nothing on a disk, for a fleet
// that can bear to lose what was not sent when its process ends. It keeps the contract of a box but
// for that: its outbox id is its own, positions and seqs begin at 1, Append returns as soon as the
// message is kept, Quarantine keeps nothing, and MaxBytes bounds the messages (20 bytes are counted
// for each beside its payload). At the bound, DropOldest drops one message after the other. An idle
// one takes about 1 KiB.
//
// Options.FS, Machine, For, SendHere and SyncEvery mean nothing here.
func NewMemory(o Options) (*Box, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	b := newBox(o)
	b.ring = &ring{id: format.NewID(), base: b.next, seq: 1}
	b.id = b.ring.id
	return b, nil
}
