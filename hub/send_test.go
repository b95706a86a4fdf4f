package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/mqtt"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// TestDuplicatesAreMarkedOnTheSameHubOnly: what is sent again to the hub that may have it carries
// DUP and its old packet id; another hub gets it as new.
func TestDuplicatesAreMarkedOnTheSameHubOnly(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		type sent struct {
			host string
			dup  bool
			pid  uint16
			mid  string
		}
		var mu sync.Mutex
		var log []sent
		for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
			stop := w.Serve(host, func(p *peer) {
				p.Welcome()
				for q := p.Telemetry(); q != nil; q = p.Telemetry() {
					mu.Lock()
					log = append(log, sent{host, q.Dup, q.MessageID, Properties(q.TopicName[strings.LastIndex(q.TopicName, "/")+1:]).Get("$.mid")})
					mu.Unlock()
				}
			})
			defer stop()
		}
		var a acks
		session := func(host string, mids ...string) {
			l := w.dial(host)
			for _, mid := range mids {
				offer(t, l, &a, mid)
			}
			synctest.Wait()
			l.Abort(nil)
			synctest.Wait()
		}
		session("10.0.0.1", "m1", "m2")
		session("10.0.0.2", "m1")
		session("10.0.0.1", "new", "m2", "m1")
		if len(log) != 6 {
			t.Fatalf("%d messages arrived", len(log))
		}
		first := map[string]uint16{log[0].mid: log[0].pid, log[1].mid: log[1].pid}
		if log[2].dup {
			t.Error("DUP on a hub that never had it")
		}
		for _, s := range log[3:] {
			again := s.mid != "new"
			if s.dup != again || again && s.pid != first[s.mid] || !again && (s.pid == first["m1"] || s.pid == first["m2"]) {
				t.Errorf("%+v; the first time the packet ids were %v", s, first)
			}
		}
	})
}

// TestMessagesThatArrivedElsewhereAreForgotten: messages that a hub has not acknowledged, and that
// another one then took, never come to it again. What is remembered of them must not grow with
// every such loss, and must leave packet ids free.
func TestMessagesThatArrivedElsewhereAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.Window = 4096
		var pid uint16 // of the message that came last
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			for range w.dialer.Window {
				q := p.Telemetry()
				if q == nil {
					return
				}
				pid = q.MessageID
			}
		})
		defer stop()
		var a acks
		n := 0
		for range 20 {
			l := w.dial("10.0.0.1")
			for range w.dialer.Window {
				n++
				offer(t, l, &a, fmt.Sprintf("m-%d", n))
			}
			<-l.Done()
			l.Abort(nil)
			w.dialer.mu.Lock()
			kept := len(w.dialer.left["10.0.0.1"].Unacked)
			w.dialer.mu.Unlock()
			if kept < w.dialer.Window || kept > 2*w.dialer.Window {
				t.Fatalf("%d messages are remembered", kept)
			}
		}
		kept := map[string]uint16{} // more than a window: all of them are reserved at first
		for pid := range uint16(2 * w.dialer.Window) {
			kept[fmt.Sprint("k-", pid+1)] = pid + 1
		}
		w.dialer.remember("10.0.0.1", mqtt.Past{Unacked: kept})
		l := w.dial("10.0.0.1")
		offer(t, l, &a, "new")
		if synctest.Wait(); int(pid) <= len(kept) {
			t.Errorf("packet id %d is that of another message", pid)
		}
		l.Abort(nil)
	})
}

// TestRefusedSessionHasSeenNothing: what left with a CONNECT that was refused is new when it is
// sent again, but what an earlier link had left there keeps its DUP and its packet id; and so does
// what went to a hub that said nothing.
func TestRefusedSessionHasSeenNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		type sent struct {
			mid string
			dup bool
			pid uint16
		}
		script := make(chan string, 1)
		var log []sent
		stop := w.Serve("10.0.0.1", func(p *peer) {
			todo := <-script
			if p.Read() == nil {
				return
			}
			ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			if todo == "refuse" {
				ack.ReturnCode = 5
				p.Send(ack)
				return
			}
			if todo == "welcome" {
				p.Send(ack)
			}
			for range 2 { // SUBSCRIBE and the twin request
				if q, ok := p.Read().(*packets.SubscribePacket); ok && todo == "welcome" {
					p.Suback(q, 1)
				}
			}
			for range 2 {
				if q := p.Telemetry(); q != nil {
					log = append(log, sent{Properties(q.TopicName[strings.LastIndex(q.TopicName, "/")+1:]).Get("$.mid"), q.Dup, q.MessageID})
				}
			}
		})
		defer stop()
		var a acks
		for _, todo := range []string{"refuse", "welcome", "refuse", "silence", "welcome"} {
			script <- todo
			mids := []string{"m1", "m2"}
			if len(log) == 0 && todo == "welcome" {
				mids = []string{"m1", "x"}
			}
			attempt, _ := w.earlyAttempt("10.0.0.1", &a, []byte("{}"), mids...)
			l, err := w.dialer.Dial(t.Context(), attempt)
			if (err == nil) != (todo == "welcome") {
				t.Fatalf("%s: %v", todo, err)
			}
			if l != nil {
				<-l.Done()
				l.Abort(nil)
			}
		}
		synctest.Wait()
		if len(log) != 6 {
			t.Fatalf("%+v", log)
		}
		for i, dup := range []bool{false, false, true, false, true, true} {
			if log[i].dup != dup {
				t.Errorf("message %d: %+v", i, log[i])
			}
		}
		if log[0].pid != log[2].pid || log[2].pid != log[4].pid || log[3].pid != log[5].pid || log[1].pid == log[3].pid {
			t.Errorf("packet ids %+v", log)
		}
		for _, mid := range []string{"m1", "m2"} {
			for _, err := range a.Of(mid) {
				if err == nil {
					t.Errorf("%s was acknowledged by nobody", mid)
				}
			}
		}
	})
}

