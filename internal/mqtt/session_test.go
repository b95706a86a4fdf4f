package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// TestOnlyTheRealPubackCompletes is the false ack in all its shapes: none, out of order, for ids never sent, twice, and a hub that
// dies between PUBLISH and PUBACK.
func TestOnlyTheRealPubackCompletes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		die := make(chan struct{})
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			var pids []uint16
			for range 4 {
				if q := p.telemetry(); q != nil {
					pids = append(pids, q.MessageID)
				}
			}
			p.puback(60000) // never sent
			p.puback(pids[2])
			p.puback(pids[0])
			p.puback(pids[0]) // again
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
			if got := a.of(mid); len(got) != want || want == 1 && got[0] != nil {
				t.Errorf("%s completed with %v", mid, got)
			}
		}
		if s := l.Stats(); s.StrayAcks != 2 || s.Acked != 2 || s.Published != 4 {
			t.Errorf("%+v", s)
		}
		close(die)
		<-l.Done()
		for _, mid := range []string{"b", "d"} {
			if got := a.of(mid); len(got) != 1 || got[0] == nil {
				t.Errorf("%s completed with %v, though its PUBACK never came", mid, got)
			}
		}
		if err := publishOne(l, nil, "", a.done("late")); err == nil || !errors.Is(err, io.EOF) {
			t.Errorf("a dead link takes messages: %v", err)
		}
		l.Abort(nil)
	})
}

// TestNobodyWaitsForOnePublish: a full window in flight is bookkeeping, not goroutines (nor timers) of its own.
func TestNobodyWaitsForOnePublish(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for p.telemetry() != nil { // acknowledges nothing
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		synctest.Wait()
		before := runtime.NumGoroutine()
		var a acks
		for i := range l.Window() {
			offer(t, l, &a, fmt.Sprint(i))
		}
		synctest.Wait()
		if s := l.Stats(); s.Published < 32 || s.Acked != 0 {
			t.Fatalf("%+v", s)
		}
		if n := runtime.NumGoroutine() - before; n > 2 { // one for what is being probed now is fine
			t.Errorf("%d more goroutines with a window of messages in flight", n)
		}
		l.Abort(nil)
	})
}

// TestFirstWriteIsBounded: a hub that refuses costs no more than a first flight, and what does not fit is refused as good for later.
func TestFirstWriteIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		size := make(chan int, 1)
		stop := w.hub("10.0.0.1", func(p *peer) {
			n, total := 0, 0
			_ = p.conn.SetReadDeadline(time.Now().Add(time.Second))
			for err := error(nil); err == nil; total += n {
				n, err = p.conn.Read(make([]byte, 4096))
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
			if got := a.of(mid); len(got) != 1 || got[0] == nil {
				t.Errorf("%s completed with %v", mid, got)
			}
		}
	})
}

// TestShortSession: a session that the hub grants and closes at once was one.
func TestShortSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) { p.welcome() })
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

// TestBlackHoleIsFoundInTwoSeconds: at one sample a second, silence ends the link two seconds after the first send into it.
func TestBlackHoleIsFoundInTwoSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.acknowledge()
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		for i := range 10 {
			offer(t, l, &a, fmt.Sprint(i))
			time.Sleep(time.Second)
		}
		w.net.Cut("10.0.0.1:8883")
		cut := time.Now()
		offer(t, l, &a, "void")
		err := l.Err()
		if took := time.Since(cut); took != 2*time.Second || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
		if got := a.of("void"); len(got) != 1 || got[0] == nil {
			t.Errorf("the message in the void completed with %v", got)
		}
		if _, ok := errors.AsType[*Failure](err); !ok {
			t.Errorf("%T", err)
		}
		l.Abort(nil)
		w.net.Mend("10.0.0.1:8883")
	})
}

