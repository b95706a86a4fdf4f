package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// The test makes every request of the contract, with its fields, answers and refusals.
func TestEveryRequestOfTheControlAPI(t *testing.T) {
	inWorld(t, deafToFaults, func(w *world) {
		h := w.httpClient()
		defer h.CloseIdleConnections()
		base := w.info.Control
		if base != "http://127.0.0.1:8090" {
			t.Errorf("control is %s", base)
		}
		do := func(method, path, body string, header ...string) httpAnswer {
			t.Helper()
			return w.mustDo(h, method, base+path, body, header...)
		}
		want := func(status int, method, path, body string, header ...string) httpAnswer {
			t.Helper()
			a := do(method, path, body, header...)
			if a.status != status {
				t.Errorf("%s %s %s: %d %s", method, path, body, a.status, a.text)
			}
			if sentence, _ := a.body["error"].(string); status >= 400 && sentence == "" {
				t.Errorf("%s %s %s: no sentence in %s", method, path, body, a.text)
			}
			return a
		}
		if a := want(200, "GET", "/api/state", ""); strings.TrimSpace(a.text) != `{"dps":{"fault":null},"hubs":[{"name":"hub-a","host":"127.0.0.2","fault":null,"connections":0},{"name":"hub-b","host":"127.0.0.3","fault":null,"connections":0}],"devices":[],"totals":{"connects":0,"registrations":0,"polls":0,"messages":0}}` {
			t.Errorf("%s", a.text)
		}
		if a := want(200, "GET", "/api/ledger?device=nobody", ""); strings.TrimSpace(a.text) != `{"received":0,"distinct":0,"duplicates":0,"reordered":0,"missing":0,"hubs":{},"firstAt":null,"lastAt":null,"maxGapMs":0,"known":false}` {
			t.Errorf("%s", a.text)
		}
		want(400, "GET", "/api/ledger?device=d&messages=yes", "")
		for _, action := range []string{"failover", "failback", "disable", "enable", "block", "unblock", "approve", "delete", "disconnect", "methods/echo", "c2d"} {
			want(404, "POST", "/api/devices/d/"+action, "")
		}
		want(404, "PATCH", "/api/devices/d/desired", "{}")
		want(404, "GET", "/api/devices/d/twin", "")
		want(404, "GET", "/api/devices/d/c2d", "")

		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		c.telemetry("%24.mid=m1&a", `[1]`, 3)
		a := want(200, "GET", "/api/ledger?device=d&messages=1", "")
		m := a.body["messages"].([]any)[0].(map[string]any)
		p := m["properties"].(map[string]any)
		if m["mid"] != "m1" || m["hub"] != "hub-a" || fmt.Sprint(m["body"]) != "[1]" || p["$.mid"] != "m1" || p["a"] != nil || len(p) != 7 || p["iothub-connection-auth-method"] != `{"acceptingIpFilterRule":null,"issuer":"iothub","scope":"device","type":"sas"}` {
			t.Errorf("%s", a.text)
		}
		if a := want(200, "GET", "/api/state", ""); !strings.Contains(a.text, `"devices":[{"id":"d","assignedHub":"hub-a","connectedHub":"hub-a","enabled":true,"blocked":false,"approved":true,"modelId":""}],"totals":{"connects":1,"registrations":1,"polls":1,"messages":1}`) {
			t.Errorf("%s", a.text)
		}
		if a := want(200, "GET", "/api/ledger?device=d&messages=1&after=1", ""); len(a.body["messages"].([]any)) != 0 || a.body["truncated"] != nil {
			t.Errorf("%s", a.text)
		}
		for _, after := range []string{"-1", "x", "1.5"} {
			want(400, "GET", "/api/ledger?device=d&messages=1&after="+after, "")
		}
		for query, known := range map[string]any{"?device=d": true, "?device=nobody": false, "": nil} { // all of them are no device
			if a := want(200, "GET", "/api/ledger"+query, ""); a.body["known"] != known {
				t.Errorf("%s: %s", query, a.text)
			}
		}
		want(204, "DELETE", "/api/ledger", "")
		if a := want(200, "GET", "/api/ledger?device=d", ""); a.body["received"] != 0.0 || a.body["known"] != true {
			t.Errorf("%s", a.text)
		}

		go func() {
			if topic, body := c.wantPublish(); topic != "$iothub/methods/POST/echo/?$rid=1" || body != `"hi"` {
				t.Errorf("%s %s", topic, body)
			}
			c.send(publishBytes("$iothub/methods/res/201/?$rid=1", `{"a":1}`, 0, 0))
		}()
		if a := want(200, "POST", "/api/devices/d/methods/echo", `"hi"`); strings.TrimSpace(a.text) != `{"status":201,"payload":{"a":1}}` {
			t.Errorf("%s", a.text)
		}
		start := time.Now()
		if a := want(504, "POST", "/api/devices/d/methods/echo?timeoutSeconds=2.5", ``); a.body["code"] != "GatewayTimeout" || time.Since(start) != 2500*time.Millisecond {
			t.Errorf("%s after %v", a.text, time.Since(start))
		}
		c.wantPublish()
		want(400, "POST", "/api/devices/d/methods/echo?timeoutSeconds=0", ``)
		want(400, "POST", "/api/devices/d/methods/echo", `{`)

		want(204, "PATCH", "/api/devices/d/desired", `{"a":1}`)
		c.wantPublish()
		want(400, "PATCH", "/api/devices/d/desired", `[]`)
		want(400, "PATCH", "/api/devices/d/desired", `{"$a":1}`)
		want(413, "PATCH", "/api/devices/d/desired", `{"a":"`+strings.Repeat("x", 2<<20)+`"}`)
		if a := want(200, "GET", "/api/devices/d/twin", ""); strings.TrimSpace(a.text) != `{"desired":{"$version":2,"a":1},"reported":{"$version":1}}` {
			t.Errorf("%s", a.text)
		}
		if a := want(200, "GET", "/api/devices/d/twin?metadata=1", ""); !strings.Contains(a.text, `"$metadata":{"$lastUpdated":"2000-01-01T`) {
			t.Errorf("%s", a.text)
		}

		a = want(200, "POST", "/api/devices/d/c2d", `{"body":"2000-01-01T00:00:00Z","properties":{"method-name":"setAlarm"},"ttlSeconds":60}`)
		if topic, body := c.wantPublish(); body != `"2000-01-01T00:00:00Z"` || !strings.Contains(topic, "%24.mid="+a.body["mid"].(string)) {
			t.Errorf("%s %s", topic, body)
		}
		c.send([]byte{0xc0, 0})
		c.want("d000")
		if b := want(200, "GET", "/api/devices/d/c2d", ""); strings.TrimSpace(b.text) != `{"messages":[{"mid":"`+a.body["mid"].(string)+`","hub":"hub-a","state":"completed","deliveryCount":1}]}` {
			t.Errorf("%s", b.text)
		}
		want(400, "POST", "/api/devices/d/c2d", `{"body":1,"priority":2}`)
		want(400, "POST", "/api/devices/d/c2d", `{"body":1} {}`)

		want(204, "POST", "/api/devices/d/disconnect", "{}")
		c.wantEnd()
		if a := want(404, "POST", "/api/devices/d/methods/echo", ""); a.body["code"] != "DeviceNotOnline" {
			t.Errorf("%s", a.text)
		}
		want(404, "POST", "/api/devices/d/disconnect", "")
		want(204, "POST", "/api/devices/d/failover", `{"seconds":90}`)
		want(409, "POST", "/api/devices/d/failover", "")
		want(400, "POST", "/api/devices/d/failover", `{"seconds":-1}`)
		want(400, "POST", "/api/devices/d/failover", `{"minutes":1}`)
		want(204, "POST", "/api/devices/d/failback", "")
		for _, action := range []string{"block", "unblock", "disable", "enable", "approve", "failback", "delete"} {
			want(400, "POST", "/api/devices/d/"+action, `{"x":1}`)
			want(204, "POST", "/api/devices/d/"+action, "")
		}
		w.provision("d")
		want(204, "POST", "/api/devices/d/disable", `{"dpsKnows":false}`)
		if again := w.provision("d"); again != host {
			t.Errorf("DPS says %s", again)
		}

		want(204, "POST", "/api/hubs/hub-a/fault", `{"kind":"kill","close":"fin","seconds":30,"dpsKnows":false,"dpsLagSeconds":1,"delayMs":5}`)
		if a := want(200, "GET", "/api/state", ""); !strings.Contains(a.text, `"fault":"kill"`) {
			t.Errorf("%s", a.text)
		}
		want(204, "DELETE", "/api/hubs/hub-a/fault", "")
		want(400, "POST", "/api/hubs/hub-a/fault", ``)
		want(400, "POST", "/api/hubs/hub-a/fault", `{"kind":"kill","colour":"red"}`)
		want(400, "POST", "/api/hubs/hub-a/fault", `{"kind":"syndrop"}`)
		want(400, "POST", "/api/hubs/hub-a/fault", `{"kind":7}`)
		want(404, "POST", "/api/hubs/hub-c/fault", `{"kind":"kill"}`)
		want(404, "DELETE", "/api/hubs/hub-c/fault", "")
		want(204, "POST", "/api/dps/fault", `{"kind":"throttle","retryAfter":7,"seconds":3,"delayMs":1}`)
		want(204, "DELETE", "/api/dps/fault", "")
		want(400, "POST", "/api/dps/fault", `{"kind":"kill"}`)
		want(400, "POST", "/api/dps/fault", `{"kind":"down","dpsKnows":true}`)
		want(404, "GET", "/api/nothing", "")
		want(404, "PUT", "/api/state", "")
		want(404, "GET", "/", "")

		// who may change things
		for _, header := range [][]string{{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Origin", "http://127.0.0.1:9999"}, {"Host", "evil.example"}, {"Host", "evil.example:8090"}} {
			want(403, "POST", "/api/devices/d/enable", "", header...)
			want(403, "DELETE", "/api/ledger", "", header...)
			want(403, "PATCH", "/api/devices/d/desired", "{}", header...)
			status := 200 // nobody can read it
			if header[0] == "Host" {
				status = 403
			}
			want(status, "GET", "/api/state", "", header...)
			want(status, "GET", "/api/ledger?messages=1", "", header...)
		}
		want(204, "POST", "/api/devices/d/enable", "", "Origin", "http://127.0.0.1:8090")
		want(204, "POST", "/api/devices/d/enable", "", "Host", "localhost:8090", "Origin", "http://localhost:8090")
		want(204, "POST", "/api/devices/d/enable", "", "Host", "[::1]:8090")
	})
}

func TestEventsAreStreamedInOrder(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		h := w.httpClient()
		r, err := http.NewRequestWithContext(w.t.Context(), "GET", w.info.Control+"/api/events", nil)
		must(t, err)
		res, err := h.Do(r)
		must(t, err)
		defer func() { _ = res.Body.Close() }()
		if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
			t.Error(ct)
		}
		lines := bufio.NewScanner(res.Body)
		next := func() (e iothub.Event) {
			t.Helper()
			for lines.Scan() {
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
					must(t, json.Unmarshal([]byte(data), &e))
					e.At = time.Time{}
					return e
				}
			}
			t.Fatal(lines.Err())
			return e
		}
		lines.Scan() // ": watching"
		host := w.provision("d")
		c := w.connect(host, "d")
		for i := range 5 {
			c.telemetry("", "x", uint16(i+1))
		}
		time.Sleep(2 * time.Second)
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		must(t, w.HealHub("hub-a"))
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSDown}))
		must(t, w.HealDPS())
		w.tryHub(connectOptions{id: "d"}, host)
		must(t, w.Failover("d", 0))
		operator := w.httpClient()
		defer operator.CloseIdleConnections()
		for _, what := range []string{"block", "unblock", "disable", "enable", "approve", "delete"} {
			w.mustDo(operator, "POST", w.info.Control+"/api/devices/d/"+what, "")
		}
		for _, want := range []iothub.Event{
			{Kind: iothub.EventRegister, Device: "d", Reason: "assigned"},
			{Kind: iothub.EventConnect, Hub: "hub-a", Device: "d"},
			{Kind: iothub.EventTelemetry, Hub: "hub-a", Count: 5},
			{Kind: iothub.EventDisconnect, Hub: "hub-a", Device: "d", Reason: "fault kill"},
			{Kind: iothub.EventFault, Hub: "hub-a", Reason: "kill"},
			{Kind: iothub.EventHeal, Hub: "hub-a", Reason: "kill"},
			{Kind: iothub.EventFault, Hub: "dps", Reason: "down"},
			{Kind: iothub.EventHeal, Hub: "dps", Reason: "down"},
			{Kind: iothub.EventRefuse, Hub: "hub-a", Device: "d", Reason: "CONNACK 3: malformed user name"},
			{Kind: iothub.EventMove, Hub: "hub-b", Device: "d"},
			{Kind: iothub.EventOperator, Device: "d", Reason: "block"},
			{Kind: iothub.EventOperator, Device: "d", Reason: "unblock"},
			{Kind: iothub.EventOperator, Device: "d", Reason: "disable"},
			{Kind: iothub.EventOperator, Device: "d", Reason: "enable"},
			{Kind: iothub.EventOperator, Device: "d", Reason: "approve"},
			{Kind: iothub.EventOperator, Device: "d", Reason: "delete"},
		} {
			if got := next(); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		events, cancel := w.Watch()
		cancel()
		if _, open := <-events; open {
			t.Error("a cancelled watch goes on")
		}
		cancel()
		events, _ = w.Watch()
		must(t, w.Close())
		if _, open := <-events; open {
			t.Error("the watch outlives the simulator")
		}
		for lines.Scan() { // the stream ends too
		}
		h.CloseIdleConnections()
	})
}

