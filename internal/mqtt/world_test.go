package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
)

// world is a network in virtual time with one or more scripted servers.
type world struct {
	*mqtttest.World
	dialer *dialer
}

type (
	peer   = mqtttest.Peer
	acks   = mqtttest.Acks
	ledger = mqtttest.Ledger
)

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

// bubble runs a test in virtual time. Everything that was started must have ended at its end, or
// the bubble fails.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	mqtttest.Bubble(t, "hello", func(w *mqtttest.World) {
		f(w.T, &world{w, &dialer{TLS: &tls.Config{RootCAs: w.Roots}, DialContext: w.Net.DialContext, KeepAlive: 20 * time.Second,
			Window: testWindow, left: map[string]Past{}}})
	})
}

const (
	testWindow = 64
	maxInbound = 512 << 10 // bytes of one packet
)

func (w *world) attempt(host string) attempt { return attempt{Host: host} }

// dial makes a session or fails.
func (w *world) dial(host string) *Session {
	w.T.Helper()
	s, err := w.dialer.Dial(w.T.Context(), w.attempt(host))
	if err != nil {
		w.T.Fatal(err)
	}
	return s
}

func offer(t *testing.T, s *Session, a *acks, key string) {
	t.Helper()
	if err := publishOne(s, []byte("{}"), key, a.Done(key)); err != nil {
		t.Errorf("%s: %v", key, err)
	}
}

// earlyAttempt publishes some messages while the attempt is made, and tells which of them fitted.
func (w *world) earlyAttempt(host string, a *acks, body []byte, keys ...string) (at attempt, fitted *[]string) {
	at, fitted = w.attempt(host), new([]string)
	at.Early = func(s *Session) {
		for _, key := range keys {
			err := publishOne(s, body, key, a.Done(key))
			if err != nil && !errors.Is(err, ErrNoRoom) {
				w.T.Errorf("%s: %v", key, err)
			}
			if err != nil {
				break
			}
			*fitted = append(*fitted, key)
		}
	}
	return at, fitted
}
