package mqtt

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// slowly is a completion that waits, as for a disk that is busy with itself.
type slowly struct{ d time.Duration }

func (s slowly) Done([]uint64, error) { time.Sleep(s.d) }

// TestSlowDiskIsNoSilence: while a sender takes its time with what was acknowledged, the link hears
// nothing, and kills nobody for it. What it owes to the hub meanwhile is not forgotten: a hub that
// is silent afterwards is found as quickly as ever.
func TestSlowDiskIsNoSilence(t *testing.T) {
	for _, stall := range []time.Duration{5 * time.Second, 90 * time.Second} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", (*peer).Obey)
			defer stop()
			l := w.dial("10.0.0.1")
			send := func(to Completion) {
				t.Helper()
				if _, err := l.Send([]Outgoing{{Body: []byte("{}")}}, to); err != nil {
					t.Fatal(err)
				}
			}
			send(slowly{stall})
			time.Sleep(stall / 10) // the stall has begun
			var later ledger
			send(&later)
			time.Sleep(stall)
			synctest.Wait()
			if s := l.Stats(); s.Acked != 2 || s.Suspicions != 0 {
				t.Fatalf("stalled for %v: %+v", stall, s)
			}
			w.Net.Cut("10.0.0.1:8883")
			cut := time.Now()
			send(&later)
			if err := l.Err(); time.Since(cut) != 2*time.Second || !errors.Is(err, ErrSilent) {
				t.Errorf("after %v: %v", time.Since(cut), err)
			}
			l.Abort(nil)
			w.Net.Mend("10.0.0.1:8883")
		})
	}
}

// TestSlowDiskSendsKeepAlives: a hub would not bear our silence either.
func TestSlowDiskSendsKeepAlives(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.KeepAlive = 4 * time.Second
		pings := 0
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			if q := p.Telemetry(); q != nil {
				p.Puback(q.MessageID)
			}
			for {
				switch p.Read().(type) {
				case *packets.PingreqPacket:
					pings++
				case nil:
					return
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		if _, err := l.Send([]Outgoing{{Body: []byte("{}")}}, slowly{30 * time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		l.Abort(nil)
		synctest.Wait()
		if pings < 5 || pings > 8 {
			t.Errorf("%d times in 29 s with a keep-alive of 4 s", pings)
		}
	})
}

// goesOn is a completion that takes a while and then sends another message.
type goesOn struct {
	link *Session
	d    time.Duration
}

func (g *goesOn) Done(_ []uint64, err error) {
	if err == nil {
		time.Sleep(g.d)
		_, _ = g.link.Send([]Outgoing{{Body: []byte("{}")}}, g)
	}
}

// TestBusySenderHidesNoWithheldPuback: that a sender is mostly busy is no excuse for a hub that
// withholds a PUBACK for a minute.
func TestBusySenderHidesNoWithheldPuback(t *testing.T) {
	for _, d := range []time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", func(p *peer) {
				p.Welcome()
				p.Telemetry() // is withheld
				for q := p.Telemetry(); q != nil; q = p.Telemetry() {
					time.Sleep(time.Millisecond)
					p.Puback(q.MessageID)
				}
			})
			defer stop()
			to := &goesOn{w.dial("10.0.0.1"), d}
			began := time.Now()
			if _, err := to.link.Send([]Outgoing{{Body: []byte("{}")}, {Body: []byte("{}")}}, to); err != nil {
				t.Fatal(err)
			}
			if err := to.link.Err(); time.Since(began) > finalLimit+5*time.Second || !errors.Is(err, ErrUnacked) {
				t.Errorf("with %v for each, after %v: %v", d, time.Since(began), err)
			}
			to.link.Abort(nil)
		})
	}
}

// TestSilenceBeginsWhenTheReaderListens: once a stall of the reader is over, nobody is late before
// it could have heard.
func TestSilenceBeginsWhenTheReaderListens(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			p.Telemetry()         // is not acknowledged
			for p.Read() != nil { // PINGREQs
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m")
		l.telling.Store(1) // as if the reader were in a completion
		time.Sleep(2*finalLimit + 300*time.Millisecond)
		l.telling.Store(0)
		time.Sleep(900 * time.Millisecond) // the watchdog looks before the reader does
		select {
		case <-l.Done():
			t.Errorf("%v", l.Err())
		default:
		}
		l.Abort(nil)
	})
}

// TestIdleSessionWaitsInAFreshGoroutine: the goroutine that has handled packets does not keep its
// large stack while it waits. But packets in quick succession have one goroutine.
func TestIdleSessionWaitsInAFreshGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.Serve("10.0.0.1", (*peer).Obey)
		defer stop()
		s := w.dial("10.0.0.1")
		var readers []string // of each PUBACK
		for _, pause := range []time.Duration{0, 0, 300 * time.Millisecond, 5 * time.Second, 0} {
			time.Sleep(pause)
			err := publishOne(s, []byte("{}"), "", func(error) {
				stack := make([]byte, 32)
				id, _, _ := strings.Cut(strings.TrimPrefix(string(stack[:runtime.Stack(stack, false)]), "goroutine "), " ")
				readers = append(readers, id)
			})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if len(readers) != 5 {
			t.Fatalf("%d PUBACKs", len(readers))
		}
		for i, fresh := range []bool{false, false, false, false, true} { // the one that reads after a pause hands over then
			if i > 0 && (readers[i] != readers[i-1]) != fresh {
				t.Errorf("PUBACK %d was read in goroutine %s, the one before in %s", i, readers[i], readers[i-1])
			}
		}
		s.Abort(nil)
	})
}
