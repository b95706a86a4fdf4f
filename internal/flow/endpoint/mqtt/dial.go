package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// connectLimit bounds the time from the dial to CONNACK.
const connectLimit = 30 * time.Second

// open connects, and opens a session, with clean without what the broker has kept of it. It returns
// what the CONNECT has said, too.
func (c *Config) open(ctx context.Context, clean bool) (*mqtt5.Session, *mqtt5.Hello, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectLimit, fmt.Errorf("%w in %v", mqtt5.ErrSilent, connectLimit))
	defer cancel()
	h := &mqtt5.Hello{
		ClientID: c.ClientID, CleanStart: clean, KeepAlive: uint16(c.KeepAlive / time.Second), SessionExpiry: uint32(c.SessionExpiry / time.Second),
		ReceiveMaximum: uint16(c.MaxInflight), MaximumPacket: uint32(c.maxPacket()),
	}
	host, path, _ := strings.Cut(c.Host, "/")
	var conf *tls.Config
	if c.TLS != nil {
		var err error
		if conf, err = c.TLS(); err != nil {
			return nil, nil, credentials.Local(err)
		}
		if conf.ServerName == "" {
			conf.ServerName, _, _ = net.SplitHostPort(host)
		}
	}
	if err := c.Auth.apply(ctx, h); err != nil {
		return nil, nil, credentials.Local(err)
	}
	conn, err := c.dial(ctx, host, "/"+path, conf)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, nil, err
	}
	s, err := mqtt5.Open(ctx, conn, h, c.maxPacket())
	return s, h, err
}

// dial opens TCP, and what is above it. conf is nil for a connection that is not encrypted.
func (c *Config) dial(ctx context.Context, host, path string, conf *tls.Config) (net.Conn, error) {
	dial := c.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	if c.WebSocket {
		return c.dialWebSocket(ctx, dial, host, path, conf)
	}
	raw, err := dial(ctx, "tcp", host)
	if err != nil || conf == nil {
		return raw, err
	}
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secure, nil
}

func (c *Config) dialWebSocket(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), host, path string, conf *tls.Config) (net.Conn, error) {
	d := websocket.Dialer{NetDialContext: dial, TLSClientConfig: conf, Subprotocols: []string{"mqtt"}, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10}
	scheme := "wss://"
	if conf == nil {
		scheme = "ws://"
	}
	ws, answer, err := d.DialContext(ctx, scheme+host+path, http.Header{})
	if err != nil {
		if answer != nil {
			_ = answer.Body.Close()
			if errors.Is(err, websocket.ErrBadHandshake) {
				return nil, &upgradeError{answer.StatusCode, path}
			}
		}
		return nil, err
	}
	_ = answer.Body.Close()
	if ws.Subprotocol() != "mqtt" {
		_ = ws.Close()
		return nil, fmt.Errorf("the server at %s accepts WebSockets, but not the subprotocol mqtt", host)
	}
	ws.SetReadLimit(int64(c.maxPacket()) * 2)
	return &socket{Conn: ws.NetConn(), ws: ws}, nil
}

// upgradeError is an HTTP answer that opens no WebSocket.
type upgradeError struct {
	code int
	path string
}

func (e *upgradeError) Error() string {
	return fmt.Sprintf("the server answers %d %s to a WebSocket at the path %s", e.code, http.StatusText(e.code), e.path)
}

// socket is a WebSocket as a stream of bytes: MQTT packets need not match its messages (MQTT 5
// section 6).
type socket struct {
	net.Conn
	ws *websocket.Conn
	in io.Reader // of the message that is being read; nil: none

	mu sync.Mutex // a WebSocket takes one writer at a time
}

func (s *socket) Read(b []byte) (int, error) {
	for {
		if s.in == nil {
			kind, r, err := s.ws.NextReader()
			if err != nil {
				if _, ok := errors.AsType[*websocket.CloseError](err); ok {
					err = io.EOF
				}
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, mqtt5.Faulty(mqtt5.ProtocolError, "a WebSocket message of text")
			}
			s.in = r
		}
		n, err := s.in.Read(b)
		if errors.Is(err, io.EOF) {
			s.in, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *socket) SetWriteDeadline(t time.Time) error { return s.ws.SetWriteDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.ws.SetReadDeadline(t) }
