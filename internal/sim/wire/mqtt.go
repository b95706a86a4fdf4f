package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// WriteTimeout is how long a client may take nothing before it counts as gone.
const WriteTimeout = 20 * time.Second

const (
	connectTimeout = 60 * time.Second // for the TLS handshake and CONNECT together
	lingerTimeout  = time.Second      // how long a closed connection waits for the client to read the last words
	crowdedOutput  = 64 << 10         // bytes waiting for one client that make its owner stop and write
	maxOutput      = 1 << 20          // bytes waiting for one client, at most
)

// MQTT is one MQTT connection as the server sees it. Packets come in through Next; packets go out
// through a bounded buffer that any goroutine may append to. One goroutine, the owner, reads, and
// flushes before each read that may block. What other goroutines append is written by a goroutine
// that ends when nothing is left to write. So an idle connection costs one goroutine.
//
// Its mutex guards the buffer. It comes last: a holder takes no other lock.
type MQTT struct {
	below *Conn // the socket, with its faults
	tls   *tls.Conn
	via   Carrier // tls itself, or WebSocket over it
	rd    packetReader
	jobs  *sync.WaitGroup // counts the short-lived writers

	over    atomic.Bool // HangUp was called
	crowded atomic.Bool // the owner should flush before it reads on
	OnOver  func(reason string)
	once    sync.Once

	mu      sync.Mutex
	free    sync.Cond // signalled when writing becomes false
	out     []byte    // packets not yet handed to the socket
	writing bool
	dead    bool // nothing more can be written: out goes nowhere
	cause   string
	late    *lateness
	more    func() // somebody has more to send when there is room
}

// Carrier is the stream that packets travel in: TLS, or WebSocket over TLS.
type Carrier interface {
	io.ReadWriter
	SetWriteDeadline(t time.Time) error
	CloseWrite() error // tells the client that nothing will follow
}

// NewMQTT makes the connection on a socket, with TLS above it and packets in via. A packet may have
// at most limit bytes behind its length. The caller is the owner and must call Close.
func NewMQTT(below *Conn, secure *tls.Conn, via Carrier, limit int) *MQTT {
	w := &MQTT{below: below, tls: secure, via: via, jobs: &below.endpoint.jobs}
	w.free.L = &w.mu
	w.rd = packetReader{src: via, limit: limit}
	return w
}

// Next returns the first byte and the body of the next packet. The body is valid until the next
// call.
func (w *MQTT) Next() (first byte, body []byte, err error) { return w.rd.next() }

// LetIn says that the client has said who it is. From now on the owner runs idle before each read
// that may block.
func (w *MQTT) LetIn(idle func() error) {
	w.below.letIn()
	w.rd.idle = idle
}

// HungUp reports whether HangUp was called.
func (w *MQTT) HungUp() bool { return w.over.Load() }

// IsCrowded says that the owner should flush before it reads on.
func (w *MQTT) IsCrowded() bool { return w.crowded.Load() }

// ServerName is the name that the client asked for in TLS.
func (w *MQTT) ServerName() string { return w.tls.ConnectionState().ServerName }

// Held returns how many bytes the buffer of waiting packets takes. It is for tests.
func (w *MQTT) Held() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return cap(w.out)
}

// ExpectWithin gives the client time for its next packet: as long as it may be silent, from now or
// from since, whichever is later. It returns io.EOF when the connection is over already.
func (w *MQTT) ExpectWithin(since time.Time, silence time.Duration) error {
	if w.over.Load() {
		return io.EOF
	}
	if now := time.Now(); now.After(since) {
		since = now
	}
	err := w.below.SetReadDeadline(since.Add(silence))
	if w.over.Load() || w.Failure() != "" { // a hang-up in between has set a deadline that was just replaced
		return io.EOF
	}
	return err
}

