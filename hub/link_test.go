package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// world is a network in virtual time with one or more scripted hubs.
type world struct {
	t      *testing.T
	net    *memnet.Net
	server *tls.Config
	dialer *Dialer
	wg     sync.WaitGroup
}

// peer is the hub's side of one connection, after TLS. Its methods fail the test when the other side does something else.
type peer struct {
	t    *testing.T
	conn *tls.Conn
	raw  net.Conn
}

// bubble runs a test in virtual time. Everything that was started must have ended at its end, or the bubble fails.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cert, pool := memnet.Certificate(t, "10.0.0.1", "10.0.0.2")
		w := &world{t: t, net: memnet.New(), server: &tls.Config{Certificates: []tls.Certificate{cert}}}
		w.dialer = &Dialer{
			TLS: &tls.Config{RootCAs: pool}, DialContext: w.net.DialContext, Agent: "test", KeepAlive: 20 * time.Second,
			Desired: true, Methods: true, C2D: true, Twin: true,
		}
		f(t, w)
		w.wg.Wait()
	})
}

// hub lets script answer each connection to addr, TLS done. The listener ends with the test function f of bubble.
func (w *world) hub(addr string, script func(p *peer)) (stop func()) {
	w.t.Helper()
	l, err := w.net.Listen("tcp", addr+":8883")
	if err != nil {
		w.t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	w.wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, raw)
			mu.Unlock()
			w.wg.Go(func() {
				conn := tls.Server(raw, w.server)
				if conn.Handshake() != nil {
					_ = raw.Close()
					return
				}
				script(&peer{w.t, conn, raw})
				_ = conn.Close()
			})
		}
	})
	return func() { // a hub whose path was cut would wait for ever
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func (w *world) attempt(host string) Attempt { return Attempt{Host: host, DeviceID: "dev-1"} }

// dial makes a link or fails.
func (w *world) dial(host string) *Link {
	w.t.Helper()
	l, err := w.dialer.Dial(w.t.Context(), w.attempt(host))
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (p *peer) read() packets.ControlPacket {
	packet, err := packets.ReadPacket(p.conn)
	if err != nil {
		return nil
	}
	return packet
}

func (p *peer) send(cp packets.ControlPacket) { _ = cp.Write(p.conn) }

// welcome reads CONNECT and what came with it, up to the twin request, and lets the device in.
func (p *peer) welcome() *packets.ConnectPacket {
	c, ok := p.read().(*packets.ConnectPacket)
	if !ok {
		return nil // a probe
	}
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	p.send(ack)
	for {
		switch q := p.read().(type) {
		case *packets.SubscribePacket:
			p.suback(q, 1)
		case *packets.UnsubscribePacket:
		case *packets.PublishPacket:
			if strings.HasPrefix(q.TopicName, "$iothub/twin/GET/") {
				return c
			}
			p.t.Errorf("an early PUBLISH to %s", q.TopicName)
		default:
			return c
		}
	}
}

func (p *peer) suback(q *packets.SubscribePacket, code byte) {
	s := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	s.MessageID = q.MessageID
	for range q.Topics {
		s.ReturnCodes = append(s.ReturnCodes, code)
	}
	p.send(s)
}

func (p *peer) puback(pid uint16) {
	a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	a.MessageID = pid
	p.send(a)
}

func (p *peer) publish(topic, body string, qos byte, pid uint16) {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Qos, m.MessageID = topic, []byte(body), qos, pid
	p.send(m)
}

// mute lets a session come up, and says nothing more.
func (p *peer) mute() {
	if p.welcome() != nil {
		_, _ = io.Copy(io.Discard, p.conn)
	}
}

// acknowledge answers all telemetry until the link ends.
func (p *peer) acknowledge() {
	for q := p.telemetry(); q != nil; q = p.telemetry() {
		p.puback(q.MessageID)
	}
}

// telemetry reads on to the next telemetry message; nil at the end of the connection.
func (p *peer) telemetry() *packets.PublishPacket {
	for {
		switch q := p.read().(type) {
		case *packets.PublishPacket:
			if q.Qos == 1 {
				return q
			}
		case *packets.PingreqPacket:
			p.send(packets.NewControlPacket(packets.Pingresp))
		case nil:
			return nil
		}
	}
}

func TestOpeningIsOneWrite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var got []string
		stop := w.hub("10.0.0.1", func(p *peer) {
			// Nothing is answered until everything has arrived: a client that waits for CONNACK would wait for ever.
			for range 3 {
				got = append(got, fmt.Sprintf("%T", p.read()))
			}
			p.send(packets.NewControlPacket(packets.Connack))
			q := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
			q.MessageID, q.Topics = 1, make([]string, 4)
			p.suback(q, 1)
			p.read()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		l.Abort()
		if want := []string{"*packets.ConnectPacket", "*packets.SubscribePacket", "*packets.PublishPacket"}; !slices.Equal(got, want) {
			t.Errorf("%v arrived before CONNACK", got)
		}
	})
}

func TestSequentialWaitsForEachAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.read() == nil {
				return // the probe of a client that hears nothing
			}
			_ = p.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			if n, err := p.conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Error("something came before CONNACK")
			}
			_ = p.conn.SetReadDeadline(time.Time{})
			p.send(packets.NewControlPacket(packets.Connack))
			if q, ok := p.read().(*packets.SubscribePacket); ok {
				p.suback(q, 1)
			} else {
				t.Error("no SUBSCRIBE after CONNACK")
			}
			p.read()
		})
		defer stop()
		a := w.attempt("10.0.0.1")
		a.Sequential = true
		var phases []Phase
		a.Progress = func(p Phase) { phases = append(phases, p) }
		w.dialer.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		l, err := w.dialer.Dial(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		l.Abort()
		if !slices.Equal(phases, []Phase{PhaseDial, PhaseTLS}) {
			t.Errorf("phases %v", phases)
		}
	})
}

func TestRefusals(t *testing.T) {
	for _, code := range []byte{1, 2, 3, 4, 5} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.read()
				ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
				ack.ReturnCode = code
				p.send(ack)
			})
			defer stop()
			_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != code || e.Phase != PhaseConnect || e.Pipelined {
				t.Errorf("CONNACK %d became %#v", code, err)
			}
		})
	}
}

func TestClosedBeforeConnack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) { p.read() })
		defer stop()
		for _, sequential := range []bool{false, true} {
			a := w.attempt("10.0.0.1")
			a.Sequential = sequential
			_, err := w.dialer.Dial(t.Context(), a)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Phase != PhaseConnect || e.Pipelined == sequential || e.Code != 0 {
				t.Errorf("sequential %v: %v", sequential, err)
			}
		}
	})
}

