package target

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// TestMain lets this test binary be the external program of a test: it waits until it is killed.
func TestMain(m *testing.M) {
	if code := os.Getenv("TEST_EXTERNAL"); code != "" {
		if code == "env" {
			fmt.Println(os.Getenv("SIM_DEVICE_ID"), os.Getenv("SIM_ID_SCOPE"))
			_, _ = io.Copy(io.Discard, os.Stdin)
			select {}
		}
		os.Exit(7)
	}
	os.Exit(m.Run())
}

// TestARunningSimulatorIsATarget: its faults, its ledger from now on, its events; and in the end
// its faults are healed, but not those that it had before.
func TestARunningSimulatorIsATarget(t *testing.T) {
	c := newCloud(t)
	const id = "guest"
	ok(t, "fault", c.FaultHub("hub-b", sim.Fault{Kind: sim.FaultSlow, DelayMs: 1}))
	control := &drill.Control{URL: c.Info().Control}
	target := &Simulator{Control: control, Who: insider(t), Site: c.site(id)}
	if target.Name() != control.URL {
		t.Errorf("its name is %s", target.Name())
	}
	ctx := within(t)
	first := opened(t, target)
	c.telemetry(id, "hub-a")
	first.Devices[0].Stop()
	ok(t, "close", first.Close())

	w, err := target.Open(t.Context(), drill.Plan{Dir: t.TempDir(), With: drill.Settings{Interval: "100ms"}})
	ok(t, "open", err)
	defer func() { ok(t, "close", w.Close()) }()
	if l, err := w.Cloud.Ledger(ctx, id, 0); err != nil || l.Received != 0 || len(l.Messages) != 0 {
		t.Errorf("messages of another drill are in the ledger: %d %v", l.Received, err)
	}
	w.Devices[0].Start()
	c.telemetry(id, "hub-a")
	ok(t, "kill", w.Cloud.FaultHub(ctx, "hub-a", sim.Fault{Kind: sim.FaultKill}))
	c.telemetry(id, "hub-b")
	l, err := w.Cloud.Ledger(ctx, id, 0)
	ok(t, "ledger", err)
	if l.Received == 0 || int64(len(l.Messages)) < l.Received {
		t.Errorf("%d of %d messages", len(l.Messages), l.Received)
	}
	w.Devices[0].Stop()
	ok(t, "close", w.Close())
	for _, h := range c.State().Hubs {
		if want := map[string]string{"hub-b": sim.FaultSlow}[h.Name]; string(h.Fault) != want {
			t.Errorf("%s has the fault %q, and had %q", h.Name, h.Fault, want)
		}
	}
	w.Close = func() error { return nil }
	if _, err := (&Simulator{Control: &drill.Control{URL: "http://127.0.0.1:1"}, Who: insider(t)}).Open(t.Context(), drill.Plan{}); err == nil ||
		!strings.Contains(err.Error(), "does hubhop sim run, and is http://127.0.0.1:1 its control address") {
		t.Errorf("%v", err)
	}
}

// TestCentralMovesADeviceAndBringsItBack: over the REST of an application. It can do nothing else,
// and says so.
func TestCentralMovesADeviceAndBringsItBack(t *testing.T) {
	c := newCloud(t)
	const id = "citizen"
	info := c.Info()
	app := &central.Application{Host: strings.TrimPrefix(info.Central.URL, "https://"), Token: info.Central.APIToken, Client: c.client}
	target := &Central{Mover: app, Host: app.Host, Who: insider(t), Site: c.site(id)}
	w := opened(t, target)
	ctx := within(t)
	c.telemetry(id, "hub-a")
	ok(t, "failover", w.Cloud.Failover(ctx, id, 0))
	c.telemetry(id, "hub-b")
	ok(t, "failback", w.Cloud.Act(ctx, id, drill.Failback))
	c.telemetry(id, "hub-a")
	ok(t, "failover", w.Cloud.Failover(ctx, id, 1))
	c.telemetry(id, "hub-b")
	look, speaks := w.Devices[0].Look()
	if !speaks || look.Made == 0 || look.Dir == "" {
		t.Errorf("the device says %+v", look)
	}
	w.Devices[0].Stop()
	ok(t, "close", w.Close())
	if s := c.State().Devices[0]; s.AssignedHub != "hub-a" {
		t.Errorf("the device was left on %s", s.AssignedHub)
	}
	for need, can := range map[drill.Need]bool{drill.NeedMoves: true, drill.NeedHubFaults: false, drill.NeedMethods: false, drill.NeedOperator: false} {
		if why := target.Lacks(need); (why == "") != can {
			t.Errorf("%s: %q", need, why)
		}
	}
	if err := w.Cloud.Failover(ctx, id, 2*central.MaxFailover); err == nil {
		t.Error("an hour is accepted")
	}
	target.Who = &Outer{}
	if _, err := target.Open(t.Context(), drill.Plan{}); err == nil || !strings.Contains(err.Error(), "IoT Central has none") {
		t.Errorf("an external program: %v", err)
	}
	hubs := plainHubs(t, c, id)
	hubs.Who = &Outer{}
	if _, err := hubs.Open(t.Context(), drill.Plan{}); err == nil || !strings.Contains(err.Error(), "Azure IoT Hub has none") {
		t.Errorf("an external program on plain hubs: %v", err)
	}
}

