package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

func azFailover(z *az) {
	const over, back = "/system/iothub/devices/dev1/manual-failover", "/system/iothub/devices/dev1/manual-failback"
	c := z.realConnect("dev1")
	first := z.succeeds(z.application("POST", over, "{}"))
	if message, _ := first["message"].(string); !strings.HasPrefix(message, "Success! This device is now being failed over. You can check your device's status using 'iot central device registration-info' command. The device will revert to its original hub at ") ||
		!strings.HasSuffix(message, " GMT. You can choose to failback earlier using device-manual-failback command. Learn more: https://aka.ms/iotc-device-test") {
		z.t.Errorf("%s", message)
	}
	c.wantEnd()
	if d := z.device("dev1"); d.AssignedHub != "hub-b" {
		z.t.Errorf("%+v", d)
	}
	c = z.realConnect("dev1")
	if d := z.device("dev1"); d.ConnectedHub != "hub-b" {
		z.t.Errorf("%+v", d)
	}
	second := z.succeeds(z.application("POST", back, "empty"))
	if second["message"] != "Device has successfully failed back to its original hub" {
		z.t.Errorf("%v", second)
	}
	c.wantEnd()
	z.realConnect("dev1")
	third := z.succeeds(z.application("POST", over, `{"ttl": 10}`))
	x, y, again := fmt.Sprint(first["hubIdentifier"]), fmt.Sprint(second["hubIdentifier"]), fmt.Sprint(third["hubIdentifier"])
	if len(x) != 64 || x == y || x != again {
		z.t.Errorf("%s %s %s", x, y, again)
	}
	if d := z.device("dev1"); d.AssignedHub != "hub-b" {
		z.t.Errorf("%+v", d)
	}
}

func azFailoverRefused(z *az) {
	const over, back = "/system/iothub/devices/dev1/manual-failover", "/system/iothub/devices/dev1/manual-failback"
	z.fails(404, z.application("POST", over, "{}"))
	z.succeeds(z.application("PUT", "/api/devices/dev1"+ga, `{"displayName": "dev1", "simulated": false, "enabled": true}`))
	z.fails(409, z.application("POST", over, "{}")) // not provisioned
	z.enter("dev1")
	z.fails(400, z.application("POST", over, `{"ttl": 31}`))
	z.fails(409, z.application("POST", back, "empty"))
	z.fails(401, z.applicationWith("SharedAccessSignature sr=x&sig=y&skn=z&se=1", "POST", over, "{}"))
	z.fails(401, z.applicationWith("Bearer x", "POST", over, "{}"))
	z.fails(404, z.application("POST", "/system/iothub/devices/a/b/manual-failover", "{}")) // a slash is not encoded
	if d := z.device("dev1"); d.AssignedHub != "hub-a" {
		z.t.Errorf("%+v", d)
	}
	z.succeeds(z.application("POST", over, "{}"))
	z.fails(409, z.application("POST", over, "{}"))
	single := realWorld(z.t, func(c *Config) { c.Hubs, c.ConnectProxy = 1, "127.0.0.1:0" })
	single.enter("dev1")
	other := *z
	other.world = single
	if !z.byName {
		other.central = single.info.DPS.HTTPS
	}
	z.fails(400, other.application("POST", over, "{}"))
}

func azDevices(z *az) {
	for i := range 30 {
		z.enter(fmt.Sprintf("dev%02d", i))
	}
	must(z.t, z.Block("dev07"))
	shown := z.succeeds(z.application("GET", "/api/devices/dev07"+ga, "none"))
	if shown["id"] != "dev07" || shown["enabled"] != false || shown["provisioned"] != true || shown["etag"] == nil {
		z.t.Errorf("%v", shown)
	}
	z.fails(404, z.application("GET", "/api/devices/nobody"+ga, "none"))
	z.fails(400, z.application("GET", "/api/devices/dev07", "none"))
	list := func(target string) (ids []string, blocked int) {
		for pages := 0; target != ""; pages++ {
			if pages > 5 {
				z.t.Fatal("the list never ends")
			}
			page := z.succeeds(z.application("GET", target, "none"))
			value, ok := page["value"].([]any)
			if !ok {
				z.t.Fatalf("%v", page)
			}
			for _, one := range value {
				d := one.(map[string]any)
				ids = append(ids, d["id"].(string))
				if d["enabled"] == false {
					blocked++
				}
			}
			next, _ := page["nextLink"].(string)
			target = strings.TrimPrefix(next, "https://"+z.central)
			if next != "" && target == next {
				z.t.Fatalf("%s leads elsewhere", next)
			}
		}
		return ids, blocked
	}
	for _, version := range []string{preview, ga} { // device list, diagnostics registration-summary
		if ids, blocked := list("/api/devices" + version); len(ids) != 30 || blocked != 1 || ids[0] != "dev00" || ids[29] != "dev29" {
			z.t.Errorf("%d blocked of %v", blocked, ids)
		}
	}
	if ids, _ := list("/api/devices" + preview + "&%24filter=type+eq+%27GatewayDevice%27+or+type+eq+%27EdgeDevice%27"); len(ids) != 0 {
		z.t.Errorf("%v are edge devices", ids)
	}
}

