package mqtt5

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	writeLimit   = 30 * time.Second       // for one write; a server that takes nothing so long is gone
	answerLimit  = 20 * time.Second       // at most, for a PINGRESP
	goodbyeLimit = 500 * time.Millisecond // for the last write
	leaveLimit   = time.Second            // for the server to read it
	maxSpare     = 64 << 10               // bytes of a buffer that is kept for the next write
)

// AnswerLimit is how long a server that owes answers may send nothing, although the connection is
// up and pings are answered. MQTT sets no limit, and lets a client send a message again on another
// connection only (MQTT 5 section 4.4), so the session ends then. It is longer than a server takes
// for one message on a busy disk, and each answer starts it anew.
const AnswerLimit = time.Minute

// Session is one session on one connection, from CONNACK to its end. Its methods may be called from
// any goroutine, but Serve only once.
type Session struct {
	Grant Grant // what the server allows; only read

	conn      net.Conn
	in        *Reader
	began     time.Time
	keepAlive time.Duration // 0: none
	answer    time.Duration // how long the server may owe a PINGRESP
	window    int           // see Moderate; 0: never
	drained   time.Duration // Serve's own: when it last had nothing to read, since began
	gap       time.Duration // Serve's own: smoothed time between packets

	heard  atomic.Int64 // when the server was heard last, since began
	busy   atomic.Bool  // the handler has a packet
	owed   atomic.Int64 // answers, see Owes
	given  atomic.Int64 // packets that have come, except PINGRESP
	renews atomic.Bool  // AUTH was sent, and not answered
	wake   chan struct{}
	done   chan struct{} // closed at the end
	writer sync.WaitGroup

	mu     sync.Mutex // guards everything below
	out    []byte
	spare  []byte
	room   func()        // told when out was taken; nil: nobody wants to know
	full   bool          // somebody waits until out is taken
	sent   time.Duration // when something was written last, since began
	asked  time.Duration // when PINGREQ was sent that nothing has answered, since began; 0: none
	waits  time.Duration // since when the server owes answers and gives none, since began
	had    int64         // given at that time
	timer  *time.Timer
	ended  bool
	reason error
	served chan struct{} // closed when Serve has read all; nil: it does not run
}

