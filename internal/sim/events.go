package sim

import (
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// Event is one thing that happened in the cloud. Events are for pages and people. Take proofs from
// the ledger, because a slow reader misses events.
type Event struct {
	At     time.Time `json:"at"` // by this machine's clock, whatever Config.ClockOffset says
	Kind   string    `json:"kind"`
	Hub    string    `json:"hub,omitempty"`
	Device string    `json:"device,omitempty"`
	Reason string    `json:"reason,omitempty"` // disconnect, refuse: why; fault, heal: its kind; register: the status DPS answers, or why it refuses
	Count  int64     `json:"count,omitempty"`  // telemetry: messages since the event before
}

// The kinds of events.
const (
	EventConnect    = "connect"
	EventDisconnect = "disconnect"
	EventRefuse     = "refuse"
	EventRegister   = "register"
	EventTelemetry  = "telemetry"
	EventFault      = "fault"
	EventHeal       = "heal"
	EventMove       = "move"
	EventMissed     = "missed" // this reader was too slow, and did not get Count events
)

// maxReaders bounds the readers of events over HTTP, because each needs the memory of watcherBuffer
// events.
const maxReaders = 64

// watcherBuffer is how many events a watcher may be behind before it misses some.
const watcherBuffer = 1024

// telemetryPeriod is the time in which messages are summed up into one event, while somebody
// watches.
const telemetryPeriod = 250 * time.Millisecond

// broadcaster hands events to its watchers. It never blocks: a slow watcher misses events, and is
// told how many. It calls nobody, so its methods may be called with any mutex held.
type broadcaster struct {
	mu       sync.Mutex // guards all below
	watchers map[chan Event]*watcher
	readers  int              // watchers over HTTP
	counts   map[string]int64 // messages per hub since the last telemetry event
	timer    *time.Timer      // sends counts as events; nil if there are none
	closed   bool
}

// watcher is one receiver of events. The broadcaster's mutex guards it.
type watcher struct {
	missed int64 // events without room since the last event that had room
}

// watch returns events from now on, until the function is called or close is.
func (b *broadcaster) watch() (<-chan Event, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.admit()
}

// admit adds a watcher. mu is held.
func (b *broadcaster) admit() (<-chan Event, func()) {
	c := make(chan Event, watcherBuffer)
	if b.closed {
		close(c)
		return c, func() {}
	}
	if b.watchers == nil {
		b.watchers = map[chan Event]*watcher{}
	}
	b.watchers[c] = &watcher{}
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, still := b.watchers[c]; still {
			delete(b.watchers, c)
			close(c)
		}
	}
}

// read is watch for a reader over HTTP. It returns an error if there are maxReaders already.
func (b *broadcaster) read() (<-chan Event, func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers >= maxReaders {
		return nil, nil, azure.Errorf(503, "TooManyReaders", "%d readers have the events already, there can be no more: close one of them", maxReaders)
	}
	b.readers++
	events, leave := b.admit()
	return events, func() {
		leave()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.readers--
	}, nil
}

// emit hands an event to all watchers.
func (b *broadcaster) emit(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send(e)
}

// send is emit with mu held.
func (b *broadcaster) send(e Event) {
	if len(b.watchers) == 0 {
		return
	}
	e.At, e.Device, e.Reason = time.Now(), wire.Shorten(e.Device), wire.Shorten(e.Reason)
	for c, w := range b.watchers {
		if w.missed > 0 && len(c) < cap(c)-1 {
			c <- Event{At: e.At, Kind: EventMissed, Count: w.missed} // nobody else sends, so there is room
			w.missed = 0
		}
		select {
		case c <- e:
		default:
			w.missed++
		}
	}
}

// telemetry counts messages of a hub. An event with their sum follows within telemetryPeriod.
func (b *broadcaster) telemetry(hub string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.watchers) == 0 || b.closed {
		return
	}
	if b.counts == nil {
		b.counts = map[string]int64{}
	}
	b.counts[hub] += n
	if b.timer == nil {
		b.timer = time.AfterFunc(telemetryPeriod, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.timer = nil
			for hub, n := range b.counts {
				b.send(Event{Kind: EventTelemetry, Hub: hub, Count: n})
			}
			clear(b.counts)
		})
	}
}

// close closes the channels of all watchers, and those of later ones at once.
func (b *broadcaster) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
	for c := range b.watchers {
		close(c)
	}
	clear(b.watchers)
}
