package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// stream says what the messages of a run of flows are. They are numbered from 1 to last, over all
// sources in turn. Each has a time that follows from its number, so it is known which window it
// belongs to. From one to the next it is minutes: the clock of a graph goes on while nothing comes,
// so a run that stands still for less than that brings nothing too late for its window. One more
// message behind the last closes the last window.
type stream struct {
	sources uint64
	last    uint64
	base    time.Time // the time of the window in which the first message is; a whole hour
}

const (
	perWindow = 20 // messages in a window
	window    = time.Hour
	dropEvery = 10 // every tenth message is dropped by the filter
	topics    = "crash/"
)

// message makes the message of a number. Its field x<i> names the place that it has in its window.
func (s *stream) message(g uint64) mqtt5.Message {
	source, at := (g-1)%s.sources, (g-1)%perWindow
	drop := 0
	if s.drops(g) {
		drop = 1
	}
	when := s.base.Add(time.Duration(g-1) * (window / perWindow))
	var user []byte
	user = mqtt5.AppendUser(user, "id", fmt.Sprint(g))
	user = mqtt5.AppendUser(user, "specversion", "1.0")
	user = mqtt5.AppendUser(user, "type", "sample")
	user = mqtt5.AppendUser(user, "source", "crash")
	user = mqtt5.AppendUser(user, "__ts", fmt.Sprintf("%d:0:crash", when.UnixMilli()))
	return mqtt5.Message{
		Topic: topics + fmt.Sprint(source), QoS: 1, User: user, ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"s":%d,"n":%d,"g":%d,"x%d":%d,"drop":%d}`, source, (g-1)/s.sources+1, g, at, g, drop),
	}
}

// number is the inverse of what message writes: the number of the n-th message of a source.
func (s *stream) number(source, n uint64) uint64 { return (n-1)*s.sources + source + 1 }

// drops says whether the filter drops a message.
func (s *stream) drops(g uint64) bool { return g%dropEvery == 0 || g > s.last }

// generator publishes a stream with QoS 1, at a rate. It is never more than ahead messages ahead of
// what has arrived downstream, nor of the acknowledgements that the broker has read, and then waits
// until nearly all has: a broker that writes its whole file at every change slows down with what
// waits in it, and takes one message for each that it is rid of. What it has not read of a program
// that is killed is lost, so it sends all that again.
type generator struct {
	stream
	address string
	rate    int // messages a second
	ahead   uint64
	unread  func() int64 // messages that the broker has sent without having read an acknowledgement

	mu      sync.Mutex
	next    uint64 // number of the message that is published next
	acked   uint64 // the broker has acknowledged up to here, in this life of it
	most    uint64 // the greatest number that was ever published
	arrived uint64 // what has arrived downstream, as far as the trial knows
	again   int64  // messages that were published again
	waits   bool   // until nearly all has arrived
	stop    context.CancelFunc
	done    chan struct{}
}

const unacknowledged = 500 // messages that the broker has not acknowledged, at most

// start publishes until end.
func (g *generator) start(ctx context.Context) {
	ctx, g.stop = context.WithCancel(ctx)
	done := make(chan struct{})
	g.done = done
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			g.life(ctx)
			g.back(g.acked)
			pause(ctx, 20*time.Millisecond)
		}
	}()
}

// end stops publishing.
func (g *generator) end() {
	if g.stop != nil {
		g.stop()
		<-g.done
	}
}

// back goes on behind number n, if that is earlier than where the generator is.
func (g *generator) back(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n+1 < g.next {
		g.again += int64(g.next - 1 - n)
		g.next = n + 1
	}
	g.acked = g.next - 1
}

// seen notes what has arrived downstream.
func (g *generator) seen(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.arrived = n
}

// published returns the greatest number that was published, and how many were published again.
func (g *generator) published() (most uint64, again int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most, g.again
}

// life is one connection to the broker.
func (g *generator) life(ctx context.Context) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", g.address)
	if err != nil {
		return // the broker is not up yet
	}
	opening, cancel := context.WithTimeout(ctx, 10*time.Second)
	session, err := mqtt5.Open(opening, conn, &mqtt5.Hello{ClientID: "crash-generator", KeepAlive: 60, ReceiveMaximum: 10, MaximumPacket: 1 << 20}, 1<<20)
	cancel()
	if err != nil {
		return
	}
	defer session.Close(mqtt5.Success, nil)
	stop := context.AfterFunc(ctx, func() { session.Close(mqtt5.Success, nil) })
	defer stop()
	go func() {
		_ = session.Serve(func(p *mqtt5.Packet) error {
			if p.Kind == mqtt5.Puback {
				g.mu.Lock()
				g.acked++ // a broker acknowledges in order: MQTT 5 section 4.6
				g.mu.Unlock()
			}
			return nil
		}, func() {})
	}()
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	began, sent := time.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-session.Done():
			return
		}
		due := min(int(time.Since(began).Seconds()*float64(g.rate))-sent, feedMost)
		if n := g.send(session, due); n < due {
			began, sent = time.Now(), 0 // what could not be sent is not made up for
		} else {
			sent += n
		}
	}
}

// send publishes up to due messages, and returns how many it was.
func (g *generator) send(session *mqtt5.Session, due int) (n int) {
	unread := uint64(g.unread())
	session.Send(func(out []byte) []byte {
		g.mu.Lock()
		defer g.mu.Unlock()
		behind := max(unread, g.next-min(g.next, g.arrived))
		if g.waits = behind > g.ahead || g.waits && behind > g.ahead/8; g.waits {
			return out
		}
		for n < due && g.next <= g.last+1 && g.next-1-g.acked < unacknowledged && g.next <= g.arrived+g.ahead {
			m := g.message(g.next)
			out = m.Append(out, uint16(g.next%65535)+1, false)
			g.most = max(g.most, g.next)
			g.next++
			n++
		}
		return out
	})
	return n
}

// pause waits, but not longer than ctx lasts.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
