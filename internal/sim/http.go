package sim

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

// httpFront serves HTTP on the connections an endpoint takes. To net/http it is a listener that never fails, whatever faults do to
// the endpoint's own.
type httpFront struct {
	endpoint *endpoint // where the connections come from
	server   *http.Server
	conns    chan net.Conn
	done     chan struct{}
	once     sync.Once
	jobs     sync.WaitGroup // the server, and its connections
}

// newHTTPFront makes a front with an endpoint whose connections speak HTTP, below TLS if config is
// not nil. listen opens the endpoint's listeners; log gets at debug level what net/http has to say.
func newHTTPFront(listen func(network, addr string) (net.Listener, error), handler http.Handler, config *tls.Config, logger zerolog.Logger) *httpFront {
	f := &httpFront{conns: make(chan net.Conn), done: make(chan struct{})}
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
	f.endpoint = &endpoint{listen: listen, serve: func(c *conn) {
		signal := &signalConn{conn: c, ended: make(chan struct{}), upgraded: make(chan func(), 1)}
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

// hurryBodies ends connections whose request never gets complete. Server.ReadTimeout would end requests that wait for a device, too.
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

// Read lifts the deadline at the end of the body: what is read from then on is to notice that the client has left.
func (b *hurriedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.deadline.SetReadDeadline(time.Time{})
	}
	return n, err
}

// debugWriter takes what net/http has to say, which is mostly about clients that left early.
type debugWriter struct{ log zerolog.Logger }

func (d debugWriter) Write(p []byte) (int, error) {
	d.log.Debug().Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}

// signalConn tells when net/http is done with it.
type signalConn struct {
	*conn
	once     sync.Once
	ended    chan struct{}
	upgraded chan func() // what the connection is to serve instead of HTTP; net/http has let go of it then
}

// Write gives a client that takes nothing up after a while.
func (c *signalConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.conn.Write(p)
}

// Close closes the connection and tells.
func (c *signalConn) Close() error {
	err := c.conn.Close()
	c.once.Do(func() { close(c.ended) })
	return err
}

// handler answers the requests; it is served with or without a connection.
func (f *httpFront) handler() http.Handler { return f.server.Handler }

// start begins to serve.
func (f *httpFront) start() {
	f.jobs.Go(func() { _ = f.server.Serve(f) })
}

// stop ends all connections, and returns when the last goroutine has ended.
func (f *httpFront) stop() {
	_ = f.server.Close()
	f.jobs.Wait()
}

// Accept hands the endpoint's next connection to net/http.
func (f *httpFront) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *httpFront) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr has no meaning here.
func (f *httpFront) Addr() net.Addr { return &net.TCPAddr{} }