// TestIdleLinkIsTestedAfterTheKeepAlive: nothing to send, so the keep-alive asks, with the same two stages.
func TestIdleLinkIsTestedAfterTheKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry() // answers PINGREQ
		})
		defer stop()
		l := w.dial("10.0.0.1")
		time.Sleep(10 * time.Minute)
		select {
		case <-l.Done():
			t.Fatalf("an idle link ended: %v", l.Err())
		default:
		}
		if s := l.Stats(); s.Suspicions != 0 {
			t.Errorf("%d suspicions of a healthy link", s.Suspicions)
		}
		w.net.Cut("10.0.0.1:8883")
		cut := time.Now()
		err := l.Err()
		if took := time.Since(cut); took > 22*time.Second || took < 2*time.Second || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
		l.Abort(nil)
		w.net.Mend("10.0.0.1:8883")
	})
}

// slowly is a completion that waits, as for a disk that is busy with itself.
type slowly struct{ d time.Duration }

func (s slowly) Done([]uint64, error) { time.Sleep(s.d) }

// TestSlowDiskIsNoSilence: while a sender takes its time with what was acknowledged, the link hears nothing, and kills nobody for it.
// What it owes to the hub meanwhile is not forgotten: a hub that is silent afterwards is found as quickly as ever.
func TestSlowDiskIsNoSilence(t *testing.T) {
	for _, stall := range []time.Duration{5 * time.Second, 90 * time.Second} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				p.acknowledge()
			})
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
			w.net.Cut("10.0.0.1:8883")
			cut := time.Now()
			send(&later)
			if err := l.Err(); time.Since(cut) != 2*time.Second || !errors.Is(err, ErrSilent) {
				t.Errorf("after %v: %v", time.Since(cut), err)
			}
			l.Abort(nil)
			w.net.Mend("10.0.0.1:8883")
		})
	}
}

// TestSlowDiskSendsKeepAlives: a hub would not bear our silence either.
func TestSlowDiskSendsKeepAlives(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.KeepAlive = 4 * time.Second
		pings := 0
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			if q := p.telemetry(); q != nil {
				p.puback(q.MessageID)
			}
			for {
				switch p.read().(type) {
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

// TestBusySenderHidesNoWithheldPuback: that a sender is mostly busy is no excuse for a hub that withholds a PUBACK for a minute.
func TestBusySenderHidesNoWithheldPuback(t *testing.T) {
	for _, d := range []time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				p.telemetry() // is withheld
				for q := p.telemetry(); q != nil; q = p.telemetry() {
					time.Sleep(time.Millisecond)
					p.puback(q.MessageID)
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

// TestSilenceBeginsWhenTheReaderListens: once a stall of the reader is over, nobody is late before it could have heard.
func TestSilenceBeginsWhenTheReaderListens(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry()         // is not acknowledged
			for p.read() != nil { // PINGREQs
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

// What is acknowledged is forgotten, also behind a message that is not.
func TestAcknowledgedMessagesAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			p.telemetry() // is withheld
			p.acknowledge()
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
		kept := 0
		l.mu.Lock()
		for _, p := range []*publish{l.flight.oldest, l.flight.free} {
			for ; p != nil; p = p.next {
				kept++
			}
		}
		alone := l.flight.oldest == l.flight.newest && l.flight.oldest.before == nil && l.flight.oldest.next == nil
		l.mu.Unlock()
		if kept > 2 || !alone {
			t.Errorf("%d are kept", kept)
		}
		l.Abort(nil)
		if len(told.told) != 1000 || told.told[999] != "0 false" || told.told[0] != "1 true" {
			t.Errorf("%d told, the last %s", len(told.told), told.told[len(told.told)-1])
		}
	})
}

// TestSlowHubIsNotDead: PUBACKs that come after 50 s are traffic shaping. The link stays, only the window shrinks.
func TestSlowHubIsNotDead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			var late sync.WaitGroup
			defer late.Wait()
			var mu sync.Mutex
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				late.Go(func() {
					time.Sleep(50 * time.Second)
					mu.Lock()
					defer mu.Unlock()
					p.puback(q.MessageID)
				})
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		smallest := testWindow
		for i := range 600 {
			offer(t, l, &a, fmt.Sprint(i))
			time.Sleep(time.Second)
			smallest = min(smallest, l.Window())
		}
		select {
		case <-l.Done():
			t.Fatalf("killed: %v", l.Err())
		default:
		}
		if smallest >= testWindow {
			t.Error("the window did not shrink under suspicion")
		}
		if probes := w.net.Dials("10.0.0.1:8883") - 1; probes > 200 {
			t.Errorf("%d probes in ten minutes", probes)
		}
		if a.of("0") == nil {
			t.Error("the first message is not acknowledged")
		}
		l.Abort(nil)
	})
}

// TestWithheldPubackEndsTheLinkAtTheFinalLimit: the hub lives (it answers PINGREQ), but acknowledges nothing.
func TestWithheldPubackEndsTheLinkAtTheFinalLimit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			for p.telemetry() != nil {
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		began := time.Now()
		offer(t, l, &a, "m")
		err := l.Err()
		if took := time.Since(began); took != finalLimit || !errors.Is(err, ErrUnacked) {
			t.Errorf("after %v: %v", took, err)
		}
		l.Abort(nil)
	})
}

