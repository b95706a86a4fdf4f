package mqtt

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBuffer    = 512              // bytes that are read ahead when much comes
	writeDeadline = 10 * time.Second // for each write
	goodbyeLimit  = time.Second      // to end TLS in order
	freshAfter    = time.Second      // a goroutine that has read for longer lets a new one wait

	// writeAtOnce is the number of bytes in one write that may have to wait. So the deadline of a
	// write is not about more than that.
	writeAtOnce = 16 << 10

	// The session reads nothing while its handler holds more than maxHeld bytes (see Hold), and
	// while more than maxUnwritten bytes are to be written, because what it reads may want answers.
	maxHeld      = 1 << 20
	maxUnwritten = 1 << 20

	// The session takes no messages from this side while more than maxQueued bytes are to be
	// written.
	maxQueued = 4 << 20

	// firstFlight bounds the one write that opens a session. It is what a new TCP connection may
	// send before it hears anything (RFC 6928: ten segments), less room for the framing of TLS.
	// More would not arrive earlier, and a server that refuses costs no more.
	firstFlight = 13 << 10
)

// Options are what a session is opened with. They are only read.
type Options struct {
	// Connect is the first packet. Its KeepAlive is at least 1 s here: after so long a silence the
	// session asks whether the server is there.
	Connect Connect
	Handler Handler
	// Sequential waits for CONNACK before anything follows CONNECT. Otherwise what Handler.Opening
	// sends leaves in one write with CONNECT. Some servers drop what comes before their CONNACK.
	Sequential bool
	Window     int       // messages in flight that the session proposes; at least 1
	MaxPacket  int       // bytes of one inbound packet; a larger one ends the session
	MaxOwing   int       // inbound messages without their Ack; one more ends the session
	Past       Past      // what an earlier session to the same server left
	Endpoint   *Endpoint // where a suspected server is probed; nil: it is not probed
	// Trace, if set, is called with every packet, sent or received, without the password. It must
	// not block, and several goroutines may call it at once.
	Trace func(Traced)
	// Acked, if set, is told of each PUBACK how long after its PUBLISH it came, unless a session
	// before had sent the message too. The session is locked, so it must be quick.
	Acked func(took time.Duration)
}

// Handler knows what is sent and received on a session. The session calls its methods from its
// reader, except where noted. So they must not block. They may call any method of the session but
// Close, Abort and Settle.
type Handler interface {
	// Opening sends what the session begins with: subscriptions, and messages that may go before
	// the server has accepted the session. It is called once, from Start unless the session is
	// sequential.
	Opening()
	// Message is called with each inbound message. With QoS 1, r must be given to Ack, once, at any
	// time. With QoS 0, r is nil. An error ends the session.
	Message(p *Packet, r *Receipt) error
	// FirstAck is called once, with the first PUBACK and before its message is completed.
	FirstAck()
	// Idle is called when the session gives back memory that only a busy session needs. It is
	// called from any goroutine, and the session is locked, as between Begin and End.
	Idle()
	// Describe makes the error that Err returns and senders get of the end of the session. It is
	// called at the end and for messages after it, from any goroutine. The session is locked.
	Describe(f *Error) error
	// Ended is called once, with what the next session to the same server should know. It is called
	// from any goroutine.
	Ended(past Past)
}

// Past is what a session leaves to the next one to the same server. The zero value knows nothing.
type Past struct {
	Unacked map[string]uint16 // key → packet id of messages without PUBACK
	Varied  time.Duration     // how much round trips differed; 0: not known
	Pace    Pace
}

// Receipt is what an inbound message of QoS 1 is owed.
type Receipt struct {
	id    uint16
	given bool
}

// Stats counts what one session has carried. Only tests read it.
type Stats struct {
	SessionPresent bool          // the server had kept the session
	Published      uint64        // PUBLISHes sent with QoS 1
	Acked          uint64        // PUBACKs received for them
	StrayAcks      uint64        // PUBACKs for packet ids that were not in flight
	Suspicions     uint64        // times the server was suspected to be gone
	Looks          uint64        // times the watchdog's timer has fired
	Pings          uint64        // PINGREQs sent
	RTT            time.Duration // smoothed time from PUBLISH to PUBACK
}

