package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

const (
	// KeptEvents is how many events a reader can be given that was away.
	KeptEvents = 1000

	keptBytes = 4 << 20 // of all kept events; more go first, whatever their number is
	maxText   = 2 << 10 // bytes of a sentence in an event
	maxName   = 512     // bytes of any other text

	// sign is how often a reader hears that the server is still there, if nothing happens.
	sign = 15 * time.Second

	atOnce = 32 // frames in one write
)

// Events keeps the newest events of the journal for the readers of GET /events. Each event is
// encoded once, and all readers share that. A reader has no memory of its own but its place: one
// that is slow falls behind what is kept, and is told how many events it has missed.
type Events struct {
	mu     sync.Mutex
	frames [][]byte // the newest; frames[i] has the id first+i
	first  uint64
	origin uint64 // the first id that was ever given
	bytes  int
	more   chan struct{} // closed when there is more; nil: no reader waits
}

// NewEvents returns an empty stream. Ids rise also over restarts of the process, because they begin
// with the time: in microseconds, so that JavaScript can count them.
func NewEvents() *Events {
	origin := uint64(max(time.Now().UnixMicro(), 1))
	return &Events{first: origin, origin: origin}
}

// Emit takes an event. It is a sink of a journal: it never waits for a reader. Packets are left
// out, because what they carry may be secret and they come by the thousand.
func (e *Events) Emit(event journal.Event) {
	if event.Kind == journal.Packet {
		return
	}
	frame := encode(event)
	e.mu.Lock()
	frame = append(fmt.Appendf(nil, "id: %d\nevent: %s\n", e.first+uint64(len(e.frames)), event.Kind), frame...)
	e.frames = append(e.frames, frame)
	e.bytes += len(frame)
	for len(e.frames) > KeptEvents || e.bytes > keptBytes && len(e.frames) > 1 {
		e.bytes -= len(e.frames[0])
		e.frames[0] = nil
		e.frames = e.frames[1:]
		e.first++
	}
	more := e.more
	e.more = nil
	e.mu.Unlock()
	if more != nil {
		go func() { close(more) }() // not here, because the readers may be many
	}
}

// encode returns what all readers are sent of an event but its id.
func encode(event journal.Event) []byte {
	event.Body = ""
	event.Text, event.Error = journal.Clip(event.Text, maxText), journal.Clip(event.Error, maxText)
	for _, text := range []*string{&event.Device, &event.Hub, &event.Peer, &event.Rule, &event.Signal, &event.Action, &event.Name} {
		*text = journal.Clip(*text, maxName)
	}
	var b bytes.Buffer
	b.WriteString("data: ")
	if err := json.NewEncoder(&b).Encode(event); err != nil { // a time of the year 10000, say
		return fmt.Appendf(nil, "data: {\"kind\":%q}\n\n", event.Kind)
	}
	b.WriteByte('\n') // the encoder has written the first one
	return b.Bytes()
}

// cursor is where a reader is in the stream.
type cursor struct{ next uint64 }

// from returns the place of a new reader. after is the id that it has seen last; with known false
// it has seen none, and begins with what comes next. An id of another run of the process, or none
// that was given, means all that is kept.
func (e *Events) from(after uint64, known bool) cursor {
	e.mu.Lock()
	defer e.mu.Unlock()
	end := e.first + uint64(len(e.frames))
	switch {
	case !known:
		return cursor{end}
	case after < e.origin || after >= end:
		return cursor{e.origin}
	default:
		return cursor{after + 1}
	}
}

// take returns the next events as the stream has them, and moves the place behind them. missed says
// how many the reader has missed before them. If there are none, more is closed when there is one.
func (e *Events) take(p *cursor, into [][]byte) (frames [][]byte, missed uint64, more <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.next < e.first {
		missed = e.first - p.next
		p.next = e.first
	}
	for _, frame := range e.frames[p.next-e.first:] {
		if len(into) == atOnce {
			break
		}
		into = append(into, frame)
		p.next++
	}
	if len(into) == 0 && e.more == nil {
		e.more = make(chan struct{})
	}
	return into, missed, e.more
}

// missedFrame tells a reader how many events it has missed, as the simulator does.
func missedFrame(n uint64) []byte {
	return fmt.Appendf(nil, "event: missed\ndata: {\"count\":%d}\n\n", n)
}