// TestAnExternalProgramIsToldWhereItsCloudIs: it is started, killed, started again and ended, and
// what ends by itself is said so.
func TestAnExternalProgramIsToldWhereItsCloudIs(t *testing.T) {
	self, err := os.Executable()
	ok(t, "executable", err)
	read, write := io.Pipe()
	who := &Outer{Args: []string{self}, Environ: append(os.Environ(), "TEST_EXTERNAL=env"), Output: write, Sequence: "seq"}
	w, err := (&Simulator{Who: who}).Open(t.Context(), drill.Plan{Dir: t.TempDir()})
	ok(t, "open", err)
	defer func() { ok(t, "close", w.Close()) }()
	program := w.Devices[0]
	line := make([]byte, 100)
	for _, end := range []func(){func() { program.Crash(true) }, program.Stop, func() {}} {
		program.Start()
		program.Start()
		n, err := read.Read(line)
		if got := string(line[:n]); err != nil || got != "drill-1 0ne00000SIM\n" {
			t.Fatalf("it says %q, %v", got, err)
		}
		end()
		if look, speaks := program.Look(); speaks || look.Err != nil {
			t.Errorf("%+v %v", look, speaks)
		}
	}
	mortal := &Outer{Args: []string{self}, Environ: append(os.Environ(), "TEST_EXTERNAL=7"), Output: io.Discard}
	p, err := mortal.party(drill.Plan{}, Site{Identity: deviceNamed("x")})
	ok(t, "party", err)
	p.Start()
	<-p.(*outer).run.ended
	if look, _ := p.Look(); look.Running || look.Err == nil || look.Err.Error() != "the program has ended by itself: exit status 7" {
		t.Errorf("%+v", look)
	}
	if _, err := (&Outer{Args: []string{"no-such-program"}}).party(drill.Plan{}, Site{Identity: deviceNamed("x")}); err == nil {
		t.Error("a program that is not there is accepted")
	}
}

func deviceNamed(id string) device.Identity { return device.Identity{DeviceID: id} }

// TestNumbersOfAnExternalProgram: they stand in a field of the body, or end the message id. A
// program that somebody else runs is judged from its first message on.
func TestNumbersOfAnExternalProgram(t *testing.T) {
	started := []string{"node"}
	for _, x := range []struct {
		name string
		o    Outer
		in   []string // message ids or bodies
		want []string // the seqs; "" for what is no sample
	}{
		{"a field", Outer{Sequence: "seq", Args: started}, []string{`{"seq":1}`, `{"seq":2,"t":3}`, `{"seq":"3"}`}, []string{"1", "2", "3"}},
		{"a deep field", Outer{Sequence: "data.n", Args: started}, []string{`{"data":{"n":5}}`}, []string{"5"}},
		{"no sample", Outer{Sequence: "seq", Args: started}, []string{`{}`, `7`, `{"seq":0}`, `{"seq":-1}`, `{"seq":1.5}`, `{"seq":{}}`, `not json`, `{"seq":null}`,
			`{"seq":99999999999999999999}`}, []string{"", "", "", "", "", "", "", "", ""}},
		{"an id", Outer{Args: started}, []string{"1", "m-2", "abc"}, []string{"1", "2", ""}},
		{"from the first on", Outer{Sequence: "seq"}, []string{`{"seq":41}`, `{"seq":43}`, `{"seq":42}`, `{"seq":40}`}, []string{"1", "3", "2", ""}},
	} {
		t.Run(x.name, func(t *testing.T) {
			arrival := x.o.arrival()
			for i, in := range x.in {
				m := sim.Message{Device: "d", Mid: in}
				if x.o.Sequence != "" {
					m.Mid, m.Body = "an-id-9", json.RawMessage(in)
				}
				box, seq, ok := outbox.SplitID(arrival(m).ID)
				got := ""
				if ok {
					got = fmt.Sprint(seq)
				}
				if got != x.want[i] || ok != (len(box) == 16) {
					t.Errorf("%s: %q of %q, not %q", in, got, box, x.want[i])
				}
			}
		})
	}
	arrival := (&Outer{Args: started}).arrival()
	if arrival(sim.Message{Mid: "a-1"}).ID == arrival(sim.Message{Mid: "b-1"}).ID {
		t.Error("two series of ids are one")
	}
}

// FuzzNumbers: no message of a program that nobody here has written ends the drill.
func FuzzNumbers(f *testing.F) {
	f.Add("m-1", `{"a":{"b":7}}`)
	f.Add("", `[[[[`)
	f.Add("18446744073709551616", `{"a":"x"}`)
	f.Fuzz(func(t *testing.T, mid, body string) {
		for _, o := range []*Outer{{}, {Sequence: "a"}, {Sequence: "a.b"}, {Sequence: "a", Args: []string{"x"}}} {
			a := o.arrival()(sim.Message{Mid: mid, Body: json.RawMessage(body)})
			if _, seq, ok := outbox.SplitID(a.ID); a.ID != "" && (!ok || seq == 0) {
				t.Errorf("%q and %q give the id %q", mid, body, a.ID)
			}
		}
	})
}
