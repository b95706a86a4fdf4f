package device

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// of returns the events of a kind.
func (w *world) of(kind journal.Kind) (all []journal.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}

// TestOutageIsTold: an outage is told after a minute and then more and more rarely, with the number
// of waiting samples and what can be done. DPS naming the dead hub is not told as a success. In the
// end the log says that the backlog is gone.
func TestOutageIsTold(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.TelemetryInterval = 10 * time.Second }}, func(t *testing.T, w *world) {
		w.run(15 * time.Second)
		w.forget()
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
		w.run(5 * time.Hour)
		var after []time.Duration
		for _, e := range w.of(journal.StillDown) {
			after = append(after, e.Outage)
		}
		m := time.Minute
		if want := []time.Duration{m, 2 * m, 4 * m, 8 * m, 16 * m, 32 * m, 64 * m, 124 * m, 184 * m, 244 * m}; !slices.Equal(after, want) {
			t.Errorf("told after %v, not %v", after, want)
		}
		first := w.of(journal.StillDown)[0]
		want := regexp.MustCompile("^still no link after 60 s: 6 samples wait, the outbox is less than 1 % full; " +
			`the last failure: 127\.0\.0\.2: connection refused; the device goes on trying, again in \d+(\.\d+)? m?s at the latest; ` +
			`mend 127\.0\.0\.2, or assign the device to another hub \(hubhop failover does so in IoT Central\): DPS does not watch hubs$`)
		if !want.MatchString(first.Text) || first.Wait <= 0 || first.Wait > 10*time.Second {
			t.Errorf("%s (%v)", first.Text, first.Wait)
		}
		if first.Queued != 6 || first.Person {
			t.Errorf("%+v", first)
		}
		if n := w.count(journal.Assigned); n != 0 || w.count(journal.AssignedAgain) == 0 {
			t.Errorf("%d assignments of a dead hub were told as such, %d as what they are", n, w.count(journal.AssignedAgain))
		}
		w.forget()
		w.must(w.cloud.HealHub("hub-a"))
		w.run(5 * time.Minute)
		gone := w.of(journal.BacklogSent)
		if len(gone) != 1 || gone[0].Queued < 5*360 || gone[0].Hub == "" ||
			!strings.HasPrefix(gone[0].Text, fmt.Sprintf("the backlog is gone: what had waited, %d samples, was sent in ", gone[0].Queued)) {
			t.Errorf("%+v", gone)
		}
		if w.count(journal.StillDown) != 0 || w.count(journal.Acknowledged) != 1 {
			t.Errorf("still down %d times, telemetry flows %d times", w.count(journal.StillDown), w.count(journal.Acknowledged))
		}
	})
}

// TestSmallBacklogIsTold: one that fits into the write of CONNECT is gone before the device knows
// that the link is up.
func TestSmallBacklogIsTold(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.TelemetryInterval = 5 * time.Second }}, func(t *testing.T, w *world) {
		w.run(12 * time.Second)
		for _, outage := range []time.Duration{20 * time.Second, 3 * time.Minute} {
			w.forget()
			w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: no()}))
			w.run(outage)
			w.must(w.cloud.HealHub("hub-a"))
			w.run(time.Minute)
			least := uint64(outage / (5 * time.Second))
			if gone := w.of(journal.BacklogSent); len(gone) != 1 || gone[0].Queued < least || gone[0].Queued > least+5 {
				t.Errorf("after an outage of %v: %+v, wanted one of %d samples", outage, gone, least)
			}
		}
	})
}

// TestFirstLinkThatDoesNotComeIsTold: a first link that does not come is told, at error if a person
// must act.
func TestFirstLinkThatDoesNotComeIsTold(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Key = "AAAA"; c.Telemetry = false }}, func(t *testing.T, w *world) {
		w.run(3 * time.Minute)
		all := w.of(journal.StillDown)
		if len(all) != 2 || !all[0].Person || !strings.Contains(all[0].Text, "still no link after 60 s; the last failure: DPS 401;") ||
			!strings.Contains(all[0].Text, "check --id-scope") {
			t.Errorf("%+v", all)
		}
		for _, e := range w.of(journal.Decision) {
			if e.Error != "" && !e.Person {
				t.Errorf("nobody is called for: %s", e.Text)
			}
		}
	})
}