func azDeviceLife(z *az) {
	made := z.succeeds(z.application("PUT", "/api/devices/dev1"+ga, `{"displayName": "Device 1", "simulated": false, "enabled": true, "template": "dtmi:Sample:Failover;1"}`))
	if made["displayName"] != "Device 1" || made["provisioned"] != false || made["template"] != "dtmi:Sample:Failover;1" {
		z.t.Errorf("%v", made)
	}
	z.fails(409, z.application("PUT", "/api/devices/dev1"+ga, `{"displayName": "again", "simulated": false, "enabled": true}`))
	c := z.realConnect("dev1")
	got := z.succeeds(z.application("GET", "/api/devices/dev1"+ga, "none"))
	got["enabled"] = false
	changed := z.succeeds(z.application("PATCH", "/api/devices/dev1"+ga, string(azure.EncodeJSON(got))))
	c.wantEnd()
	if changed["enabled"] != false || !z.device("dev1").Blocked {
		z.t.Errorf("%v", changed)
	}
	z.fails(412, z.application("PATCH", "/api/devices/dev1"+ga, string(azure.EncodeJSON(got)))) // with the etag of before
	if a := z.application("DELETE", "/api/devices/dev1"+ga, "empty"); a.status != 204 || a.judge().object()["result"] != "success" {
		z.t.Errorf("%+v", a)
	}
	z.fails(404, z.application("DELETE", "/api/devices/dev1"+ga, "empty"))
	if n := len(z.State().Devices); n != 0 {
		z.t.Errorf("%d devices", n)
	}
}

func azRegistrationInfo(z *az) {
	z.enter("dev1")
	device := z.succeeds(z.application("GET", "/api/devices/dev1"+ga, "none"))
	credentials := z.succeeds(z.application("GET", "/api/devices/dev1/credentials"+ga, "none"))
	key, err := base64.StdEncoding.DecodeString(credentials["symmetricKey"].(map[string]any)["primaryKey"].(string))
	must(z.t, err)
	if string(key) != string(z.key("dev1")) { // compute-device-key
		z.t.Errorf("the key is not the one derived from the group's")
	}
	if device["provisioned"] != true || credentials["idScope"] != z.info.IDScope {
		z.t.Errorf("%v %v", device, credentials)
	}
	scope := credentials["idScope"].(string)
	host := "global.azure-devices-provisioning.net" // hard-coded there: only the proxy leads to it
	if !z.byName {
		host = z.dps
	}
	lookup := func(key []byte) azAnswer {
		sr := url.QueryEscape(scope + "/registrations/dev1")
		se := time.Now().Add(6 * time.Hour).Unix()
		sig := base64.StdEncoding.EncodeToString(hmacSHA256(key, fmt.Sprintf("%s\n%d", sr, se)))
		token := fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d&skn=registration", sr, url.QueryEscape(sig), se)
		const body = `{"registrationId": "dev1"}`
		return z.send(host, "POST", "/"+scope+"/registrations/dev1?api-version=2019-03-31", []string{
			"User-Agent: python-requests/2.28.1", "Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive",
			"Content-Type: application/json", "Authorization: " + token, fmt.Sprintf("Content-Length: %d", len(body)),
		}, body)
	}
	var state map[string]any
	a := lookup(key)
	if must(z.t, json.Unmarshal([]byte(a.body), &state)); a.status != 200 || state["status"] != "assigned" {
		z.t.Errorf("%d %s", a.status, a.body)
	}
	if a := lookup([]byte("wrong")); a.status != 401 {
		z.t.Errorf("%d %s", a.status, a.body)
	}
	z.fails(404, z.application("GET", "/api/devices/nobody/credentials"+ga, "none"))
}

func azCentralTwin(z *az) {
	c := z.realConnect("dev1")
	c.subscribeAll()
	const path = "/api/devices/dev1/properties" + ga
	z.succeeds(z.application("GET", path, "none"))
	if updated := z.succeeds(z.application("PATCH", path, `{"fanSpeed": 1200}`)); updated["fanSpeed"] != 1200.0 {
		z.t.Errorf("%v", updated)
	}
	if topic, body := c.wantPublish(); body != `{"$version":2,"fanSpeed":1200}` {
		z.t.Errorf("%s %s", topic, body)
	}
	replaced := z.succeeds(z.application("PUT", path, `{"mode": "slow"}`))
	if _, body := c.wantPublish(); body != `{"$version":3,"fanSpeed":null,"mode":"slow"}` || replaced["fanSpeed"] != nil {
		z.t.Errorf("%s %v", body, replaced)
	}
	if twin, err := z.Twin("dev1"); err != nil || twin.Desired["mode"] != "slow" {
		z.t.Errorf("%v %v", twin, err)
	}
	z.fails(404, z.application("GET", "/api/devices/nobody/properties"+ga, "none"))
	z.fails(400, z.application("PATCH", path, `[1]`))
}

