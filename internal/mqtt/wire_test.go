package mqtt

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// What TLS writes by itself, to answer the peer, keeps its place among the records that are
// gathered.
func TestWireKeepsTheOrderOfRecords(t *testing.T) {
	cert, pool := memnet.Certificate(t, "127.0.0.1")
	near, far := net.Pipe()
	w := &wire{Conn: near}
	client := tls.Client(w, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	var wg sync.WaitGroup
	got := 0
	wg.Go(func() {
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
		for buf := make([]byte, 1000); ; {
			n, err := server.Read(buf)
			got += n
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err) // a record in another's place
				}
				return
			}
		}
	})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	const rounds = 300
	itself := make(chan struct{})
	go func() {
		defer close(itself)
		for range rounds {
			if _, err := client.Write([]byte("by itself")); err != nil {
				t.Error(err)
			}
		}
	}()
	for range rounds {
		if err := w.seal(client, []byte("gathered")); err != nil {
			t.Fatal(err)
		}
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	<-itself
	_ = client.Close()
	wg.Wait()
	if want := rounds * len("by itselfgathered"); got != want {
		t.Errorf("%d bytes arrived, want %d", got, want)
	}
}
