package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

const (
	readBuffer    = 512
	maxInbound    = 512 << 10        // bytes of one packet; a hub sends 256 KB at most
	maxWaiting    = 1 << 20          // bytes received that Receive has not returned yet
	maxUnsettled  = 1024             // inbound messages without their PUBACK; a hub sends 50 at most
	maxUnwritten  = 1 << 20          // bytes to be written; above it the link reads nothing, because packets may want answers
	maxQueued     = 4 << 20          // bytes to be written; above it the link takes no messages from this side
	writeDeadline = 10 * time.Second // for each write
	goodbyeLimit  = time.Second      // to end TLS in order
	writeAtOnce   = 16 << 10         // of those that wait, so that a deadline is not about more

	// firstFlight bounds the one write that opens a session. It is what a new TCP connection may send before it hears anything (RFC
	// 6928: ten segments), less room for the framing of TLS: more would not arrive earlier, and a hub that refuses costs no more.
	firstFlight = 13 << 10
)

// Link is one session with one hub, from CONNACK to its end. Its methods may be called from any goroutine.
type Link struct {
	dialer  *Dialer
	attempt Attempt
	raw     net.Conn
	conn    *tls.Conn
	in      *bufio.Reader // the reader's own
	readAt  time.Time     // the reader's own: when it last had to wait
	tickets []uint64      // the reader's own: scratch

	wire    *wire  // under conn
	events  string // the telemetry topic, up to its property bag
	flusher func() // flush; kept, because to name a method afresh costs an allocation

	ready   chan struct{} // closed when the subscriptions are granted
	done    chan struct{} // closed at the end; err is set before
	arrived chan struct{} // one slot: the inbox has something
	renew   chan struct{} // closed when the token should be replaced
	wg      sync.WaitGroup

	mu         sync.Mutex // guards everything below
	err        error
	ended      bool
	opening    bool // the first write is being put together
	closing    bool // no new work: DISCONNECT is next
	out        []byte
	spare      []byte
	bag        bag           // writes property bags
	flushing   bool          // somebody writes, or is about to
	flushed    chan struct{} // closed when out is empty; nil when nobody waits
	settled    chan struct{} // closed when inflight is empty; nil when nobody waits
	connected  bool          // CONNACK 0 was received
	refused    bool          // another CONNACK was
	subscribed bool
	present    bool // the hub kept a session
	lastPID    uint16
	inflight   flight
	oldest     *publish          // what is in flight in order of sending
	newest     *publish          // its other end
	free       *publish          // used ones, for the next messages
	resend     map[string]uint16 // message id → packet id it had on the links before, to this hub
	reserved   map[uint16]bool   // the packet ids of those
	lastRID    uint64
	calls      map[string]chan *twinAnswer
	firstTwin  *request // the request that went out with the subscriptions, until Twin takes it
	inbox      []Inbound
	waiting    int         // bytes of the inbox
	room       *sync.Cond  // signalled when the reader may have room to go on
	acks       []*receipt  // of inbound QoS 1 packets, in order of arrival
	expires    time.Time   // of the token; zero with a certificate
	renewTimer *time.Timer // nil with a certificate
	keepAlive  time.Duration
	pace       pace
	watch      // the watchdog's
	stats      Stats

	// telling is the time, from setupSince on, since which the reader does not read because of this
	// side: it reports acknowledgements to a sender, or Receive is not called. 0: it reads.
	telling atomic.Int64
}

// publish is a PUBLISH without its PUBACK.
type publish struct {
	pid    uint16
	again  bool // sent before, so its round trip proves nothing
	mid    string
	sent   time.Time
	ticket uint64
	to     message.Completion

	before, next *publish
}

// receipt is what an inbound QoS 1 packet is owed.
type receipt struct {
	pid     uint16
	settled bool
}

// Stats counts what one link has carried.
type Stats struct {
	Host           string
	SessionPresent bool          // the hub had kept the session
	Published      uint64        // PUBLISHes sent with QoS 1
	Acked          uint64        // PUBACKs received for them
	StrayAcks      uint64        // PUBACKs for packet ids that were not in flight
	Suspicions     uint64        // times the link was suspected
	RTT            time.Duration // smoothed time from PUBLISH to PUBACK
}

