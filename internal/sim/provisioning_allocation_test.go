package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

func TestEnrollmentsAllocationPolicyChoosesTheHub(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.Hubs, c.RetryAfter, c.Allocation, c.HubWeights = 3, 0, provisioning.AllocateHashed, []int{3, 1}
	}, func(w *world) {
		before := map[string]string{}
		for i := range 40 {
			id := fmt.Sprintf("device-%d", i)
			before[id] = w.provision(id)
		}
		// a hub that goes away moves its own devices only
		w.dpsService().want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"hashed","iotHubs":["hub-a","hub-b"]}`, "If-Match", "*")
		moved := 0
		for id, was := range before {
			switch is := w.provision(id); {
			case is == was:
			case was != "127.0.0.4":
				t.Errorf("%s moved from %s to %s", id, was, is)
			default:
				moved++
			}
		}
		if moved == 0 || moved == len(before) {
			t.Errorf("%d of %d moved", moved, len(before))
		}
	})
	inWorld(t, func(c *Config) { c.Hubs, c.RetryAfter, c.Allocation = 3, 0, provisioning.AllocateGeoLatency }, func(w *world) {
		s := w.dpsService()
		s.want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"geoLatency","iotHubs":["hub-c.sim.local","hub-a"]}`, "If-Match", "*")
		if hub := w.provision("d"); hub != "127.0.0.4" {
			t.Errorf("%s", hub)
		}
		must(t, w.FaultHub("hub-c", iothub.Fault{Kind: iothub.FaultKill}))
		for _, id := range []string{"d", "e"} {
			if hub := w.provision(id); hub != "127.0.0.2" {
				t.Errorf("%s: %s", id, hub)
			}
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		if hub := w.provision("d"); hub != "127.0.0.2" { // hub-b is none of the group's
			t.Errorf("%s", hub)
		}
		must(t, w.HealHub("hub-a"))
		if got := refusal(w.Failover("d", 0)); got != "409 NoHealthyHub" {
			t.Error(got)
		}
	})
	for _, bad := range []func(*Config){
		func(c *Config) { c.Allocation = provisioning.AllocateCustom }, func(c *Config) { c.Webhook = "hub" }, func(c *Config) { c.HubWeights = []int{0} },
		func(c *Config) { c.HubWeights = []int{1, 1, 1} }, func(c *Config) { c.Reprovision = "x" }, func(c *Config) { c.MalformedDPS = "x" },
		func(c *Config) { c.DPSLimits.PollsPer10s = -1 },
	} {
		c := DefaultConfig()
		bad(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func TestHashedAllocationSpreadsAndIsStable(t *testing.T) {
	inWorld(t, func(c *Config) { c.Allocation = provisioning.AllocateHashed; c.Hubs = 3; c.RetryAfter = 0 }, func(w *world) {
		seen := map[string]string{}
		for i := range 12 {
			id := fmt.Sprintf("d%d", i)
			seen[w.provision(id)] = id
		}
		if len(seen) != 3 {
			t.Errorf("%v", seen)
		}
		for hub, id := range seen {
			if again := w.provision(id); again != hub {
				t.Errorf("%s went from %s to %s", id, hub, again)
			}
			must(t, w.Delete(id))
			if again := w.provision(id); again != hub {
				t.Errorf("%s came back at %s, not %s", id, again, hub)
			}
		}
	})
}

// hooks answers webhooks in place of a network.
type hooks func(r *http.Request, body map[string]any) (status int, answer string)

func (h hooks) RoundTrip(r *http.Request) (*http.Response, error) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, err
	}
	status, answer := h(r, body)
	if status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

func TestWebhookChoosesTheHub(t *testing.T) {
	var status int
	var answer string
	var asked map[string]any
	inWorld(t, func(c *Config) {
		c.RetryAfter, c.Allocation, c.Webhook = time.Second, provisioning.AllocateCustom, "https://hook.example/api/allocate?code=1"
		c.Hooks = hooks(func(r *http.Request, body map[string]any) (int, string) {
			if r.Method != "POST" || r.URL.String() != "https://hook.example/api/allocate?code=1" || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
			}
			asked = body
			return status, answer
		})
	}, func(w *world) {
		c := w.dpsConnect("d")
		register := func(payload string) map[string]any {
			_, body := w.registerAt(c, "d", payload)
			return body["registrationState"].(map[string]any)
		}
		for _, bad := range []struct {
			status int
			answer string
			code   float64
			text   string
		}{
			{401, "", 400209, "Custom allocation failed with status code: 401"},
			{400, "", 400207, "Custom allocation failed with status code: 400"},
			{302, "", 400207, "Custom allocation failed with status code: 302"},
			{200, "{}", 400208, ""},
			{200, `{"iotHubHostName":"elsewhere"}`, 400208, ""},
			{200, "<html>", 400207, ""},
			{200, `{"iotHubHostName":"127.0.0.3","initialTwin":{"tags":{"a.b":1}}}`, 400207, ""},
		} {
			status, answer = bad.status, bad.answer
			state := register("")
			if text, _ := state["errorMessage"].(string); state["status"] != "failed" || state["errorCode"] != bad.code || !strings.HasPrefix(text, bad.text) || state["assignedHub"] != nil {
				t.Errorf("%+v: %v", bad, state)
			}
		}
		if a := w.device("d"); a.AssignedHub != "" {
			t.Errorf("%+v", a)
		}

		status, answer = 200, `{"iotHubHostname":"127.0.0.3","initialTwin":{"tags":{"kind":"toaster"},"properties":{"desired":{"state":"ready"}}},"payload":{"hello":"device"}}`
		state := register(`,"payload":{"modelId":"dtmi:x;1"}`)
		if state["assignedHub"] != "127.0.0.3" || state["substatus"] != "initialAssignment" || fmt.Sprint(state["payload"]) != "map[hello:device]" {
			t.Errorf("%v", state)
		}
		if has := w.hubs[1].Identity("d").Content(); fmt.Sprint(has.Tags, has.Desired) != "map[kind:toaster] map[state:ready]" {
			t.Errorf("%v %v", has.Tags, has.Desired)
		}
		if got, want := string(azure.EncodeJSON(asked["deviceRuntimeContext"])), `{"payload":{"modelId":"dtmi:x;1"},"registrationId":"d","symmetricKey":{}}`; got != want {
			t.Errorf("asked with %s", got)
		}
		group, _ := asked["enrollmentGroup"].(map[string]any)
		if group["enrollmentGroupId"] != "default" || group["allocationPolicy"] != "custom" || asked["individualEnrollment"] != nil || fmt.Sprint(asked["linkedHubs"]) != "[127.0.0.2 127.0.0.3]" ||
			strings.Contains(string(azure.EncodeJSON(asked)), "primaryKey") {
			t.Errorf("asked with %s", azure.EncodeJSON(asked))
		}

		// the next time it says otherwise, and the twin migrates since it gives none
		must(t, w.PatchDesired("d", json.RawMessage(`{"more":1}`)))
		answer = `{"iotHubHostName":"127.0.0.2"}`
		if state = register(""); state["assignedHub"] != "127.0.0.2" || state["substatus"] != "deviceDataMigrated" || state["payload"] != nil {
			t.Errorf("%v", state)
		}
		runtime := asked["deviceRuntimeContext"].(map[string]any)
		if runtime["currentIotHubHostName"] != "127.0.0.3" || runtime["currentDeviceId"] != "d" {
			t.Errorf("%v", runtime)
		}
		if twin, _ := w.Twin("d"); fmt.Sprint(twin.Desired) != "map[$version:1 more:1 state:ready]" {
			t.Errorf("%v", twin)
		}
		// a twin it gives counts, whatever the policy
		answer = `{"iotHubHostName":"127.0.0.3","initialTwin":{"properties":{"desired":{"only":1}}}}`
		if state = register(""); state["substatus"] != "reprovisionedToInitialAssignment" {
			t.Errorf("%v", state)
		}
		if has := w.hubs[1].Identity("d").Content(); fmt.Sprint(has.Tags, has.Desired) != "map[] map[only:1]" {
			t.Errorf("%v %v", has.Tags, has.Desired)
		}
		// a failed registration leaves the device where it is
		status = 503
		if state = register(""); state["errorCode"] != 400207.0 || w.device("d").AssignedHub != "hub-b" {
			t.Errorf("%v %+v", state, w.device("d"))
		}
		w.connect("hub-b", "d")
		// a webhook can only name hubs its enrollment allows
		status, answer = 200, `{"iotHubHostName":"127.0.0.2"}`
		w.dpsService().want(200, 0, "PUT", "/enrollments/one", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+
			base64.StdEncoding.EncodeToString(w.key("one"))+`"}},"allocationPolicy":"custom","iotHubs":["hub-b"]}`)
		_, body := w.registerWith("one", w.info.IDScope, w.deviceToken("one"))
		if state := body["registrationState"].(map[string]any); state["errorCode"] != 400208.0 || asked["individualEnrollment"] == nil {
			t.Errorf("%v, asked with %s", state, azure.EncodeJSON(asked))
		}
		// IoT Central's failover comes before the webhook
		status, answer = 200, `{"iotHubHostName":"127.0.0.3"}`
		must(t, w.Failover("d", 0))
		if state = register(""); state["assignedHub"] != "127.0.0.2" {
			t.Errorf("%v", state)
		}
		// one that never answers gives up in the end
		must(t, w.Failback("d"))
		status = 0
		start := time.Now()
		if state = register(""); state["errorCode"] != 400207.0 || time.Since(start) < 30*time.Second {
			t.Errorf("%v after %v", state, time.Since(start))
		}
		// and does not hold up the end of the simulator
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
		c.wantPublish()
	})
}