// Session is one MQTT session on one connection, from CONNECT to its end. Its methods may be called
// from any goroutine. An idle session costs one goroutine, its reader, and one timer.
type Session struct {
	handler    Handler
	endpoint   *Endpoint // nil: the server is not probed
	trace      func(Traced)
	acked      func(took time.Duration)
	sequential bool
	maxOwing   int

	conn    *Conn
	in      *Reader   // the reader's own
	readAt  time.Time // the reader's own: when it last had to wait
	tickets []uint64  // the reader's own: scratch
	reader  func()    // calls read; kept, because each new function value is an allocation
	flusher func()    // calls flush; likewise

	ready chan struct{} // closed when the session is up
	done  chan struct{} // closed at the end; err is set before
	wg    sync.WaitGroup

	mu        sync.Mutex // guards everything below
	err       error
	why       error  // the reason that Close has given
	onEnd     func() // called after done is closed; nil: nobody waits for that
	ended     bool
	opening   bool     // the opening is being put together: nothing is written yet
	opened    bool     // it was
	closing   bool     // no new work: DISCONNECT is next
	connected bool     // CONNACK 0 was received
	refused   bool     // a CONNACK with another code was received
	up        bool     // connected, and all subscriptions of the opening are granted
	asked     []uint16 // the packet ids of SUBSCRIBEs without SUBACK
	out       []byte
	spare     []byte
	flushing  bool          // somebody writes, or is about to
	flushed   chan struct{} // closed when out is empty; nil when nobody waits
	settled   chan struct{} // closed when nothing is in flight; nil when nobody waits
	flight    flight
	held      int        // bytes that the handler holds
	room      sync.Cond  // signalled when the reader may have room to go on
	owing     []*Receipt // of inbound QoS 1 packets, in order of arrival
	keepAlive time.Duration
	pace      Pace
	watch     // the watchdog's
	stats     Stats

	// telling is the time, from setupSince on, since which the reader does not read because of this
	// side: it tells a sender of acknowledgements, or the handler holds too much. 0: it reads.
	telling atomic.Int64
}

// NewSession returns a session that has not begun. It owns the connection from now on.
func NewSession(conn *Conn, o Options) *Session {
	now := time.Now()
	o.Window, o.Connect.KeepAlive = max(o.Window, 1), max(o.Connect.KeepAlive, time.Second)
	s := &Session{
		handler: o.Handler, endpoint: o.Endpoint, trace: o.Trace, acked: o.Acked, sequential: o.Sequential, keepAlive: o.Connect.KeepAlive,
		readAt: now, conn: conn, in: NewReader(conn, o.MaxPacket, readBuffer), maxOwing: o.MaxOwing, ready: make(chan struct{}), done: make(chan struct{}),
		flight: newFlight(o.Past.Unacked), pace: o.Past.Pace, opening: true, out: o.Connect.Append(nil),
		watch: watch{maxWindow: o.Window, window: o.Window, lastIn: now, lastOut: now, setupSince: now, varied: o.Past.Varied},
	}
	s.room.L = &s.mu
	s.reader, s.flusher = s.read, func() { s.flush(false) }
	s.dialled(conn.tcp, conn.tls)
	return s
}

// Start sends the first packets and sets the reader and the watchdog to work.
func (s *Session) Start() {
	if !s.sequential {
		s.handler.Opening()
	}
	s.mu.Lock()
	s.opening, s.opened = false, !s.sequential
	s.flushLocked()
	_ = s.armLocked(s.setupSince) // nothing can be overdue yet
	s.mu.Unlock()
	s.startReader()
}

// Await waits until the session is up, and reports whether it was. If ctx ends before, Await ends
// the session. A session that was up counts even if its peer closed it at once: that is the end of
// a session and not of an attempt. After Await has returned false, nothing of the session runs any
// more.
func (s *Session) Await(ctx context.Context) bool {
	select {
	case <-s.ready:
	case <-s.done:
	case <-ctx.Done():
		s.lose(ctx.Err())
	}
	select {
	case <-s.ready:
		return true
	default:
		s.join()
		return false
	}
}

// Subscribe asks for messages. A refusal ends the session. The subscriptions of the opening must be
// granted before the session is up.
func (s *Session) Subscribe(filters ...Filter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		return err
	}
	id := s.flight.nextID()
	s.asked = append(s.asked, id)
	s.out = AppendSubscribe(s.out, id, filters...)
	s.flushLocked()
	return nil
}

// Unsubscribe gives subscriptions back. Nothing waits for the answer.
func (s *Session) Unsubscribe(filters ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		return err
	}
	s.out = appendUnsubscribe(s.out, s.flight.nextID(), filters...)
	s.flushLocked()
	return nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// OnEnd calls f when the session has ended, at once if it has. f must not block. It may be called
// once.
func (s *Session) OnEnd(f func()) {
	s.mu.Lock()
	select {
	case <-s.done:
		s.mu.Unlock()
		f()
	default:
		s.onEnd = f
		s.mu.Unlock()
	}
}

// tellEnd closes done.
func (s *Session) tellEnd() {
	s.mu.Lock()
	close(s.done)
	f := s.onEnd
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// Err waits for the end of the session and returns its reason, which is always the first one, as
// Describe has put it.
func (s *Session) Err() error { <-s.done; return s.err }

// Stats returns a snapshot of the session's counters. Only tests call it.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.RTT = s.srtt
	return stats
}

// Carried reports whether a PUBACK was received.
func (s *Session) Carried() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Acked > 0
}

// Window returns how many messages the session proposes to have in flight: those of Options.Window,
// or fewer while the server is slow to acknowledge. A sender that exceeds it is not refused.
//
// MQTT 5: at most the receive maximum of the server's CONNACK.
func (s *Session) Window() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window
}

// Traffic returns the smoothed time from PUBLISH to PUBACK, 0 before the first; how many PUBLISHes
// are in flight; and how many may be.
func (s *Session) Traffic() (rtt time.Duration, inFlight, window int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srtt, s.flight.count, s.window
}

