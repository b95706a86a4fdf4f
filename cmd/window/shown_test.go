package window

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/status"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// world is a cloud and one device in virtual time, and what a server of its status sees.
type world struct {
	t      *testing.T
	net    *memnet.Net
	cloud  *sim.Sim
	shared device.Shared
	id     device.Identity
	sick   sickDisk
	start  func()
	*running
}

// running is the device while it runs.
type running struct {
	shown
	stop  context.CancelFunc
	ended chan error
}

// sickDisk is what an outbox tells of its disk beside the truth.
type sickDisk struct {
	*outbox.Box
	err   error
	reads atomic.Int64
}

func (s *sickDisk) Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error) {
	s.reads.Add(1)
	return s.Box.Read(into, limit, bytes, parts...)
}

func (s *sickDisk) Stats() outbox.Stats {
	stats := s.Box.Stats()
	if s.err != nil {
		stats.Degraded, stats.Err, stats.Quarantined, stats.Dropped, stats.Damaged = true, s.err, 3, 4, 5
	}
	return stats
}

// bubble runs f in virtual time, where a device makes a sample each second.
func bubble(t *testing.T, machine time.Duration, f func(w *world)) {
	t.Helper()
	m, dir := virtual.Model(t), virtual.Dir(t)
	synctest.Test(t, func(t *testing.T) {
		n, cloud := virtual.Cloud(t, nil)
		n.SetDelay(5 * time.Millisecond)
		w := &world{t: t, net: n, cloud: cloud}
		w.shared = device.Shared{Config: device.DefaultConfig(), Agent: "test", Roots: cloud.CAPool(), DialContext: n.DialContext, Rand: rand.New(rand.NewPCG(7, 7))}
		if machine != 0 {
			k := virtual.NewMachine(machine)
			w.shared.Clock = clock.Machine{Wall: k.Wall, Running: k.Running}
		}
		w.shared.Config.ProvisioningHost = cloud.Info().ProvisioningHost
		w.id = device.Identity{DeviceID: "dev-1", IDScope: cloud.Info().IDScope, Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey("dev-1")), StateDir: dir,
			OpenOutbox: func(dir string, o outbox.Options) (_ device.Outbox, err error) {
				w.sick.Box, err = outbox.Open(dir, o)
				return &w.sick, err
			}}
		w.start = func() {
			s := w.shared
			s.Journal = new(journal.Journal)
			o := sample.DefaultOptions()
			o.Interval, o.Model, o.Rand = time.Second, m, rand.New(rand.NewPCG(1, 1))
			ctx, stop := context.WithCancel(t.Context())
			w.running = &running{shown{device.New(&s, w.id, sample.App(o)), Options{Version: "v1", Credential: "group-key"}, nil}, stop, make(chan error, 1)}
			go func(r *running) { r.ended <- r.d.Run(ctx) }(w.running)
		}
		defer func() {
			w.stop()
			if err := <-w.ended; err != nil {
				t.Error(err)
			}
		}()
		w.start()
		f(w)
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// until lets virtual time pass until the status is as wanted, and returns it.
func (w *world) until(what string, within time.Duration, want func(v status.View) bool) status.View {
	w.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		v := w.View()
		if want(v) {
			return v
		}
		if time.Now().After(end) {
			w.t.Fatalf("not %s within %v: %s", what, within, said(v))
		}
	}
}

func said(v status.View) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// inState waits for a state.
func (w *world) inState(s status.State, within time.Duration) status.View {
	w.t.Helper()
	return w.until(string(s), within, func(v status.View) bool { return v.State == s })
}

func (w *world) check(v status.View, what string, ok bool) {
	w.t.Helper()
	if !ok {
		w.t.Errorf("%s: %s", what, said(v))
	}
}

// TestStatusTellsAnOutageAndItsEnd: a device starts, its hub dies, DPS does not know of it, then it
// does. Each field of the status is held to what the cloud knows.
func TestStatusTellsAnOutageAndItsEnd(t *testing.T) {
	bubble(t, 0, func(w *world) {
		began := time.Now()
		v := w.View()
		w.check(v, "before the first link", v.Device == "dev-1" && v.Version == "v1" && v.Transport == "mqtt" && v.State == status.Connecting &&
			v.Why == nil && v.NextTry == nil && v.LastFailover == nil && v.Flows != nil && v.Assets != nil && v.Credential.Kind == "group-key" && v.Credential.Expires == nil)
		v = w.inState(status.Connected, 10*time.Second)
		first := v.Hub
		w.check(v, "connected", first == "127.0.0.2" && v.Started.Equal(began) && time.Since(v.Since) < 20*time.Millisecond && v.NextTry == nil && v.Why == nil &&
			v.DPS.Registrations == 1 && v.DPS.LastAt != nil && v.DPS.LastAt.Before(v.Since) && v.Clock.Trusted)
		time.Sleep(2*time.Minute + 500*time.Millisecond)
		synctest.Wait()
		v = w.View()
		w.check(v, "after two minutes", v.Telemetry.Made >= 120 && v.Telemetry.Acknowledged == v.Telemetry.Made && v.Outbox.LastSeq == v.Telemetry.Made && v.Telemetry.Repeated == 0 &&
			v.Telemetry.PerSecond > 0.85 && v.Telemetry.PerSecond < 1.15 && v.Outbox.Queued == 0 && v.Outbox.OldestAgeSeconds == 0 &&
			v.Link.RTTMs > 9.9 && v.Link.RTTMs < 12 && v.Link.Window == 64 && v.Link.InFlight == 0)
		life := v.Credential.Expires.Sub(v.Since)
		w.check(v, "the token ends an hour after it was made", life > 59*time.Minute && life < 61*time.Minute)

		// The hub dies, and DPS stands by it.
		no := false
		died := time.Now()
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: &no}))
		seen := map[status.State]int{}
		for time.Since(died) < 40*time.Second {
			time.Sleep(25 * time.Millisecond)
			synctest.Wait()
			v = w.View()
			seen[v.State]++
			w.check(v, "without a link", v.Hub == "" && !v.State.Linked() && v.Why != nil && v.Since.Sub(died) < 10*time.Millisecond && v.Link == status.Link{})
			w.check(v, "the next try", v.NextTry == nil && v.State == status.Connecting || v.State == status.Waiting && !v.NextTry.Before(time.Now()))
			if _, found := status.Still(w.Beats(), time.Now()); found {
				t.Errorf("unhealthy in an outage: %+v", w.Beats())
			}
		}
		if seen[status.Waiting] == 0 || seen[status.Connecting] == 0 || len(seen) != 2 {
			t.Errorf("the states were %v", seen)
		}
		w.check(v, "why", v.Why.Rule == "H07" && v.Why.Signal == "connection refused" && v.Why.Action == "reprovision" && strings.Contains(v.Why.Evidence, "connection refused") &&
			strings.Contains(v.Why.Text, "127.0.0.2") && v.Why.Cause == "127.0.0.2: connection refused" && strings.Contains(v.Why.Hint, "DPS does not watch hubs") && v.Why.At.After(died))
		w.check(v, "the dead hub that DPS still names", v.DPS.StillNames == first && strings.Contains(v.Why.Hint, "mend "+first))
		w.check(v, "the backlog", v.Outbox.Queued == 40 && v.Outbox.Bytes > 0 && v.Outbox.OldestAgeSeconds > 38.9 && v.Outbox.OldestAgeSeconds < 40.1 && v.Telemetry.PerSecond < 0.01 && v.Failovers == 0)

		// DPS moves the device.
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		v = w.inState(status.Connected, 20*time.Second)
		w.check(v, "the failover", v.Hub == "127.0.0.3" && v.Failovers == 1 && v.LastFailover.From == first && v.LastFailover.To == v.Hub && v.LastFailover.Rule == "H07" &&
			v.LastFailover.At.Equal(v.Since) && v.Since.Sub(died).Milliseconds()-v.LastFailover.TookMs < 10 && v.Why.Rule == "H07" && v.DPS.Registrations > 2 && v.DPS.StillNames == "")
		v = w.until("free of its backlog", time.Minute, func(v status.View) bool { return v.Outbox.Queued == 0 })
		l := w.cloud.Ledger("dev-1", false)
		w.check(v, "what arrived", int64(v.Telemetry.Acknowledged) <= l.Received && v.Telemetry.Acknowledged == v.Telemetry.Made)
	})
}

