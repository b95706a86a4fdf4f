package dps

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// port is where a transport's DPS listens.
var port = map[Transport]string{MQTT: "10.0.0.1:8883", HTTPS: "10.0.0.1:443"}

// TestRegistrationTakesTheConnectionThatWasOpenedAhead: a registration takes the connection that
// was opened before, whether it is up already or not yet, and pays no round trip for it again.
func TestRegistrationTakesTheConnectionThatWasOpenedAhead(t *testing.T) {
	const oneWay = 25 * time.Millisecond
	for _, transport := range []Transport{MQTT, HTTPS} {
		for _, before := range []time.Duration{time.Second, oneWay / 5} {
			t.Run(string(transport)+" "+before.String(), func(t *testing.T) {
				bubble(t, transport, func(t *testing.T, s *scripted) {
					s.replies = []reply{{202, "0", assigning}, {200, "", assigned}}
					s.net.SetDelay(oneWay)
					began := time.Now()
					held := make(chan struct{})
					hold := s.client.Open(t.Context())
					go func() { defer close(held); hold() }()
					time.Sleep(before)
					a, err := s.client.Register(t.Context(), Request{})
					if err != nil || a.Hub != "hub-a" {
						t.Fatal(a, err)
					}
					<-held
					want := max(before, 4*oneWay) + 4*oneWay // TCP and TLS; the request, and one poll
					if took := time.Since(began); took != want {
						t.Errorf("%v, not %v", took, want)
					}
					if n := s.net.Dials(port[transport]); n != 1 {
						t.Errorf("%d connections", n)
					}
					time.Sleep(time.Second)
					if n := s.net.Open(port[transport]); n != 0 {
						t.Errorf("%d connections are left open", n)
					}
				})
			})
		}
	}
}

// TestRegistrationWaitsForThePromisedConnection: a registration that comes before the one who opens
// has got going waits for that connection.
func TestRegistrationWaitsForThePromisedConnection(t *testing.T) {
	bubble(t, MQTT, func(t *testing.T, s *scripted) {
		s.replies = []reply{{200, "", assigned}}
		hold := s.client.Open(t.Context())
		registered := make(chan error)
		go func() { _, err := s.client.Register(t.Context(), Request{}); registered <- err }()
		synctest.Wait()
		if n := s.net.Dials(port[MQTT]); n != 0 {
			t.Errorf("%d connections of its own", n)
		}
		hold()
		if err := <-registered; err != nil || s.net.Dials(port[MQTT]) != 1 {
			t.Errorf("%v over %d connections", err, s.net.Dials(port[MQTT]))
		}
	})
}

// TestConnectionThatNobodyTakesIsClosedUnused: no registration comes. DPS gets TCP and TLS and not
// a word, and the connection ends when it is told to.
func TestConnectionThatNobodyTakesIsClosedUnused(t *testing.T) {
	for _, transport := range []Transport{MQTT, HTTPS} {
		t.Run(string(transport), func(t *testing.T) {
			bubble(t, transport, func(t *testing.T, s *scripted) {
				ctx, stop := context.WithCancel(t.Context())
				held := make(chan struct{})
				hold := s.client.Open(ctx)
				go func() { defer close(held); hold() }()
				synctest.Wait()
				if n := s.net.Open(port[transport]); n != 1 {
					t.Fatalf("%d connections", n)
				}
				s.client.Open(t.Context())() // one is enough
				stop()
				<-held
				if n := s.net.Open(port[transport]); n != 0 {
					t.Errorf("%d connections are left open", n)
				}
				if len(s.requests) != 0 || s.net.Dials(port[transport]) != 1 {
					t.Errorf("DPS was asked %q over %d connections", s.requests, s.net.Dials(port[transport]))
				}
			})
		})
	}
}

// TestRegistrationThatIsNotAdmittedClosesItsConnection: the registration is given up while it waits
// for its process's rate. The connection that was ready goes too.
func TestRegistrationThatIsNotAdmittedClosesItsConnection(t *testing.T) {
	for _, transport := range []Transport{MQTT, HTTPS} {
		t.Run(string(transport), func(t *testing.T) {
			bubble(t, transport, func(t *testing.T, s *scripted) {
				held := make(chan struct{})
				hold := s.client.Open(t.Context())
				go func() { defer close(held); hold() }()
				synctest.Wait()
				ctx, stop := context.WithTimeout(t.Context(), time.Second)
				defer stop()
				_, err := s.client.Register(ctx, Request{Admit: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
				if err == nil {
					t.Error("registered")
				}
				<-held
				synctest.Wait()
				if n := s.net.Open(port[transport]); n != 0 {
					t.Errorf("%d connections are left open", n)
				}
			})
		})
	}
}

// TestConnectionThatIsGoneIsReplaced: DPS has closed the connection, or a black hole has swallowed
// it before it was up: the registration gets another one, or the patience it was given.
func TestConnectionThatIsGoneIsReplaced(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		bubble(t, MQTT, func(t *testing.T, s *scripted) {
			s.replies = []reply{{200, "", assigned}}
			l, err := s.net.Listen("tcp", "10.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			cert, pool := memnet.Certificate(t, "10.0.0.1")
			plain, dial := s.client.TLS, s.client.DialContext
			s.client.TLS = &tls.Config{RootCAs: pool}
			s.client.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return dial(ctx, network, "10.0.0.1:1")
			}
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
				time.Sleep(time.Second)
				_ = c.Close()
			}()
			s.client.Open(t.Context())() // until it is closed
			s.client.TLS, s.client.DialContext = plain, dial
			if a, err := s.client.Register(t.Context(), Request{}); err != nil || a.Hub != "hub-a" {
				t.Error(a, err)
			}
		})
	})
	t.Run("silent", func(t *testing.T) {
		bubble(t, MQTT, func(t *testing.T, s *scripted) {
			s.net.Cut("10.0.0.1:8883")
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			go s.client.Open(ctx)()
			time.Sleep(time.Second)
			began := time.Now()
			_, err := s.client.Register(t.Context(), Request{Patience: 5 * time.Second})
			e, ok := errors.AsType[*Error](err)
			if took := time.Since(began); !ok || !errors.Is(err, ErrSilent) || e.Counted || took != 5*time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	t.Run("given up", func(t *testing.T) {
		bubble(t, MQTT, func(t *testing.T, s *scripted) {
			s.net.SetDelay(time.Second)
			held := make(chan struct{})
			hold := s.client.Open(t.Context())
			go func() { defer close(held); hold() }()
			time.Sleep(time.Second)
			ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer stop()
			if _, err := s.client.Register(ctx, Request{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			<-held
			time.Sleep(5 * time.Second)
			if n := s.net.Open("10.0.0.1:8883"); n != 0 {
				t.Errorf("%d connections are left open", n)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		bubble(t, MQTT, func(t *testing.T, s *scripted) {
			s.client.Host = "10.0.0.2"
			go s.client.Open(t.Context())()
			_, err := s.client.Register(t.Context(), Request{})
			if e, ok := errors.AsType[*Error](err); !ok || e.Step != StepDial || errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	})
}
