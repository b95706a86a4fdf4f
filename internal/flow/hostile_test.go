package flow

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// hostileAddress is where the hostile broker listens.
const hostileAddress = "127.0.0.1:1884"

// hostileManifests are a flow that copies and one that counts, both behind the hostile broker, and
// one behind a broker that does nothing wrong.
var hostileManifests = endpointOf("default", hostileAddress) + minutes("rough/+") + copying("rough", "default") +
	endpointOf("steady", brokerAddress) + copying("steady", "steady")

// copying is the manifest of a flow that copies what is JSON.
func copying(name, endpoint string) string {
	return graphOf(name, endpoint, name+"/+", "copy", "map", "rules", `{"map": [{"inputs": ["*"], "output": "*"}, {"inputs": ["n"], "output": "`+name+`"}]}`)
}

// hostile is a broker that sends what it likes to each client that has subscribed.
type hostile struct {
	t    *testing.T
	mu   sync.Mutex
	to   []net.Conn
	acks int
}

// hostile starts the hostile broker.
func (w *world) hostile() *hostile {
	w.t.Helper()
	l, err := w.wire.Listen("tcp", hostileAddress)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	h := &hostile{t: w.t}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(conn)
		}
	}()
	return h
}

// serve answers one client.
func (h *hostile) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.to = slices.DeleteFunc(h.to, func(c net.Conn) bool { return c == conn })
	}()
	in := bufio.NewReader(conn)
	for {
		head, err := in.ReadByte()
		if err != nil {
			return
		}
		length, err := binary.ReadUvarint(in) // it is the variable byte integer of MQTT
		if err != nil {
			return
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		var answer []byte
		switch head >> 4 {
		case 1:
			answer = []byte{0x20, 3, 0, 0, 0}
		case 8:
			answer = []byte{0x90, 4, body[0], body[1], 0, 1}
		case 12:
			answer = []byte{0xd0, 0}
		case 4:
			h.mu.Lock()
			h.acks++
			h.mu.Unlock()
			continue
		default:
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
		if head>>4 == 8 {
			h.mu.Lock()
			h.to = append(h.to, conn)
			h.mu.Unlock()
		}
	}
}

// send sends a packet to each client, at once.
func (h *hostile) send(packet []byte) {
	h.mu.Lock()
	to := slices.Clone(h.to)
	h.mu.Unlock()
	var all sync.WaitGroup
	for _, conn := range to {
		all.Go(func() { _, _ = conn.Write(packet) }) // the client may have gone
	}
	all.Wait()
}

// acked returns how many messages the clients have acknowledged.
func (h *hostile) acked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks
}

// packet is a PUBLISH of QoS 1, with texts and properties that need not be valid.
func packet(id int, topic, payload string, user ...[2]string) []byte {
	var properties, body []byte
	text := func(to []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(to, uint16(len(s))), s...)
	}
	for _, u := range user {
		properties = text(text(append(properties, 38), u[0]), u[1])
	}
	body = binary.BigEndian.AppendUint16(text(body, topic), uint16(id))
	body = append(binary.AppendUvarint(body, uint64(len(properties))), properties...)
	body = append(body, payload...)
	return append(binary.AppendUvarint([]byte{0x32}, uint64(len(body))), body...)
}

// arrived returns the numbers that have come to the ledger under a name, in their order.
func (w *world) arrived(name string) (all []int) {
	w.t.Helper()
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		var doc map[string]json.RawMessage
		var n int
		if json.Unmarshal(m.Body, &doc) == nil && doc[name] != nil && json.Unmarshal(doc[name], &n) == nil {
			all = append(all, n)
		}
	}
	return all
}

