package device

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// machine has clocks that may be wrong. The cloud's is right: it is that of the bubble.
type machine struct {
	began time.Time
	off   atomic.Int64 // how far the system clock is ahead
	slept atomic.Int64
	boot  string
}

func (m *machine) Wall() time.Time {
	return time.Now().Round(0).Add(time.Duration(m.off.Load() + m.slept.Load()))
}
func (m *machine) Running() time.Duration {
	return time.Since(m.began) + time.Duration(m.slept.Load()) + time.Minute
}
func (m *machine) set(off time.Duration) { m.off.Store(int64(off)) }
func (m *machine) clock() clock.Machine {
	return clock.Machine{Wall: m.Wall, Running: m.Running, Boot: m.boot}
}

// newMachine is one whose system clock is off by that. It must be called in the bubble.
func newMachine(off time.Duration) *machine {
	m := &machine{began: time.Now(), boot: "boot 1"}
	m.set(off)
	return m
}

// since1970 is how far a clock is off that starts at zero.
func since1970() time.Duration { return time.Until(time.Unix(20, 0)) }

// wrong gives a world's device a machine.
func wrong(m **machine, off func() time.Duration, more ...func(*plan)) setup {
	return setup{device: func(c *plan) {
		*m = newMachine(off())
		c.Clock = (*m).clock()
		for _, f := range more {
			f(c)
		}
	}}
}

func always(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// created checks the creation times of the samples that came since then: they are right to two
// seconds, and there is a sample for every second.
func (w *world) created(since time.Time) {
	w.t.Helper()
	n := 0
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		if m.At.Before(since) {
			continue
		}
		n++
		at, err := time.Parse(time.RFC3339, *m.Properties["iothub-creation-time-utc"])
		_, digits, _ := strings.Cut(m.Mid, "-")
		seq := 0
		_, _ = fmt.Sscan(digits, &seq)
		// The first sample is made as the device starts, the next ones a second apart.
		if want := w.began.Add(time.Duration(seq-1) * w.config.TelemetryInterval); err != nil || at.Sub(want).Abs() > 2*time.Second {
			w.t.Fatalf("%s was created at %v, not at %v (%v)", m.Mid, at, want, err)
		}
	}
	if n == 0 {
		w.t.Fatal("nothing came")
	}
}

// heardOf holds the device to one line that names the error and what to do.
func (w *world) heardOf(want string) {
	w.t.Helper()
	texts := w.texts(journal.ClockWrong)
	if len(texts) != 1 || !strings.Contains(texts[0], want) || !strings.Contains(texts[0], "set the clock (timedatectl") {
		w.t.Errorf("said %q, not once %q and what to do", texts, want)
	}
}

// TestWrongClockIsCorrectedWithinSeconds: whatever time a device believes when it starts, it is up
// within seconds, says once that its clock is wrong, and its samples have the right times.
func TestWrongClockIsCorrectedWithinSeconds(t *testing.T) {
	https := func(c *plan) { c.ProvisioningTransport = dps.HTTPS }
	aged := func(c *plan) { c.Outbox.MaxAge = time.Hour }
	pinned := func(c *plan) { c.PinnedHub = "127.0.0.2" }
	for name, v := range map[string]struct {
		off    func() time.Duration
		more   func(*plan)
		says   string
		rules  string // that must be applied
		within time.Duration
	}{
		"1970":             {since1970, aged, "10957 days behind that of DPS", "D23", 2 * time.Second},
		"1970, HTTPS":      {since1970, https, "10957 days behind that of DPS", "D23", 2 * time.Second},
		"1970, one hub":    {since1970, pinned, "10957 days behind that of 127.0.0.2", "H27", 2 * time.Second},
		"2 h slow":         {always(-2 * time.Hour), aged, "2h0m", "D23", 3 * time.Second},
		"2 h slow, HTTPS":  {always(-2 * time.Hour), https, "2h0m", "D23", 3 * time.Second},
		"2 h slow, one":    {always(-2 * time.Hour), pinned, "behind that of 127.0.0.2", "H27", 3 * time.Second},
		"2 h fast, HTTPS":  {always(2 * time.Hour), https, "ahead of that of DPS", "", 2 * time.Second},
		"2 h fast":         {always(2 * time.Hour), aged, "2h0m0s ahead of that of DPS", "", 2 * time.Second},
		"2 h fast, one":    {always(2 * time.Hour), pinned, "ahead of that of 127.0.0.2", "", 2 * time.Second},
		"a month fast":     {always(30 * 24 * time.Hour), aged, "30 days ahead", "", 2 * time.Second},
		"half a year slow": {always(-180 * 24 * time.Hour), aged, "180 days behind", "D23", 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			cloud := func(c *sim.Config) { c.RetryAfter = 0 }
			s := wrong(&m, v.off, v.more)
			s.cloud = cloud
			bubble(t, s, func(t *testing.T, w *world) {
				if w.config.PinnedHub != "" {
					w.adopt()
				}
				w.on("hub-a", v.within)
				if strings.HasSuffix(name, "HTTPS") {
					w.heardOf(v.says) // each of its answers says it
				}
				w.run(20 * time.Second)
				w.heardOf(v.says)
				if v.rules != "" && !strings.Contains(strings.Join(w.decisions(), " "), v.rules) {
					t.Errorf("decided %v, without %s", w.decisions(), v.rules)
				}
				since := time.Now()
				if v.rules != "" {
					since = w.began // then nothing had gone out before
				}
				w.run(20 * time.Second)
				w.created(since)
				// And it stays so: no event follows, and nobody asks again.
				w.forget()
				w.run(10 * time.Minute)
				if n := w.count(journal.ClockWrong) + w.count(journal.ClockRight) + w.count(journal.Lost); n > 0 {
					t.Errorf("%d more words", n)
				}
			})
		})
	}
}

