package sim

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// registerWith registers with the given password and returns the first answer.
func (w *world) registerWith(id, scope, password string) (status string, body map[string]any) {
	w.t.Helper()
	c := w.mustDial(w.info.DPS.MQTT)
	defer c.close()
	c.send(connectBytes(connectOptions{id: id, user: scope + "/registrations/" + id + "/api-version=2019-03-31", password: password, clean: true}))
	c.want("20020000")
	c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
	c.want("9003000101")
	return w.registerAt(c, id, "")
}

func TestDPSClosesOnTopicsThatAreNotItsOwn(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		for name, send := range map[string][]byte{
			"publish":       publishBytes("devices/d/messages/events/", "", 1, 2),
			"subscribe":     subscribeBytes(2, 1, "#"),
			"QoS 2":         publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", "{}", 2, 2),
			"other request": publishBytes("$dps/registrations/PUT/iotdps-unregister/?$rid=1", "{}", 1, 2),
			"too large":     publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", strings.Repeat(" ", 97<<10), 1, 2),
		} {
			c := w.dpsConnect("d")
			_, _ = c.tls.Write(send)
			if err := c.howItEnds(); !isEOF(err) {
				t.Errorf("%s: ends with %v", name, err)
			}
		}
		for _, user := range []string{"", "x", w.info.IDScope + "/registrations/d/?api-version=2019-03-31", w.info.IDScope + "/registrations/other/api-version=2019-03-31"} {
			c := w.mustDial(w.info.DPS.MQTT)
			c.send(connectBytes(connectOptions{id: "d", user: user, clean: true}))
			c.want("20020005")
			c.wantEnd()
		}
		// the keep-alive counts here too
		c := w.mustDial(w.info.DPS.MQTT)
		c.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=1", keepAlive: 10, clean: true}))
		c.want("20020000")
		start := time.Now()
		if c.wantEnd(); time.Since(start) != 15*time.Second {
			t.Errorf("closed after %v", time.Since(start))
		}
	})
}

