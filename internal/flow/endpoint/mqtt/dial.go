package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

const (
	connectLimit = 30 * time.Second // from the dial to CONNACK
	maxCAFile    = 4 << 20
)

// open connects, and opens a session.
func (c *Config) open(ctx context.Context) (*mqtt5.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectLimit, fmt.Errorf("%w in %v", mqtt5.ErrSilent, connectLimit))
	defer cancel()
	h := &mqtt5.Hello{
		ClientID: c.ClientID, KeepAlive: uint16(c.KeepAlive / time.Second), SessionExpiry: uint32(c.SessionExpiry / time.Second),
		ReceiveMaximum: uint16(c.MaxInflight), MaximumPacket: uint32(c.maxPacket()),
	}
	host, path, _ := strings.Cut(c.Host, "/")
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	conf.ServerName, _, _ = net.SplitHostPort(host)
	if err := c.Auth.apply(ctx, h, conf); err != nil {
		return nil, &localError{err}
	}
	if !c.PlainText {
		if err := c.roots(conf); err != nil {
			return nil, &localError{err}
		}
	}
	conn, err := c.dial(ctx, host, "/"+path, conf)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return mqtt5.Open(ctx, conn, h, c.maxPacket())
}

// roots reads the trusted roots.
func (c *Config) roots(conf *tls.Config) error {
	if c.CADir == "" {
		return nil
	}
	files, err := os.ReadDir(c.CADir)
	if err != nil {
		return fmt.Errorf("the trusted certificates of config map %s: %w; put PEM files there", c.CADir, namedfile.Cause(err))
	}
	conf.RootCAs = x509.NewCertPool()
	found := false
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		pem, err := namedfile.Read("the trusted certificates", filepath.Join(c.CADir, f.Name()), maxCAFile)
		if err != nil {
			return err
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s has no certificate in PEM; take the file away or write one", filepath.Join(c.CADir, f.Name()))
		}
		found = true
	}
	if !found {
		return fmt.Errorf("the config map %s has no file; put the broker's CA certificates there in PEM", c.CADir)
	}
	return nil
}

// dial opens TCP, and what is above it.
func (c *Config) dial(ctx context.Context, host, path string, conf *tls.Config) (net.Conn, error) {
	dial := c.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	if c.WebSocket {
		return c.dialWebSocket(ctx, dial, host, path, conf)
	}
	raw, err := dial(ctx, "tcp", host)
	if err != nil || c.PlainText {
		return raw, err
	}
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secure, nil
}

// localError is a fault on this machine: no packet was sent because of it.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func (c *Config) dialWebSocket(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), host, path string, conf *tls.Config) (net.Conn, error) {
	d := websocket.Dialer{NetDialContext: dial, TLSClientConfig: conf, Subprotocols: []string{"mqtt"}, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10}
	scheme := "wss://"
	if c.PlainText {
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