// PeerCertificates returns the chain that the client sent, leaf first.
func (w *MQTT) PeerCertificates() []*x509.Certificate {
	return w.tls.ConnectionState().PeerCertificates
}

// Handshake finishes TLS unless that is done, and leaves a deadline on the socket that covers the
// CONNECT to come.
func (w *MQTT) Handshake() error {
	_ = w.below.SetDeadline(time.Now().Add(connectTimeout))
	return w.tls.HandshakeContext(context.Background()) // the deadline ends it, without a goroutine to watch
}

// HangUp ends the connection for a reason. Only the first reason counts. It does not block: it
// wakes the owner, which says goodbye on the socket. OnOver runs before HangUp returns, so that
// nobody sees the connection as alive afterwards.
func (w *MQTT) HangUp(reason string) {
	w.once.Do(func() {
		w.over.Store(true)
		if w.OnOver != nil {
			w.OnOver(reason)
		}
		_ = w.below.SetReadDeadline(time.Unix(1, 0))
		w.mu.Lock()
		w.free.Broadcast()
		w.mu.Unlock()
	})
}

// Reset ends the connection at once, for a reason, and with RST.
func (w *MQTT) Reset(reason string) { w.below.end(RST, reason) }

// Close is the owner's last act: it writes what is still waiting, then TLS's close_notify and FIN.
func (w *MQTT) Close() {
	w.over.Store(true)
	w.dropLate()
	if !w.below.muted() && w.Flush() == nil {
		_ = w.via.CloseWrite()
		w.below.sayGoodbye()
	}
	w.mu.Lock()
	w.dead = true
	w.out = nil
	w.mu.Unlock()
	_ = w.below.Close()
	w.rd.release()
}

// Add queues a packet for the owner's next flush, after delay.
func (w *MQTT) Add(packet []byte, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(laneAll, packet, delay)
}

// AddAcks queues PUBACKs. Delayed ones do not hold up other packets.
func (w *MQTT) AddAcks(acks []byte, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(laneAcks, acks, delay)
}

// Push queues a packet and sees to it that it goes out. It does not block and may be called with
// any lock held. A client that lets too much pile up is dropped.
func (w *MQTT) Push(packet []byte, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(laneAll, packet, delay)
	if len(w.out) > maxOutput || w.late != nil && w.late.bytes > 2*maxOutput {
		w.fail("slow reader")
		return
	}
	w.startWriter()
}

// Room reports whether a large packet may be pushed. If not, more is called once, without locks,
// when the client has taken what waits. On a connection that is given up it is never called.
func (w *MQTT) Room(more func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := len(w.out)
	if w.late != nil {
		waiting += w.late.bytes
	}
	if !w.dead && waiting <= maxOutput/2 {
		return true
	}
	w.more = more
	return false
}

// fail gives the connection up. The owner finds out by a read error. mu is held.
func (w *MQTT) fail(cause string) {
	if !w.dead {
		w.dead, w.cause, w.out = true, cause, nil
		_ = w.below.SetDeadline(time.Unix(1, 0))
		w.free.Broadcast()
	}
}

// Failure says why the server itself gave the connection up; it is empty if it did not.
func (w *MQTT) Failure() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

func (w *MQTT) enqueue(lane int, packet []byte, delay time.Duration) {
	if w.dead || len(packet) == 0 {
		return
	}
	if w.late != nil && len(w.late.lanes[laneAll]) > 0 {
		lane = laneAll // nothing overtakes a CONNACK, say, that is late
	}
	if delay > 0 || w.late != nil && len(w.late.lanes[lane]) > 0 {
		w.delay(lane, packet, delay)
		return
	}
	w.out = append(w.out, packet...)
	w.crowd()
}

// crowd tells the owner to flush if much is waiting. mu is held.
func (w *MQTT) crowd() {
	if len(w.out) > crowdedOutput || w.late != nil && w.late.bytes > maxOutput {
		w.crowded.Store(true)
	}
}

