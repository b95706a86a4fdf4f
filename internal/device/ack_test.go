package device

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// These tests look for false acknowledgements on the whole way: a real outbox on a disk, the drain,
// a real link, and hubs that treat PUBACKs as no hub should.

const (
	badHub  = "10.0.0.1"
	goodHub = "10.0.0.2"
)

// road is an outbox and two hubs in virtual time.
type road struct {
	t      *testing.T
	dir    string
	net    *memnet.Net
	server *tls.Config
	dialer *hub.Dialer
	box    *outbox.Box
	bodies map[string]string // what was appended, by id
	wg     sync.WaitGroup
}

// onRoad runs f with count messages of a size in the outbox.
func onRoad(t *testing.T, count, size int, f func(t *testing.T, r *road)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cert, pool := memnet.Certificate(t, badHub, goodHub)
		r := &road{t: t, dir: dir, net: memnet.New(), server: &tls.Config{Certificates: []tls.Certificate{cert}}, bodies: map[string]string{}}
		r.dialer = &hub.Dialer{TLS: &tls.Config{RootCAs: pool}, DialContext: r.net.DialContext, Agent: "test", KeepAlive: 20 * time.Second, Methods: true}
		r.open()
		for i := range count {
			body := fmt.Sprintf(`{"n":%d}`, i+1)
			body += strings.Repeat(" ", max(0, size-len(body)))
			if err := r.box.Append(t.Context(), message.Message{Body: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}
		all := r.queued()
		if len(all) != count {
			t.Fatalf("%d of %d are in the outbox", len(all), count)
		}
		for _, m := range all {
			r.bodies[m.ID] = string(m.Body)
		}
		f(t, r)
		if err := r.box.Close(); err != nil {
			t.Error(err)
		}
		r.wg.Wait()
	})
}

func (r *road) open() {
	var err error
	if r.box, err = outbox.Open(r.dir, outbox.Options{MaxBytes: 64 << 20, Report: func(p outbox.Problem) { r.t.Error(p.Text) }}); err != nil {
		r.t.Fatal(err)
	}
}

// reopen is what another process would find.
func (r *road) reopen() {
	if err := r.box.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// queued is what is in the outbox, in order.
func (r *road) queued() (all []outbox.Record) {
	for after := uint64(0); uint64(len(all)) < r.box.Stats().Queued; after = all[len(all)-1].Pos {
		batch := new(outbox.Batch)
		r.t.Cleanup(batch.Release)
		more, err := virtual.Next(r.t.Context(), r.box, batch, after, 100)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, more...)
	}
	return all
}

func (r *road) queuedIDs() (ids []string) {
	for _, m := range r.queued() {
		ids = append(ids, m.ID)
	}
	return ids
}

// books are what a hub has seen and said, over all of its connections.
type books struct {
	mu        sync.Mutex
	received  []string        // ids, in order of arrival
	acked     map[string]bool // a PUBACK was sent for a message that was unacknowledged on that connection
	repeated  []string        // ids that came twice on one connection
	most      int             // messages unacknowledged on one connection
	mostBytes int             // of their bodies
	lives     int             // connections with a CONNECT
}

// talk is a hub's side of one connection.
type talk struct {
	*books
	r    *road
	conn *tls.Conn
	raw  net.Conn

	open  map[uint16]*packets.PublishPacket // not acknowledged
	seen  map[string]bool
	bytes int
}

// serve runs a hub. Each connection with a CONNECT is a life of the hub, and life gets its number.
// Connections without a CONNECT are probes.
func (r *road) serve(addr string, life func(c *talk, number int)) (b *books, stop func()) {
	r.t.Helper()
	l, err := r.net.Listen("tcp", addr+":8883")
	if err != nil {
		r.t.Fatal(err)
	}
	b = &books{acked: map[string]bool{}}
	r.wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() {
				c := &talk{books: b, r: r, conn: tls.Server(raw, r.server), raw: raw, open: map[uint16]*packets.PublishPacket{}, seen: map[string]bool{}}
				defer func() { _ = c.conn.Close() }()
				if _, ok := c.packet().(*packets.ConnectPacket); !ok {
					return
				}
				b.mu.Lock()
				b.lives++
				number := b.lives
				b.mu.Unlock()
				life(c, number)
			})
		}
	})
	return b, func() { _ = l.Close() }
}

