//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// inFlight is how many messages of QoS 1 the broker has on their way to one client. It is the
// default of hubhop's source and of the peers' settings here.
const inFlight = 100

// startBroker runs mosquitto, which keeps everything that waits. It returns false if there is none.
func startBroker(t *testing.T, address string) bool {
	t.Helper()
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return false
		}
	}
	host, port, _ := net.SplitHostPort(address)
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %s %s\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages %d\npersistence false\nset_tcp_nodelay true\n", port, host, inFlight)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startProcess(t, program, []string{"PATH=" + os.Getenv("PATH")}, "-c", file)
	return listens(t, address)
}

// listens waits until somebody listens at an address.
func listens(t *testing.T, address string) bool {
	t.Helper()
	for range 100 {
		if conn, err := net.Dial("tcp", address); err == nil {
			return conn.Close() == nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nobody listens at %s", address)
	return false
}

// watch passes on what a client and its broker say to each other, and notes when the client
// acknowledges which message. So every program is measured by the same means, from outside.
type watch struct {
	t       *testing.T
	address string
	broker  string

	acked      atomic.Int64 // messages
	subscribed atomic.Int64 // SUBACKs

	mu     sync.Mutex
	sent   []time.Time    // by the number in a payload; nil: times are not noted
	number map[uint16]int // by packet id
	took   figure         // ms from a PUBLISH of the generator to the PUBACK of the client
}

func newWatch(t *testing.T, broker string) *watch {
	t.Helper()
	l, err := net.Listen("tcp", near(71)+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	w := &watch{t: t, address: l.Addr().String(), broker: broker, number: map[uint16]int{}}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", broker)
			if err != nil {
				_ = client.Close()
				continue
			}
			t.Cleanup(func() { _, _ = client.Close(), server.Close() })
			go func() { _ = relay(client, server, w.fromClient); _ = server.Close() }()
			go func() { _ = relay(server, client, w.fromBroker); _ = client.Close() }()
		}
	}()
	return w
}

// relay copies MQTT packets and shows each. All that has come is written at once.
func relay(from io.Reader, to io.Writer, show func(packet []byte)) error {
	r, w := bufio.NewReaderSize(from, 256<<10), bufio.NewWriterSize(to, 256<<10)
	for {
		packet, err := nextPacket(r)
		if err != nil {
			return err
		}
		show(packet)
		if _, err := w.Write(packet); err != nil {
			return err
		}
		if _, err := r.Discard(len(packet)); err != nil {
			return err
		}
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// nextPacket returns the next packet, which stays in r.
func nextPacket(r *bufio.Reader) ([]byte, error) {
	for n := 2; n <= 5; n++ {
		head, err := r.Peek(n)
		if err != nil {
			return nil, err
		}
		if head[n-1]&0x80 == 0 {
			size, _ := binary.Uvarint(head[1:])
			return r.Peek(n + int(size))
		}
	}
	return nil, errors.New("not MQTT")
}

// rest is a packet behind its length.
func rest(packet []byte) []byte {
	_, n := binary.Uvarint(packet[1:])
	return packet[1+n:]
}

func (w *watch) fromClient(packet []byte) {
	if packet[0] != 0x40 {
		return
	}
	w.mu.Lock()
	if w.sent != nil {
		id := binary.BigEndian.Uint16(rest(packet))
		if n, ok := w.number[id]; ok && !w.sent[n].IsZero() {
			w.took = append(w.took, time.Since(w.sent[n]).Seconds()*1000)
			delete(w.number, id)
		}
	}
	w.mu.Unlock()
	w.acked.Add(1)
}

func (w *watch) fromBroker(packet []byte) {
	switch packet[0] &^ 0x0f {
	case 0x90:
		w.subscribed.Add(1)
	case 0x30:
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.sent == nil {
			return
		}
		_, text, _ := bytes.Cut(packet, []byte(`"count":`))
		number, _, _ := bytes.Cut(text, []byte("}"))
		body := rest(packet)
		if n, err := strconv.Atoi(string(number)); err == nil && n < len(w.sent) {
			w.number[binary.BigEndian.Uint16(body[2+binary.BigEndian.Uint16(body):])] = n
		}
	}
}

// until waits until f is true, which must not take longer than the limit.
func (w *watch) until(what string, limit time.Duration, f func() bool) bool {
	w.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if f() {
			return true
		}
	}
	fmt.Fprintf(os.Stderr, "%s did not happen within %v\n", what, limit)
	return false
}

// subscribes waits until a program has its subscriptions.
func (w *watch) subscribes(name string, n int) bool {
	w.t.Helper()
	return w.until(name+" subscribes", 30*time.Second, func() bool { return w.subscribed.Load() >= int64(n) })
}

// generator publishes with QoS 1.
type generator struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	out  []byte
	owed int
	id   uint16
}

func newGenerator(t *testing.T, broker string) *generator {
	t.Helper()
	conn, err := net.Dial("tcp", broker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	g := &generator{t: t, conn: conn, r: bufio.NewReader(conn)}
	if _, err := conn.Write([]byte("\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03gen")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.r.Discard(4); err != nil {
		t.Fatal(err)
	}
	return g
}

// reading is what sensors send here, about 200 bytes of JSON. Its count is the number of the
// message.
const reading = `{"deviceId":"press-017","timestamp":"2026-11-30T15:35:18.123Z","temperature":71.25,"humidity":40,"pressure":1013.1,` +
	`"vibration":{"x":0.01,"y":0.02},"status":"running","count":`

func (g *generator) add(topic string, n int) {
	g.id = g.id%0xffff + 1
	number := strconv.Itoa(n)
	g.out = append(g.out, 0x32)
	g.out = binary.AppendUvarint(g.out, uint64(2+len(topic)+2+len(reading)+len(number)+1))
	g.out = binary.BigEndian.AppendUint16(g.out, uint16(len(topic)))
	g.out = append(g.out, topic...)
	g.out = binary.BigEndian.AppendUint16(g.out, g.id)
	g.out = append(g.out, reading...)
	g.out = append(append(g.out, number...), '}')
	g.owed++
}

// write sends what was added, and waits until at most so many have no PUBACK.
func (g *generator) write(most int) {
	g.t.Helper()
	_, err := g.conn.Write(g.out)
	g.out = g.out[:0]
	for ; err == nil && g.owed > most; g.owed-- {
		_, err = g.r.Discard(4)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// burst publishes n messages as fast as the broker takes them.
func (g *generator) burst(n int, topic func(i int) string) {
	g.t.Helper()
	for i := range n {
		g.add(topic(i), i)
		if len(g.out) > 32<<10 {
			g.write(2000)
		}
	}
	g.write(0)
}

// paced publishes n messages, so many a second, one after the other. It returns how long it took
// from just before a PUBLISH was written to the broker until the watch had the program's PUBACK of
// it, in ms.
func (g *generator) paced(w *watch, perSecond, n int, topic func(i int) string) figure {
	g.t.Helper()
	acked := w.acked.Load()
	w.mu.Lock()
	w.sent, w.took = make([]time.Time, n), nil
	w.mu.Unlock()
	began := time.Now()
	for i := range n {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
		g.add(topic(i), i)
		w.mu.Lock()
		w.sent[i] = time.Now()
		w.mu.Unlock()
		g.write(1000)
	}
	g.write(0)
	w.until("the last acknowledgement", 30*time.Second, func() bool { return w.acked.Load() >= acked+int64(n) })
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.took
	w.sent, w.took = nil, nil
	clear(w.number)
	return took
}

// bareFlow is the role of a bare program that keeps what a broker has for it.
const bareFlow = "bareflow"

// keepAll subscribes, appends each payload to a file, syncs all that came at once, and acknowledges
// it then. Nobody ends it but whoever started it.
func keepAll(j job) error {
	conn, err := net.Dial("tcp", j.Host)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(j.Dir, "kept"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	connect := "\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00" + string(rune(inFlight)) + "\x00\x07" + j.Kind[:7]
	subscribe := "\x00\x01\x00\x00" + string(rune(len(j.Kind))) + j.Kind + "\x01"
	if _, err := fmt.Fprintf(conn, "\x10%c%s\x82%c%s", len(connect), connect, len(subscribe), subscribe); err != nil {
		return err
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	var kept, acks []byte
	for {
		packet, err := nextPacket(r)
		if err != nil {
			return err
		}
		if packet[0]&^0x0f == 0x30 {
			body := rest(packet)
			name := 2 + int(binary.BigEndian.Uint16(body))
			properties, n := binary.Uvarint(body[name+2:])
			payload := body[name+2+n+int(properties):]
			kept = append(binary.LittleEndian.AppendUint32(kept, uint32(len(payload))), payload...)
			acks = append(acks, 0x40, 2, body[name], body[name+1])
		}
		if _, err := r.Discard(len(packet)); err != nil {
			return err
		}
		if r.Buffered() > 0 && len(kept) < 1<<20 || len(acks) == 0 {
			continue
		}
		if _, err := file.Write(kept); err != nil {
			return err
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return err
		}
		if _, err := conn.Write(acks); err != nil {
			return err
		}
		kept, acks = kept[:0], acks[:0]
	}
}
