package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// dripping is a connection that lets a byte go each second.
type dripping struct{ net.Conn }

func (c dripping) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		time.Sleep(time.Second)
		_, err = c.Conn.Write(b[n : n+1])
		n++
	}
	return n, err
}

// TestOpeningsThatDrip: a hub answers slowly, or sends other packets than the expected ones. The
// attempt still ends in time: 10 s for TLS, a minute for the session.
func TestOpeningsThatDrip(t *testing.T) {
	suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	suback.ReturnCodes = make([]byte, 10)
	for name, v := range map[string]struct {
		script func(p *peer)
		phase  Phase
	}{
		"CONNACK":                     {func(p *peer) { _ = p.drip(connack(), 20*time.Second) }, PhaseConnect},
		"SUBACK":                      {func(p *peer) { p.send(connack()); _ = p.drip(suback, 9*time.Second) }, PhaseSubscribe},
		"nothing":                     {func(*peer) { time.Sleep(90 * time.Second) }, PhaseConnect},
		"PINGRESPs instead of SUBACK": {func(p *peer) { p.send(connack()); p.every(3*time.Second, pingresp()) }, PhaseSubscribe},
		"messages instead of SUBACK": {func(p *peer) {
			p.send(connack())
			p.every(500*time.Millisecond, downlink("in/1", 10))
		}, PhaseSubscribe},
		"changes instead of SUBACK": {func(p *peer) {
			p.send(connack())
			p.every(500*time.Millisecond, downlink("in/2", 10))
		}, PhaseSubscribe},
		"a packet without end instead of SUBACK": {func(p *peer) { p.send(connack()); _ = p.drip(downlink("x", 1000), time.Second) }, PhaseSubscribe},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.hub("10.0.0.1", func(p *peer) {
					if _, ok := p.read().(*packets.ConnectPacket); ok { // else it is a probe, which is answered
						v.script(p)
					}
				})
				defer stop()
				began := time.Now()
				_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
				took := time.Since(began)
				e, ok := errors.AsType[*Failure](err)
				if !ok || took != finalLimit || e.Phase != v.phase || !errors.Is(err, ErrSilent) {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
	t.Run("TLS", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			l, err := w.net.Listen("tcp", "10.0.0.1:8883")
			if err != nil {
				t.Fatal(err)
			}
			w.wg.Go(func() {
				raw, err := l.Accept()
				if err == nil {
					_ = tls.Server(dripping{raw}, w.server).Handshake()
					_ = raw.Close()
				}
			})
			began := time.Now()
			_, err = w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
			if took := time.Since(began); took != testLimit || !errors.Is(err, ErrSilent) {
				t.Errorf("after %v: %v", took, err)
			}
			_ = l.Close()
		})
	})
}

// TestGoodbyeThatNobodyReads: the hub stops reading. Close waits for its limit and no longer,
// whether the buffers have room for the whole goodbye, for MQTT's part only, or for nothing.
func TestGoodbyeThatNobodyReads(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		goodbye(t, size)
	}
	for size := 130_400; size < 131_200; size += 10 { // two of them fill the buffers up to a few bytes
		goodbye(t, size)
	}
}

func goodbye(t *testing.T, size int) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() != nil {
				time.Sleep(time.Hour)
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		for range 2 {
			if err := publishOne(l, []byte(strings.Repeat("x", size)), "", func(error) {}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		l.Close(ctx, nil)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("with two messages of %d bytes unread it took %v", size, took)
		}
	})
}
