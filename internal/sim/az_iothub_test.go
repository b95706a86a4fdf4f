package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

func azIdentity(z *az) {
	const path = "/devices/dev1"
	if a := z.hubRequest("GET", path, ""); z.exits(3, a) == nil || a.header.Get("iothub-errorcode") != "DeviceNotFound" {
		z.t.Errorf("%+v", a)
	}
	made := z.exits(0, z.hubRequest("PUT", path, `{"deviceId": "dev1", "status": "enabled", "authentication": {"symmetricKey": {}, "type": "sas"}, "capabilities": {"iotEdge": false}}`))
	key, err := base64.StdEncoding.DecodeString(made["authentication"].(map[string]any)["symmetricKey"].(map[string]any)["primaryKey"].(string))
	if must(z.t, err); len(key) == 0 {
		z.t.Errorf("%v", made)
	}
	connect := func() (*client, byte) {
		c, err := z.realDial(z.info.Hubs[0].MQTT)
		must(z.t, err)
		host := z.info.Hubs[0].Host
		c.send(connectBytes(connectOptions{id: "dev1", user: host + "/dev1/?api-version=2019-10-01", keepAlive: 60,
			password: sasFor(key, host+"/devices/dev1", time.Now().Add(time.Hour), "")}))
		p := c.next()
		return c, p.body[1]
	}
	c, code := connect()
	if code != 0 {
		z.t.Fatalf("CONNACK %d", code)
	}
	got := z.exits(0, z.hubRequest("GET", path, ""))
	got["status"], got["etag"] = "disabled", "*"
	changed := z.exits(0, z.hubRequest("PUT", path, string(azure.EncodeJSON(got)), `If-Match: "*"`))
	c.wantEnd()
	if _, code := connect(); code != 3 || changed["status"] != "disabled" {
		z.t.Errorf("CONNACK %d, %v", code, changed)
	}
	if list := z.exitsWithList(z.hubRequest("POST", "/devices/query", `{"query": "select * from devices"}`, "x-ms-max-item-count: 1000")); len(list) != 1 || list[0]["status"] != "disabled" {
		z.t.Errorf("%v", list)
	}
	if a := z.hubRequest("DELETE", path, "", `If-Match: "*"`); a.status != 204 || a.body != "" {
		z.t.Errorf("%+v", a)
	}
	if _, code := connect(); code != 5 {
		z.t.Errorf("CONNACK %d", code)
	}
	z.exits(3, z.hubRequest("DELETE", path, "", `If-Match: "*"`))
	a := z.resource(z.hub, "iothubowner", []byte("wrong"), "GET", path+"?api-version=2021-04-12", "")
	if body := z.exits(1, a); a.status != 401 || !strings.HasPrefix(fmt.Sprint(body["Message"]), "ErrorCode:IotHubUnauthorizedAccess;") {
		z.t.Errorf("%+v", a)
	}
}

func azQuery(z *az) {
	for _, id := range []string{"a", "b", "c"} {
		z.enter(id)
	}
	if list := z.exitsWithList(z.hubRequest("POST", "/devices/query", `{"query": "select * from devices"}`)); len(list) != 3 || list[0]["deviceId"] != "a" {
		z.t.Errorf("%v", list)
	}
	if list := z.exitsWithList(z.hubRequest("POST", "/devices/query", `{"query": "SELECT deviceId FROM devices WHERE deviceId IN ['b', 'x']"}`)); fmt.Sprint(list) != "[map[deviceId:b]]" {
		z.t.Errorf("%v", list)
	}
	z.exits(1, z.hubRequest("POST", "/devices/query", `{"query": "select nonsense"}`))
}

func azTwin(z *az) {
	c := z.realConnect("dev1")
	c.subscribeAll()
	twin := z.exits(0, z.hubRequest("GET", "/twins/dev1", ""))
	etag := twin["etag"].(string)
	changed := z.exits(0, z.hubRequest("PATCH", "/twins/dev1", `{"tags": {"room": 1}, "properties": {"desired": {"fanSpeed": 5}}}`, `If-Match: "`+etag+`"`))
	if _, body := c.wantPublish(); body != `{"$version":2,"fanSpeed":5}` || fmt.Sprint(changed["tags"]) != "map[room:1]" {
		z.t.Errorf("%s %v", body, changed)
	}
	z.exits(1, z.hubRequest("PATCH", "/twins/dev1", `{"tags": {"room": 2}}`, `If-Match: "`+etag+`"`))
	z.exits(0, z.hubRequest("PUT", "/twins/dev1", string(azure.EncodeJSON(changed)), `If-Match: "*"`))
	if _, body := c.wantPublish(); body != `{"$version":3,"fanSpeed":5}` {
		z.t.Errorf("%s", body)
	}
	z.exits(3, z.hubRequest("GET", "/twins/nobody", ""))
}

