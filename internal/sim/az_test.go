package sim

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// This file plays the Azure CLI 2.45.0 with the azure-iot extension 0.23.1: the requests it sends, byte for byte, and its way of
// judging the answers, which is what decides whether a user sees a success. Each scenario runs by address and by Azure's names.

// az is the CLI on one of its ways to a simulator.
type az struct {
	*world
	t *testing.T
	// how hosts are called on this way
	central, hub, dps string
	byName            bool
}

// azAnswer is what came back over the wire.
type azAnswer struct {
	status int
	header http.Header
	body   string
}

// send opens a connection as the CLI does for each request, TLS and all, and writes the request as it stands.
func (z *az) send(host, method, target string, header []string, body string) azAnswer {
	z.t.Helper()
	address := host
	var raw net.Conn
	var err error
	if z.byName {
		address = net.JoinHostPort(host, "443")
		var refused string
		if raw, refused = z.realTunnel(address); raw == nil {
			z.t.Fatalf("%s: %s", address, refused)
		}
	} else if raw, err = net.Dial("tcp", strings.Replace(address, "localhost:", "127.0.0.1:", 1)); err != nil {
		z.t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	c := tls.Client(raw, &tls.Config{RootCAs: z.CAPool(), ServerName: hostOf(address)}) // an address gets no SNI
	text := method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n" + body
	if _, err := c.Write([]byte(text)); err != nil {
		z.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		z.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		z.t.Fatal(err)
	}
	return azAnswer{res.StatusCode, res.Header, string(b)}
}

func (z *az) realTunnel(target string) (net.Conn, string) {
	raw, err := net.Dial("tcp", strings.TrimPrefix(z.info.ConnectProxy, "http://"))
	must(z.t, err)
	fmt.Fprintf(raw, "CONNECT %s HTTP/1.0\r\n\r\n", target) // urllib3 says no more
	res, err := http.ReadResponse(bufio.NewReader(raw), &http.Request{Method: http.MethodConnect})
	if err != nil || res.StatusCode != http.StatusOK {
		_ = raw.Close()
		return nil, fmt.Sprint(res, err)
	}
	return raw, ""
}

const azRequestID = "5b0ec8a4-2b07-11f1-9d64-0242ac110002"

// application sends a request to IoT Central. A body of "none" sends nothing, one of "empty" a length of 0.
func (z *az) application(method, target, body string) azAnswer {
	z.t.Helper()
	return z.applicationWith(z.info.Central.APIToken, method, target, body)
}

func (z *az) applicationWith(token, method, target, body string) azAnswer {
	z.t.Helper()
	header := []string{
		"User-Agent: IoTPlatformCliExtension/0.23.1", "Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive",
		"Authorization: " + token, "x-ms-client-request-id: " + azRequestID,
	}
	switch body {
	case "none":
		body = ""
	case "empty":
		body = ""
		header = append(header, "Content-Length: 0")
	default:
		header = append(header, fmt.Sprintf("Content-Length: %d", len(body)), "Content-Type: application/json")
	}
	return z.send(z.central, method, target, header, body)
}

// judged is what a user of `az iot central` sees.
type judged struct {
	exit    int
	printed any
	stderr  string
}

func (j judged) object() map[string]any { m, _ := j.printed.(map[string]any); return m }

func (a azAnswer) judge() judged {
	if a.status == http.StatusCreated || a.status == http.StatusNoContent {
		return judged{printed: map[string]any{"result": "success"}}
	}
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return judged{exit: 1, stderr: "Error parsing response body"}
	}
	switch v := v.(type) {
	case map[string]any:
		if e, has := v["error"]; has {
			return judged{exit: 1, stderr: fmt.Sprint(e)}
		}
	case []any, string:
	default:
		return judged{exit: 1, stderr: "TypeError"}
	}
	return judged{printed: v}
}

// judgeCommand is the exception for commands that are run.
func (a azAnswer) judgeCommand() judged {
	if a.status != http.StatusCreated {
		return a.judge()
	}
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return judged{exit: 1, stderr: "traceback"}
	}
	return judged{printed: v}
}

