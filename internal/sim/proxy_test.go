package sim

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// throughProxy dials a name over the CONNECT proxy; the answer to CONNECT comes back if it is a
// refusal.
func (w *world) throughProxy(target string) (net.Conn, string) {
	w.t.Helper()
	raw, err := w.net.DialContext(w.t.Context(), "tcp", strings.TrimPrefix(w.info.ConnectProxy, "http://"))
	must(w.t, err)
	w.t.Cleanup(func() { _ = raw.Close() })
	_, err = raw.Write([]byte("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"))
	must(w.t, err)
	r := bufio.NewReader(raw)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err.Error()
	}
	if res.StatusCode != http.StatusOK {
		return nil, res.Status
	}
	return raw, ""
}

func (w *world) azureClient(target string) *client {
	w.t.Helper()
	raw, refused := w.throughProxy(target)
	if raw == nil {
		w.t.Fatalf("%s: %s", target, refused)
	}
	config := w.clientTLS(target)
	c, err := newClient(w.t, raw, config)
	must(w.t, err)
	return c
}

func withProxy(c *Config) { c.ConnectProxy = "127.0.0.1:3128" }

// A device that knows only Azure's names registers and connects.
func TestDeviceThatKnowsOnlyAzureNamesGetsThroughTheProxy(t *testing.T) {
	inWorld(t, withProxy, func(w *world) {
		if w.info.ConnectProxy != "http://127.0.0.1:3128" {
			t.Errorf("%+v", w.info)
		}
		h := w.httpClient()
		h.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(w.info.ConnectProxy) }
		defer h.CloseIdleConnections()
		base := "https://global.azure-devices-provisioning.net/" + w.info.IDScope + "/registrations/d"
		auth := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(time.Hour), "registration")
		a := w.mustDo(h, "PUT", base+"/register?api-version=2019-03-31", `{"registrationId":"d"}`, "Authorization", auth)
		a = w.mustDo(h, "GET", base+"/operations/"+a.body["operationId"].(string)+"?api-version=2019-03-31", "", "Authorization", auth)
		state, _ := a.body["registrationState"].(map[string]any)
		const host = "hub-a.azure-devices.net"
		if state["assignedHub"] != host {
			t.Fatalf("%s", a.text)
		}
		if a := w.mustDo(h, "POST", base+"?api-version=2019-03-31", `{"registrationId":"d"}`, "Authorization", auth); a.body["assignedHub"] != host {
			t.Errorf("%s", a.text)
		}
		if direct := w.provision("d"); direct != "127.0.0.2" {
			t.Errorf("by address, DPS assigns %s", direct)
		}
		dps := w.azureClient("global.azure-devices-provisioning.net:8883")
		dps.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=2019-03-31", password: auth, clean: true, keepAlive: 120}))
		dps.want("20020000")
		dps.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
		dps.want("9003000101")
		if _, body := w.registerAt(dps, "d", ""); body["registrationState"].(map[string]any)["assignedHub"] != host {
			t.Errorf("%v", body)
		}

		c := w.azureClient(host + ":8883")
		c.id = "d"
		c.send(connectBytes(w.hubOptions(host, "d")))
		c.want("20020000")
		c.telemetry("%24.mid=m", "1", 2)
		if l := w.Ledger("d", false); l.Received != 1 {
			t.Errorf("%+v", l)
		}
		a = w.mustDo(h, "GET", "https://"+w.info.Central.AppID+".azureiotcentral.com/api/devices/d?api-version=1.0", "", "Authorization", w.info.Central.APIToken)
		if a.status != 200 || a.body["provisioned"] != true {
			t.Errorf("%d %s", a.status, a.text)
		}
		// A fault of the hub reaches through the tunnel, and keeps new ones out.
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		c.wantEnd()
		if _, refused := w.throughProxy(host + ":8883"); refused != "502 Bad Gateway" {
			t.Errorf("a killed hub: %s", refused)
		}
		must(t, w.HealHub("hub-a"))
		w.azureClient(host + ":8883")
		must(t, w.FaultHub("hub-b", iothub.Fault{Kind: iothub.FaultClose}))
		raw, refused := w.throughProxy("hub-b.azure-devices.net:8883")
		if raw != nil {
			_ = raw.SetDeadline(time.Now().Add(time.Minute))
			if err := tls.Client(raw, w.clientTLS("hub-b.azure-devices.net:8883")).HandshakeContext(context.Background()); err == nil {
				t.Errorf("a hub that closes lets TLS through; %s", refused)
			}
		}
	})
}

func TestProxyLeadsOnlyToTheCloud(t *testing.T) {
	inWorld(t, withProxy, func(w *world) {
		for target, want := range map[string]string{
			"example.com:443":                                 "403 Forbidden",
			"127.0.0.1:8090":                                  "403 Forbidden",
			"127.0.0.9:443":                                   "403 Forbidden",
			"hub-a.azure-devices.net:80":                      "403 Forbidden",
			"azure-devices.net:443":                           "403 Forbidden",
			"evil-azure-devices.net:443":                      "403 Forbidden",
			"hub-c.azure-devices.net:443":                     "502 Bad Gateway",
			"nobody":                                          "400 Bad Request",
			"127.0.0.2:8883":                                  "",
			"127.0.0.1:443":                                   "",
			"HUB-B.azure-devices.net.:443":                    "",
			"mine.azure-devices-provisioning.net:8883":        "",
			"hub-b.sim.local:8883":                            "",
			"0e3a2d6e-1111-4222-8333.azureiotcentral.com:443": "",
		} {
			if _, got := w.throughProxy(target); got != want {
				t.Errorf("%s: %q, want %q", target, got, want)
			}
		}
		h := w.httpClient()
		defer h.CloseIdleConnections()
		if a := w.mustDo(h, "GET", w.info.ConnectProxy+"/", ""); a.status != 405 {
			t.Errorf("%d %s", a.status, a.text)
		}
	})
	for _, addr := range []string{"0.0.0.0:1", "nonsense", "10.1.2.3:80"} {
		c := DefaultConfig()
		c.ConnectProxy = addr
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", addr)
		}
	}
}
