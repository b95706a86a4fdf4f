package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// service is a client of a hub's service REST.
type service struct {
	*world
	http   *http.Client
	base   string
	policy string
	key    []byte
	host   string
}

func (w *world) service(n int) *service {
	w.t.Helper()
	host, policy, key := connectionParts(w.t, w.info.Hubs[n].ConnectionString)
	return &service{w, w.httpClient(), "https://" + w.info.Hubs[n].HTTPS, policy, key, host}
}

func (s *service) as(n int, policy string) *service {
	other := *s
	keys, _ := s.hubs[n].PolicyKeys(policy)
	other.policy, other.key = policy, keys[1]
	return &other
}

func (s *service) call(method, path, body string, header ...string) httpAnswer {
	s.t.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	token := sasFor(s.key, s.host, time.Now().Add(10*time.Minute), s.policy)
	return s.mustDo(s.http, method, s.base+path+separator+"api-version=2021-04-12", body, append([]string{"Authorization", token}, header...)...)
}

// want calls and insists on the status; an error must say its name in the header and in the body.
func (s *service) want(status int, code, method, path, body string, header ...string) httpAnswer {
	s.t.Helper()
	a := s.call(method, path, body, header...)
	message, _ := a.body["Message"].(string)
	exception, _ := a.body["ExceptionMessage"].(string)
	if a.status != status || a.header.Get("iothub-errorcode") != code || code != "" && (message == "" || !strings.HasPrefix(exception, "Tracking ID:")) {
		s.t.Errorf("%s %s %s: %d %s %s, want %d %s", method, path, body, a.status, a.header.Get("iothub-errorcode"), a.text, status, code)
	}
	return a
}