// TestStatusTellsThatHubAndDPSAreAway: the hub dies, and a minute later DPS goes down, too.
// Whichever was tried last, both are named until DPS answers again. With a link nothing of it is
// left.
func TestStatusTellsThatHubAndDPSAreAway(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		no := false
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: &no}))
		time.Sleep(time.Minute)
		synctest.Wait()
		v := w.View()
		w.check(v, "only the hub is away", v.Why.Also == "" && v.DPS.StillNames != "")
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		v = w.until("told that DPS is away", 2*time.Minute, func(v status.View) bool { return strings.HasPrefix(v.Why.Cause, "DPS: ") })
		last := map[string]int{}
		for range 3000 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			v = w.View()
			last[v.Why.Cause]++
			why := v.Answers(time.Now()).Why
			for _, cause := range []string{"127.0.0.2: connection refused", "DPS: connection refused"} {
				if !strings.Contains(why, cause) {
					t.Fatalf("%q does not tell %q", why, cause)
				}
			}
		}
		if len(last) != 2 {
			t.Errorf("not both were tried last, at some time: %v", last)
		}
		w.must(w.cloud.HealDPS())
		v = w.until("told that the hub alone is away", 3*time.Minute, func(v status.View) bool { return v.Why.Also == "" })
		w.check(v, "the hub", strings.HasPrefix(v.Why.Cause, "127.0.0.2: ") && v.DPS.StillNames == "127.0.0.2")
		w.must(w.cloud.HealHub("hub-a"))
		v = w.inState(status.Connected, 5*time.Minute)
		w.check(v, "after it", v.Why != nil && v.Why.Also == "")
	})
}