func azMethod(z *az) {
	c := z.realConnect("dev1")
	c.subscribeAll()
	for _, timeouts := range []string{
		`"responseTimeoutInSeconds": "30", "connectTimeoutInSeconds": "30"`, // without --to
		`"responseTimeoutInSeconds": 15, "connectTimeoutInSeconds": 15`,
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			topic, _ := c.wantPublish()
			c.send(publishBytes(strings.Replace(topic, "POST/echo", "res/404", 1), `{"x":1}`, 0, 0))
		}()
		a := z.hubRequest("POST", "/twins/dev1/methods", `{"methodName": "echo", "payload": {"a": 1}, `+timeouts+`}`)
		<-done
		if a.exit() != 0 || a.body != `{"status":404,"payload":{"x":1}}` { // the device's own 404 is no error
			z.t.Errorf("%+v", a)
		}
	}
	z.exits(3, z.hubRequest("POST", "/twins/nobody/methods", `{"methodName": "echo", "payload": null, "responseTimeoutInSeconds": 10, "connectTimeoutInSeconds": 0}`))
	c.close()
	z.waitOffline("dev1")
	a := z.hubRequest("POST", "/twins/dev1/methods", `{"methodName": "echo", "payload": null, "responseTimeoutInSeconds": 10, "connectTimeoutInSeconds": 0}`)
	if z.exits(3, a); a.header.Get("iothub-errorcode") != "DeviceNotOnline" || !strings.Contains(a.body, "404103") {
		z.t.Errorf("%+v", a)
	}
}

func azModules(z *az) {
	z.enter("dev1")
	if list := z.exitsWithList(z.hubRequest("GET", "/devices/dev1/modules", "")); len(list) != 0 {
		z.t.Errorf("%v", list)
	}
	z.exits(0, z.hubRequest("PUT", "/devices/dev1/modules/m", `{"deviceId": "dev1", "moduleId": "m", "authentication": {"symmetricKey": {}, "type": "sas"}}`))
	if list := z.exitsWithList(z.hubRequest("GET", "/devices/dev1/modules", "")); len(list) != 1 || list[0]["moduleId"] != "m" {
		z.t.Errorf("%v", list)
	}
}

func azDeviceHTTP(z *az) {
	z.enter("dev1")
	mid, err := z.SendC2D("dev1", iothub.C2D{Body: json.RawMessage(`"hi"`)})
	must(z.t, err)
	token := sasFor(z.key("dev1"), z.hub+"/devices/dev1", time.Now().Add(time.Hour), "")
	a := z.sendMSREST(z.hub, token, "GET", "/devices/dev1/messages/deviceBound?api-version=2019-10-01", "", "IotHub-MessageLockTimeout: 60")
	if a.status != 200 || a.body != `"hi"` || a.header.Get("iothub-messageid") != mid {
		z.t.Fatalf("%+v", a)
	}
	lock := strings.Trim(a.header.Get("ETag"), `"`)
	if a := z.sendMSREST(z.hub, token, "DELETE", "/devices/dev1/messages/deviceBound/"+lock+"?api-version=2019-10-01", ""); a.status != 204 {
		z.t.Errorf("%+v", a)
	}
	if m, _ := z.C2DMessages("dev1"); m[0].State != iothub.C2DCompleted {
		z.t.Errorf("%+v", m)
	}
	if a := z.sendMSREST(z.hub, token, "POST", "/devices/dev1/messages/events?api-version=2019-10-01", `{"id": 1}`); a.status != 204 {
		z.t.Errorf("%+v", a)
	}
	if l := z.Ledger("dev1", true); l.Received != 1 || string(l.Messages[0].Body) != `{"id": 1}` {
		z.t.Errorf("%+v", l)
	}
}