// A service makes an identity with keys, finds it, changes it, disables it and deletes it, and the
// device connects meanwhile.
func TestLifeOfAnIdentityThatDPSDoesNotKnow(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		defer s.http.CloseIdleConnections()
		s.want(404, "DeviceNotFound", "GET", "/devices/plain", "")
		made := s.want(200, "", "PUT", "/devices/plain", `{"deviceId":"plain","status":"enabled","authentication":{"symmetricKey":{},"type":"sas"},"capabilities":{"iotEdge":false}}`)
		auth := made.body["authentication"].(map[string]any)
		keys := auth["symmetricKey"].(map[string]any)
		key, err := base64.StdEncoding.DecodeString(keys["primaryKey"].(string))
		if err != nil || len(key) != 32 || keys["primaryKey"] == keys["secondaryKey"] || auth["type"] != "sas" ||
			made.body["generationId"] == "" || made.body["connectionState"] != "Disconnected" || made.body["statusReason"] != nil {
			t.Fatalf("%s", made.text)
		}
		etag := made.body["etag"].(string)
		if made.header.Get("ETag") != `"`+etag+`"` {
			t.Errorf("ETag %s of %s", made.header.Get("ETag"), etag)
		}
		for _, list := range []string{"/devices", "/devices/"} { // the Node.js SDK has the slash
			if a := s.want(200, "", "GET", list, ""); !strings.Contains(a.text, `"deviceId":"plain"`) {
				t.Errorf("GET %s: %s", list, a.text)
			}
		}
		s.want(409, "DeviceAlreadyExists", "PUT", "/devices/plain", `{"deviceId":"plain"}`)
		if again := s.want(200, "", "GET", "/devices/plain", ""); again.text != made.text {
			t.Errorf("%s is not %s", again.text, made.text)
		}

		connect := func(key []byte) (*client, byte) {
			o := w.hubOptions(s.host, "plain")
			o.password = sasFor(key, s.host+"/devices/plain", time.Now().Add(time.Hour), "")
			c, _, code := w.tryHub(o, s.host)
			return c, code
		}
		c, code := connect(key)
		if code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		if _, err := w.SendC2D("plain", iothub.C2D{Body: json.RawMessage(`1`)}); err != nil {
			t.Error(err)
		}
		if m, err := w.C2DMessages("plain"); err != nil || len(m) != 1 {
			t.Errorf("%+v %v", m, err)
		}
		if twin, err := w.Twin("plain"); err != nil || twin.Desired["$version"] != int64(1) {
			t.Errorf("%+v %v", twin, err)
		}
		if a := s.want(200, "", "GET", "/devices/plain", ""); a.body["connectionState"] != "Connected" || a.body["etag"] != etag {
			t.Errorf("%s", a.text)
		}
		if a := s.want(200, "", "GET", "/statistics/service", ""); a.text != `{"connectedDeviceCount":1}` {
			t.Errorf("%s", a.text)
		}
		s.want(412, "PreconditionFailed", "PUT", "/devices/plain", `{"deviceId":"plain","status":"disabled"}`, "If-Match", `"bm90"`)
		a := s.want(200, "", "PUT", "/devices/plain", `{"deviceId":"plain","etag":"*","status":"disabled","statusReason":"lost"}`, "If-Match", `"*"`)
		c.wantEnd()
		if a.body["status"] != "disabled" || a.body["statusReason"] != "lost" || a.body["etag"] == etag || a.body["statusUpdatedTime"] == "0001-01-01T00:00:00Z" ||
			a.body["authentication"].(map[string]any)["symmetricKey"].(map[string]any)["primaryKey"] != keys["primaryKey"] {
			t.Errorf("%s", a.text)
		}
		if _, code := connect(key); code != 3 {
			t.Errorf("CONNACK %d for a disabled identity", code)
		}
		if a := s.want(200, "", "GET", "/statistics/devices", ""); a.text != `{"totalDeviceCount":1,"enabledDeviceCount":0,"disabledDeviceCount":1}` {
			t.Errorf("%s", a.text)
		}
		etag = a.body["etag"].(string)
		s.want(200, "", "PUT", "/devices/plain", `{"deviceId":"plain","status":"enabled","authentication":{"type":"sas","symmetricKey":{"primaryKey":"AAECAwQFBgcICQoLDA0ODw==","secondaryKey":"AAECAwQFBgcICQoLDA0ODw=="}}}`, "If-Match", `"`+etag+`"`)
		if _, code := connect(key); code != 5 {
			t.Errorf("CONNACK %d for the old key", code)
		}
		if c, code = connect([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f")); code != 0 {
			t.Errorf("CONNACK %d for the new key", code)
		}
		s.want(412, "PreconditionFailed", "DELETE", "/devices/plain", "", "If-Match", `"bm90"`)
		s.want(204, "", "DELETE", "/devices/plain", "", "If-Match", "*")
		c.wantEnd()
		s.want(404, "DeviceNotFound", "DELETE", "/devices/plain", "", "If-Match", `"*"`)
		s.want(404, "DeviceNotFound", "PUT", "/devices/plain", `{"deviceId":"plain"}`, "If-Match", "*")

		for _, body := range []string{
			``, `[]`, `{"deviceId":"other"}`, `{"status":"broken"}`, `{"authentication":{"type":"magic"}}`, `{"authentication":{"type":"selfSigned"}}`,
			`{"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"xyz"}}}`,
			`{"authentication":{"symmetricKey":{"primaryKey":"short","secondaryKey":"short"}}}`,
			`{"authentication":{"symmetricKey":{"primaryKey":"AAECAwQFBgcICQoLDA0ODw=="}}}`,
			`{"statusReason":"` + strings.Repeat("x", 129) + `"}`,
		} {
			s.want(400, "ArgumentInvalid", "PUT", "/devices/bad", body)
		}
		s.want(400, "ArgumentInvalid", "PUT", "/devices/a%20b", `{}`)
		s.want(413, "MessageTooLarge", "PUT", "/devices/bad", `{"deviceId":"`+strings.Repeat("x", 1<<20)+`"}`)
		s.want(404, "DeviceNotFound", "GET", "/devices/bad", "")
	})
}

