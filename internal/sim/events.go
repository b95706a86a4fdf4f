package sim

import (
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
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
	watchers map[chan iothub.Event]*watcher
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
func (b *broadcaster) watch() (<-chan iothub.Event, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.admit()
}

// admit adds a watcher. mu is held.
func (b *broadcaster) admit() (<-chan iothub.Event, func()) {
	c := make(chan iothub.Event, watcherBuffer)
	if b.closed {
		close(c)
		return c, func() {}
	}
	if b.watchers == nil {
		b.watchers = map[chan iothub.Event]*watcher{}
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
func (b *broadcaster) read() (<-chan iothub.Event, func(), error) {
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
func (b *broadcaster) emit(e iothub.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send(e)
}

// send is emit with mu held.
func (b *broadcaster) send(e iothub.Event) {
	if len(b.watchers) == 0 {
		return
	}
	e.At, e.Device, e.Reason = time.Now(), wire.Shorten(e.Device), wire.Shorten(e.Reason)
	for c, w := range b.watchers {
		if w.missed > 0 && len(c) < cap(c)-1 {
			c <- iothub.Event{At: e.At, Kind: iothub.EventMissed, Count: w.missed} // nobody else sends, so there is room
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
				b.send(iothub.Event{Kind: iothub.EventTelemetry, Hub: hub, Count: n})
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