func (c *talk) packet() packets.ControlPacket {
	p, err := packets.ReadPacket(c.conn)
	if err != nil {
		return nil
	}
	return p
}

// welcome lets the device in. It calls between after CONNACK and before SUBACK, so before the
// device sends anything of its own.
func (c *talk) welcome(between func()) {
	_ = packets.NewControlPacket(packets.Connack).Write(c.conn)
	if between != nil {
		between()
	}
	for {
		switch q := c.packet().(type) {
		case *packets.SubscribePacket:
			s := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			s.MessageID, s.ReturnCodes = q.MessageID, make([]byte, len(q.Topics))
			_ = s.Write(c.conn)
			return
		case nil:
			return
		}
	}
}

// next is the packet id of the next message; false at the end of the connection.
func (c *talk) next() (pid uint16, ok bool) {
	for {
		switch q := c.packet().(type) {
		case *packets.PublishPacket:
			mid := midOf(c.r.t, q.TopicName)
			if body, known := c.r.bodies[mid]; !known || body != string(q.Payload) {
				c.r.t.Errorf("%s came with the body %.40q", mid, q.Payload)
			}
			c.mu.Lock()
			if c.seen[mid] {
				c.repeated = append(c.repeated, mid)
			}
			c.seen[mid] = true
			c.received = append(c.received, mid)
			c.open[q.MessageID] = q
			c.bytes += len(q.Payload)
			c.most, c.mostBytes = max(c.most, len(c.open)), max(c.mostBytes, c.bytes)
			c.mu.Unlock()
			return q.MessageID, true
		case *packets.PingreqPacket:
			_ = packets.NewControlPacket(packets.Pingresp).Write(c.conn)
		case nil:
			return 0, false
		}
	}
}

func midOf(t *testing.T, topic string) string {
	t.Helper()
	_, rest, _ := strings.Cut(topic, "%24.mid=")
	mid, _, _ := strings.Cut(rest, "&")
	if mid == "" {
		t.Errorf("no message id in %s", topic)
	}
	return mid
}

// puback acknowledges a packet id, be it one of a message or not, and keeps the books by the truth.
func (c *talk) puback(pid uint16) {
	c.mu.Lock()
	if q := c.open[pid]; q != nil {
		delete(c.open, pid)
		c.bytes -= len(q.Payload)
		c.acked[midOf(c.r.t, q.TopicName)] = true
	}
	c.mu.Unlock()
	c.stray(pid)
}

// stray sends a PUBACK that is none.
func (c *talk) stray(pid uint16) {
	a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	a.MessageID = pid
	_ = a.Write(c.conn)
}

// die resets the connection when everything that was sent so far has been looked at.
func (c *talk) die() {
	time.Sleep(time.Second)
	_ = c.raw.(interface{ SetLinger(sec int) error }).SetLinger(0)
	_ = c.raw.Close()
}

// honest acknowledges everything, in order.
func honest(c *talk, _ int) {
	c.welcome(nil)
	for pid, ok := c.next(); ok; pid, ok = c.next() {
		c.puback(pid)
	}
}

// drainTo lets the outbox drain to a hub until the link ends, and returns why it ended; nil if ctx
// ended it.
func (r *road) drainTo(ctx context.Context, host string) error {
	l, err := r.dialer.Dial(ctx, hub.Attempt{Host: host, DeviceID: "dev-1"})
	if err != nil {
		return err
	}
	err = virtual.RunDrain(ctx, telemetry.NewDrain(r.box, l, telemetry.DrainOptions{Problem: func(err error) { r.t.Error(err) }}))
	l.Abort(nil)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// holds checks that the outbox has exactly the messages without a PUBACK, now and for the next
// process.
func (r *road) holds(acked map[string]bool) {
	r.t.Helper()
	for _, when := range []string{"at once", "after a restart"} {
		held := r.queuedIDs()
		if len(held) != len(r.bodies)-len(acked) {
			r.t.Errorf("%s: %d held, %d of %d acknowledged", when, len(held), len(acked), len(r.bodies))
		}
		for _, id := range held {
			if acked[id] {
				r.t.Errorf("%s: %s is held although it was acknowledged", when, id)
			}
		}
		r.reopen()
	}
}

// arrives drains the rest to the good hub, and checks that exactly the rest arrives there, once, in
// order, under the same ids.
func (r *road) arrives() {
	r.t.Helper()
	held := r.queuedIDs()
	b, stop := r.serve(goodHub, honest)
	defer stop()
	ctx, end := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.drainTo(ctx, goodHub) }()
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.box.WaitEmpty(limit); err != nil {
		r.t.Error("the rest does not arrive")
	}
	end()
	if err := <-ended; err != nil {
		r.t.Error(err)
	}
	if !slices.Equal(b.received, held) {
		r.t.Errorf("%d were left and %d arrived, or in another order", len(held), len(b.received))
	}
	r.reopen()
	if left := r.queuedIDs(); len(left) > 0 {
		r.t.Errorf("%d are queued again", len(left))
	}
}