func TestRefusedSubscription(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.read()
			p.send(packets.NewControlPacket(packets.Connack))
			if q, ok := p.read().(*packets.SubscribePacket); ok {
				p.suback(q, 0x80)
			}
			p.read()
		})
		defer stop()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrSubscription) || e.Phase != PhaseSubscribe {
			t.Errorf("%v", err)
		}
	})
}

// acks collects the completions of messages by name.
type acks struct {
	mu   sync.Mutex
	seen map[string][]error
}

func (a *acks) done(name string) func(error) {
	return func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.seen == nil {
			a.seen = map[string][]error{}
		}
		a.seen[name] = append(a.seen[name], err)
	}
}

func (a *acks) of(name string) []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[name]
}

func offer(t *testing.T, l *Link, a *acks, mid string) {
	t.Helper()
	if err := l.Publish(outgoing("{}", mid), a.done(mid)); err != nil {
		t.Errorf("%s: %v", mid, err)
	}
}

// TestOnlyTheRealPubackCompletes is the false ack in all its shapes: none, out of order, for ids never sent, twice, and a hub that
// dies between PUBLISH and PUBACK.
func TestOnlyTheRealPubackCompletes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		die := make(chan struct{})
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			var pids []uint16
			for range 4 {
				if q := p.telemetry(); q != nil {
					pids = append(pids, q.MessageID)
				}
			}
			p.puback(60000) // never sent
			p.puback(pids[2])
			p.puback(pids[0])
			p.puback(pids[0]) // again
			<-die
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		for _, mid := range []string{"a", "b", "c", "d"} {
			offer(t, l, &a, mid)
		}
		synctest.Wait()
		for mid, want := range map[string]int{"a": 1, "b": 0, "c": 1, "d": 0} {
			if got := a.of(mid); len(got) != want || want == 1 && got[0] != nil {
				t.Errorf("%s completed with %v", mid, got)
			}
		}
		if s := l.Stats(); s.StrayAcks != 2 || s.Acked != 2 || s.Published != 4 {
			t.Errorf("%+v", s)
		}
		close(die)
		<-l.Done()
		for _, mid := range []string{"b", "d"} {
			if got := a.of(mid); len(got) != 1 || got[0] == nil {
				t.Errorf("%s completed with %v, though its PUBACK never came", mid, got)
			}
		}
		if err := l.Publish(message.Outgoing{}, a.done("late")); err == nil || !errors.Is(err, io.EOF) {
			t.Errorf("a dead link takes messages: %v", err)
		}
		l.Abort()
	})
}

// TestNobodyWaitsForOnePublish: a full window in flight is bookkeeping, not goroutines (nor timers) of its own.
func TestNobodyWaitsForOnePublish(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for p.telemetry() != nil { // acknowledges nothing
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		synctest.Wait()
		before := runtime.NumGoroutine()
		var a acks
		for i := range l.Window() {
			offer(t, l, &a, fmt.Sprint(i))
		}
		synctest.Wait()
		if s := l.Stats(); s.Published < 32 || s.Acked != 0 {
			t.Fatalf("%+v", s)
		}
		if n := runtime.NumGoroutine() - before; n > 2 { // one for what is being probed now is fine
			t.Errorf("%d more goroutines with a window of messages in flight", n)
		}
		l.Abort()
	})
}

// TestDuplicatesAreMarkedOnTheSameHubOnly: what is sent again to the hub that may have it carries DUP and its old packet id; another
// hub gets it as new.
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
			stop := w.hub(host, func(p *peer) {
				p.welcome()
				for q := p.telemetry(); q != nil; q = p.telemetry() {
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
			l.Abort()
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

// TestWhatArrivedElsewhereIsForgotten: messages that a hub has not acknowledged, and that another one then took, never come to it again.
// What is remembered of them must not grow with every such loss, and must leave packet ids free.
func TestWhatArrivedElsewhereIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.Window = 4096
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for range w.dialer.Window {
				if p.telemetry() == nil {
					return
				}
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
			l.Abort()
			w.dialer.mu.Lock()
			kept := len(w.dialer.left["10.0.0.1"].unacked)
			w.dialer.mu.Unlock()
			if kept < w.dialer.Window || kept > 2*w.dialer.Window {
				t.Fatalf("%d messages are remembered", kept)
			}
		}
		kept := map[string]uint16{} // more than a window: all of them are reserved at first
		for pid := range uint16(2 * w.dialer.Window) {
			kept[fmt.Sprint("k-", pid+1)] = pid + 1
		}
		w.dialer.remember("10.0.0.1", memory{unacked: kept}, pace{})
		l := w.dial("10.0.0.1")
		offer(t, l, &a, "new")
		l.mu.Lock()
		pid := l.oldest.pid
		l.mu.Unlock()
		if int(pid) <= len(kept) {
			t.Errorf("packet id %d is that of another message", pid)
		}
		l.Abort()
	})
}

// TestRequestThatIsGivenUp: what nobody waits for any more is forgotten, and its answer, should it come, is nobody's.
func TestRequestThatIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		before := len(l.calls)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Report(ctx, []byte("{}")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		l.mu.Lock()
		if len(l.calls) != before {
			t.Errorf("%d requests wait", len(l.calls)-before)
		}
		l.mu.Unlock()
		l.Abort()
	})
}

// earlyAttempt publishes some messages while the attempt is made, and tells which of them fitted.
func (w *world) earlyAttempt(host string, a *acks, body []byte, mids ...string) (attempt Attempt, fitted *[]string) {
	attempt, fitted = w.attempt(host), new([]string)
	attempt.Early = func(l *Link) {
		for _, mid := range mids {
			err := l.Publish(outgoing(string(body), mid), a.done(mid))
			if err != nil && !errors.Is(err, ErrNoRoom) {
				w.t.Errorf("%s: %v", mid, err)
			}
			if err != nil {
				break
			}
			*fitted = append(*fitted, mid)
		}
	}
	return attempt, fitted
}

// TestFirstPubackTakesThreeRoundTrips: TCP, TLS 1.3, and one for CONNECT, SUBSCRIBE and the messages together.
func TestFirstPubackTakesThreeRoundTrips(t *testing.T) {
	for _, sequential := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				p.acknowledge()
			})
			defer stop()
			w.net.SetDelay(25 * time.Millisecond)
			began, took := time.Now(), time.Duration(0)
			publish := func(l *Link) {
				err := l.Publish(outgoing("{}", "m"), func(err error) {
					if err == nil {
						took = time.Since(began)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}
			a, want := w.attempt("10.0.0.1"), 150*time.Millisecond
			a.Early = publish
			if a.Sequential = sequential; sequential { // Early is not called; CONNACK, SUBACK and PUBACK take a round trip each
				a.Early, want = func(*Link) { t.Error("messages before CONNACK") }, 250*time.Millisecond
			}
			l, err := w.dialer.Dial(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if sequential {
				publish(l)
			}
			time.Sleep(time.Second)
			l.Abort()
			if took != want {
				t.Errorf("sequential %v: the first PUBACK after %v, want %v", sequential, took, want)
			}
		})
	}
}