// heap is how much memory is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestHostileInputDisturbsNothing sends one kind of bad message after the other to two flows. Each
// has its reason in the log, or does no harm; the good message behind it arrives, and a third flow
// of the process loses nothing.
func TestHostileInputDisturbsNothing(t *testing.T) {
	many := make([][2]string, 10_000)
	for i := range many {
		many[i] = [2]string{fmt.Sprint("key", i), "value"}
	}
	ts := func(off time.Duration) [2]string {
		return [2]string{"__ts", node.TimeOf(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(off)).String()}
	}
	const good = `{"n":1}`
	cases := []struct {
		name, topic, payload string
		user                 [][2]string
		reason               string // in the log; empty: there is none
		copied               bool   // the flow that copies takes it
		counted              int    // messages that the flow that counts takes
	}{
		{name: "a payload above 1 MiB", payload: strings.Repeat("x", 1<<20+1), reason: "its payload is too large: 1048577 bytes"},
		{name: "a payload of 1 MB", payload: `{"n":1,"x":"` + strings.Repeat("x", 990_000) + `"}`, reason: "IoT Hub takes", counted: 1},
		{name: "a payload between both", payload: strings.Repeat("x", 1_000_001), reason: "1000001 bytes"},
		{name: "deep nesting", payload: strings.Repeat(`{"n":`, 100_000) + "1" + strings.Repeat("}", 100_000), reason: "nested"},
		{name: "deep nesting that does not end", payload: strings.Repeat("[", 500_000), reason: "nested"},
		{name: "10,000 properties", payload: good, user: many, reason: "it has too many properties: 10000"},
		{name: "a name of 64 KB", payload: good, user: [][2]string{{strings.Repeat("k", 65535), "v"}}, reason: "the name of a property is too long: 65535 bytes"},
		{name: "a value of 64 KB", payload: good, user: [][2]string{{"k", strings.Repeat("v", 65535)}}, reason: "its properties take", counted: 1},
		{name: "a topic of 64 KB", topic: "rough/" + strings.Repeat("t", 65529), payload: good, copied: true, counted: 1},
		{name: "a topic that is no UTF-8", topic: "rough/\xff", payload: good, reason: "its topic is not valid text"},
		{name: "a name that is no UTF-8", payload: good, user: [][2]string{{"\xc3\x28", "v"}}, reason: "a property is not valid text"},
		{name: "a value that is no UTF-8", payload: good, user: [][2]string{{"k", "\xff"}}}, // of one kind, the log has the first alone
		{name: "a payload that is no UTF-8", payload: "{\"n\":\"\xff\xfe\"}", reason: "UTF-8"},
		{name: "no payload", reason: "drops a message"},
		{name: "a clock a day ahead", payload: good, user: [][2]string{ts(25 * time.Hour)}, copied: true, counted: 1},
		{name: "a clock a day behind", payload: good, user: [][2]string{ts(-24 * time.Hour)}, copied: true, counted: 1},
		{name: "a clock that is none", payload: good, user: [][2]string{{"__ts", "yesterday"}}, copied: true, counted: 1},
		{name: "names that a hub cannot carry", payload: good, user: [][2]string{{"iothub-message-id", "1"}, {"gap", "1"}, {"", "1"}, {"a\nb", "1"}}, reason: `the property "iothub-message-id" is left out`, copied: true, counted: 1},
	}
	inWorld(t, hostileManifests, hostileSetup, func(t *testing.T, w *world) {
		stop := w.steady()
		h := w.hostile()
		time.Sleep(5 * time.Second)
		before := heap()
		copied, counted, id := 0, 0, 0
		for i, c := range cases {
			from := len(w.said.texts())
			topic := c.topic
			if topic == "" {
				topic = "rough/a"
			}
			id += 2
			h.send(packet(id, topic, c.payload, c.user...))
			h.send(packet(id+1, "rough/a", fmt.Sprintf(`{"n":%d}`, 100+i)))
			time.Sleep(61 * time.Second) // of equal faults, the log has one in a minute
			synctest.Wait()
			copied, counted = copied+1, counted+1+c.counted
			if c.copied {
				copied++
			}
			said := strings.Join(w.said.texts()[from:], "\n")
			if c.reason != "" && !strings.Contains(said, c.reason) || c.reason == "" && said != "" {
				t.Errorf("%s: the log says %.2000q, want %q", c.name, said, c.reason)
			}
			if got := w.arrived("rough"); len(got) != copied || got[len(got)-1] != 100+i {
				t.Errorf("%s: %d messages have arrived, want %d and the one behind it: %v", c.name, len(got), copied, got)
				copied = len(got)
			}
			if got := h.acked(); got != 2*id {
				t.Errorf("%s: %d messages are acknowledged, want %d", c.name, got, 2*id)
			}
		}
		sum := 0
		time.Sleep(2 * time.Minute)
		for _, n := range w.arrived("count") {
			sum += n
		}
		if sum != counted {
			t.Errorf("the windows count %d messages, want %d", sum, counted)
		}
		for _, s := range w.flows.Status() {
			if s.State != Running || s.InFlight > 0 {
				t.Errorf("the flow is %+v", s)
			}
			if s.Name == "rough" && (s.In != uint64(id) || s.In != s.Out+s.Dropped+s.Errors) || s.Name == "minutes" && s.In != uint64(id) {
				t.Errorf("%d messages were sent, and the flow is %+v", id, s)
			}
			if said := strings.Contains(s.Text, "6 messages were dropped before they came into the flow"); said == (s.Name == "steady") {
				t.Errorf("the status of %s says %q", s.Name, s.Text)
			}
		}
		if all := strings.Join(w.said.texts(), "\n"); strings.Contains(all, "could not be remembered") {
			t.Error(all)
		}
		runtime.GC()
		if grown := heap() - before; grown > 32<<20 {
			t.Errorf("the memory has grown by %d bytes", grown)
		}
		stop()
	})
}