// TestOneWithheldPubackEndsTheLink: everything else is acknowledged at once, but one message never is. It must not be forgotten.
func TestOneWithheldPubackEndsTheLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			n := 0
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				if n++; n != 10 {
					p.puback(q.MessageID)
				}
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		began := time.Now()
		for i := 0; ; i++ {
			if publishOne(l, []byte("{}"), fmt.Sprint(i), a.done(fmt.Sprint(i))) != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took < finalLimit+9*time.Second || took > finalLimit+10*time.Second || !errors.Is(l.Err(), ErrUnacked) {
			t.Errorf("after %v: %v", took, l.Err())
		}
		if got := a.of("9"); len(got) != 1 || got[0] == nil {
			t.Errorf("the message completed with %v", got)
		}
		l.Abort(nil)
	})
}

// TestHubThatGetsOnIsKept: one PUBACK in 20 s, in order. The last of a window waits for 20 minutes, but the hub is at work.
func TestHubThatGetsOnIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			pids := make(chan uint16, testWindow)
			w.wg.Go(func() {
				for pid := range pids {
					time.Sleep(20 * time.Second)
					p.puback(pid)
				}
			})
			for q := p.telemetry(); q != nil; q = p.telemetry() {
				pids <- q.MessageID
			}
			close(pids)
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		for i := range testWindow {
			offer(t, l, &a, fmt.Sprint(i))
		}
		if err := l.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		if s := l.Stats(); s.Acked != testWindow {
			t.Errorf("%+v", s)
		}
		l.Abort(nil)
	})
}

// TestMuteHubThatAnswersTheProbe: nothing comes on the link, not even PINGRESP, but a new TLS connection is answered. The hub may be
// busy, so the link is kept up to the final limit.
func TestMuteHubThatAnswersTheProbe(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", (*peer).mute)
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		began := time.Now()
		offer(t, l, &a, "m")
		time.Sleep(30 * time.Second)
		select {
		case <-l.Done():
			t.Fatalf("after 30 s: %v", l.Err())
		default:
		}
		if l.Window() > testWindow/2 {
			t.Errorf("window %d", l.Window())
		}
		_ = l.Err()
		if took := time.Since(began); took != finalLimit {
			t.Errorf("after %v", took)
		}
		l.Abort(nil)
	})
}

