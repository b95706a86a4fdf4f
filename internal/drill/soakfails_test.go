package drill

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// TestSoakFindsEveryFault breaks the device, its cloud, or what is between them, in each way that a
// soak can notice.
func TestSoakFindsEveryFault(t *testing.T) {
	const dies = `5s hub-a {"kind":"blackhole","seconds":20}`
	for want, v := range map[string]struct {
		schedule string
		spoil    func(w *soakWorld)
	}{
		"have left the outbox":                        {dies, func(w *soakWorld) { w.conf.id.OpenOutbox = hasty }},
		"samples never arrived at any hub":            {dies, func(w *soakWorld) { w.conf.id.OpenOutbox = hasty }},
		"nothing came within":                         {"1s c2d", func(w *soakWorld) { w.conf.id.OpenOutbox = deaf }},
		"nothing came at all":                         {"1s c2d", func(w *soakWorld) { w.conf.id.OpenOutbox = deaf }},
		"samples still wait in the outbox":            {"1s c2d", func(w *soakWorld) { w.conf.id.OpenOutbox = deaf }},
		"samples still wait 2m0s after the first":     {"1s c2d", func(w *soakWorld) { w.conf.id.OpenOutbox = forgetful }},
		"samples still wait 2m0s after the queue had": {"1s c2d", deafLater},
		"the outbox gave something up":                {dies, func(w *soakWorld) { w.conf.shared.Config.Outbox.MaxAge = time.Second }},
		"were given up":                               {dies, func(w *soakWorld) { w.conf.shared.Config.Outbox.MaxAge = time.Second }},
		"behind samples that are newer": {dies, func(w *soakWorld) {
			w.conf.shared.Config.Drain.Order = telemetry.FreshFirst
			w.conf.app.Interval = 100 * time.Millisecond
		}},
		"is of another outbox than": {"10s restart 1s", func(w *soakWorld) {
			w.later(10500*time.Millisecond, func() { w.conf.id.StateDir = filepath.Join(w.dir, "elsewhere") })
		}},
		"samples had left the outbox, and now": {"10s restart 1s", func(w *soakWorld) {
			w.later(10500*time.Millisecond, func() { w.conf.id.StateDir = filepath.Join(w.dir, "elsewhere") })
		}},
		"the device ended with": {"1s c2d", func(w *soakWorld) {
			w.conf.id.OpenOutbox = func(string, outbox.Options) (device.Outbox, error) { return nil, errors.New("no disk") }
		}},
		"desired fanSpeed is":                  {"5s desired", func(w *soakWorld) { w.conf.app.Off.Desired = true }},
		"a message to the device is still":     {"5s c2d", func(w *soakWorld) { w.conf.app.Off.C2D = true }},
		"there is no link, although":           {"1s c2d", func(w *soakWorld) { killAll(w) }},
		"connections to hub-a are left":        {"1s c2d", func(w *soakWorld) { dialOnce(w, w.hubAddress()) }},
		"connections to DPS are left":          {"1s c2d", func(w *soakWorld) { dialOnce(w, w.cloud.Info().DPS.MQTT) }},
		"connections are open after the end":   {"1s c2d", func(w *soakWorld) { holdOne(w) }},
		"panic: ":                              {"1s c2d", func(*soakWorld) { go func() { select {} }() }},
		"copying the state":                    {"5s crash rst 1s", func(w *soakWorld) { w.dir = filepath.Join(w.dir, "a\x00b") }},
		"this is no step of a schedule":        {"", func(w *soakWorld) { w.s.Steps = []Step{{0, "dance"}} }},
		"the outbox cannot be read":            {"1s c2d", func(w *soakWorld) { w.later(3*time.Second, func() { w.conf.id.StateDir = "/dev/null" }) }},
		"sessions at once, when all was quiet": {"1s c2d", func(w *soakWorld) { openTwo(w) }},
		"2 sessions at once with ":             {"1s c2d", func(w *soakWorld) { openTwo(w) }},
		"registrations within": {"1s c2d", func(w *soakWorld) {
			w.later(3*time.Second, func() { w.rates = append(w.rates, count{time.Now(), 99}) })
		}},
	} {
		t.Run(want, func(t *testing.T) {
			s, err := ParseSchedule(v.schedule)
			if err != nil {
				t.Fatal(err)
			}
			got := soak(t, s, v.spoil)
			if !strings.Contains(strings.Join(got.texts(), "\n"), want) {
				t.Errorf("found\n%s\nand not %q", strings.Join(got.texts(), "\n"), want)
			}
		})
	}
}

// TestSoakPassesWhatIsWell plays the same steps with nothing spoilt.
func TestSoakPassesWhatIsWell(t *testing.T) {
	for _, text := range []string{`5s hub-a {"kind":"blackhole","seconds":20}`, "1s c2d", "5s desired", "10s restart 1s", "5s crash rst 1s"} {
		s, err := ParseSchedule(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := soak(t, s); len(got.Findings) > 0 {
			t.Errorf("%s: %q", text, got.texts())
		}
	}
}

func hasty(dir string, o outbox.Options) (device.Outbox, error) { return virtual.OpenHasty(dir, o) }

// deaf opens an outbox that gives no sample to any link.
func deaf(dir string, o outbox.Options) (device.Outbox, error) {
	b, err := outbox.Open(dir, o)
	h := &hoard{Box: b}
	h.full.Store(true)
	return h, err
}

// deafLater makes the outbox deaf, after everything is healed and the queue has been empty.
func deafLater(w *soakWorld) {
	h := &hoard{}
	w.conf.id.OpenOutbox = func(dir string, o outbox.Options) (device.Outbox, error) {
		var err error
		h.Box, err = outbox.Open(dir, o)
		return h, err
	}
	w.later(6*time.Second, func() { h.full.Store(true) })
}

// forgetful opens an outbox that does not hear of acknowledgements.
func forgetful(dir string, o outbox.Options) (device.Outbox, error) {
	b, err := outbox.Open(dir, o)
	return forgetfulBox{b}, err
}

type forgetfulBox struct{ *outbox.Box }

func (forgetfulBox) Ack(...uint64) error { return nil }

func (w *soakWorld) hubAddress() string { return w.cloud.Info().Hubs[0].MQTT }

// killAll kills all hubs for good, after everything is healed.
func killAll(w *soakWorld) {
	w.later(3*time.Second, func() {
		for _, h := range w.cloud.Info().Hubs {
			w.try(w.cloud.FaultHub(h.Name, sim.Fault{Kind: sim.FaultKill}))
		}
	})
}

// dialOnce opens a connection that nobody closes.
func dialOnce(w *soakWorld, addr string) {
	w.later(3*time.Second, func() { _, _ = w.net.DialContext(context.Background(), "tcp", addr) })
}

// holdOne opens a connection of the device that nobody closes.
func holdOne(w *soakWorld) {
	w.later(3*time.Second, func() { _, _ = w.dial(context.Background(), w.life, "tcp", w.cloud.Info().DPS.MQTT) })
}

// openTwo opens two more sessions of the device with one hub.
func openTwo(w *soakWorld) {
	w.later(3*time.Second, func() {
		for range 2 {
			if c, err := w.dial(context.Background(), w.life, "tcp", w.hubAddress()); err == nil {
				c.(*soakConn).begin()
			}
		}
	})
}
