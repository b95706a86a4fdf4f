package hub

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestOpeningIsOneWrite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var got []string
		stop := w.Serve("10.0.0.1", func(p *peer) {
			// Nothing is answered until everything has arrived: a client that waits for CONNACK
			// would wait for ever.
			for range 3 {
				got = append(got, fmt.Sprintf("%T", p.Read()))
			}
			p.Send(packets.NewControlPacket(packets.Connack))
			q := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
			q.MessageID, q.Topics = 1, make([]string, 4)
			p.Suback(q, 1)
			p.Read()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		l.Abort(nil)
		if want := []string{"*packets.ConnectPacket", "*packets.SubscribePacket", "*packets.PublishPacket"}; !slices.Equal(got, want) {
			t.Errorf("%v arrived before CONNACK", got)
		}
	})
}

func TestSequentialWaitsForEachAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Read() == nil {
				return // the probe of a client that hears nothing
			}
			_ = p.Conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			if n, err := p.Conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Error("something came before CONNACK")
			}
			_ = p.Conn.SetReadDeadline(time.Time{})
			p.Send(packets.NewControlPacket(packets.Connack))
			if q, ok := p.Read().(*packets.SubscribePacket); ok {
				p.Suback(q, 1)
			} else {
				t.Error("no SUBSCRIBE after CONNACK")
			}
			p.Read()
		})
		defer stop()
		a := w.attempt("10.0.0.1")
		a.Sequential = true
		var phases []Phase
		a.Progress = func(p Phase) { phases = append(phases, p) }
		w.dialer.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		l, err := w.dialer.Dial(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		l.Abort(nil)
		if !slices.Equal(phases, []Phase{PhaseDial, PhaseTLS}) {
			t.Errorf("phases %v", phases)
		}
	})
}

func TestRefusalKeepsItsCode(t *testing.T) {
	for _, code := range []byte{1, 2, 3, 4, 5} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", func(p *peer) {
				p.Read()
				ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
				ack.ReturnCode = code
				p.Send(ack)
			})
			defer stop()
			_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != code || e.Phase != PhaseConnect || e.Pipelined {
				t.Errorf("CONNACK %d became %#v", code, err)
			}
		})
	}
}

func TestCloseBeforeConnackSaysWhetherMoreWasSent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) { p.Read() })
		defer stop()
		for _, sequential := range []bool{false, true} {
			a := w.attempt("10.0.0.1")
			a.Sequential = sequential
			_, err := w.dialer.Dial(t.Context(), a)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Phase != PhaseConnect || e.Pipelined == sequential || e.Code != 0 {
				t.Errorf("sequential %v: %v", sequential, err)
			}
		}
	})
}

func TestRefusedSubscriptionEndsTheAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Read()
			p.Send(packets.NewControlPacket(packets.Connack))
			if q, ok := p.Read().(*packets.SubscribePacket); ok {
				p.Suback(q, 0x80)
			}
			p.Read()
		})
		defer stop()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrSubscription) || e.Phase != PhaseSubscribe {
			t.Errorf("%v", err)
		}
	})
}

