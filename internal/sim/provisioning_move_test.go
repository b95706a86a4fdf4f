package sim

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

func (w *world) substatus(id string) string {
	w.t.Helper()
	c := w.dpsConnect(id)
	defer c.close()
	_, body := w.registerAt(c, id, "")
	return body["registrationState"].(map[string]any)["substatus"].(string)
}

func TestDeviceFailsOverAndBack(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if got := refusal(w.Failover("d", 0)); got != "404 DeviceNotFound" {
			t.Error(got)
		}
		host := w.provision("d")
		c := w.connect(host, "d")
		must(t, w.PatchDesired("d", json.RawMessage(`{"fanSpeed":1}`)))
		must(t, w.Failover("d", 10*time.Minute))
		c.wantEnd()
		if got := refusal(w.Failover("d", 0)); got != "409 DeviceAlreadyFailedOver" {
			t.Error(got)
		}
		if d := w.device("d"); d.AssignedHub != "hub-b" || d.ConnectedHub != "" {
			t.Errorf("%+v", d)
		}
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 3 {
			t.Errorf("the old hub says CONNACK %d", code)
		}
		if other := w.provision("d"); other != "127.0.0.3" {
			t.Errorf("DPS says %s", other)
		}
		if s := w.substatus("d"); s != "deviceDataMigrated" {
			t.Error(s)
		}
		c = w.connect("hub-b", "d")
		c.subscribeAll()
		if _, body := c.ask("$iothub/twin/GET/?$rid=1", ""); body != `{"desired":{"$version":1,"fanSpeed":1},"reported":{"$version":1}}` {
			t.Errorf("the new twin is %s", body)
		}
		must(t, w.PatchDesired("d", json.RawMessage(`{"fanSpeed":2}`)))
		c.wantPublish()
		start := time.Now()
		_ = c.raw.SetReadDeadline(time.Now().Add(time.Hour))
		for stop := false; !stop; { // keep it alive until the return
			time.Sleep(30 * time.Second)
			_, err := c.tls.Write([]byte{0xc0, 0})
			if err == nil {
				_, err = c.read()
			}
			stop = err != nil
		}
		if d := time.Since(start); d < 9*time.Minute || d > 11*time.Minute {
			t.Errorf("returned after %v", d)
		}
		if d := w.device("d"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		if s := w.substatus("d"); s != "reprovisionedToInitialAssignment" {
			t.Error(s)
		}
		c = w.connect("hub-a", "d")
		c.subscribeAll()
		if _, body := c.ask("$iothub/twin/GET/?$rid=1", ""); body != `{"desired":{"$version":3,"fanSpeed":2},"reported":{"$version":1}}` {
			t.Errorf("the old twin is %s", body)
		}
		if _, _, code := w.tryHub(w.hubOptions("127.0.0.3", "d"), "127.0.0.3"); code != 3 {
			t.Errorf("hub-b says CONNACK %d", code)
		}
		must(t, w.Failback("d")) // it is there: nothing happens
		if d := w.device("d"); d.AssignedHub != "hub-a" || d.ConnectedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		must(t, w.Failover("d", time.Minute))
		must(t, w.Failback("d"))
		time.Sleep(2 * time.Minute) // the timer of the failover is gone with it
		if d := w.device("d"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		must(t, w.Failover("d", 0)) // 30 minutes
		time.Sleep(30*time.Minute - time.Second)
		if d := w.device("d"); d.AssignedHub != "hub-b" {
			t.Errorf("%+v", d)
		}
		time.Sleep(time.Second + time.Millisecond)
		if d := w.device("d"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
	})
}

// A device may stay connected to a hub that it was moved away from. When it is moved back it learns
// what changed on the other hub.
func TestConnectedDeviceLearnsWhatChangedElsewhere(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1,"b":{"c":1,"d":2},"e":[1]}`)))
		c.wantPublish()
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":null,"b":{"c":3,"d":null},"f":"new"}`))) // goes to hub-b
		if d := w.device("d"); d.AssignedHub != "hub-b" || d.ConnectedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		must(t, w.HealHub("hub-a"))
		must(t, w.Failback("d"))
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=3" || body != `{"$version":3,"a":null,"b":{"c":3,"d":null},"f":"new"}` {
			t.Errorf("%s %s", topic, body)
		}
		if _, body := c.ask("$iothub/twin/GET/?$rid=1", ""); body != `{"desired":{"$version":3,"b":{"c":3},"e":[1],"f":"new"},"reported":{"$version":1}}` {
			t.Errorf("%s", body)
		}
	})
}

