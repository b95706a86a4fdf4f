package wire

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// HTTPFront serves HTTP on the connections that its endpoint accepts. To net/http it is a listener
// that never fails, whatever faults do to the endpoint's own listener.
type HTTPFront struct {
	Endpoint *Endpoint // where the connections come from
	server   *http.Server
	conns    chan net.Conn
	done     chan struct{}
	once     sync.Once
	jobs     sync.WaitGroup // the server, and its connections
}

// NewHTTPFront makes a front with an endpoint whose connections speak HTTP, below TLS if config is
// not nil. The function listen opens the endpoint's listeners. The logger gets at debug level what
// net/http has to say.
func NewHTTPFront(listen func(network, addr string) (net.Listener, error), handler http.Handler, config *tls.Config, logger zerolog.Logger) *HTTPFront {
	f := &HTTPFront{conns: make(chan net.Conn), done: make(chan struct{})}
	f.server = &http.Server{
		Handler: hurryBodies(handler), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(debugWriter{logger}, "", 0),
		ConnState: func(c net.Conn, state http.ConnState) {
			if secure, ok := c.(*tls.Conn); ok {
				c = secure.NetConn()
			}
			if signal, ok := c.(*signalConn); ok && state == http.StateActive { // a whole request has come
				signal.letIn()
			}
		},
	}
	f.Endpoint = &Endpoint{Listen: listen, Serve: func(c *Conn) {
		signal := &signalConn{Conn: c, ended: make(chan struct{}), upgraded: make(chan func(), 1)}
		var served net.Conn = signal
		if config != nil {
			served = tls.Server(served, config)
		}
		select {
		case f.conns <- served:
			select {
			case <-signal.ended:
			case speak := <-signal.upgraded:
				speak()
			}
		case <-f.done:
		}
	}}
	return f
}

// bodyTimeout is how long a client may take for the body of a request.
const bodyTimeout = time.Minute

// hurryBodies ends connections whose request never gets complete. Server.ReadTimeout would do that
// too, but it would also end requests that wait for a device.
func hurryBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			deadline := http.NewResponseController(w)
			_ = deadline.SetReadDeadline(time.Now().Add(bodyTimeout))
			r.Body = &hurriedBody{r.Body, deadline}
		}
		next.ServeHTTP(w, r)
	})
}

type hurriedBody struct {
	io.ReadCloser
	deadline *http.ResponseController
}

// Read lifts the deadline at the end of the body: whoever reads from then on wants to notice that
// the client has left.
func (b *hurriedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.deadline.SetReadDeadline(time.Time{})
	}
	return n, err
}

// debugWriter logs what net/http has to say, which is mostly about clients that left early.
type debugWriter struct{ log zerolog.Logger }

func (d debugWriter) Write(p []byte) (int, error) {
	d.log.Debug().Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}

// signalConn closes ended when net/http is done with it.
type signalConn struct {
	*Conn
	once     sync.Once
	ended    chan struct{}
	upgraded chan func() // what the connection is to serve instead of HTTP; net/http has let go of it then
}

// Write gives up after WriteTimeout on a client that takes nothing.
func (c *signalConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(WriteTimeout))
	return c.Conn.Write(p)
}

// Close closes the connection and ended.
func (c *signalConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.ended) })
	return err
}

// Handler answers the requests. It is for tests, which call it without a connection.
func (f *HTTPFront) Handler() http.Handler { return f.server.Handler }

// Start begins to serve.
func (f *HTTPFront) Start() {
	f.jobs.Go(func() { _ = f.server.Serve(f) })
}

// Stop ends all connections, and returns when the last goroutine has ended.
func (f *HTTPFront) Stop() {
	_ = f.server.Close()
	f.jobs.Wait()
}

// Accept hands the endpoint's next connection to net/http.
func (f *HTTPFront) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *HTTPFront) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr has no meaning here.
func (f *HTTPFront) Addr() net.Addr { return &net.TCPAddr{} }

// WithDate lets HTTP answers carry the time of another clock than this machine's.
func WithDate(next http.Handler, now func() time.Time) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", now().UTC().Format(http.TimeFormat))
		next.ServeHTTP(w, r)
	})
}
