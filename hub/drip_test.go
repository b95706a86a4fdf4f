package hub

import (
	"bytes"
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

// drip sends a packet byte by byte.
func (p *peer) drip(cp packets.ControlPacket, pause time.Duration) error {
	var b bytes.Buffer
	_ = cp.Write(&b)
	for _, c := range b.Bytes() {
		time.Sleep(pause)
		if _, err := p.conn.Write([]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

// every sends a packet again and again, and reads nothing of what comes.
func (p *peer) every(pause time.Duration, cp packets.ControlPacket) {
	for {
		time.Sleep(pause)
		if cp.Write(p.conn) != nil {
			return
		}
	}
}

func connack() packets.ControlPacket  { return packets.NewControlPacket(packets.Connack) }
func pingresp() packets.ControlPacket { return packets.NewControlPacket(packets.Pingresp) }

func downlink(topic string, size int) packets.ControlPacket {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload = topic, make([]byte, size)
	return m
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
			p.every(500*time.Millisecond, downlink("devices/dev-1/messages/devicebound/", 10))
		}, PhaseSubscribe},
		"changes instead of SUBACK": {func(p *peer) {
			p.send(connack())
			p.every(500*time.Millisecond, downlink("$iothub/twin/PATCH/properties/desired/?$version=1", 10))
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
				e, ok := errors.AsType[*Error](err)
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
			if took := time.Since(began); took != tlsTimeout || !errors.Is(err, ErrSilent) {
				t.Errorf("after %v: %v", took, err)
			}
			_ = l.Close()
		})
	})
}

// TestSessionsThatDrip: a hub sends other packets and withholds a PUBACK. The link lasts for a
// minute and no longer. Calls with a limit end at that: a request for the twin, the wait for
// PUBACKs, the goodbye.
func TestSessionsThatDrip(t *testing.T) {
	for name, instead := range map[string]func(p *peer){
		"PINGRESPs":          func(p *peer) { p.every(time.Second, pingresp()) },
		"messages":           func(p *peer) { p.every(time.Second, downlink("x", 10)) },
		"answers for nobody": func(p *peer) { p.every(time.Second, downlink("$iothub/twin/res/200/?$rid=77", 10)) },
		"PUBACKs for nothing": func(p *peer) {
			a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			a.MessageID = 999
			p.every(time.Second, a)
		},
		"a packet without end":   func(p *peer) { _ = p.drip(downlink("x", 2000), 100*time.Millisecond) },
		"the PUBACK, but slowly": func(p *peer) { _ = p.drip(packets.NewControlPacket(packets.Puback), 20*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.hub("10.0.0.1", func(p *peer) {
					if p.welcome() != nil {
						instead(p)
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				var a acks
				offer(t, l, &a, "m")
				began := time.Now()
				within := func(what string, limit time.Duration, f func(ctx context.Context) error) {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					start := time.Now()
					if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != limit {
						t.Errorf("%s: %v after %v", what, err, time.Since(start))
					}
				}
				within("the twin that was asked for at first", 10*time.Second, func(ctx context.Context) error { _, err := l.Twin(ctx); return err })
				within("the twin", 10*time.Second, func(ctx context.Context) error { _, err := l.Twin(ctx); return err })
				within("a report", 10*time.Second, func(ctx context.Context) error { _, err := l.Report(ctx, []byte("{}")); return err })
				within("the PUBACKs", 10*time.Second, l.Settle)
				if err := l.Err(); time.Since(began) != finalLimit || !errors.Is(err, ErrUnacked) {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				l.Abort()
				if len(l.calls) != 0 {
					t.Errorf("%d requests are kept", len(l.calls))
				}
			})
		})
	}
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
			if err := l.Publish(outgoing(strings.Repeat("x", size), ""), func(error) {}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		l.Close(ctx)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("with two messages of %d bytes unread it took %v", size, took)
		}
	})
}