// start sends the opening packets and sets the reader and the watchdog to work.
func (l *Link) start(connect []byte) {
	l.mu.Lock()
	l.opening = true
	l.out = append(l.out, connect...)
	if !l.attempt.Sequential {
		l.subscribeLocked()
		if early := l.attempt.Early; early != nil {
			l.mu.Unlock()
			early(l)
			l.mu.Lock()
		}
	}
	l.opening = false
	l.flushLocked()
	_ = l.armLocked(l.setupSince) // nothing can be overdue yet
	l.mu.Unlock()
	l.wg.Go(func() {
		defer l.contain("reading")
		l.read()
	})
}

// opened waits until the session is up, and ends it if ctx ends before. One that was up counts, however soon its peer closed it: that is
// the end of a link and not of an attempt.
func (l *Link) opened(ctx context.Context) bool {
	select {
	case <-l.ready:
	case <-l.done:
	case <-ctx.Done():
		l.lose(ctx.Err())
		return false
	}
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// subscribeLocked asks for what the device wants to hear, in one packet, gives back what it does not, and reads the twin.
func (l *Link) subscribeLocked() {
	d, id := l.dialer, l.attempt.DeviceID
	sub := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	unsub := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
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
			sub.Topics, sub.Qoss = append(sub.Topics, f.filter), append(sub.Qoss, f.qos)
		} else {
			unsub.Topics = append(unsub.Topics, f.filter)
		}
	}
	var out bytes.Buffer
	if len(unsub.Topics) > 0 {
		unsub.MessageID = l.nextPIDLocked()
		_ = unsub.Write(&out)
	}
	if len(sub.Topics) > 0 {
		sub.MessageID = l.nextPIDLocked()
		_ = sub.Write(&out)
	}
	l.out = append(l.out, out.Bytes()...)
	if d.Twin {
		l.firstTwin = l.callLocked("$iothub/twin/GET/?$rid=", nil)
	}
	if len(sub.Topics) == 0 && l.connected {
		l.readyLocked()
	}
}

func (l *Link) readyLocked() {
	if !l.subscribed {
		l.subscribed = true
		close(l.ready)
	}
}

// Host is the hub, spelled as it was dialled.
func (l *Link) Host() string { return l.attempt.Host }

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err waits for the end of the link and says why it ended: always an [*Error], and always the first reason.
func (l *Link) Err() error { <-l.done; return l.err }

// Renew is closed when the SAS token has used up 80 to 90 % of its life, a short one earlier: time
// for a planned reconnect. It never closes with a certificate.
func (l *Link) Renew() <-chan struct{} { return l.renew }

// Expires is the end of the SAS token, zero with a certificate. A hub closes the link then.
func (l *Link) Expires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expires
}

// Hasten says that the SAS token ends earlier than its maker believed, whose clock was slow. The link asks to be renewed now.
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

// Stats returns a snapshot of the link's counters.
func (l *Link) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Host, s.SessionPresent, s.RTT = l.attempt.Host, l.present, l.srtt
	return s
}

// Carried reports whether a PUBACK was received: only then has the link proved that it is of use.
func (l *Link) Carried() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats.Acked > 0
}

// Window is how many PUBLISHes this link wants in flight: the configured number, less while the hub is slow to acknowledge.
func (l *Link) Window() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.window
}

// Publish is Send for one message. done is called with what became of it.
func (l *Link) Publish(m message.Outgoing, done func(error)) error {
	_, err := l.Send([]message.Outgoing{m}, &single{done})
	return err
}

type single struct{ done func(error) }

func (s *single) Done(_ []uint64, err error) { s.done(err) }

// Send sends messages with QoS 1, in order, and keeps nothing of them but their ids. It returns how many it has taken, as soon as
// they are queued. Each of those is completed exactly once: with nil on the real PUBACK, or with the reason of the link's end. An
// error is about the first message that it has not taken. A message no hub would take is a [*MessageError]. While the first write is
// put together (see [Attempt].Early), what does not fit into it is refused with [ErrNoRoom].
//
// A completion that waits for a disk is not held against the hub, although the link reads nothing meanwhile.
func (l *Link) Send(messages []message.Outgoing, to message.Completion) (int, error) {
	taken, write, err := l.take(messages, to)
	if write {
		l.flush(true)
	}
	return taken, err
}

