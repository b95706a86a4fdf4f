package mqtt

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// pinged lets a hub acknowledge everything and note when it was pinged.
func (w *world) pinged(addr string, at *[]time.Duration) (stop func()) {
	began := time.Now()
	return w.Serve(addr, func(p *peer) {
		if p.Welcome() == nil {
			w.T.Error("the hub was probed")
			return
		}
		for {
			switch q := p.Read().(type) {
			case *packets.PublishPacket:
				p.Puback(q.MessageID)
			case *packets.PingreqPacket:
				*at = append(*at, time.Since(began))
				p.Send(packets.NewControlPacket(packets.Pingresp))
			case nil:
				return
			}
		}
	})
}

// TestSteadySessionIsTestedSoon: a link that carries a sample at least each 15 s pings 2 s after it
// last heard the hub. A link with rarer samples, or with bursts, pings after the keep-alive and not
// before.
func TestSteadySessionIsTestedSoon(t *testing.T) {
	s := func(seconds ...int) (all []time.Duration) {
		for _, n := range seconds {
			all = append(all, time.Duration(n)*time.Second)
		}
		return all
	}
	burst := func(at int) []int { return []int{at, at, at, at + 1} }
	for name, v := range map[string]struct {
		samples []int // seconds after the link was up
		until   int
		want    []time.Duration
	}{
		"each second":          {[]int{0, 1, 2, 3, 4, 5, 6, 7, 8}, 9, nil},
		"each 5 s":             {[]int{0, 5, 10}, 13, s(7, 9, 12)},
		"each 15 s":            {[]int{0, 15, 30}, 31, s(17, 19, 21, 23, 25, 27, 29)},
		"each 17 s":            {[]int{0, 17, 34}, 50, nil},
		"each minute":          {[]int{0, 59, 118}, 121, s(20, 40, 79, 99)},
		"bursts, a minute off": {slices.Concat(burst(0), burst(60), burst(120)), 139, s(3, 5, 7, 9, 11, 13, 15, 17, 37, 57, 81, 101)},
		"the samples end":      {[]int{0, 5}, 60, s(7, 9, 11, 13, 15, 17, 19, 21, 41)},
		"none":                 {nil, 50, s(20, 40)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var got []time.Duration
				defer w.pinged("10.0.0.1", &got)()
				l := w.dial("10.0.0.1")
				began := time.Now()
				var a acks
				for _, at := range v.samples {
					time.Sleep(time.Until(began.Add(time.Duration(at) * time.Second)))
					offer(t, l, &a, "m")
				}
				time.Sleep(time.Until(began.Add(time.Duration(v.until) * time.Second)))
				l.Abort(nil)
				synctest.Wait()
				if !slices.Equal(got, v.want) {
					t.Errorf("pings after %v, not %v", got, v.want)
				}
			})
		})
	}
}

// TestPaceGoesOnOnTheNextSession: the next link of a device whose samples come steadily is tested
// as soon as the one before, and before its first sample.
func TestPaceGoesOnOnTheNextSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var first, second []time.Duration
		defer w.pinged("10.0.0.1", &first)()
		l := w.dial("10.0.0.1")
		var a acks
		for range 3 {
			time.Sleep(5 * time.Second)
			offer(t, l, &a, "m")
		}
		l.Abort(nil)
		time.Sleep(10 * time.Minute)
		defer w.pinged("10.0.0.2", &second)()
		l = w.dial("10.0.0.2")
		time.Sleep(time.Minute)
		l.Abort(nil)
		synctest.Wait()
		want := []time.Duration{2 * time.Second, 4 * time.Second, 6 * time.Second, 8 * time.Second, 10 * time.Second, 12 * time.Second,
			14 * time.Second, 16 * time.Second, 36 * time.Second, 56 * time.Second}
		if !slices.Equal(second, want) {
			t.Errorf("pings after %v", second)
		}
	})
}

// TestSteadySessionIsFoundDeadInFourSeconds: a path that breaks at any moment between two samples
// is noticed two to four seconds later.
func TestSteadySessionIsFoundDeadInFourSeconds(t *testing.T) {
	for _, every := range []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second} {
		for phase := range 20 {
			bubble(t, func(t *testing.T, w *world) {
				var pings []time.Duration
				defer w.pinged("10.0.0.1", &pings)()
				l := w.dial("10.0.0.1")
				var a acks
				for range 3 {
					time.Sleep(every)
					offer(t, l, &a, "m")
				}
				time.Sleep(every * time.Duration(phase) / 20)
				w.Net.Cut("10.0.0.1:8883")
				cut := time.Now()
				var took time.Duration
				known := make(chan struct{})
				go func() {
					<-l.Done()
					took = time.Since(cut)
					close(known)
				}()
				select {
				case <-known:
				case <-time.After(every - every*time.Duration(phase)/20):
					_ = publishOne(l, []byte("{}"), "", func(error) {}) // the next sample, if there is somebody to take it
					<-known
				}
				l.Abort(nil)
				w.Net.Mend("10.0.0.1:8883")
				if took < 2*time.Second || took > 4*time.Second || !errors.Is(l.Err(), ErrSilent) {
					t.Errorf("a sample each %v, phase %d: after %v: %v", every, phase, took, l.Err())
				}
			})
		}
	}
}

// TestWatchdogWakesForPingsOnly: while a server answers, the watchdog's timer fires when a ping is
// due and at no other time. A timer that fires to find that all is answered would wake the process
// of an idle device, and that is most of what such a device costs.
func TestWatchdogWakesForPingsOnly(t *testing.T) {
	for name, v := range map[string]struct {
		every time.Duration // between two messages; 0: none is sent
		pings uint64        // in ten minutes
	}{
		"no messages":            {0, 29},
		"a message each second":  {time.Second, 0},
		"a message each 5 s":     {5 * time.Second, 240},
		"a message each 11 s":    {11 * time.Second, 270},
		"a message each 1500 ms": {1500 * time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.Serve("10.0.0.1", func(p *peer) { p.Obey() })
				defer stop()
				s := w.dial("10.0.0.1")
				var a acks
				if v.every > 0 { // so that the session is steady before it is measured
					for range 4 {
						time.Sleep(v.every)
						offer(t, s, &a, "m")
					}
				}
				synctest.Wait()
				before := s.Stats()
				for began := time.Now(); time.Since(began) < 10*time.Minute-v.every; {
					if v.every == 0 {
						time.Sleep(10*time.Minute - 5*time.Second)
						break
					}
					time.Sleep(v.every)
					offer(t, s, &a, "m")
				}
				synctest.Wait()
				after := s.Stats()
				looks, pings := after.Looks-before.Looks, after.Pings-before.Pings
				if looks != pings || pings > v.pings || pings < v.pings*9/10 {
					t.Errorf("the timer fired %d times for %d pings; %d are due", looks, pings, v.pings)
				}
				s.Abort(nil)
			})
		})
	}
}