// Open sends CONNECT on conn, and waits for CONNACK until ctx ends. most is the largest packet in
// bytes that the session reads. After an error conn is closed. A refusal is a [*ReasonError].
func Open(ctx context.Context, conn net.Conn, h *Hello, most int) (*Session, error) {
	s := &Session{conn: conn, in: NewReader(conn, most), began: time.Now(), wake: make(chan struct{}, 1), done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	p, err := s.connect(h)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	s.Grant = p.grant
	// The server's keep alive binds this side to send as often (MQTT 5 section 3.2.2.3.14). A
	// longer one, or none, does not: this side wants to know as soon as ever whether the server is
	// there.
	alive := h.KeepAlive
	if g := s.Grant.ServerKeepAlive; g > 0 && (alive == 0 || g < alive) {
		alive = g
	}
	s.keepAlive = time.Duration(alive) * time.Second
	s.answer = min(answerLimit, max(s.keepAlive/2, time.Second))
	s.mu.Lock()
	s.heard.Store(int64(time.Since(s.began)))
	s.sent = time.Since(s.began)
	s.timer = time.AfterFunc(s.pause(), s.watch)
	s.mu.Unlock()
	s.writer.Go(s.write)
	return s, nil
}

func (s *Session) connect(h *Hello) (*Packet, error) {
	if _, err := s.conn.Write(AppendConnect(nil, h)); err != nil {
		return nil, err
	}
	p, err := s.in.Next()
	switch {
	case err != nil:
		return nil, err
	case p.Kind == Connack && !p.Reason.Failed():
		return p, nil
	case p.Kind == Connack || p.Kind == Disconnect:
		return nil, p.Refusal()
	case p.Kind == Auth:
		_, _ = s.conn.Write(AppendDisconnect(nil, BadAuthMethod))
		return nil, fmt.Errorf("%w: the server asks for a further step of %q, which has none", ErrProtocol, h.AuthMethod)
	}
	return nil, faulty(ProtocolError, "a %v before CONNACK", p.Kind)
}

// Refusal returns what a CONNACK or a DISCONNECT says as an error.
func (p *Packet) Refusal() *ReasonError {
	return &ReasonError{Packet: p.Kind, Reason: p.Reason, Text: string(p.ReasonText), Server: string(p.Server)}
}

// Moderate says how many packets the server sends before it waits for this side, so that Serve may
// let some gather while very many come: to wake up for each one costs more than all else. Without
// it Serve reads at once. It is called before Serve.
func (s *Session) Moderate(window int) { s.window, s.gap = window, 10*dense }

const (
	dense  = 200 * time.Microsecond // between packets: below it, reads are moderated
	gather = 500 * time.Microsecond // timers of a resting process make up to 1 ms of it
)

// moderate waits a little if packets come densely. n of them have come since the last call.
func (s *Session) moderate(n int) {
	now := time.Since(s.began)
	gap := min(now-s.drained, 10*time.Millisecond*time.Duration(n)) / time.Duration(max(n, 1))
	s.drained = now
	s.gap += (gap - s.gap) / 8
	// If the server would have to wait for this side meanwhile, nothing would gather.
	if s.gap < dense && 2*gather/max(s.gap, 1) < time.Duration(s.window) {
		select {
		case <-time.After(gather):
		case <-s.done:
		}
	}
}

// Serve reads packets until the session ends, and gives each to handle, which may block: then
// nothing is read, so that TCP slows the server down. drained is called before Serve waits for the
// network, so that a caller can collect what belongs together. An error of handle ends the session.
// Serve returns why the session has ended; after Close that is its reason. What the server still
// sends after Close is not handled.
func (s *Session) Serve(handle func(p *Packet) error, drained func()) error {
	served := make(chan struct{})
	defer close(served)
	s.mu.Lock()
	s.served = served
	s.mu.Unlock()
	err := s.serve(handle, drained)
	for s.isDone() {
		if _, err := s.in.Next(); err != nil {
			break
		}
	}
	return s.end(err)
}

func (s *Session) isDone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// serve reads and handles packets until one of them, or the network, ends the session.
func (s *Session) serve(handle func(p *Packet) error, drained func()) error {
	n := 0
	for {
		wait := !s.in.Buffered()
		if wait {
			drained()
			if s.window > 0 {
				s.moderate(n)
			}
			n = 0
		}
		p, err := s.in.Next()
		if err != nil {
			return err
		}
		if s.isDone() {
			return ErrClosed
		}
		n++
		if wait {
			s.heard.Store(int64(time.Since(s.began)))
		}
		switch p.Kind {
		case Pingresp:
			s.mu.Lock()
			s.asked = 0
			s.mu.Unlock()
		case Disconnect:
			return p.Refusal()
		case Connack:
			return faulty(ProtocolError, "a second CONNACK")
		case Auth:
			if err := s.renewed(p); err != nil {
				return err
			}
		default:
			s.given.Add(1)
			s.busy.Store(true)
			err = handle(p)
			s.busy.Store(false)
			if err != nil {
				return err
			}
		}
	}
}

// Owes says how many answers the server owes now: PUBACK, SUBACK, UNSUBACK. If it owes some, and
// sends nothing but PINGRESP for [AnswerLimit], the session ends with [ErrWithheld]. A PUBLISH
// counts, because many retained ones may come before a SUBACK.
func (s *Session) Owes(n int) {
	if s.owed.Swap(int64(n)) == 0 && n > 0 {
		s.mu.Lock()
		s.waits, s.had = time.Since(s.began), s.given.Load()
		s.mu.Unlock()
	}
}

// Reauthenticate gives the server new credentials, in a session that was opened with the same
// authentication method (MQTT 5 section 4.12.1). A server that does not accept them ends the
// session.
func (s *Session) Reauthenticate(method string, data []byte) {
	s.renews.Store(true)
	s.mu.Lock()
	s.waits, s.had = time.Since(s.began), s.given.Load()
	s.mu.Unlock()
	s.Send(func(out []byte) []byte { return AppendAuth(out, Reauthenticate, method, data) })
}

// renewed handles the answer to Reauthenticate.
func (s *Session) renewed(p *Packet) error {
	switch {
	case !s.renews.Swap(false):
		return faulty(ProtocolError, "an AUTH that answers nothing")
	case p.Reason != Success:
		return faulty(BadAuthMethod, "the server asks for a further step of the authentication (%v), which has none", p.Reason)
	}
	return nil
}

// Send queues what add appends. add is called with the session locked. It reports whether the
// session lives. What is queued may be lost with the session.
func (s *Session) Send(add func(out []byte) []byte) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	idle := len(s.out) == 0
	s.out = add(s.out)
	s.mu.Unlock()
	if idle {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// OnRoom names a function that the writer calls when it has taken what was queued, if HasRoom has
// said no before. It is called before anything is sent.
func (s *Session) OnRoom(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = f
}

// HasRoom reports whether less than most bytes are queued.
func (s *Session) HasRoom(most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = len(s.out) >= most
	return !s.full
}

// write is the writer.
func (s *Session) write() {
	for {
		select {
		case <-s.wake:
		case <-s.done:
			return
		}
		if err := s.flush(); err != nil {
			// The server may have said before why it hangs up: the reader may have that yet to
			// come.
			late := time.AfterFunc(goodbyeLimit, func() { _ = s.end(err) })
			<-s.done
			late.Stop()
			return
		}
	}
}

// flush writes until nothing is queued.
func (s *Session) flush() error {
	for {
		s.mu.Lock()
		buf := s.out
		if len(buf) == 0 || s.ended {
			s.mu.Unlock()
			return nil
		}
		s.out, s.spare = s.spare, nil
		s.sent = time.Since(s.began)
		var tell func()
		if s.full {
			tell, s.full = s.room, false
		}
		s.mu.Unlock()
		if tell != nil {
			tell()
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeLimit))
		if _, err := s.conn.Write(buf); err != nil {
			return err
		}
		if cap(buf) <= maxSpare {
			s.mu.Lock()
			s.spare = buf[:0]
			s.mu.Unlock()
		}
	}
}

// pause is how often the session looks whether the server is there.
func (s *Session) pause() time.Duration {
	if s.keepAlive == 0 {
		return AnswerLimit / 4
	}
	return max(s.keepAlive/4, time.Second)
}

// watch ends the session when the server owes an answer for too long. While the handler has a
// packet, the silence is this side's.
func (s *Session) watch() {
	now := time.Since(s.began)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	ping, silent := s.pingLocked(now)
	answer, withheld := s.answersLocked(now)
	if err := cmp.Or(silent, withheld); err != nil {
		s.mu.Unlock()
		_ = s.end(err)
		return
	}
	s.timer.Reset(max(min(s.pause(), ping, answer), time.Millisecond))
	s.mu.Unlock()
}

// pingLocked sends PINGREQ when nothing was sent or heard for most of the keep alive. It returns
// when to look again, and an error if the last one is not answered.
func (s *Session) pingLocked(now time.Duration) (next time.Duration, err error) {
	heard := time.Duration(s.heard.Load())
	if s.asked != 0 && (heard > s.asked || s.busy.Load()) {
		s.asked = 0
	}
	switch {
	case s.asked != 0 && now-s.asked >= s.answer:
		return 0, fmt.Errorf("%w in %v", ErrSilent, now-s.asked)
	case s.asked != 0:
		return s.answer - (now - s.asked), nil
	case s.keepAlive > 0 && (now-s.sent >= s.keepAlive/2 || now-heard >= s.keepAlive/2 && !s.busy.Load()):
		s.asked = now
		s.out = appendPingreq(s.out)
		select {
		case s.wake <- struct{}{}:
		default:
		}
		return s.answer, nil
	}
	return s.pause(), nil
}

// answersLocked returns when to look again for answers, and an error if they are withheld.
func (s *Session) answersLocked(now time.Duration) (next time.Duration, err error) {
	owed, given := s.owed.Load(), s.given.Load()
	if s.renews.Load() {
		owed++
	}
	if owed == 0 || given != s.had || s.busy.Load() {
		s.waits, s.had = now, given
	}
	left := AnswerLimit - (now - s.waits)
	if left <= 0 {
		return 0, fmt.Errorf("%w: %d in %v", ErrWithheld, owed, now-s.waits)
	}
	return left, nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close ends the session: it writes what is queued and DISCONNECT with r, waits until the server
// hangs up, which says that it has read them, closes the connection and waits for the writer. So the
// next connection of this client does not overtake the last acknowledgements. It waits for the
// network at most half a second to write, and one second, while Serve runs, for the server. why is
// what Serve returns if the session had not ended before; nil stands for [ErrClosed].
func (s *Session) Close(r Reason, why error) {
	if why == nil {
		why = ErrClosed
	}
	s.goodbye(r, why, true)
	s.writer.Wait()
}

// end ends the session and returns the reason, which is the first one.
func (s *Session) end(err error) error {
	r, say := Reason(0), false
	if f, ok := errors.AsType[*fault](err); ok {
		r, say = f.reason, true
	} else if errors.Is(err, ErrWithheld) {
		r, say = Unspecified, true
	}
	if say {
		s.goodbye(r, err, false)
	} else {
		s.over(err)
		_ = s.conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// over notes the end. It returns what was not written, and whether this is the first call.
func (s *Session) over(err error) (left []byte, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, false
	}
	s.ended, s.reason = true, err
	if s.timer != nil {
		s.timer.Stop()
	}
	left, s.out, s.spare = s.out, nil, nil
	close(s.done)
	return left, true
}

// goodbye writes the last bytes, waits for the server if it is asked to, and closes the connection.
func (s *Session) goodbye(r Reason, why error, wait bool) {
	left, first := s.over(why)
	if !first {
		return
	}
	late := time.AfterFunc(goodbyeLimit, func() { _ = s.conn.Close() })
	_, err := s.conn.Write(AppendDisconnect(left, r))
	late.Stop()
	s.mu.Lock()
	served := s.served
	s.mu.Unlock()
	if wait && err == nil && served != nil {
		select {
		case <-served:
		case <-time.After(leaveLimit):
		}
	}
	_ = s.conn.Close()
}
