package sim

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// A message that is posted stands in the ledger, and a refusal says why.
func TestPostedMessageIsInTheLedger(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.httpClient()
		defer c.CloseIdleConnections()
		hub := w.info.Hubs[0]
		post := func(id, token string, header ...string) httpAnswer {
			return w.mustDo(c, http.MethodPost, "https://"+hub.HTTPS+"/devices/"+id+"/messages/events?api-version=2020-03-13", `{"temp":1}`,
				append([]string{"Authorization", token}, header...)...)
		}
		good := sasFor(w.key("d"), host+"/devices/d", time.Now().Add(time.Hour), "")
		if a := post("d", good, "iothub-messageid", "m1", "iothub-app-color", "a b&c"); a.status != http.StatusNoContent {
			t.Fatalf("%+v", a)
		}
		l := w.Ledger("d", true)
		m := l.Messages[0]
		if l.Received != 1 || m.Mid != "m1" || m.Hub != hub.Name || string(m.Body) != `{"temp":1}` || *m.Properties["color"] != "a b&c" {
			t.Errorf("%+v", m)
		}
		for name, v := range map[string]struct {
			id, token string
			status    int
			code      string
		}{
			"unknown device": {"nobody", good, http.StatusNotFound, "DeviceNotFound"},
			"wrong key":      {"d", sasFor([]byte("wrong"), host+"/devices/d", time.Now().Add(time.Hour), ""), http.StatusUnauthorized, "IotHubUnauthorizedAccess"},
			"old token":      {"d", sasFor(w.key("d"), host+"/devices/d", time.Now().Add(-time.Hour), ""), http.StatusUnauthorized, "IotHubUnauthorizedAccess"},
			"no token":       {"d", "", http.StatusUnauthorized, "IotHubUnauthorizedAccess"},
		} {
			if a := post(v.id, v.token); a.status != v.status || a.header.Get("iothub-errorcode") != v.code || !strings.Contains(a.text, "ErrorCode:"+v.code) {
				t.Errorf("%s: %+v", name, a)
			}
		}
		if err := w.DisableIdentity("d"); err != nil {
			t.Fatal(err)
		}
		if a := post("d", good); a.status != http.StatusForbidden {
			t.Errorf("disabled: %+v", a)
		}
		if got := w.Ledger("d", false).Received; got != 1 {
			t.Errorf("%d messages in the ledger", got)
		}
	})
}

// hubCall is a request of device d over HTTPS.
func (w *world) hubCall(c *http.Client, method, path, body string, header ...string) httpAnswer {
	w.t.Helper()
	host := w.info.Hubs[0].Host
	token := sasFor(w.key("d"), host+"/devices/d", time.Now().Add(time.Hour), "")
	query := "?api-version=2019-10-01"
	if base, reject := strings.CutSuffix(path, "?reject"); reject {
		path, query = base, query+"&reject"
	}
	return w.mustDo(c, method, "https://"+w.info.Hubs[0].HTTPS+path+query, body, append([]string{"Authorization", token}, header...)...)
}

// A batch is several messages in one request. Either all of them count, or none.
func TestPostedBatchCountsWholeOrNotAtAll(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provision("d")
		c := w.httpClient()
		defer c.CloseIdleConnections()
		post := func(body string) int {
			return w.hubCall(c, "POST", "/devices/d/messages/events", body, "Content-Type", "application/vnd.microsoft.iothub.json").status
		}
		if status := post(`[{"body":"eyJhIjoxfQ==","properties":{"iothub-app-Key":"v w","iothub-messageid":"m1"}},{"body":"plain","base64Encoded":false},{"body":""}]`); status != 204 {
			t.Fatal(status)
		}
		l := w.Ledger("d", true)
		if l.Received != 3 || string(l.Messages[0].Body) != `{"a":1}` || *l.Messages[0].Properties["Key"] != "v w" || l.Messages[0].Mid != "m1" ||
			string(l.Messages[1].Body) != `"plain"` || string(l.Messages[2].Body) != `""` {
			t.Errorf("%+v", l.Messages)
		}
		for body, want := range map[string]int{`{}`: 400, `[]`: 400, `x`: 400, `[{"body":"YQ=="},{"body":"*"}]`: 400, `[{"body":"` + strings.Repeat("A", 256<<10) + `"}]`: 413} {
			if status := post(body); status != want {
				t.Errorf("%.30s: %d, want %d", body, status, want)
			}
		}
		if got := w.Ledger("d", false).Received; got != 3 {
			t.Errorf("%d messages", got)
		}
	})
}

