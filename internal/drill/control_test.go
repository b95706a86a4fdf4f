package drill

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// bothClouds runs f with a simulator that has the device d1, connected: once in the same process,
// and once behind its control API.
func bothClouds(t *testing.T, f func(t *testing.T, c Cloud, s *sim.Sim)) {
	t.Helper()
	m := virtual.Model(t)
	for _, kind := range []string{"embedded", "control"} {
		dir := virtual.Dir(t)
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wire, s := virtual.Cloud(t, func(c *sim.Config) { c.RetryAfter = 0 })
				shared := device.Shared{
					Agent: "test", Roots: s.CAPool(), DialContext: wire.DialContext, Rand: rand.New(rand.NewPCG(1, 1)), Journal: new(journal.Journal),
					Config: device.Config{
						ProvisioningHost: s.Info().ProvisioningHost, ProvisioningTransport: dps.MQTT, MethodTimeout: 25 * time.Second, DrainTimeout: time.Second,
						Link: hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour}, Drain: telemetry.DrainOptions{Window: 64},
					},
				}
				id := device.Identity{DeviceID: "d1", IDScope: s.Info().IDScope, StateDir: dir, Key: base64.StdEncoding.EncodeToString(s.DeviceKey("d1"))}
				dev := device.New(&shared, id, sample.App(sample.Options{Model: m, Interval: time.Second, ReportedInterval: time.Minute}))
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- dev.Run(ctx) }()
				time.Sleep(5500 * time.Millisecond) // between two samples
				cloud := Embedded(s)
				if kind == "control" {
					client := http.Client{Transport: &http.Transport{DialContext: wire.DialContext, IdleConnTimeout: 30 * time.Second}}
					defer client.CloseIdleConnections()
					cloud = &Control{URL: s.Info().Control, Client: client}
				}
				f(t, cloud, s)
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestCloudsAreAlike asks for the same of a simulator in this process and of one behind its control
// API, and looks at what comes of it.
func TestCloudsAreAlike(t *testing.T) {
	bothClouds(t, func(t *testing.T, c Cloud, s *sim.Sim) {
		ctx := t.Context()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		state := func() sim.DeviceState {
			t.Helper()
			all, err := c.State(ctx)
			must(err)
			if len(all.Devices) != 1 || len(all.Hubs) != 2 {
				t.Fatalf("%+v", all)
			}
			return all.Devices[0]
		}
		if d := state(); d.ConnectedHub != "hub-a" {
			t.Errorf("connected: %+v", d)
		}

		l, err := c.Ledger(ctx, "d1", 0)
		must(err)
		if len(l.Messages) < 4 || l.Truncated || l.Received != int64(len(l.Messages)) || l.Messages[0].Mid == "" {
			t.Errorf("ledger: %+v", l)
		}
		behind, err := c.Ledger(ctx, "d1", 3)
		must(err)
		if len(behind.Messages) != len(l.Messages)-3 || behind.Messages[0].Mid != l.Messages[3].Mid || behind.Received != l.Received {
			t.Errorf("behind the first 3 are %d of %d", len(behind.Messages), len(l.Messages))
		}
		if all, err := c.Ledger(ctx, "d1", l.Received+5); err != nil || len(all.Messages) != 0 {
			t.Errorf("behind the end: %+v, %v", all, err)
		}

		r, err := c.Method(ctx, "d1", "echo", json.RawMessage(`{"a":[1]}`))
		must(err)
		if r.Status != 200 || string(r.Payload) != `{"a":[1]}` {
			t.Errorf("echo: %+v", r)
		}
		if r, err := c.Method(ctx, "d1", "setAlarm", nil); err != nil || r.Status != 400 {
			t.Errorf("a method without its payload: %+v, %v", r, err)
		}

		must(c.Desire(ctx, "d1", json.RawMessage(`{"fanSpeed":700}`)))
		mid, err := c.Send(ctx, "d1", sim.C2D{Body: json.RawMessage(`"07:30:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
		must(err)
		time.Sleep(time.Second)
		twin, err := c.Twin(ctx, "d1")
		must(err)
		if value, code := acknowledged(twin, "fanSpeed"); value != "700" || code != "200" {
			t.Errorf("fanSpeed %s, %s", value, code)
		}
		mail, err := c.Mail(ctx, "d1")
		must(err)
		if len(mail) != 1 || mail[0].Mid != mid || mail[0].State != sim.C2DCompleted {
			t.Errorf("mail: %+v, sent %s", mail, mid)
		}

		must(c.Failover(ctx, "d1", 20*time.Second))
		time.Sleep(5 * time.Second)
		if d := state(); d.ConnectedHub != "hub-b" {
			t.Errorf("after a failover: %+v", d)
		}
		must(c.Act(ctx, "d1", Failback))
		time.Sleep(5 * time.Second)
		if d := state(); d.ConnectedHub != "hub-a" {
			t.Errorf("after a failback: %+v", d)
		}

		must(c.FaultHub(ctx, "hub-a", sim.Fault{Kind: sim.FaultThrottle, DelayMs: 1}))
		must(c.FaultDPS(ctx, sim.DPSFault{Kind: sim.DPSThrottle}))
		if s := s.State(); s.Hubs[0].Fault != sim.FaultThrottle || s.DPS.Fault != sim.DPSThrottle {
			t.Errorf("faults: %+v", s)
		}
		must(Heal(ctx, c))
		if s := s.State(); s.Hubs[0].Fault != "" || s.DPS.Fault != "" {
			t.Errorf("healed: %+v", s)
		}
		must(c.FaultHub(ctx, "hub-b", sim.Fault{Kind: sim.FaultKill}))
		must(c.HealHub(ctx, "hub-b"))
		must(c.FaultDPS(ctx, sim.DPSFault{Kind: sim.DPSDown}))
		must(c.HealDPS(ctx))

		for _, v := range []struct {
			act  Act
			want func(d sim.DeviceState) bool
		}{
			{Disable, func(d sim.DeviceState) bool { return !d.Enabled }},
			{Enable, func(d sim.DeviceState) bool { return d.Enabled }},
			{DisableIdentity, func(d sim.DeviceState) bool { return !d.Enabled }},
			{Enable, func(d sim.DeviceState) bool { return d.Enabled }},
			{Block, func(d sim.DeviceState) bool { return d.Blocked }},
			{Unblock, func(d sim.DeviceState) bool { return !d.Blocked }},
		} {
			must(c.Act(ctx, "d1", v.act))
			if d := state(); !v.want(d) {
				t.Errorf("after %s: %+v", v.act, d)
			}
		}
		time.Sleep(2 * time.Minute) // it is back
		connects := s.State().Totals.Connects
		must(c.Act(ctx, "d1", Disconnect))
		time.Sleep(10 * time.Second)
		if n := s.State().Totals.Connects; n != connects+1 {
			t.Errorf("%d connects after a disconnect, %d before", n, connects)
		}
		must(c.Act(ctx, "d1", Delete))
		if d := s.State().Devices; len(d) > 0 && d[0].ConnectedHub != "" {
			t.Errorf("deleted: %+v", d)
		}
		time.Sleep(2 * time.Minute)
	})
}

// TestCloudsRefuseAlike: what the cloud refuses is an error with its sentence.
func TestCloudsRefuseAlike(t *testing.T) {
	bothClouds(t, func(t *testing.T, c Cloud, _ *sim.Sim) {
		ctx := t.Context()
		_, noMethod := c.Method(ctx, "nobody", "echo", nil)
		_, noTwin := c.Twin(ctx, "nobody")
		_, noSend := c.Send(ctx, "nobody", sim.C2D{Body: json.RawMessage("1")})
		_, noMail := c.Mail(ctx, "nobody")
		for _, v := range []struct {
			what string
			err  error
			says string
		}{
			{"fault a hub", c.FaultHub(ctx, "hub-z", sim.Fault{Kind: sim.FaultKill}), `no hub "hub-z"`},
			{"heal a hub", c.HealHub(ctx, "hub-z"), `no hub "hub-z"`},
			{"fault DPS", c.FaultDPS(ctx, sim.DPSFault{Kind: "melt"}), "melt"},
			{"failover", c.Failover(ctx, "nobody", 0), "nobody"},
			{"failback", c.Act(ctx, "nobody", Failback), "nobody"},
			{"method", noMethod, "nobody"},
			{"twin", noTwin, "nobody"},
			{"send", noSend, "nobody"},
			{"mail", noMail, "nobody"},
			{"desire", c.Desire(ctx, "nobody", json.RawMessage(`{}`)), "nobody"},
		} {
			if v.err == nil || !strings.Contains(v.err.Error(), v.says) || strings.Contains(v.err.Error(), `{"error"`) {
				t.Errorf("%s: %v", v.what, v.err)
			}
		}
	})
	if err := Embedded(nil).Act(t.Context(), "d1", "dance"); err == nil {
		t.Error("an unknown act is done")
	}
}

// TestControlSaysThatNobodyAnswers for a simulator that is gone, and for one that breaks off.
func TestControlSaysThatNobodyAnswers(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "{")
	}))
	defer broken.Close()
	for _, url := range []string{"http://127.0.0.1:1", broken.URL} {
		if _, err := (&Control{URL: url}).State(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("%s: %v", url, err)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if _, err := (&Control{URL: other.URL}).State(t.Context()); err == nil || !strings.Contains(err.Error(), "404 page not found") {
		t.Error(err)
	}
}
