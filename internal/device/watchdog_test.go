package device

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

const hubA = "127.0.0.2:8883"

// lostAt are the times at which links were lost, and why.
func (w *world) lostAt() (times []time.Time, why []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == journal.Lost {
			times, why = append(times, e.Time), append(why, e.Error)
		}
	}
	return times, why
}

// TestUnsteadyLinkIsNeverGivenUp: for a day the network delays every segment of either direction by
// up to two seconds more than the one before it, and loses one in twenty. The link is silent for
// ten seconds and more, hundreds of times. It is never given up.
func TestUnsteadyLinkIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]struct {
		jitter time.Duration
		every  time.Duration // samples are synced, and so sent
	}{
		"1 s":                       {time.Second, 0},
		"2 s":                       {2 * time.Second, 0},
		"2 s, a burst every minute": {2 * time.Second, time.Minute},
	} {
		for seed := range weatherSeeds() {
			t.Run(fmt.Sprintf("%s, seed %d", name, seed), func(t *testing.T) {
				s := setup{device: func(c *plan) { c.StateDir = virtual.Dir(t); c.Outbox.SyncEvery = v.every }}
				bubble(t, s, func(t *testing.T, w *world) {
					w.run(10 * time.Second)
					w.halt()
					w.net.SetDelay(25 * time.Millisecond)
					w.net.SetWeather(v.jitter, 0.05, seed)
					w.start()
					w.run(aDay())
					_, why := w.lostAt()
					// A hub that has not heard from us for 30 s closes, and so it should.
					if why = slices.DeleteFunc(why, func(s string) bool { return strings.HasSuffix(s, ": EOF") }); len(why) > 0 {
						t.Errorf("killed %d times: %v", len(why), why)
					}
					if why := w.silentDials(); len(why) > 0 {
						t.Errorf("not let in: %v", why)
					}
					if s := w.dev.Status().Outbox; s.Queued > 150 {
						t.Errorf("%d samples wait", s.Queued)
					}
					t.Logf("%d connections for probes", int64(w.net.Dials(hubA))-w.cloud.State().Totals.Connects)
					w.net.SetWeather(0, 0, 0)
					w.run(time.Minute)
				})
			})
		}
	}
}

// weatherSeeds says how many days to try: WEATHER_SEEDS, or one.
func weatherSeeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("WEATHER_SEEDS"), 10, 32); err == nil {
		return n
	}
	return 1
}

// silentDials are attempts at a hub that were given up because it was silent.
func (w *world) silentDials() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == journal.Decision && strings.HasPrefix(e.Error, "connect ") {
			all = append(all, e.Error)
		}
	}
	return all
}

// TestHubWithLatePubacksIsKept: for a day (less under the race detector) a hub delays every PUBACK
// by 50 s. The link stays, and carries every sample.
func TestHubWithLatePubacksIsKept(t *testing.T) {
	t.Parallel()
	s := setup{device: func(c *plan) { c.StateDir = virtual.Dir(t); c.Link.TokenLife = 48 * time.Hour }}
	bubble(t, s, func(t *testing.T, w *world) {
		w.run(time.Minute)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultThrottle, DelayMs: 50_000}))
		w.run(4 * aDay())
		if _, why := w.lostAt(); len(why) > 0 {
			t.Errorf("killed %d times: %v", len(why), why)
		}
		if n := w.dev.Status().Outbox.Queued; n > 300 {
			t.Errorf("%d samples wait", n)
		}
		t.Logf("%d connections for probes", int64(w.net.Dials(hubA))-w.cloud.State().Totals.Connects)
		w.must(w.cloud.HealHub("hub-a"))
		w.run(10 * time.Minute)
	})
}

// TestSlowPathIsNotMistakenForADeadHub: the round trip takes four seconds from the first dial on,
// so the device has never measured a shorter one.
func TestSlowPathIsNotMistakenForADeadHub(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.halt()
		w.net.SetDelay(2 * time.Second)
		w.start()
		if took := w.on("hub-a", time.Minute); took != 10*time.Second { // TCP, TLS, and the way of CONNECT and PUBLISH
			t.Errorf("telemetry after %v", took)
		}
		w.run(time.Hour)
		w.net.SetDelay(2200 * time.Millisecond) // it was steady for long, and is a little less so now
		w.run(time.Minute)
		if _, why := w.lostAt(); len(why) > 0 || len(w.silentDials()) > 0 {
			t.Errorf("killed: %v %v", why, w.silentDials())
		}
		if n := int64(w.net.Dials(hubA)) - w.cloud.State().Totals.Connects; n != 0 {
			t.Errorf("%d connections for probes, on a path that is slow but steady", n)
		}
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.on("hub-b", 2*time.Minute)
		w.net.SetDelay(0)
		w.run(time.Minute)
	})
}