func TestRegistrationWaitsForApprovalAndIsAssigned(t *testing.T) {
	inWorld(t, func(c *Config) { c.AutoApprove = false; c.Polls = 2 }, func(w *world) {
		c := w.dpsConnect("d")
		start := time.Now()
		status, body := w.registerAt(c, "d", `,"payload":{"iotcModelId":"dtmi:x;1"}`)
		state := body["registrationState"].(map[string]any)
		if status != "200" || body["status"] != "failed" || state["errorCode"] != 400209.0 || state["errorMessage"] != "Custom allocation failed with status code: 401" || state["registrationId"] != "d" || state["assignedHub"] != nil {
			t.Errorf("waiting for approval: %s %v", status, body)
		}
		if time.Since(start) != 9*time.Second || w.State().Totals.Polls != 3 || w.State().Totals.Registrations != 1 {
			t.Errorf("%v, %+v", time.Since(start), w.State().Totals)
		}
		if d := w.device("d"); d.Approved || d.AssignedHub != "" || d.ModelID != "dtmi:x;1" {
			t.Errorf("%+v", d)
		}
		must(t, w.Approve("d"))
		_, body = w.registerAt(c, "d", "")
		state = body["registrationState"].(map[string]any)
		for key, pattern := range map[string]string{"createdDateTimeUtc": `^2000-01-01T00:00:\d\d\.\d{7}Z$`, "lastUpdatedDateTimeUtc": `Z$`, "assignedHub": `^127\.0\.0\.2$`,
			"deviceId": "^d$", "status": "^assigned$", "substatus": "^initialAssignment$", "etag": "^[A-Za-z0-9+/]+=*$"} {
			if text, _ := state[key].(string); !regexp.MustCompile(pattern).MatchString(text) {
				t.Errorf("%s is %v", key, state[key])
			}
		}
		if etag, err := base64.StdEncoding.DecodeString(state["etag"].(string)); err != nil || etag[0] != '"' || len(etag) != 38 {
			t.Errorf("etag %s", etag)
		}
		if !regexp.MustCompile(`^\d\.[0-9a-f]{16}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(body["operationId"].(string)) {
			t.Errorf("%v", body)
		}
		must(t, w.Block("d"))
		if status, body = w.registerAt(c, "d", ""); status != "200" || body["status"] != "failed" {
			t.Errorf("blocked: %s %v", status, body)
		}
		must(t, w.Unblock("d"))
		must(t, w.Disable("d"))
		if status, body = w.registerAt(c, "d", ""); fmt.Sprint(status, " ", body) != "200 map[operationId: registrationState:map[registrationId:d status:disabled] status:disabled]" {
			t.Errorf("disabled: %s %v", status, body)
		}
		must(t, w.Enable("d"))
		if status, body = w.registerAt(c, "D", ""); status != "200" || body["status"] != "assigned" { // ids are case-insensitive; the body's is another spelling
			t.Errorf("%s %v", status, body)
		}
		c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=x&operationId=5.0.0", "", 0, 0))
		if topic, text := c.wantPublish(); topic != "$dps/registrations/res/404/?$rid=x" || !strings.Contains(text, "404202") {
			t.Errorf("%s %s", topic, text)
		}
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=y", "{", 0, 0))
		if topic, text := c.wantPublish(); topic != "$dps/registrations/res/400/?$rid=y" || !strings.Contains(text, "400004") {
			t.Errorf("%s %s", topic, text)
		}
		// a device deleted in the middle of its registration
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=z", `{}`, 0, 0))
		_, text := c.wantPublish()
		operation := strings.Split(text, `"`)[3]
		must(t, w.Delete("d"))
		for range 3 {
			c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=z&operationId="+operation, "", 0, 0))
			_, text = c.wantPublish()
		}
		if !strings.Contains(text, "404201") {
			t.Errorf("%s", text)
		}
	})
}

// DPS does a few things that every MQTT server must do.
func TestDPSKeepsTheRulesOfMQTT(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		w.provision("other")
		c := w.dpsConnect("d")
		c.send([]byte{0xc0, 0})
		c.want("d000")
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", "{}", 0, 0))
		_, text := c.wantPublish()
		operation := strings.Split(text, `"`)[3]
		poll := publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?operationId="+operation+"&$rid=2", "", 0, 0)
		o := w.dpsConnect("other")
		o.send(poll)
		if topic, _ := o.wantPublish(); topic != "$dps/registrations/res/404/?$rid=2" {
			t.Errorf("somebody else's operation: %s", topic)
		}
		c.send(subscribeBytes(7, 0, "$dps/registrations/res/#"))
		c.want("9003000700")
		c.send(poll)
		if p := c.next(); p.first != 0x30 {
			t.Errorf("QoS 0 was granted, got %s", p)
		}
		c.send(packet(0xa2, []byte{0, 8}, mqttString("$dps/registrations/res/#")))
		c.want("b0020008")
		c.send(poll, []byte{0xc0, 0})
		c.want("d000") // and no answer to the poll
		c.send([]byte{0xe0, 0})
		if err := c.howItEnds(); !isEOF(err) {
			t.Error(err)
		}
		o.send(connectBytes(connectOptions{id: "other", user: "x"})) // a second CONNECT
		o.wantEnd()
		time.Sleep(30*time.Minute + time.Second) // operations are forgotten when others begin
		w.provision("late")
		if n := w.dps.Remembered(); n != 1 {
			t.Errorf("%d operations", n)
		}
	})
}

func TestRetryAfterIsSentAsConfigured(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"zero":   {func(c *Config) { c.RetryAfter = 0 }, "&retry-after=0"},
		"absent": {func(c *Config) { c.RetryAfterAbsent = true }, ""},
		"120":    {func(c *Config) { c.RetryAfter = 2 * time.Minute }, "&retry-after=120"},
	} {
		inWorld(t, c.change, func(w *world) {
			cl := w.dpsConnect("d")
			cl.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
			if topic, _ := cl.wantPublish(); topic != "$dps/registrations/res/202/?$rid=1"+c.want {
				t.Errorf("%s: %s", name, topic)
			}
		})
	}
}