func TestFalseAckIsImpossible(t *testing.T) {
	const count = 200
	var pids []uint16 // of the connection before
	for name, v := range map[string]struct {
		life  func(c *talk, number int)
		lives int // connections until the hub is given up
		acked int // -1: do not count
	}{
		"drops PUBACKs": {func(c *talk, _ int) {
			c.welcome(nil)
			n := 0
			for pid, ok := c.next(); ok; pid, ok = c.next() { // until the device has had enough
				if n++; n%3 != 0 {
					c.puback(pid)
				}
			}
		}, 2, -1},
		"acknowledges nothing": {func(c *talk, _ int) {
			c.welcome(nil)
			for _, ok := c.next(); ok; _, ok = c.next() {
			}
		}, 2, 0},
		"out of order": {func(c *talk, _ int) {
			c.welcome(nil)
			var got []uint16
			for range 64 {
				pid, _ := c.next()
				got = append(got, pid)
			}
			for i := len(got) - 1; i > 0; i -= 2 { // the last first, every other one
				c.puback(got[i])
			}
			time.Sleep(time.Second)
		}, 1, 32},
		"of ids never sent": {func(c *talk, _ int) {
			c.welcome(func() {
				for pid := range uint16(1000) { // ids that will be sent are not sent yet
					c.stray(pid)
				}
			})
			for range 64 {
				pid, _ := c.next()
				c.stray(pid + 1000)
				c.stray(0)
			}
			time.Sleep(time.Second)
		}, 1, 0},
		"before CONNACK": {func(c *talk, _ int) {
			for pid := range uint16(100) {
				c.stray(pid)
			}
			c.welcome(nil)
			_, _ = io.Copy(io.Discard, c.conn)
		}, 2, 0},
		"dies between PUBLISH and PUBACK": {func(c *talk, _ int) {
			c.welcome(nil)
			for n := range 64 {
				pid, _ := c.next()
				if n < 7 {
					c.puback(pid)
				}
			}
			c.die()
		}, 1, 7},
		"dies again and again": {func(c *talk, number int) {
			c.welcome(nil)
			for range number {
				pid, _ := c.next()
				c.puback(pid)
			}
			c.die()
		}, 10, 55},
		"twice": {func(c *talk, _ int) {
			c.welcome(nil)
			first := uint16(0)
			for n := range 100 {
				pid, _ := c.next()
				if n == 0 {
					first = pid
				}
				if n%2 == 0 {
					c.puback(pid)
					c.stray(pid)
				}
				c.stray(first)
			}
			time.Sleep(time.Second)
		}, 1, 50},
		"of the connection before": {func(c *talk, number int) {
			if number == 1 {
				pids = nil
				c.welcome(nil)
				for n := range 64 {
					pid, _ := c.next()
					if pids = append(pids, pid); n < 10 {
						c.puback(pid)
					}
				}
				c.die()
				return
			}
			c.welcome(func() {
				for _, pid := range pids { // what was in flight when the other connection died is not, here
					c.stray(pid)
				}
			})
			for range 64 {
				_, _ = c.next()
			}
			c.die()
		}, 2, 10},
		"that are malformed": {func(c *talk, _ int) {
			c.welcome(nil)
			pid, _ := c.next()
			_, _ = c.conn.Write([]byte{packets.Puback << 4, 4, byte(pid >> 8), byte(pid), byte(pid >> 8), byte(pid)})
			_, _ = io.Copy(io.Discard, c.conn)
		}, 1, 0},
		"as PUBREC and PUBCOMP": {func(c *talk, number int) {
			c.welcome(nil)
			pid, _ := c.next()
			_, _ = c.conn.Write([]byte{[]byte{packets.Pubrec, packets.Pubcomp}[number-1] << 4, 2, byte(pid >> 8), byte(pid)})
			_, _ = io.Copy(io.Discard, c.conn)
		}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onRoad(t, count, 0, func(t *testing.T, r *road) {
				b, stop := r.serve(badHub, v.life)
				for range v.lives {
					limit, cancel := context.WithTimeout(t.Context(), time.Hour)
					if err := r.drainTo(limit, badHub); err == nil {
						t.Error("the link has not ended")
					}
					cancel()
					synctest.Wait()
					r.holds(maps.Clone(b.acked))
				}
				if v.acked >= 0 && len(b.acked) != v.acked || v.acked < 0 && len(b.acked) == 0 {
					t.Errorf("the hub has acknowledged %d", len(b.acked))
				}
				if b.lives != v.lives || len(b.repeated) > 0 {
					t.Errorf("%d connections; repeated on one of them: %v", b.lives, b.repeated)
				}
				stop()
				r.arrives()
			})
		})
	}
}