// TestFirstWriteIsBounded: a hub that refuses costs no more than a first flight, and what does not fit is refused as good for later.
func TestFirstWriteIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		size := make(chan int, 1)
		stop := w.hub("10.0.0.1", func(p *peer) {
			n, total := 0, 0
			_ = p.conn.SetReadDeadline(time.Now().Add(time.Second))
			for err := error(nil); err == nil; total += n {
				n, err = p.conn.Read(make([]byte, 4096))
			}
			if total > 0 { // else it is the watchdog's probe
				size <- total
			}
		})
		defer stop()
		var a acks
		mids := make([]string, 100)
		for i := range mids {
			mids[i] = fmt.Sprint(i)
		}
		attempt, fitted := w.earlyAttempt("10.0.0.1", &a, make([]byte, 1000), mids...)
		if _, err := w.dialer.Dial(t.Context(), attempt); err == nil {
			t.Fatal("a silent hub let us in")
		}
		if n := <-size; n > firstFlight || n < firstFlight-1200 {
			t.Errorf("%d bytes before CONNACK", n)
		}
		for _, mid := range *fitted {
			if got := a.of(mid); len(got) != 1 || got[0] == nil {
				t.Errorf("%s completed with %v", mid, got)
			}
		}
	})
}

// TestRefusedSessionHasSeenNothing: what left with a CONNECT that was refused is new when it is sent again, but what an earlier link
// had left there keeps its DUP and its packet id; and so does what went to a hub that said nothing.
func TestRefusedSessionHasSeenNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		type sent struct {
			mid string
			dup bool
			pid uint16
		}
		script := make(chan string, 1)
		var log []sent
		stop := w.hub("10.0.0.1", func(p *peer) {
			todo := <-script
			if p.read() == nil {
				return
			}
			ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			if todo == "refuse" {
				ack.ReturnCode = 5
				p.send(ack)
				return
			}
			if todo == "welcome" {
				p.send(ack)
			}
			for range 2 { // SUBSCRIBE and the twin request
				if q, ok := p.read().(*packets.SubscribePacket); ok && todo == "welcome" {
					p.suback(q, 1)
				}
			}
			for range 2 {
				if q := p.telemetry(); q != nil {
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
				l.Abort()
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
			for _, err := range a.of(mid) {
				if err == nil {
					t.Errorf("%s was acknowledged by nobody", mid)
				}
			}
		}
	})
}

// TestShortSession: a session that the hub grants and closes at once was one.
func TestShortSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) { p.welcome() })
		defer stop()
		l := w.dial("10.0.0.1")
		<-l.Done()
		for range 100 { // both have happened
			if !l.opened(t.Context()) {
				t.Fatal("it was not up")
			}
		}
		l.Abort()
	})
}

// TestBlackHoleIsFoundInTwoSeconds: at one sample a second, silence ends the link two seconds after the first send into it.
func TestBlackHoleIsFoundInTwoSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.acknowledge()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		for i := range 10 {
			offer(t, l, &a, fmt.Sprint(i))
			time.Sleep(time.Second)
		}
		w.net.Cut("10.0.0.1:8883")
		cut := time.Now()
		offer(t, l, &a, "void")
		err := l.Err()
		if took := time.Since(cut); took != 2*time.Second || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
		if got := a.of("void"); len(got) != 1 || got[0] == nil {
			t.Errorf("the message in the void completed with %v", got)
		}
		if _, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("%T", err)
		}
		l.Abort()
		w.net.Mend("10.0.0.1:8883")
	})
}

// TestIdleLinkIsTestedAfterTheKeepAlive: nothing to send, so the keep-alive asks, with the same two stages.
func TestIdleLinkIsTestedAfterTheKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry() // answers PINGREQ
		})
		defer stop()
		l := w.dial("10.0.0.1")
		time.Sleep(10 * time.Minute)
		select {
		case <-l.Done():
			t.Fatalf("an idle link ended: %v", l.Err())
		default:
		}
		if s := l.Stats(); s.Suspicions != 0 {
			t.Errorf("%d suspicions of a healthy link", s.Suspicions)
		}
		w.net.Cut("10.0.0.1:8883")
		cut := time.Now()
		err := l.Err()
		if took := time.Since(cut); took > 22*time.Second || took < 2*time.Second || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
		l.Abort()
		w.net.Mend("10.0.0.1:8883")
	})
}

// slowly is a completion that waits, as for a disk that is busy with itself.
type slowly struct{ d time.Duration }

func (s slowly) Done([]uint64, error) { time.Sleep(s.d) }

// TestSlowDiskIsNoSilence: while a sender takes its time with what was acknowledged, the link hears nothing, and kills nobody for it.
// What it owes to the hub meanwhile is not forgotten: a hub that is silent afterwards is found as quickly as ever.
func TestSlowDiskIsNoSilence(t *testing.T) {
	for _, stall := range []time.Duration{5 * time.Second, 90 * time.Second} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				p.acknowledge()
			})
			defer stop()
			l := w.dial("10.0.0.1")
			send := func(to message.Completion) {
				t.Helper()
				if _, err := l.Send([]message.Outgoing{outgoing("{}", "")}, to); err != nil {
					t.Fatal(err)
				}
			}
			send(slowly{stall})
			time.Sleep(stall / 10) // the stall has begun
			var later ledger
			send(&later)
			time.Sleep(stall)
			synctest.Wait()
			if s := l.Stats(); s.Acked != 2 || s.Suspicions != 0 {
				t.Fatalf("stalled for %v: %+v", stall, s)
			}
			w.net.Cut("10.0.0.1:8883")
			cut := time.Now()
			send(&later)
			if err := l.Err(); time.Since(cut) != 2*time.Second || !errors.Is(err, ErrSilent) {
				t.Errorf("after %v: %v", time.Since(cut), err)
			}
			l.Abort()
			w.net.Mend("10.0.0.1:8883")
		})
	}
}