// TestBlackHoleIsNoticedInThreeSeconds: whatever falls silent, and whenever between two samples, a
// device with one sample a second knows two seconds after the first sample that got no answer that
// the link is dead. So it knows at most three seconds after the last sample that was answered.
func TestBlackHoleIsNoticedInThreeSeconds(t *testing.T) {
	for name, v := range map[string]struct {
		trip time.Duration
		harm func(w *world)
	}{
		"path":                 {0, func(w *world) { w.net.Cut(hubA) }},
		"path, 50 ms away":     {50 * time.Millisecond, func(w *world) { w.net.Cut(hubA) }},
		"mute hub, 50 ms away": {50 * time.Millisecond, func(w *world) { w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole, DPSKnows: no()})) }},
		"SYNs are dropped":     {0, func(w *world) { w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultSYNDrop, DPSKnows: no()})) }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				w.net.SetDelay(v.trip / 2)
				chance := rand.New(rand.NewPCG(1, 1))
				var all []time.Duration
				for range 40 {
					w.on("hub-a", 2*time.Minute)
					w.run(30*time.Second + time.Duration(chance.Int64N(int64(time.Second))))
					w.forget()
					harmed := time.Now()
					v.harm(w)
					w.run(5 * time.Second)
					times, why := w.lostAt()
					if len(times) != 1 || !strings.Contains(why[0], "no answer in 2s") {
						t.Fatalf("time %d: lost %v", len(all), why)
					}
					all = append(all, times[0].Sub(harmed))
					w.net.Mend(hubA)
					_ = w.cloud.HealHub("hub-a") // which may be well
				}
				slices.Sort(all)
				t.Logf("dead after: least %v, median %v, most %v", all[0], all[20], all[39])
				if most := all[39]; most > 3*time.Second || all[0] < 2*time.Second-v.trip {
					t.Errorf("from %v to %v", all[0], most)
				}
			})
		})
	}
}

// TestBlackHoleBetweenSamples: at the default interval, and at the longest that counts as steady, a
// path that goes between two samples is known two seconds after the ping that follows two seconds
// of silence, wherever the lines come from. Where samples are rarer nothing is sent for it.
func TestBlackHoleBetweenSamples(t *testing.T) {
	for name, v := range map[string]struct {
		every time.Duration
		trip  time.Duration
		stdin bool
		most  time.Duration
	}{
		"5 s":                         {5 * time.Second, 0, false, 4 * time.Second},
		"5 s, 50 ms away":             {5 * time.Second, 50 * time.Millisecond, false, 4 * time.Second},
		"15 s":                        {15 * time.Second, 50 * time.Millisecond, false, 4 * time.Second},
		"5 s, lines of a program":     {5 * time.Second, 50 * time.Millisecond, true, 4 * time.Second},
		"a minute, so the keep-alive": {time.Minute, 50 * time.Millisecond, false, 22 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var feed *io.PipeWriter
			s := setup{device: func(c *plan) {
				c.StateDir, c.TelemetryInterval, c.Reported = virtual.Dir(t), v.every, false
				if v.stdin {
					var input *io.PipeReader
					input, feed = io.Pipe()
					c.Source, c.Input = "stdin", input
				}
			}}
			bubble(t, s, func(t *testing.T, w *world) {
				if v.stdin {
					ctx, stop := context.WithCancel(t.Context())
					fed := make(chan struct{})
					go func() {
						defer close(fed)
						for ctx.Err() == nil {
							_, _ = io.WriteString(feed, "{\"temp\":1}\n")
							time.Sleep(v.every)
						}
					}()
					defer func() { stop(); <-fed; _ = feed.Close() }()
				}
				w.net.SetDelay(v.trip / 2)
				chance := rand.New(rand.NewPCG(3, 3))
				var all []time.Duration
				for range 40 {
					w.on("hub-a", 5*time.Minute)
					w.run(3*v.every + time.Duration(chance.Int64N(int64(v.every))))
					w.forget()
					cut := time.Now()
					w.net.Cut(hubA)
					w.run(v.most + time.Second)
					times, why := w.lostAt()
					if len(times) != 1 || !strings.Contains(why[0], "no answer in 2s") {
						t.Fatalf("time %d: lost %v", len(all), why)
					}
					all = append(all, times[0].Sub(cut))
					w.net.Mend(hubA)
				}
				slices.Sort(all)
				t.Logf("dead after: least %v, median %v, most %v", all[0], all[20], all[39])
				// What the hub sent just before the cut still arrives half a round trip after it,
				// and the silence begins with that.
				if all[39] > v.most+v.trip/2 || all[0] < 2*time.Second-v.trip {
					t.Errorf("from %v to %v", all[0], all[39])
				}
				w.net.SetDelay(0)
			})
		})
	}
}