// hostileSetup gives the device a small outbox.
func hostileSetup(c *device.Config) { c.Outbox.MaxBytes = 4 << 20 }

// steady publishes one message a second to the flow that nothing should disturb, until stop is
// called. stop checks that all of them have arrived in order.
func (w *world) steady() (stop func()) {
	w.t.Helper()
	p, end := w.publisher("steady-generator")
	quit, ended := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { ended <- n }()
		for tick := time.NewTicker(time.Second); ; n++ {
			select {
			case <-tick.C:
			case <-quit:
				tick.Stop()
				return
			}
			if err := p.publish(w.t.Context(), n, node.Message{Topic: "steady/a", Payload: fmt.Appendf(nil, `{"n":%d}`, n)}); err != nil {
				w.t.Error(err)
			}
		}
	}()
	return func() {
		close(quit)
		n := <-ended
		time.Sleep(time.Minute)
		end()
		got := w.arrived("steady")
		if len(got) != n {
			w.t.Errorf("%d messages of the steady flow have arrived, want %d", len(got), n)
		}
		for i := range got {
			if got[i] != i {
				w.t.Fatalf("message %d of the steady flow is number %d", i, got[i])
			}
		}
	}
}

// TestAFloodIsBoundedAndLosesNothing: a broker sends faster than the flows run. In one case the
// cloud is away, so that the outbox is full and nothing is acknowledged any more, until it is back.
// All messages arrive in order.
func TestAFloodIsBoundedAndLosesNothing(t *testing.T) {
	for _, c := range []struct {
		name           string
		messages, size int
		away           bool
	}{
		{"messages of 1 kB while the cloud is away", 7_000, 1000, true},
		{"tiny messages", 7_000, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, hostileManifests, hostileSetup, func(t *testing.T, w *world) {
				stop := w.steady()
				h := w.hostile()
				time.Sleep(5 * time.Second)
				if c.away {
					w.faultHubs(true)
				}
				runtime.GC()
				before := heap()
				done, peak := h.flood(c.messages, c.size)
				if c.away {
					time.Sleep(10 * time.Minute)
					synctest.Wait()
					w.isFull(done, h, c.messages)
					w.faultHubs(false)
				}
				<-done
				time.Sleep(5 * time.Minute)
				stop()
				got, count := w.arrived("rough"), 0
				for _, n := range w.arrived("count") {
					count += n
				}
				if len(got) != c.messages || count != c.messages || h.acked() != 2*c.messages {
					t.Errorf("%d messages have arrived, %d were counted, %d acknowledgements; want %d", len(got), count, h.acked(), c.messages)
				}
				for i := range got {
					if got[i] != i {
						t.Fatalf("message %d is number %d", i, got[i])
					}
				}
				t.Logf("memory: %d bytes before, %d at most", before, peak.Load())
				if grown := peak.Load() - before; grown > 64<<20 {
					t.Errorf("the memory has grown by %d bytes", grown)
				}
			})
		})
	}
}

// flood sends numbered messages as fast as they are taken. peak is how much memory was in use.
func (h *hostile) flood(messages, size int) (done chan struct{}, peak *atomic.Int64) {
	done, peak = make(chan struct{}), new(atomic.Int64)
	padding := strings.Repeat("x", size)
	go func() {
		defer close(done)
		var batch bytes.Buffer
		for n := range messages {
			batch.Write(packet(1+n, "rough/a", fmt.Sprintf(`{"n":%d,"x":"%s"}`, n, padding)))
			if batch.Len() > 64<<10 || n == messages-1 {
				h.send(batch.Bytes())
				batch.Reset()
				peak.Store(max(peak.Load(), heap()))
			}
		}
	}()
	return done, peak
}

// faultHubs takes the cloud away, or gives it back.
func (w *world) faultHubs(away bool) {
	w.t.Helper()
	for _, name := range []string{"hub-a", "hub-b"} {
		err := w.cloud.HealHub(name)
		if away {
			err = w.cloud.FaultHub(name, sim.Fault{Kind: sim.FaultKill})
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// isFull checks that the flows hold what they may, and no more, and that the broker knows.
func (w *world) isFull(done chan struct{}, h *hostile, messages int) {
	w.t.Helper()
	select {
	case <-done:
		w.t.Error("the flows take more than the outbox holds")
	default:
	}
	for _, name := range []string{"rough", "minutes"} {
		if s := w.flows.running(name).graph.Status(); s.InFlight > 1000 || s.InFlightBytes > 8<<20 {
			w.t.Errorf("%d messages of %d bytes are in flight", s.InFlight, s.InFlightBytes)
		}
	}
	if got := h.acked(); got >= 2*messages {
		w.t.Errorf("%d messages are acknowledged although there is no room for them", got)
	}
}