func TestEachFaultOfDPSLooksAsItShould(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provision("d")
		five := 5
		first := func() (topic, text string) {
			c := w.dpsConnect("d")
			defer c.close()
			c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
			return c.wantPublish()
		}
		for _, c := range []struct {
			f     provisioning.DPSFault
			topic string
			code  string
		}{
			{provisioning.DPSFault{Kind: provisioning.DPSThrottle}, "$dps/registrations/res/429/?$rid=1&retry-after=3", "429001"},
			{provisioning.DPSFault{Kind: provisioning.DPSThrottle, RetryAfter: &five}, "$dps/registrations/res/429/?$rid=1&retry-after=5", "429001"},
			{provisioning.DPSFault{Kind: provisioning.DPSError500}, "$dps/registrations/res/500/?$rid=1", "500000"},
			{provisioning.DPSFault{Kind: provisioning.DPSUnauthorized}, "$dps/registrations/res/401/?$rid=1", "401000"},
		} {
			must(t, w.FaultDPS(c.f))
			if topic, text := first(); topic != c.topic || !strings.Contains(text, c.code) {
				t.Errorf("%s: %s %s", c.f.Kind, topic, text)
			}
		}
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSSlow, DelayMs: 700, Seconds: 60}))
		start := time.Now()
		c := w.dpsConnect("d") // CONNACK and SUBACK are late
		if d := time.Since(start); d != 1400*time.Millisecond {
			t.Errorf("connected after %v", d)
		}
		w.registerAt(c, "d", "")
		if d := time.Since(start); d != 1400*time.Millisecond+2*700*time.Millisecond+3*time.Second {
			t.Errorf("registered after %v", d)
		}
		time.Sleep(time.Minute + time.Millisecond)
		if f := w.State().DPS.Fault; f != "" {
			t.Errorf("fault %q is still there", f)
		}

		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSStuck}))
		c = w.dpsConnect("d")
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
		_, text := c.wantPublish()
		operation := strings.Split(text, `"`)[3]
		poll := publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+operation, "", 0, 0)
		for range 5 {
			c.send(poll)
			if topic, text := c.wantPublish(); !strings.Contains(topic, "/202/") || !strings.Contains(text, `"registrationState":{"registrationId":"d","status":"assigning"}`) {
				t.Errorf("%s %s", topic, text)
			}
		}
		must(t, w.HealDPS())
		c.send(poll)
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/200/") {
			t.Errorf("%s", topic)
		}

		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSDrop}))
		if topic, _ := first(); !strings.Contains(topic, "/202/") { // and then the connection is closed
			t.Errorf("%s", topic)
		}
		c = w.dpsConnect("d")
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
		c.wantPublish()
		c.wantEnd()
		c = w.dpsConnect("d")
		c.send(poll)
		c.wantEnd()

		must(t, w.HealDPS())
		c = w.dpsConnect("d")
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSDown, Seconds: 10}))
		if err := c.howItEnds(); !isReset(err) {
			t.Errorf("down: ends with %v", err)
		}
		if _, err := w.dial(w.info.DPS.MQTT); !isRefused(err) {
			t.Errorf("down: %v", err)
		}
		if _, err := w.dial(w.info.DPS.HTTPS); !isRefused(err) {
			t.Errorf("down: %v", err)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		c = w.dpsConnect("d")

		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSBlackhole}))
		c.send([]byte{0xc0, 0})
		c.wantSilence(30 * time.Second)
		_, err := w.dialBriefly(w.info.DPS.MQTT)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("blackhole: %v", err)
		}
		must(t, w.HealDPS())
		c.want("d000") // what was sent into the hole is answered after it
		for _, bad := range []provisioning.DPSFault{{}, {Kind: "kill"}, {Kind: provisioning.DPSDown, Seconds: -1}, {Kind: provisioning.DPSSlow, DelayMs: -1}} {
			if got := refusal(w.FaultDPS(bad)); got != "400 " {
				t.Errorf("%+v: %s", bad, got)
			}
		}
	})
}

