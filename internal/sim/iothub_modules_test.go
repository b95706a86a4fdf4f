package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// moduleOptions is a CONNECT of a module with a key of its own.
func (w *world) moduleOptions(host, device, module string, key []byte) connectOptions {
	return connectOptions{
		id: device + "/" + module, user: host + "/" + device + "/" + module + "/?api-version=2021-04-12", keepAlive: 60,
		password: sasFor(key, host+"/devices/"+device+"/modules/"+module, time.Now().Add(time.Hour), ""),
	}
}

// A module has its own key, twin, methods, telemetry and connection, beside those of its device.
func TestModuleHasAllItsOwnBesideItsDevice(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		h, key := w.hubs[0], []byte("a key of the module's own")
		m, err := h.AdmitModule("d", "m", azure.Credentials{Keys: [][]byte{key}})
		must(t, err)
		for name, id := range map[string][2]string{"409 ModuleAlreadyExistsOnDevice": {"d", "m"}, "404 DeviceNotFound": {"x", "m"}, "400 ArgumentInvalid": {"d", "m/n"}} {
			if _, err := h.AdmitModule(id[0], id[1], azure.Credentials{}); refusal(err) != name {
				t.Errorf("%s: %v", name, err)
			}
		}
		good := w.moduleOptions(host, "d", "m", key)
		with := func(f func(o *connectOptions)) connectOptions {
			o := good
			f(&o)
			return o
		}
		for name, c := range map[string]struct {
			o    connectOptions
			want byte
		}{
			"good":                   {good, 0},
			"resource of the device": {with(func(o *connectOptions) { o.password = sasFor(key, host+"/devices/d", time.Now().Add(time.Hour), "") }), 0},
			"resource of its modules": {with(func(o *connectOptions) {
				o.password = sasFor(key, host+"/devices/d/modules", time.Now().Add(time.Hour), "")
			}), 0},
			"resource of another": {with(func(o *connectOptions) {
				o.password = sasFor(key, host+"/devices/d/modules/mm", time.Now().Add(time.Hour), "")
			}), 5},
			"the device's key":         {w.moduleOptions(host, "d", "m", w.key("d")), 5},
			"client id without module": {with(func(o *connectOptions) { o.id = "d" }), 5},
			"unknown module":           {w.moduleOptions(host, "d", "n", key), 5},
			"no api-version":           {with(func(o *connectOptions) { o.user = host + "/d/m/?" }), 3},
			"no module id":             {with(func(o *connectOptions) { o.user = host + "/d//?api-version=1" }), 3},
		} {
			cl, _, code := w.tryHub(c.o, host)
			if code != c.want {
				t.Errorf("%s: CONNACK %d, want %d", name, code, c.want)
			}
			cl.close()
		}
		// a module's own token is none of the device's
		o := w.hubOptions(host, "d")
		o.password = good.password
		if _, _, code := w.tryHub(o, host); code != 5 {
			t.Errorf("device with its module's token: CONNACK %d", code)
		}

		device := w.connect(host, "d") // both at once, neither takes over
		withModel := with(func(o *connectOptions) { o.user += "&model-id=dtmi%3Amodule%3B1" })
		c, present, code := w.tryHub(withModel, host)
		if !present || code != 0 { // it has connected above
			t.Fatal(present, code)
		}
		c.send(subscribeBytes(1, 1, "devices/d/modules/m/inputs/#", "$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"))
		c.want("9006000101010101")
		device.subscribeAll()
		c.send(publishBytes("devices/d/modules/m/messages/events/%24.on=out&a=1", "{}", 1, 2))
		c.want("40020002")
		l := w.Ledger("d", true)
		if p := l.Messages[0].Properties; l.Received != 1 || *p["iothub-connection-device-id"] != "d" || *p["iothub-connection-module-id"] != "m" || *p["$.on"] != "out" ||
			*p["dt-dataschema"] != "dtmi:module;1" || !strings.Contains(*p["iothub-connection-auth-method"], `"scope":"module"`) || *p["iothub-connection-auth-generation-id"] != w.service(0).want(200, "", "GET", "/devices/d/modules/m", "").body["generationId"] {
			t.Errorf("%+v", l.Messages[0])
		}
		// twins
		if topic, _ := c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"of":"module"}`); topic != "$iothub/twin/res/204/?$rid=1&$version=2" {
			t.Error(topic)
		}
		must(t, m.PatchDesired(map[string]any{"x": json.Number("1")}))
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=2" || body != `{"$version":2,"x":1}` {
			t.Errorf("%s %s", topic, body)
		}
		if _, body := device.ask("$iothub/twin/GET/?$rid=2", ""); body != `{"desired":{"$version":1},"reported":{"$version":1}}` {
			t.Errorf("device: %s", body)
		}
		// methods
		go func() {
			topic, body := c.wantPublish()
			if topic != "$iothub/methods/POST/comp*go/?$rid=1" || body != "7" {
				t.Errorf("%s %s", topic, body)
			}
			c.send(publishBytes("$iothub/methods/res/201/?$rid=1", `"done"`, 0, 0))
		}()
		if r, err := m.Invoke(w.t.Context(), "comp*go", json.RawMessage("7")); err != nil || r.Status != 201 || string(r.Payload) != `"done"` {
			t.Errorf("%+v %v", r, err)
		}
		// C2D is the device's alone
		c.send(subscribeBytes(3, 1, "devices/d/messages/devicebound/#"))
		c.want("9003000301")
		text := "for the device"
		_, err = w.SendC2D("d", iothub.C2D{Text: &text})
		must(t, err)
		if _, body := device.wantPublish(); body != text {
			t.Error(body)
		}
		c.wantSilence(time.Second)
		// a device that is disabled or deleted takes its modules along
		must(t, w.DisableIdentity("d"))
		c.wantEnd()
		device.wantEnd()
		if _, _, code := w.tryHub(good, host); code != 3 {
			t.Errorf("module of a disabled device: CONNACK %d", code)
		}
		must(t, w.Enable("d"))
		c, _, _ = w.tryHub(good, host)
		must(t, w.Delete("d"))
		c.wantEnd()
		if _, _, code := w.tryHub(good, host); code != 5 {
			t.Errorf("module of a deleted device: CONNACK %d", code)
		}
		// the module alone
		w.provision("d")
		_, err = h.AdmitModule("d", "m", azure.Credentials{Keys: [][]byte{key}})
		must(t, err)
		c, _, _ = w.tryHub(good, host)
		if h.DeleteModule("d", "m", "gone") != nil || refusal(h.DeleteModule("d", "m", "gone")) != "404 ModuleNotFound" || len(h.ModulesOf(h.Identity("d"))) != 0 {
			t.Error("the module is still there")
		}
		c.wantEnd()
		w.connect(host, "d")
		for n := range 50 {
			_, err = h.AdmitModule("d", fmt.Sprint("m", n), azure.Credentials{})
			must(t, err)
		}
		if _, err = h.AdmitModule("d", "more", azure.Credentials{}); refusal(err) != "413 TooManyModulesOnDevice" {
			t.Error(err)
		}
	})
}

// A module may publish to its own topics only.
func TestModulePublishesOnlyWhereItMay(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		key := []byte("k")
		_, err := w.hubs[0].AdmitModule("d", "m", azure.Credentials{Keys: [][]byte{key}})
		must(t, err)
		for _, topic := range []string{"devices/d/messages/events/", "devices/d/modules/mm/messages/events/", "devices/d/modules/m/messages/eventsx", "devices/d/modules/m/inputs/a"} {
			c, _, code := w.tryHub(w.moduleOptions(host, "d", "m", key), host)
			if code != 0 {
				t.Fatal(code)
			}
			c.send(publishBytes(topic, "x", 1, 1))
			if err := c.howItEnds(); !isEOF(err) {
				t.Errorf("%s: %v", topic, errors.Unwrap(err))
			}
		}
		if l := w.Ledger("d", false); l.Received != 0 {
			t.Errorf("%+v", l)
		}
	})
}
