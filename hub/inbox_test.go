package hub

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// served is a handler that hands on what it is told.
type served struct {
	l                        *Link
	methods                  chan *Method
	desired, messages, first chan struct{}
	renew                    chan struct{}
}

// serve puts a link to work.
func serve(l *Link) *served {
	s := &served{l: l, methods: make(chan *Method, 100), desired: make(chan struct{}, 10), messages: make(chan struct{}, 10),
		first: make(chan struct{}, 10), renew: make(chan struct{}, 10)}
	l.Serve(s)
	return s
}

func (s *served) FirstAck()        { s.first <- struct{}{} }
func (s *served) Method(m *Method) { s.methods <- m }
func (s *served) Desired()         { s.desired <- struct{}{} }
func (s *served) Messages()        { s.messages <- struct{}{} }
func (s *served) Renew()           { s.renew <- struct{}{} }

// take waits for at least n messages.
func (s *served) take(n int) (all []*Message) {
	for len(all) < n {
		<-s.messages
		for m := s.l.TakeMessages(); m != nil; m = s.l.TakeMessages() {
			all = append(all, m...)
		}
	}
	return all
}

// flooding lets a hub send n packets to a link that takes nothing, after it was let in.
func (w *world) flooding(n int, topic string, qos byte, size int, after func(l *Link)) {
	w.T.Helper()
	stop := w.Serve("10.0.0.1", func(p *peer) {
		if p.Welcome() == nil {
			return
		}
		p.Telemetry()
		for i := range n {
			p.Publish(fmt.Sprintf(topic, i+1), strings.Repeat("x", size), qos, uint16(i+1))
		}
		_, _ = io.Copy(io.Discard, p.Conn)
	})
	defer stop()
	l := w.dial("10.0.0.1")
	var a acks
	s := serve(l)
	offer(w.T, l, &a, "go")
	synctest.Wait()
	after(l)
	if len(s.desired) > 1 || len(s.messages) > 1 {
		w.T.Errorf("told %d times of changes and %d times of messages that nobody took", len(s.desired), len(s.messages))
	}
	l.Abort(nil)
}

func TestTooManyChangesBecomeOneThatSaysSo(t *testing.T) {
	for name, v := range map[string]struct {
		n, size int
		missed  bool
	}{
		"as many as there is room for": {maxQueued, 10, false},
		"one more":                     {maxQueued + 1, 10, true},
		"too many bytes":               {80, 60_000, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.flooding(v.n, "$iothub/twin/PATCH/properties/desired/?$version=%d", 0, v.size, func(l *Link) {
					got := l.TakeDesired()
					if !v.missed && (len(got) != v.n || got[0].Version != 1 || got[0].Missed) {
						t.Errorf("%d changes, the first %+v", len(got), got[0])
					}
					if v.missed && (!got[0].Missed || got[0].Body != nil || len(got) > v.n-maxQueuedBytes/60_000) {
						t.Errorf("%d changes, the first %+v", len(got), got[0])
					}
				})
			})
		})
	}
}

func TestTooManyMessagesEndTheLink(t *testing.T) {
	for name, v := range map[string]struct {
		n, size int
		ends    bool
	}{
		"as many as there is room for": {maxQueued, 10, false},
		"one more":                     {maxQueued + 1, 10, true},
		"too many bytes":               {80, 60_000, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.flooding(v.n, "devices/dev-1/messages/devicebound/%%24.mid=%d", 0, v.size, func(l *Link) {
					select {
					case <-l.Done():
						if !v.ends || !errors.Is(l.Err(), ErrProtocol) || !strings.Contains(l.Err().Error(), "are waiting to be handled") {
							t.Errorf("the link ended: %v", l.Err())
						}
					default:
						if v.ends || len(l.TakeMessages()) != v.n {
							t.Error("the link goes on")
						}
					}
				})
			})
		})
	}
}

