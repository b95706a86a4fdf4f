package outbox

import (
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// MaxRecord is how many bytes one message may take as it is kept: the body and, beside it, its
// properties and some 20 bytes.
const MaxRecord = format.MaxPayload

// Record is a message in the line.
type Record struct {
	message.Message
	Pos uint64 // position in this box's line; grows, also over restarts
	ID  string // "<outbox id, 16 hexadecimal digits>-<seq, decimal>", names this message for ever
	// Gap is "<first>-<last>": seqs of the same outbox id that left the line unsent, and that this
	// record announces. Else it is empty.
	Gap string
}

// encode makes a payload of a message.
func encode(m *message.Message) format.Item { return format.Undated(m).At(created(m)) }

// created is when a message was made. A message that does not say it was made now.
func created(m *message.Message) time.Time {
	if m.Created.IsZero() {
		return time.Now()
	}
	return m.Created
}
