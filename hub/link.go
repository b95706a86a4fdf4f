package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// Link is one session with one hub, from CONNACK to its end. Its methods may be called from any
// goroutine.
type Link struct {
	dialer  *Dialer
	attempt Attempt       // without its functions
	early   func(l *Link) // of the attempt; nil once Opening has begun
	session *mqtt.Session
	events  string // the telemetry topic, up to its property bag

	// bag writes property bags. The session's lock guards it: it is used between Begin and End, and
	// in Idle.
	bag bag

	mu         sync.Mutex // guards everything below; is never held while the session is called
	lastRID    uint64
	calls      []*request  // what waits for an answer
	firstTwin  *request    // the request that went out with the subscriptions, until Twin takes it
	handler    Handler     // nil before Serve
	acked      bool        // the first PUBACK was received
	inbox      *inbox      // nil: nothing has come yet
	unserved   int         // bytes that have come before Serve, for which the session is held
	expires    time.Time   // of the token; zero with a certificate
	renewDue   bool        // it should be replaced
	renewTimer *time.Timer // nil with a certificate
}

// listener is what a link hears from its session. It is a type of its own, so that its methods are
// not those of the link.
type listener Link

// Opening subscribes to what the device wants to hear, unsubscribes from the rest, and asks for the
// twin. Then come the messages that may leave before the hub has accepted the session.
func (h *listener) Opening() {
	l := (*Link)(h)
	d, id := l.dialer, l.attempt.DeviceID
	var sub []mqtt.Filter
	var unsub []string
	for _, f := range []struct {
		filter string
		qos    byte
		want   bool
	}{
		{c2dFilter(id), 1, d.C2D},
		{methodFilter, 0, d.Methods},
		{twinFilter, 0, d.Twin},
		{desiredFilter, 0, d.Desired},
	} {
		if f.want {
			sub = append(sub, mqtt.Filter{Topic: f.filter, QoS: f.qos})
		} else {
			unsub = append(unsub, f.filter)
		}
	}
	// An error of these means that the session has ended, and everybody is told that anyway.
	if len(unsub) > 0 {
		_ = l.session.Unsubscribe(unsub...)
	}
	if len(sub) > 0 {
		_ = l.session.Subscribe(sub...)
	}
	if d.Twin {
		r, _ := l.request(twinGet, nil)
		l.mu.Lock()
		l.firstTwin = r
		l.mu.Unlock()
	}
	early := l.early
	l.early = nil // it may hold much memory
	if early != nil && !l.attempt.Sequential {
		early(l)
	}
}

// Message sorts what the hub sends. A packet of QoS 1 that nobody has to handle is acknowledged as
// soon as its turn comes.
func (h *listener) Message(p *mqtt.Packet, r *mqtt.Receipt) error {
	l := (*Link)(h)
	in, answer := parseTopic(l.attempt.DeviceID, p.Topic, p.Body)
	if m, ok := in.(*Message); ok {
		m.Duplicate, m.receipt = p.Flag, r
		r = nil // Complete settles it
	}
	switch {
	case answer != nil:
		l.answered(answer)
	case in != nil:
		if err := l.arrived(in); err != nil {
			return err
		}
	}
	if r != nil {
		return l.session.Ack(r)
	}
	return nil
}

// FirstAck tells the handler. If there is none yet, Serve will tell it.
func (h *listener) FirstAck() {
	h.mu.Lock()
	h.acked = true
	handler := h.handler
	h.mu.Unlock()
	if handler != nil {
		handler.FirstAck()
	}
}

// Idle gives back memory that only a busy link needs.
func (h *listener) Idle() { h.bag = bag{} }