// TestShortOutageTellsNoBacklog: a line for a few samples would be noise.
func TestShortOutageTellsNoBacklog(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.on("hub-b", 30*time.Second)
		w.run(10 * time.Second)
		if n := w.count(journal.BacklogSent) + w.count(journal.StillDown); n != 0 || w.count(journal.Acknowledged) != 2 {
			t.Errorf("%d lines, telemetry flows %d times", n, w.count(journal.Acknowledged))
		}
	})
}

// TestRenewalIsRoutine: a renewal each hour must not repeat the line that telemetry flows.
func TestRenewalIsRoutine(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(3 * time.Hour)
		all := w.of(journal.Acknowledged)
		if len(all) < 4 || all[0].Routine {
			t.Fatalf("%+v", all)
		}
		for _, e := range all[1:] {
			if !e.Routine {
				t.Errorf("%+v", e)
			}
		}
	})
}

// TestTrace: each packet has an event with its topic and message id, without secrets. The content
// is there only with TraceBodies.
func TestTrace(t *testing.T) {
	for _, bodies := range []bool{false, true} {
		bubble(t, setup{device: func(c *plan) { c.TracePackets, c.TraceBodies = true, bodies }}, func(t *testing.T, w *world) {
			w.run(10 * time.Second)
			w.must(w.cloud.PatchDesired("dev-1", []byte(`{"fanSpeed":4711}`)))
			w.run(time.Second)
			var all []string
			carried := false
			for _, e := range w.of(journal.Packet) {
				all = append(all, e.Text)
				carried = carried || strings.Contains(e.Body, "4711")
			}
			text := strings.Join(all, "\n")
			for _, want := range []string{"sent CONNECT\n", "received CONNACK 0\n", "sent SUBSCRIBE 1 devices/dev-1/messages/devicebound/# ", "received SUBACK 1\n",
				"sent PUBLISH $iothub/twin/GET/?$rid=1 (0 bytes)\n", "-1&", "received PUBACK 2\n",
				"received PUBLISH $iothub/twin/PATCH/properties/desired/?$version=2 ("} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
			if carried != bodies {
				t.Errorf("asked for bodies: %v, told: %v", bodies, carried)
			}
			if strings.Contains(text, "SharedAccess") || strings.Contains(text, "4711") {
				t.Error("a secret, or a body, is told")
			}
		})
	}
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(3 * time.Second)
		if n := w.count(journal.Packet); n != 0 {
			t.Errorf("%d packets are told, and nobody has asked for that", n)
		}
	})
}

// TestHubHasItsNameBesideItsAddress: the lines about a link have the hub's address and name.
func TestHubHasItsNameBesideItsAddress(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.run(10 * time.Second)
		up, lost := w.of(journal.Connected), w.of(journal.Lost)
		if len(up) != 2 || len(lost) != 1 || up[0].Peer != "hub-a.sim.local" || lost[0].Peer != "hub-a.sim.local" || up[1].Peer != "hub-b.sim.local" {
			t.Errorf("%+v %+v", up, lost)
		}
	})
}

// TestStartSaysWhatIsOff so that nobody looks for the cause elsewhere.
func TestStartSaysWhatIsOff(t *testing.T) {
	bubble(t, setup{device: func(c *plan) { c.Telemetry, c.C2D = false, false }}, func(t *testing.T, w *world) {
		w.run(time.Second)
		if got := w.texts(journal.Started); len(got) != 1 || !strings.HasSuffix(got[0], "; off: telemetry, c2d") {
			t.Errorf("%q", got)
		}
	})
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(5 * time.Second)
		if got := w.texts(journal.Started); len(got) != 1 || strings.Contains(got[0], "off:") {
			t.Errorf("%q", got)
		}
	})
}