// A device receives, completes, rejects and abandons messages, and the sender learns what became of
// them.
func TestMailIsReceivedAndSettledOverHTTPS(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.httpClient()
		defer c.CloseIdleConnections()
		const box = "/devices/d/messages/deviceBound"
		get := func(header ...string) httpAnswer { return w.hubCall(c, "GET", box, "", header...) }
		if a := get(); a.status != 204 || a.text != "" {
			t.Fatalf("%+v", a)
		}
		send := func(mid, ack string) {
			_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage(`{"n":1}`), Properties: map[string]string{"$.mid": mid, "iothub-ack": ack, "color": "red & blue", "$.cid": "c1"}})
			must(t, err)
		}
		state := func(n int) iothub.C2DMessage {
			all, err := w.C2DMessages("d")
			must(t, err)
			return all[n]
		}
		send("one", "full")
		send("two", "negative")
		send("three", "positive")
		one := get("IotHub-MessageLockTimeout", "60")
		for name, want := range map[string]string{"iothub-messageid": "one", "iothub-correlationid": "c1", "iothub-userid": "", "iothub-to": "/devices/d/messages/devicebound",
			"iothub-ack": "full", "iothub-sequencenumber": "1", "iothub-deliverycount": "0", "iothub-app-color": "red & blue", "Content-Type": "application/json", "ContentEncoding": "utf-8"} {
			if got := one.header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q", name, got)
			}
		}
		lock := one.header.Get("ETag")
		if one.status != 200 || one.text != `{"n":1}` || len(lock) != 38 || lock[0] != '"' || one.header.Get("iothub-expiry") == "" || one.header.Get("iothub-enqueuedtime") == "" {
			t.Fatalf("%+v", one)
		}
		token := strings.Trim(lock, `"`)
		two := strings.Trim(get().header.Get("ETag"), `"`)
		if a := w.hubCall(c, "DELETE", "/devices/d/messages/devicebound/"+token, ""); a.status != 204 { // the lower-case path of the Node SDK
			t.Errorf("complete: %+v", a)
		}
		if a := w.hubCall(c, "DELETE", box+"/"+token, ""); a.status != 412 || a.header.Get("iothub-errorcode") != "DeviceMessageLockLost" {
			t.Errorf("complete again: %+v", a)
		}
		if a := w.hubCall(c, "POST", box+"/"+two+"/abandon", ""); a.status != 204 {
			t.Errorf("abandon: %+v", a)
		}
		if a := get(); a.header.Get("iothub-messageid") != "two" || a.header.Get("iothub-deliverycount") != "1" {
			t.Errorf("after abandon: %+v", a)
		} else if a = w.hubCall(c, "DELETE", box+"/"+strings.Trim(a.header.Get("ETag"), `"`)+"?reject", ""); a.status != 204 {
			t.Errorf("reject: %+v", a)
		}
		if s := state(0); s.State != iothub.C2DCompleted || s.Feedback != iothub.FeedbackSuccess {
			t.Errorf("%+v", s)
		}
		if s := state(1); s.State != iothub.C2DDeadLettered || s.Feedback != iothub.FeedbackRejected || s.DeliveryCount != 2 {
			t.Errorf("%+v", s)
		}
		// the lock is over: the message is there again, the old token is worth nothing
		third := get("IotHub-MessageLockTimeout", "20")
		if a := get(); a.status != 204 {
			t.Errorf("locked: %+v", a)
		}
		time.Sleep(20 * time.Second)
		if a := w.hubCall(c, "DELETE", box+"/"+strings.Trim(third.header.Get("ETag"), `"`), ""); a.status != 412 {
			t.Errorf("old lock: %+v", a)
		}
		// over MQTT it is not the first delivery; what HTTPS holds stays there
		again := strings.Trim(get().header.Get("ETag"), `"`)
		mqtt := w.connect(host, "d")
		mqtt.subscribeAll()
		mqtt.send([]byte{0xc0, 0})
		mqtt.want("d000")
		w.hubCall(c, "POST", box+"/"+again+"/abandon", "")
		if p := mqtt.next(); p.first != 0x3a {
			t.Errorf("%s", p)
		}
		if a := get(); a.status != 204 {
			t.Errorf("under way over MQTT: %+v", a)
		}
		for path, method := range map[string]string{"/devices/d/messages/outbox": "GET", box + "/x/eat": "POST", "/devices/d/messages/box/x": "DELETE"} {
			if a := w.hubCall(c, method, path, ""); a.status != 404 {
				t.Errorf("%s %s: %+v", method, path, a)
			}
		}
		for _, bad := range []string{"x", "0", "301"} {
			if a := get("IotHub-MessageLockTimeout", bad); a.status != 400 {
				t.Errorf("lock timeout %s: %+v", bad, a)
			}
		}
	})
}