// An operator controls a device that only a hub knows, as far as DPS is not needed for that.
func TestControlReachesADeviceThatOnlyAHubKnows(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		defer s.http.CloseIdleConnections()
		s.want(200, "", "PUT", "/devices/made", `{"deviceId":"made"}`)
		w.provision("known")
		state := func() string {
			all := ""
			for _, d := range w.State().Devices {
				all += fmt.Sprintf("%s enabled=%v assigned=%q ", d.ID, d.Enabled, d.AssignedHub)
			}
			return all
		}
		if got := state(); got != `known enabled=true assigned="hub-a" made enabled=true assigned="" ` {
			t.Error(got)
		}
		must(t, w.Disable("made"))
		if got := state(); !strings.Contains(got, "made enabled=false") {
			t.Error(got)
		}
		s.want(200, "", "GET", "/devices/made", "")
		must(t, w.Enable("made"))
		for what, err := range map[string]error{"failover": w.Failover("made", 0), "block": w.Block("made"), "approve": w.Approve("made")} {
			if refusal(err) != "409 DeviceNotProvisioned" {
				t.Errorf("%s: %v", what, err)
			}
		}
		must(t, w.Delete("made"))
		s.want(404, "DeviceNotFound", "GET", "/devices/made", "")
		if got := state(); strings.Contains(got, "made") {
			t.Error(got)
		}
	})
}

// What the service switches off for a device of DPS stays off when the device registers again.
func TestDeviceThatAServiceDisabledStaysDisabled(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		host := w.provision("d")
		c := w.connect(host, "d")
		s.want(200, "", "PUT", "/devices/d", `{"deviceId":"d","status":"disabled"}`, "If-Match", "*")
		c.wantEnd()
		w.provision("d")
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 3 {
			t.Errorf("CONNACK %d", code)
		}
		s.want(200, "", "PUT", "/devices/d", `{"deviceId":"d","status":"enabled"}`, "If-Match", "*")
		w.connect(host, "d")
	})
}

// Each policy may do what its rights say, and a refusal has the form of Azure's.
func TestPoliciesDecideWhatAServiceMayDo(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provision("d")
		owner := w.service(0)
		requests := map[string]func(s *service) httpAnswer{
			"read":  func(s *service) httpAnswer { return s.call("GET", "/devices/d", "") },
			"write": func(s *service) httpAnswer { return s.call("PUT", "/devices/d", `{}`, "If-Match", "*") },
			"twin":  func(s *service) httpAnswer { return s.call("GET", "/twins/d", "") },
			"query": func(s *service) httpAnswer {
				return s.call("POST", "/devices/query", `{"query":"SELECT * FROM devices"}`)
			},
			"numbers": func(s *service) httpAnswer { return s.call("GET", "/statistics/devices", "") },
		}
		for policy, may := range map[string][]string{
			"iothubowner": {"read", "write", "twin", "query", "numbers"}, "service": {"twin", "query"}, "device": {},
			"registryRead": {"read", "numbers"}, "registryReadWrite": {"read", "write", "numbers"},
		} {
			for name, request := range requests {
				a := request(owner.as(0, policy))
				if want := slices.Contains(may, name); (a.status == 200) != want || !want && a.status != 401 {
					t.Errorf("%s: %s is %d %s", policy, name, a.status, a.text)
				}
			}
		}
		for name, header := range map[string]string{
			"none": "", "no token": "Bearer x",
			"old":           sasFor(owner.key, owner.host, time.Now().Add(-time.Second), "iothubowner"),
			"other host":    sasFor(owner.key, "127.0.0.3", time.Now().Add(time.Hour), "iothubowner"),
			"other path":    sasFor(owner.key, owner.host+"/twins", time.Now().Add(time.Hour), "iothubowner"),
			"wrong key":     sasFor([]byte("wrong"), owner.host, time.Now().Add(time.Hour), "iothubowner"),
			"wrong policy":  sasFor(owner.key, owner.host, time.Now().Add(time.Hour), "nobody"),
			"device's":      sasFor(w.key("d"), owner.host+"/devices/d", time.Now().Add(time.Hour), ""),
			"other's name":  sasFor(owner.key, owner.host, time.Now().Add(time.Hour), "service"),
			"other hub key": sasFor(w.service(1).key, owner.host, time.Now().Add(time.Hour), "iothubowner"),
		} {
			a := w.mustDo(owner.http, "GET", owner.base+"/devices/d?api-version=2021-04-12", "", "Authorization", header)
			message, _ := a.body["Message"].(string)
			if a.status != 401 || !strings.HasPrefix(message, "ErrorCode:IotHubUnauthorizedAccess;") || a.header.Get("iothub-errorcode") != "IotHubUnauthorizedAccess" {
				t.Errorf("%s: %d %s", name, a.status, a.text)
			}
		}
		for _, sr := range []string{"hub-a.azure-devices.net", "localhost:8443", "localhost:443", "HUB-A.sim.local/devices", owner.host + "/devices/d"} {
			a := w.mustDo(owner.http, "GET", owner.base+"/devices/d?api-version=2021-04-12", "", "Authorization", sasFor(owner.key, sr, time.Now().Add(time.Hour), "iothubowner"))
			if want := sr != "localhost:8443"; (a.status == 200) != want { // this hub has 443
				t.Errorf("%s: %d %s", sr, a.status, a.text)
			}
		}
		a := w.mustDo(owner.http, "GET", owner.base+"/devices/d", "", "Authorization", sasFor(owner.key, owner.host, time.Now().Add(time.Hour), "iothubowner"))
		if a.status != 400 || a.header.Get("iothub-errorcode") != "InvalidProtocolVersion" {
			t.Errorf("no api-version: %d %s", a.status, a.text)
		}
	})
}