// take queues messages. write says that the caller must write them now. Nobody else writes at that
// moment, and it is cheaper to write what the socket takes than to wake another goroutine.
func (l *Link) take(messages []message.Outgoing, to message.Completion) (taken int, write bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	err = l.openLocked()
	for ; taken < len(messages) && err == nil; taken++ {
		if err = l.sendLocked(&messages[taken], to, now); err != nil {
			break
		}
	}
	if taken == 0 {
		return 0, false, err
	}
	l.pace.sent(now)
	l.owedLocked(now)
	if l.flushing || l.ended || l.opening || !l.wire.canTry() {
		l.flushLocked()
		return taken, false, err
	}
	l.flushing = true
	l.wg.Add(1)
	return taken, true, err
}

// sendLocked queues one message.
func (l *Link) sendLocked(m *message.Outgoing, to message.Completion, now time.Time) error {
	own, common, err := l.bag.encode(m)
	if err != nil {
		return err
	}
	topic := len(l.events) + bagLength(own, common)
	if err := checkSize(topic, len(m.Body), l.bag.size()); err != nil {
		return err
	}
	if l.opening && len(l.out)+topic+len(m.Body)+9 > firstFlight {
		return ErrNoRoom
	}
	p := l.takeLocked()
	p.sent, p.ticket, p.to = now, m.Ticket, to
	p.mid = m.ID
	if len(l.resend) > 0 && p.mid != "" {
		if p.pid, p.again = l.resend[p.mid]; p.again {
			delete(l.resend, p.mid)
			delete(l.reserved, p.pid)
		}
	}
	if !p.again {
		p.pid = l.nextPIDLocked()
	}
	l.inflight.put(p)
	if p.before = l.newest; p.before == nil {
		l.oldest = p
	} else {
		l.newest.next = p
	}
	l.newest = p
	l.out = appendPublish(l.out, l.events, own, common, m.Body, 1, p.again, p.pid)
	l.stats.Published++
	return nil
}

// takeLocked returns a publish to fill in.
func (l *Link) takeLocked() *publish {
	p := l.free
	if p == nil {
		return new(publish)
	}
	l.free = p.next
	*p = publish{}
	return p
}

