package sim

import (
	linked "container/list"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// endpoint is one address the cloud listens on. It outlives its listener: faults close the door, leave it unanswered, or make the
// sockets mute, all below TLS, and healing undoes it on the same address.
type endpoint struct {
	listen func(network, addr string) (net.Listener, error)
	host   string      // host that clients are told; "" means the host of the address
	serve  func(*conn) // called in a goroutine of its own per connection; must end after the connection did

	jobs sync.WaitGroup // accept loop and serving goroutines
	gate atomic.Pointer[gate]

	mu       sync.Mutex
	addr     string
	mode     mode
	listener net.Listener
	restore  func() error  // undoes a deaf door
	resumed  chan struct{} // closed when the door is no longer deaf
	conns    map[*conn]struct{}
	strange  linked.List // of *conn: those that have not said who they are, oldest first
	ghosts   []*conn     // closed by us while mute: the client must not notice yet
	closed   bool
}

// mode is how an endpoint treats its clients; the zero mode is healthy.
type mode struct {
	door     door
	mute     bool   // sockets stay open, nothing is read or written
	resets   bool   // mute: the sockets that were open in the silence are reset at its end
	turnAway hangUp // accepted connections are closed at once
}

type door int

const (
	doorOpen door = iota
	doorShut      // dials are refused
	doorDeaf      // SYNs are not answered
)

// hangUp is a way to end a connection.
type hangUp int

const (
	keep hangUp = iota
	fin
	rst
)

// gate is what mute connections wait at.
type gate struct{ opened chan struct{} }

// ghostLimit bounds the sockets kept open for clients that should go on seeing nothing.
const ghostLimit = 4096

// bind takes the address; clients wait until open. Port 0 takes a free port outside the range that outgoing connections use, so that
// no dial can take the port while a fault has the door shut.
func (e *endpoint) bind(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	l, err := net.Listener(nil), errors.New("no port yet")
	for try := 0; port == "0" && try < 50 && err != nil; try++ {
		l, err = e.listen("tcp", net.JoinHostPort(host, strconv.Itoa(20_000+rand.IntN(12_000))))
	}
	if err != nil {
		if l, err = e.listen("tcp", addr); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listener, e.addr, e.conns = l, l.Addr().String(), map[*conn]struct{}{}
	return nil
}

// open begins to serve what bind took.
func (e *endpoint) open() {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.listener
	e.jobs.Go(func() { e.accept(l) })
}

// address is where the endpoint listens or would listen, "" before bind.
func (e *endpoint) address() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr
}

// told returns the address that clients are told.
func (e *endpoint) told() string {
	addr := e.address()
	if _, port, err := net.SplitHostPort(addr); err == nil && e.host != "" {
		return net.JoinHostPort(e.host, port)
	}
	return addr
}

func (e *endpoint) accept(l net.Listener) {
	backoff := time.Duration(0)
	for {
		raw, err := l.Accept()
		if err == nil {
			backoff = 0
			e.admit(l, raw)
			continue
		}
		e.mu.Lock()
		current, resumed := e.listener == l && !e.closed, e.resumed
		e.mu.Unlock()
		switch {
		case !current:
			return
		case resumed != nil: // deaf: woken by a deadline, so that the connections that fill the queue stay in it
			<-resumed
		default: // out of descriptors, most likely
			e.makeRoom()
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			<-time.After(backoff)
		}
	}
}

func (e *endpoint) admit(l net.Listener, raw net.Conn) {
	c := newConn(raw, e)
	e.mu.Lock()
	how := e.mode.turnAway
	if e.listener != l || e.closed || e.mode.door == doorShut {
		how = rst
	}
	if how != rst {
		e.conns[c] = struct{}{}
		c.place = e.strange.PushBack(c)
		e.jobs.Go(func() {
			defer e.forget(c)
			if how == fin {
				c.sayGoodbye()
				return
			}
			e.serve(c)
		})
	}
	e.mu.Unlock()
	if how == rst {
		c.reset()
	}
}

func (e *endpoint) forget(c *conn) {
	_ = c.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	e.noStranger(c)
}

// letIn tells that the client has said who it is.
func (c *conn) letIn() {
	c.endpoint.mu.Lock()
	defer c.endpoint.mu.Unlock()
	c.endpoint.noStranger(c)
}

// noStranger is called with mu held.
func (e *endpoint) noStranger(c *conn) {
	if c.place != nil {
		e.strange.Remove(c.place)
		c.place = nil
	}
}

// makeRoom ends a quarter of the connections that have said nothing so far, those that have been silent for longest, so that a flood
// of them does not keep devices out until they time out.
func (e *endpoint) makeRoom() {
	var ended []*conn
	e.mu.Lock()
	for n := (e.strange.Len() + 3) / 4; n > 0; n-- {
		c, _ := e.strange.Front().Value.(*conn)
		e.noStranger(c)
		ended = append(ended, c)
	}
	e.mu.Unlock()
	for _, c := range ended {
		c.end(rst, "no room for strangers")
	}
}

// synDropper is what a listener offers that can leave SYNs unanswered. A TCP listener on Linux gets it from [dropSYNs]; one that was
// injected may bring its own.
type synDropper interface {
	DropSYNs() (restore func() error, err error)
}

// enter changes the endpoint's mode; whatever went wrong, it is then in a mode that mode says. Existing connections are ended with
// how, for the reason given, unless how is keep.
func (e *endpoint) enter(m mode, how hangUp, reason string) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return net.ErrClosed
	}
	err := e.moveDoor(m.door)
	if err != nil {
		m.door = e.mode.door
	}
	resets := e.mode.resets && !m.mute
	e.mode = m
	var ended []*conn
	if resets && how == keep {
		how, reason = rst, "reset after a silence"
	}
	if how != keep {
		for c := range e.conns {
			ended = append(ended, c)
		}
	}
	var ghosts []*conn
	if g := e.gate.Load(); m.mute && g == nil {
		e.gate.Store(&gate{make(chan struct{})})
		for c := range e.conns {
			c.freeze(true)
		}
	} else if !m.mute && g != nil {
		e.gate.Store(nil)
		for c := range e.conns {
			c.freeze(false)
			if resets {
				c.doom()
			}
		}
		close(g.opened)
		ghosts, e.ghosts = e.ghosts, nil
	}
	e.mu.Unlock()
	for _, c := range ended {
		c.end(how, reason)
	}
	for _, c := range ghosts {
		c.reset()
	}
	return err
}