// TestAnOutageIsNotReadFromTheDiskAgainAndAgain: the oldest sample is the same as long as none
// leaves the outbox. To find it in a long line takes a disk milliseconds, and some ask each second.
func TestAnOutageIsNotReadFromTheDiskAgainAndAgain(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		no := false
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: &no}))
		w.until("without a link", time.Minute, func(v status.View) bool { return v.Hub == "" && v.Outbox.Queued > 10 })
		before, age := w.sick.reads.Load(), w.View().Outbox.OldestAgeSeconds
		for range 600 {
			time.Sleep(time.Second)
			synctest.Wait()
			w.View()
		}
		if v := w.View(); v.Outbox.OldestAgeSeconds < age+599 {
			t.Errorf("%v s after ten minutes, and %v before them", v.Outbox.OldestAgeSeconds, age)
		}
		if n := w.sick.reads.Load() - before; n > 1 {
			t.Errorf("the outbox was read %d times", n)
		}
		w.must(w.cloud.HealHub("hub-a"))
		w.until("free of its backlog", 5*time.Minute, func(v status.View) bool { return v.Outbox.Queued == 0 && v.Outbox.OldestAgeSeconds == 0 })
	})
}

// TestStatusTellsOfALinkThatDPSHasNotConfirmed: DPS and the hub are away, and a known hub serves.
func TestStatusTellsOfALinkThatDPSHasNotConfirmed(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.until("on hub-b", 20*time.Second, func(v status.View) bool { return v.Hub == "127.0.0.3" })
		w.must(w.cloud.HealHub("hub-a"))
		time.Sleep(2 * time.Minute)
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
		w.must(w.cloud.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill}))
		v := w.inState(status.Provisional, time.Minute)
		w.check(v, "the known hub", v.Hub == "127.0.0.2" && v.Failovers == 2 && v.NextTry == nil && v.Why != nil && v.State.Linked())
		w.must(w.cloud.HealDPS())
		v = w.inState(status.Connected, 2*time.Minute)
		w.check(v, "confirmed", v.Hub == "127.0.0.2" && v.Failovers == 2)
	})
}

// TestStatusTellsARefusal: the operator blocks the device. It is refused, also between its tries,
// until he unblocks it; why is kept.
func TestStatusTellsARefusal(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		w.must(w.cloud.Block("dev-1"))
		v := w.inState(status.Refused, 20*time.Second)
		w.check(v, "why", v.Why.Rule == "D11" && v.Why.Hint != "" && v.Hub == "")
		waits := 0
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if v = w.View(); v.NextTry != nil {
				waits++
			}
			if still, found := status.Still(w.Beats(), time.Now()); found {
				t.Errorf("%s stands still", still.Loop)
			}
		}
		w.check(v, "it is refused, and the next try is told", waits > 100)
		w.must(w.cloud.Unblock("dev-1"))
		v = w.inState(status.Connected, 3*time.Minute)
		w.check(v, "why is kept", v.Why != nil && v.NextTry == nil)
	})
}

