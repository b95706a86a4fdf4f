package sim

import (
	"sync"
	"time"
)

// Event is one line of what happens in the cloud, for pages and people; the ledger is what proofs are made from.
type Event struct {
	At     time.Time `json:"at"` // this machine's clock, whatever Config.ClockOffset says
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
)

// watcherBuffer is how many events a watcher may be behind before it misses some.
const watcherBuffer = 1024

// telemetryPeriod is how often messages are summed up into an event, while somebody watches and there are any.
const telemetryPeriod = 250 * time.Millisecond

// broadcaster hands events to whoever watches. It never blocks: a slow watcher misses events.
type broadcaster struct {
	mu       sync.Mutex
	watchers map[chan Event]struct{}
	counts   map[string]int64 // messages per hub since the last telemetry event
	timer    *time.Timer
	closed   bool
}

func (b *broadcaster) watch() (<-chan Event, func()) {
	c := make(chan Event, watcherBuffer)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(c)
		return c, func() {}
	}
	if b.watchers == nil {
		b.watchers = map[chan Event]struct{}{}
	}
	b.watchers[c] = struct{}{}
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, still := b.watchers[c]; still {
			delete(b.watchers, c)
			close(c)
		}
	}
}

func (b *broadcaster) emit(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send(e)
}

// send is called with mu held.
func (b *broadcaster) send(e Event) {
	if len(b.watchers) == 0 {
		return
	}
	e.At, e.Device, e.Reason = time.Now(), shorten(e.Device), shorten(e.Reason)
	for c := range b.watchers {
		select {
		case c <- e:
		default:
		}
	}
}

// telemetry counts messages; the event follows soon.
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

// close ends all watching; the channels are closed.
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
