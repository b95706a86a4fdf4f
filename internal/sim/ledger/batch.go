package ledger

import (
	"encoding/binary"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Arrival is a message as it comes off the wire. The ledger copies its slices.
type Arrival struct {
	Bag, Body []byte // the property bag, percent-encoded, and the payload
	Dup       bool   // sent again
	Retain    bool
	Will      bool // sent by the hub, because the connection ended
}

const (
	maxBatch     = 64 << 10 // a batch of so many bytes is full
	maxIdleBatch = 4 * maxBatch
)

const (
	flagDup = 1 << iota
	flagRetain
	flagWill
)

// batchHead is what precedes the messages of a batch: the head of the frame, kind, time and origin.
// They are filled in when the batch is written.
const batchHead = store.FrameHead + 1 + 8 + 4

// Batch is messages that one connection sent, in the form of the files: for each one its flags, the
// lengths of bag and body, bag and body. Its owner guards it.
type Batch struct {
	buf []byte
	n   int
}

func (b *Batch) add(m Arrival) {
	if b.n == 0 {
		b.buf = append(b.buf[:0], make([]byte, batchHead)...)
	}
	b.n++
	var flags byte
	if m.Dup {
		flags |= flagDup
	}
	if m.Retain {
		flags |= flagRetain
	}
	if m.Will {
		flags |= flagWill
	}
	b.buf = append(b.buf, flags)
	b.buf = binary.AppendUvarint(b.buf, uint64(len(m.Bag)))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(m.Body)))
	b.buf = append(append(b.buf, m.Bag...), m.Body...)
}

// Full reports whether a batch is so large that it should be committed before more is read. A nil
// batch is not.
func (b *Batch) Full() bool { return b != nil && len(b.buf) >= maxBatch }

// nextArrival reads the next message of a batch. Its slices are parts of the payload.
func nextArrival(f *store.Unpacker) (m Arrival) {
	flags := f.Byte()
	m.Dup, m.Retain, m.Will = flags&flagDup != 0, flags&flagRetain != 0, flags&flagWill != 0
	bag, body := f.Uvarint(), f.Uvarint()
	m.Bag, m.Body = f.Bytes(bag), f.Bytes(body)
	return m
}

// Len returns the number of messages in a batch.
func (b *Batch) Len() int { return b.n }