func TestMoveDeletesTheOldIdentityIfAsked(t *testing.T) {
	inWorld(t, func(c *Config) { c.Move = provisioning.MoveDelete }, func(w *world) {
		host := w.provision("d")
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
		must(t, w.Failover("d", 0))
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 5 {
			t.Errorf("CONNACK %d", code)
		}
		must(t, w.Failback("d"))
		c := w.connect(host, "d")
		c.subscribeAll()
		if _, body := c.ask("$iothub/twin/GET/?$rid=1", ""); body != `{"desired":{"$version":1,"a":1},"reported":{"$version":1}}` {
			t.Errorf("a re-created twin starts at 1: %s", body)
		}
	})
}

func TestSingleHubHasNowhereToFailOverTo(t *testing.T) {
	inWorld(t, func(c *Config) { c.Hubs = 1 }, func(w *world) {
		host := w.provision("d")
		if got := refusal(w.Failover("d", 0)); got != "400 SingleHub" {
			t.Error(got)
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		if again := w.provision("d"); again != host {
			t.Errorf("DPS says %s", again)
		}
	})
}

// When a hub dies and DPS knows it, a device moves when it registers. Its desired properties move
// along, its old identity stays usable, and it stays on the new hub until a failback.
func TestDevicesMoveWhenDPSKnowsThatTheirHubIsDead(t *testing.T) {
	for _, kind := range []string{iothub.FaultKill, iothub.FaultBlackhole} {
		inWorld(t, nil, func(w *world) {
			host := w.provision("d")
			w.provision("other")
			must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
			must(t, w.FaultHub("hub-a", iothub.Fault{Kind: kind, DPSLagSeconds: 20}))
			if d := w.device("d"); d.AssignedHub != "hub-a" {
				t.Errorf("%s: DPS knows too early: %+v", kind, d)
			}
			if again := w.provision("d"); again != host {
				t.Errorf("%s: DPS says %s", kind, again)
			}
			time.Sleep(20 * time.Second)
			if d := w.device("d"); d.AssignedHub != "hub-b" {
				t.Errorf("%s: %+v", kind, d)
			}
			twin, err := w.Twin("d")
			if err != nil || fmt.Sprint(twin.Desired) != "map[$version:2 a:1]" { // not there yet: what will travel
				t.Errorf("%v %v", twin, err)
			}
			if again := w.provision("d"); again != "127.0.0.3" {
				t.Errorf("%s: DPS says %s", kind, again)
			}
			w.connect("hub-b", "d")
			must(t, w.HealHub("hub-a"))
			if d := w.device("d"); d.AssignedHub != "hub-b" || d.ConnectedHub != "hub-b" {
				t.Errorf("%s: %+v", kind, d)
			}
			if d := w.device("other"); d.AssignedHub != "hub-a" { // had not asked
				t.Errorf("%s: %+v", kind, d)
			}
			if again := w.provision("d"); again != "127.0.0.3" {
				t.Errorf("%s: DPS says %s after the heal", kind, again)
			}
			if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 0 {
				t.Errorf("%s: the old identity answers CONNACK %d", kind, code)
			}
			must(t, w.Failback("d"))
			if again := w.provision("d"); again != host {
				t.Errorf("%s: DPS says %s after failback", kind, again)
			}
			if _, _, code := w.tryHub(w.hubOptions("127.0.0.3", "d"), "127.0.0.3"); code != 3 {
				t.Errorf("%s: hub-b answers CONNACK %d", kind, code)
			}
		})
	}
}

func TestDevicesStayWhenDPSDoesNotKnowOfTheFault(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		no, yes := false, true
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, DPSKnows: &no}))
		if again := w.provision("d"); again != host {
			t.Errorf("DPS says %s", again)
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DPSKnows: &yes}))
		if again := w.provision("d"); again == host {
			t.Errorf("DPS says %s", again)
		}
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 3 { // a live hub: the identity could be disabled
			t.Errorf("CONNACK %d", code)
		}
		must(t, w.FaultHub("hub-b", iothub.Fault{Kind: iothub.FaultConnack5})) // all hubs are bad: DPS keeps what it has
		if again := w.provision("d"); again != "127.0.0.3" {
			t.Errorf("DPS says %s", again)
		}
		if got := refusal(w.Failback("d")); got != "409 NoHealthyHub" {
			t.Error(got)
		}
		if got := refusal(w.Failover("d", 0)); got != "409 NoHealthyHub" {
			t.Error(got)
		}
		must(t, w.HealHub("hub-a"))
		must(t, w.Failback("d"))
	})
}

