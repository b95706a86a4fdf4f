package hub

import (
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// Bounds of the session below that these tests rely on.
const (
	finalLimit = time.Minute // a PUBLISH may be without PUBACK for so long
	maxHeld    = 1 << 20     // bytes of inbound messages that wait here before the link stops reading
)

// Stats returns the counters of the session.
func (l *Link) Stats() mqtt.Stats { return l.session.Stats() }

// Publish sends one message. done is called with what became of it.
func (l *Link) Publish(m message.Outgoing, done func(error)) error {
	_, err := l.Send([]message.Outgoing{m}, &single{done})
	return err
}

type single struct{ done func(error) }

func (s *single) Done(_ []uint64, err error) { s.done(err) }