func TestServiceChangesIdentitiesInBulk(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		a := s.want(200, "", "POST", "/devices", `[{"id":"a","importMode":"create","status":"enabled","authentication":{"type":"sas"}},
			{"id":"b","importMode":"createOrUpdate","status":"disabled","tags":{"room":1},"properties":{"desired":{"x":1}}}]`)
		if a.text != `{"isSuccessful":true,"errors":[],"warnings":[]}` {
			t.Errorf("%s", a.text)
		}
		if b := s.want(200, "", "GET", "/twins/b", ""); b.body["status"] != "disabled" || fmt.Sprint(b.body["tags"]) != "map[room:1]" {
			t.Errorf("%s", b.text)
		}
		a = s.want(400, "", "POST", "/devices", `[{"id":"a","importMode":"create"},{"id":"b","importMode":"update","status":"enabled"},
			{"id":"c","importMode":"delete"},{"id":"a","importMode":"deleteIfMatchETag","eTag":"bm90"},{"id":"a","importMode":"updateTwin","tags":{"n":2}},{"id":"a","importMode":"dance"}]`)
		var result struct {
			IsSuccessful bool
			Errors       []struct{ DeviceID, ErrorCode string }
		}
		must(t, json.Unmarshal([]byte(a.text), &result))
		codes := ""
		for _, e := range result.Errors {
			codes += e.DeviceID + e.ErrorCode + " "
		}
		if result.IsSuccessful || codes != "aDeviceAlreadyExists cDeviceNotFound aPreconditionFailed aArgumentInvalid " {
			t.Errorf("%s", a.text)
		}
		if b := s.want(200, "", "GET", "/devices?top=2", ""); strings.Count(b.text, `"status":"enabled"`) != 2 {
			t.Errorf("%s", b.text)
		}
		s.want(200, "", "POST", "/devices", `[{"id":"a","importMode":"delete"},{"id":"b","importMode":"delete"}]`)
		if b := s.want(200, "", "GET", "/devices", ""); b.text != "[]" {
			t.Errorf("%s", b.text)
		}
		s.want(400, "TooManyDevices", "POST", "/devices", "[]")
		s.want(400, "ArgumentInvalid", "GET", "/devices?top=0", "")
	})
}

