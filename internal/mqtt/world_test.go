package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// world is a network in virtual time with one or more scripted servers.
type world struct {
	t      *testing.T
	net    *memnet.Net
	server *tls.Config
	dialer *dialer
	wg     sync.WaitGroup
}

// dialer opens sessions as its user would.
type dialer struct {
	TLS         *tls.Config
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	Addresses   func() ([]net.Addr, error)
	KeepAlive   time.Duration
	Window      int
	left        map[string]Past
	pace        Pace
}

type attempt struct {
	Host       string
	Sequential bool
	Early      func(s *Session)
}

const testLimit = 10 * time.Second

func (d *dialer) endpoint(host string) *Endpoint {
	return &Endpoint{Address: WithPort(host, "8883"), TLS: d.TLS, DialContext: d.DialContext, Addresses: d.Addresses, Limit: testLimit}
}

func (d *dialer) Dial(ctx context.Context, a attempt) (*Session, error) {
	to := d.endpoint(a.Host)
	conn, err := to.Connect(ctx, nil)
	if err != nil {
		return nil, err
	}
	h := &handler{attempt: a, ended: func(p Past) { d.left[a.Host], d.pace = p, p.Pace }}
	past := d.left[a.Host]
	past.Pace = d.pace
	h.s = NewSession(conn, Options{Connect: Connect{ClientID: "dev-1", Username: "u", KeepAlive: d.KeepAlive}, Handler: h,
		Sequential: a.Sequential, Window: d.Window, MaxPacket: maxInbound, MaxOwing: 1024, Past: past, Endpoint: to})
	h.s.Start()
	if !h.s.Await(ctx) {
		return nil, h.s.Err()
	}
	return h.s, nil
}

// handler subscribes to one filter, says hello, and acknowledges what comes.
type handler struct {
	s       *Session
	attempt attempt
	ended   func(Past)
	firsts  int
}

func (h *handler) Opening() {
	_ = h.s.Subscribe(Filter{Topic: "in/#", QoS: 1})
	_ = h.s.Publish(&Message{Topic: "hello"})
	if h.attempt.Early != nil {
		h.attempt.Early(h.s)
	}
}

func (h *handler) Message(_ *Packet, r *Receipt) error { return h.s.Ack(r) }
func (h *handler) FirstAck()                           { h.firsts++ }
func (h *handler) Idle()                               {}
func (h *handler) Describe(f *Error) error             { return f }
func (h *handler) Ended(p Past)                        { h.ended(p) }

// Outgoing is a message of QoS 1 for Send.
type Outgoing struct {
	Body   []byte
	Key    string
	Ticket uint64
}

// Send sends messages of QoS 1.
func (s *Session) Send(messages []Outgoing, to Completion) (int, error) {
	b, err := s.Begin()
	if err != nil {
		return 0, err
	}
	defer b.End()
	for i, m := range messages {
		if err := b.Publish(&Message{Topic: "out/", Body: m.Body, QoS: 1}, Delivery{To: to, Ticket: m.Ticket, Key: m.Key}); err != nil {
			return i, err
		}
	}
	return len(messages), nil
}

// publishOne sends one message of QoS 1.
func publishOne(s *Session, body []byte, key string, done func(error)) error {
	_, err := s.Send([]Outgoing{{Body: body, Key: key}}, &single{done})
	return err
}

type single struct{ done func(error) }

func (s *single) Done(_ []uint64, err error) { s.done(err) }

// peer is the server's side of one connection, after TLS. Its methods fail the test when the other
// side does something else.
type peer struct {
	t    *testing.T
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
		w.dialer = &dialer{TLS: &tls.Config{RootCAs: pool}, DialContext: w.net.DialContext, KeepAlive: 20 * time.Second,
			Window: testWindow, left: map[string]Past{}}
		f(t, w)
		w.wg.Wait()
	})
}

const (
	testWindow = 64
	maxInbound = 512 << 10 // bytes of one packet
)

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
	return func() { // a server whose path was cut would wait for ever
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func (w *world) attempt(host string) attempt { return attempt{Host: host} }

// dial makes a session or fails.
func (w *world) dial(host string) *Session {
	w.t.Helper()
	s, err := w.dialer.Dial(w.t.Context(), w.attempt(host))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (p *peer) read() packets.ControlPacket {
	packet, err := packets.ReadPacket(p.conn)
	if err != nil {
		return nil
	}
	return packet
}

func (p *peer) send(cp packets.ControlPacket) { _ = cp.Write(p.conn) }

// welcome reads CONNECT and what came with it, up to hello, and lets the client in.
func (p *peer) welcome() *packets.ConnectPacket {
	c, ok := p.read().(*packets.ConnectPacket)
	if !ok {
		return nil // a probe
	}
	p.send(packets.NewControlPacket(packets.Connack))
	for {
		switch q := p.read().(type) {
		case *packets.SubscribePacket:
			p.suback(q, 1)
		case *packets.UnsubscribePacket:
		case *packets.PublishPacket:
			if q.TopicName == "hello" {
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

// acknowledge answers all messages of QoS 1 until the session ends.
func (p *peer) acknowledge() {
	for q := p.telemetry(); q != nil; q = p.telemetry() {
		p.puback(q.MessageID)
	}
}

// telemetry reads on to the next message of QoS 1; nil at the end of the connection.
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

func connack() packets.ControlPacket  { return packets.NewControlPacket(packets.Connack) }
func pingresp() packets.ControlPacket { return packets.NewControlPacket(packets.Pingresp) }

func downlink(topic string, size int) packets.ControlPacket {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload = topic, make([]byte, size)
	return m
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

func offer(t *testing.T, s *Session, a *acks, key string) {
	t.Helper()
	if err := publishOne(s, []byte("{}"), key, a.done(key)); err != nil {
		t.Errorf("%s: %v", key, err)
	}
}

// ledger is a completion that writes down what it is told.
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

// earlyAttempt publishes some messages while the attempt is made, and tells which of them fitted.
func (w *world) earlyAttempt(host string, a *acks, body []byte, keys ...string) (at attempt, fitted *[]string) {
	at, fitted = w.attempt(host), new([]string)
	at.Early = func(s *Session) {
		for _, key := range keys {
			err := publishOne(s, body, key, a.done(key))
			if err != nil && !errors.Is(err, ErrNoRoom) {
				w.t.Errorf("%s: %v", key, err)
			}
			if err != nil {
				break
			}
			*fitted = append(*fitted, key)
		}
	}
	return at, fitted
}
