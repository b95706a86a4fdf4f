package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// lineByLine is an input whose lines come one after the other, with a pause before each.
type lineByLine struct {
	lines  []string
	pause  time.Duration
	closed chan struct{}
}

func (l *lineByLine) Close() error {
	close(l.closed)
	return nil
}

func (l *lineByLine) Read(p []byte) (int, error) {
	if len(l.lines) == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(l.pause):
	case <-l.closed:
		return 0, io.ErrClosedPipe
	}
	n := copy(p, l.lines[0]+"\n")
	l.lines = l.lines[1:]
	return n, nil
}

// fed is a device with Once that reads an input.
func fed(input io.Reader, more func(*plan)) setup {
	return setup{device: func(c *plan) {
		c.Once, c.Source, c.Outbox.Full, c.Input = true, "stdin", outbox.Block, input
		if more != nil {
			more(c)
		}
	}}
}

// over waits until a device with Once has ended by itself.
func (w *world) over() error {
	err := <-w.ended
	w.dev = nil
	return err
}

// bodies returns the bodies that have arrived.
func (w *world) bodies() (all []string) {
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		all = append(all, string(m.Body))
	}
	return all
}

// TestOnceSendsItsInput, to its end, however long that takes; and the next run need not ask DPS.
func TestOnceSendsItsInput(t *testing.T) {
	for name, input := range map[string]io.Reader{
		"at once": strings.NewReader("{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n"),
		"slowly":  &lineByLine{lines: []string{`{"n":1}`, `{"n":2}`, `{"n":3}`}, pause: 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, fed(input, nil), func(t *testing.T, w *world) {
				if err := w.over(); err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(w.bodies()); got != `[{"n":1} {"n":2} {"n":3}]` {
					t.Errorf("%s arrived", got)
				}
				asked := w.cloud.State().Totals.Registrations
				w.config.Input = strings.NewReader(`{"n":4}`)
				w.start()
				if err := w.over(); err != nil {
					t.Fatal(err)
				}
				if n := w.cloud.State().Totals.Registrations; len(w.bodies()) != 4 || n != asked {
					t.Errorf("%d messages, %d more registrations", len(w.bodies()), n-asked)
				}
			})
		})
	}
}

// TestOnceReadsOnlyInputsThatEnd: of several sources a run with Once reads those that end, and each
// of them to its end.
func TestOnceReadsOnlyInputsThatEnd(t *testing.T) {
	more := func(c *plan) {
		c.also = func(a *App) {
			a.Sources = append(a.Sources,
				telemetry.Every(time.Second, func(time.Time) ([]byte, error) { return []byte(`{"n":0}`), nil }),
				telemetry.Lines(&lineByLine{lines: []string{`{"n":2}`, `{"n":3}`}, pause: time.Minute}))
		}
	}
	bubble(t, fed(strings.NewReader(`{"n":1}`), more), func(t *testing.T, w *world) {
		defer time.AfterFunc(time.Hour, w.stop).Stop() // a run that reads more never ends
		if err := w.over(); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(w.bodies()); got != `[{"n":1} {"n":2} {"n":3}]` {
			t.Errorf("%s arrived", got)
		}
	})
}

// TestShortRunKeepsItsHub looks at the state file of runs that are as short as can be: their one
// sample is acknowledged together with the session itself.
func TestShortRunKeepsItsHub(t *testing.T) {
	for _, once := range []bool{true, false} {
		for range 16 {
			bubble(t, fed(strings.NewReader(`{"n":1}`), func(c *plan) {
				c.Once, c.Reported, c.Desired, c.Methods, c.C2D = once, false, false, false, false
			}), func(t *testing.T, w *world) {
				if err := w.over(); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(filepath.Join(home.Dir(w.config.StateDir, "dev-1"), "state.json"))
				var s failover.State
				if err != nil || json.Unmarshal(b, &s) != nil || s.AssignedHub == "" {
					t.Errorf("once %v: %s %v", once, b, err)
				}
			})
		}
	}
}

