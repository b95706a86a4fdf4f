package sim

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// Each reprovision policy is tried with both ways to leave a hub. After the group of a device
// changed the test looks where the device is sent, what becomes of its twin, and what its old hub
// answers.
func TestReprovisionPolicyDecidesHubAndTwin(t *testing.T) {
	const (
		whole   = `{"desired":{"$version":%d,"first":1,"later":2},"reported":{"$version":%d,"seen":3}}`
		initial = `{"desired":{"$version":%d,"first":1},"reported":{"$version":%d}}`
	)
	for _, c := range []struct {
		policy, move   string
		hub, substatus string
		twin, tags     string
		old            byte   // the old hub's CONNACK
		back, backTwin string // the same on the way back
	}{
		{provisioning.ReprovisionMigrate, provisioning.MoveDisable, "127.0.0.3", "deviceDataMigrated", fmt.Sprintf(whole, 1, 1), "map[room:7]", 3, "reprovisionedToInitialAssignment", fmt.Sprintf(whole, 2, 2)},
		{provisioning.ReprovisionMigrate, provisioning.MoveDelete, "127.0.0.3", "deviceDataMigrated", fmt.Sprintf(whole, 1, 1), "map[room:7]", 5, "reprovisionedToInitialAssignment", fmt.Sprintf(whole, 1, 1)},
		{provisioning.ReprovisionReset, provisioning.MoveDisable, "127.0.0.3", "deviceDataReset", fmt.Sprintf(initial, 1, 1), "map[room:1]", 3, "reprovisionedToInitialAssignment", fmt.Sprintf(initial, 3, 3)},
		{provisioning.ReprovisionReset, provisioning.MoveDelete, "127.0.0.3", "deviceDataReset", fmt.Sprintf(initial, 1, 1), "map[room:1]", 5, "reprovisionedToInitialAssignment", fmt.Sprintf(initial, 1, 1)},
		{provisioning.ReprovisionNever, provisioning.MoveDisable, "127.0.0.2", "initialAssignment", fmt.Sprintf(whole, 2, 2), "map[room:7]", 0, "initialAssignment", fmt.Sprintf(whole, 2, 2)},
		{provisioning.ReprovisionNever, provisioning.MoveDelete, "127.0.0.2", "initialAssignment", fmt.Sprintf(whole, 2, 2), "map[room:7]", 0, "initialAssignment", fmt.Sprintf(whole, 2, 2)},
	} {
		t.Run(c.policy+" "+c.move, func(t *testing.T) {
			inWorld(t, func(conf *Config) { conf.RetryAfter, conf.Move, conf.Reprovision = 0, c.move, c.policy }, func(w *world) {
				s := w.dpsService()
				group := func(hub string) {
					m := s.want(200, 0, "POST", "/enrollmentGroups/default/attestationmechanism", "")
					s.want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":`+m.text+`,"iotHubs":["`+hub+`"],"initialTwin":{"tags":{"room":1},"properties":{"desired":{"first":1}}}}`, "If-Match", "*")
				}
				group("hub-a")
				old := w.connect(w.provision("d"), "d")
				old.subscribeAll()
				must(t, w.PatchDesired("d", json.RawMessage(`{"later":2}`)))
				old.wantPublish()
				if topic, _ := old.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"seen":3}`); !strings.Contains(topic, "/204/") {
					t.Errorf("%s", topic)
				}
				w.service(0).want(200, "", "PATCH", "/twins/d", `{"tags":{"room":7}}`)

				group("hub-b")
				old.send([]byte{0xc0, 0})
				old.want("d000") // nothing happens before the device registers
				dps := w.dpsConnect("d")
				_, body := w.registerAt(dps, "d", "")
				state := body["registrationState"].(map[string]any)
				if state["assignedHub"] != c.hub || state["substatus"] != c.substatus {
					t.Errorf("%v", state)
				}
				if c.old != 0 {
					old.wantEnd()
				}
				if _, _, code := w.tryHub(w.hubOptions("127.0.0.2", "d"), "127.0.0.2"); code != c.old {
					t.Errorf("the old hub says CONNACK %d", code)
				}
				twin := func() string {
					client := w.connect(c.hub, "d")
					client.subscribeAll()
					_, text := client.ask("$iothub/twin/GET/?$rid=1", "")
					return text
				}
				if got := twin(); got != c.twin {
					t.Errorf("the twin is %s, want %s", got, c.twin)
				}
				here := w.hubs[0]
				if c.hub == "127.0.0.3" {
					here = w.hubs[1]
				}
				if tags := here.Identity("d").Content().Tags; fmt.Sprint(tags) != c.tags {
					t.Errorf("the tags are %v, want %s", tags, c.tags)
				}
				if c.policy != provisioning.ReprovisionReset {
					before := c.substatus
					if _, body = w.registerAt(dps, "d", ""); body["registrationState"].(map[string]any)["substatus"] != before {
						t.Errorf("registered once more: %v", body)
					}
				}
				group("hub-a")
				_, body = w.registerAt(dps, "d", "")
				state = body["registrationState"].(map[string]any)
				if state["assignedHub"] != "127.0.0.2" || state["substatus"] != c.back {
					t.Errorf("on the way back: %v", state)
				}
				c.hub = "127.0.0.2"
				if got := twin(); got != c.backTwin {
					t.Errorf("back again, the twin is %s, want %s", got, c.backTwin)
				}
			})
		})
	}
}

// If an enrollment is changed while a device is failed over, the enrollment decides at the next
// registration, and the failover is over.
func TestChangedEnrollmentEndsFailover(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter, c.Hubs = 0, 3 }, func(w *world) {
		w.provision("d")
		must(t, w.Failover("d", time.Minute))
		if hub := w.provision("d"); hub != "127.0.0.3" {
			t.Errorf("%s", hub)
		}
		w.dpsService().want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":{"type":"symmetricKey"},"iotHubs":["hub-c"]}`, "If-Match", "*")
		if hub := w.provision("d"); hub != "127.0.0.4" {
			t.Errorf("%s", hub)
		}
		time.Sleep(2 * time.Minute)
		if d := w.device("d"); d.AssignedHub != "hub-c" {
			t.Errorf("%+v", d)
		}
	})
}

// "Re-provision and reset" also resets a device that stays on its hub.
func TestResetPolicyResetsADeviceThatStays(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter, c.Reprovision = 0, provisioning.ReprovisionReset }, func(w *world) {
		host := w.provision("d")
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
		c := w.dpsConnect("d")
		_, body := w.registerAt(c, "d", "")
		state := body["registrationState"].(map[string]any)
		if state["assignedHub"] != host || state["substatus"] != "deviceDataReset" {
			t.Errorf("%v", state)
		}
		if twin, err := w.Twin("d"); err != nil || fmt.Sprint(twin.Desired) != "map[$version:3]" {
			t.Errorf("%v %v", twin, err)
		}
		// polled once more the same registration does nothing
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":2}`)))
		c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=x&operationId="+body["operationId"].(string), "", 0, 0))
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/200/") {
			t.Errorf("%s", topic)
		}
		if twin, _ := w.Twin("d"); fmt.Sprint(twin.Desired) != "map[$version:4 a:2]" {
			t.Errorf("%v", twin)
		}
	})
}