func azCommand(z *az) {
	z.succeeds(z.application("PUT", "/api/devices/dev1"+ga, `{"displayName": "dev1", "simulated": false, "enabled": true, "template": "dtmi:Sample:Failover;1"}`))
	c := z.realConnect("dev1")
	c.subscribeAll()
	for body, want := range map[string]string{`"hello"`: `"hello"`, `{"request": "hello"}`: `"hello"`} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			topic, got := c.wantPublish()
			if got != want {
				z.t.Errorf("the device got %s", got)
			}
			c.send(publishBytes(strings.Replace(topic, "POST/echo", "res/200", 1), got, 0, 0))
		}()
		j := z.application("POST", "/api/devices/dev1/commands/echo"+ga, body).judgeCommand()
		<-done
		if j.exit != 0 || j.object()["response"] != "hello" || j.object()["responseCode"] != 200.0 {
			z.t.Errorf("%+v", j)
		}
	}
	history := z.succeeds(z.application("GET", "/api/devices/dev1/commands/echo"+ga, "none"))
	if value, _ := history["value"].([]any); len(value) != 2 {
		z.t.Errorf("%v", history)
	}
	c.close()
	z.waitOffline("dev1")
	z.fails(404, z.application("POST", "/api/devices/dev1/commands/echo"+ga, `{}`))
	if j := z.application("POST", "/api/devices/dev1/commands/setAlarm"+ga, `{"request": "12:00"}`).judgeCommand(); j.exit != 0 || j.object()["id"] == nil {
		z.t.Errorf("%+v", j)
	}
	if m, err := z.C2DMessages("dev1"); err != nil || len(m) != 1 || m[0].State != iothub.C2DEnqueued {
		z.t.Errorf("%+v %v", m, err)
	}
	z.fails(404, z.application("POST", "/api/devices/nobody/commands/echo"+ga, `{}`))
}

func azTelemetry(z *az) {
	c := z.realConnect("dev1")
	z.fails(404, z.application("GET", "/api/devices/dev1/telemetry/temp"+ga, "none"))
	c.telemetry("%24.ce=utf-8&%24.ct=application%2Fjson", `{"temp":21.5}`, 3)
	if v := z.succeeds(z.application("GET", "/api/devices/dev1/telemetry/temp"+ga, "none")); v["value"] != 21.5 || v["timestamp"] == nil {
		z.t.Errorf("%v", v)
	}
}

func azAttestation(z *az) {
	z.enter("dev1")
	const path = "/api/devices/dev1/attestation" + ga
	z.fails(404, z.application("GET", path, "none"))
	z.succeeds(z.application("PUT", path, `{"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAECAwQFBgcICQoLDA0ODw==", "secondaryKey": "AAECAwQFBgcICQoLDA0ODw=="}}`))
	if v := z.succeeds(z.application("GET", path, "none")); v["type"] != "symmetricKey" {
		z.t.Errorf("%v", v)
	}
	if a := z.application("DELETE", path, "empty"); a.judge().exit != 0 || a.status != 204 {
		z.t.Errorf("%+v", a)
	}
}

func azSystem(z *az) {
	z.enter("dev1")
	_, err := z.SendC2D("dev1", iothub.C2D{Body: json.RawMessage(`1`)})
	must(z.t, err)
	purged := z.succeeds(z.application("DELETE", "/system/iothub/devices/dev1/c2d", "empty"))
	if purged["message"] != "Cloud to device (C2D) message queue purged for device dev1. Total messages purged: 1." {
		z.t.Errorf("%v", purged)
	}
	if m, _ := z.C2DMessages("dev1"); m[0].State != iothub.C2DPurged {
		z.t.Errorf("%+v", m)
	}
	twin := z.succeeds(z.application("GET", "/system/iothub/devices/dev1/get-twin?extendedInfo=true", "none"))
	if twin["deviceId"] != "dev1" || twin["code"] != nil || twin["message"] != nil {
		z.t.Errorf("%v", twin)
	}
	a := z.application("GET", "/system/iothub/devices/nobody/get-twin?extendedInfo=true", "none")
	if z.fails(404, a); !strings.Contains(a.body, "Twin for device nobody was not found") {
		z.t.Errorf("%s", a.body)
	}
	if modules := z.succeeds(z.application("GET", "/system/iotedge/devices/dev1/modules", "none")); len(modules["modules"].([]any)) != 0 {
		z.t.Errorf("%v", modules)
	}
}

func azTemplates(z *az) {
	z.fails(422, z.application("POST", "/api/query"+preview, `{"query": "SELECT $id FROM dtmi:Sample:Failover;1"}`))
	list := z.succeeds(z.application("GET", "/api/deviceTemplates"+preview, "none"))
	if value, _ := list["value"].([]any); len(value) != 2 || list["nextLink"] != nil {
		z.t.Errorf("%v", list)
	}
	one := z.succeeds(z.application("GET", "/api/deviceTemplates/dtmi:Sample:Failover;1"+preview, "none"))
	if one["@id"] != "dtmi:Sample:Failover;1" || one["capabilityModel"] == nil {
		z.t.Errorf("%v", one)
	}
	z.fails(404, z.application("GET", "/api/deviceTemplates/dtmi:none;1"+preview, "none"))
}