// Settle waits until every PUBLISH of this link is acknowledged, or ctx or the link ends.
func (l *Link) Settle(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.inflight.count == 0 {
			l.mu.Unlock()
			return nil
		}
		if l.settled == nil {
			l.settled = make(chan struct{})
		}
		settled := l.settled
		l.mu.Unlock()
		select {
		case <-settled:
		case <-l.done:
			return l.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close ends the link in order: what is queued is written, then DISCONNECT, so that the hub sends no will and keeps the session.
// It waits for the link's goroutines, and until ctx ends for the writes.
func (l *Link) Close(ctx context.Context) {
	l.mu.Lock()
	if !l.ended && !l.closing {
		l.closing = true
		l.out = append(l.out, packets.Disconnect<<4, 0)
		l.flushed = make(chan struct{})
		flushed := l.flushed
		l.flushLocked()
		l.mu.Unlock()
		select {
		case <-flushed:
		case <-l.done:
		case <-ctx.Done():
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
	l.end(ErrClosed, false)
	l.join()
}

// Abort gives the link up at once, with a reset, so that nothing of it arrives later. It waits for the link's goroutines.
func (l *Link) Abort() {
	l.end(ErrClosed, true)
	l.join()
}

// join waits until the link has ended and nothing of it runs any more.
func (l *Link) join() {
	<-l.done
	l.wg.Wait()
}

// lose ends the link for a reason.
func (l *Link) lose(err error) { l.end(err, true) }

// end is the one place where a link ends: the first reason wins, and all waiting callers get it.
func (l *Link) end(err error, hard bool) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.ended = true
	l.err = l.describeLocked(err)
	pending := l.oldest
	unacked := l.resend
	if unacked == nil || len(unacked) > l.maxWindow { // what has arrived at another hub would stay for ever; the others lose their DUP flag
		unacked = map[string]uint16{}
	}
	for p := pending; p != nil; p = p.next {
		// A hub that refuses the session has looked at nothing behind the CONNECT: only what it had before may be there already.
		if p.mid != "" && (p.again || !l.refused) {
			unacked[p.mid] = p.pid
		}
	}
	l.oldest, l.newest, l.free, l.inflight, l.inbox, l.acks, l.out = nil, nil, nil, flight{}, nil, nil, nil
	l.room.Broadcast()
	l.stopLocked()
	if l.renewTimer != nil {
		l.renewTimer.Stop()
	}
	left, pace := memory{unacked, l.variedLocked()}, l.pace.next()
	l.mu.Unlock()

	l.dialer.remember(l.attempt.Host, left, pace)
	if hard {
		reset(l.raw)
	} else {
		late := time.AfterFunc(goodbyeLimit, func() { reset(l.raw) })
		_ = l.conn.Close()
		late.Stop()
	}
	defer close(l.done)
	var tickets []uint64
	for p := pending; p != nil; p = p.next {
		tickets = append(tickets, p.ticket)
		if p.next == nil || p.next.to != p.to {
			l.failed(p.to, tickets)
			tickets = tickets[:0]
		}
	}
}

// failed tells a sender that the link has ended. If the sender panics, the others are told all the
// same.
func (l *Link) failed(to message.Completion, tickets []uint64) {
	defer func() {
		if p := recover(); p != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.err = l.describeLocked(bug("telling a sender", p))
		}
	}()
	to.Done(tickets, l.err)
}

// describeLocked gives an end its phase and, where this side knows better than the network, its reason.
func (l *Link) describeLocked(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := l.attempt.failed(PhaseSession, ended(err))
	switch {
	case !l.connected:
		e.Phase, e.Pipelined = PhaseConnect, !l.attempt.Sequential
	case !l.subscribed:
		e.Phase = PhaseSubscribe
	case !l.expires.IsZero() && time.Now().After(l.expires) && !errors.Is(err, ErrClosed):
		e.Err = fmt.Errorf("%w: %w", ErrTokenExpired, e.Err)
	}
	return e
}

func (l *Link) openLocked() error {
	switch {
	case l.ended:
		return l.err
	case l.closing:
		return l.attempt.failed(PhaseSession, ErrClosed)
	case len(l.out) > maxQueued:
		return l.attempt.failed(PhaseSession, errors.New("the peer reads nothing any more"))
	}
	return nil
}

// nextPIDLocked finds a free packet id: not in flight, and not kept for a message of the links before. Three windows of them at most are taken.
func (l *Link) nextPIDLocked() uint16 {
	for {
		l.lastPID++
		if l.lastPID == 0 || l.inflight.taken(l.lastPID) || l.reserved[l.lastPID] {
			continue
		}
		return l.lastPID
	}
}

// flight finds what is in flight by its packet id, in a table that is twice as large as it must be. Ids that are given in turn find
// their places free.
type flight struct {
	table []*publish // a power of two; by the low bits of the id
	count int
}

func (f *flight) at(pid uint16) **publish { return &f.table[int(pid)&(len(f.table)-1)] }

func (f *flight) get(pid uint16) *publish {
	if len(f.table) == 0 {
		return nil
	}
	if p := *f.at(pid); p != nil && p.pid == pid {
		return p
	}
	return nil
}

// taken says that an id is in flight, or would only be in the way.
func (f *flight) taken(pid uint16) bool {
	return f.count < len(f.table)/2 && *f.at(pid) != nil || f.get(pid) != nil
}

func (f *flight) put(p *publish) {
	for f.count >= len(f.table)/2 || *f.at(p.pid) != nil { // with all 65,536 places it is the id that is taken, which its giver has ruled out
		old := f.table
		f.table = make([]*publish, max(16, 2*len(old)))
		for _, x := range old {
			if x != nil {
				*f.at(x.pid) = x
			}
		}
	}
	*f.at(p.pid) = p
	f.count++
}

func (f *flight) remove(p *publish) {
	*f.at(p.pid) = nil
	f.count--
}

// flushLocked sees to it that somebody is writing. Whatever is queued meanwhile goes out with the next write.
func (l *Link) flushLocked() {
	if !l.flushing && !l.ended && !l.opening {
		l.flushing = true
		l.wg.Add(1)
		go l.flusher()
	}
}

// flush writes what is queued until nothing is. Who must not wait says so: then, once the peer takes no more, another goroutine goes on.
func (l *Link) flush(hurry bool) {
	defer l.wg.Done()
	if !hurry { // else the caller knows what to do with its panics
		defer l.contain("writing")
	}
	for {
		var err error
		if !hurry {
			err = l.wire.write()
		} else if !l.wire.try() {
			l.wg.Add(1)
			go l.flusher()
			return
		}
		if err != nil {
			l.loseWrite(err)
			return
		}
		l.mu.Lock()
		if len(l.out) == 0 || l.ended {
			l.flushing = false
			if l.flushed != nil {
				close(l.flushed)
				l.flushed = nil
			}
			l.mu.Unlock()
			return
		}
		buf := l.out
		l.out = l.spare[:0]
		l.spare = nil
		l.lastOut = time.Now()
		l.room.Signal()
		l.mu.Unlock()

		l.trace(true, buf)
		if err := l.wire.seal(l.conn, buf); err != nil {
			l.wg.Go(func() { l.loseWrite(err) }) // which may wait
			return
		}
		l.mu.Lock()
		l.spare = buf
		l.mu.Unlock()
	}
}

// restLocked gives back what only a busy link needs, so that neither the opening nor one large message stays in memory for its life.
func (l *Link) restLocked() {
	if len(l.out) == 0 && !l.flushing {
		l.out, l.spare, l.bag, l.free = nil, nil, bag{}, nil
		l.inflight = flight{}
		l.wire.rest()
	}
}

// loseWrite ends the link for a failed write. The reader may know better: a CONNACK that refuses, then a close, is a refusal,
// though the write noticed it first.
func (l *Link) loseWrite(err error) {
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		select {
		case <-l.done:
		case <-time.After(time.Second):
		}
	}
	l.lose(err)
	l.mu.Lock()
	l.flushing = false
	l.mu.Unlock()
}

// read is the link's one permanent goroutine.
func (l *Link) read() {
	for {
		if err := l.readPacket(); err != nil {
			l.lose(err)
			return
		}
	}
}

func (l *Link) readPacket() error {
	waited := l.in.Buffered() < 4 // else it came together with the one before, and the clock need not be asked again
	head, length, size, err := l.header()
	if err != nil {
		return err
	}
	if waited {
		l.readAt = time.Now()
	}
	if head == packets.Puback<<4 && size == 2 { // the most frequent packets are parsed in place, all that are buffered
		b, err := l.in.Peek(max(4, l.in.Buffered()))
		if err != nil {
			return noEOF(err)
		}
		n, err := l.pubacks(b, l.readAt)
		l.trace(false, b[:n])
		_, _ = l.in.Discard(n)
		return err
	}
	f, err := l.frame(head, length, size)
	if err != nil {
		return err
	}
	l.traceFrame(f)
	return l.handle(f, time.Now())
}

// pubacks handles the PUBACKs at the start of b, at least one, up to the first for another sender.
// It returns how many bytes they have.
func (l *Link) pubacks(b []byte, now time.Time) (n int, err error) {
	n, to, since, err := l.acknowledged(b, now)
	if to != nil {
		l.telling.Store(int64(since) + 1)
		to.Done(l.tickets, nil)
		l.telling.Store(0)
	}
	return n, err
}

// acknowledged fills l.tickets with the messages that the PUBACKs acknowledge. It returns the
// sender to tell, and since, the time at which telling begins.
func (l *Link) acknowledged(b []byte, now time.Time) (n int, to message.Completion, since time.Duration, err error) {
	l.tickets = l.tickets[:0]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heardLocked(now)
	if !l.connected {
		return 0, nil, 0, fmt.Errorf("%w: PUBACK before CONNACK", ErrProtocol)
	}
	for ; len(b) >= n+4 && b[n] == packets.Puback<<4 && b[n+1] == 2; n += 4 {
		p := l.inflight.get(binary.BigEndian.Uint16(b[n+2:]))
		if p == nil { // nothing is acknowledged that was not sent
			l.stats.StrayAcks++
			continue
		}
		if to != nil && p.to != to {
			break
		}
		to = p.to
		l.inflight.remove(p)
		l.tickets = append(l.tickets, p.ticket)
		l.ackedLocked(p, now)
		l.forgetLocked(p, now)
	}
	l.stats.Acked += uint64(len(l.tickets))
	if to != nil && l.inflight.count == 0 && l.settled != nil {
		close(l.settled)
		l.settled = nil
	}
	return n, to, now.Sub(l.setupSince), nil
}

// forgetLocked takes a message out of what is in flight.
func (l *Link) forgetLocked(p *publish, now time.Time) {
	if p.before == nil {
		l.oldest, l.turned = p.next, now
	} else {
		p.before.next = p.next
	}
	if p.next == nil {
		l.newest = p.before
	} else {
		p.next.before = p.before
	}
	p.before, p.next, p.to, p.mid = nil, l.free, nil, ""
	l.free = p
}

func (l *Link) handle(f frame, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heardLocked(now)
	switch {
	case f.kind == packets.Connack:
		return l.connackLocked(f)
	case !l.connected:
		return fmt.Errorf("%w: %s before CONNACK", ErrProtocol, packets.PacketNames[f.kind])
	}
	switch f.kind {
	case packets.Suback:
		if f.code != 0 {
			return fmt.Errorf("%w by the hub (SUBACK %#x)", ErrSubscription, f.code)
		}
		l.readyLocked()
	case packets.Publish:
		if err := l.publishLocked(f); err != nil {
			return err
		}
		l.waitForRoomLocked(now)
	case packets.Pingresp:
		l.pingSent = time.Time{}
	}
	return nil
}

func (l *Link) connackLocked(f frame) error {
	switch {
	case l.connected:
		return fmt.Errorf("%w: a second CONNACK", ErrProtocol)
	case f.code != 0:
		l.refused = true
		e := l.attempt.failed(PhaseConnect, connackError(f.code))
		e.Code = f.code
		return e
	}
	l.connected, l.present = true, f.flag
	if l.attempt.Sequential {
		l.subscribeLocked()
		l.flushLocked()
	} else if d := l.dialer; !d.C2D && !d.Methods && !d.Twin && !d.Desired {
		l.readyLocked()
	}
	return nil
}

// publishLocked sorts what the hub sends. A QoS 1 packet that no one has to handle is acknowledged as soon as its turn comes.
func (l *Link) publishLocked(f frame) error {
	in, answer := parseTopic(l.attempt.DeviceID, f.name, f.body)
	var r *receipt
	if f.qos > 0 {
		if len(l.acks) >= maxUnsettled {
			return fmt.Errorf("%w: %d inbound messages are waiting for an older one to be settled", ErrProtocol, len(l.acks))
		}
		r = &receipt{pid: f.pid}
		l.acks = append(l.acks, r)
	}
	switch {
	case answer != nil:
		if waiting := l.calls[answer.rid]; waiting != nil {
			delete(l.calls, answer.rid)
			waiting <- answer // it has room for one
		}
	case in != nil:
		if m, ok := in.(*Message); ok {
			m.Duplicate, m.receipt = f.flag, r
			r = nil // Complete settles it
		}
		l.inbox = append(l.inbox, in)
		l.waiting += in.Size()
		select {
		case l.arrived <- struct{}{}:
		default:
		}
	}
	if r != nil {
		r.settled = true
		l.acknowledgeLocked()
	}
	return nil
}

// waitForRoomLocked blocks the reader while there is no room, so that TCP slows the peer down.
// There is room again when Receive takes a value, or when the peer reads its answers.
func (l *Link) waitForRoomLocked(now time.Time) {
	since := int64(now.Sub(l.setupSince)) + 1
	for !l.ended && (l.waiting > maxWaiting || len(l.out) > maxUnwritten) {
		if l.waiting > maxWaiting { // this side causes the wait: the watchdog must not take it for silence of the peer
			l.telling.Store(since)
		} else {
			l.telling.Store(0)
		}
		l.room.Wait()
	}
	l.telling.Store(0)
}

// acknowledgeLocked sends the PUBACKs whose turn has come: a hub ignores, or punishes, those out of
// order.
func (l *Link) acknowledgeLocked() {
	for len(l.acks) > 0 && l.acks[0].settled {
		pid := l.acks[0].pid
		l.acks = l.acks[1:]
		l.out = append(l.out, packets.Puback<<4, 2, byte(pid>>8), byte(pid))
		l.flushLocked()
	}
}

// request is a request about the twin that waits for its answer.
type request struct {
	rid    string
	answer chan *twinAnswer // buffered, for one answer
}

// callLocked sends a twin request, QoS 0, and registers for its answer.
func (l *Link) callLocked(topic string, body []byte) *request {
	l.lastRID++
	r := &request{strconv.FormatUint(l.lastRID, 16), make(chan *twinAnswer, 1)}
	l.calls[r.rid] = r.answer
	l.out = appendPublish(l.out, topic+r.rid, nil, nil, body, 0, false, 0)
	l.flushLocked()
	return r
}

func (l *Link) call(ctx context.Context, topic string, body []byte) (*twinAnswer, error) {
	l.mu.Lock()
	if err := l.openLocked(); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	r := l.callLocked(topic, body)
	l.mu.Unlock()
	return l.await(ctx, r)
}

func (l *Link) await(ctx context.Context, r *request) (*twinAnswer, error) {
	select {
	case a := <-r.answer:
		return a, a.err()
	case <-l.done:
		return nil, l.err
	case <-ctx.Done(): // a late answer is dropped, because the next request has another number
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.calls, r.rid)
		return nil, ctx.Err()
	}
}