// moveDoor is called with mu held.
func (e *endpoint) moveDoor(to door) error {
	from := e.mode.door
	if from == to {
		return nil
	}
	if from == doorDeaf {
		err := e.restore()
		e.restore = nil
		close(e.resumed)
		e.resumed = nil
		if err != nil {
			return err
		}
		e.mode.door = doorOpen
	}
	switch to {
	case doorShut:
		l := e.listener
		e.listener = nil
		_ = l.Close()
	case doorOpen:
		if e.listener == nil {
			l, err := e.listen("tcp", e.addr)
			if err != nil {
				return err
			}
			e.listener = l
			e.jobs.Go(func() { e.accept(l) })
		}
	case doorDeaf:
		if err := e.moveDoor(doorOpen); err != nil {
			return err
		}
		e.mode.door = doorOpen
		e.resumed = make(chan struct{})
		restore, err := e.dropSYNs()
		if err != nil {
			close(e.resumed)
			e.resumed = nil
			return err
		}
		e.restore = restore
	}
	return nil
}

var errNoSYNDrop = errors.New("this listener cannot leave SYNs unanswered: it takes a TCP socket on Linux")

func (e *endpoint) dropSYNs() (restore func() error, err error) {
	switch l := e.listener.(type) {
	case synDropper:
		return l.DropSYNs()
	case *net.TCPListener:
		return dropSYNs(l)
	}
	return nil, errNoSYNDrop
}

