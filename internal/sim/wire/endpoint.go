package wire

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

// Endpoint is one address that the cloud listens on. It outlives its listener: faults close the
// door, leave it unanswered, or make the sockets mute, all below TLS, and healing undoes that on
// the same address.
//
// Its mutex comes before the mutex of a connection.
type Endpoint struct {
	Listen func(network, addr string) (net.Listener, error)
	Host   string      // host that clients are told; "" means the host of the address
	Serve  func(*Conn) // called in a goroutine of its own per connection; must end after the connection did

	jobs sync.WaitGroup // accept loop and serving goroutines
	gate atomic.Pointer[gate]

	mu       sync.Mutex
	addr     string
	mode     Mode
	listener net.Listener
	restore  func() error  // undoes a deaf door
	resumed  chan struct{} // closed when the door is no longer deaf
	conns    map[*Conn]struct{}
	strange  linked.List // of *Conn: clients that have not said who they are, oldest first
	ghosts   []*Conn     // closed by us while mute: the client must not notice yet
	closed   bool
}

// Mode is how an endpoint treats its clients. The zero mode is healthy.
type Mode struct {
	Door     Door
	Mute     bool   // sockets stay open, nothing is read or written
	Resets   bool   // mute: the sockets that were open in the silence are reset at its end
	TurnAway HangUp // accepted connections are closed at once
}

// Door is what happens to a client that dials.
type Door int

// The doors of an endpoint.
const (
	doorOpen Door = iota
	DoorShut      // dials are refused
	DoorDeaf      // SYNs are not answered
)

// HangUp is a way to end a connection.
type HangUp int

// The ways to end a connection. Keep leaves it alone.
const (
	Keep HangUp = iota
	FIN
	RST
)

// gate is what mute connections wait at.
type gate struct{ opened chan struct{} }

// ghostLimit bounds the sockets kept open for clients that should go on seeing nothing.
const ghostLimit = 4096

// Bind takes the address. Clients wait until Open. Port 0 takes a free port outside the range that
// outgoing connections use, so that no dial can take the port while a fault has the door shut.
func (e *Endpoint) Bind(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	l, err := net.Listener(nil), errors.New("no port yet")
	for try := 0; port == "0" && try < 50 && err != nil; try++ {
		l, err = e.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(20_000+rand.IntN(12_000))))
	}
	if err != nil {
		if l, err = e.Listen("tcp", addr); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listener, e.addr, e.conns = l, l.Addr().String(), map[*Conn]struct{}{}
	return nil
}

// Open begins to serve what Bind took.
func (e *Endpoint) Open() {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.listener
	e.jobs.Go(func() { e.accept(l) })
}

// Address is where the endpoint listens, or would listen if no fault had its door shut. It is empty
// before Bind.
func (e *Endpoint) Address() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr
}

// Told returns the address that clients are told: Host with the port of Address.
func (e *Endpoint) Told() string {
	addr := e.Address()
	if _, port, err := net.SplitHostPort(addr); err == nil && e.Host != "" {
		return net.JoinHostPort(e.Host, port)
	}
	return addr
}