// startWriter starts a goroutine that writes what is waiting, unless one runs already. mu is held.
func (w *MQTT) startWriter() {
	if w.writing || w.dead || len(w.out) == 0 {
		return
	}
	w.writing = true
	w.jobs.Go(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		_ = w.drain()
	})
}

// Flush writes everything that is due, in the owner's goroutine. So a client that does not read, or
// goes on sending while a slow hub's answers pile up, holds up only itself.
func (w *MQTT) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.writing || w.late != nil && w.late.bytes > maxOutput && !w.dead && !w.over.Load() {
		w.free.Wait()
	}
	w.crowded.Store(false)
	if w.dead {
		return net.ErrClosed
	}
	if len(w.out) == 0 {
		return nil
	}
	w.writing = true
	return w.drain()
}

// drain writes until nothing is waiting. mu is held, but not while it writes, and writing is set.
func (w *MQTT) drain() (err error) {
	for len(w.out) > 0 && err == nil {
		batch := w.out
		w.out = nil
		w.mu.Unlock()
		_ = w.via.SetWriteDeadline(time.Now().Add(WriteTimeout))
		_, err = w.via.Write(batch)
		w.mu.Lock()
		if w.out == nil && cap(batch) <= 1024 { // a small buffer is worth keeping, a large one is not
			w.out = batch[:0]
		}
		if more := w.more; more != nil && len(w.out) == 0 && err == nil {
			w.more = nil
			w.mu.Unlock()
			more()
			w.mu.Lock()
		}
	}
	if err != nil {
		w.fail("cannot write: " + ErrorText(err))
	}
	w.writing = false
	w.free.Broadcast()
	return err
}

// lateness holds packets of a slowed connection until they are due. PUBACKs have a lane of their
// own, because a throttled hub goes on answering everything else.
type lateness struct {
	lanes [2][]latePacket
	bytes int
	timer *time.Timer
	at    time.Time // when timer fires
}

const (
	laneAll = iota
	laneAcks
)

type latePacket struct {
	due  time.Time
	data []byte
}

// delay queues a packet that is due after d. mu is held.
func (w *MQTT) delay(lane int, packet []byte, d time.Duration) {
	if w.late == nil {
		w.late = &lateness{}
	}
	queue := &w.late.lanes[lane]
	due := time.Now().Add(d)
	if n := len(*queue); n > 0 && (*queue)[n-1].due.After(due) {
		due = (*queue)[n-1].due // the order within a lane stays
	}
	*queue = append(*queue, latePacket{due, append([]byte(nil), packet...)})
	w.late.bytes += len(packet)
	w.crowd()
	w.late.wakeAt(due, w.releaseLate)
}

func (l *lateness) wakeAt(due time.Time, f func()) {
	switch {
	case l.timer == nil:
		l.timer = time.AfterFunc(time.Until(due), f)
	case due.Before(l.at):
		l.timer.Reset(time.Until(due))
	default:
		return
	}
	l.at = due
}

func (w *MQTT) releaseLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.late
	if l == nil || w.dead {
		return
	}
	now := time.Now()
	l.timer = nil
	w.late = nil
	for i, queue := range l.lanes {
		for len(queue) > 0 && !queue[0].due.After(now) {
			w.out = append(w.out, queue[0].data...)
			l.bytes -= len(queue[0].data)
			queue = queue[1:]
		}
		if l.lanes[i] = queue; len(queue) > 0 {
			w.late = l
			l.wakeAt(queue[0].due, w.releaseLate)
		}
	}
	w.startWriter()
	w.free.Broadcast()
}

// Settle waits until nothing is late any more, so that a refusal is as slow as everything else.
func (w *MQTT) Settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.late != nil && !w.dead && !w.over.Load() {
		w.free.Wait()
	}
}

func (w *MQTT) dropLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late != nil {
		w.late.timer.Stop()
		w.late = nil
	}
}