// Conn returns the connection of the session, for questions about the server's certificate.
func (s *Session) Conn() *Conn { return s.conn }

// Settle waits until every message is acknowledged, or ctx or the session ends.
func (s *Session) Settle(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.flight.count == 0 {
			s.mu.Unlock()
			return nil
		}
		if s.settled == nil {
			s.settled = make(chan struct{})
		}
		settled := s.settled
		s.mu.Unlock()
		select {
		case <-settled:
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close ends the session in order: it writes what is queued, then DISCONNECT, so that the server
// sends no will. It waits for the session's goroutines, and until ctx ends for the writes. why is
// the reason that Err returns if the session had not ended before; nil stands for [ErrClosed].
func (s *Session) Close(ctx context.Context, why error) {
	s.mu.Lock()
	if !s.ended && !s.closing {
		s.closing, s.why = true, cmp.Or(why, ErrClosed)
		s.out = AppendDisconnect(s.out)
		s.flushed = make(chan struct{})
		flushed := s.flushed
		s.flushLocked()
		s.mu.Unlock()
		select {
		case <-flushed:
		case <-s.done:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	s.end(cmp.Or(why, ErrClosed), true, false)
	s.join()
}

// Abort gives the session up at once, with a reset, so that nothing of it arrives later. It waits
// for the session's goroutines. why is as for Close.
func (s *Session) Abort(why error) {
	s.end(cmp.Or(why, ErrClosed), true, true)
	s.join()
}

// join waits until the session has ended and nothing of it runs any more.
func (s *Session) join() {
	<-s.done
	s.wg.Wait()
}

// lose ends the session for a reason that this side did not choose.
func (s *Session) lose(err error) { s.end(err, false, true) }

// end is the one place where a session ends, and where its reason is chosen: the first one wins,
// and everybody who waits gets it. Once Close has sent DISCONNECT, its reason is the first,
// although the server may be quicker to close the connection.
func (s *Session) end(err error, local, hard bool) {
	pending, past, first := s.over(err, local)
	if !first {
		return
	}
	defer s.tellEnd()
	s.toldAtEnd("keeping what the next session should know", func() { s.handler.Ended(past) })
	if hard {
		reset(s.conn.raw)
	} else {
		late := time.AfterFunc(goodbyeLimit, func() { reset(s.conn.raw) })
		_ = s.conn.Close()
		late.Stop()
	}
	var tickets []uint64
	for p := pending; p != nil; p = p.next {
		tickets = append(tickets, p.ticket)
		if p.next == nil || p.next.to != p.to {
			s.toldAtEnd("telling a sender", func() { p.to.Done(tickets, s.err) })
			tickets = tickets[:0]
		}
	}
}

// over notes the end of the session. It returns the messages that are left, and what the next
// session should know. first is false if the session had ended before.
func (s *Session) over(err error, local bool) (pending *publish, past Past, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, Past{}, false
	}
	s.ended = true
	if s.closing {
		err, local = s.why, true
	}
	s.err = s.describeLocked(err, local)
	pending = s.flight.oldest
	past = Past{Unacked: s.flight.left(s.maxWindow, s.refused), Varied: s.variedLocked(), Pace: s.pace.next()}
	s.flight, s.owing, s.out = flight{}, nil, nil
	s.room.Broadcast()
	s.stopLocked()
	return pending, past, true
}

// toldAtEnd makes a call that belongs to the end of the session. If it panics, the end goes on all
// the same, and the panic is its reason.
func (s *Session) toldAtEnd(doing string, call func()) {
	defer func() {
		if p := recover(); p != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.err = s.describeLocked(bug(doing, p), false)
		}
	}()
	call()
}

// describeLocked returns the error for an end, or for what is refused because of it.
func (s *Session) describeLocked(err error, local bool) error {
	f := &Error{Phase: PhaseSession, Local: local, Err: cause(err)}
	switch {
	case !s.connected:
		f.Phase, f.Pipelined = PhaseConnect, !s.sequential && !s.refused
	case !s.up:
		f.Phase = PhaseSubscribe
	}
	return s.described(f)
}

// described asks the handler for the error. If the handler panics, that is the reason of the end:
// nobody may wait for ever for a session that has ended, and none of its locks may stay locked.
func (s *Session) described(f *Error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			f.Local, f.Err = false, bug("describing an end", p)
			err = f
		}
	}()
	return s.handler.Describe(f)
}

// openLocked returns an error if the session takes nothing new.
func (s *Session) openLocked() error {
	switch {
	case s.ended:
		return s.err
	case s.closing:
		return s.described(&Error{Phase: PhaseSession, Local: true, Err: s.why})
	case len(s.out) > maxQueued:
		return s.described(&Error{Phase: PhaseSession, Err: errors.New("the peer reads nothing any more")})
	}
	return nil
}

// upLocked declares the session up if nothing of its opening is unanswered.
func (s *Session) upLocked() {
	if s.connected && s.opened && len(s.asked) == 0 && !s.up {
		s.up = true
		close(s.ready)
	}
}