// The test tries both ways to leave a hub with both refusals of a disabled identity, with a key and
// with a certificate.
func TestLeftHubRefusesAsConfigured(t *testing.T) {
	for _, move := range []string{provisioning.MoveDisable, provisioning.MoveDelete} {
		for _, refusal := range []byte{3, 5} {
			inWorld(t, func(c *Config) { c.RetryAfter, c.Move, c.DisabledRefusal = 0, move, refusal }, func(w *world) {
				want := refusal
				if move == provisioning.MoveDelete {
					want = 5
				}
				w.provision("k")
				cert := w.deviceCert("x", nil)
				if _, body := w.registerX509("x", cert); body["status"] != "assigned" {
					t.Fatalf("%v", body)
				}
				must(t, w.Failover("k", 0))
				must(t, w.Failover("x", 0))
				if _, _, code := w.tryHub(w.hubOptions("127.0.0.2", "k"), "127.0.0.2"); code != want {
					t.Errorf("%s %d: a key gets CONNACK %d", move, refusal, code)
				}
				if code := w.hubX509("127.0.0.2", "x", cert); code != want {
					t.Errorf("%s %d: a certificate gets CONNACK %d", move, refusal, code)
				}
				if code := w.hubX509("127.0.0.3", "x", cert); code != 0 {
					t.Errorf("%s %d: the new hub says CONNACK %d", move, refusal, code)
				}
				w.connect("hub-b", "k")
			})
		}
	}
}
