package dps

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
)

// peer is a DPS that never ends an exchange. It works on a connection from the end of TCP's
// handshake until the connection is closed. It obeys the protocol up to step.
type peer struct {
	tcp    bool                             // TCP is never answered
	raw    func(c net.Conn)                 // instead of TLS
	secure func(c net.Conn, request func()) // after TLS; request reads what comes
	within time.Duration                    // exactly when the registration ends
	is     error                            // nil: no answer
	only   Transport                        // nothing for the other one; empty: for both
}

const patience = 5 * time.Second

// drip writes bytes one by one, three seconds apart, then falls silent.
func drip(c net.Conn, b []byte) {
	for i := range b {
		time.Sleep(3 * time.Second)
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
	}
}

// every repeats bytes every three seconds for ever.
func every(c net.Conn, b []byte) {
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
		time.Sleep(3 * time.Second)
	}
}

// mqttAnswer is a PUBLISH of DPS.
func mqttAnswer(rid int, status int, query, body string) []byte {
	topic := fmt.Sprintf("$dps/registrations/res/%d/?$rid=%d%s", status, rid, query)
	return mqtttest.Bytes(mqtttest.Downlink(topic, []byte(body)))
}

var (
	connackSuback = []byte{0x20, 2, 0, 0, 0x90, 3, 0, 1, 1}
	pingresp      = []byte{0xd0, 0}
)

func httpAnswer(body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 202 Accepted\r\nRetry-After: 0\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// endless are the ways in which a peer can be slow for ever, phase by phase.
var endless = map[string]peer{
	"SYN is not answered":         {tcp: true, within: patience},
	"TCP is accepted, no TLS":     {raw: func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, within: patience},
	"TLS comes byte by byte":      {raw: func(c net.Conn) { drip(c, append([]byte{22, 3, 3, 0x40, 0}, make([]byte, 1000)...)) }, within: patience},
	"no CONNACK":                  {secure: func(_ net.Conn, request func()) { request(); request() }, within: patience, only: MQTT},
	"PINGRESP instead of CONNACK": {secure: func(c net.Conn, request func()) { request(); every(c, pingresp) }, within: patience, only: MQTT},
	"CONNACK byte by byte":        {secure: func(c net.Conn, request func()) { request(); drip(c, connackSuback) }, within: patience, only: MQTT},
	"no SUBACK":                   {secure: func(c net.Conn, request func()) { request(); _, _ = c.Write(connackSuback[:4]); request() }, within: patience, only: MQTT},
	"PINGRESP and no answer": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		every(c, pingresp)
	}, within: patience, only: MQTT},
	"answers to others": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		every(c, mqttAnswer(77, 200, "", assigned))
	}, within: patience, only: MQTT},
	"the answer comes byte by byte": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		drip(c, mqttAnswer(1, 200, "", assigned))
	}, within: patience, only: MQTT},
	"no answer to HTTP":     {secure: func(_ net.Conn, request func()) { request(); request() }, within: patience, only: HTTPS},
	"the head byte by byte": {secure: func(c net.Conn, request func()) { request(); drip(c, httpAnswer(assigned)) }, within: patience, only: HTTPS},
	"headers for ever": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		every(c, []byte("X: y\r\n"))
	}, within: patience, only: HTTPS},
	"1xx for ever": {secure: func(c net.Conn, request func()) { request(); every(c, []byte("HTTP/1.1 103 Early Hints\r\n\r\n")) }, within: patience, only: HTTPS},
	"the body byte by byte": {secure: func(c net.Conn, request func()) {
		request()
		b := httpAnswer(assigned)
		_, _ = c.Write(b[:len(b)-100])
		drip(c, b[len(b)-100:])
	}, within: patience, only: HTTPS},
	"a body without an end": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		every(c, []byte(" "))
	}, within: patience, only: HTTPS},
	"the poll is not answered": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		_, _ = c.Write(mqttAnswer(1, 202, "&retry-after=0", assigning))
		every(c, pingresp)
	}, within: patience, only: MQTT},
	"the poll is not answered over HTTP": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(httpAnswer(assigning))
		request()
		drip(c, httpAnswer(assigned))
	}, within: patience, only: HTTPS},
	"assigning for ever": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		for rid := 1; ; rid++ {
			if _, err := c.Write(mqttAnswer(rid, 202, "&retry-after=300", assigning)); err != nil {
				return
			}
			request()
		}
	}, within: 0, is: ErrStuck, only: MQTT},
	"a packet that begins between two polls": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		_, _ = c.Write(mqttAnswer(1, 202, "&retry-after=60", assigning))
		time.Sleep(time.Second)
		drip(c, mqttAnswer(9, 200, "", assigned))
	}, within: time.Second + 3*time.Second + patience, only: MQTT},
	"polls that take just not too long": {secure: func(c net.Conn, request func()) {
		request()
		_, _ = c.Write(connackSuback)
		for rid := 1; ; rid++ {
			time.Sleep(4 * time.Second)
			if _, err := c.Write(mqttAnswer(rid, 202, "&retry-after=0", assigning)); err != nil {
				return
			}
			request()
		}
	}, within: 4*time.Second + stuckAfter, is: ErrStuck, only: MQTT},
	"HTTP polls that take just not too long": {secure: func(c net.Conn, request func()) {
		for {
			request()
			time.Sleep(4 * time.Second)
			if _, err := c.Write(httpAnswer(assigning)); err != nil {
				return
			}
		}
	}, within: 4*time.Second + stuckAfter, is: ErrStuck, only: HTTPS},
}