// TestWhatCameBeforeTheLinkWasServedIsHandedOver: nothing that comes between CONNACK and Serve is
// lost, and it comes once.
func TestWhatCameBeforeTheLinkWasServedIsHandedOver(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.Token = KeyToken(time.Now, "AAECAwQFBgcICQoLDA0ODw==", 10*time.Second)
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			p.Publish("$iothub/methods/POST/echo/?$rid=1", "1", 0, 0)
			p.Publish("$iothub/twin/PATCH/properties/desired/?$version=5", "{}", 0, 0)
			p.Publish("devices/dev-1/messages/devicebound/%24.mid=m", "x", 1, 7)
			if q := p.Telemetry(); q != nil {
				p.Puback(q.MessageID)
			}
			p.Telemetry()
			for i := range 2 {
				p.Publish(fmt.Sprintf("devices/dev-1/messages/devicebound/%%24.mid=later-%d", i), "x", 1, uint16(i+8))
			}
			p.Telemetry()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "first")
		time.Sleep(9 * time.Second) // renewal is due
		s := serve(l)
		synctest.Wait()
		if len(s.first) != 1 || len(s.methods) != 1 || len(s.desired) != 1 || len(s.messages) != 1 || len(s.renew) != 1 {
			t.Fatalf("told of %d first PUBACKs, %d methods, %d changes, %d messages, %d renewals",
				len(s.first), len(s.methods), len(s.desired), len(s.messages), len(s.renew))
		}
		if c := l.TakeDesired(); len(c) != 1 || c[0].Version != 5 {
			t.Errorf("changes %v", c)
		}
		offer(t, l, &a, "second")
		synctest.Wait()
		if len(s.messages) != 1 {
			t.Errorf("told of messages %d times, though nobody has taken the first", len(s.messages))
		}
		if got := s.take(3); got[0].Properties.ID() != "m" || got[2].Properties.ID() != "later-1" {
			t.Errorf("%v", got)
		}
		l.Abort(nil)
	})
}

func TestFirstPubackIsToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", (*peer).Obey)
		defer stop()
		l := w.dial("10.0.0.1")
		s := serve(l)
		synctest.Wait()
		if len(s.first) != 0 {
			t.Error("told of a PUBACK that never came")
		}
		told := 0
		for range 3 {
			err := l.Publish(outgoing("{}", ""), func(err error) { told = len(s.first) })
			if synctest.Wait(); err != nil || len(s.first) != 1 || told != 1 {
				t.Errorf("told %d times, %d times before the message was completed; %v", len(s.first), told, err)
			}
		}
		l.Abort(nil)
	})
}

// TestHandlerThatPanicsLosesItsLink: and nothing more.
func TestHandlerThatPanicsLosesItsLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			p.Telemetry()
			p.Publish("$iothub/methods/POST/echo/?$rid=1", "1", 0, 0)
			_, _ = io.Copy(io.Discard, p.Conn)
		})
		defer stop()
		l := w.dial("10.0.0.1")
		l.Serve(new(panics))
		if err := l.Publish(outgoing("{}", ""), func(error) {}); err != nil {
			t.Fatal(err)
		}
		if found, ok := errors.AsType[*BugError](l.Err()); !ok || found.Value != "a handler's bug" {
			t.Errorf("the link ended with %v", l.Err())
		}
		l.Abort(nil)
	})
}

type panics struct{ served }

func (*panics) Method(*Method) { panic("a handler's bug") }

// TestMessagesAreAcknowledgedInOrder: a hub ignores, or punishes, PUBACKs out of order.
func TestMessagesAreAcknowledgedInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		got := make(chan uint16, 3)
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			for pid := range uint16(3) {
				p.Publish("devices/dev-1/messages/devicebound/%24.mid=m&method-name=setAlarm", "x", 1, pid+7)
			}
			for {
				switch q := p.Read().(type) {
				case *packets.PubackPacket:
					got <- q.MessageID
				case nil:
					return
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		in := serve(l).take(3)
		_ = l.Complete(in[2])
		_ = l.Complete(in[1])
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("a later message was acknowledged before the first")
		}
		_ = l.Complete(in[0])
		for _, want := range []uint16{7, 8, 9} {
			if pid := <-got; pid != want {
				t.Errorf("PUBACK %d, not %d", pid, want)
			}
		}
		if err := l.Complete(in[0]); err == nil {
			t.Error("completed twice")
		}
		l.Abort(nil)
	})
}

// TestLinkThatIsNotServedStopsReading: nobody serves the link. The link stops reading when its room
// is used, does not take that for silence of the hub, and goes on when there is room again.
func TestLinkThatIsNotServedStopsReading(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const messages, size = 40, 100_000
		sent := 0
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Welcome() == nil {
				t.Error("the hub was probed")
				return
			}
			for n := range messages {
				p.Publish("devices/dev-1/messages/devicebound/", strings.Repeat("x", size), 1, uint16(n+1))
				sent++
			}
			p.Acknowledge()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m-1")
		time.Sleep(2 * finalLimit) // far beyond what silence may last
		synctest.Wait()
		if least, most := maxHeld/size, (maxHeld+maxPacket)/size+4; sent < least || sent > most {
			t.Errorf("%d messages were read", sent)
		}
		if s := l.Stats(); s.Suspicions != 0 {
			t.Errorf("the hub was suspected %d times", s.Suspicions)
		}
		for _, m := range serve(l).take(messages) {
			if len(m.Body) != size {
				t.Fatalf("a body of %d bytes", len(m.Body))
			} else if err := l.Complete(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		l.Close(t.Context(), nil)
	})
}