// TestSlowDiskSendsKeepAlives: a hub would not bear our silence either.
func TestSlowDiskSendsKeepAlives(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.KeepAlive = 4 * time.Second
		pings := 0
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			if q := p.telemetry(); q != nil {
				p.puback(q.MessageID)
			}
			for {
				switch p.read().(type) {
				case *packets.PingreqPacket:
					pings++
				case nil:
					return
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		if _, err := l.Send([]message.Outgoing{outgoing("{}", "")}, slowly{30 * time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		l.Abort()
		synctest.Wait()
		if pings < 5 || pings > 8 {
			t.Errorf("%d times in 29 s with a keep-alive of 4 s", pings)
		}
	})
}

// goesOn is a completion that takes a while and then sends another message.
type goesOn struct {
	link *Link
	d    time.Duration
}

func (g *goesOn) Done(_ []uint64, err error) {
	if err == nil {
		time.Sleep(g.d)
		_, _ = g.link.Send([]message.Outgoing{outgoing("{}", "")}, g)
	}
}

// TestBusySenderHidesNoWithheldPuback: that a sender is mostly busy is no excuse for a hub that withholds a PUBACK for a minute.
func TestBusySenderHidesNoWithheldPuback(t *testing.T) {
	for _, d := range []time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				p.telemetry() // is withheld
				for q := p.telemetry(); q != nil; q = p.telemetry() {
					time.Sleep(time.Millisecond)
					p.puback(q.MessageID)
				}
			})
			defer stop()
			to := &goesOn{w.dial("10.0.0.1"), d}
			began := time.Now()
			if _, err := to.link.Send([]message.Outgoing{outgoing("{}", ""), outgoing("{}", "")}, to); err != nil {
				t.Fatal(err)
			}
			if err := to.link.Err(); time.Since(began) > finalLimit+5*time.Second || !errors.Is(err, ErrUnacked) {
				t.Errorf("with %v for each, after %v: %v", d, time.Since(began), err)
			}
			to.link.Abort()
		})
	}
}

// TestSilenceBeginsWhenTheReaderListens: once a stall of the reader is over, nobody is late before it could have heard.
func TestSilenceBeginsWhenTheReaderListens(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry()         // is not acknowledged
			for p.read() != nil { // PINGREQs
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m")
		l.telling.Store(1) // as if the reader were in a completion
		time.Sleep(2*finalLimit + 300*time.Millisecond)
		l.telling.Store(0)
		time.Sleep(900 * time.Millisecond) // the watchdog looks before the reader does
		select {
		case <-l.Done():
			t.Errorf("%v", l.Err())
		default:
		}
		l.Abort()
	})
}

// What is acknowledged is forgotten, also behind a message that is not.
func TestAcknowledgedMessagesAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry() // is withheld
			p.acknowledge()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var told ledger
		for i := range uint64(1000) {
			if _, err := l.Send([]message.Outgoing{{Message: message.Message{Body: []byte("{}")}, Ticket: i}}, &told); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		kept := 0
		l.mu.Lock()
		for _, p := range []*publish{l.oldest, l.free} {
			for ; p != nil; p = p.next {
				kept++
			}
		}
		alone := l.oldest == l.newest && l.oldest.before == nil && l.oldest.next == nil
		l.mu.Unlock()
		if kept > 2 || !alone {
			t.Errorf("%d are kept", kept)
		}
		l.Abort()
		if len(told.told) != 1000 || told.told[999] != "0 false" || told.told[0] != "1 true" {
			t.Errorf("%d told, the last %s", len(told.told), told.told[len(told.told)-1])
		}
	})
}

// Messages of one Send whose common properties differ, are shared, are none, or come again; and the limits count them.
func TestCommonProperties(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var topics []string
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				topics = append(topics, q.TopicName[strings.LastIndex(q.TopicName, "/")+1:])
				p.puback(q.MessageID)
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
		l.Abort()
	})
}

// TestSlowHubIsNotDead: PUBACKs that come after 50 s are traffic shaping. The link stays, only the window shrinks.
func TestSlowHubIsNotDead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			var late sync.WaitGroup
			defer late.Wait()
			var mu sync.Mutex
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				late.Go(func() {
					time.Sleep(50 * time.Second)
					mu.Lock()
					defer mu.Unlock()
					p.puback(q.MessageID)
				})
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		smallest := DefaultWindow
		for i := range 600 {
			offer(t, l, &a, fmt.Sprint(i))
			time.Sleep(time.Second)
			smallest = min(smallest, l.Window())
		}
		select {
		case <-l.Done():
			t.Fatalf("killed: %v", l.Err())
		default:
		}
		if smallest >= DefaultWindow {
			t.Error("the window did not shrink under suspicion")
		}
		if probes := w.net.Dials("10.0.0.1:8883") - 1; probes > 200 {
			t.Errorf("%d probes in ten minutes", probes)
		}
		if a.of("0") == nil {
			t.Error("the first message is not acknowledged")
		}
		l.Abort()
	})
}

// TestWithheldPubackEndsTheLinkAtTheFinalLimit: the hub lives (it answers PINGREQ), but acknowledges nothing.
func TestWithheldPubackEndsTheLinkAtTheFinalLimit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			for p.telemetry() != nil {
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		began := time.Now()
		offer(t, l, &a, "m")
		err := l.Err()
		if took := time.Since(began); took != finalLimit || !errors.Is(err, ErrUnacked) {
			t.Errorf("after %v: %v", took, err)
		}
		l.Abort()
	})
}

// TestOneWithheldPubackEndsTheLink: everything else is acknowledged at once, but one message never is. It must not be forgotten.
func TestOneWithheldPubackEndsTheLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			n := 0
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				if n++; n != 10 {
					p.puback(q.MessageID)
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		began := time.Now()
		for i := 0; ; i++ {
			if l.Publish(outgoing("{}", fmt.Sprint(i)), a.done(fmt.Sprint(i))) != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took < finalLimit+9*time.Second || took > finalLimit+10*time.Second || !errors.Is(l.Err(), ErrUnacked) {
			t.Errorf("after %v: %v", took, l.Err())
		}
		if got := a.of("9"); len(got) != 1 || got[0] == nil {
			t.Errorf("the message completed with %v", got)
		}
		l.Abort()
	})
}

// TestHubThatGetsOnIsKept: one PUBACK in 20 s, in order. The last of a window waits for 20 minutes, but the hub is at work.
func TestHubThatGetsOnIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			pids := make(chan uint16, DefaultWindow)
			w.wg.Go(func() {
				for pid := range pids {
					time.Sleep(20 * time.Second)
					p.puback(pid)
				}
			})
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				pids <- q.MessageID
			}
			close(pids)
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		for i := range DefaultWindow {
			offer(t, l, &a, fmt.Sprint(i))
		}
		if err := l.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		if s := l.Stats(); s.Acked != DefaultWindow {
			t.Errorf("%+v", s)
		}
		l.Abort()
	})
}

