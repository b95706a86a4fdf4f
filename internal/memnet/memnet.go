// Package memnet is a network in memory. With it a whole outage, with the real client and the real
// simulator at its two ends, runs in the virtual time of testing/synctest, which cannot wait for a
// kernel.
//
// It imitates what a device notices of TCP, and nothing else: a refused dial, a dial without an
// answer, an orderly end (io.EOF), a reset (ECONNRESET, and the data under way is gone), a path
// that swallows every byte, buffers that fill up, deadlines, and a delay that may vary and that
// grows with lost segments. Its errors have the types of those of package net, so code that
// classifies them sees no difference.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferBytes is how much one direction of a connection holds before its writer must wait, like the
// buffers of a socket.
const bufferBytes = 256 << 10

const (
	segmentBytes = 1400                   // data of a TCP segment
	firstRTO     = time.Second            // retransmission timeout before a round trip is known (RFC 6298)
	minRTO       = 200 * time.Millisecond // the shortest one of common systems
)

// Net is one in-memory network. Its methods may be called from any goroutine.
type Net struct {
	mu        sync.Mutex
	delay     time.Duration
	jitter    time.Duration
	loss      float64
	chance    *rand.Rand
	listeners map[string]*listener
	cut       map[string]bool
	conns     map[*conn]string // the dialling side of each open connection → the address
	dials     map[string]int
	nextPort  int
}

// New returns an empty network without delay.
func New() *Net {
	return &Net{
		listeners: map[string]*listener{}, cut: map[string]bool{}, conns: map[*conn]string{}, dials: map[string]int{},
		nextPort: 40000,
	}
}

// SetDelay makes every byte take d from now on, in each direction. A dial takes it twice.
func (n *Net) SetDelay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = d
}

// SetWeather makes each segment of either direction take up to jitter longer than the delay, evenly
// spread, and loses the share loss of them. As in TCP, a lost segment arrives later, a
// retransmission timeout for each time that it was lost, and holds up everything sent behind it.
// The timeout is that of RFC 6298 for such a path. It does not double, because later segments tell
// the sender which ones arrived (RFC 8985). Nothing follows a SYN, so that is repeated after 1 s, 2
// s, 4 s.
func (n *Net) SetWeather(jitter time.Duration, loss float64, seed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.jitter, n.loss, n.chance = jitter, loss, rand.New(rand.NewPCG(seed, 0))
}

// arrival is when size bytes that are sent now will have arrived.
func (n *Net) arrival(size int) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	longest := time.Duration(0)
	for range 1 + max(0, size-1)/segmentBytes {
		d := n.tripLocked()
		for n.lostLocked() {
			// The round trip is the sum of two even spreads: its mean deviation is a third of one.
			d += max(minRTO, 2*n.delay+n.jitter+4*n.jitter/3)
		}
		longest = max(longest, d)
	}
	return time.Now().Add(longest)
}

// handshake is how long a SYN and its answer take.
func (n *Net) handshake() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := time.Duration(0)
	for rto := firstRTO; ; rto *= 2 {
		there, back := n.lostLocked(), n.lostLocked()
		if !there && !back {
			break
		}
		d += rto
	}
	return d + n.tripLocked() + n.tripLocked()
}

func (n *Net) tripLocked() time.Duration {
	if n.jitter <= 0 {
		return n.delay
	}
	return n.delay + time.Duration(n.chance.Int64N(int64(n.jitter)))
}

func (n *Net) lostLocked() bool { return n.loss > 0 && n.chance.Float64() < n.loss }

// Cut makes the path to addr ("host:port") swallow everything until Mend, in both directions, for
// present and future connections. Neither end gets an error: only the silence shows such an outage.
func (n *Net) Cut(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[addr] = true
}

// Mend ends a Cut. Swallowed data stays lost, so a connection that lived through the cut is of no
// use any more, like one that a NAT has forgotten.
func (n *Net) Mend(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, addr)
}

// Dials returns how many dials to addr were made, also failed ones.
func (n *Net) Dials(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[addr]
}

// Open returns how many connections to addr a client still holds open.
func (n *Net) Open(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, a := range n.conns {
		if a == addr {
			count++
		}
	}
	return count
}

func (n *Net) isCut(addr string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[addr]
}