// TestOnceFailsWhenItCannotSend: the error says why and how many samples wait, and comes after one
// minute without a link.
func TestOnceFailsWhenItCannotSend(t *testing.T) {
	for _, v := range []struct {
		name  string
		cause func(w *world) error
		is    error
		after time.Duration
	}{
		{"nobody there", func(w *world) error { return w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}) }, ErrUnreachable, time.Minute},
		{"disabled", func(w *world) error { return w.cloud.Disable("dev-1") }, ErrRefused, 0},
	} {
		t.Run(v.name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				w.run(5 * time.Second)
				w.halt()
				w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
				w.must(w.cloud.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
				w.must(v.cause(w))
				w.config.Once, w.config.Source, w.config.Outbox.Full = true, "stdin", outbox.Block
				w.config.Input = strings.NewReader("{\"n\":1}\n{\"n\":2}\n")
				began := time.Now()
				w.start()
				err := w.over()
				if !errors.Is(err, v.is) || !strings.HasSuffix(err.Error(), "; queued for the next start: 2") {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); v.after != 0 && took != v.after || took > time.Minute {
					t.Errorf("after %v", took)
				}
				if look, err := outbox.Inspect(home.OutboxDir(w.config.StateDir, "dev-1")); err != nil || look.Queued != 2 {
					t.Errorf("%+v %v", look, err)
				}
			})
		})
	}
}

// TestInterruptedOnce: a run that is interrupted while it waits for DPS, and has sent all of its
// input before it ends, has not failed: whoever started it must not send the input again. One that
// was interrupted in its input has.
func TestInterruptedOnce(t *testing.T) {
	for _, v := range []struct {
		name  string
		input io.Reader
		ok    bool
	}{
		{"all sent", strings.NewReader("{\"n\":1}\n{\"n\":2}\n"), true},
		{"more to come", &lineByLine{lines: []string{`{"n":1}`, `{"n":2}`, `{"n":3}`}, pause: 700 * time.Millisecond}, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			inBubble := func(*plan) {
				if l, ok := v.input.(*lineByLine); ok {
					l.closed = make(chan struct{})
				}
			}
			bubble(t, fed(v.input, inBubble), func(t *testing.T, w *world) {
				w.run(1500 * time.Millisecond) // DPS names a hub after 3 s
				w.stop()
				err := w.over()
				if n := len(w.bodies()); n != 2 {
					t.Errorf("%d samples arrived", n)
				}
				if (err == nil) != v.ok || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("the end: %v", err)
				}
			})
		})
	}
}

// TestOnceBearsAnOutageOfLessThanAMinute in the middle of its input, and gives up in a longer one.
func TestOnceBearsAnOutageOfLessThanAMinute(t *testing.T) {
	for _, v := range []struct {
		seconds float64
		is      error
	}{{45, nil}, {300, ErrUnreachable}} {
		input := &lineByLine{pause: time.Second}
		for i := range 90 {
			input.lines = append(input.lines, fmt.Sprintf(`{"n":%d}`, i))
		}
		bubble(t, fed(input, func(*plan) { input.closed = make(chan struct{}) }), func(t *testing.T, w *world) {
			w.on("hub-a", 30*time.Second)
			w.run(5 * time.Second)
			w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown, Seconds: v.seconds}))
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, Seconds: v.seconds, DPSKnows: no()}))
			began := time.Now()
			err := w.over()
			if !errors.Is(err, v.is) {
				t.Errorf("an outage of %v s: %v", v.seconds, err)
			}
			if n := len(w.bodies()); v.is == nil && n != 90 {
				t.Errorf("%d lines arrived", n)
			}
			if took := time.Since(began); v.is != nil && took != time.Minute {
				t.Errorf("it ended after %v", took)
			}
		})
	}
}

// TestOnceDoesNotHideBadInput: an input that is no sample was not sent, so the run must fail.
func TestOnceDoesNotHideBadInput(t *testing.T) {
	bubble(t, fed(strings.NewReader("{\"n\":1}\nnonsense\n"), nil), func(t *testing.T, w *world) {
		if err := w.over(); !errors.Is(err, ErrUnsent) || !strings.HasSuffix(err.Error(), "; no samples: 1") {
			t.Errorf("%v", err)
		}
	})
}