func (e *Endpoint) accept(l net.Listener) {
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

func (e *Endpoint) admit(l net.Listener, raw net.Conn) {
	c := NewConn(raw, e)
	e.mu.Lock()
	how := e.mode.TurnAway
	if e.listener != l || e.closed || e.mode.Door == DoorShut {
		how = RST
	}
	if how != RST {
		e.conns[c] = struct{}{}
		c.place = e.strange.PushBack(c)
		e.jobs.Go(func() {
			defer e.forget(c)
			if how == FIN {
				c.sayGoodbye()
				return
			}
			e.Serve(c)
		})
	}
	e.mu.Unlock()
	if how == RST {
		c.reset()
	}
}

func (e *Endpoint) forget(c *Conn) {
	_ = c.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	e.noStranger(c)
}

// letIn tells that the client has said who it is.
func (c *Conn) letIn() {
	c.endpoint.mu.Lock()
	defer c.endpoint.mu.Unlock()
	c.endpoint.noStranger(c)
}

// noStranger takes a connection off the list of those that have not said who they are. mu is held.
func (e *Endpoint) noStranger(c *Conn) {
	if c.place != nil {
		e.strange.Remove(c.place)
		c.place = nil
	}
}

// makeRoom ends a quarter of the connections that have said nothing so far, the oldest ones, so
// that a flood of them does not keep devices out until they time out.
func (e *Endpoint) makeRoom() {
	var ended []*Conn
	e.mu.Lock()
	for n := (e.strange.Len() + 3) / 4; n > 0; n-- {
		c, _ := e.strange.Front().Value.(*Conn)
		e.noStranger(c)
		ended = append(ended, c)
	}
	e.mu.Unlock()
	for _, c := range ended {
		c.end(RST, "no room for strangers")
	}
}

// synDropper is a listener that can leave SYNs unanswered. For a TCP listener on Linux [dropSYNs]
// does that; an injected listener may bring its own way.
type synDropper interface {
	DropSYNs() (restore func() error, err error)
}

// Enter changes the endpoint's mode. It ends the existing connections in the way how, for the
// reason given. An error says that the door could not be moved; everything else of the mode holds
// then.
func (e *Endpoint) Enter(m Mode, how HangUp, reason string) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return net.ErrClosed
	}
	err := e.moveDoor(m.Door)
	if err != nil {
		m.Door = e.mode.Door
	}
	resets := e.mode.Resets && !m.Mute
	e.mode = m
	var ended []*Conn
	if resets && how == Keep {
		how, reason = RST, "reset after a silence"
	}
	if how != Keep {
		for c := range e.conns {
			ended = append(ended, c)
		}
	}
	var ghosts []*Conn
	if g := e.gate.Load(); m.Mute && g == nil {
		e.gate.Store(&gate{make(chan struct{})})
		for c := range e.conns {
			c.freeze(true)
		}
	} else if !m.Mute && g != nil {
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

// moveDoor opens, shuts or deafens the door. mu is held.
func (e *Endpoint) moveDoor(to Door) error {
	from := e.mode.Door
	if from == to {
		return nil
	}
	if from == DoorDeaf {
		err := e.restore()
		e.restore = nil
		close(e.resumed)
		e.resumed = nil
		if err != nil {
			return err
		}
		e.mode.Door = doorOpen
	}
	switch to {
	case DoorShut:
		l := e.listener
		e.listener = nil
		_ = l.Close()
	case doorOpen:
		if e.listener == nil {
			l, err := e.Listen("tcp", e.addr)
			if err != nil {
				return err
			}
			e.listener = l
			e.jobs.Go(func() { e.accept(l) })
		}
	case DoorDeaf:
		if err := e.moveDoor(doorOpen); err != nil {
			return err
		}
		e.mode.Door = doorOpen
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

// ErrNoSYNDrop is the error of a listener that answers SYNs whatever happens.
var ErrNoSYNDrop = errors.New("this listener cannot leave SYNs unanswered: it takes a TCP socket on Linux")

func (e *Endpoint) dropSYNs() (restore func() error, err error) {
	switch l := e.listener.(type) {
	case synDropper:
		return l.DropSYNs()
	case *net.TCPListener:
		return dropSYNs(l)
	}
	return nil, ErrNoSYNDrop
}

// CanDropSYNs reports whether DoorDeaf is possible.
func (e *Endpoint) CanDropSYNs() bool {
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

// Clients returns the addresses of all that are connected, and how many of them have not said who
// they are. It is for tests.
func (e *Endpoint) Clients() (connected []net.Addr, strangers int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		connected = append(connected, c.RemoteAddr())
	}
	return connected, e.strange.Len()
}

// Stopped reports whether Stop was called.
func (e *Endpoint) Stopped() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// Stop resets all connections and waits until no goroutine of the endpoint is left.
func (e *Endpoint) Stop() {
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
		c.end(RST, "simulator stopped")
	}
	e.jobs.Wait()
}

// Conn is a client's socket with the faults of its endpoint. While the endpoint is mute reads and
// writes wait, deadlines included, and go on afterwards where they were, as on a path that lost
// some packets. A connection that the server ends meanwhile stays open for the client and is reset
// when the fault is over.
type Conn struct {
	inner    net.Conn
	endpoint *Endpoint
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

// NewConn makes the connection of an endpoint from a socket. The endpoint does not know it yet.
// Outside this package it is for tests.
func NewConn(socket net.Conn, of *Endpoint) *Conn { return &Conn{inner: socket, endpoint: of} }

// Read reads what the client sent. It waits while the endpoint is mute.
func (c *Conn) Read(p []byte) (int, error) {
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

func (c *Conn) isTakenBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takenBack
}

// readExpired tells the owner's deadline from a deadline that only froze the connection.
func (c *Conn) readExpired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || !c.frozen && !c.readBy.IsZero() && time.Until(c.readBy) <= 0
}

// freeze makes a read that is under way come back, and later lets reads wait again. A client that
// reset the connection meanwhile has taken back what it sent into the silence.
func (c *Conn) freeze(on bool) {
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
func (c *Conn) doom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doomed, c.takenBack = true, true
}

// Write sends to the client. It waits while the endpoint is mute.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.waitUnmuted(&c.writeBy); err != nil {
		return 0, err
	}
	if c.isDoomed() {
		return 0, net.ErrClosed
	}
	return c.inner.Write(p)
}

