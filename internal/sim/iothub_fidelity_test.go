package sim

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// A client may send no api-version, as Node-RED's Azure node and many bridges do. Telemetry and
// cloud-to-device messages work then, methods are not offered, and twin requests get 400.
func TestClientWithoutAPIVersionHasNoMethodsAndNoTwin(t *testing.T) {
	for _, slash := range []string{"", "/"} {
		inWorld(t, nil, func(w *world) {
			host := w.provision("d")
			o := w.hubOptions(host, "d")
			o.user = host + "/d" + slash
			c, _, code := w.tryHub(o, host)
			if code != 0 {
				t.Fatalf("CONNACK %d", code)
			}
			c.telemetry("", "{}", 1)
			c.subscribeAll()
			for _, topic := range []string{"$iothub/twin/GET/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=1"} {
				answer, body := c.ask(topic, "{}")
				if answer != "$iothub/twin/res/400/?$rid=1" || !strings.Contains(body, `"errorCode":400001`) {
					t.Errorf("%s: %s %s", topic, answer, body)
				}
			}
			must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
			if _, err := w.Method(w.t.Context(), "d", "m", nil); refusal(err) != "404 DeviceNotOnline" {
				t.Errorf("method: %v", err)
			}
			text := "hello"
			_, err := w.SendC2D("d", iothub.C2D{Text: &text})
			must(t, err)
			if topic, body := c.wantPublish(); !strings.HasPrefix(topic, "devices/d/messages/devicebound/") || body != text {
				t.Errorf("%s %s", topic, body)
			}
		})
	}
}

// The C# SDK escapes the device's id, and then the whole resource once
// more.
func TestResourceMayBeEscapedTwice(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		defer s.http.CloseIdleConnections()
		id, key := "a@b", w.key("any")
		for _, made := range []string{id, "a%40b"} {
			auth := `{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"` + base64Of(key) + `","secondaryKey":"` + base64Of(key) + `"}}}`
			s.want(200, "", "PUT", "/devices/"+url.PathEscape(made), auth)
		}
		owner := w.service(0)
		for name, c := range map[string]struct {
			resource, skn string
			key           []byte
			want          byte
		}{
			"once":                {"/devices/" + id, "", key, 0},
			"twice":               {"/devices/" + url.QueryEscape(id), "", key, 0},
			"three times":         {"/devices/" + url.QueryEscape(url.QueryEscape(id)), "", key, 5},
			"twice, by a policy":  {"/devices/" + url.QueryEscape(id), owner.policy, owner.key, 5},
			"once, by a policy":   {"/devices/" + id, owner.policy, owner.key, 0},
			"twice, another's":    {"/devices/" + url.QueryEscape("a@c"), "", key, 5},
			"twice, with its key": {"/devices/" + url.QueryEscape(id), "", w.key("other"), 5},
		} {
			o := w.hubOptions(s.host, id)
			o.password = sasFor(c.key, s.host+c.resource, time.Now().Add(time.Hour), c.skn)
			if _, _, code := w.tryHub(o, s.host); code != c.want {
				t.Errorf("%s: CONNACK %d, want %d", name, code, c.want)
			}
		}
		// DPS: an id with a colon
		c := w.mustDial(w.info.DPS.MQTT)
		token := sasFor(w.key("a:b"), w.info.IDScope+"/registrations/a%3Ab", time.Now().Add(time.Hour), "registration")
		c.send(connectBytes(connectOptions{id: "a:b", user: w.info.IDScope + "/registrations/a:b/api-version=2019-03-31", password: token, clean: true, keepAlive: 120}))
		c.want("20020000")
		c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
		c.want("9003000101")
		if status, body := w.registerAt(c, "a:b", ""); status != "200" {
			t.Errorf("%s %v", status, body)
		}
	})
}

func base64Of(b []byte) string { return strings.Trim(string(azure.EncodeJSON(b)), `"`) }

// A will is a message, so its topic must not have wildcards.
func TestWillWithAWildcardIsRefused(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		for _, topic := range []string{"devices/d/messages/events/a=+", "devices/#"} {
			o := w.hubOptions(host, "d")
			o.willTopic, o.will = topic, "gone"
			c := w.mustDial(w.hubAddr(host))
			c.send(connectBytes(o))
			c.wantEnd()
		}
	})
}