func TestFaultsOfAHubReachHTTPS(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provision("d")
		c := w.httpClient()
		defer c.CloseIdleConnections()
		post := func() httpAnswer { return w.hubCall(c, "POST", "/devices/d/messages/events", "x") }
		for kind, want := range map[string]int{iothub.FaultConnack3: 503, iothub.FaultConnack5: 401, iothub.FaultThrottle: 429, iothub.FaultSlow: 204} {
			must(t, w.FaultHub("hub-a", iothub.Fault{Kind: kind, DelayMs: 1500}))
			start := time.Now()
			if a := post(); a.status != want || (kind == iothub.FaultSlow) != (time.Since(start) == 1500*time.Millisecond) {
				t.Errorf("%s: %+v after %v", kind, a, time.Since(start))
			}
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultDropPuback}))
		c.Timeout = 10 * time.Second
		if _, err := w.do(c, "POST", "https://"+w.info.Hubs[0].HTTPS+"/devices/d/messages/events?api-version=1", "x", "Authorization",
			sasFor(w.key("d"), w.info.Hubs[0].Host+"/devices/d", time.Now().Add(time.Hour), "")); err == nil {
			t.Error("a message was answered")
		}
		if got := w.Ledger("d", false).Received; got != 2 {
			t.Errorf("%d messages", got)
		}
		must(t, w.HealHub("hub-a"))
		if a := w.mustDo(c, "POST", "https://"+w.info.Hubs[0].HTTPS+"/devices/d/messages/events", "x", "Authorization",
			sasFor(w.key("d"), w.info.Hubs[0].Host+"/devices/d", time.Now().Add(time.Hour), "")); a.status != 400 {
			t.Errorf("no api-version: %+v", a)
		}
	})
}

// A module has telemetry over HTTPS, and nothing else.
func TestModuleHasOnlyTelemetryOverHTTPS(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		_, err := w.hubs[0].AdmitModule("d", "m", azure.Credentials{Keys: [][]byte{[]byte("k")}})
		must(t, err)
		c := w.httpClient()
		defer c.CloseIdleConnections()
		token := sasFor([]byte("k"), host+"/devices/d/modules/m", time.Now().Add(time.Hour), "")
		url := "https://" + w.info.Hubs[0].HTTPS + "/devices/d/modules/"
		if a := w.mustDo(c, "POST", url+"m/messages/events?api-version=1", "{}", "Authorization", token); a.status != 204 {
			t.Errorf("%+v", a)
		}
		if a := w.mustDo(c, "POST", url+"n/messages/events?api-version=1", "{}", "Authorization", token); a.status != 404 || a.header.Get("iothub-errorcode") != "ModuleNotFound" {
			t.Errorf("%+v", a)
		}
		if l := w.Ledger("d", true); l.Received != 1 || *l.Messages[0].Properties["iothub-connection-module-id"] != "m" {
			t.Errorf("%+v", l)
		}
	})
}