// serve runs a peer on both ports until the test ends, and counts what it has sent.
func (p peer) serve(t *testing.T, n *memnet.Net, conf *tls.Config) (end func()) {
	t.Helper()
	var wg sync.WaitGroup
	var stops []func()
	for _, addr := range port {
		if p.tcp {
			n.Cut(addr)
		}
		l, err := n.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, mqtttest.Accept(l, &wg, func(c net.Conn) {
			if p.raw != nil {
				p.raw(c)
				_, _ = io.Copy(io.Discard, c)
				return
			}
			s := tls.Server(c, conf)
			buf := make([]byte, 8<<10)
			p.secure(s, func() { _, _ = s.Read(buf) })
			_, _ = io.Copy(io.Discard, s)
		}))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
		wg.Wait()
	}
}

// TestNoExchangeIsWithoutAnEnd: a peer sends packets, headers or single bytes without an end. Each
// exchange still ends exactly when its time is over: over every transport, in one write and step by
// step, over a new connection and over one that was opened ahead.
func TestNoExchangeIsWithoutAnEnd(t *testing.T) {
	for name, p := range endless {
		for _, transport := range transports {
			for _, how := range []string{"", "sequential", "opened ahead", "the time"} {
				if p.only != "" && p.only != transport || how == "sequential" && transport == HTTPS || how == "the time" && transport == MQTT {
					continue
				}
				t.Run(fmt.Sprint(name, ", ", transport, ", ", how), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cert, pool := memnet.Certificate(t, "10.0.0.1")
						n, c := memnet.New(), testClient()
						c.Host, c.Transport, c.DialContext, c.TLS = "10.0.0.1", transport, n.DialContext, &tls.Config{RootCAs: pool}
						end := p.serve(t, n, &tls.Config{Certificates: []tls.Certificate{cert}})
						defer end()
						var held sync.WaitGroup
						if how == "opened ahead" {
							hold := c.Open(t.Context())
							held.Go(hold)
						}
						began := time.Now()
						if how == "the time" {
							if _, err := c.AskTime(t.Context()); err == nil || time.Since(began) > timePatience {
								t.Errorf("it took %v: %v", time.Since(began), err)
							}
							return
						}
						_, err := c.Register(t.Context(), Request{Patience: patience, Sequential: how == "sequential"})
						if took, want := time.Since(began), p.within; took != want {
							t.Errorf("it took %v, not %v: %v", took, want, err)
						}
						if e, ok := errors.AsType[*Error](err); !ok || p.is != nil && !errors.Is(err, p.is) || p.is == nil && !errors.Is(err, ErrSilent) && e.Step != StepDial {
							t.Errorf("%v", err)
						}
						held.Wait()
						synctest.Wait()
						time.Sleep(2 * time.Second) // DISCONNECT may wait for a second
						synctest.Wait()
						if open := n.Open(port[transport]); open != 0 {
							t.Errorf("%d connections are left", open)
						}
					})
				})
			}
		}
	}
}

