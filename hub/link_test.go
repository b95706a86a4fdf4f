package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
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
		l.Abort(nil)
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
		l.Abort(nil)
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

// TestWhatArrivedElsewhereIsForgotten: messages that a hub has not acknowledged, and that another one then took, never come to it again.
// What is remembered of them must not grow with every such loss, and must leave packet ids free.
func TestWhatArrivedElsewhereIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.Window = 4096
		var pid uint16 // of the message that came last
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for range w.dialer.Window {
				q := p.telemetry()
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
		l.Abort(nil)
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
			l.Abort(nil)
			if took != want {
				t.Errorf("sequential %v: the first PUBACK after %v, want %v", sequential, took, want)
			}
		})
	}
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
			for _, err := range a.of(mid) {
				if err == nil {
					t.Errorf("%s was acknowledged by nobody", mid)
				}
			}
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
		l.Abort(nil)
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
		in := serve(l).take(3)
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
		l.Abort(nil)
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
		m := <-serve(l).methods
		if m.Name != "echo" || string(m.Payload) != `"hi"` {
			t.Fatalf("%#v", m)
		}
		if err := l.Respond(m, 200, m.Payload); err != nil {
			t.Error(err)
		}
		if got := <-response; got != `$iothub/methods/res/200/?$rid=a7 "hi"` {
			t.Error(got)
		}
		l.Abort(nil)
		if err := l.Respond(m, 200, nil); err == nil {
			t.Error("an answer went out over a dead link")
		}
		if _, err := l.Twin(t.Context()); err == nil {
			t.Error("a dead link has a twin")
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
		<-serve(l).renew
		if at := time.Since(began); at < 48*time.Second || at > 54*time.Second {
			t.Errorf("renewal is due after %v of a minute", at)
		}
		if err := l.Err(); !errors.Is(err, ErrTokenExpired) {
			t.Error(err)
		}
		l.Abort(nil)
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
		l.Abort(nil)
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
				l.Abort(nil)
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

// TestNobodyTakesWhatComes: nobody serves the link. The link stops reading when its room is used,
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
		if least, most := maxHeld/size, (maxHeld+maxInbound)/size+4; sent < least || sent > most {
			t.Errorf("%d messages were read", sent)
		}
		if s := l.Stats(); s.Suspicions != 0 {
			t.Errorf("the hub was suspected %d times", s.Suspicions)
		}
		for _, m := range serve(l).take(messages) {
			if len(m.Body) != size {
				t.Fatalf("a body of %d bytes", len(m.Body))
			} else if err := l.Complete(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		l.Close(t.Context(), nil)
	})
}

// outgoing is a message with a body and an id.
func outgoing(body, id string) message.Outgoing {
	return message.Outgoing{Message: message.Message{Body: []byte(body)}, ID: id}
}

// TestReasonsOfTheUserStayAsTheyAre: what ends a link may be no business of a hub, and is then not
// taken for a failure of one.
func TestReasonsOfTheUserStayAsTheyAre(t *testing.T) {
	disk := errors.New("the disk is full")
	before := &Error{Phase: PhaseSession, Host: "another", Err: io.EOF}
	for _, v := range []struct{ why, want error }{
		{disk, disk}, {before, before}, {nil, ErrClosed}, {ErrRenewal, ErrRenewal}, {&Error{Phase: PhaseSession, Host: "10.0.0.1", Err: ErrRenewal}, ErrRenewal},
	} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", (*peer).mute)
			defer stop()
			l := w.dial("10.0.0.1")
			l.Abort(v.why)
			e, described := errors.AsType[*Error](l.Err())
			if !errors.Is(l.Err(), v.want) || described != (v.why != disk) || described && e != before && e.Host != "10.0.0.1" {
				t.Errorf("%v became %#v", v.why, l.Err())
			}
		})
	}
}