// A DPS that lags behind names the old hub until it notices the fault, and so does the control API.
// If the hub is healed before that DPS never notices.
func TestDPSNamesTheOldHubUntilItNoticesAFault(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		w.provision("d")
		lag := iothub.Fault{Kind: iothub.FaultKill, DPSLagSeconds: 90}
		must(t, w.FaultHub("hub-a", lag))
		for _, step := range []struct {
			wait time.Duration
			hub  string
		}{{0, "127.0.0.2"}, {89 * time.Second, "127.0.0.2"}, {time.Second, "127.0.0.3"}, {time.Hour, "127.0.0.3"}} {
			time.Sleep(step.wait)
			if hub := w.provision("d"); hub != step.hub {
				t.Errorf("after another %v DPS says %s", step.wait, hub)
			}
		}
		must(t, w.HealHub("hub-a"))
		if hub := w.provision("d"); hub != "127.0.0.3" {
			t.Errorf("nothing calls it back, but DPS says %s", hub)
		}
		must(t, w.Failback("d"))
		must(t, w.FaultHub("hub-a", lag))
		time.Sleep(time.Minute)
		must(t, w.HealHub("hub-a"))
		time.Sleep(time.Minute)
		if hub := w.provision("d"); hub != "127.0.0.2" {
			t.Errorf("healed in time, but DPS says %s", hub)
		}
		unknown := false
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, DPSKnows: &unknown}))
		time.Sleep(time.Hour)
		if hub := w.provision("d"); hub != "127.0.0.2" {
			t.Errorf("DPS does not know, but says %s", hub)
		}
	})
}