// TestProbeFromAnotherAddress: nothing comes on the link, and a new TLS connection is answered, as above. Whether that speaks for the link
// depends on whether this machine still has the address that the link was made from, as far as the system tells.
func TestProbeFromAnotherAddress(t *testing.T) {
	const old, young = "192.168.1.7", "10.1.1.8"
	for name, v := range map[string]struct {
		link, probe string
		own         []string // what the system lists
		then        []string // and from 5.5 s after the last message on; nil: the same
		err         error
		delay       time.Duration // each way
		want        error
		after       time.Duration
	}{
		"gone":                 {link: old, probe: young, own: []string{"127.0.0.1", young, "fd00::7"}, want: ErrSilent, after: minDead},
		"gone, IPv6":           {link: "fd00::7", probe: "fd00::8", own: []string{"fd00::8"}, want: ErrSilent, after: minDead},
		"gone, IPv6 to IPv4":   {link: "fd00::7", probe: young, own: []string{young}, want: ErrSilent, after: minDead},
		"gone, slow path":      {link: old, probe: young, own: []string{young}, delay: 200 * time.Millisecond, want: ErrSilent, after: 2400 * time.Millisecond},
		"gone later":           {link: old, probe: young, own: []string{old, young}, then: []string{young}, want: ErrSilent, after: 6 * time.Second},
		"there":                {link: old, probe: old, own: []string{old, young}, want: ErrUnacked, after: finalLimit},
		"there, another route": {link: old, probe: young, own: []string{old, young}, want: ErrUnacked, after: finalLimit},
		"there, IPv6":          {link: "fd00::7", probe: "fd00::8", own: []string{"fd00::8", "fd00::7"}, want: ErrUnacked, after: finalLimit},
		"loopback, not listed": {link: "127.0.0.9", probe: "127.0.0.9", own: []string{"127.0.0.1"}, want: ErrUnacked, after: finalLimit},
		"neither is listed":    {link: old, probe: young, own: []string{"127.0.0.1"}, want: ErrUnacked, after: finalLimit},
		"none is listed":       {link: old, probe: young, want: ErrUnacked, after: finalLimit},
		"not told":             {link: old, probe: young, err: errors.New("not permitted"), want: ErrUnacked, after: finalLimit},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var began time.Time
				w.dialer.Addresses = func() (own []net.Addr, err error) {
					all := v.own
					if v.then != nil && time.Since(began) >= 5500*time.Millisecond {
						all = v.then
					}
					for _, a := range all {
						own = append(own, &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)})
					}
					return own, v.err
				}
				from := v.link
				w.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := w.net.DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					defer func() { from = v.probe }()
					return placed{c, &net.TCPAddr{IP: net.ParseIP(from), Port: 40000}}, nil
				}
				w.net.SetDelay(v.delay)
				stop := w.hub("10.0.0.1", (*peer).mute)
				defer stop()
				l := w.dial("10.0.0.1")
				var a acks
				began = time.Now()
				offer(t, l, &a, "m")
				if err := l.Err(); !errors.Is(err, v.want) || time.Since(began) != v.after {
					t.Errorf("%v after %v", err, time.Since(began))
				} else if errors.Is(v.want, ErrSilent) && !strings.Contains(err.Error(), v.link) {
					t.Errorf("%v: which address?", err)
				}
				l.Abort(nil)
			})
		})
	}
}

// TestOwnAddresses asks the system: what it lists is this machine's, and an address kept for documentation (RFC 5737) is not.
func TestOwnAddresses(t *testing.T) {
	all, err := net.InterfaceAddrs()
	var d dialer
	for _, a := range all {
		if n, ok := a.(*net.IPNet); !ok || !d.endpoint("h").has(&net.TCPAddr{IP: n.IP, Port: 40000}) {
			t.Errorf("%v is not this machine's", a)
		}
	}
	if other := (&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000}); d.endpoint("h").has(other) != (err != nil) { // a system that does not tell has all
		t.Errorf("%v is this machine's: %v (%v)", other, err == nil, err)
	}
}

// placed is a connection with an address of this machine.
type placed struct {
	net.Conn
	local net.Addr
}

func (p placed) LocalAddr() net.Addr { return p.local }