// Describe makes an [*Error] of the end of the session. It adds that the token had expired, because
// the network does not know that. A reason that the user of the link gave and that is none of this
// package's stays as it is.
func (h *listener) Describe(f *mqtt.Error) error {
	if _, described := errors.AsType[*Error](f.Err); described || f.Local && !errors.Is(f.Err, ErrClosed) && !errors.Is(f.Err, ErrRenewal) {
		return f.Err
	}
	e := h.attempt.failed(f.Phase, f.Err)
	e.Pipelined = f.Pipelined
	if refusal, ok := errors.AsType[*mqtt.RefusalError](f.Err); ok {
		e.Code = refusal.Code
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.Phase == PhaseSession && !f.Local && !h.expires.IsZero() && time.Now().After(h.expires) {
		e.Err = fmt.Errorf("%w: %w", ErrTokenExpired, e.Err)
	}
	return e
}

// Ended keeps what the next link to the same hub should know.
func (h *listener) Ended(past mqtt.Past) {
	h.mu.Lock()
	h.inbox = nil
	if h.renewTimer != nil {
		h.renewTimer.Stop()
	}
	h.mu.Unlock()
	h.dialer.remember(h.attempt.Host, past)
}

// Host is the hub, spelled as it was dialled.
func (l *Link) Host() string { return l.attempt.Host }

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.session.Done() }

// OnEnd calls f when the link has ended, at once if it has. f must not block. It may be called
// once.
func (l *Link) OnEnd(f func()) { l.session.OnEnd(f) }

// Err waits for the end of the link and returns why it ended, which is always the first reason: an
// [*Error], or what Close or Abort was given.
func (l *Link) Err() error { return l.session.Err() }

// renew tells the handler that the token should be replaced. If there is none yet, Serve will tell
// it.
func (l *Link) renew() {
	defer l.session.Contain("asking to be renewed")
	l.mu.Lock()
	l.renewDue = true
	h := l.handler
	l.mu.Unlock()
	if h != nil {
		h.Renew()
	}
}

// Expires returns when the SAS token ends, and the hub closes the link. It returns zero with a
// certificate.
func (l *Link) Expires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expires
}

// Hasten says that the SAS token ends earlier than Expires, because the clock that made it was
// slow. The link asks to be renewed now.
func (l *Link) Hasten(expires time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewTimer == nil || !expires.Before(l.expires) {
		return
	}
	l.expires = expires
	if l.renewTimer.Stop() { // else it has asked, or ended
		l.renewTimer.Reset(0)
	}
}

// Carried reports whether a PUBACK was received. Only then has the link proved that it is of use.
func (l *Link) Carried() bool { return l.session.Carried() }

// Window returns how many PUBLISHes this link wants in flight: the configured number, or fewer
// while the hub is slow to acknowledge.
func (l *Link) Window() int { return l.session.Window() }

// Settle waits until every PUBLISH of this link is acknowledged, or ctx or the link ends.
func (l *Link) Settle(ctx context.Context) error { return l.session.Settle(ctx) }

// Check makes the link suspect at once. A caller uses it when nothing could be heard for a while,
// as after a suspension of the machine. Then only an answer on the link itself saves the link; that
// the hub answers on another connection does not.
func (l *Link) Check() { l.session.Check() }

// Hurry says that the device is about to stop. Until the time until, the link gives up if a PUBACK
// is overdue, although the hub lives, so that the message can go by another link. See
// [mqtt.Session.Hurry].
func (l *Link) Hurry(until time.Time) { l.session.Hurry(until) }

// Close ends the link in order: what is queued is written, then DISCONNECT, so that the hub keeps
// the session. It waits for the link's goroutines, and until ctx ends for the writes. why is the
// reason that Err returns, unless the link had ended before; nil stands for [ErrClosed].
func (l *Link) Close(ctx context.Context, why error) { l.session.Close(ctx, why) }

// Abort gives the link up at once, with a reset, so that nothing of it arrives later. It waits for
// the link's goroutines. why is as for Close.
func (l *Link) Abort(why error) { l.session.Abort(why) }

// Peer returns the name of the other side that Host is not: the IP address if Host is a name, or a
// name from the certificate if Host is an IP address. It is empty if that is not known.
func (l *Link) Peer() string {
	name, _, err := net.SplitHostPort(mqtt.WithPort(l.attempt.Host, DefaultPort))
	if err != nil {
		return ""
	}
	conn := l.session.Conn()
	if net.ParseIP(name) == nil {
		ip, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		return ip
	}
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 && len(certs[0].DNSNames) > 0 {
		return certs[0].DNSNames[0]
	}
	return ""
}