// Listen listens at addr; port 0 picks a free port. A second listener at the same address is
// refused with EADDRINUSE.
func (n *Net) Listen(network, addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		n.nextPort++
		port = fmt.Sprint(n.nextPort)
	}
	addr = net.JoinHostPort(host, port)
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: address(addr), Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{net: n, addr: addr, backlog: make(chan net.Conn, 1024), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// DialContext connects to a listener. Without a listener it fails with ECONNREFUSED. On a cut path
// it waits until ctx ends.
func (n *Net) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[addr]++
	cut := n.cut[addr]
	n.mu.Unlock()
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: address(addr), Err: err}
	}
	if cut {
		<-ctx.Done()
		return fail(ctxError(ctx))
	}
	if d := n.handshake(); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return fail(ctxError(ctx))
		}
	}
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	if err := l.waitHearing(ctx); err != nil {
		return fail(err)
	}
	if ctx.Err() != nil {
		return fail(ctxError(ctx))
	}
	n.mu.Lock()
	n.nextPort++
	local := net.JoinHostPort("127.0.0.1", fmt.Sprint(n.nextPort))
	n.mu.Unlock()
	client, server := n.pair(local, addr)
	select {
	case <-l.closed:
	default:
		select {
		case l.backlog <- server:
			n.mu.Lock()
			n.conns[client] = addr
			n.mu.Unlock()
			return client, nil
		case <-l.closed:
		case <-ctx.Done():
			return fail(ctxError(ctx))
		}
	}
	return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
}

// ctxError returns the error that package net returns for an ended context. A timeout keeps its
// type, so it is not mistaken for a cancellation.
func ctxError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return ctx.Err()
}

type listener struct {
	net     *Net
	addr    string
	backlog chan net.Conn
	once    sync.Once
	closed  chan struct{}

	mu    sync.Mutex
	heard chan struct{} // closed when SYNs are answered again; nil while they are
}

// DropSYNs leaves dials unanswered until restore is called. Dials that still wait then get through,
// because a SYN is repeated.
func (l *listener) DropSYNs() (restore func() error, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heard != nil {
		return nil, errors.New("SYNs are dropped already")
	}
	l.heard = make(chan struct{})
	return func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		close(l.heard)
		l.heard = nil
		return nil
	}, nil
}

