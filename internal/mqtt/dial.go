package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Endpoint is a server and the way to it. It is only read, so several goroutines may use it.
type Endpoint struct {
	Address string // host:port
	// TLS is cloned for each connection. Nil stands for the defaults. Without ServerName, the certificate must have the host of Address.
	TLS         *tls.Config
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the system's
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
	dial := e.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return dial(ctx, "tcp", e.Address)
}

// Secure makes a TLS connection, 1.2 or newer, of a TCP connection. The server must prove that it
// has the name. After an error the TCP connection is the caller's to close.
func (e *Endpoint) Secure(ctx context.Context, raw net.Conn) (*tls.Conn, error) {
	conf := e.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(e.Address)
	}
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secure, nil
}

// Overdue names an error that the end of limited has caused, which is ctx with the given time limit:
// then the peer was silent. If ctx itself has ended, or limited has not, it returns err.
func Overdue(err error, ctx, limited context.Context, limit time.Duration) error {
	if limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w in %v", ErrSilent, limit)
	}
	return err
}

// Reset closes a connection so that nothing of it arrives later.
func Reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}

// Ended takes the cause out of an error of a connection, where the network's own words are long. An
// error of the peer in TLS becomes an [ErrProtocol].
func Ended(err error) error {
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