// TestPathIsRemembered: a link that finds the path as it was left does not take its first, lucky round trip for the rule; one to another hub
// has yet to see.
func TestPathIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
			stop := w.hub(host, func(p *peer) {
				p.welcome()
				p.acknowledge()
			})
			defer stop()
		}
		var a acks
		w.net.SetWeather(2*time.Second, 0, 1)
		l := w.dial("10.0.0.1")
		for i := range 200 {
			offer(t, l, &a, fmt.Sprint(i))
			time.Sleep(5 * time.Second)
		}
		l.Close(t.Context(), nil)
		varied := l.rttvar
		w.net.SetWeather(0, 0, 0)
		if varied < 200*time.Millisecond {
			t.Fatalf("round trips differed by %v", varied)
		}
		for host, want := range map[string]time.Duration{"10.0.0.1": min(4*varied, maxSuspect), "10.0.0.2": 0} {
			for _, measured := range []bool{false, true} {
				l := w.dial(host)
				if measured {
					offer(t, l, &a, "once "+host)
					if err := l.Settle(t.Context()); err != nil {
						t.Error(err)
					}
				}
				l.Abort(nil)
				if got := l.answerTime(); got > want || got < want*9/10 {
					t.Errorf("%s, measured %v: an answer may take %v, not %v", host, measured, got, want)
				}
			}
		}
	})
}

// TestDoubtedLink: nothing but an answer on the link itself helps one that is doubted; that the hub is there for others does not.
func TestDoubtedLink(t *testing.T) {
	for name, mute := range map[string]bool{"the session is gone": true, "the hub answers": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.dialer.KeepAlive = time.Hour
				stop := w.hub("10.0.0.1", func(p *peer) {
					if p.welcome() == nil {
						return
					}
					for {
						if packet, err := packets.ReadPacket(p.conn); err != nil {
							return
						} else if _, is := packet.(*packets.PingreqPacket); is && !mute {
							p.send(packets.NewControlPacket(packets.Pingresp))
						}
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				time.Sleep(5 * time.Minute)
				w.net.SetDelay(time.Millisecond) // so that no answer comes in between
				began := time.Now()
				l.Check()
				l.Check() // once is enough
				if mute {
					if err := l.Err(); !errors.Is(err, ErrSilent) || time.Since(began) != minDead {
						t.Errorf("%v after %v", err, time.Since(began))
					}
					return
				}
				time.Sleep(10 * time.Minute)
				select {
				case <-l.Done():
					t.Errorf("ended: %v", l.Err())
				default:
				}
				if n := l.Stats().Suspicions; n != 1 {
					t.Errorf("%d suspicions", n)
				}
				l.Abort(nil)
			})
		})
	}
}

// TestSlowConnack: the service may take a minute to let a device in; a hub that is gone is noticed in two seconds all the same.
func TestSlowConnack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.read() == nil {
				return // the probe
			}
			time.Sleep(45 * time.Second)
			p.send(packets.NewControlPacket(packets.Connack))
			if q, ok := p.read().(*packets.SubscribePacket); ok {
				p.suback(q, 1)
			}
			p.telemetry()
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		if took := time.Since(began); took != 45*time.Second {
			t.Errorf("let in after %v", took)
		}
		l.Abort(nil)

		began = time.Now()
		go func() {
			time.Sleep(100 * time.Millisecond)
			w.net.Cut("10.0.0.1:8883")
		}()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		if took := time.Since(began); took != 2*time.Second || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
		w.net.Mend("10.0.0.1:8883")
	})
}

func TestDialGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(*peer) {})
		defer stop()
		w.net.Cut("10.0.0.1:8883")
		began := time.Now()
		_, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
		e, ok := errors.AsType[*Failure](err)
		if took := time.Since(began); took != testLimit || !ok || e.Phase != PhaseDial {
			t.Errorf("after %v: %v", took, err)
		}
		w.net.Mend("10.0.0.1:8883")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		mute, err := w.net.Listen("tcp", "10.0.0.2:8883") // accepts, says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = mute.Close() }()
		if _, err = w.dialer.Dial(ctx, w.attempt("10.0.0.2")); err == nil {
			t.Error("no error")
		}
		began = time.Now()
		_, err = w.dialer.Dial(t.Context(), w.attempt("10.0.0.2"))
		e, ok = errors.AsType[*Failure](err)
		if took := time.Since(began); took != testLimit || !ok || e.Phase != PhaseTLS || !errors.Is(err, ErrSilent) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// TestCloseSaysGoodbye: what is queued, then DISCONNECT, then FIN. Abort is a reset.
func TestCloseSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var got []string
		ended := make(chan error, 1)
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			for {
				packet, err := packets.ReadPacket(p.conn)
				if err != nil {
					ended <- err
					return
				}
				got = append(got, fmt.Sprintf("%T", packet))
			}
		})
		defer stop()
		l := w.dial("10.0.0.1")
		var a acks
		offer(t, l, &a, "m")
		l.Close(t.Context(), nil)
		if err := <-ended; !errors.Is(err, io.EOF) || !slices.Equal(got, []string{"*packets.PublishPacket", "*packets.DisconnectPacket"}) {
			t.Errorf("%v, then %v", got, err)
		}
		if !errors.Is(l.Err(), ErrClosed) || len(a.of("m")) != 1 {
			t.Errorf("%v, %v", l.Err(), a.of("m"))
		}
		l = w.dial("10.0.0.1")
		l.Abort(nil)
		if err := <-ended; errors.Is(err, io.EOF) {
			t.Error("Abort ended the connection in order")
		}
	})
}

func TestNonsenseEndsTheLink(t *testing.T) {
	for name, v := range map[string]struct {
		bytes []byte
		says  string
	}{
		"too long":                {[]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "a packet of 268435455 bytes"},
		"padded length":           {[]byte{0x40, 0x82, 0, 0, 1}, "malformed packet"},
		"endless length":          {[]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff}, "malformed packet"},
		"second CONNACK":          {[]byte{0x20, 2, 0, 0}, "a second CONNACK"},
		"short CONNACK":           {[]byte{0x20, 1, 0}, "malformed packet: a CONNACK"},
		"CONNECT":                 {[]byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}, "an unexpected CONNECT"},
		"PUBREL":                  {[]byte{0x62, 2, 0, 1}, "malformed packet: its first byte"},
		"type 15":                 {[]byte{0xf0, 0}, "malformed packet: type 15"},
		"type 0":                  {[]byte{0, 0}, "malformed packet: type 0"},
		"truncated string":        {[]byte{0x30, 3, 0, 200, 'x'}, "malformed packet: a PUBLISH whose topic is longer"},
		"PUBLISH without a topic": {[]byte{0x30, 1, 0}, "malformed packet: a PUBLISH whose topic is longer"},
		"PUBLISH without an id":   {[]byte{0x32, 3, 0, 1, 'x'}, "malformed packet: a PUBLISH of QoS 1"},
		"PUBLISH of QoS 2":        {[]byte{0x34, 5, 0, 1, 'x', 0, 1}, "a PUBLISH of QoS 2"},
		"PUBLISH of QoS 3":        {[]byte{0x36, 5, 0, 1, 'x', 0, 1}, "a PUBLISH of QoS 3"},
		"topic that is no text":   {[]byte{0x30, 3, 0, 1, 0xff}, "malformed packet: a PUBLISH whose topic is not UTF-8"},
		"topic with a NUL":        {[]byte{0x30, 3, 0, 1, 0}, "malformed packet: a PUBLISH whose topic has a NUL"},
		"long PUBACK":             {[]byte{0x40, 3, 0, 1, 0}, "malformed packet: a PUBACK"},
		"PUBACK with flags":       {[]byte{0x42, 2, 0, 1}, "malformed packet: its first byte"},
		"empty SUBACK":            {[]byte{0x90, 2, 0, 1}, "malformed packet: a SUBACK"},
		"long PINGRESP":           {[]byte{0xd0, 1, 0}, "malformed packet: a PINGRESP"},
		"short UNSUBACK":          {[]byte{0xb0, 1, 0}, "malformed packet: an UNSUBACK"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.hub("10.0.0.1", func(p *peer) {
					p.welcome()
					_, _ = p.conn.Write(v.bytes)
					_, _ = io.Copy(io.Discard, p.conn)
				})
				defer stop()
				l, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1"))
				if err == nil { // else the nonsense came before anybody looked
					err = l.Err()
					l.Abort(nil)
				}
				if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), v.says) {
					t.Errorf("%v", err)
				}
			})
		})
	}
	t.Run("end inside a packet", func(t *testing.T) { // which says nothing of what was to come
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				_, _ = p.conn.Write([]byte{0x30, 3, 0})
			})
			defer stop()
			l := w.dial("10.0.0.1")
			if err := l.Err(); errors.Is(err, ErrProtocol) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v", err)
			}
			l.Abort(nil)
		})
	})
	t.Run("no TLS any more", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.hub("10.0.0.1", func(p *peer) {
				p.welcome()
				_, _ = p.raw.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				_, _ = io.Copy(io.Discard, p.raw)
			})
			defer stop()
			l := w.dial("10.0.0.1")
			if err := l.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "malformed TLS record") {
				t.Errorf("%v", err)
			}
			l.Abort(nil)
		})
	})
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.read()
			p.publish("in/1", "", 0, 0)
			_, _ = io.Copy(io.Discard, p.conn)
		})
		defer stop()
		if _, err := w.dialer.Dial(t.Context(), w.attempt("10.0.0.1")); !errors.Is(err, ErrProtocol) {
			t.Errorf("PUBLISH before CONNACK: %v", err)
		}
	})
}