// canDropSYNs says whether a deaf door is possible at all.
func (e *endpoint) canDropSYNs() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch e.listener.(type) {
	case synDropper:
		return true
	case *net.TCPListener, nil: // nil: shut at the moment; what will be opened is of the same kind
		return dropsSYNs
	}
	return false
}

// clients returns the addresses of all that are connected, and how many of them have not said who
// they are.
func (e *endpoint) clients() (connected []net.Addr, strangers int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		connected = append(connected, c.RemoteAddr())
	}
	return connected, e.strange.Len()
}

// stopped says whether stop was called.
func (e *endpoint) stopped() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// stop closes everything at once and waits for the goroutines.
func (e *endpoint) stop() {
	e.mu.Lock()
	e.closed = true
	if e.listener != nil {
		_ = e.listener.Close()
	}
	if e.restore != nil {
		_ = e.restore()
		close(e.resumed)
		e.restore, e.resumed = nil, nil
	}
	if g := e.gate.Swap(nil); g != nil {
		close(g.opened)
	}
	ended := e.ghosts
	e.ghosts = nil
	for c := range e.conns {
		ended = append(ended, c)
	}
	e.mu.Unlock()
	for _, c := range ended {
		c.end(rst, "simulator stopped")
	}
	e.jobs.Wait()
}

// conn is a client's socket with the faults of its endpoint. While the endpoint is mute reads and writes wait, deadlines included,
// and go on afterwards where they were, as on a path that lost some packets; a connection the server ends meanwhile stays open
// for the client and is reset when the fault is over.
type conn struct {
	inner    net.Conn
	endpoint *endpoint
	place    *linked.Element // among the endpoint's strangers, guarded by its mutex

	mu        sync.Mutex
	onEnd     func(reason string) // how the owner wants to be told of an orderly end
	wake      chan struct{}       // closed when deadlines change or the connection ends; made by the waiting goroutine
	readBy    time.Time
	writeBy   time.Time
	frozen    bool // reads of inner are cut short, so that what comes stays in the socket
	takenBack bool // what is in the socket must not be read
	doomed    bool // about to be reset: nothing more goes out, and its close is a reset
	closed    bool
	abandoned bool // the inner connection is closed too
}

// newConn makes the connection of an endpoint from a socket. The endpoint does not know it yet.
func newConn(socket net.Conn, of *endpoint) *conn { return &conn{inner: socket, endpoint: of} }

func (c *conn) Read(p []byte) (int, error) {
	for {
		if err := c.waitUnmuted(&c.readBy); err != nil {
			return 0, err
		}
		n, err := c.inner.Read(p)
		if n > 0 && c.muted() { // it was on its way to the socket when the fault began; what comes after that stays there
			if err := c.waitUnmuted(&c.readBy); err != nil {
				return 0, err
			}
		}
		if c.isTakenBack() {
			return 0, syscall.ECONNRESET
		}
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || c.readExpired() {
			return n, err
		}
	}
}

func (c *conn) isTakenBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takenBack
}

// readExpired tells a deadline of the owner's from one that only froze the connection.
func (c *conn) readExpired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || !c.frozen && !c.readBy.IsZero() && time.Until(c.readBy) <= 0
}

// freeze makes a read that is under way come back, and later lets reads wait again. A client that reset the connection meanwhile has
// taken back what it sent into the hole.
func (c *conn) freeze(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = on
	if c.closed {
		return
	}
	by := c.readBy
	if on {
		by = time.Unix(1, 0)
	} else {
		c.takenBack = c.takenBack || wasReset(c.inner)
	}
	_ = c.inner.SetReadDeadline(by)
}