// TwinDocument is the twin as its device sees it: no tags, no metadata.
type TwinDocument struct {
	Desired, Reported map[string]json.RawMessage // without $version
	DesiredVersion    int64
	ReportedVersion   int64
}

// Twin reads the twin. The first call takes the answer to the request that went out with the
// subscriptions. A refusal by the hub is a [*TwinError]; an answer that is not a twin, or has more
// than 256 KiB, wraps [ErrTwin].
func (l *Link) Twin(ctx context.Context) (TwinDocument, error) {
	l.mu.Lock()
	first := l.firstTwin
	l.firstTwin = nil
	l.mu.Unlock()
	var a *twinAnswer
	var err error
	if first != nil {
		a, err = l.await(ctx, first)
	} else {
		a, err = l.call(ctx, "$iothub/twin/GET/?$rid=", nil)
	}
	if err != nil {
		return TwinDocument{}, err
	}
	if a.size > maxTwin {
		return TwinDocument{}, fmt.Errorf("%w: it has %d bytes; at most %d are accepted", ErrTwin, a.size, maxTwin)
	}
	return parseTwin(a.body)
}

// parseTwin reads a twin. Both parts must be objects: a document without them is not the twin of a
// device, and its empty parts must not be taken for removed properties.
func parseTwin(body []byte) (TwinDocument, error) {
	var doc struct{ Desired, Reported map[string]json.RawMessage }
	switch err := json.Unmarshal(body, &doc); {
	case err != nil:
		return TwinDocument{}, fmt.Errorf("%w: %w", ErrTwin, err)
	case doc.Desired == nil:
		return TwinDocument{}, fmt.Errorf("%w: it has no object \"desired\"", ErrTwin)
	case doc.Reported == nil:
		return TwinDocument{}, fmt.Errorf("%w: it has no object \"reported\"", ErrTwin)
	}
	t := TwinDocument{Desired: doc.Desired, Reported: doc.Reported}
	t.DesiredVersion = takeVersion(t.Desired)
	t.ReportedVersion = takeVersion(t.Reported)
	return t, nil
}