// TestNothingOfDPSIsWithoutABound: an endless answer that comes as fast as possible is given up,
// over every transport and for the question for the time. No time passes, so only a bound in bytes
// can end it.
func TestNothingOfDPSIsWithoutABound(t *testing.T) {
	register := func(t *testing.T, c *Client) error { _, err := c.Register(t.Context(), Request{}); return err }
	askTime := func(t *testing.T, c *Client) error { _, err := c.AskTime(t.Context()); return err }
	for name, v := range map[string]struct {
		transport Transport
		ask       func(t *testing.T, c *Client) error
		first     string
		again     string
	}{
		"head":             {HTTPS, register, "HTTP/1.1 200 OK\r\n", "X-Filler: 0123456789abcdef0123456789abcdef\r\n"},
		"one header":       {HTTPS, register, "HTTP/1.1 200 OK\r\nX-Filler: ", "0123456789abcdef0123456789abcdef"},
		"status line":      {HTTPS, register, "HTTP/1.1 200 ", "0123456789abcdef0123456789abcdef"},
		"1xx":              {HTTPS, register, "", "HTTP/1.1 103 Early Hints\r\nX-Filler: 0123456789abcdef\r\n\r\n"},
		"body":             {HTTPS, register, "HTTP/1.1 200 OK\r\n\r\n", "                                "},
		"chunks":           {HTTPS, register, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"},
		"trailer":          {HTTPS, register, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X-Filler: 0123456789abcdef\r\n"},
		"large packet":     {MQTT, register, "\x30\xff\xff\xff\x7f", "0123456789abcdef0123456789abcdef"},
		"time: head":       {MQTT, askTime, "HTTP/1.1 200 OK\r\n", "X-Filler: 0123456789abcdef0123456789abcdef\r\n"},
		"time: one header": {HTTPS, askTime, "HTTP/1.1 200 OK\r\nX-Filler: ", "0123456789abcdef0123456789abcdef"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert, pool := memnet.Certificate(t, "10.0.0.1")
				n, c := memnet.New(), testClient()
				c.Host, c.Transport, c.DialContext, c.TLS = "10.0.0.1", v.transport, n.DialContext, &tls.Config{RootCAs: pool}
				sent := 0
				end := peer{secure: func(c net.Conn, request func()) {
					request()
					_, err := io.WriteString(c, v.first)
					for block := []byte(strings.Repeat(v.again, 32)); err == nil && sent < 64<<20; sent += len(block) {
						_, err = c.Write(block)
					}
				}}.serve(t, n, &tls.Config{Certificates: []tls.Certificate{cert}})
				began := time.Now()
				err := v.ask(t, c)
				took := time.Since(began)
				end()
				if _, ok := errors.AsType[*Error](err); !ok || took > 0 || sent > 2<<20 {
					t.Errorf("%d bytes were taken in %v: %v", sent, took, err)
				}
				fit(t, err.Error())
			})
		})
	}
}

// TestRedirectsAreNotFollowed: only an assignment may name the host that the device talks to next.
func TestRedirectsAreNotFollowed(t *testing.T) {
	bubble(t, HTTPS, func(t *testing.T, s *scripted) {
		s.replies = []reply{{302, "", ""}}
		_, err := s.client.Register(t.Context(), Request{})
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 302 || len(s.requests) != 1 {
			t.Errorf("%v after %d requests", err, len(s.requests))
		}
	})
}