// TestStatusCountsCommands sends what succeeds and what fails on each way.
func TestStatusCountsCommands(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		time.Sleep(time.Second)
		call := func(name, payload string) {
			t.Helper()
			_, err := w.cloud.Method(w.t.Context(), "dev-1", name, json.RawMessage(payload))
			w.must(err)
		}
		call("echo", `"hello"`)
		call("echo", `1`)
		call("nobody", `1`)
		for _, name := range []string{"setAlarm", "nobody"} {
			_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: []byte(`"2026-11-30T10:00:00Z"`), Properties: map[string]string{"method-name": name}})
			w.must(err)
		}
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":1200,"nobody":1}`)))
		time.Sleep(time.Minute)
		w.must(w.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":null}`)))
		time.Sleep(time.Minute)
		v := w.View()
		w.check(v, "commands", v.Commands == status.Commands{Methods: 3, C2D: 2, Desired: 3, Failed: 3})
	})
}

// TestStatusCountsWhatIsSentAgain: a hub that goes silent has taken messages without a word. They
// are sent once more on the next link.
func TestStatusCountsWhatIsSentAgain(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		time.Sleep(30 * time.Second)
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultBlackhole}))
		v := w.until("waiting for acknowledgements", 5*time.Second, func(v status.View) bool { return v.Link.InFlight > 0 })
		w.check(v, "a link that is silent is a link", v.Hub != "" && v.Outbox.Queued > 0)
		v = w.until("on hub-b", 20*time.Second, func(v status.View) bool { return v.Hub == "127.0.0.3" && v.Outbox.Queued == 0 })
		w.check(v, "repeated", v.Telemetry.Repeated > 0 && v.Telemetry.Repeated <= 5 && v.Why.Rule == "H03")
	})
}

// TestStatusTellsWhatWaitsOverARestart: no hub answers, and the device is started again. The age of
// the oldest sample goes on. While the device stops, its state says so.
func TestStatusTellsWhatWaitsOverARestart(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		no := false
		for _, hub := range []string{"hub-a", "hub-b"} {
			w.must(w.cloud.FaultHub(hub, sim.Fault{Kind: sim.FaultKill, DPSKnows: &no}))
		}
		time.Sleep(time.Hour)
		w.stop()
		v := w.inState(status.Stopping, time.Second)
		w.check(v, "a device that stops is not ready", !v.State.Linked() && v.Outbox.Queued > 3500)
		w.must(<-w.ended)
		w.start()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		v = w.View()
		w.check(v, "the oldest sample", v.Outbox.OldestAgeSeconds > 3605 && v.Outbox.OldestAgeSeconds < 3620 && v.Telemetry.Made < 20 && v.Hub == "")
		for _, hub := range []string{"hub-a", "hub-b"} {
			w.must(w.cloud.HealHub(hub))
		}
		w.until("free of its backlog", 5*time.Minute, func(v status.View) bool { return v.Hub != "" && v.Outbox.Queued == 0 && v.Outbox.OldestAgeSeconds == 0 })
	})
}

// TestStatusTellsTroublesOfDiskAndClock shows a disk that does not work, and a system clock that is
// an hour behind.
func TestStatusTellsTroublesOfDiskAndClock(t *testing.T) {
	bubble(t, -time.Hour, func(w *world) {
		w.inState(status.Connected, 10*time.Minute)
		time.Sleep(5 * time.Minute)
		w.sick.err = errors.New("no space left on device")
		v := w.View()
		w.check(v, "the clock", !v.Clock.Trusted && v.Clock.OffsetMs > 3_590_000 && v.Clock.OffsetMs < 3_610_000)
		w.check(v, "the disk", v.Outbox.Degraded && v.Outbox.Text == "no space left on device" && v.Outbox.Quarantined == 3 && v.Outbox.Dropped == 9)
		a := v.Answers(time.Now())
		if !strings.Contains(a.Todo, "see to the disk: no space left on device") {
			t.Errorf("what can be done: %s", a.Todo)
		}
		w.sick.err = nil
	})
}