// Messages of one Send whose common properties differ, are shared, are none, or come again; and the
// limits count them.
func TestMessagesOfOneSendHaveTheirOwnProperties(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var topics []string
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			for q := p.Telemetry(); q != nil; q = p.Telemetry() {
				topics = append(topics, q.TopicName[strings.LastIndex(q.TopicName, "/")+1:])
				p.Puback(q.MessageID)
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		of := func(contentType, n string) message.Outgoing {
			m := outgoing("{}", "")
			if m.ContentType = contentType; n != "" {
				m.Properties = map[string]string{"n": n}
			}
			return m
		}
		var batch []message.Outgoing
		for i, contentType := range []string{"a", "a", "b", "", "a", "", "b", "a"} {
			batch = append(batch, of(contentType, fmt.Sprint(i)))
		}
		batch = append(batch, of("a", ""), of("", ""))
		var told ledger
		if n, err := l.Send(batch, &told); n != len(batch) || err != nil {
			t.Fatal(n, err)
		}
		batch[0].ContentType = "c"
		if n, err := l.Send(batch[:1], &told); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		large := of("k", "")
		large.Body = make([]byte, maxMessage-5)
		for name, m := range map[string]message.Outgoing{
			"too large with them":     large,
			"too long a topic":        of(strings.Repeat("v", maxTopic), ""),
			"a topic too long by &":   of(strings.Repeat("v", maxTopic-len(l.events)-len("n=v")-len("%24.ct=")), "v"),
			"a value that is no text": of("\xff", ""),
		} {
			if n, err := l.Send([]message.Outgoing{batch[0], m, batch[1]}, &told); n != 1 || !errors.As(err, new(*MessageError)) {
				t.Errorf("%s: %d taken, %v", name, n, err)
			}
		}
		synctest.Wait()
		want := []string{"n=0&%24.ct=a", "n=1&%24.ct=a", "n=2&%24.ct=b", "n=3", "n=4&%24.ct=a", "n=5", "n=6&%24.ct=b", "n=7&%24.ct=a", "%24.ct=a", "", "n=0&%24.ct=c"}
		if len(topics) < len(want) || !slices.Equal(topics[:len(want)], want) {
			t.Errorf("topics %q", topics)
		}
		l.Abort(nil)
	})
}

// socketHub is a hub on the loopback interface for one connection, with a small buffer on the way
// there. After the opening it leaves everything to script. It has a real socket, because only there
// a goroutine that sends also writes.
func socketHub(t testing.TB, script func(conn *tls.Conn)) *Link {
	t.Helper()
	cert, pool := memnet.Certificate(t, "127.0.0.1")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		raw, err := listener.Accept()
		if err != nil {
			return
		}
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
		defer func() { _ = conn.Close() }()
		(&peer{T: t, Conn: conn, Raw: raw, Hello: "$iothub/twin/GET/"}).Welcome()
		script(conn)
	})
	var out *net.TCPConn
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		out, _ = conn.(*net.TCPConn)
		return conn, err
	}
	d := &Dialer{TLS: &tls.Config{RootCAs: pool}, DialContext: dial, Agent: "test", KeepAlive: time.Minute, Methods: true, Twin: true}
	l, err := d.Dial(t.Context(), Attempt{Host: listener.Addr().String(), DeviceID: "dev-1"})
	if err != nil {
		t.Fatal(err)
	}
	_ = out.SetWriteBuffer(64 << 10)
	t.Cleanup(func() {
		l.Abort(nil)
		_ = listener.Close()
		wg.Wait()
	})
	return l
}

