package mqtt

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	bubbles "github.com/hubhop-iot/hubhop/internal/bubble"
)

// TestOnlyTheRealPubackCompletes is the false ack in all its shapes: none, out of order, for ids
// never sent, twice, and a hub that dies between PUBLISH and PUBACK.
func TestOnlyTheRealPubackCompletes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		die := make(chan struct{})
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			var pids []uint16
			for range 4 {
				if q := p.Telemetry(); q != nil {
					pids = append(pids, q.MessageID)
				}
			}
			p.Puback(60000) // never sent
			p.Puback(pids[2])
			p.Puback(pids[0])
			p.Puback(pids[0]) // again
			<-die
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		for _, mid := range []string{"a", "b", "c", "d"} {
			offer(t, l, &a, mid)
		}
		synctest.Wait()
		for mid, want := range map[string]int{"a": 1, "b": 0, "c": 1, "d": 0} {
			if got := a.Of(mid); len(got) != want || want == 1 && got[0] != nil {
				t.Errorf("%s completed with %v", mid, got)
			}
		}
		if s := l.Stats(); s.StrayAcks != 2 || s.Acked != 2 || s.Published != 4 {
			t.Errorf("%+v", s)
		}
		close(die)
		<-l.Done()
		for _, mid := range []string{"b", "d"} {
			if got := a.Of(mid); len(got) != 1 || got[0] == nil {
				t.Errorf("%s completed with %v, though its PUBACK never came", mid, got)
			}
		}
		if err := publishOne(l, nil, "", a.Done("late")); err == nil || !errors.Is(err, io.EOF) {
			t.Errorf("a dead link takes messages: %v", err)
		}
		l.Abort(nil)
	})
}

// TestMessageInFlightCostsNoGoroutine: a full window in flight is bookkeeping, not goroutines (nor
// timers) of its own.
func TestMessageInFlightCostsNoGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			for p.Telemetry() != nil { // acknowledges nothing
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		synctest.Wait()
		before := bubbles.Goroutines()
		var a acks
		for i := range l.Window() {
			offer(t, l, &a, fmt.Sprint(i))
		}
		synctest.Wait()
		if s := l.Stats(); s.Published < 32 || s.Acked != 0 {
			t.Fatalf("%+v", s)
		}
		if n := bubbles.Goroutines() - before; n > 2 { // one for what is being probed now is fine
			t.Errorf("%d more goroutines with a window of messages in flight", n)
		}
		l.Abort(nil)
	})
}

// What is acknowledged is forgotten, also behind a message that is not.
func TestAcknowledgedMessagesAreForgottenBehindOneThatIsNot(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			p.Telemetry() // is withheld
			p.Acknowledge()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var told ledger
		for i := range uint64(1000) {
			if _, err := l.Send([]Outgoing{{Body: []byte("{}"), Ticket: i}}, &told); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		l.mu.Lock()
		n := kept(&l.flight)
		alone := l.flight.oldest == l.flight.newest && l.flight.oldest.before == nil && l.flight.oldest.next == nil
		l.mu.Unlock()
		if n > 2 || !alone {
			t.Errorf("%d are kept", n)
		}
		l.Abort(nil)
		if len(told.Told) != 1000 || told.Told[999] != "0 false" || told.Told[0] != "1 true" {
			t.Errorf("%d told, the last %s", len(told.Told), told.Told[len(told.Told)-1])
		}
	})
}

// PUBACKs that come together may be for several senders: each hears of its own, once, and of the
// rest when the link ends.
func TestRunsOfPubacksFindTheirSenders(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			var run []byte
			for i := range 8 {
				if q := p.Telemetry(); i < 4 {
					run = append(run, 0x40, 2, byte(q.MessageID>>8), byte(q.MessageID))
				}
			}
			run = append(run, 0x40, 2, 0xff, 0xfe) // nobody's
			_, _ = p.Conn.Write(run)
			p.Telemetry()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a, b ledger
		for i := uint64(1); i < 9; i += 2 {
			for k, to := range []*ledger{&a, &b} {
				if n, err := l.Send([]Outgoing{{Body: []byte("{}"), Ticket: i + uint64(k)}}, to); n != 1 || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		synctest.Wait()
		if s := l.Stats(); s.Acked != 4 || s.StrayAcks != 1 {
			t.Errorf("%+v", s)
		}
		l.Abort(nil)
		if want := []string{"1 true", "3 true", "5 false", "7 false"}; !slices.Equal(a.Told, want) {
			t.Errorf("the first was told %v", a.Told)
		}
		if want := []string{"2 true", "4 true", "6 false", "8 false"}; !slices.Equal(b.Told, want) {
			t.Errorf("the second was told %v", b.Told)
		}
	})
}

// calls counts what each call of Done tells.
type calls []int

func (c *calls) Done(tickets []uint64, _ error) { *c = append(*c, len(tickets)) }

// TestAnswersThatComeTogetherAreToldTogether: the PUBACKs that a server has sent in one write are
// told in one call, also the first ones after a silence. Else a sender would answer each part with
// a write of its own, for as long as the burst lasts.
func TestAnswersThatComeTogetherAreToldTogether(t *testing.T) {
	for _, count := range []int{1, smallAhead/4 - 1, smallAhead / 4, smallAhead/4 + 1, testWindow} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) {
					p.Welcome()
					for range 3 {
						var answers []byte
						for range count {
							if q := p.Telemetry(); q != nil {
								answers = AppendPuback(answers, q.MessageID)
							}
						}
						if _, err := p.Conn.Write(answers); err != nil {
							t.Error(err)
						}
					}
					p.Acknowledge()
				})
				defer stop()
				s := w.dial("10.0.0.1")
				messages := make([]Outgoing, count)
				var told calls
				for range 3 {
					if _, err := s.Send(messages, &told); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if !slices.Equal(told, []int{count, count, count}) {
					t.Errorf("told of %v messages, not three times of %d", told, count)
				}
				time.Sleep(time.Minute) // and the session hears its server all the time
				select {
				case <-s.Done():
					t.Error(s.Err())
				default:
				}
				s.Abort(nil)
			})
		})
	}
}