// PUBACKs that come together may be for several senders: each hears of its own, once, and of the rest when the link ends.
func TestRunsOfPubacksFindTheirSenders(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.hub("10.0.0.1", func(p *peer) {
			p.welcome()
			var run []byte
			for i := range 8 {
				if q := p.telemetry(); i < 4 {
					run = append(run, 0x40, 2, byte(q.MessageID>>8), byte(q.MessageID))
				}
			}
			run = append(run, 0x40, 2, 0xff, 0xfe) // nobody's
			_, _ = p.conn.Write(run)
			p.telemetry()
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
		if want := []string{"1 true", "3 true", "5 false", "7 false"}; !slices.Equal(a.told, want) {
			t.Errorf("the first was told %v", a.told)
		}
		if want := []string{"2 true", "4 true", "6 false", "8 false"}; !slices.Equal(b.told, want) {
			t.Errorf("the second was told %v", b.told)
		}
	})
}

// TestPubacksThatNobodyReads: a hub sends messages and reads nothing. The answers to it are
// bounded: the link stops reading, and ends when the hub has read nothing for the limit of a write.
func TestPubacksThatNobodyReads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		taken := 0
		stop := w.hub("10.0.0.1", func(p *peer) {
			if p.welcome() == nil {
				return
			}
			var b bytes.Buffer
			m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
			m.TopicName, m.Qos, m.MessageID = "x", 1, 1
			for b.Len() < 16<<10 {
				_ = m.Write(&b)
			}
			for taken < 32*maxUnwritten {
				n, err := p.conn.Write(b.Bytes())
				if taken += n; err != nil {
					return
				}
			}
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		var took time.Duration
		if err := l.Err(); err == nil {
			t.Error("it goes on")
		}
		took = time.Since(began)
		l.Abort(nil)
		synctest.Wait()
		// Three bytes in are two out: 1 MiB that waits, as much that is being written, and what the
		// buffers of both ways hold.
		if least, most := maxUnwritten, 8*maxUnwritten; taken < least || taken > most {
			t.Errorf("%d bytes were taken", taken)
		}
		if took != writeDeadline {
			t.Errorf("it took %v", took)
		}
	})
}