// TestBlackHoleIsNoticedByTheKeepAlive: nothing is sent, so only the keep-alive can notice the
// silence. It waits in two stages, like every other question.
func TestBlackHoleIsNoticedByTheKeepAlive(t *testing.T) {
	idle := setup{device: func(c *plan) { c.Telemetry, c.Reported = false, false }}
	bubble(t, idle, func(t *testing.T, w *world) {
		chance := rand.New(rand.NewPCG(2, 2))
		var all []time.Duration
		for range 100 {
			w.run(time.Minute + time.Duration(chance.Int64N(int64(20*time.Second))))
			w.forget()
			cut := time.Now()
			w.net.Cut(hubA)
			w.run(25 * time.Second)
			times, why := w.lostAt()
			if len(times) != 1 || !strings.Contains(why[0], "no answer in 2s") {
				t.Fatalf("lost %v", why)
			}
			all = append(all, times[0].Sub(cut))
			w.net.Mend(hubA)
		}
		slices.Sort(all)
		t.Logf("dead after: least %v, median %v, p99 %v, most %v", all[0], all[50], all[98], all[99])
		if most := w.config.Link.KeepAlive + 2*time.Second; all[99] > most || all[99] < most-time.Second {
			t.Errorf("at most %v", all[99])
		}
	})
}

// TestBlackHoleIsNoticedDuringAWrite: the send buffer is full and a write waits. The silence ends
// the link, long before the ten seconds that a write may take.
func TestBlackHoleIsNoticedDuringAWrite(t *testing.T) {
	var writing atomic.Int64
	var feed *io.PipeWriter
	s := setup{device: func(c *plan) {
		var input *io.PipeReader
		input, feed = io.Pipe() // in the bubble, so that who waits for it lets time pass
		c.Source, c.Input, c.Outbox.Full, c.Reported = "stdin", input, outbox.Block, false
		dial := c.DialContext
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{conn, &writing}, nil
		}
	}}
	bubble(t, s, func(t *testing.T, w *world) {
		w.net.SetDelay(25 * time.Millisecond)
		fed := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			defer close(fed)
			line := `{"temp":1,"note":"` + strings.Repeat("x", 60<<10) + "\"}\n"
			for ctx.Err() == nil {
				_, _ = io.WriteString(feed, line)
				time.Sleep(20 * time.Millisecond) // so that, without a PUBACK, more may be sent than the send buffer holds
			}
			_ = feed.Close()
		}()
		w.run(10 * time.Second)
		w.forget()
		cut := time.Now()
		w.net.Cut(hubA)
		w.run(1900 * time.Millisecond)
		if writing.Load() == 0 {
			t.Error("no write waits: this test is about one that does")
		}
		w.run(2 * time.Second)
		times, why := w.lostAt()
		if len(times) != 1 || times[0].Sub(cut) > 2100*time.Millisecond || !strings.Contains(why[0], "no answer in 2") {
			t.Errorf("lost %v after %v", why, times)
		} else {
			t.Logf("dead after %v", times[0].Sub(cut))
		}
		w.net.Mend(hubA)
		w.net.SetDelay(0)
		stop()
		<-fed
		if err := <-w.ended; err != nil {
			t.Error(err)
		}
		w.dev = nil
	})
}

// countedConn counts writes that are under way.
type countedConn struct {
	net.Conn
	writing *atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.writing.Add(1)
	defer c.writing.Add(-1)
	return c.Conn.Write(b)
}

func (c *countedConn) SetLinger(sec int) error {
	return c.Conn.(interface{ SetLinger(int) error }).SetLinger(sec)
}
