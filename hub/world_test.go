package hub

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
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

// peer is the hub's side of one connection, after TLS. Its methods fail the test when the other
// side does something else.
type peer struct {
	t    testing.TB
	conn *tls.Conn
	raw  net.Conn
}

// bubble runs a test in virtual time. Everything that was started must have ended at its end, or
// the bubble fails.
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

// hub lets script answer each connection to addr, TLS done. The listener ends with the test
// function f of bubble.
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

// outgoing is a message with a body and an id.
func outgoing(body, id string) message.Outgoing {
	return message.Outgoing{Message: message.Message{Body: []byte(body)}, ID: id}
}

// drip sends a packet byte by byte.
func (p *peer) drip(cp packets.ControlPacket, pause time.Duration) error {
	var b bytes.Buffer
	_ = cp.Write(&b)
	for _, c := range b.Bytes() {
		time.Sleep(pause)
		if _, err := p.conn.Write([]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

// every sends a packet again and again, and reads nothing of what comes.
func (p *peer) every(pause time.Duration, cp packets.ControlPacket) {
	for {
		time.Sleep(pause)
		if cp.Write(p.conn) != nil {
			return
		}
	}
}

func pingresp() packets.ControlPacket { return packets.NewControlPacket(packets.Pingresp) }

func downlink(topic string, size int) packets.ControlPacket {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload = topic, make([]byte, size)
	return m
}
