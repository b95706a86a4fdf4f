package device

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

// warned returns the warnings of the device that contain a word.
func (w *world) warned(word string) (texts []string) {
	for _, text := range w.texts(journal.Warning) {
		if strings.Contains(text, word) {
			texts = append(texts, text)
		}
	}
	return texts
}

// TestNoTime: if DPS cannot be asked for the time, the device says so once, with what to do; at
// once if a connection has failed for it. If nothing speaks against its clock, it says nothing.
func TestNoTime(t *testing.T) {
	for name, v := range map[string]struct {
		off  time.Duration
		more func(*plan)
		way  string
	}{
		"slow":    {-2 * time.Hour, nil, "--provisioning-transport https"},
		"right":   {0, nil, "--provisioning-transport https"},
		"one hub": {-2 * time.Hour, func(c *plan) { c.PinnedHub = "127.0.0.2" }, "open that port, or set"},
	} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			s := wrong(&m, always(v.off), func(c *plan) {
				if v.more != nil {
					v.more(c)
				}
				c.Telemetry = false
			})
			bubble(t, s, func(t *testing.T, w *world) {
				host := "127.0.0.1"
				addr := w.cloud.Info().DPS.HTTPS
				if w.config.PinnedHub != "" {
					host, addr = "127.0.0.2", w.cloud.Info().Hubs[0].HTTPS
				}
				w.net.Cut(addr)
				if w.config.PinnedHub != "" {
					w.adopt()
				}
				said := func(times int) {
					t.Helper()
					texts := w.warned("cannot be asked for the time at " + host + ":443: ")
					if len(texts) != times || times > 0 && (!strings.Contains(texts[0], v.way) ||
						!strings.Contains(texts[0], "set the clock (timedatectl")) {
						t.Errorf("said %q, not %d times", texts, times)
					}
				}
				times := 1
				if v.off == 0 {
					times = 0
				}
				w.run(20 * time.Second)
				said(times)
				w.run(10 * time.Minute)
				said(times)
				w.net.Mend(addr)
				w.run(time.Hour)
				said(times)
				m.set(24 * time.Hour) // so that it must be asked again
				w.net.Cut(addr)
				w.run(3 * time.Minute)
				said(times + 1)
			})
		})
	}
}

// TestAnotherOutbox: the device's own outbox is known again, and one that took its place is not.
func TestAnotherOutbox(t *testing.T) {
	var m *machine
	far := func(c *plan) { // so that a sample is made before the time is known
		dial := c.DialContext
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			time.Sleep(100 * time.Millisecond)
			return dial(ctx, network, addr)
		}
	}
	bubble(t, wrong(&m, always(-2*time.Hour), far), func(t *testing.T, w *world) {
		for _, another := range []bool{false, true} {
			w.run(20 * time.Second)
			w.halt()
			h := home.New(home.RealDisk, w.config.StateDir, "dev-1", nil)
			before, err := loadClock(h, clock.New(clock.Machine{}).Horizon)
			w.must(err)
			if !slices.ContainsFunc(before.Epochs, func(e clock.Epoch) bool { return e.Fix != 0 }) {
				t.Fatalf("nothing was corrected: %+v", before)
			}
			d := w.config.device(new(journal.Journal))
			if another {
				d.id.StateDir = t.TempDir()
				w.must(d.open())
				w.must(d.Close())
				other := home.New(home.RealDisk, d.id.StateDir, "dev-1", nil)
				w.must(other.Save(home.ClockFile, before))
				d = New(d.shared, d.id, d.app)
			}
			w.must(d.open())
			if got := len(d.time.Kept().Epochs); (got == 0) != another {
				t.Errorf("%d epochs, another outbox: %t", got, another)
			}
			w.must(d.Close())
			w.start()
		}
	})
}

// TestTokenOfASlowClockIsRenewedInTime: a token may end earlier than the device believed when it
// made the token. It is renewed as soon as the device knows that, and the link is not lost at the
// token's end.
func TestTokenOfASlowClockIsRenewedInTime(t *testing.T) {
	https := func(c *plan) { c.ProvisioningTransport = dps.HTTPS }
	for name, v := range map[string]struct {
		more func(*plan)
		mend func(w *world, m *machine)
	}{
		"DPS is asked":      {func(*plan) {}, nil},
		"DPS says it":       {https, nil},
		"the clock is set":  {func(*plan) {}, func(w *world, m *machine) { w.net.Cut(w.cloud.Info().DPS.HTTPS); w.run(time.Minute); m.set(0) }},
		"the machine slept": {func(*plan) {}, func(w *world, m *machine) { w.run(time.Minute); m.slept.Add(int64(50 * time.Minute)) }},
	} {
		t.Run(name, func(t *testing.T) {
			var m *machine
			off := -50 * time.Minute
			if name == "the machine slept" {
				off = 0
			}
			bubble(t, wrong(&m, always(off), v.more), func(t *testing.T, w *world) {
				w.on("hub-a", 10*time.Second)
				if v.mend != nil {
					v.mend(w, m)
				}
				w.run(20 * time.Second)
				if n := w.count(journal.Renewed); n > 1 || n == 0 && name != "DPS says it" {
					t.Errorf("%d renewals", n)
				}
				if name != "the machine slept" { // of which the cloud knows nothing here
					w.run(40 * time.Minute)
				}
				if w.count(journal.Lost) > 0 {
					t.Errorf("lost: %q", w.texts(journal.Lost))
				}
			})
		})
	}
}