// waitHearing waits until a SYN is answered.
func (l *listener) waitHearing(ctx context.Context) error {
	l.mu.Lock()
	heard := l.heard
	l.mu.Unlock()
	if heard == nil {
		return nil
	}
	select {
	case <-heard:
		return nil
	case <-l.closed:
		return nil // the dial itself returns the error
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

// Close refuses new dials, and resets the connections that nobody has accepted yet, as a kernel
// does.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				_ = c.(*conn).SetLinger(0)
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// pair makes the two ends of one connection.
func (n *Net) pair(local, remote string) (client, server *conn) {
	up, down := newPipe(n.arrival), newPipe(n.arrival)
	client = &conn{net: n, path: remote, in: down, out: up, local: address(local), remote: address(remote), linger: -1}
	server = &conn{net: n, path: remote, in: up, out: down, local: address(remote), remote: address(local), linger: -1}
	return client, server
}

type conn struct {
	net           *Net
	path          string
	in, out       *pipe
	local, remote address

	mu     sync.Mutex
	linger int
	closed bool
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.net.isCut(c.path) || c.out.isLost() { // the local buffer accepts it, and it never arrives
		n, err := c.out.swallow(p)
		return n, c.wrap("write", err)
	}
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

func (c *conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// SetLinger is like that of net.TCPConn: with 0, Close resets the connection.
func (c *conn) SetLinger(sec int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.linger = sec
	return nil
}

func (c *conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.wrap("close", net.ErrClosed)
	}
	c.closed = true
	reset := c.linger == 0
	c.mu.Unlock()
	c.net.mu.Lock()
	delete(c.net.conns, c)
	cut := c.net.cut[c.path]
	c.net.mu.Unlock()
	c.in.closeReader(reset && !cut)
	c.out.closeWriter(reset, cut)
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setReadDeadline(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }

// pipe is one direction of a connection: chunks, each with the time from which it may be read.
type pipe struct {
	arrival  func(size int) time.Time // of data that is sent now
	mu       sync.Mutex
	cond     *sync.Cond
	last     time.Time // the latest arrival so far; no later chunk arrives before it
	chunks   []chunk
	size     int
	end      error     // what the reader gets once the chunks are read: io.EOF or a reset
	endAt    time.Time // when the reader may get it
	noReader error     // what the writer gets from now on
	rclosed  bool      // the reading side closed it itself
	wclosed  bool      // the writing side closed it itself
	lost     bool      // something was swallowed, so everything behind it is swallowed too
	writing  bool      // somebody writes, and others wait: a write is never parted by another one
	rdl, wdl deadline
}

type chunk struct {
	at   time.Time
	data []byte
}

type deadline struct {
	timer   *time.Timer
	expired bool
}

func newPipe(arrival func(size int) time.Time) *pipe {
	p := &pipe{arrival: arrival}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// nextArrival is when size bytes that are sent now may be read.
func (p *pipe) nextArrival(size int) time.Time {
	if t := p.arrival(size); t.After(p.last) {
		p.last = t
	}
	return p.last
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.rclosed:
			return 0, net.ErrClosed
		case p.rdl.expired:
			return 0, os.ErrDeadlineExceeded
		case errors.Is(p.end, syscall.ECONNRESET) && !p.early(p.endAt):
			return 0, p.end
		case len(p.chunks) > 0 && !p.early(p.chunks[0].at):
			n := copy(b, p.chunks[0].data)
			if p.chunks[0].data = p.chunks[0].data[n:]; len(p.chunks[0].data) == 0 {
				p.chunks = p.chunks[1:]
			}
			p.size -= n
			p.cond.Broadcast()
			return n, nil
		case len(p.chunks) == 0 && p.end != nil && !p.early(p.endAt):
			return 0, p.end
		case len(b) == 0:
			return 0, nil
		}
		p.cond.Wait()
	}
}

// early reports whether t is still to come. If it is, the reader is woken then.
func (p *pipe) early(t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return false
	}
	time.AfterFunc(d, p.cond.Broadcast)
	return true
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.begin(); err != nil {
		return 0, err
	}
	defer p.finish()
	written := 0
	for {
		if err := p.writeError(); err != nil {
			return written, err
		}
		if room := bufferBytes - p.size; room > 0 || len(b) == 0 {
			part := b[:min(room, len(b))]
			p.chunks = append(p.chunks, chunk{at: p.nextArrival(len(part)), data: append([]byte(nil), part...)})
			p.size += len(part)
			written += len(part)
			b = b[len(part):]
			p.cond.Broadcast()
			if len(b) == 0 {
				return written, nil
			}
		}
		p.cond.Wait()
	}
}

// begin waits until no other write is under way. p.mu is held, and released meanwhile.
func (p *pipe) begin() error {
	for p.writing {
		if err := p.writeError(); err != nil {
			return err
		}
		p.cond.Wait()
	}
	p.writing = true
	return nil
}

// finish ends what begin has begun. p.mu is held.
func (p *pipe) finish() {
	p.writing = false
	p.cond.Broadcast()
}

func (p *pipe) isLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// swallow accepts bytes that never arrive, until the buffer is full: the sender's side keeps them,
// as it would wait for an acknowledgement.
func (p *pipe) swallow(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
	if err := p.begin(); err != nil {
		return 0, err
	}
	defer p.finish()
	written := 0
	for {
		if err := p.writeError(); err != nil {
			return written, err
		}
		n := min(bufferBytes-p.size, len(b))
		p.size += n
		written += n
		if b = b[n:]; len(b) == 0 {
			return written, nil
		}
		p.cond.Wait()
	}
}

func (p *pipe) writeError() error {
	switch {
	case p.wclosed:
		return net.ErrClosed
	case p.noReader != nil:
		return p.noReader
	case p.wdl.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (p *pipe) closeReader(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rclosed = true
	p.chunks, p.size = nil, 0
	p.rdl.stop()
	if p.noReader == nil && !p.wclosed {
		p.noReader = os.NewSyscallError("write", syscall.EPIPE)
		if reset {
			p.noReader = os.NewSyscallError("write", syscall.ECONNRESET)
		}
	}
	p.cond.Broadcast()
}

func (p *pipe) closeWriter(reset, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wclosed = true
	p.wdl.stop()
	if !cut && p.end == nil {
		p.end, p.endAt = io.EOF, p.nextArrival(0)
		if reset {
			p.end = os.NewSyscallError("read", syscall.ECONNRESET)
		}
	}
	p.cond.Broadcast()
}

func (p *pipe) setReadDeadline(t time.Time)  { p.setDeadline(&p.rdl, t) }
func (p *pipe) setWriteDeadline(t time.Time) { p.setDeadline(&p.wdl, t) }

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.stop()
	if d.expired = !t.IsZero() && !t.After(time.Now()); !t.IsZero() && !d.expired {
		var mine *time.Timer
		mine = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if d.timer == mine { // otherwise it was replaced when it had already fired
				d.expired = true
				p.cond.Broadcast()
			}
		})
		d.timer = mine
	}
	p.cond.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
