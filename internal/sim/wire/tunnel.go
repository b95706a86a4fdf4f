package wire

import (
	"bufio"
	"errors"
	"net"
)

// Doorstep returns the listener that would accept a connection now. It is nil while a fault has the
// door shut. While nobody answers the door, resumed is a channel that is closed when somebody does.
func (e *Endpoint) Doorstep() (l net.Listener, resumed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.listener, e.resumed
}

// AdmitTunnel takes a connection that came through a CONNECT proxy, as if l had accepted it. The
// reader holds what the proxy has read of it already.
func (e *Endpoint) AdmitTunnel(l net.Listener, raw net.Conn, buffered *bufio.Reader) {
	e.admit(l, &tunnel{Conn: raw, r: buffered})
}

// tunnel is the client's connection to the proxy, from the first byte after CONNECT.
type tunnel struct {
	net.Conn
	r *bufio.Reader // may hold bytes that came with the CONNECT
}

func (t *tunnel) Read(p []byte) (int, error) { return t.r.Read(p) }

var errNoHalfClose = errors.New("cannot close one direction")

// CloseWrite closes one direction of the socket below.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.below().(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errNoHalfClose
}

// SetLinger makes the Close that follows a reset.
func (t *tunnel) SetLinger(sec int) error {
	if c, ok := t.Conn.(*signalConn); ok && sec == 0 {
		c.mu.Lock()
		c.doomed = true
		c.mu.Unlock()
	}
	return nil
}

func (t *tunnel) below() net.Conn {
	if c, ok := t.Conn.(*signalConn); ok {
		return c.inner
	}
	return t.Conn
}