// TestMuteHubThatAnswersTheProbe: nothing comes on the link, not even PINGRESP, but a new TLS connection is answered. The hub may be
// busy, so the link is kept up to the final limit.
func TestMuteHubThatAnswersTheProbe(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", (*peer).mute)
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		began := time.Now()
		offer(t, l, &a, "m")
		time.Sleep(30 * time.Second)
		select {
		case <-l.Done():
			t.Fatalf("after 30 s: %v", l.Err())
		default:
		}
		if l.Window() > DefaultWindow/2 {
			t.Errorf("window %d", l.Window())
		}
		_ = l.Err()
		if took := time.Since(began); took != finalLimit {
			t.Errorf("after %v", took)
		}
		l.Abort()
	})
}

// TestProbeFromAnotherAddress: nothing comes on the link, and a new TLS connection is answered, as above. Whether that speaks for the link
// depends on whether this machine still has the address that the link was made from, as far as the system tells.
func TestProbeFromAnotherAddress(t *testing.T) {
	const old, young = "192.168.1.7", "10.1.1.8"
	for name, v := range map[string]struct {
		link, probe string
		own         []string // what the system lists
		then        []string // and from 5.5 s after the last message on; nil: the same
		err         error
		delay       time.Duration // each way
		want        error
		after       time.Duration
	}{
		"gone":                 {link: old, probe: young, own: []string{"127.0.0.1", young, "fd00::7"}, want: ErrSilent, after: minDead},
		"gone, IPv6":           {link: "fd00::7", probe: "fd00::8", own: []string{"fd00::8"}, want: ErrSilent, after: minDead},
		"gone, IPv6 to IPv4":   {link: "fd00::7", probe: young, own: []string{young}, want: ErrSilent, after: minDead},
		"gone, slow path":      {link: old, probe: young, own: []string{young}, delay: 200 * time.Millisecond, want: ErrSilent, after: 2400 * time.Millisecond},
		"gone later":           {link: old, probe: young, own: []string{old, young}, then: []string{young}, want: ErrSilent, after: 6 * time.Second},
		"there":                {link: old, probe: old, own: []string{old, young}, want: ErrUnacked, after: finalLimit},
		"there, another route": {link: old, probe: young, own: []string{old, young}, want: ErrUnacked, after: finalLimit},
		"there, IPv6":          {link: "fd00::7", probe: "fd00::8", own: []string{"fd00::8", "fd00::7"}, want: ErrUnacked, after: finalLimit},
		"loopback, not listed": {link: "127.0.0.9", probe: "127.0.0.9", own: []string{"127.0.0.1"}, want: ErrUnacked, after: finalLimit},
		"neither is listed":    {link: old, probe: young, own: []string{"127.0.0.1"}, want: ErrUnacked, after: finalLimit},
		"none is listed":       {link: old, probe: young, want: ErrUnacked, after: finalLimit},
		"not told":             {link: old, probe: young, err: errors.New("not permitted"), want: ErrUnacked, after: finalLimit},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var began time.Time
				w.dialer.Addresses = func() (own []net.Addr, err error) {
					all := v.own
					if v.then != nil && time.Since(began) >= 5500*time.Millisecond {
						all = v.then
					}
					for _, a := range all {
						own = append(own, &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)})
					}
					return own, v.err
				}
				from := v.link
				w.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := w.net.DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					defer func() { from = v.probe }()
					return placed{c, &net.TCPAddr{IP: net.ParseIP(from), Port: 40000}}, nil
				}
				w.net.SetDelay(v.delay)
				stop := w.hub("10.0.0.1", (*peer).mute)
				defer stop()
				l := w.dial("10.0.0.1")
				var a acks
				began = time.Now()
				offer(t, l, &a, "m")
				if err := l.Err(); !errors.Is(err, v.want) || time.Since(began) != v.after {
					t.Errorf("%v after %v", err, time.Since(began))
				} else if errors.Is(v.want, ErrSilent) && !strings.Contains(err.Error(), v.link) {
					t.Errorf("%v: which address?", err)
				}
				l.Abort()
			})
		})
	}
}

// TestOwnAddresses asks the system: what it lists is this machine's, and an address kept for documentation (RFC 5737) is not.
func TestOwnAddresses(t *testing.T) {
	all, err := net.InterfaceAddrs()
	var d Dialer
	for _, a := range all {
		if n, ok := a.(*net.IPNet); !ok || !d.has(&net.TCPAddr{IP: n.IP, Port: 40000}) {
			t.Errorf("%v is not this machine's", a)
		}
	}
	if other := (&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000}); d.has(other) != (err != nil) { // a system that does not tell has all
		t.Errorf("%v is this machine's: %v (%v)", other, err == nil, err)
	}
}

// placed is a connection with an address of this machine.
type placed struct {
	net.Conn
	local net.Addr
}

func (p placed) LocalAddr() net.Addr { return p.local }

// TestPathIsRemembered: a link that finds the path as it was left does not take its first, lucky round trip for the rule; one to another hub
// has yet to see.
func TestPathIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
			stop := w.hub(host, func(p *peer) {
				p.welcome()
				p.acknowledge()
			})
			defer stop()
		}
		var a acks
		w.net.SetWeather(2*time.Second, 0, 1)
		l := w.dial("10.0.0.1")
		for i := range 200 {
			offer(t, l, &a, fmt.Sprint(i))
			time.Sleep(5 * time.Second)
		}
		l.Close(t.Context())
		varied := l.rttvar
		w.net.SetWeather(0, 0, 0)
		if varied < 200*time.Millisecond {
			t.Fatalf("round trips differed by %v", varied)
		}
		for host, want := range map[string]time.Duration{"10.0.0.1": min(4*varied, maxSuspect), "10.0.0.2": 0} {
			for _, measured := range []bool{false, true} {
				l := w.dial(host)
				if measured {
					offer(t, l, &a, "once "+host)
					if err := l.Settle(t.Context()); err != nil {
						t.Error(err)
					}
				}
				l.Abort()
				if got := l.answerTime(); got > want || got < want*9/10 {
					t.Errorf("%s, measured %v: an answer may take %v, not %v", host, measured, got, want)
				}
			}
		}
	})
}