// doom stops all traffic of a connection that is about to be reset.
func (c *conn) doom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doomed, c.takenBack = true, true
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.waitUnmuted(&c.writeBy); err != nil {
		return 0, err
	}
	if c.isDoomed() {
		return 0, net.ErrClosed
	}
	return c.inner.Write(p)
}

// waitUnmuted returns at once on a healthy endpoint. deadline points to readBy or writeBy.
func (c *conn) waitUnmuted(deadline *time.Time) error {
	for {
		g := c.endpoint.gate.Load()
		if g == nil {
			return nil
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return net.ErrClosed
		}
		if c.wake == nil {
			c.wake = make(chan struct{})
		}
		wake, by := c.wake, *deadline
		c.mu.Unlock()
		var expired <-chan time.Time
		if !by.IsZero() {
			if time.Until(by) <= 0 {
				return os.ErrDeadlineExceeded
			}
			t := time.NewTimer(time.Until(by))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-g.opened:
		case <-wake:
		case <-expired:
			return os.ErrDeadlineExceeded
		}
	}
}

// changed is called with mu held.
func (c *conn) changed() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

// SetDeadline and its kin also hold while the connection is mute.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	c.changed()
	if c.frozen {
		return nil
	}
	return c.inner.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	c.changed()
	return c.inner.SetWriteDeadline(t)
}

func (c *conn) LocalAddr() net.Addr  { return c.inner.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// onHangUp names the function that ends the connection in an orderly way when a fault asks for it.
func (c *conn) onHangUp(f func(reason string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEnd = f
}

// end ends the connection from outside.
func (c *conn) end(how hangUp, reason string) {
	c.mu.Lock()
	tell := c.onEnd
	c.doomed = c.doomed || how == rst
	c.mu.Unlock()
	if tell != nil {
		tell(reason) // before the reset, which would be a reason of its own
	} else if how != rst {
		_ = c.Close()
	}
	if how == rst {
		c.reset()
	}
}

// lingerer is a socket whose Close can be made a reset.
type lingerer interface{ SetLinger(sec int) error }

// reset closes the socket with RST, fault or no fault.
func (c *conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed()
	c.doomed = true
	_ = c.abandon()
}

// abandon closes the socket; called with mu held.
func (c *conn) abandon() error {
	if c.abandoned {
		return nil
	}
	c.abandoned = true
	if l, ok := c.inner.(lingerer); ok && c.doomed {
		_ = l.SetLinger(0)
	}
	return c.inner.Close()
}

func (c *conn) isDoomed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doomed
}

// Close ends the connection; on a mute endpoint the client is left in the dark.
func (c *conn) Close() error {
	e := c.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.changed()
	if c.muted() && !e.closed && !c.doomed {
		_ = c.inner.SetDeadline(time.Unix(1, 0)) // ends a read that still waits
		e.ghosts = append(e.ghosts, c)
		if len(e.ghosts) > ghostLimit {
			old := e.ghosts[0] // its client has long given up
			e.ghosts = e.ghosts[1:]
			_ = old.inner.Close()
		}
		return nil
	}
	return c.abandon()
}

// muted says whether a fault keeps the connection silent at the moment.
func (c *conn) muted() bool { return c.endpoint.gate.Load() != nil }

// sayGoodbye sends FIN and for a moment reads and throws away what the client still sends. Closing at once would turn the FIN into a
// reset whenever unread data is about, and a reset may overtake the last words. A socket that cannot close one direction alone is
// left to Close.
func (c *conn) sayGoodbye() {
	half, ok := c.inner.(interface{ CloseWrite() error })
	if !ok || c.muted() || c.isDoomed() || half.CloseWrite() != nil {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(lingerTimeout))
	scratch := make([]byte, 512)
	for total := 0; total < maxOutput; {
		n, err := c.Read(scratch)
		if total += n; err != nil {
			return
		}
	}
}

// errorText is why a connection ended, in the fewest words.
func errorText(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed by the client"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset by the client"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	}
	return fmt.Sprint(err)
}