// A service reads and writes twins, and the device is notified.
func TestServiceReadsAndWritesTwins(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		c := w.connect(w.provision("d"), "d")
		c.subscribeAll()
		first := s.want(200, "", "GET", "/twins/d", "")
		if first.body["etag"] != "AAAAAAAAAAE=" || first.body["version"] != 2.0 || first.body["connectionState"] != "Connected" || first.body["authenticationType"] != "sas" {
			t.Errorf("%s", first.text)
		}
		a := s.want(200, "", "PATCH", "/twins/d", `{"tags":{"room":{"floor":3,"door":"x"}},"properties":{"desired":{"fanSpeed":1200,"old":1}}}`, "If-Match", `"AAAAAAAAAAE="`)
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=2" || body != `{"$version":2,"fanSpeed":1200,"old":1}` {
			t.Errorf("%s %s", topic, body)
		}
		desired := a.body["properties"].(map[string]any)["desired"].(map[string]any)
		if fmt.Sprint(a.body["tags"]) != "map[room:map[door:x floor:3]]" || desired["$version"] != 2.0 || desired["$metadata"].(map[string]any)["fanSpeed"] == nil || a.body["etag"] == "AAAAAAAAAAE=" {
			t.Errorf("%s", a.text)
		}
		s.want(412, "PreconditionFailed", "PATCH", "/twins/d", `{"tags":{"room":null}}`, "If-Match", `"AAAAAAAAAAE="`)
		a = s.want(200, "", "PATCH", "/twins/d", `{"tags":{"room":{"door":null}}}`, "If-Match", "*")
		if fmt.Sprint(a.body["tags"]) != "map[room:map[floor:3]]" {
			t.Errorf("%s", a.text)
		}
		s.want(400, "ArgumentInvalid", "PATCH", "/twins/d", `{"tags":{"a.b":1},"properties":{"desired":{"fanSpeed":1}}}`)
		s.want(400, "ArgumentInvalid", "PATCH", "/twins/d", `{"properties":{"desired":[1]}}`)
		s.want(413, "MessageTooLarge", "PATCH", "/twins/d", `{"tags":{"a":"`+strings.Repeat("x", 4000)+`","b":"`+strings.Repeat("x", 4000)+`","c":"`+strings.Repeat("x", 400)+`"}}`)
		// A whole twin that comes back as it was sent, with one change.
		replaced := strings.Replace(a.text, `"fanSpeed":1200`, `"fanSpeed":900`, 1)
		a = s.want(200, "", "PUT", "/twins/d", replaced, "If-Match", `"*"`)
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=3" || body != `{"$version":3,"fanSpeed":900,"old":1}` {
			t.Errorf("%s %s", topic, body)
		}
		a = s.want(200, "", "PUT", "/twins/d", `{"properties":{"desired":{"only":true}}}`)
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=4" || body != `{"$version":4,"fanSpeed":null,"old":null,"only":true}` {
			t.Errorf("%s %s", topic, body)
		}
		if fmt.Sprint(a.body["tags"]) != "map[]" || strings.Contains(a.text, "fanSpeed") {
			t.Errorf("%s", a.text)
		}
		s.want(404, "DeviceNotFound", "GET", "/twins/nobody", "")
		s.want(404, "DeviceNotFound", "PATCH", "/twins/nobody", "{}")
	})
}