func TestDeviceRegistersOverHTTPS(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.httpClient()
		defer c.CloseIdleConnections()
		const v = "?api-version=2019-03-31"
		base := "https://" + w.info.DPS.HTTPS + "/" + w.info.IDScope + "/registrations/d"
		token := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(time.Hour), "registration")
		a := w.mustDo(c, "PUT", base+"/register?api-version=2019-03-31", `{"registrationId":"d","payload":{"modelId":"dtmi:x;1"}}`, "Authorization", token)
		if a.status != 202 || a.header.Get("Retry-After") != "3" || a.header.Get("Location") != base+"/register" || a.body["status"] != "assigning" ||
			a.header.Get("Content-Type") != "application/json; charset=utf-8" || a.header.Get("X-Ms-Request-Id") == "" {
			t.Fatalf("%+v", a)
		}
		operation := a.body["operationId"].(string)
		a = w.mustDo(c, "GET", base+"/operations/"+operation+"?api-version=2019-03-31", `{}`, "Authorization", token) // with a body, as Node does
		state, _ := a.body["registrationState"].(map[string]any)
		if a.status != 200 || state["assignedHub"] != "127.0.0.2" || a.header.Get("Retry-After") != "" {
			t.Fatalf("%+v", a)
		}
		a = w.mustDo(c, "POST", base+"?api-version=2019-03-31", `{"registrationId":"d"}`, "Authorization", token)
		if a.status != 200 || a.body["status"] != "assigned" || a.body["assignedHub"] != "127.0.0.2" {
			t.Fatalf("%+v", a)
		}
		if a = w.mustDo(c, "GET", base+"/operations/5.1.2"+v, "", "Authorization", token); a.status != 404 || a.body["errorCode"] != 404202.0 {
			t.Errorf("%+v", a)
		}
		if a = w.mustDo(c, "PUT", base+"/register"+v, `{}`, "Authorization", "SharedAccessSignature x"); a.status != 401 || a.body["errorCode"] != 401000.0 {
			t.Errorf("%+v", a)
		}
		if a = w.mustDo(c, "PUT", base+"/register"+v, strings.Repeat(" ", 96<<10+1), "Authorization", token); a.status != 400 {
			t.Errorf("%+v", a)
		}
		other := strings.Replace(base, "/d", "/e", 1)
		otherToken := sasFor(w.key("e"), w.info.IDScope+"/registrations/e", time.Now().Add(time.Hour), "registration")
		if a = w.mustDo(c, "POST", other+v, `{}`, "Authorization", otherToken); a.status != 404 || a.body["errorCode"] != 404201.0 {
			t.Errorf("%+v", a)
		}
		if a = w.mustDo(c, "GET", other+"/operations/"+operation+v, "", "Authorization", otherToken); a.status != 404 {
			t.Errorf("somebody else's operation: %+v", a)
		}
		x := w.httpClient(w.deviceCert("x", nil))
		defer x.CloseIdleConnections()
		xBase := "https://" + w.info.DPS.HTTPS + "/" + w.info.IDScope + "/registrations/"
		if a = w.mustDo(x, "PUT", xBase+"x/register"+v, `{}`); a.status != 202 {
			t.Errorf("%+v", a)
		}
		if a = w.mustDo(x, "PUT", xBase+"y/register"+v, `{}`); a.status != 401 || a.body["errorCode"] != 401002.0 {
			t.Errorf("%+v", a)
		}

		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSDrop}))
		if a = w.mustDo(c, "PUT", base+"/register"+v, `{}`, "Authorization", token); a.status != 202 {
			t.Errorf("%+v", a)
		}
		if a, err := w.do(c, "GET", base+"/operations/"+operation+v, "", "Authorization", token); err == nil {
			t.Errorf("%+v", a)
		}
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSThrottle}))
		if a = w.mustDo(c, "PUT", base+"/register"+v, `{}`, "Authorization", token); a.status != 429 || a.header.Get("Retry-After") != "3" {
			t.Errorf("%+v", a)
		}
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSSlow}))
		start := time.Now()
		if a = w.mustDo(c, "PUT", base+"/register"+v, `{}`, "Authorization", token); a.status != 202 || time.Since(start) != time.Second {
			t.Errorf("%+v after %v", a, time.Since(start))
		}
		must(t, w.HealDPS())
		if a = w.mustDo(c, "GET", base+"/nothing"+v, ""); a.status != 404 || a.body["error"] == nil {
			t.Errorf("%+v", a)
		}
	})
}

