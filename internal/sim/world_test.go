package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// world is a cloud on a network in memory. Its client side is written from the MQTT specification
// and shares nothing with the code under test.
type world struct {
	*Sim
	t    *testing.T
	net  *memnet.Net
	info Info
}

// inWorld runs f in virtual time. change adapts DefaultConfig.
func inWorld(t *testing.T, change func(*Config), f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: memnet.New()}
		c := DefaultConfig()
		c.Layout = LayoutLoopback
		c.Listen = w.net.Listen
		if change != nil {
			change(&c)
		}
		var err error
		if w.Sim, err = New(c); err != nil {
			t.Fatal(err)
		}
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := errors.Join(w.Close(), w.Close()); err != nil {
				t.Error(err)
			}
		}()
		w.info = w.Info()
		f(w)
	})
}

func (w *world) dial(addr string, certs ...tls.Certificate) (*client, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	raw, err := w.net.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	config := w.clientTLS(addr)
	config.Certificates = certs
	return newClient(w.t, raw, config)
}

func (w *world) clientTLS(addr string) *tls.Config {
	return &tls.Config{RootCAs: w.CAPool(), ServerName: hostOf(addr), Time: func() time.Time {
		return time.Now().Add(w.config.ClockOffset)
	}}
}

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

func (w *world) mustDial(addr string, certs ...tls.Certificate) *client {
	w.t.Helper()
	c, err := w.dial(addr, certs...)
	if err != nil {
		w.t.Fatalf("dial %s: %v", addr, err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