// A message or a desired property for a device whose hub is dead goes to the hub where DPS would
// send the device, and is there when the device comes.
func TestOrdersFollowTheAssignment(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provision("d")
		_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage("1")})
		must(t, err)
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
		_, err = w.SendC2D("d", iothub.C2D{Body: json.RawMessage("2")})
		must(t, err)
		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		if _, body := c.wantPublish(); host != "127.0.0.3" || body != "2" {
			t.Errorf("%s from %s", body, host)
		}
		if _, body := c.ask("$iothub/twin/GET/?$rid=1", ""); !strings.Contains(body, `"desired":{"$version":2,"a":1}`) {
			t.Errorf("%s", body)
		}
		all, err := w.C2DMessages("d")
		if err != nil || fmt.Sprint(all) != fmt.Sprintf("[{%s hub-a enqueued 0 } {%s hub-b completed 1 }]", all[0].Mid, all[1].Mid) {
			t.Errorf("%v %v", all, err)
		}
	})
}

func TestBlockedDisabledAndDeletedDevicesAreRefused(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		refused := func(want byte) {
			t.Helper()
			if c, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != want {
				t.Errorf("CONNACK %d, want %d", code, want)
			} else {
				c.close()
			}
		}
		c := w.connect(host, "d")
		must(t, w.Block("d"))
		c.wantEnd()
		refused(3)
		if d := w.device("d"); !d.Blocked || !d.Enabled {
			t.Errorf("%+v", d)
		}
		must(t, w.Disable("d"))
		must(t, w.Unblock("d"))
		refused(3)
		must(t, w.Enable("d"))
		refused(0)
		c = w.connect(host, "d")
		must(t, w.Disconnect("d"))
		c.wantEnd()
		if got := refusal(w.Disconnect("d")); got != "404 DeviceNotOnline" {
			t.Error(got)
		}
		c = w.connect(host, "d")
		must(t, w.Delete("d"))
		c.wantEnd()
		refused(5)
		if got := refusal(w.Delete("d")); got != "404 DeviceNotFound" {
			t.Error(got)
		}
		if got := refusal(w.PatchDesired("d", json.RawMessage("{}"))); got != "404 DeviceNotFound" {
			t.Error(got)
		}
		if _, err := w.C2DMessages("d"); refusal(err) != "404 DeviceNotFound" {
			t.Error(err)
		}
		if again := w.provision("d"); again != host {
			t.Errorf("re-created at %s", again)
		}
		refused(0)
		// blocked while failed over: unblocking opens the present hub only
		must(t, w.Failover("d", 0))
		must(t, w.Block("d"))
		must(t, w.Unblock("d"))
		refused(3)
		w.connect("hub-b", "d")
	})
}
