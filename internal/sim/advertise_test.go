package sim

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// Clients may know a cloud by another name than its address, as from another container. The cloud
// then has that name in sim.json, in assignedHub and in certificates, and accepts tokens for it.
func TestCloudTellsItsAdvertisedName(t *testing.T) {
	for host, base := range map[string]string{"Sim.example": "0.0.0.0", "172.17.0.2": "127.0.0.1"} {
		inWorld(t, func(c *Config) {
			c.Layout, c.Advertise, c.BaseAddress, c.ListenAny, c.ControlAddr = LayoutPorts, host, base, true, "0.0.0.0:8090"
			c.RetryAfter = 0
			listen := c.Listen
			c.Listen = func(network, addr string) (net.Listener, error) {
				return listen(network, strings.Replace(addr, "0.0.0.0:", "127.0.0.1:", 1)) // the network in memory has no other
			}
		}, func(w *world) {
			if text := string(azure.EncodeJSON(w.info)); strings.Contains(text, "127.0.0.1") ||
				strings.Contains(text, "0.0.0.0") || strings.Count(text, host) < 13 {
				t.Errorf("%s", text)
			}
			dial := func(addr string) *client {
				name, port, err := net.SplitHostPort(addr)
				must(t, err)
				if name != host {
					t.Errorf("told %s", addr)
				}
				raw, err := w.net.DialContext(w.t.Context(), "tcp", "127.0.0.1:"+port)
				must(t, err)
				c, err := newClient(w.t, raw, &tls.Config{RootCAs: w.CAPool(), ServerName: name})
				must(t, err)
				return c
			}
			c := dial(w.info.ProvisioningHost)
			token := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(time.Hour), "registration")
			c.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=2019-03-31", password: token, clean: true}))
			c.want("20020000")
			c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
			c.want("9003000101")
			_, body := w.registerAt(c, "d", "")
			hub := body["registrationState"].(map[string]any)["assignedHub"].(string)
			if hub != w.info.Hubs[0].Host || hub != w.info.Hubs[0].MQTT {
				t.Errorf("assigned to %s", hub)
			}
			c = dial(hub)
			c.send(connectBytes(w.hubOptions(hub, "d")))
			c.want("20020000")
			r, err := http.NewRequestWithContext(w.t.Context(), "DELETE", "http://"+host+":8090/api/ledger", nil)
			must(t, err)
			if err := w.guard(r); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Layout = LayoutLoopback }, "needs layout ports"},
		{func(c *Config) { c.Advertise = "sim:8883" }, "without a port"},
		{func(c *Config) { c.Advertise = "a..b" }, "host name"},
		{func(c *Config) { c.Advertise = "0.0.0.0" }, "host name"},
		{func(c *Config) { c.BaseAddress = "0.0.0.0" }, "--listen-any"},
		{func(c *Config) { c.BaseAddress, c.Advertise, c.ListenAny = "0.0.0.0", "", true }, "base address"},
	} {
		config := DefaultConfig()
		config.Layout, config.Advertise = LayoutPorts, "sim"
		c.change(&config)
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", config.Advertise, err, c.want)
		}
	}
}