// TestEveryFieldHasItsName holds the JSON to the contract: the names in their order.
func TestEveryFieldHasItsName(t *testing.T) {
	full := status.View{Why: &status.Why{}, NextTry: new(time.Time), LastFailover: &status.Failover{}, DPS: status.DPS{LastAt: new(time.Time)},
		Credential: status.Credential{Expires: new(time.Time)}, Flows: []status.Flow{{ClientIDs: []string{""}}}, Assets: []status.Asset{{}}}
	got := names(reflect.ValueOf(full))
	want := strings.Fields(`version device state started hub since transport why.rule why.signal why.action why.text why.cause why.also why.hint why.evidence why.at nextTry failovers
		lastFailover.from lastFailover.to lastFailover.rule lastFailover.tookMs lastFailover.at outbox.queued outbox.bytes outbox.oldestAgeSeconds outbox.lastSeq
		outbox.dropped outbox.quarantined outbox.degraded outbox.text telemetry.made telemetry.acknowledged telemetry.repeated telemetry.perSecond commands.methods
		commands.c2d commands.desired commands.failed link.rttMs link.inFlight link.window dps.registrations dps.lastAt dps.stillNames clock.trusted clock.offsetMs credential.kind
		credential.expires flows.name flows.state flows.in flows.out flows.dropped flows.errors flows.inFlight flows.oldestAgeSeconds flows.gaps flows.fault flows.text flows.clientIds assets.name assets.state
		assets.text`)
	if !slices.Equal(got, want) {
		t.Errorf("the names are %q", got)
	}
	b, err := json.Marshal(status.View{Flows: []status.Flow{}, Assets: []status.Asset{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, empty := range []string{`"why":null`, `"nextTry":null`, `"lastFailover":null`, `"flows":[]`, `"assets":[]`, `"lastAt":null`, `"expires":null`} {
		if !strings.Contains(string(b), empty) {
			t.Errorf("%s is not in %s", empty, b)
		}
	}
}

// names lists the members of a JSON object, inner ones with a dot.
func names(v reflect.Value) (all []string) {
	for field, value := range v.Fields() {
		name := field.Tag.Get("json")
		for value.Kind() == reflect.Pointer || value.Kind() == reflect.Slice {
			if value.Kind() == reflect.Slice {
				value = value.Index(0)
			} else {
				value = value.Elem()
			}
		}
		if _, isTime := reflect.TypeAssert[time.Time](value); value.Kind() != reflect.Struct || isTime {
			all = append(all, name)
			continue
		}
		for _, inner := range names(value) {
			all = append(all, name+"."+inner)
		}
	}
	return all
}

// TestAnOutageIsHealthyAndNotReady asks a real server over a network in memory, each second of an
// hour without hubs and DPS.
func TestAnOutageIsHealthyAndNotReady(t *testing.T) {
	bubble(t, 0, func(w *world) {
		w.inState(status.Connected, 10*time.Second)
		l, err := w.net.Listen("tcp", "10.9.9.9:80")
		w.must(err)
		ctx, stop := context.WithCancel(w.t.Context())
		served := make(chan error, 1)
		server := &status.Server{Shown: w.shown, Events: status.NewEvents()}
		go func() { served <- server.Serve(ctx, l, status.OnMachine) }()
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return w.net.DialContext(ctx, "tcp", "10.9.9.9:80")
		}}}
		ask := func(path string, want int) {
			w.t.Helper()
			r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://localhost"+path, http.NoBody)
			w.must(err)
			a, err := client.Do(r)
			w.must(err)
			body, err := io.ReadAll(a.Body)
			w.must(err)
			_ = a.Body.Close()
			if a.StatusCode != want {
				w.t.Errorf("%s: %s %s", path, a.Status, body)
			}
		}
		ask("/healthz", http.StatusOK)
		ask("/readyz", http.StatusOK)
		for _, hub := range []string{"hub-a", "hub-b"} {
			w.must(w.cloud.FaultHub(hub, sim.Fault{Kind: sim.FaultBlackhole}))
		}
		w.must(w.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSBlackhole}))
		w.until("without a link", time.Minute, func(v status.View) bool { return v.Hub == "" })
		for range 3600 {
			time.Sleep(time.Second)
			ask("/healthz", http.StatusOK)
			ask("/readyz", http.StatusServiceUnavailable)
		}
		for _, hub := range []string{"hub-a", "hub-b"} {
			w.must(w.cloud.HealHub(hub))
		}
		w.must(w.cloud.HealDPS())
		w.inState(status.Connected, 5*time.Minute)
		ask("/healthz", http.StatusOK)
		ask("/readyz", http.StatusOK)
		client.CloseIdleConnections()
		stop()
		w.must(<-served)
	})
}
