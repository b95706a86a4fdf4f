package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

const testTemplate = `[{"@id":"dtmi:Sample:Failover;1","@type":"Interface","displayName":{"en":"Failover"},"contents":[
	{"@type":"Command","name":"echo"},{"@type":"Command","name":"setAlarm","durable":true},
	{"@type":"Component","name":"lamp","schema":{"contents":[{"@type":"Command","name":"blink","durable":true}]}},
	{"@type":"Component","name":"fan","schema":"dtmi:Sample:Fan;1"}]},
	{"@id":"dtmi:Sample:Fan;1","@type":"Interface","contents":[{"@type":"Command","name":"spin","durable":true}]}]`

// application is a client of IoT Central's REST.
type application struct {
	*world
	http *http.Client
}

func (a *application) want(status int, method, path, body string, header ...string) httpAnswer {
	a.t.Helper()
	if strings.HasPrefix(path, "/api/") {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		path += separator + "api-version=2022-07-31"
	}
	r := a.mustDo(a.http, method, a.info.Central.URL+path, body, append([]string{"Authorization", a.info.Central.APIToken}, header...)...)
	e, _ := r.body["error"].(map[string]any)
	if r.status != status || (status >= 400) != (e["code"] != nil && e["message"] != "") || status != 204 && len(r.text) == 0 {
		a.t.Errorf("%s %s %s: %d %s, want %d", method, path, body, r.status, r.text, status)
	}
	return r
}

func inApplication(t *testing.T, f func(w *world, a *application)) {
	inWorld(t, func(c *Config) { c.Template = []byte(testTemplate) }, func(w *world) {
		a := &application{w, w.httpClient()}
		defer a.http.CloseIdleConnections()
		f(w, a)
	})
}

func TestCentralMakesChangesAndDeletesDevices(t *testing.T) {
	inApplication(t, func(w *world, a *application) {
		made := a.want(200, "PUT", "/api/devices/d", `{"displayName":"Device","enabled":true,"simulated":false,"template":"dtmi:Sample:Failover;1"}`)
		if made.body["provisioned"] != false || made.body["displayName"] != "Device" || made.body["template"] != "dtmi:Sample:Failover;1" || made.body["enabled"] != true {
			t.Errorf("%s", made.text)
		}
		a.want(409, "PUT", "/api/devices/D", `{}`)
		a.want(400, "PUT", "/api/devices/a%20b", `{}`)
		a.want(400, "PUT", "/api/devices/e", `{"template":"x"}`)
		a.want(409, "GET", "/api/devices/d/properties", "")
		host := w.provision("d")
		if shown := a.want(200, "GET", "/api/devices/d", ""); shown.body["provisioned"] != true || shown.body["etag"] != made.body["etag"] {
			t.Errorf("%s", shown.text)
		}
		credentials := a.want(200, "GET", "/api/devices/d/credentials", "")
		key := base64.StdEncoding.EncodeToString(w.key("d"))
		if credentials.body["idScope"] != w.info.IDScope || credentials.body["symmetricKey"].(map[string]any)["primaryKey"] != key {
			t.Errorf("%s", credentials.text)
		}
		a.want(412, "PATCH", "/api/devices/d", `{"displayName":"x"}`, "If-Match", `"other"`)
		a.want(412, "PATCH", "/api/devices/d", `{"displayName":"x","etag":"other"}`)
		c := w.connect(host, "d")
		blocked := a.want(200, "PATCH", "/api/devices/d", strings.Replace(made.text, `"enabled":true`, `"enabled":false`, 1))
		c.wantEnd()
		if blocked.body["enabled"] != false || blocked.body["etag"] == made.body["etag"] || !w.device("d").Blocked {
			t.Errorf("%s", blocked.text)
		}
		a.want(200, "PATCH", "/api/devices/d", `{"enabled":true,"organizations":["x"]}`)
		w.connect(host, "d")
		for i := range 30 {
			a.want(200, "PUT", fmt.Sprintf("/api/devices/n%02d", i), `{}`)
		}
		seen, path := 0, "/api/devices?$filter="
		for pages := 1; path != ""; pages++ {
			page := w.mustDo(a.http, "GET", a.info.Central.URL+path+"&api-version=2022-07-31", "", "Authorization", a.info.Central.APIToken)
			seen += len(page.body["value"].([]any))
			next, _ := page.body["nextLink"].(string)
			if path = strings.TrimPrefix(next, a.info.Central.URL); next != "" && path == next || pages > 2 {
				t.Fatalf("page %d: %s", pages, next)
			}
		}
		if seen != 31 {
			t.Errorf("%d devices", seen)
		}
		if edge := a.want(200, "GET", "/api/devices?$filter=type%20eq%20%27GatewayDevice%27", ""); edge.text != `{"value":[]}` {
			t.Errorf("%s", edge.text)
		}
		a.want(400, "GET", "/api/devices?$skiptoken=!", "")
		a.want(204, "DELETE", "/api/devices/d", "")
		a.want(404, "DELETE", "/api/devices/d", "")
		a.want(422, "POST", "/api/query", `{"query":"SELECT 1"}`)
	})
}

