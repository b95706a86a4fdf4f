// Package mqtttest is the other side of internal/mqtt in tests: scripted MQTT servers in a network
// in virtual time. Tests need servers that stall, lie or send nonsense, and the simulator does none
// of that. The package imports nothing of internal/mqtt, so that the tests inside it can import
// this package.
package mqtttest

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// World is a network in virtual time with one or more scripted servers.
type World struct {
	T       *testing.T
	Net     *memnet.Net
	Config  *tls.Config    // of the servers, which are 10.0.0.1 and 10.0.0.2
	Roots   *x509.CertPool // trusts the servers
	Running sync.WaitGroup // what must have ended when the test ends

	hello string
}

// Bubble runs a test in virtual time. The test fails unless all that it started has ended at its
// end. The opening of each session ends with a PUBLISH whose topic begins with hello.
func Bubble(t *testing.T, hello string, f func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cert, roots := memnet.Certificate(t, "10.0.0.1", "10.0.0.2")
		w := &World{T: t, Net: memnet.New(), Config: &tls.Config{Certificates: []tls.Certificate{cert}}, Roots: roots, hello: hello}
		f(w)
		w.Running.Wait()
	})
}

// Serve lets script answer each connection to port 8883 of addr, after TLS. The connection ends
// with script. The test must call stop before the function of [Bubble] returns.
func (w *World) Serve(addr string, script func(p *Peer)) (stop func()) {
	w.T.Helper()
	l, err := w.Net.Listen("tcp", addr+":8883")
	if err != nil {
		w.T.Fatal(err)
	}
	return Accept(l, &w.Running, func(raw net.Conn) {
		conn := tls.Server(raw, w.Config)
		if conn.Handshake() != nil {
			_ = raw.Close()
			return
		}
		script(&Peer{T: w.T, Conn: conn, Raw: raw, Hello: w.hello})
		_ = conn.Close()
	})
}

// Accept gives each connection of a listener to serve, in a goroutine of its own that running
// counts. Calling stop closes the listener and all connections: a server whose path was cut would
// wait for ever.
func Accept(l net.Listener, running *sync.WaitGroup, serve func(conn net.Conn)) (stop func()) {
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			running.Go(func() { serve(conn) })
		}
	})
	return func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	}
}