// waitUnmuted returns at once on a healthy endpoint. deadline points to readBy or writeBy.
func (c *Conn) waitUnmuted(deadline *time.Time) error {
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

// changed wakes a read or a write that waits, because a deadline or the state has changed. mu is
// held.
func (c *Conn) changed() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

// SetDeadline sets both deadlines. They also hold while the endpoint is mute.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the time at which reads end with os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	c.changed()
	if c.frozen {
		return nil
	}
	return c.inner.SetReadDeadline(t)
}

// SetWriteDeadline sets the time at which writes end with os.ErrDeadlineExceeded.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	c.changed()
	return c.inner.SetWriteDeadline(t)
}

// LocalAddr is the address of our side.
func (c *Conn) LocalAddr() net.Addr { return c.inner.LocalAddr() }

// RemoteAddr is the address of the client.
func (c *Conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// OnHangUp names the function that ends the connection in an orderly way when a fault asks for it.
// It is called without a lock.
func (c *Conn) OnHangUp(f func(reason string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEnd = f
}

// end ends the connection from outside, for a reason that its owner is told.
func (c *Conn) end(how HangUp, reason string) {
	c.mu.Lock()
	tell := c.onEnd
	c.doomed = c.doomed || how == RST
	c.mu.Unlock()
	if tell != nil {
		tell(reason) // before the reset, which would be a reason of its own
	} else if how != RST {
		_ = c.Close()
	}
	if how == RST {
		c.reset()
	}
}

// lingerer is a socket whose Close can be made a reset.
type lingerer interface{ SetLinger(sec int) error }

// reset closes the socket with RST, fault or no fault.
func (c *Conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed()
	c.doomed = true
	_ = c.abandon()
}

// abandon closes the socket. mu is held.
func (c *Conn) abandon() error {
	if c.abandoned {
		return nil
	}
	c.abandoned = true
	if l, ok := c.inner.(lingerer); ok && c.doomed {
		_ = l.SetLinger(0)
	}
	return c.inner.Close()
}

func (c *Conn) isDoomed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doomed
}

// Close ends the connection. On a mute endpoint the client does not notice yet.
func (c *Conn) Close() error {
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

// muted reports whether a fault keeps the connection silent at the moment.
func (c *Conn) muted() bool { return c.endpoint.gate.Load() != nil }

// sayGoodbye sends FIN and for a moment reads and throws away what the client still sends. Closing
// at once would turn the FIN into a reset whenever unread data is about, and a reset may overtake
// the last words. A socket that cannot close one direction alone is left to Close.
func (c *Conn) sayGoodbye() {
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

// ErrorText says in a few words why a connection ended.
func ErrorText(err error) string {
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

// HostIn returns the host of a "host:port", "" if it is malformed.
func HostIn(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}
