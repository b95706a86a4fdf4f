package mqtt

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
)

// keeper is a handler of a broker's client that keeps what comes.
type keeper struct {
	handler
	hold bool

	mu       sync.Mutex
	topics   []string
	receipts []*Receipt
}

func (k *keeper) Message(p *Packet, r *Receipt) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.topics, k.receipts = append(k.topics, p.Topic), append(k.receipts, r)
	if k.hold {
		k.s.Hold(len(p.Body))
	}
	return nil
}

// open makes a session with the given options on a connection to 10.0.0.1.
func (w *world) open(k *keeper, o Options) *Session {
	w.T.Helper()
	k.ended = func(Past) {}
	conn, err := w.dialer.endpoint("10.0.0.1").Connect(w.T.Context(), nil)
	if err != nil {
		w.T.Fatal(err)
	}
	o.Handler, o.MaxPacket, o.Connect.ClientID, o.Connect.KeepAlive = k, maxInbound, "c-1", time.Minute
	k.s = NewSession(conn, o)
	k.s.Start()
	if !k.s.Await(w.T.Context()) {
		w.T.Fatal(k.s.Err())
	}
	return k.s
}

func TestInboundMessagesAreAcknowledgedByHandInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var acked []uint16
		stop := w.Serve("10.0.0.1", func(p *peer) {
			c := p.Welcome()
			if !c.CleanSession || !c.WillFlag || c.WillTopic != "gone" || c.ClientIdentifier != "c-1" {
				t.Errorf("%v", c)
			}
			p.Publish("in/0", "x", 0, 0)
			for id := range uint16(3) {
				p.Publish("in/1", "x", 1, id+7)
			}
			for {
				switch q := p.Read().(type) {
				case *packets.PubackPacket:
					acked = append(acked, q.MessageID)
				case nil:
					return
				}
			}
		})
		defer stop()
		k := new(keeper)
		s := w.open(k, Options{Connect: Connect{CleanStart: true, Will: &Will{Topic: "gone"}}, MaxOwing: 3})
		synctest.Wait()
		if want := []string{"in/0", "in/1", "in/1", "in/1"}; !slices.Equal(k.topics, want) || k.receipts[0] != nil {
			t.Fatalf("%v came", k.topics)
		}
		for _, i := range []int{0, 3, 2} {
			if err := s.Ack(k.receipts[i]); err != nil {
				t.Error(err)
			}
		}
		if synctest.Wait(); len(acked) != 0 {
			t.Errorf("PUBACK %v before that of the first", acked)
		}
		if err := s.Ack(k.receipts[1]); err != nil {
			t.Error(err)
		}
		if synctest.Wait(); !slices.Equal(acked, []uint16{7, 8, 9}) {
			t.Errorf("PUBACK %v", acked)
		}
		if s.Ack(k.receipts[1]) == nil {
			t.Error("a message was acknowledged twice")
		}
		s.Abort(nil)
	})
}

func TestServerThatIgnoresTheBoundOfUnacknowledgedMessagesIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			p.Telemetry()
			for id := range uint16(3) {
				p.Publish("in/1", "x", 1, id+7)
			}
			p.Mute()
		})
		defer stop()
		k := new(keeper)
		s := w.open(k, Options{MaxOwing: 2})
		if err := publishOne(s, nil, "", func(error) {}); err != nil {
			t.Fatal(err)
		}
		if err := s.Err(); !errors.Is(err, ErrProtocol) || len(k.receipts) != 2 {
			t.Errorf("%v after %d messages", err, len(k.receipts))
		}
		s.Abort(nil)
	})
}

// TestReaderWaitsWhileTheHandlerHoldsTooMuch: TCP slows the server down, and that is not taken for
// its silence.
func TestReaderWaitsWhileTheHandlerHoldsTooMuch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const messages, size = 40, 100_000
		stop := w.Serve("10.0.0.1", func(p *peer) {
			if p.Welcome() == nil {
				t.Error("the server was probed")
				return
			}
			for range messages {
				p.Publish("in/1", strings.Repeat("x", size), 0, 0)
			}
			p.Acknowledge()
		})
		defer stop()
		k := &keeper{hold: true}
		s := w.open(k, Options{MaxOwing: 1})
		var a acks
		offer(t, s, &a, "m")
		time.Sleep(2 * finalLimit)
		came := func() int {
			k.mu.Lock()
			defer k.mu.Unlock()
			return len(k.topics)
		}
		if n := came(); n != maxHeld/size+1 {
			t.Errorf("%d messages were read", n)
		}
		for held := came(); held < messages; held++ {
			s.Hold(-size)
			if synctest.Wait(); came() != held+1 {
				t.Fatalf("%d messages were read with room for one more than %d", came(), held)
			}
		}
		s.Hold(-size)
		if err := s.Settle(t.Context()); err != nil || s.Stats().Suspicions != 0 {
			t.Errorf("%v, %+v", err, s.Stats())
		}
		s.Abort(nil)
	})
}

// subscription reads on to the next SUBSCRIBE; nil at the end of the connection.
func subscription(p *peer) *packets.SubscribePacket {
	for {
		switch q := p.Read().(type) {
		case *packets.SubscribePacket:
			return q
		case nil:
			return nil
		}
	}
}

// TestSubscriptionsOfTheOpeningMustBeGranted: the session is up then and not before, and one that
// comes later is no part of that.
func TestSubscriptionsOfTheOpeningMustBeGranted(t *testing.T) {
	for _, sequential := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", func(p *peer) {
				if p.Read() == nil {
					return // a probe
				}
				p.Send(mqtttest.Connack())
				first, ok := p.Read().(*packets.SubscribePacket)
				if !ok {
					t.Error("no SUBSCRIBE")
					return
				}
				stray := *first
				stray.MessageID++
				p.Suback(&stray, 1)
				time.Sleep(900 * time.Millisecond)
				p.Suback(first, 1)
				later := subscription(p)
				if later == nil || !slices.Equal(later.Topics, []string{"more/#"}) {
					t.Errorf("%v", later)
				}
				p.Suback(later, 0x80)
				p.Telemetry()
			})
			defer stop()
			began := time.Now()
			s := w.open(new(keeper), Options{Sequential: sequential, MaxOwing: 1})
			if took := time.Since(began); took != 900*time.Millisecond {
				t.Errorf("sequential %v: it was up after %v", sequential, took)
			}
			if err := s.Subscribe(Filter{"more/#", 1}); err != nil {
				t.Fatal(err)
			}
			e, ok := errors.AsType[*Error](s.Err())
			if !ok || !errors.Is(e, ErrSubscription) || e.Phase != PhaseSession {
				t.Errorf("%v", s.Err())
			}
			s.Abort(nil)
		})
	}
}
