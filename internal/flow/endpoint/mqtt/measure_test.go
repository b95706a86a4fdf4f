package mqtt

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// These measure the processor time of this process for each message, with mosquitto as the broker
// in a process of its own, QoS 1, no TLS, 100 messages in flight, and payloads of 100 bytes. The
// acknowledgements come as an outbox gives them: in batches, from another goroutine. Paho's client
// does the same at the same broker. Run them with -benchtime 100000x.

// processor returns the time that this process has had a processor.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured reports what f costs for each of n messages.
func measured(b *testing.B, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := processor()
	f()
	b.StopTimer()
	b.ReportMetric(float64(processor()-before)/float64(b.N)/1e3, "cpu-µs/msg")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

var body = []byte(strings.Repeat("x", 100))

// backlog publishes n messages to the topics t/0 to t/9.
func backlog(b *testing.B, port, n int) {
	b.Helper()
	c := plainConfig(b, port, "generator")
	c.MaxInflight = 1000
	d, err := NewDestination(c)
	if err != nil {
		b.Fatal(err)
	}
	r := start(b, d.Run)
	done := newCompletions()
	ms, tickets := make([]node.Message, n), make([]uint64, n)
	for i := range ms {
		ms[i] = node.Message{Topic: fmt.Sprintf("t/%d", i%10), Payload: body}
	}
	if _, err := d.Send(context.Background(), ms, done, tickets); err != nil {
		b.Fatal(err)
	}
	done.until(b, n)
	r.stop()
}

// acker acknowledges in batches: while it gives one back, the next one gathers.
type acker struct {
	mu      sync.Mutex
	pending []node.Delivery
	wake    chan struct{}
	count   int
	most    int
	ended   chan struct{}
	batches int
}

func newAcker(n int) *acker {
	a := &acker{wake: make(chan struct{}, 1), most: n, ended: make(chan struct{})}
	go a.run()
	return a
}

func (a *acker) take(d node.Delivery) bool {
	a.mu.Lock()
	a.pending = append(a.pending, d)
	first := len(a.pending) == 1
	a.mu.Unlock()
	if first {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (a *acker) run() {
	defer close(a.ended)
	var batch []node.Delivery
	var tickets []uint64
	for range a.wake {
		a.mu.Lock()
		batch, a.pending = a.pending, batch[:0]
		a.mu.Unlock()
		tickets = tickets[:0]
		for _, d := range batch {
			tickets = append(tickets, d.Ticket)
		}
		if len(tickets) > 0 {
			a.batches++
			batch[0].From.Acked(tickets)
		}
		if a.count += len(tickets); a.count >= a.most {
			return
		}
	}
}

func BenchmarkSource(b *testing.B) {
	port := freePort(b)
	newMosquitto(b, plainListener(port))
	s, err := NewSource(plainConfig(b, port, "in"), []string{"t/#"})
	if err != nil {
		b.Fatal(err)
	}
	r := start(b, func(ctx context.Context) error { return s.Run(ctx, func(node.Delivery) bool { return false }) })
	endtest.Until(b, "the subscription", s.subscribed)
	r.stop()
	backlog(b, port, b.N)
	a := newAcker(b.N)
	measured(b, func() {
		r = start(b, func(ctx context.Context) error { return s.Run(ctx, a.take) })
		<-a.ended
	})
	b.ReportMetric(float64(b.N)/float64(a.batches), "msg/ack")
}

func BenchmarkSourcePaho(b *testing.B) {
	port := freePort(b)
	newMosquitto(b, plainListener(port))
	connect := func(got func(*paho.Client, *paho.Publish)) *paho.Client {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			b.Fatal(err)
		}
		c := paho.NewClient(paho.ClientConfig{
			ClientID: "in", Conn: conn, EnableManualAcknowledgment: true, SendAcksInterval: time.Millisecond,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
				got(p.Client, p.Packet)
				return true, nil
			}},
		})
		expiry, most := uint32(3600), uint16(100)
		if _, err := c.Connect(b.Context(), &paho.Connect{ClientID: "in", KeepAlive: 60, Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry, ReceiveMaximum: &most}}); err != nil {
			b.Fatal(err)
		}
		return c
	}
	c := connect(func(*paho.Client, *paho.Publish) {})
	if _, err := c.Subscribe(b.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "t/#", QoS: 1}}}); err != nil {
		b.Fatal(err)
	}
	_ = c.Disconnect(&paho.Disconnect{})
	backlog(b, port, b.N)
	ended := make(chan struct{})
	measured(b, func() {
		var n atomic.Int64
		queue := make(chan *paho.Publish, 200)
		c = connect(func(c *paho.Client, p *paho.Publish) { queue <- p })
		go func() {
			for p := range queue {
				if err := c.Ack(p); err != nil {
					b.Error(err)
				}
				if n.Add(1) == int64(b.N) {
					close(ended)
					return
				}
			}
		}()
		<-ended
	})
	_ = c.Disconnect(&paho.Disconnect{})
}

func BenchmarkDestination(b *testing.B) {
	port := freePort(b)
	newMosquitto(b, plainListener(port))
	d, err := NewDestination(plainConfig(b, port, "out"))
	if err != nil {
		b.Fatal(err)
	}
	start(b, d.Run)
	endtest.Until(b, "the connection", func() bool { return d.Status().State == Connected })
	done := newCompletions()
	const batch = 50
	ms, tickets := make([]node.Message, batch), make([]uint64, batch)
	for i := range ms {
		ms[i] = node.Message{Topic: fmt.Sprintf("t/%d", i%10), Payload: body}
	}
	measured(b, func() {
		for n := 0; n < b.N; n += batch {
			k := min(batch, b.N-n)
			if _, err := d.Send(b.Context(), ms[:k], done, tickets[:k]); err != nil {
				b.Fatal(err)
			}
		}
		done.until(b, b.N)
	})
}

func BenchmarkDestinationPaho(b *testing.B) {
	port := freePort(b)
	newMosquitto(b, plainListener(port))
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		b.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{ClientID: "out", Conn: conn})
	if _, err := c.Connect(b.Context(), &paho.Connect{ClientID: "out", KeepAlive: 60}); err != nil {
		b.Fatal(err)
	}
	measured(b, func() {
		var left atomic.Int64
		left.Store(int64(b.N))
		var wg sync.WaitGroup
		for range 100 { // one goroutine for each message in flight: so their order is lost
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := c.Publish(context.Background(), &paho.Publish{Topic: "t/1", QoS: 1, Payload: body}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	_ = c.Disconnect(&paho.Disconnect{})
}
