package sim

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

const (
	connectTimeout = 60 * time.Second // for the TLS handshake and CONNECT together
	writeTimeout   = 20 * time.Second // a client that takes nothing for so long is gone
	lingerTimeout  = time.Second      // how long a closed connection waits for the client to read the last words
	crowdedOutput  = 64 << 10         // bytes waiting for one client that make its owner stop and write
	maxOutput      = 1 << 20          // bytes waiting for one client, at most
)

// wire is one MQTT connection as the server sees it: packets in through rd, packets out through a bounded buffer that any goroutine
// may append to. One goroutine, the owner, reads, and flushes before each read that may block; packets from others are carried out
// by a goroutine that lives as long as there is something to write. So an idle connection costs one goroutine.
type wire struct {
	below *conn // the socket, with its faults
	tls   *tls.Conn
	via   carrier // tls itself, or WebSocket over it
	rd    packetReader
	jobs  *sync.WaitGroup // counts the short-lived writers

	over    atomic.Bool // hangUp was called
	crowded atomic.Bool // the owner should flush before it reads on
	onOver  func(reason string)
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

// carrier is what packets travel in.
type carrier interface {
	io.ReadWriter
	SetWriteDeadline(t time.Time) error
	CloseWrite() error // tells the client that nothing will follow
}

func newWire(below *conn, secure *tls.Conn, via carrier, limit int) *wire {
	w := &wire{below: below, tls: secure, via: via, jobs: &below.endpoint.jobs}
	w.free.L = &w.mu
	w.rd = packetReader{src: via, limit: limit}
	return w
}

// next returns the first byte and the body of the next packet. The body is valid until the next call.
func (w *wire) next() (first byte, body []byte, err error) { return w.rd.next() }

// letIn says that the client has said who it is. From now on the owner runs idle before each read that
// may block.
func (w *wire) letIn(idle func() error) {
	w.below.letIn()
	w.rd.idle = idle
}

// hungUp says whether hangUp was called.
func (w *wire) hungUp() bool { return w.over.Load() }

// isCrowded says that the owner should flush before it reads on.
func (w *wire) isCrowded() bool { return w.crowded.Load() }

// serverName is the name that the client asked for in TLS.
func (w *wire) serverName() string { return w.tls.ConnectionState().ServerName }

// held returns how many bytes the buffer of waiting packets takes.
func (w *wire) held() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return cap(w.out)
}

// expectWithin gives the client time for its next packet: as long as it may be silent, from now or
// from since, whichever is later. It returns io.EOF when the connection is over already.
func (w *wire) expectWithin(since time.Time, silence time.Duration) error {
	if w.over.Load() {
		return io.EOF
	}
	if now := time.Now(); now.After(since) {
		since = now
	}
	err := w.below.SetReadDeadline(since.Add(silence))
	if w.over.Load() || w.failure() != "" { // a hang-up in between has set a deadline that was just replaced
		return io.EOF
	}
	return err
}

// peerCertificates returns the chain that the client sent, leaf first.
func (w *wire) peerCertificates() []*x509.Certificate {
	return w.tls.ConnectionState().PeerCertificates
}

// handshake finishes TLS unless that is done, and leaves a deadline on the socket that covers the CONNECT to come.
func (w *wire) handshake() error {
	_ = w.below.SetDeadline(time.Now().Add(connectTimeout))
	return w.tls.HandshakeContext(context.Background()) // the deadline ends it, without a goroutine to watch
}

// hangUp ends the connection for a reason; only the first one counts. It does not block: the owner, woken from whatever it waits
// for, says goodbye on the socket. onOver runs before hangUp returns, so that nobody sees the connection as alive afterwards.
func (w *wire) hangUp(reason string) {
	w.once.Do(func() {
		w.over.Store(true)
		if w.onOver != nil {
			w.onOver(reason)
		}
		_ = w.below.SetReadDeadline(time.Unix(1, 0))
		w.mu.Lock()
		w.free.Broadcast()
		w.mu.Unlock()
	})
}

// close is the owner's last act: what is still waiting is written, then TLS's close_notify and FIN.
func (w *wire) close() {
	w.over.Store(true)
	w.dropLate()
	if !w.below.muted() && w.flush() == nil {
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

// add queues a packet for the owner's next flush, after delay.
func (w *wire) add(packet []byte, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(laneAll, packet, delay)
}

// addAcks queues PUBACKs. Delayed ones do not hold up other packets.
func (w *wire) addAcks(acks []byte, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(laneAcks, acks, delay)
}

// push queues a packet and sees to it that it goes out; it does not block and may be called with any lock held. A client that lets
// too much pile up is dropped.
func (w *wire) push(packet []byte, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(laneAll, packet, delay)
	if len(w.out) > maxOutput || w.late != nil && w.late.bytes > 2*maxOutput {
		w.fail("slow reader")
		return
	}
	w.startWriter()
}

// room says whether a large packet may be pushed. If not, more is called once, without locks, when the client has taken what waits;
// on a connection that is given up, never.
func (w *wire) room(more func()) bool {
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

// fail gives the connection up; the owner finds out by a read error. Called with mu held.
func (w *wire) fail(cause string) {
	if !w.dead {
		w.dead, w.cause, w.out = true, cause, nil
		_ = w.below.SetDeadline(time.Unix(1, 0))
		w.free.Broadcast()
	}
}

// failure is why the server itself gave the connection up, "" if it did not.
func (w *wire) failure() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

func (w *wire) enqueue(lane int, packet []byte, delay time.Duration) {
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

// crowd is called with mu held.
func (w *wire) crowd() {
	if len(w.out) > crowdedOutput || w.late != nil && w.late.bytes > maxOutput {
		w.crowded.Store(true)
	}
}

// startWriter is called with mu held.
func (w *wire) startWriter() {
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

// flush writes everything that is due, in the owner's goroutine: a client that does not read holds up only itself, and so does one
// that goes on sending while a slow hub's answers pile up.
func (w *wire) flush() error {
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

// drain is called with mu held and writing set.
func (w *wire) drain() (err error) {
	for len(w.out) > 0 && err == nil {
		batch := w.out
		w.out = nil
		w.mu.Unlock()
		_ = w.via.SetWriteDeadline(time.Now().Add(writeTimeout))
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
		w.fail("cannot write: " + errorText(err))
	}
	w.writing = false
	w.free.Broadcast()
	return err
}

// lateness holds packets of a slowed connection until they are due. PUBACKs have a lane of their own, because a throttled hub goes
// on answering everything else.
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

// delay is called with mu held.
func (w *wire) delay(lane int, packet []byte, d time.Duration) {
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

func (w *wire) releaseLate() {
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

// settle waits until nothing is late any more, so that a refusal is as slow as everything else.
func (w *wire) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.late != nil && !w.dead && !w.over.Load() {
		w.free.Wait()
	}
}

func (w *wire) dropLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late != nil {
		w.late.timer.Stop()
		w.late = nil
	}
}
