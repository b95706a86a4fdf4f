package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
)

// TestFirstWriteIsBounded: a hub that refuses costs no more than a first flight, and what does not
// fit is refused as good for later.
func TestFirstWriteIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		size := make(chan int, 1)
		stop := w.Serve("10.0.0.1", func(p *peer) {
			n, total := 0, 0
			_ = p.Conn.SetReadDeadline(time.Now().Add(time.Second))
			for err := error(nil); err == nil; total += n {
				n, err = p.Conn.Read(make([]byte, 4096))
			}
			if total > 0 { // else it is the watchdog's probe
				size <- total
			}
		})
		defer stop()
		var a acks
		mids := make([]string, 100)
		for i := range mids {
			mids[i] = fmt.Sprint(i)
		}
		attempt, fitted := w.earlyAttempt("10.0.0.1", &a, make([]byte, 1000), mids...)
		if _, err := w.dialer.Dial(t.Context(), attempt); err == nil {
			t.Fatal("a silent hub let us in")
		}
		if n := <-size; n > firstFlight || n < firstFlight-1200 {
			t.Errorf("%d bytes before CONNACK", n)
		}
		for _, mid := range *fitted {
			if got := a.Of(mid); len(got) != 1 || got[0] == nil {
				t.Errorf("%s completed with %v", mid, got)
			}
		}
	})
}

// TestSessionThatEndsAtOnceWasUp: a session that the hub grants and closes at once was one.
func TestSessionThatEndsAtOnceWasUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) { p.Welcome() })
		defer stop()
		l := w.dial("10.0.0.1")
		<-l.Done()
		for range 100 { // both have happened
			if !l.Await(t.Context()) {
				t.Fatal("it was not up")
			}
		}
		l.Abort(nil)
	})
}

func TestDialGivesUpAtItsLimit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(*peer) {})
		defer stop()
		w.Net.Cut("10.0.0.1:8883")
		began := time.Now()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		e, ok := errors.AsType[*Error](err)
		if took := time.Since(began); took != testLimit || !ok || e.Phase != PhaseDial {
			t.Errorf("after %v: %v", took, err)
		}
		w.Net.Mend("10.0.0.1:8883")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		mute, err := w.Net.Listen("tcp", "10.0.0.2:8883") // accepts, says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = mute.Close() }()
		if _, err = w.dialer.Dial(ctx, w.attempt("10.0.0.2")); err == nil {
			t.Error("no error")
		}
		began = time.Now()
		_, err = w.dialer.Dial(t.Context(), w.attempt("10.0.0.2"))
		e, ok = errors.AsType[*Error](err)
		if took := time.Since(began); took != testLimit || !ok || e.Phase != PhaseTLS || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

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

// TestOpeningThatDripsEndsInTime: a hub answers slowly, or sends other packets than the expected
// ones. The attempt still ends in time: 10 s for TLS, a minute for the session.
func TestOpeningThatDripsEndsInTime(t *testing.T) {
	suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	suback.ReturnCodes = make([]byte, 10)
	for name, v := range map[string]struct {
		script func(p *peer)
		phase  Phase
	}{
		"CONNACK":                     {func(p *peer) { _ = p.Drip(mqtttest.Connack(), 20*time.Second) }, PhaseConnect},
		"SUBACK":                      {func(p *peer) { p.Send(mqtttest.Connack()); _ = p.Drip(suback, 9*time.Second) }, PhaseSubscribe},
		"nothing":                     {func(*peer) { time.Sleep(90 * time.Second) }, PhaseConnect},
		"PINGRESPs instead of SUBACK": {func(p *peer) { p.Send(mqtttest.Connack()); p.Every(3*time.Second, mqtttest.Pingresp()) }, PhaseSubscribe},
		"messages instead of SUBACK": {func(p *peer) {
			p.Send(mqtttest.Connack())
			p.Every(500*time.Millisecond, mqtttest.Downlink("in/1", make([]byte, 10)))
		}, PhaseSubscribe},
		"changes instead of SUBACK": {func(p *peer) {
			p.Send(mqtttest.Connack())
			p.Every(500*time.Millisecond, mqtttest.Downlink("in/2", make([]byte, 10)))
		}, PhaseSubscribe},
		"a packet without end instead of SUBACK": {func(p *peer) {
			p.Send(mqtttest.Connack())
			_ = p.Drip(mqtttest.Downlink("x", make([]byte, 1000)), time.Second)
		}, PhaseSubscribe},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) {
					if _, ok := p.Read().(*packets.ConnectPacket); ok { // else it is a probe, which is answered
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
			l, err := w.Net.Listen("tcp", "10.0.0.1:8883")
			if err != nil {
				t.Fatal(err)
			}
			w.Running.Go(func() {
				raw, err := l.Accept()
				if err == nil {
					_ = tls.Server(dripping{raw}, w.Config).Handshake()
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