// TestNothingAsksTheProcessForTheTime: the same if the clock of the whole process is wrong. So
// everything that checks certificates or makes tokens must ask the device for the time.
func TestNothingAsksTheProcessForTheTime(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"26 years": 26 * 365 * 24 * time.Hour, "2 h": 2 * time.Hour} {
		for _, transport := range []dps.Transport{dps.MQTT, dps.HTTPS} {
			t.Run(name+" "+string(transport), func(t *testing.T) {
				s := setup{cloud: func(c *sim.Config) { c.ClockOffset, c.RetryAfter = ahead, 0 },
					device: func(c *plan) { c.Link.TokenLife, c.ProvisioningTransport = 2*time.Minute, transport }}
				bubble(t, s, func(t *testing.T, w *world) {
					w.on("hub-a", 3*time.Second)
					w.began = w.began.Add(ahead)
					w.run(time.Minute)
					w.created(time.Time{})
					w.heardOf("behind")
					w.forget()
					w.run(10 * time.Minute)
					if n := w.count(journal.Renewed); n < 4 || w.count(journal.Lost) > 0 {
						t.Errorf("%d renewals, %d links lost", n, w.count(journal.Lost))
					}
					w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
					w.run(10 * time.Second)
					if w.dev.Status().Hub != "127.0.0.3" {
						t.Errorf("at %q after a failover", w.dev.Status().Hub)
					}
				})
			})
		}
	}
}

// TestNextRunKnowsHowFarTimeHasCome: nobody has named the time, but the links that worked show how
// far it has come. The next run knows that, to an hour.
func TestNextRunKnowsHowFarTimeHasCome(t *testing.T) {
	var m *machine
	bubble(t, wrong(&m, always(0), func(c *plan) { c.Telemetry = false }), func(t *testing.T, w *world) {
		w.net.Cut(w.cloud.Info().DPS.HTTPS)
		h := home.New(home.RealDisk, w.config.StateDir, "dev-1", nil)
		w.run(10 * time.Second)
		for range 3 {
			f, err := loadClock(h, clock.New(clock.Machine{}).Horizon)
			w.must(err)
			if age := time.Since(f.Newest); age < 0 || age > clock.NoteEvery+clock.LookEvery {
				t.Errorf("it knows of a time %v ago", age)
			}
			w.run(100 * time.Minute)
		}
	})
}

// TestClockThatIsSetRightIsNotCorrectedTwice: somebody sets the clock of a device that uses the
// cloud's time. The device goes on with the same time, and does not correct it twice.
func TestClockThatIsSetRightIsNotCorrectedTwice(t *testing.T) {
	for name, off := range map[string]func() time.Duration{"from 1970": since1970, "from 2 h fast": always(2 * time.Hour), "from 2 h slow": always(-2 * time.Hour)} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			bubble(t, wrong(&m, off, func(c *plan) { c.Link.TokenLife = 2 * time.Minute }), func(t *testing.T, w *world) {
				w.run(30 * time.Second)
				since := time.Now()
				w.forget()
				m.set(0)
				w.run(10 * time.Minute)
				w.created(since)
				if right, wrong, lost := w.count(journal.ClockRight), w.count(journal.ClockWrong), w.count(journal.Lost); right != 1 || wrong+lost != 0 {
					t.Errorf("said %d times that it is right, %d that it is wrong; lost %d links", right, wrong, lost)
				}
				if n := w.count(journal.Renewed); n < 4 {
					t.Errorf("%d renewals: the links must not mind", n)
				}
			})
		})
	}
}