func TestHTTPDateIsTheCloudsClock(t *testing.T) {
	inWorld(t, func(c *Config) { c.ClockOffset = 48 * time.Hour }, func(w *world) {
		c := w.httpClient()
		c.Transport.(*http.Transport).TLSClientConfig.Time = func() time.Time { return time.Now().Add(48 * time.Hour) }
		defer c.CloseIdleConnections()
		if a := w.mustDo(c, "GET", "https://"+w.info.DPS.HTTPS+"/", ""); a.header.Get("Date") != "Mon, 03 Jan 2000 00:00:00 GMT" {
			t.Errorf("%v", a.header)
		}
	})
}

func TestDPSThrottlesBeyondItsLimits(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.Polls, c.RetryAfter, c.DPSLimits = 100, 3*time.Second, provisioning.DPSLimits{RegistrationsPerMinute: 3, PollsPer10s: 5}
	}, func(w *world) {
		register := func(id string) (topic, text string) {
			c := w.dpsConnect(id)
			defer c.close()
			c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
			return c.wantPublish()
		}
		for i := range 3 {
			if topic, _ := register(fmt.Sprintf("d%d", i)); !strings.Contains(topic, "/202/") {
				t.Fatalf("%s", topic)
			}
		}
		time.Sleep(20 * time.Second)
		if topic, text := register("d4"); topic != "$dps/registrations/res/429/?$rid=1&retry-after=40" || !strings.Contains(text, "429001") {
			t.Errorf("%s %s", topic, text)
		}
		time.Sleep(40 * time.Second)
		_, text := register("d0")
		operation := strings.Split(text, `"`)[3]
		c, other := w.dpsConnect("d0"), w.dpsConnect("d1")
		poll := publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+operation, "", 0, 0)
		for range 5 {
			c.send(poll)
			if topic, _ := c.wantPublish(); !strings.Contains(topic, "/202/") {
				t.Errorf("%s", topic)
			}
		}
		c.send(poll)
		if topic, _ := c.wantPublish(); topic != "$dps/registrations/res/429/?$rid=2&retry-after=10" {
			t.Errorf("%s", topic)
		}
		other.send(poll) // another device is not held up: its operation it is not
		if topic, _ := other.wantPublish(); !strings.Contains(topic, "/404/") {
			t.Errorf("%s", topic)
		}
		time.Sleep(10 * time.Second)
		c.send(poll)
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/202/") {
			t.Errorf("%s", topic)
		}
	})
}

func TestDPSOrdersTopicsAndClosesAsConfigured(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfterFirst, c.MalformedDPS = true, provisioning.MalformedClose }, func(w *world) {
		c := w.dpsConnect("d")
		register := publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0)
		c.send(register)
		if topic, _ := c.wantPublish(); topic != "$dps/registrations/res/202/?retry-after=3&$rid=1" {
			t.Errorf("%s", topic)
		}
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSStray}))
		c.send(register)
		first, text := c.wantPublish()
		second, again := c.wantPublish()
		third, last := c.wantPublish()
		if strings.HasSuffix(first, "$rid=1") || !strings.HasSuffix(second, "$rid=1") || second != third || text != again || again != last {
			t.Errorf("%s, %s, %s", first, second, third)
		}
		bad := w.mustDial(w.info.DPS.MQTT)
		bad.send(connectBytes(connectOptions{id: "d", user: "x", clean: true}))
		bad.wantEnd()
		if n := w.dps.Remembered(); n != 2 {
			t.Errorf("%d operations", n)
		}
	})
}

func TestOperationsCanBePolledForHalfAnHour(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.dpsConnect("d")
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
		_, text := c.wantPublish()
		under := strings.Split(text, `"`)[3]
		c.close()
		time.Sleep(15 * time.Minute)
		w.provision("other")
		c = w.dpsConnect("d")
		c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+under, "", 0, 0))
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/200/") {
			t.Errorf("%s", topic)
		}
	})
}