func TestCentralFailsOverAndBack(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		h := w.httpClient()
		defer h.CloseIdleConnections()
		url := w.info.Central.URL
		token := w.info.Central.APIToken
		if !strings.HasPrefix(token, "SharedAccessSignature sr="+w.info.Central.AppID+"&sig=") || url != "https://127.0.0.1:443" {
			t.Errorf("%+v", w.info.Central)
		}
		do := func(status int, method, path, body, auth string) httpAnswer {
			t.Helper()
			a := w.mustDo(h, method, url+path, body, "Authorization", auth)
			if a.status != status {
				t.Errorf("%s %s %s: %d %s", method, path, body, a.status, a.text)
			}
			if e, _ := a.body["error"].(map[string]any); status >= 400 && (e["code"] == "" || e["message"] == "" || e["code"] == nil) {
				t.Errorf("%s %s %s: %s", method, path, body, a.text)
			}
			return a
		}
		const over, back = "/system/iothub/devices/d/manual-failover", "/system/iothub/devices/d/manual-failback"
		do(401, "POST", over, "{}", "")
		do(401, "POST", over, "{}", token+"x")
		do(404, "POST", over, "{}", token)
		do(404, "GET", "/api/devices/d?api-version=1.0", "", token)
		do(404, "GET", "/api/nothing", "", token)
		do(400, "DELETE", "/api/devices/d", "", token)
		w.provision("d")
		if a := do(200, "GET", "/api/devices/d?api-version=2022-07-31", "", token); a.body["id"] != "d" || a.body["provisioned"] != true || a.body["enabled"] != true || a.body["displayName"] != "d" || a.body["simulated"] != false || a.body["etag"] == "" {
			t.Errorf("%s", a.text)
		}
		do(409, "POST", back, "", token)
		for _, bad := range []string{`{"ttl":0}`, `{"ttl":31}`, `{"ttl":-1}`, `{"ttl":1.5}`, `{"ttl":"5"}`, `[`} {
			do(400, "POST", over, bad, token)
		}
		x := do(200, "POST", over, `{"ttl":10,"other":1}`, token).body
		if id, _ := x["hubIdentifier"].(string); len(id) != 64 || x["message"] == "" {
			t.Errorf("%v", x)
		}
		do(409, "POST", over, `{}`, token)
		y := do(200, "POST", back, "", token).body
		if x["hubIdentifier"] == y["hubIdentifier"] {
			t.Error("failover and failback leave the same hub")
		}
		again := do(200, "POST", over, "{}", token).body
		if again["hubIdentifier"] != x["hubIdentifier"] || !strings.Contains(again["message"].(string), "at Sat, 01 Jan 2000 00:30:0") {
			t.Errorf("%v", again)
		}
		do(200, "POST", back, "{}", token)
		do(200, "POST", over, "", token)
	})
}