// TestClockThatLeapsAwayIsNotFollowed: while the device knows the time, it does not follow a system
// clock that leaps away.
func TestClockThatLeapsAwayIsNotFollowed(t *testing.T) {
	for name, off := range map[string]func() time.Duration{"to 1970": since1970, "ahead": always(2 * time.Hour), "back": always(-2 * time.Hour)} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			bubble(t, wrong(&m, always(0), func(c *plan) { c.Link.TokenLife = 2 * time.Minute }), func(t *testing.T, w *world) {
				w.run(30 * time.Second)
				m.set(off())
				w.run(5 * time.Minute)
				w.created(w.began)
				if n := len(w.texts(journal.ClockWrong)); n != 1 {
					t.Errorf("said so %d times", n)
				}
				if n := w.count(journal.Lost); n > 0 {
					t.Errorf("%d links lost", n)
				}
			})
		})
	}
}

// TestSamplesFromBeforeTheCloudIsHeardAreCorrected: before the cloud names the time, the device has
// only the system clock. Samples with its time are corrected later.
func TestSamplesFromBeforeTheCloudIsHeardAreCorrected(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 25 * time.Second} { // also if none is made between then and the link
		t.Run(interval.String(), func(t *testing.T) {
			var m *machine
			bubble(t, wrong(&m, since1970, func(c *plan) { c.TelemetryInterval = interval }), func(t *testing.T, w *world) {
				for _, addr := range w.everywhere() {
					w.net.Cut(addr)
				}
				w.run(20 * time.Second)
				m.set(-30 * time.Minute) // nearly
				w.run(35 * time.Second)
				m.set(0)
				w.run(5 * time.Second)
				for _, addr := range w.everywhere() {
					w.net.Mend(addr)
				}
				w.on("hub-a", 14*time.Second)
				w.run(3 * time.Minute)
				w.created(w.began)
			})
		})
	}
}

// TestStampsOfAnEarlierProcessAreCorrected: a process stamped samples before it knew the time. The
// next process corrects them if the machine has been running since; otherwise nobody knows the
// difference. The samples keep their ids.
func TestStampsOfAnEarlierProcessAreCorrected(t *testing.T) {
	for name, boot := range map[string]string{"the same boot": "boot 1", "another boot": "boot 2"} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			bubble(t, wrong(&m, since1970, func(c *plan) { c.DrainTimeout = 0 }), func(t *testing.T, w *world) {
				for _, addr := range w.everywhere() {
					w.net.Cut(addr)
				}
				w.run(20*time.Second + 500*time.Millisecond)
				id := w.dev.Status().Outbox.ID
				w.halt()
				for _, addr := range w.everywhere() {
					w.net.Mend(addr)
				}
				w.config.Clock.Boot = boot
				w.start()
				w.run(20 * time.Second)
				all := w.cloud.Ledger("dev-1", true).Messages
				if len(all) < 30 || !strings.HasPrefix(all[0].Mid, id+"-1") {
					t.Fatalf("%d came, the first one is %v", len(all), all[0].Mid)
				}
				if boot == "boot 1" {
					w.created(w.began)
				} else if first := *all[0].Properties["iothub-creation-time-utc"]; !strings.HasPrefix(first, "1970-01-01T00:00:2") {
					t.Errorf("the first one was created at %s, which nobody can know better than it was stamped", first)
				}
				if last := *all[len(all)-1].Properties["iothub-creation-time-utc"]; !strings.HasPrefix(last, time.Now().UTC().Format("2006-01-02T15")) {
					t.Errorf("the last one was created at %s", last)
				}
			})
		})
	}
}

// TestClockBehindTheTrustedTimeIsNotBelieved: the program and the state directory know a time for
// sure. A clock that is behind that time is not believed, and nothing fails because of it.
func TestClockBehindTheTrustedTimeIsNotBelieved(t *testing.T) {
	var m *machine
	t.Run("state directory", func(t *testing.T) {
		bubble(t, wrong(&m, always(0)), func(t *testing.T, w *world) {
			w.run(10 * time.Second)
			w.halt()
			w.forget()
			m.boot = "boot 2"
			m.set(since1970())
			w.config.Clock = m.clock()
			for _, name := range []string{"both", "clock.json alone", "state.json alone"} {
				h := home.New(home.RealDisk, w.config.StateDir, "dev-1", nil)
				switch name {
				case "clock.json alone":
					w.must(os.Remove(h.Path("state.json")))
				case "state.json alone":
					w.must(os.Remove(h.Path(home.ClockFile)))
				}
				w.start()
				w.run(2 * time.Second)
				if got := w.decisions(); name == "clock.json alone" && len(got) > 0 && got[0] == "D01" {
					w.forget() // it must ask DPS where it belongs
				} else if len(got) > 0 {
					t.Errorf("%s: decided %v", name, got)
				}
				w.run(10 * time.Second)
				w.heardOf("days behind")
				w.halt()
				w.forget()
			}
		})
	})
	t.Run("build", func(t *testing.T) {
		bubble(t, wrong(&m, since1970, func(c *plan) { c.Clock.Built = time.Now().Add(-10 * time.Minute) }), func(t *testing.T, w *world) {
			w.on("hub-a", 5*time.Second)
			w.run(20 * time.Second)
			w.decided("D01", "H05") // the program is ten minutes old, so the first token ends ten minutes early
			w.heardOf("days behind")
			since := time.Now()
			w.run(10 * time.Second)
			w.created(since)
		})
	})
}