// TestFirstPubackTakesThreeRoundTrips: TCP, TLS 1.3, and one for CONNECT, SUBSCRIBE and the
// messages together.
func TestFirstPubackTakesThreeRoundTrips(t *testing.T) {
	for _, sequential := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", (*peer).Obey)
			defer stop()
			w.Net.SetDelay(25 * time.Millisecond)
			began, took := time.Now(), time.Duration(0)
			publish := func(l *Link) {
				err := l.Publish(outgoing("{}", "m"), func(err error) {
					if err == nil {
						took = time.Since(began)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}
			a, want := w.attempt("10.0.0.1"), 150*time.Millisecond
			a.Early = publish
			if a.Sequential = sequential; sequential { // Early is not called; CONNACK, SUBACK and PUBACK take a round trip each
				a.Early, want = func(*Link) { t.Error("messages before CONNACK") }, 250*time.Millisecond
			}
			l, err := w.dialer.Dial(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if sequential {
				publish(l)
			}
			time.Sleep(time.Second)
			l.Abort(nil)
			if took != want {
				t.Errorf("sequential %v: the first PUBACK after %v, want %v", sequential, took, want)
			}
		})
	}
}

// TestGatewayIsDialledInTheHubsPlace: the gateway is dialled, and proves itself by its own name;
// user name and token are for the hub. The probe of a doubted link goes the same way.
func TestGatewayIsDialledInTheHubsPlace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var user string
		probes := 0
		stop := w.Serve("10.0.0.2", func(p *peer) {
			c := p.Welcome()
			if c == nil {
				probes++
				return
			}
			user = c.Username
			_, _ = io.Copy(io.Discard, p.Conn)
		})
		defer stop()
		var tokenFor string
		w.dialer.Token = func(host, _ string) (string, time.Time, error) {
			tokenFor = host
			return "x", time.Now().Add(time.Hour), nil
		}
		a := w.attempt("hub-a.azure-devices.net")
		a.Gateway = "10.0.0.2"
		l, err := w.dialer.Dial(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if l.Host() != a.Host || tokenFor != a.Host || !strings.HasPrefix(user, a.Host+"/dev-1/?api-version=") {
			t.Errorf("host %q, token for %q, user name %q", l.Host(), tokenFor, user)
		}
		time.Sleep(w.dialer.KeepAlive + 1500*time.Millisecond) // the keep-alive is not answered
		synctest.Wait()
		if probes == 0 {
			t.Error("the gateway was not probed")
		}
		l.Abort(nil)
		if e, ok := errors.AsType[*Error](l.Err()); !ok || e.Gateway != a.Gateway || !strings.Contains(e.Error(), "hub-a.azure-devices.net through 10.0.0.2") {
			t.Errorf("%v", l.Err())
		}
		a.Gateway = "10.0.0.1"
		if _, err := w.dialer.Dial(t.Context(), a); err == nil || !strings.Contains(err.Error(), "through 10.0.0.1: dial") {
			t.Errorf("a gateway that is not there: %v", err)
		}
	})
}

// TestUnwantedPathsAreGivenBack: the hub remembers the subscriptions of the process before.
func TestUnwantedPathsAreGivenBack(t *testing.T) {
	for _, v := range []struct {
		set         func(d *Dialer)
		sub, unsub  []string
		twinRequest bool
	}{
		{func(*Dialer) {}, []string{"devices/dev-1/messages/devicebound/#", methodFilter, twinFilter, desiredFilter}, nil, true},
		{func(d *Dialer) { d.C2D = false }, []string{methodFilter, twinFilter, desiredFilter}, []string{"devices/dev-1/messages/devicebound/#"}, true},
		{func(d *Dialer) { d.C2D, d.Methods, d.Twin, d.Desired = false, false, false, false }, nil,
			[]string{"devices/dev-1/messages/devicebound/#", methodFilter, twinFilter, desiredFilter}, false},
	} {
		for _, sequential := range []bool{false, true} {
			bubble(t, func(t *testing.T, w *world) {
				v.set(w.dialer)
				var sub, unsub []string
				twin := false
				stop := w.Serve("10.0.0.1", func(p *peer) {
					for {
						switch q := p.Read().(type) {
						case *packets.ConnectPacket:
							if q.CleanSession {
								t.Error("the session is not kept")
							}
							p.Send(packets.NewControlPacket(packets.Connack))
						case *packets.SubscribePacket:
							sub = q.Topics
							p.Suback(q, 1)
						case *packets.UnsubscribePacket:
							unsub = q.Topics
						case *packets.PublishPacket:
							twin = true
						case nil:
							return
						}
					}
				})
				defer stop()
				a := w.attempt("10.0.0.1")
				a.Sequential = sequential
				l, err := w.dialer.Dial(t.Context(), a)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if !slices.Equal(sub, v.sub) || !slices.Equal(unsub, v.unsub) || twin != v.twinRequest {
					t.Errorf("SUBSCRIBE %v, UNSUBSCRIBE %v, twin %v", sub, unsub, twin)
				}
				l.Abort(nil)
				synctest.Wait()
			})
		}
	}
}