// TestStopSaysWhatItWaitsFor: the stop also does not wait for samples that cannot be sent.
func TestStopSaysWhatItWaitsFor(t *testing.T) {
	dead := func(w *world) {
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
	}
	for _, v := range []struct {
		name   string
		device func(*plan)
		before func(w *world)
		text   string
		took   time.Duration
	}{
		{"nothing waits", nil, func(*world) {}, "stopping", 0},
		{"a hub may come back", nil, func(w *world) { dead(w); w.run(3500 * time.Millisecond) },
			"stopping: 3 samples wait, sending them for at most 5s; Ctrl-C again to stop at once", 5 * time.Second},
		{"without telemetry", func(c *plan) { c.Telemetry = false }, func(w *world) { dead(w); w.run(time.Minute) }, "stopping", 0},
		{"it leaves", nil, func(w *world) { dead(w); w.run(3500 * time.Millisecond); w.stop = w.leave },
			"stopping: 3 samples wait for the next start", 0},
		{"no time for it", func(c *plan) { c.DrainTimeout = 0 }, func(w *world) { dead(w); w.run(3500 * time.Millisecond) },
			"stopping: 3 samples wait for the next start", 0},
	} {
		t.Run(v.name, func(t *testing.T) {
			bubble(t, setup{device: v.device}, func(t *testing.T, w *world) {
				w.run(5100 * time.Millisecond)
				v.before(w)
				began := time.Now()
				w.halt()
				if got := w.texts(journal.Stopping); len(got) != 1 || got[0] != v.text {
					t.Errorf("%q", got)
				}
				if took := time.Since(began); took < v.took || took > v.took+10*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				w.gives = false
				w.config.Telemetry = false // what is queued is not lost, but not at the cloud either
			})
		})
	}
}

// TestStopDoesNotWaitForHubThatIsNotTried: a refused device tries more and more rarely. If the next
// try is after the drain timeout, the device ends at once. If it is before, the device waits for it
// and its result.
func TestStopDoesNotWaitForHubThatIsNotTried(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		w.must(w.cloud.Disable("dev-1"))
		w.run(10 * time.Minute)
		for !w.dev.sleeping().After(time.Now().Add(2 * w.config.DrainTimeout)) {
			w.run(time.Second)
		}
		began := time.Now()
		w.halt()
		text := w.texts(journal.Stopping)
		if took := time.Since(began); took > 10*time.Millisecond || len(text) != 1 || !strings.Contains(text[0], " samples wait for the next start; no hub would be tried for another ") {
			t.Errorf("%q after %v", text, took)
		}
		w.config.Telemetry = false
	})
}

// TestStopGivesUpALinkThatWithholdsAPuback: a hub has withheld PUBACKs and lives on. A device that
// stops gives up this link as soon as they are overdue, and another link brings the samples. The
// hub gets at most the window twice. If there is no time for another link, or the hub withholds
// there too, the samples wait for the next start, after one more link at most.
func TestStopGivesUpALinkThatWithholdsAPuback(t *testing.T) {
	for name, v := range map[string]struct {
		drain   time.Duration
		faulty  time.Duration // that the hub withholds PUBACKs, a sample each second
		before  time.Duration // that passes between that and the stop
		always  bool          // the hub never acknowledges again
		waiting bool          // samples are left
		most    time.Duration // that the stop takes
	}{
		"just now":                  {5 * time.Second, time.Second, 0, false, false, 1500 * time.Millisecond},
		"half a minute ago":         {5 * time.Second, 3 * time.Second, 30 * time.Second, false, false, 0},
		"and again":                 {5 * time.Second, 3 * time.Second, 0, true, true, 5 * time.Second},
		"no time for another":       {2 * time.Second, time.Second, 0, false, true, 2 * time.Second},
		"a short time is enough":    {1500 * time.Millisecond, 3 * time.Second, 30 * time.Second, false, false, 0},
		"it does not wait for them": {0, 3 * time.Second, 30 * time.Second, false, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{device: func(c *plan) { c.DrainTimeout = v.drain }}, func(t *testing.T, w *world) {
				w.run(5500 * time.Millisecond)
				w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultDropPuback}))
				w.run(v.faulty)
				if !v.always {
					w.must(w.cloud.HealHub("hub-a"))
				}
				w.run(v.before)
				before, dev := w.cloud.Ledger("dev-1", false), w.dev
				w.forget()
				began := time.Now()
				w.halt()
				if took := time.Since(began); took > v.most+10*time.Millisecond {
					t.Errorf("the stop took %v", took)
				}
				after := w.cloud.Ledger("dev-1", false)
				if more := after.Duplicates - before.Duplicates; more > int64(v.faulty/time.Second) {
					t.Errorf("%d samples came twice, more than were in flight", more)
				}
				left := dev.box.Stats().Queued
				if left > 0 != v.waiting {
					t.Errorf("%d samples are left", left)
				}
				if n := w.count(journal.Connected); n > 1 {
					t.Errorf("%d more links", n)
				}
				w.config.Telemetry = !v.waiting // what is queued is not lost
			})
		})
	}
}