// takeVersion reads $version and drops it with whatever else is not a property.
func takeVersion(props map[string]json.RawMessage) int64 {
	n := parseVersion(string(props["$version"]))
	for name := range props {
		if name != "" && name[0] == '$' {
			delete(props, name)
		}
	}
	return n
}

// Report merges a patch into the reported properties and returns their new version. An answer other than success is a
// [*TwinError].
func (l *Link) Report(ctx context.Context, patch []byte) (version int64, err error) {
	a, err := l.call(ctx, "$iothub/twin/PATCH/properties/reported/?$rid=", patch)
	if err != nil {
		return 0, err
	}
	return a.version, nil
}

// appendPublish encodes a PUBLISH by hand: it is the packet everything else is measured by. The topic comes with its property bag, if it
// has one, which is in two parts.
func appendPublish(out []byte, topic string, bag, common, body []byte, qos byte, dup bool, pid uint16) []byte {
	head := byte(packets.Publish<<4) | qos<<1
	name := len(topic) + bagLength(bag, common)
	size := 2 + name + len(body)
	if dup {
		head |= 1 << 3
	}
	if qos > 0 {
		size += 2
	}
	out = append(out, head)
	for {
		b := byte(size & 0x7f)
		if size >>= 7; size > 0 {
			out = append(out, b|0x80)
			continue
		}
		out = append(out, b)
		break
	}
	out = append(out, byte(name>>8), byte(name))
	out = append(out, topic...)
	out = append(out, bag...)
	if len(bag) > 0 && len(common) > 0 {
		out = append(out, '&')
	}
	out = append(out, common...)
	if qos > 0 {
		out = append(out, byte(pid>>8), byte(pid))
	}
	return append(out, body...)
}

// bagLength is that of a property bag in two parts, with what separates them.
func bagLength(bag, common []byte) int {
	n := len(bag) + len(common)
	if len(bag) > 0 && len(common) > 0 {
		n++
	}
	return n
}