// TestOldCertificatesDoNotSetTheClock: certificates that had ended when the program was built are
// refused, whatever the clock says. So a stolen one is of no use against a device that has lost its
// clock.
func TestOldCertificatesDoNotSetTheClock(t *testing.T) {
	var m *machine
	s := wrong(&m, since1970, func(c *plan) { c.Clock.Built = time.Now(); c.Telemetry = false })
	s.cloud = func(c *sim.Config) { c.ClockOffset = -11 * 365 * 24 * time.Hour }
	bubble(t, s, func(t *testing.T, w *world) {
		w.run(5 * time.Minute)
		if n := w.cloud.State().Totals.Registrations + w.cloud.State().Totals.Connects; n > 0 || w.count(journal.ClockWrong) > 0 {
			t.Errorf("%d registrations and connects; said %q", n, w.texts(journal.ClockWrong))
		}
	})
}

// TestTheTimeIsAskedForRarely: a device that gets no answer asks for the time only now and then,
// and a device that knows the time does not ask.
func TestTheTimeIsAskedForRarely(t *testing.T) {
	var m *machine
	var asked atomic.Int64
	bubble(t, wrong(&m, since1970, func(c *plan) {
		c.Telemetry = false
		dial := c.DialContext
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":443") {
				asked.Add(1)
			}
			return dial(ctx, network, addr)
		}
	}), func(t *testing.T, w *world) {
		w.net.Cut(w.cloud.Info().DPS.HTTPS)
		w.run(10 * time.Minute)
		if fails := asked.Load(); fails < 5 || fails > 21 {
			t.Errorf("%d questions in 10 minutes", fails)
		}
		w.net.Mend(w.cloud.Info().DPS.HTTPS)
		w.run(2 * time.Minute)
		w.heardOf("days behind")
	})
}

// TestLinkIsDoubtedAfterASuspension: after a suspension of the machine the link is doubted at once,
// although the keep-alive is long. A link that still works is kept.
func TestLinkIsDoubtedAfterASuspension(t *testing.T) {
	for name, v := range map[string]struct{ lost, blind bool }{
		"the hub is gone": {true, false}, "nothing has happened": {false, false}, "the hub is gone, and only the system clock shows it": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			bubble(t, wrong(&m, always(0), func(c *plan) {
				c.Telemetry, c.Link.KeepAlive = false, 1000*time.Second
				if v.blind {
					c.Clock.Running = nil
				}
			}), func(t *testing.T, w *world) {
				w.run(time.Minute)
				w.forget()
				if v.lost {
					w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole}))
					w.run(10 * time.Second) // nobody notices
					if w.count(journal.Lost) > 0 {
						t.Fatal("that is found without a suspension")
					}
				}
				m.slept.Add(int64(50 * time.Second))
				w.run(12 * time.Second)
				if n := w.count(journal.Resumed); n != 1 {
					t.Errorf("noticed %d suspensions", n)
				}
				if v.lost {
					if w.count(journal.Lost) != 1 || w.count(journal.Connected) != 1 || w.dev.Status().Hub == "127.0.0.2" {
						t.Errorf("%d links lost, %d found, at %s", w.count(journal.Lost), w.count(journal.Connected), w.dev.Status().Hub)
					}
				} else if w.count(journal.Lost) > 0 {
					t.Error("the link was lost")
				}
			})
		})
	}
}

// everywhere are the cloud's addresses.
func (w *world) everywhere() []string {
	info := w.cloud.Info()
	all := []string{info.DPS.MQTT, info.DPS.HTTPS}
	for _, h := range info.Hubs {
		all = append(all, h.MQTT, h.HTTPS)
	}
	return all
}

// adopt makes the device known to its hub, as a connection string needs it.
func (w *world) adopt() {
	w.t.Helper()
	client := &dps.Client{Host: w.config.ProvisioningHost, IDScope: w.config.IDScope, RegistrationID: "dev-1", Key: w.config.Key,
		TLS: nil, DialContext: w.net.DialContext}
	client.TLS = plan{
		Shared: Shared{
			Roots: w.config.Roots,
		},
	}.device(new(journal.Journal)).tlsConfig()
	_, err := client.Register(w.t.Context(), dps.Request{})
	w.must(err)
	synctest.Wait()
}