// TestSlowHubIsNotFlooded: a hub that is slow with PUBACKs never has more than the window, and
// never more than 512 KiB, unacknowledged, and much less when it falls silent in between. Nothing
// is sent twice, and the link is kept as long as PUBACKs come.
func TestSlowHubIsNotFlooded(t *testing.T) {
	for name, v := range map[string]struct {
		count, size int
		every       time.Duration // one PUBACK
		most        int           // messages unacknowledged, ever
		settles     int           // messages unacknowledged, when it has been slow for a while
	}{
		"small messages":         {1000, 200, 100 * time.Millisecond, 64, 64},
		"large messages":         {100, 100 << 10, time.Second, 5, 5},
		"very slow":              {300, 200, 2 * time.Second, 64, 64},
		"very slow and large":    {60, 100 << 10, 5 * time.Second, 5, 5},
		"as slow as is bearable": {100, 200, 55 * time.Second, 64, 16},
	} {
		t.Run(name, func(t *testing.T) {
			onRoad(t, v.count, v.size, func(t *testing.T, r *road) {
				settled := 0
				b, stop := r.serve(badHub, func(c *talk, _ int) {
					c.welcome(nil)
					queue := make(chan uint16, v.count)
					r.wg.Go(func() {
						n := 0
						for pid := range queue {
							time.Sleep(v.every)
							c.puback(pid)
							if n++; n > v.count/2 && n < v.count*3/4 {
								c.mu.Lock()
								settled = max(settled, len(c.open))
								c.mu.Unlock()
							}
						}
					})
					defer close(queue)
					for pid, ok := c.next(); ok; pid, ok = c.next() {
						queue <- pid
					}
				})
				defer stop()
				ctx, end := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- r.drainTo(ctx, badHub) }()
				limit, cancel := context.WithTimeout(ctx, time.Duration(v.count+1)*v.every+time.Minute)
				defer cancel()
				if err := r.box.WaitEmpty(limit); err != nil {
					t.Errorf("%d are left", len(r.queuedIDs()))
				}
				end()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if b.most > v.most || b.most < v.most/2 || b.mostBytes > telemetry.MaxInFlight {
					t.Errorf("%d messages and %d bytes were unacknowledged", b.most, b.mostBytes)
				}
				if settled > v.settles || settled == 0 {
					t.Errorf("%d messages were unacknowledged after a while", settled)
				}
				if len(b.received) != v.count || len(b.repeated) > 0 || b.lives != 1 {
					t.Errorf("%d of %d arrived over %d connections, repeated %v", len(b.received), v.count, b.lives, b.repeated)
				}
			})
		})
	}
}

// TestThrottlingHubIsKept: the hub's quota is used up, and for ten minutes every PUBACK comes 45 s
// late. The device neither leaves the hub nor sends anything twice.
func TestThrottlingHubIsKept(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.TelemetryInterval = 200 * time.Millisecond }}, func(t *testing.T, w *world) {
		w.run(time.Minute)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultThrottle, DelayMs: 45_000}))
		w.run(10 * time.Minute)
		w.must(w.cloud.HealHub("hub-a"))
		w.run(2 * time.Minute)
		if l := w.cloud.Ledger("dev-1", false); l.Duplicates != 0 || w.cloud.State().Totals.Connects != 1 {
			t.Errorf("%d duplicates, %d connections; decisions %v", l.Duplicates, w.cloud.State().Totals.Connects, w.decisions())
		}
		if left := w.dev.Status().Outbox.Queued; left > 1 {
			t.Errorf("%d are left", left)
		}
	})
}