// TestDoubtedLink: nothing but an answer on the link itself helps one that is doubted; that the hub is there for others does not.
func TestDoubtedLink(t *testing.T) {
	for name, mute := range map[string]bool{"the session is gone": true, "the hub answers": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.dialer.KeepAlive = time.Hour
				stop := w.hub("10.0.0.1", func(p *peer) {
					if p.welcome() == nil {
						return
					}
					for {
						if packet, err := packets.ReadPacket(p.conn); err != nil {
							return
						} else if _, is := packet.(*packets.PingreqPacket); is && !mute {
							p.send(packets.NewControlPacket(packets.Pingresp))
						}
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				time.Sleep(5 * time.Minute)
				w.net.SetDelay(time.Millisecond) // so that no answer comes in between
				began := time.Now()
				l.Check()
				l.Check() // once is enough
				if mute {
					if err := l.Err(); !errors.Is(err, ErrSilent) || time.Since(began) != minDead {
						t.Errorf("%v after %v", err, time.Since(began))
					}
					return
				}
				time.Sleep(10 * time.Minute)
				select {
				case <-l.Done():
					t.Errorf("ended: %v", l.Err())
				default:
				}
				if n := l.Stats().Suspicions; n != 1 {
					t.Errorf("%d suspicions", n)
				}
				l.Abort()
			})
		})
	}
}

// TestSlowConnack: the service may take a minute to let a device in; a hub that is gone is noticed in two seconds all the same.
func TestSlowConnack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.read() == nil {
				return // the probe
			}
			time.Sleep(45 * time.Second)
			p.send(packets.NewControlPacket(packets.Connack))
			if q, ok := p.read().(*packets.SubscribePacket); ok {
				p.suback(q, 1)
			}
			p.telemetry()
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		if took := time.Since(began); took != 45*time.Second {
			t.Errorf("let in after %v", took)
		}
		l.Abort()

		began = time.Now()
		go func() {
			time.Sleep(100 * time.Millisecond)
			w.net.Cut("10.0.0.1:8883")
		}()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		if took := time.Since(began); took != 2*time.Second || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
		w.net.Mend("10.0.0.1:8883")
	})
}

func TestDialGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(*peer) {})
		defer stop()
		w.net.Cut("10.0.0.1:8883")
		began := time.Now()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		e, ok := errors.AsType[*Error](err)
		if took := time.Since(began); took != dialTimeout || !ok || e.Phase != PhaseDial {
			t.Errorf("after %v: %v", took, err)
		}
		w.net.Mend("10.0.0.1:8883")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		mute, err := w.net.Listen("tcp", "10.0.0.2:8883") // accepts, says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = mute.Close() }()
		if _, err = w.dialer.Dial(ctx, w.attempt("10.0.0.2")); err == nil {
			t.Error("no error")
		}
		began = time.Now()
		_, err = w.dialer.Dial(t.Context(), w.attempt("10.0.0.2"))
		e, ok = errors.AsType[*Error](err)
		if took := time.Since(began); took != tlsTimeout || !ok || e.Phase != PhaseTLS || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// TestMessagesAreAcknowledgedInOrder: a hub ignores, or punishes, PUBACKs out of order.
func TestMessagesAreAcknowledgedInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		got := make(chan uint16, 3)
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for pid := range uint16(3) {
				p.publish("devices/dev-1/messages/devicebound/%24.mid=m&method-name=setAlarm", "x", 1, pid+7)
			}
			for {
				switch q := p.read().(type) {
				case *packets.PubackPacket:
					got <- q.MessageID
				case nil:
					return
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var in []*Message
		for range 3 {
			m, err := l.Receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			in = append(in, m.(*Message))
		}
		_ = l.Complete(in[2])
		_ = l.Complete(in[1])
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("a later message was acknowledged before the first")
		}
		_ = l.Complete(in[0])
		for _, want := range []uint16{7, 8, 9} {
			if pid := <-got; pid != want {
				t.Errorf("PUBACK %d, not %d", pid, want)
			}
		}
		if err := l.Complete(in[0]); err == nil {
			t.Error("completed twice")
		}
		l.Abort()
	})
}

func TestTwinAndMethods(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		response := make(chan string, 1)
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			p.publish("$iothub/twin/res/200/?$rid=1", `{"desired":{"fanSpeed":5,"$version":4},"reported":{"battery":1,"$version":12}}`, 0, 0)
			for {
				q, ok := p.read().(*packets.PublishPacket)
				if !ok {
					return
				}
				_, rid, _ := strings.Cut(q.TopicName, "$rid=")
				switch {
				case strings.HasPrefix(q.TopicName, "$iothub/twin/GET/"):
					p.publish("$iothub/twin/res/429/?$rid="+rid, `{"errorCode":429001,"message":"throttled"}`, 0, 0)
				case strings.Contains(q.TopicName, "/PATCH/") && bytes.Contains(q.Payload, []byte("bad")):
					p.publish("$iothub/twin/res/400/?$rid="+rid, `{"errorCode":400004,"message":"Property name is invalid"}`, 0, 0)
				case strings.Contains(q.TopicName, "/PATCH/"):
					p.publish("$iothub/twin/res/204/?$version=13&$rid="+rid, "", 0, 0)
					p.publish("$iothub/methods/POST/echo/?$rid=a7", `"hi"`, 0, 0)
				default:
					response <- q.TopicName + " " + string(q.Payload)
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		doc, err := l.Twin(t.Context())
		if err != nil || doc.DesiredVersion != 4 || doc.ReportedVersion != 12 || string(doc.Desired["fanSpeed"]) != "5" || len(doc.Desired) != 1 {
			t.Errorf("%+v %v", doc, err)
		}
		_, err = l.Twin(t.Context())
		if e, ok := errors.AsType[*TwinError](err); !ok || e.Status != 429 || e.Code != 429001 {
			t.Errorf("%v", err)
		}
		_, err = l.Report(t.Context(), []byte(`{"bad":1}`))
		if e, ok := errors.AsType[*TwinError](err); !ok || e.Status != 400 || e.Message != "Property name is invalid" {
			t.Errorf("%v", err)
		}
		if v, err := l.Report(t.Context(), []byte(`{"battery":2}`)); err != nil || v != 13 {
			t.Errorf("%d %v", v, err)
		}
		in, err := l.Receive(t.Context())
		m, ok := in.(*Method)
		if err != nil || !ok || m.Name != "echo" || string(m.Payload) != `"hi"` {
			t.Fatalf("%#v %v", in, err)
		}
		if err := l.Respond(m, 200, m.Payload); err != nil {
			t.Error(err)
		}
		if got := <-response; got != `$iothub/methods/res/200/?$rid=a7 "hi"` {
			t.Error(got)
		}
		l.Abort()
		if err := l.Respond(m, 200, nil); err == nil {
			t.Error("an answer went out over a dead link")
		}
		if _, err := l.Twin(t.Context()); err == nil {
			t.Error("a dead link has a twin")
		}
	})
}