// A device's own attestation replaces that of its group, until it is deleted.
func TestOwnAttestationReplacesThatOfTheGroup(t *testing.T) {
	inApplication(t, func(w *world, a *application) {
		a.want(200, "PUT", "/api/devices/d", `{}`)
		a.want(404, "GET", "/api/devices/d/attestation", "")
		a.want(404, "PATCH", "/api/devices/d/attestation", "{}")
		a.want(400, "PUT", "/api/devices/d/attestation", `{"type":"magic"}`)
		first := a.want(200, "PUT", "/api/devices/d/attestation", `{"type":"symmetricKey"}`)
		keys := first.body["symmetricKey"].(map[string]any)
		if first.body["type"] != "symmetricKey" || keys["primaryKey"] == "" || keys["primaryKey"] == keys["secondaryKey"] {
			t.Errorf("%s", first.text)
		}
		own := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))
		changed := a.want(200, "PATCH", "/api/devices/d/attestation", `{"symmetricKey":{"primaryKey":"`+own+`"}}`)
		if now := changed.body["symmetricKey"].(map[string]any); now["primaryKey"] != own || now["secondaryKey"] != keys["secondaryKey"] {
			t.Errorf("%s", changed.text)
		}
		if c := a.want(200, "GET", "/api/devices/d/credentials", ""); c.body["symmetricKey"].(map[string]any)["primaryKey"] != own {
			t.Errorf("%s", c.text)
		}
		a.want(204, "DELETE", "/api/devices/d/attestation", "")
		a.want(404, "GET", "/api/devices/d/attestation", "")
		w.provision("d")
	})
}

