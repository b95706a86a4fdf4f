package dps

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// spare is a connection that is opened before it is known whether a registration will follow.
type spare struct {
	cancel context.CancelFunc // ends the opening
	opened chan struct{}      // closed when raw, secure and err are set
	quiet  chan struct{}      // closed when nobody reads any more, and idle is set
	raw    net.Conn
	secure *tls.Conn
	err    error
	idle   error // why the reading ended: a deadline if DPS kept quiet
}

// Open promises the next registration a connection that is ready: TCP and TLS are open, and nothing
// was sent on it. A registration that begins after Open has returned takes it and opens none of its
// own. There is one such connection at a time, so a second Open does nothing. The caller must call
// hold at once. hold makes the connection, and returns when a registration has taken it, when it
// cannot be made, when DPS closes it, or when ctx ends, which closes it.
func (c *Client) Open(ctx context.Context) (hold func()) {
	ctx, cancel := context.WithCancel(ctx)
	s := &spare{cancel: cancel, opened: make(chan struct{}), quiet: make(chan struct{})}
	if !c.spare.CompareAndSwap(nil, s) {
		return cancel
	}
	return func() { c.hold(ctx, s) }
}

func (c *Client) hold(ctx context.Context, s *spare) {
	defer s.cancel()
	s.raw, s.secure, s.err = c.connect(ctx, c.endpoint(), defaultPatience)
	close(s.opened)
	if s.err == nil {
		// Reading notices that DPS has closed the connection, so that nobody uses it then.
		stop := context.AfterFunc(ctx, s.hush)
		_, s.idle = s.secure.Read(make([]byte, 1))
		stop()
	}
	close(s.quiet)
	if c.spare.CompareAndSwap(s, nil) && s.err == nil { // nobody wanted it
		_ = s.secure.Close()
	}
}

// hush ends the reading.
func (s *spare) hush() { _ = s.raw.SetReadDeadline(time.Unix(1, 0)) }

// line returns a connection for a registration: the one that Open has made or is about to make,
// else a new one.
func (c *Client) line(ctx context.Context, addr string, patience time.Duration) (net.Conn, *tls.Conn, error) {
	s := c.spare.Swap(nil)
	if s == nil {
		return c.connect(ctx, addr, patience)
	}
	began := time.Now()
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-s.opened:
	case <-short.Done():
		s.cancel()
		<-s.opened
	}
	left := patience - time.Since(began) // all tries share one patience
	switch {
	case s.err != nil && ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case s.err != nil && short.Err() != nil:
		return nil, nil, &Error{Step: StepDial, RetryAfter: -1, Err: fmt.Errorf("%w in %v", ErrSilent, patience)}
	case s.err != nil: // it may work now
		return c.connect(ctx, addr, left)
	}
	s.hush()
	<-s.quiet
	if !errors.Is(s.idle, os.ErrDeadlineExceeded) { // closed meanwhile, or it speaks out of turn
		_ = s.raw.Close()
		return c.connect(ctx, addr, left)
	}
	_ = s.raw.SetDeadline(time.Time{})
	return s.raw, s.secure, nil
}

// endpoint returns DPS's address on the client's transport.
func (c *Client) endpoint() string {
	if c.Transport == HTTPS {
		return c.address("443")
	}
	return c.address("8883")
}
