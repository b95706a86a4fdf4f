package device

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// listen gives badHub a peer that is no simulator: each connection is handed to serve, in a
// goroutine of its own, until the returned function is called.
func listen(t *testing.T, n *memnet.Net, serve func(net.Conn)) (end func()) {
	t.Helper()
	listener, err := n.Listen("tcp", badHub+":8883")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(raw)
		}
	}()
	return func() { _ = listener.Close() }
}

// listenTLS is listen with the peer's side of TLS. A connection is closed when serve returns.
func listenTLS(t *testing.T, n *memnet.Net, cert tls.Certificate, serve func(*tls.Conn)) (end func()) {
	t.Helper()
	return listen(t, n, func(raw net.Conn) {
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
		defer func() { _ = c.Close() }()
		serve(c)
	})
}