func TestCentralReadsAndWritesProperties(t *testing.T) {
	inApplication(t, func(w *world, a *application) {
		c := w.connect(w.provision("d"), "d")
		c.subscribeAll()
		all := a.want(200, "PATCH", "/api/devices/d/properties", `{"fanSpeed":1200}`)
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=2" || body != `{"$version":2,"fanSpeed":1200}` {
			t.Errorf("%s %s", topic, body)
		}
		if m := all.body["$metadata"].(map[string]any)["fanSpeed"].(map[string]any); all.body["fanSpeed"] != 1200.0 || m["desiredValue"] != 1200.0 || m["desiredVersion"] != 2.0 || m["ackCode"] != nil {
			t.Errorf("%s", all.text)
		}
		c.send(publishBytes("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"fanSpeed":{"value":1100,"ac":200,"av":2,"ad":"done"},"battery":42,"lamp":{"__t":"c","lux":5}}`, 0, 0))
		c.wantPublish()
		all = a.want(200, "GET", "/api/devices/d/properties", "")
		m := all.body["$metadata"].(map[string]any)["fanSpeed"].(map[string]any)
		if all.body["fanSpeed"] != 1100.0 || all.body["battery"] != 42.0 || m["ackCode"] != 200.0 || m["ackVersion"] != 2.0 || m["ackDescription"] != "done" || m["lastUpdateTime"] == nil {
			t.Errorf("%s", all.text)
		}
		if lamp := a.want(200, "PATCH", "/api/devices/d/components/lamp/properties", `{"on":true}`); lamp.body["on"] != true || lamp.body["lux"] != 5.0 {
			t.Errorf("%s", lamp.text)
		}
		if _, body := c.wantPublish(); body != `{"$version":3,"lamp":{"__t":"c","on":true}}` {
			t.Errorf("%s", body)
		}
		replaced := a.want(200, "PUT", "/api/devices/d/properties", `{"other":1}`)
		if _, body := c.wantPublish(); body != `{"$version":4,"fanSpeed":null,"lamp":null,"other":1}` {
			t.Errorf("%s", body)
		}
		if replaced.body["other"] != 1.0 {
			t.Errorf("%s", replaced.text)
		}
		a.want(404, "GET", "/api/devices/d/components/none/properties", "")
		a.want(400, "PATCH", "/api/devices/d/properties", `{"a.b":1}`)
		a.want(400, "PATCH", "/api/devices/d/properties", ``)
		a.want(404, "GET", "/api/devices/x/properties", "")

		a.want(404, "GET", "/api/devices/d/telemetry/temp", "")
		c.telemetry("iothub-creation-time-utc=2021-04-21T11%3A30%3A16Z", `{"temp":20}`, 5)
		c.telemetry("%24.sub=lamp", `{"temp":99}`, 6)
		c.telemetry("", `nonsense`, 7)
		if v := a.want(200, "GET", "/api/devices/d/telemetry/temp", ""); v.text != `{"timestamp":"2021-04-21T11:30:16Z","value":20}` {
			t.Errorf("%s", v.text)
		}
		if v := a.want(200, "GET", "/api/devices/d/components/lamp/telemetry/temp", ""); v.body["value"] != 99.0 {
			t.Errorf("%s", v.text)
		}
	})
}

func TestCentralRunsAndQueuesCommands(t *testing.T) {
	inApplication(t, func(w *world, a *application) {
		a.want(200, "PUT", "/api/devices/d", `{"template":"dtmi:Sample:Failover;1"}`)
		host := w.provision("d")
		a.want(404, "POST", "/api/devices/d/commands/echo", `{"request":"hi"}`)
		a.want(404, "POST", "/api/devices/x/commands/echo", `{}`)
		if h := a.want(200, "GET", "/api/devices/d/commands/echo", ""); h.text != `{"value":[]}` {
			t.Errorf("%s", h.text)
		}
		a.want(201, "POST", "/api/devices/d/commands/setAlarm", `{"request":"12:00"}`)
		a.want(201, "POST", "/api/devices/d/components/lamp/commands/blink", `{}`)
		a.want(201, "POST", "/api/devices/d/components/fan/commands/spin", ``)
		c := w.connect(host, "d")
		c.subscribeAll()
		for _, want := range []string{`&method-name=setAlarm "12:00"`, `&method-name=lamp%2Ablink @`, `&method-name=fan%2Aspin @`} {
			if topic, body := c.wantPublish(); !strings.HasSuffix(topic+" "+body, want) {
				t.Errorf("%s %s, want %s", topic, body, want)
			}
		}
		for body, want := range map[string]string{`{"request":"hi","responseTimeout":"5"}`: `"hi"`, `"hello"`: `"hello"`, `{"speed":1}`: `{"speed":1}`, `{}`: ``, ``: ``} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				topic, got := c.wantPublish()
				if !strings.HasPrefix(topic, "$iothub/methods/POST/echo/?$rid=") || got != want {
					t.Errorf("%s %s, want %s", topic, got, want)
				}
				c.send(publishBytes(strings.Replace(topic, "POST/echo", "res/200", 1), `"yes"`, 0, 0))
			}()
			if r := a.want(201, "POST", "/api/devices/d/commands/echo", body); r.body["response"] != "yes" || r.body["responseCode"] != 200.0 || r.body["id"] == "" {
				t.Errorf("%s", r.text)
			}
			<-done
		}
		var history struct {
			Value []struct{ Response json.RawMessage }
		}
		must(t, json.Unmarshal([]byte(a.want(200, "GET", "/api/devices/d/commands/echo", "").text), &history))
		if len(history.Value) != 5 || string(history.Value[0].Response) != `"yes"` {
			t.Errorf("%+v", history)
		}
		a.want(400, "POST", "/api/devices/d/commands/echo", `{`)
		a.want(400, "POST", "/api/devices/d/commands/echo", `{"request":1,"responseTimeout":301}`)
		start := time.Now()
		a.want(504, "POST", "/api/devices/d/commands/echo", `{"responseTimeout":7}`)
		if time.Since(start) != 7*time.Second {
			t.Errorf("%v", time.Since(start))
		}
	})
}

func TestCentralSystemRoutesReachTheHub(t *testing.T) {
	inApplication(t, func(w *world, a *application) {
		a.want(404, "GET", "/system/iothub/devices/d/get-twin?extendedInfo=true", "")
		w.provision("d")
		_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage(`1`)})
		must(t, err)
		if twin := a.want(200, "GET", "/system/iothub/devices/d/get-twin?extendedInfo=true", ""); twin.body["deviceId"] != "d" || twin.body["cloudToDeviceMessageCount"] != 1.0 {
			t.Errorf("%s", twin.text)
		}
		if p := a.want(200, "DELETE", "/system/iothub/devices/d/c2d", ""); p.text != `{"message":"Cloud to device (C2D) message queue purged for device d. Total messages purged: 1."}` {
			t.Errorf("%s", p.text)
		}
		if m := a.want(200, "GET", "/system/iotedge/devices/d/modules", ""); m.text != `{"modules":[]}` {
			t.Errorf("%s", m.text)
		}
		list := a.want(200, "GET", "/api/deviceTemplates", "")
		if len(list.body["value"].([]any)) != 2 {
			t.Errorf("%s", list.text)
		}
		one := a.want(200, "GET", "/api/deviceTemplates/dtmi:Sample:Failover;1", "")
		if one.body["displayName"] != "Failover" || len(one.body["capabilityModel"].(map[string]any)["contents"].([]any)) != 4 {
			t.Errorf("%s", one.text)
		}
		a.want(404, "GET", "/api/deviceTemplates/dtmi:other;1", "")
		a.want(401, "GET", "/api/devices", "", "Authorization", "Bearer "+a.info.Central.APIToken)
	})
}