// TestCloseSaysGoodbye: what is queued, then DISCONNECT, then FIN. Abort is a reset.
func TestCloseSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var got []string
		ended := make(chan error, 1)
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for {
				packet, err := packets.ReadPacket(p.conn)
				if err != nil {
					ended <- err
					return
				}
				got = append(got, fmt.Sprintf("%T", packet))
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m")
		l.Close(t.Context())
		if err := <-ended; !errors.Is(err, io.EOF) || !slices.Equal(got, []string{"*packets.PublishPacket", "*packets.DisconnectPacket"}) {
			t.Errorf("%v, then %v", got, err)
		}
		if !errors.Is(l.Err(), ErrClosed) || len(a.of("m")) != 1 {
			t.Errorf("%v, %v", l.Err(), a.of("m"))
		}
		l = w.dial("10.0.0.1")
		l.Abort()
		if err := <-ended; errors.Is(err, io.EOF) {
			t.Error("Abort ended the connection in order")
		}
	})
}

func TestExpiredTokenIsNamed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.Token = KeyToken("AAECAwQFBgcICQoLDA0ODw==", time.Minute)
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			go func() {
				time.Sleep(2 * time.Minute)
				_ = p.raw.Close()
			}()
			p.telemetry()
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		<-l.Renew()
		if at := time.Since(began); at < 48*time.Second || at > 54*time.Second {
			t.Errorf("renewal is due after %v of a minute", at)
		}
		if err := l.Err(); !errors.Is(err, ErrTokenExpired) {
			t.Error(err)
		}
		l.Abort()
	})
}

func TestNonsenseEndsTheLink(t *testing.T) {
	for name, v := range map[string]struct {
		bytes []byte
		says  string
	}{
		"too long":                {[]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "a packet of 268435455 bytes"},
		"padded length":           {[]byte{0x40, 0x82, 0, 0, 1}, "malformed packet"},
		"endless length":          {[]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff}, "malformed packet"},
		"second CONNACK":          {[]byte{0x20, 2, 0, 0}, "a second CONNACK"},
		"short CONNACK":           {[]byte{0x20, 1, 0}, "malformed packet: a CONNACK"},
		"CONNECT":                 {[]byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}, "an unexpected CONNECT"},
		"PUBREL":                  {[]byte{0x62, 2, 0, 1}, "malformed packet: its first byte"},
		"type 15":                 {[]byte{0xf0, 0}, "malformed packet: type 15"},
		"type 0":                  {[]byte{0, 0}, "malformed packet: type 0"},
		"truncated string":        {[]byte{0x30, 3, 0, 200, 'x'}, "malformed packet: a PUBLISH whose topic is longer"},
		"PUBLISH without a topic": {[]byte{0x30, 1, 0}, "malformed packet: a PUBLISH whose topic is longer"},
		"PUBLISH without an id":   {[]byte{0x32, 3, 0, 1, 'x'}, "malformed packet: a PUBLISH of QoS 1"},
		"PUBLISH of QoS 2":        {[]byte{0x34, 5, 0, 1, 'x', 0, 1}, "a PUBLISH of QoS 2"},
		"PUBLISH of QoS 3":        {[]byte{0x36, 5, 0, 1, 'x', 0, 1}, "a PUBLISH of QoS 3"},
		"topic that is no text":   {[]byte{0x30, 3, 0, 1, 0xff}, "malformed packet: a PUBLISH whose topic is not UTF-8"},
		"topic with a NUL":        {[]byte{0x30, 3, 0, 1, 0}, "malformed packet: a PUBLISH whose topic has a NUL"},
		"long PUBACK":             {[]byte{0x40, 3, 0, 1, 0}, "malformed packet: a PUBACK"},
		"PUBACK with flags":       {[]byte{0x42, 2, 0, 1}, "malformed packet: its first byte"},
		"empty SUBACK":            {[]byte{0x90, 2, 0, 1}, "malformed packet: a SUBACK"},
		"long PINGRESP":           {[]byte{0xd0, 1, 0}, "malformed packet: a PINGRESP"},
		"short UNSUBACK":          {[]byte{0xb0, 1, 0}, "malformed packet: an UNSUBACK"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.hub("10.0.0.1", func(p *peer) {
					p.welcome()
					_, _ = p.conn.Write(v.bytes)
					_, _ = io.Copy(io.Discard, p.conn)
				})
				defer stop()
				l, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
				if err == nil { // else the nonsense came before anybody looked
					err = l.Err()
					l.Abort()
				}
				if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), v.says) {
					t.Errorf("%v", err)
				}
			})
		})
	}
	t.Run("end inside a packet", func(t *testing.T) { // which says nothing of what was to come
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				_, _ = p.conn.Write([]byte{0x30, 3, 0})
			})
			defer stop()
			l := w.dial("10.0.0.1")
			if err := l.Err(); errors.Is(err, ErrProtocol) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v", err)
			}
			l.Abort()
		})
	})
	t.Run("no TLS any more", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				_, _ = p.raw.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				_, _ = io.Copy(io.Discard, p.raw)
			})
			defer stop()
			l := w.dial("10.0.0.1")
			if err := l.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "malformed TLS record") {
				t.Errorf("%v", err)
			}
			l.Abort()
		})
	})
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.read()
			p.publish("$iothub/methods/POST/echo/?$rid=1", "", 0, 0)
			_, _ = io.Copy(io.Discard, p.conn)
		})
		defer stop()
		if _, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1")); !errors.Is(err, ErrProtocol) {
			t.Errorf("PUBLISH before CONNACK: %v", err)
		}
	})
}

// TestGateway: the gateway is dialled, and proves itself by its own name; user name and token are
// for the hub. The probe of a doubted link goes the same way.
func TestGateway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var user string
		probes := 0
		stop := w.hub("10.0.0.2", func(p *peer) {
			c := p.welcome()
			if c == nil {
				probes++
				return
			}
			user = c.Username
			_, _ = io.Copy(io.Discard, p.conn)
		})
		defer stop()
		var tokenFor string
		w.dialer.Token = func(host, _ string) (string, time.Time, error) {
			tokenFor = host
			return "x", time.Now().Add(time.Hour), nil
		}
		a := w.attempt("hub-a.azure-devices.net")
		a.Gateway = "10.0.0.2"
		l, err := w.dialer.Dial(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if l.Host() != a.Host || tokenFor != a.Host || !strings.HasPrefix(user, a.Host+"/dev-1/?api-version=") {
			t.Errorf("host %q, token for %q, user name %q", l.Host(), tokenFor, user)
		}
		time.Sleep(w.dialer.KeepAlive + 1500*time.Millisecond) // the keep-alive is not answered
		synctest.Wait()
		if probes == 0 {
			t.Error("the gateway was not probed")
		}
		l.Abort()
		if e, ok := errors.AsType[*Error](l.Err()); !ok || e.Gateway != a.Gateway || !strings.Contains(e.Error(), "hub-a.azure-devices.net through 10.0.0.2") {
			t.Errorf("%v", l.Err())
		}
		a.Gateway = "10.0.0.1"
		if _, err := w.dialer.Dial(t.Context(), a); err == nil || !strings.Contains(err.Error(), "through 10.0.0.1: dial") {
			t.Errorf("a gateway that is not there: %v", err)
		}
	})
}

