package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Endpoint is a server and the way to it. It is only read, so several goroutines may use it.
type Endpoint struct {
	Address string // host:port
	// TLS is cloned for a connection unless it has a ServerName and a MinVersion of 1.2 or more,
	// and Renegotiate is not set. Nil stands for the defaults. Without a ServerName in it, the
	// server must have the host of Address as its name.
	TLS *tls.Config
	// Renegotiate lets the server ask for a client certificate after the handshake (TLS 1.2).
	Renegotiate bool
	// DialContext opens TCP connections. Nil stands for the system's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Addresses returns the addresses of this machine. Nil asks the system.
	Addresses func() ([]net.Addr, error)
	// Limit is the time for TCP, and again for TLS. With 0 only the context limits the time.
	Limit time.Duration
}

// Conn is a connection to a server over TLS, on which a session can be opened.
type Conn struct {
	*tls.Conn
	raw      net.Conn      // TCP
	wire     *wire         // between TLS and TCP
	tcp, tls time.Duration // what they took, for a first measure of the round trip
}

// Connect opens TCP and TLS. It calls progress, if that is not nil, after each of the two. Its
// error is a [*Error].
func (e *Endpoint) Connect(ctx context.Context, progress func(Phase)) (*Conn, error) {
	if progress == nil {
		progress = func(Phase) {}
	}
	began := time.Now()
	raw, err := e.Dial(ctx)
	if err != nil {
		return nil, &Error{Phase: PhaseDial, Err: err}
	}
	progress(PhaseDial)
	c := &Conn{raw: raw, wire: &wire{Conn: raw}}
	dialled := time.Now()
	if c.Conn, err = e.Secure(ctx, c.wire); err != nil {
		reset(raw)
		return nil, &Error{Phase: PhaseTLS, Err: err}
	}
	c.tcp, c.tls = dialled.Sub(began), time.Since(dialled)
	c.wire.use()
	progress(PhaseTLS)
	return c, nil
}

// WithPort returns host with port, unless it has a port of its own.
func WithPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// Dial opens a TCP connection.
func (e *Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := e.limited(ctx)
	defer cancel()
	dial := e.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return dial(ctx, "tcp", e.Address)
}

// Secure makes a TLS connection, 1.2 or newer, of a TCP connection. The server must prove that it
// has the name. After an error the TCP connection is the caller's to close.
func (e *Endpoint) Secure(ctx context.Context, raw net.Conn) (*tls.Conn, error) {
	conf := e.config()
	short, cancel := e.limited(ctx)
	defer cancel()
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(short); err != nil {
		return nil, Overdue(ctx, short, e.Limit, err)
	}
	return secure, nil
}

// config returns TLS as it is, if that says all that is needed, else a clone with the rest.
func (e *Endpoint) config() *tls.Config {
	if c := e.TLS; c != nil && c.ServerName != "" && c.MinVersion >= tls.VersionTLS12 && !e.Renegotiate {
		return c
	}
	conf := e.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if e.Renegotiate {
		conf.Renegotiation = tls.RenegotiateOnceAsClient
	}
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(e.Address)
	}
	return conf
}

func (e *Endpoint) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if e.Limit == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, e.Limit)
}

// probe asks, without a second session, whether the server is there at all: TCP and TLS, and
// nothing in it. It calls answered in between, and returns the address of this machine that it came
// from.
func (e *Endpoint) probe(ctx context.Context, answered func()) (from net.Addr, err error) {
	raw, err := e.Dial(ctx)
	if err != nil {
		return nil, err
	}
	answered()
	secure, err := e.Secure(ctx, raw)
	if err != nil {
		reset(raw)
		return nil, err
	}
	_ = secure.Close()
	return raw.LocalAddr(), nil
}

// has reports whether an address is this machine's. If the system does not tell its addresses, each
// one counts as this machine's.
func (e *Endpoint) has(a net.Addr) bool {
	local, ok := a.(*net.TCPAddr)
	// All of 127.0.0.0/8 is this machine, and only one of it is listed.
	if !ok || local.IP.IsLoopback() {
		return true
	}
	list := e.Addresses
	if list == nil {
		list = net.InterfaceAddrs
	}
	all, err := list()
	return err != nil || slices.ContainsFunc(all, func(own net.Addr) bool {
		n, ok := own.(*net.IPNet)
		return ok && n.IP.Equal(local.IP)
	})
}

// Overdue returns an [ErrSilent] if the end of limited has caused err, and err otherwise. limited
// is ctx with a time limit.
func Overdue(ctx, limited context.Context, limit time.Duration, err error) error {
	if limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w in %v", ErrSilent, limit)
	}
	return err
}

// reset closes a connection so that nothing of it arrives later.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}

// cause returns the cause inside an error of a connection, without the addresses that package net
// adds. An error of the peer in TLS becomes an [ErrProtocol].
func cause(err error) error {
	if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Err != nil {
		if oe.Op == "local error" { // TLS gives this name to faults that it has found itself
			return fmt.Errorf("%w: malformed TLS record: %w", ErrProtocol, oe.Err)
		}
		return oe.Err
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%w: malformed TLS record: %w", ErrProtocol, e)
	}
	return err
}