// These are the places where null is not a value.
func TestNullIsNoValue(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		c.subscribeAll()
		for _, patch := range []string{`{"a":[1,null]}`, `{"a":{"b":[[null]]}}`} {
			topic, body := c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", patch)
			if topic != "$iothub/twin/res/400/?$rid=1" || !strings.Contains(body, `"errorCode":400004`) {
				t.Errorf("%s: %s %s", patch, topic, body)
			}
		}
		s := w.service(0)
		defer s.http.CloseIdleConnections()
		s.want(200, "", "PATCH", "/twins/d", `{"tags":{"a":1},"properties":{"desired":{"b":{"c":1,"d":1},"e":1}}}`)
		c.wantPublish()
		for _, whole := range []string{
			`{"properties":{"desired":{"b":null}}}`, `{"properties":{"desired":{"b":{"c":null}}}}`, `{"tags":{"a":null}}`,
			`{"tags":{"a":{"b":{"c":null}}}}`, `{"properties":{"desired":{"b":[null]}}}`,
		} {
			s.want(400, "ArgumentInvalid", "PUT", "/twins/d", whole)
		}
		c.wantSilence(time.Second)
		// What is gone from the new whole is null for the device; what stays is sent although it is
		// the same.
		s.want(200, "", "PUT", "/twins/d", `{"properties":{"desired":{"b":{"c":1,"f":2},"e":1}}}`)
		if _, body := c.wantPublish(); body != `{"$version":3,"b":{"c":1,"d":null,"f":2},"e":1}` {
			t.Errorf("%s", body)
		}
		s.want(200, "", "PUT", "/twins/d", `{"properties":{"desired":{"b":7}}}`)
		if _, body := c.wantPublish(); body != `{"$version":4,"b":7,"e":null}` {
			t.Errorf("%s", body)
		}
		// A method with payload null has an empty body, from every kind of caller.
		call := func(invoke func()) {
			done := make(chan struct{})
			go func() { defer close(done); invoke() }()
			topic, body := c.wantPublish()
			if !strings.HasPrefix(topic, "$iothub/methods/POST/m/?$rid=") || body != "" {
				t.Errorf("%s %q", topic, body)
			}
			c.send(publishBytes("$iothub/methods/res/200/"+topic[strings.Index(topic, "?"):], "", 0, 0))
			<-done
		}
		call(func() { s.want(200, "", "POST", "/twins/d/methods", `{"methodName":"m","payload":null}`) })
		call(func() { s.want(200, "", "POST", "/twins/d/methods", `{"methodName":"m","payload": null }`) })
		call(func() { s.want(200, "", "POST", "/twins/d/methods", `{"methodName":"m"}`) })
		call(func() { _, _ = w.Method(context.WithoutCancel(w.t.Context()), "d", "m", json.RawMessage(" null\n")) })
	})
}

// A message that waits when the device subscribes for the first time is
// delivered, or rejected if the cloud was told to. A subscription lives as long as the session that
// it belongs to.
func TestMailBeforeTheFirstSubscriptionFollowsThePolicy(t *testing.T) {
	for policy, want := range map[string]string{"": iothub.C2DDelivered, EarlyC2DDeliver: iothub.C2DDelivered, EarlyC2DReject: iothub.C2DDeadLettered} {
		inWorld(t, func(c *Config) { c.C2DBeforeSubscription = policy }, func(w *world) {
			host := w.provision("d")
			post := func(text string) {
				_, err := w.SendC2D("d", iothub.C2D{Text: &text, Properties: map[string]string{"iothub-ack": "full"}})
				must(t, err)
				time.Sleep(time.Second)
			}
			post("early")
			c := w.connect(host, "d")
			c.subscribeAll()
			if want == iothub.C2DDelivered {
				if p := c.next(); p.first>>4 != 3 { // not acknowledged
					t.Errorf("%s: %s", policy, p)
				}
			} else {
				c.wantSilence(time.Second)
			}
			m, err := w.C2DMessages("d")
			must(t, err)
			if m[0].State != want || want == iothub.C2DDeadLettered && m[0].Feedback != iothub.FeedbackRejected {
				t.Errorf("%q: %+v", policy, m[0])
			}
			if want == iothub.C2DDelivered {
				return
			}
			c.close()
			time.Sleep(time.Second)
			post("while away, subscribed") // the persistent session goes on
			c = w.connect(host, "d")
			if _, body := c.wantPublish(); body != "while away, subscribed" {
				t.Errorf("%s", body)
			}
			// A message that is kept from the device meanwhile comes behind a second SUBSCRIBE,
			// which all clients send: the subscription is the same one.
			c.close()
			time.Sleep(time.Second)
			post("held back")
			h := w.httpClient()
			box := "https://" + w.info.Hubs[0].HTTPS + "/devices/d/messages/devicebound"
			token := sasFor(w.key("d"), host+"/devices/d", time.Now().Add(time.Hour), "")
			lock := strings.Trim(w.mustDo(h, "GET", box+"?api-version=2021-04-12", "", "Authorization", token).header.Get("ETag"), `"`)
			c = w.connect(host, "d")
			c.subscribeAll()
			if a := w.mustDo(h, "POST", box+"/"+lock+"/abandon?api-version=2021-04-12", "", "Authorization", token); a.status != 204 {
				t.Errorf("%d %s", a.status, a.text)
			}
			h.CloseIdleConnections()
			if _, body := c.wantPublish(); body != "held back" {
				t.Errorf("%s", body)
			}
			post("now")
			if _, body := c.wantPublish(); body != "now" {
				t.Errorf("%s", body)
			}
			c.close()
			time.Sleep(time.Second)
			post("for a session that is thrown away")
			o := w.hubOptions(host, "d")
			o.clean = true
			c, _, _ = w.tryHub(o, host)
			c.subscribeAll()
			c.wantSilence(time.Second)
		})
	}
	c := DefaultConfig()
	c.C2DBeforeSubscription = "perhaps"
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "perhaps") {
		t.Errorf("%v", err)
	}
}
