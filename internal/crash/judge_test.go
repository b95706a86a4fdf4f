package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// ended is a trial whose device has ended: it was given n lines, all of them have left its outbox,
// and the simulator's ledger holds what arrived.
func ended(t *testing.T, n int) (r *trial, l *sim.Ledger) {
	t.Helper()
	l = &sim.Ledger{}
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(l) }))
	t.Cleanup(cloud.Close)
	dir := t.TempDir()
	yes, err := filepath.EvalSymlinks("/bin/true")
	if err != nil {
		t.Skip("this system has no /bin/true, which stands for a hubhop that agrees")
	}
	r = &trial{options: options{window: 4, least: 10, ledgerKeep: 1000, order: "fifo"}, out: &bytes.Buffer{}, began: time.Now(), dir: dir}
	r.sim.path, r.cloud.URL = yes, cloud.URL
	b, err := outbox.Open(r.outbox(), outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := b.Append(t.Context(), message.Message{Body: []byte("1")}); err != nil {
			t.Fatal(err)
		}
		if err := b.Ack(uint64(i + 1)); err != nil {
			t.Fatal(err)
		}
		l.Messages = append(l.Messages, sim.Message{Mid: fmt.Sprintf("%s-%d", b.ID(), i+1), Hub: "hub-a", Body: fmt.Appendf(nil, `{"life":0,"n":%d}`, i+1)})
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	l.Received, l.Distinct = int64(n), int64(n)
	r.feeder.n, r.feeder.lives = uint64(n), []drill.Life{{First: 1, Last: uint64(n)}}
	if err := os.WriteFile(r.path("device.log"), []byte("all is well\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, l
}

// said says whether a verdict objects, in the given words.
func said(v drill.Verdict, words string) bool {
	return v.Outcome == drill.Failed && slices.ContainsFunc(v.Texts(), func(s string) bool { return strings.Contains(s, words) })
}

// TestKillingFindsEveryFault judges a run of 20 samples, spoilt in each way that a killing can
// notice.
func TestKillingFindsEveryFault(t *testing.T) {
	for want, spoil := range map[string]func(k *killing, l *sim.Ledger){
		"": func(*killing, *sim.Ledger) {},
		"1 of 20 samples never arrived": func(_ *killing, l *sim.Ledger) {
			l.Messages, l.Received, l.Distinct = slices.Delete(l.Messages, 4, 5), 19, 19
		},
		"at less than 10 (-least) this proves too little": func(k *killing, _ *sim.Ledger) { k.rate = 9 },
		"the ledger counts 21 distinct":                   func(_ *killing, l *sim.Ledger) { l.Distinct = 21 },
		"the ledger counts 20 distinct, 1 repeated":       func(_ *killing, l *sim.Ledger) { l.Duplicates = 1 },
		"and 1 reordered messages":                        func(_ *killing, l *sim.Ledger) { l.Reordered = 1 },
		"hubhop outbox verify: ":                          func(k *killing, _ *sim.Ledger) { k.sim.path = "/bin/false" },
		"not the last line, 21 of life 0":                 func(k *killing, _ *sim.Ledger) { k.feeder.lives[0].Last = 21 },
		"but the outbox of the killed device ends with 20": func(k *killing, l *sim.Ledger) {
			next := l.Messages[19]
			next.Mid = strings.TrimSuffix(next.Mid, "20") + "21"
			l.Messages, l.Received, l.Distinct = append(l.Messages, next), 21, 21
		},
	} {
		r, l := ended(t, 20)
		k := newKilling(r)
		k.rate = 100
		spoil(k, l)
		if err := k.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.look()
		k.lookAtRest()
		v, err := k.judge(t.Context(), float64(k.rate))
		if err != nil || want == "" && v.Outcome != drill.Passed || want != "" && !said(v, want) {
			t.Errorf("want %q: %s %q, %v", want, v.Outcome, v.Texts(), err)
		}
	}
}

// TestKillingSeesWhatTheOutboxGivesUp sets a sample aside, and then takes the outbox away.
func TestKillingSeesWhatTheOutboxGivesUp(t *testing.T) {
	r, _ := ended(t, 20)
	k := newKilling(r)
	k.look()
	if k.book.Failed() {
		t.Fatal("an outbox that is well fails")
	}
	b, err := outbox.Open(r.outbox(), outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Append(t.Context(), message.Message{Body: []byte("1")}), b.Quarantine(21, errors.New("poison")), b.Close()); err != nil {
		t.Fatal(err)
	}
	k.look()
	if v := k.book.Found(); !said(v, "the outbox has given something up") {
		t.Error(v.Texts())
	}
	if err := os.RemoveAll(r.outbox()); err != nil {
		t.Fatal(err)
	}
	k.look()
	if v := k.book.Found(); !said(v, "looking at the outbox while it is at work") {
		t.Error(v.Texts())
	}
	if _, err := k.judge(t.Context(), 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("judged without an outbox: %v", err)
	}
}

// TestTruncatedLedgerBreaksARunOff: what was forgotten unread cannot be judged.
func TestTruncatedLedgerBreaksARunOff(t *testing.T) {
	for name, spoil := range map[string]func(l *sim.Ledger){
		"truncated":   func(l *sim.Ledger) { l.Truncated = true },
		"a wrong sum": func(l *sim.Ledger) { l.Received = 22 },
	} {
		r, l := ended(t, 20)
		spoil(l)
		if err := newKilling(r).read(t.Context()); err == nil || !strings.Contains(err.Error(), "the ledger has received") {
			t.Errorf("%s: %v", name, err)
		}
		if err := newChaos(r).read(t.Context()); err == nil {
			t.Errorf("%s: chaos does not notice", name)
		}
	}
}

// TestChaosFindsEveryFault judges a run of 20 lines, spoilt in each way that a chaos can notice.
func TestChaosFindsEveryFault(t *testing.T) {
	const sentence = "hubhop: the state directory cannot be read"
	for want, spoil := range map[string]func(c *chaos, l *sim.Ledger){
		"": func(c *chaos, _ *sim.Ledger) { c.refusedWell(burst{}, 2, sentence); c.bear(mostMemory) },
		"1 of 20 lines never arrived; the first is line 5": func(_ *chaos, l *sim.Ledger) { l.Messages, l.Received = slices.Delete(l.Messages, 4, 5), 19 },
		"1 of 20 samples never arrived":                    func(_ *chaos, l *sim.Ledger) { l.Messages, l.Received = slices.Delete(l.Messages, 4, 5), 19 },
		"no system call has failed":                        func(c *chaos, _ *sim.Ledger) { clear(c.injected) },
		"the device's log shows a panic": func(c *chaos, _ *sim.Ledger) {
			_ = os.WriteFile(c.path("device.log"), []byte("panic: oh\n\ngoroutine 1 [running]:\n"), 0o600)
		},
		"hubhop outbox verify: ":                func(c *chaos, _ *sim.Ledger) { c.sim.path = "/bin/false" },
		"the device had 81 MiB in memory":       func(c *chaos, _ *sim.Ledger) { c.bear(mostMemory + 1<<20) },
		"ended with exit code 3":                func(c *chaos, _ *sim.Ledger) { c.refusedWell(burst{}, 3, sentence) },
		"ended with exit code 0":                func(c *chaos, _ *sim.Ledger) { c.refusedWell(burst{}, 0, sentence) },
		`ended with exit code 1 and said ""`:    func(c *chaos, _ *sim.Ledger) { c.refusedWell(burst{}, 1, "") },
		`ended with exit code 2 and said "hub`:  func(c *chaos, _ *sim.Ledger) { c.refusedWell(burst{}, 2, sentence+"\npanic: x") },
		"neither fails nor leaves alone":        func(c *chaos, _ *sim.Ledger) { _ = c.known([]byte(" 10.0 0.1 1 1 io_uring_setup\n")) },
		"20 samples never arrived at any hub: ": func(_ *chaos, l *sim.Ledger) { l.Messages, l.Received = nil, 0 },
	} {
		r, l := ended(t, 20)
		c := newChaos(r)
		c.injected["openat"] = 3
		spoil(c, l)
		if err := c.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, err := c.judge(t.Context())
		if err != nil || want == "" && v.Outcome != drill.Passed || want != "" && !said(v, want) {
			t.Errorf("want %q: %s %q, %v", want, v.Outcome, v.Texts(), err)
		}
	}
}

// TestSilentDeviceIsToldWithTheEvent: the error names the event after which nothing came.
func TestSilentDeviceIsToldWithTheEvent(t *testing.T) {
	for i, want := range []string{"after the start has arrived", "after event 0 has arrived", "after event 1 has arrived"} {
		k := newKilling(&trial{options: options{recovery: time.Millisecond}})
		k.book.Event(0)
		if err := k.recover(t.Context(), eventBefore(i)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}
