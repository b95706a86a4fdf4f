package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// These tests need real sockets: only there a goroutine that sends also writes.

// socketHub is a hub on the loopback interface for one connection with a small buffer on the way there. After the opening it leaves everything to script.
func socketHub(t *testing.T, script func(conn *tls.Conn)) *Link {
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
		(&peer{t, conn, raw}).welcome()
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

// answer acknowledges QoS 1 messages and shows them, without an allocation of its own for one; it returns with the connection.
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

// Who sends does not wait for a peer that takes nothing; once it does, everything arrives, in order.
func TestSendWaitsForNobody(t *testing.T) {
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
