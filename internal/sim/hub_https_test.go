package sim

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestTelemetryOverHTTPS: a message that is posted stands in the ledger, and a refusal says why.
func TestTelemetryOverHTTPS(t *testing.T) {
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