// answer acknowledges QoS 1 messages and shows them, without an allocation of its own for one; it
// returns with the connection.
func answer(conn *tls.Conn, each func(body []byte)) {
	in, held, acks := make([]byte, 64<<10), 0, make([]byte, 0, 4096)
	for {
		n, err := conn.Read(in[held:])
		if err != nil {
			return
		}
		held += n
		at := 0
		acks = acks[:0]
		for {
			size, front := binary.Uvarint(in[min(at+1, held):held])
			end := at + 1 + front + int(size)
			if front <= 0 || end > held {
				break
			}
			if in[at]&0x06 != 0 && in[at]>>4 == 3 {
				topic := at + 1 + front
				pid := topic + 2 + int(binary.BigEndian.Uint16(in[topic:]))
				acks = append(acks, 0x40, 2, in[pid], in[pid+1])
				each(in[pid+2 : end])
			}
			at = end
		}
		held = copy(in, in[at:held])
		if _, err := conn.Write(acks); err != nil {
			return
		}
	}
}

// counter is a completion that lets its owner wait.
type counter struct {
	mu    sync.Mutex
	next  uint64 // tickets come in this order
	wrong []error
	came  chan struct{}
}

func (c *counter) Done(tickets []uint64, err error) {
	c.mu.Lock()
	for _, t := range tickets {
		if err != nil || t != c.next {
			c.wrong = append(c.wrong, fmt.Errorf("ticket %d instead of %d: %w", t, c.next, err))
		}
		c.next = t + 1
	}
	c.mu.Unlock()
	select {
	case c.came <- struct{}{}:
	default:
	}
}

func (c *counter) wait(t testing.TB, n uint64) {
	for {
		c.mu.Lock()
		done, wrong := c.next, c.wrong
		c.mu.Unlock()
		if wrong != nil {
			t.Fatal(wrong[0])
		}
		if done >= n {
			return
		}
		<-c.came
	}
}

// Who sends does not wait for a peer that takes nothing; once it does, everything arrives, in
// order.
func TestSendDoesNotWaitForAPeerThatTakesNothing(t *testing.T) {
	const count, size = 200, 10_000
	read := make(chan struct{})
	var got []int
	l := socketHub(t, func(conn *tls.Conn) {
		<-read // what is sent does not fit into the buffers in between
		answer(conn, func(body []byte) { got = append(got, int(body[0])) })
	})
	c := &counter{came: make(chan struct{}, 1)}
	for i := 0; i < count; i += 4 {
		var batch []message.Outgoing
		for k := i; k < i+4; k++ {
			batch = append(batch, message.Outgoing{Message: message.Message{Body: bytes.Repeat([]byte{byte(k)}, size)}, ID: fmt.Sprint(k), Ticket: uint64(k)})
		}
		if n, err := l.Send(batch, c); n != 4 || err != nil {
			t.Fatal(n, err)
		}
	}
	close(read)
	c.wait(t, count)
	if s := l.Stats(); s.Acked != count || s.StrayAcks != 0 {
		t.Errorf("%+v", s)
	}
	l.Abort(nil)
	for i, k := range got {
		if i != k {
			t.Fatalf("message %d came as number %d", k, i)
		}
	}
}

// On the steady path a message costs no allocation, from Send to its completion.
func TestLinkAllocatesNothingPerMessage(t *testing.T) {
	l := socketHub(t, func(conn *tls.Conn) { answer(conn, func([]byte) {}) })
	const window = 64
	batch := make([]message.Outgoing, window)
	mids := make([]string, 2*window)
	for i := range mids {
		mids[i] = fmt.Sprintf("0123456789abcdef-%d", i)
	}
	c := &counter{came: make(chan struct{}, 1)}
	turn := func() {
		for i := range batch {
			m := &batch[i]
			m.Ticket, m.Body = c.next+uint64(i), append(m.Body[:0], "{}"...)
			m.ID, m.ContentType = mids[m.Ticket%uint64(len(mids))], "application/json"
		}
		until := c.next + window
		if n, err := l.Send(batch, c); n != window || err != nil {
			t.Fatal(n, err)
		}
		c.wait(t, until)
	}
	if n := testing.AllocsPerRun(200, turn); n > 8 {
		t.Errorf("%v allocations for %d messages", n, window)
	}
}

// BenchmarkSend sends windows of messages over a real socket, each when the one before is
// acknowledged.
func BenchmarkSend(b *testing.B) {
	l := socketHub(b, func(conn *tls.Conn) { answer(conn, func([]byte) {}) })
	batch := make([]message.Outgoing, DefaultWindow)
	for i := range batch {
		batch[i] = outgoing("{}", fmt.Sprintf("0123456789abcdef-%d", i))
		batch[i].Created, batch[i].ContentType, batch[i].ContentEncoding = bagTime.Add(time.Duration(i)*time.Millisecond), "application/json", "utf-8"
	}
	c := &counter{came: make(chan struct{}, 1)}
	b.ReportAllocs()
	for b.Loop() {
		for i := range batch {
			batch[i].Ticket = c.next + uint64(i)
		}
		until := c.next + uint64(len(batch))
		if n, err := l.Send(batch, c); n != len(batch) || err != nil {
			b.Fatal(n, err)
		}
		c.wait(b, until)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/message")
}