func TestServiceCallsMethods(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		host := w.provision("d")
		call := `{"methodName":"echo","payload":"hi","responseTimeoutInSeconds":"30","connectTimeoutInSeconds":"0"}`
		a := s.want(404, "DeviceNotOnline", "POST", "/twins/d/methods", call)
		if message, _ := a.body["Message"].(string); !strings.Contains(message, `"errorCode":404103`) {
			t.Errorf("%s", a.text)
		}
		s.want(404, "DeviceNotFound", "POST", "/twins/nobody/methods", call)
		start := time.Now()
		s.want(404, "DeviceNotOnline", "POST", "/twins/d/methods", strings.Replace(call, `"connectTimeoutInSeconds":"0"`, `"connectTimeoutInSeconds":20`, 1))
		if waited := time.Since(start); waited != 20*time.Second-250*time.Millisecond {
			t.Errorf("waited %v for the device to connect", waited)
		}
		late := make(chan httpAnswer)
		go func() {
			late <- s.call("POST", "/twins/d/methods", strings.Replace(call, `"connectTimeoutInSeconds":"0"`, `"connectTimeoutInSeconds":20`, 1))
		}()
		time.Sleep(7 * time.Second)
		c := w.connect(host, "d")
		c.subscribeAll()
		topic, _ := c.wantPublish()
		c.send(publishBytes(strings.Replace(topic, "POST/echo", "res/200", 1), `"late"`, 0, 0))
		if a := <-late; a.text != `{"status":200,"payload":"late"}` {
			t.Errorf("%d %s", a.status, a.text)
		}
		c.send([]byte{0xe0, 0})
		c.wantEnd()
		c = w.connect(host, "d")
		c.subscribeAll()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if topic, body := c.wantPublish(); topic != "$iothub/methods/POST/echo/?$rid=1" || body != `"hi"` {
				t.Errorf("%s %s", topic, body)
			}
			c.send(publishBytes("$iothub/methods/res/404/?$rid=1", `{"said":"no"}`, 0, 0))
		}()
		if a := s.want(200, "", "POST", "/twins/d/methods", call); a.text != `{"status":404,"payload":{"said":"no"}}` {
			t.Errorf("%s", a.text)
		}
		<-done
		start = time.Now()
		a = s.want(504, "GatewayTimeout", "POST", "/twins/d/methods", `{"methodName":"echo","responseTimeoutInSeconds":15}`)
		if message, _ := a.body["Message"].(string); !strings.Contains(message, `"errorCode":504101`) || time.Since(start) != 15*time.Second-250*time.Millisecond {
			t.Errorf("%s after %v", a.text, time.Since(start))
		}
		for _, body := range []string{`{}`, `{"methodName":"x","responseTimeoutInSeconds":"soon"}`, `{"methodName":"x","responseTimeoutInSeconds":4}`, `{"methodName":"x","connectTimeoutInSeconds":301}`} {
			s.want(400, "ArgumentInvalid", "POST", "/twins/d/methods", body)
		}
	})
}

func TestServicePurgesTheMailOfADevice(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		w.provision("d")
		for range 3 {
			_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage(`1`)})
			must(t, err)
		}
		if a := s.want(200, "", "GET", "/devices/d", ""); a.body["cloudToDeviceMessageCount"] != 3.0 {
			t.Errorf("%s", a.text)
		}
		if a := s.want(200, "", "DELETE", "/devices/d/commands", ""); a.text != `{"totalMessagesPurged":3,"deviceId":"d","moduleId":null}` {
			t.Errorf("%s", a.text)
		}
		messages, err := w.C2DMessages("d")
		if must(t, err); messages[0].State != iothub.C2DPurged {
			t.Errorf("%+v", messages)
		}
		c := w.connect("hub-a", "d")
		c.send(subscribeBytes(1, 1, "devices/d/messages/devicebound/#"))
		c.want("9003000101")
		c.wantSilence(time.Minute / 2)
	})
}