// succeeds wants an answer that the CLI prints, and returns it.
func (z *az) succeeds(a azAnswer) map[string]any {
	z.t.Helper()
	j := a.judge()
	if j.exit != 0 || a.status >= 400 || j.object() == nil {
		z.t.Fatalf("%d %s: %+v", a.status, a.body, j)
	}
	return j.object()
}

// fails wants an answer that the CLI takes for an error.
func (z *az) fails(status int, a azAnswer) {
	z.t.Helper()
	if j := a.judge(); a.status != status || j.exit != 1 || !strings.Contains(j.stderr, "code:") || !strings.Contains(j.stderr, "message:") {
		z.t.Errorf("%d %s: %+v, want an error with %d", a.status, a.body, j, status)
	}
}

// resource sends a request to the REST of a hub or of DPS by the SDK the CLI uses for both.
func (z *az) resource(host, policy string, key []byte, method, target, body string, more ...string) azAnswer {
	z.t.Helper()
	return z.sendMSREST(host, sasFor(key, host, time.Now().Add(10*time.Minute), policy), method, target, body, more...)
}

func (z *az) sendMSREST(host, token, method, target, body string, more ...string) azAnswer {
	header := []string{
		"User-Agent: python/3.11.2 (Linux-6.1-x86_64-with-glibc2.36) msrest/0.6.21 iothub/0.23.1", "Accept-Encoding: gzip, deflate",
		"Accept: application/json", "Connection: keep-alive", "Content-Type: application/json; charset=utf-8", "accept-language: en-US",
		"x-ms-client-request-id: " + azRequestID, "Authorization: " + token,
	}
	if body != "" || method == http.MethodDelete {
		header = append(header, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return z.send(host, method, target, append(header, more...), body)
}

// hubRequest is resource for hub-a, with the policy of its connection string.
func (z *az) hubRequest(method, path, body string, more ...string) azAnswer {
	z.t.Helper()
	_, policy, key := connectionParts(z.t, z.info.Hubs[0].ConnectionString)
	separator := "?"
	return z.resource(z.hub, policy, key, method, path+separator+"api-version=2021-04-12", body, more...)
}

func (z *az) dpsRequest(method, path, body string, more ...string) azAnswer {
	z.t.Helper()
	_, policy, key := connectionParts(z.t, z.info.DPS.ConnectionString)
	return z.resource(z.dps, policy, key, method, path+"?api-version=2021-10-01", body, more...)
}

// exit is that of `az iot hub` and `az iot dps`.
func (a azAnswer) exit() int {
	switch {
	case a.status == http.StatusNotFound:
		return 3
	case a.status >= 400:
		return 1
	}
	return 0
}

func (z *az) exits(want int, a azAnswer) (body map[string]any) {
	z.t.Helper()
	if a.exit() != want || a.status >= 400 && !json.Valid([]byte(a.body)) {
		z.t.Fatalf("exit %d, want %d: %d %s", a.exit(), want, a.status, a.body)
	}
	_ = json.Unmarshal([]byte(a.body), &body)
	return body
}

func (z *az) exitsWithList(a azAnswer) (list []map[string]any) {
	z.t.Helper()
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != 200 {
		z.t.Fatalf("%d %s", a.status, a.body)
	}
	return list
}

const ga, preview = "?api-version=2022-07-31", "?api-version=2022-06-30-preview"

// TestAz runs every scenario by address and by Azure's names through the CONNECT proxy.
func TestAz(t *testing.T) {
	t.Run("az", func(t *testing.T) {
		for _, scenario := range azScenarios {
			t.Run(scenario.name, func(t *testing.T) {
				for _, way := range []string{"address", "proxy"} {
					t.Run(way, func(t *testing.T) {
						w := realWorld(t, func(c *Config) {
							c.ConnectProxy, c.Template = "127.0.0.1:0", []byte(testTemplate)
						})
						z := &az{world: w, t: t, central: w.info.DPS.HTTPS, dps: w.info.DPS.HTTPS, hub: "localhost:" + portOf(w.info.Hubs[0].HTTPS)}
						if way == "proxy" {
							z.byName = true
							z.central, z.hub, z.dps = w.info.Central.AppID+azure.DomainCentral, "hub-a"+azure.DomainHubs, "dps"+azure.DomainDPS
						}
						scenario.run(z)
					})
				}
			})
		}
	})
}

var azScenarios = []struct {
	name string
	run  func(z *az)
}{
	{"central-device-manual-failover", azFailover},
	{"central-device-manual-failover-refused", azFailoverRefused},
	{"central-device-show-and-list", azDevices},
	{"central-device-create-update-delete", azDeviceLife},
	{"central-device-credentials-and-registration-info", azRegistrationInfo},
	{"central-device-twin", azCentralTwin},
	{"central-device-command", azCommand},
	{"central-device-telemetry", azTelemetry},
	{"central-device-attestation", azAttestation},
	{"central-device-c2d-purge-and-edge", azSystem},
	{"central-query-and-templates", azTemplates},
	{"hub-device-identity", azIdentity},
	{"hub-query", azQuery},
	{"hub-device-twin", azTwin},
	{"hub-invoke-device-method", azMethod},
	{"hub-module-identity", azModules},
	{"device-c2d-receive-and-simulate-http", azDeviceHTTP},
	{"dps-enrollment", azEnrollment},
	{"dps-enrollment-group", azEnrollmentGroup},
	{"device-registration-create", azRegistration},
}

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
	if m, err := z.C2DMessages("dev1"); err != nil || len(m) != 1 || m[0].State != C2DEnqueued {
		z.t.Errorf("%+v %v", m, err)
	}
	z.fails(404, z.application("POST", "/api/devices/nobody/commands/echo"+ga, `{}`))
}

// waitOffline waits until the cloud has noticed that a device has gone.
func (w *world) waitOffline(id string) {
	events, cancel := w.Watch()
	defer cancel()
	if w.device(id).ConnectedHub == "" {
		return
	}
	for e := range events {
		if e.Kind == EventDisconnect && e.Device == id {
			return
		}
	}
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
	_, err := z.SendC2D("dev1", C2D{Body: json.RawMessage(`1`)})
	must(z.t, err)
	purged := z.succeeds(z.application("DELETE", "/system/iothub/devices/dev1/c2d", "empty"))
	if purged["message"] != "Cloud to device (C2D) message queue purged for device dev1. Total messages purged: 1." {
		z.t.Errorf("%v", purged)
	}
	if m, _ := z.C2DMessages("dev1"); m[0].State != C2DPurged {
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
	mid, err := z.SendC2D("dev1", C2D{Body: json.RawMessage(`"hi"`)})
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
	if m, _ := z.C2DMessages("dev1"); m[0].State != C2DCompleted {
		z.t.Errorf("%+v", m)
	}
	if a := z.sendMSREST(z.hub, token, "POST", "/devices/dev1/messages/events?api-version=2019-10-01", `{"id": 1}`); a.status != 204 {
		z.t.Errorf("%+v", a)
	}
	if l := z.Ledger("dev1", true); l.Received != 1 || string(l.Messages[0].Body) != `{"id": 1}` {
		z.t.Errorf("%+v", l)
	}
}

func azEnrollment(z *az) {
	const path = "/enrollments/dev1"
	z.exits(3, z.dpsRequest("GET", path, ""))
	host := z.info.Hubs[1].Host
	made := z.exits(0, z.dpsRequest("PUT", path, `{"registrationId": "dev1", "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAECAwQFBgcICQoLDA0ODw==", "secondaryKey": "AAECAwQFBgcICQoLDA0ODw=="}}, "capabilities": {"iotEdge": false}, "provisioningStatus": "enabled", "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true}, "allocationPolicy": "static", "iotHubs": ["`+host+`"]}`))
	if made["registrationId"] != "dev1" || made["etag"] == nil || made["allocationPolicy"] != "static" {
		z.t.Errorf("%v", made)
	}
	got := z.exits(0, z.dpsRequest("GET", path, ""))
	mechanism := z.exits(0, z.dpsRequest("POST", path+"/attestationmechanism", ""))
	if mechanism["symmetricKey"].(map[string]any)["primaryKey"] != "AAECAwQFBgcICQoLDA0ODw==" {
		z.t.Errorf("%v", mechanism)
	}
	got["attestation"], got["provisioningStatus"] = mechanism, "disabled"
	if changed := z.exits(0, z.dpsRequest("PUT", path, string(azure.EncodeJSON(got)), "If-Match: *")); changed["provisioningStatus"] != "disabled" {
		z.t.Errorf("%v", changed)
	}
	const odd = `{"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}`
	if list := z.exitsWithList(z.dpsRequest("POST", "/enrollments/query", odd)); len(list) != 1 || list[0]["registrationId"] != "dev1" {
		z.t.Errorf("%v", list)
	}
	z.exits(1, z.dpsRequest("PUT", path, string(azure.EncodeJSON(got)))) // exists, and no If-Match
	if a := z.dpsRequest("DELETE", path, "", "If-Match: *"); a.status != 204 {
		z.t.Errorf("%+v", a)
	}
	a := z.resource(z.dps, "provisioningserviceowner", []byte("wrong"), "GET", path+"?api-version=2021-10-01", "")
	if z.exits(1, a); a.status != 401 {
		z.t.Errorf("%+v", a)
	}
}

func azEnrollmentGroup(z *az) {
	const odd = `{"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}`
	if list := z.exitsWithList(z.dpsRequest("POST", "/enrollmentGroups/query", odd)); len(list) != 2 {
		z.t.Errorf("%v", list)
	}
	if got := z.exits(0, z.dpsRequest("GET", "/enrollmentGroups/default", "")); got["enrollmentGroupId"] != "default" {
		z.t.Errorf("%v", got)
	}
	mechanism := z.exits(0, z.dpsRequest("POST", "/enrollmentGroups/default/attestationmechanism", ""))
	if mechanism["symmetricKey"].(map[string]any)["primaryKey"] != z.info.GroupKey {
		z.t.Errorf("%v", mechanism)
	}
}

// azRegistration is `az iot device registration create`: MQTT, a user name without question mark, no skn, a payload of null or of a
// string that holds JSON.
func azRegistration(z *az) {
	address := z.info.DPS.MQTT
	var c *client
	if z.byName {
		address = "global.azure-devices-provisioning.net:8883"
		raw, refused := z.realTunnel(address)
		if raw == nil {
			z.t.Fatal(refused)
		}
		var err error
		c, err = newClient(z.t, raw, z.clientTLS(address))
		must(z.t, err)
	} else {
		var err error
		c, err = z.realDial(address)
		must(z.t, err)
	}
	resource := z.info.IDScope + "/registrations/dev1"
	c.send(connectBytes(connectOptions{id: "dev1", keepAlive: 60, clean: true,
		user:     resource + "/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py%2F2.12.0%28Python%203.11%29",
		password: sasFor(z.key("dev1"), resource, time.Now().Add(time.Hour), "")}))
	c.want("20020000")
	c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
	c.want("9003000101")
	c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid="+azRequestID, `{"payload": "{\"modelId\": \"dtmi:Sample:Failover;1\"}", "registrationId": "dev1"}`, 1, 2))
	c.want("40020002")
	topic, body := c.wantPublish()
	if !strings.HasPrefix(topic, "$dps/registrations/res/202/?$rid="+azRequestID) {
		z.t.Fatalf("%s %s", topic, body)
	}
	var status operationStatus
	must(z.t, json.Unmarshal([]byte(body), &status))
	c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+status.OperationID, " ", 1, 3))
	c.want("40020003")
	_, body = c.wantPublish()
	must(z.t, json.Unmarshal([]byte(body), &status))
	want := z.info.Hubs[0].Host
	if z.byName {
		want = "hub-a.azure-devices.net"
	}
	if status.Status != "assigned" || status.State.AssignedHub != want {
		z.t.Errorf("%s", body)
	}
	if d := z.device("dev1"); d.ModelID != "dtmi:Sample:Failover;1" {
		z.t.Errorf("%+v", d)
	}
	c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=3", `{"payload": null, "registrationId": "dev1"}`, 1, 4))
	c.want("40020004")
	if topic, body := c.wantPublish(); !strings.HasPrefix(topic, "$dps/registrations/res/202/?$rid=3") {
		z.t.Errorf("%s %s", topic, body)
	}
}