// TestUnwantedPathsAreGivenBack: the hub remembers the subscriptions of the process before.
func TestUnwantedPathsAreGivenBack(t *testing.T) {
	for _, v := range []struct {
		set         func(d *Dialer)
		sub, unsub  []string
		twinRequest bool
	}{
		{func(*Dialer) {}, []string{"devices/dev-1/messages/devicebound/#", methodFilter, twinFilter, desiredFilter}, nil, true},
		{func(d *Dialer) { d.C2D = false }, []string{methodFilter, twinFilter, desiredFilter}, []string{"devices/dev-1/messages/devicebound/#"}, true},
		{func(d *Dialer) { d.C2D, d.Methods, d.Twin, d.Desired = false, false, false, false }, nil,
			[]string{"devices/dev-1/messages/devicebound/#", methodFilter, twinFilter, desiredFilter}, false},
	} {
		for _, sequential := range []bool{false, true} {
			bubble(t, func(t *testing.T, w *world) {
				v.set(w.dialer)
				var sub, unsub []string
				twin := false
				stop := w.hub("10.0.0.1", func(p *peer) {
					for {
						switch q := p.read().(type) {
						case *packets.ConnectPacket:
							if q.CleanSession {
								t.Error("the session is not kept")
							}
							p.send(packets.NewControlPacket(packets.Connack))
						case *packets.SubscribePacket:
							sub = q.Topics
							p.suback(q, 1)
						case *packets.UnsubscribePacket:
							unsub = q.Topics
						case *packets.PublishPacket:
							twin = true
						case nil:
							return
						}
					}
				})
				defer stop()
				a := w.attempt("10.0.0.1")
				a.Sequential = sequential
				l, err := w.dialer.Dial(t.Context(), a)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if !slices.Equal(sub, v.sub) || !slices.Equal(unsub, v.unsub) || twin != v.twinRequest {
					t.Errorf("SUBSCRIBE %v, UNSUBSCRIBE %v, twin %v", sub, unsub, twin)
				}
				l.Abort()
				synctest.Wait()
			})
		}
	}
}

// ledger is a completion that writes down what it hears.
type ledger struct {
	mu   sync.Mutex
	told []string
}

func (b *ledger) Done(tickets []uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range tickets {
		b.told = append(b.told, fmt.Sprintf("%d %v", t, err == nil))
	}
}

// PUBACKs that come together may be for several senders: each hears of its own, once, and of the rest when the link ends.
func TestRunsOfPubacksFindTheirSenders(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			var run []byte
			for i := range 8 {
				if q := p.telemetry(); i < 4 {
					run = append(run, 0x40, 2, byte(q.MessageID>>8), byte(q.MessageID))
				}
			}
			run = append(run, 0x40, 2, 0xff, 0xfe) // nobody's
			_, _ = p.conn.Write(run)
			p.telemetry()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a, b ledger
		for i := uint64(1); i < 9; i += 2 {
			for k, to := range []*ledger{&a, &b} {
				if n, err := l.Send([]message.Outgoing{{Message: message.Message{Body: []byte("{}")}, Ticket: i + uint64(k)}}, to); n != 1 || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		synctest.Wait()
		if s := l.Stats(); s.Acked != 4 || s.StrayAcks != 1 {
			t.Errorf("%+v", s)
		}
		l.Abort()
		if want := []string{"1 true", "3 true", "5 false", "7 false"}; !slices.Equal(a.told, want) {
			t.Errorf("the first was told %v", a.told)
		}
		if want := []string{"2 true", "4 true", "6 false", "8 false"}; !slices.Equal(b.told, want) {
			t.Errorf("the second was told %v", b.told)
		}
	})
}

// TestPubacksThatNobodyReads: a hub sends messages and reads nothing. The answers to it are
// bounded: the link stops reading, and ends when the hub has read nothing for the limit of a write.
func TestPubacksThatNobodyReads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		taken := 0
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			var b bytes.Buffer
			m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
			m.TopicName, m.Qos, m.MessageID = "x", 1, 1
			for b.Len() < 16<<10 {
				_ = m.Write(&b)
			}
			for taken < 32*maxUnwritten {
				n, err := p.conn.Write(b.Bytes())
				if taken += n; err != nil {
					return
				}
			}
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		var took time.Duration
		if err := l.Err(); err == nil {
			t.Error("it goes on")
		}
		took = time.Since(began)
		l.Abort()
		synctest.Wait()
		// Three bytes in are two out: 1 MiB that waits, as much that is being written, and what the
		// buffers of both ways hold.
		if least, most := maxUnwritten, 8*maxUnwritten; taken < least || taken > most {
			t.Errorf("%d bytes were taken", taken)
		}
		if took != writeDeadline {
			t.Errorf("it took %v", took)
		}
	})
}

// TestNobodyTakesWhatComes: nobody calls Receive. The link stops reading when its room is used,
// does not take that for silence of the hub, and goes on when there is room again.
func TestNobodyTakesWhatComes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const messages, size = 40, 100_000
		sent := 0
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				t.Error("the hub was probed")
				return
			}
			for n := range messages {
				p.publish("devices/dev-1/messages/devicebound/", strings.Repeat("x", size), 1, uint16(n+1))
				sent++
			}
			p.acknowledge()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m-1")
		time.Sleep(2 * finalLimit) // far beyond what silence may last
		synctest.Wait()
		if least, most := maxWaiting/size, (maxWaiting+maxInbound)/size+4; sent < least || sent > most {
			t.Errorf("%d messages were read", sent)
		}
		if s := l.Stats(); s.Suspicions != 0 {
			t.Errorf("the hub was suspected %d times", s.Suspicions)
		}
		for range messages {
			in, err := l.Receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if m, ok := in.(*Message); !ok || len(m.Body) != size {
				t.Fatalf("%v", in)
			} else if err := l.Complete(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		if l.waiting != 0 {
			t.Errorf("%d bytes seem to wait", l.waiting)
		}
		l.Close(t.Context())
	})
}

// outgoing is a message with a body and an id.
func outgoing(body, id string) message.Outgoing {
	return message.Outgoing{Message: message.Message{Body: []byte(body)}, ID: id}
}