// Modules have identities, twins and methods of their own, and go with their device.
func TestModulesGoWithTheirDevice(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		s.want(404, "DeviceNotFound", "GET", "/devices/d/modules", "")
		s.want(404, "DeviceNotFound", "PUT", "/devices/d/modules/m", `{}`)
		s.want(200, "", "PUT", "/devices/d", `{}`)
		if a := s.want(200, "", "GET", "/devices/d/modules", ""); a.text != "[]" {
			t.Errorf("%s", a.text)
		}
		made := s.want(200, "", "PUT", "/devices/d/modules/m", `{"deviceId":"d","moduleId":"m","authentication":{"type":"sas"}}`)
		if made.body["moduleId"] != "m" || made.body["deviceId"] != "d" {
			t.Errorf("%s", made.text)
		}
		key, _ := base64.StdEncoding.DecodeString(made.body["authentication"].(map[string]any)["symmetricKey"].(map[string]any)["primaryKey"].(string))
		s.want(409, "ModuleAlreadyExistsOnDevice", "PUT", "/devices/d/modules/m", `{}`)
		s.want(400, "ArgumentInvalid", "PUT", "/devices/d/modules/n", `{"moduleId":"m"}`)
		s.want(404, "ModuleNotFound", "PUT", "/devices/d/modules/n", `{}`, "If-Match", "*")
		s.want(404, "ModuleNotFound", "GET", "/twins/d/modules/n", "")
		if a := s.want(200, "", "GET", "/devices/d/modules", ""); a.text != "["+made.text+"]" {
			t.Errorf("%s", a.text)
		}
		c := w.mustDial(w.info.Hubs[0].MQTT)
		c.send(connectBytes(connectOptions{id: "d/m", user: s.host + "/d/m/?api-version=2021-04-12", keepAlive: 60,
			password: sasFor(key, s.host+"/devices/d/modules/m", time.Now().Add(time.Hour), "")}))
		c.want("20020000")
		c.send(subscribeBytes(9, 1, "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#"))
		c.want("900400090101")
		a := s.want(200, "", "PATCH", "/twins/d/modules/m", `{"tags":{"a":1},"properties":{"desired":{"x":1}}}`)
		if _, body := c.wantPublish(); body != `{"$version":2,"x":1}` || a.body["moduleId"] != "m" {
			t.Errorf("%s %s", body, a.text)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.wantPublish()
			c.send(publishBytes("$iothub/methods/res/200/?$rid=1", `1`, 0, 0))
		}()
		if a := s.want(200, "", "POST", "/twins/d/modules/m/methods", `{"methodName":"echo"}`); a.text != `{"status":200,"payload":1}` {
			t.Errorf("%s", a.text)
		}
		<-done
		if a := s.want(200, "", "POST", "/devices/query", `{"query":"SELECT moduleId, deviceId FROM devices.modules WHERE tags.a = 1"}`); a.text != `[{"deviceId":"d","moduleId":"m"}]` {
			t.Errorf("%s", a.text)
		}
		s.want(412, "PreconditionFailed", "DELETE", "/devices/d/modules/m", "", "If-Match", `"bm90"`)
		s.want(204, "", "DELETE", "/devices/d/modules/m", "", "If-Match", "*")
		c.wantEnd()
		s.want(404, "ModuleNotFound", "DELETE", "/devices/d/modules/m", "")
	})
}

// A change of a service or an operator is written down before it is answered.
func TestChangesOfServicesAndOperatorsSurvive(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		s, a := w.service(0), &application{w, w.httpClient()}
		defer s.http.CloseIdleConnections()
		defer a.http.CloseIdleConnections()
		w.provision("d")
		_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage(`1`)})
		must(t, err)
		for _, step := range []struct{ method, path, body string }{
			{"PUT", "/devices/plain", `{"status":"disabled","statusReason":"lost"}`},
			{"PATCH", "/twins/plain", `{"tags":{"a":1},"properties":{"desired":{"b":2}}}`},
			{"PUT", "/devices/plain/modules/m", `{}`},
			{"PATCH", "/twins/plain/modules/m", `{"tags":{"a":1}}`},
			{"DELETE", "/devices/d/commands", ""},
			{"POST", "/devices", `[{"id":"bulk","importMode":"create","tags":{"x":1}}]`},
			{"PUT", "/api/devices/made", `{"displayName":"Made","template":"dtmi:x;1","organizations":["o"]}`},
			{"PATCH", "/api/devices/made", `{"displayName":"Changed","enabled":false}`},
			{"PUT", "/api/devices/made/attestation", `{"type":"symmetricKey"}`},
			{"DELETE", "/api/devices/made/attestation", ""},
			{"DELETE", "/devices/plain/modules/m", ""},
			{"DELETE", "/devices/plain", ""},
		} {
			call := s.call
			if strings.HasPrefix(step.path, "/api/") {
				call = func(method, path, body string, _ ...string) httpAnswer {
					return w.mustDo(a.http, method, w.info.Central.URL+path+"?api-version=1.0", body, "Authorization", w.info.Central.APIToken)
				}
			}
			if answer := call(step.method, step.path, step.body); answer.status >= 300 {
				t.Errorf("%s %s: %d %s", step.method, step.path, answer.status, answer.text)
			}
			w.survives(step.method + " " + step.path)
		}
	})
}
