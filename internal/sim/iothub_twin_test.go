package sim

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// ask sends a twin request and returns the answer's topic and body.
func (c *client) ask(topic, body string) (string, string) {
	c.t.Helper()
	c.send(publishBytes(topic, body, 0, 0))
	return c.wantPublish()
}

func TestReportedPatchesFollowTheRules(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.connect(w.provision("d"), "d")
		c.subscribeAll()
		const patch = "$iothub/twin/PATCH/properties/reported/?$rid=1"
		version := 1
		deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
		for _, s := range []struct {
			body   string
			status int
		}{
			{`{"a":1,"b":{"c":true,"d":null},"e":[1,{"f":"g"}],"n":null}`, 204},
			{`{"b":{"c":null,"x":12345678901}}`, 204},
			{`{"big":4503599627370495,"small":-4503599627370496,"float":1e300,"exact":1.10}`, 204},
			{`{}`, 204},
			{`{"$version":7}`, 204},
			{deep(10), 204},
			{deep(11), 400},
			{`{"sized":["` + strings.Repeat(`x","`, 16000) + `"]}`, 204}, // what counts are the values, not their JSON
			{`{"sized":[` + strings.Repeat(`1,`, 4096) + `1]}`, 413},
			{`{"sized":["` + strings.Repeat(`\u0001","`, 12000) + `"]}`, 204},
			{`{"sized":null}`, 204},
			{`{"a":4503599627370496}`, 400},
			{`{"a":-4503599627370497}`, 400},
			{`{"good":1,"$bad":2}`, 400},
			{`{"a.b":1}`, 400}, {`{"a#b":1}`, 400}, {`{"a b":1}`, 400}, {`{"a":{"$x":1}}`, 400}, {`{"":1}`, 400}, {"{\"a\\u0007\":1}", 400},
			{`{"` + strings.Repeat("k", 1025) + `":1}`, 400},
			{`{"a":"` + strings.Repeat("s", 4097) + `"}`, 400},
			{`{"a":[null]}`, 400},
			{`[1]`, 400}, {`null`, 400}, {``, 400}, {`{"a":1}{}`, 400}, {`{"a":`, 400}, {`{"a":1} x`, 400}, {"{\"a\":\"\xff\"}", 400},
			{`{"a":["` + strings.Repeat(`xxx","`, 11000) + `"]}`, 413},
			{`{"a":["` + strings.Repeat(`x","`, 40000) + `"]}`, 413},
		} {
			topic, body := c.ask(patch, s.body)
			if s.status == 204 {
				if version++; topic != fmt.Sprintf("$iothub/twin/res/204/?$rid=1&$version=%d", version) || body != "" {
					t.Errorf("%.60s: %s %s", s.body, topic, body)
				}
				continue
			}
			var e azure.ErrorDocument
			if topic != fmt.Sprintf("$iothub/twin/res/%d/?$rid=1", s.status) || json.Unmarshal([]byte(body), &e) != nil || e.ErrorCode/1000 != s.status || e.Message == "" || e.TrackingID == "" || e.TimestampUTC == "" {
				t.Errorf("%.60s: %s %s", s.body, topic, body)
			}
		}
		_, body := c.ask("$iothub/twin/GET/?$rid=2", " ")
		want := `{"desired":{"$version":1},"reported":{"$version":10,` + deep(10)[1:len(deep(10))-1] + `,"b":{"x":12345678901},"big":4503599627370495,"e":[1,{"f":"g"}],"exact":1.10,"float":1e300,"small":-4503599627370496}}`
		if body != want {
			t.Errorf("twin %s\nwant %s", body, want)
		}
		c.send(publishBytes("$iothub/twin/PATCH/properties/reported/", `{"quiet":1}`, 1, 3)) // no rid, no answer; QoS 1 is fine
		c.want("40020003")
		twin, err := w.Twin("d")
		if err != nil || twin.Reported["quiet"] != json.Number("1") || twin.Reported["$version"] != int64(11) {
			t.Errorf("%v %v", twin, err)
		}
		twin, err = w.twin("d", true)
		stamped := twin.Reported["$metadata"].(map[string]any)
		if x := stamped["b"].(map[string]any)["x"].(map[string]any); err != nil || x["$lastUpdatedVersion"] != int64(3) || stamped["n"] != nil || stamped["$lastUpdatedVersion"] != int64(11) {
			t.Errorf("%v", stamped)
		}
	})
}

func TestDeviceIsNotifiedOfDesiredChanges(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`))) // not subscribed: nothing is queued
		c.subscribeAll()
		for _, s := range []struct{ patch, want string }{
			{`{"b":{"c":2}}`, `{"$version":3,"b":{"c":2}}`}, {`{"a":null}`, `{"$version":4,"a":null}`}, {`{"b":{"c":null}}`, `{"$version":5,"b":{"c":null}}`},
		} {
			must(t, w.PatchDesired("d", json.RawMessage(s.patch)))
			if topic, body := c.wantPublish(); body != s.want || topic != "$iothub/twin/PATCH/properties/desired/?$version="+body[12:13] {
				t.Errorf("%s %s", topic, body)
			}
		}
		if _, body := c.ask("$iothub/twin/GET/?$rid=a%20b", ""); body != `{"desired":{"$version":5,"b":{}},"reported":{"$version":1}}` {
			t.Errorf("%s", body)
		}
		for _, bad := range []string{`[]`, `{"$a":1}`, `{"a":["` + strings.Repeat(`xxxx","`, 9000) + `"]}`} {
			if got := refusal(w.PatchDesired("d", json.RawMessage(bad))); !strings.HasSuffix(got, " ArgumentInvalid") {
				t.Errorf("%.20s: %v", bad, got)
			}
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultThrottle, DelayMs: 3000}))
		if topic, body := c.ask("$iothub/twin/GET/?$rid=1", ""); topic != "$iothub/twin/res/429/?$rid=1" || !strings.Contains(body, "429001") {
			t.Errorf("%s %s", topic, body)
		}
		if topic, _ := c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", "{}"); topic != "$iothub/twin/res/429/?$rid=1" {
			t.Errorf("%s", topic)
		}
	})
}

func TestMethodIsCalledAndAnswered(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		call := func(name, payload string) (iothub.MethodResult, string) {
			r, err := w.Method(w.t.Context(), "d", name, json.RawMessage(payload))
			return r, refusal(err)
		}
		if _, got := call("echo", ""); got != "404 DeviceNotFound" {
			t.Error(got)
		}
		host := w.provision("d")
		if _, got := call("echo", ""); got != "404 DeviceNotOnline" {
			t.Error(got)
		}
		c := w.connect(host, "d")
		if _, got := call("echo", ""); got != "404 DeviceNotOnline" { // connected, not subscribed
			t.Error(got)
		}
		c.subscribeAll()
		if _, got := call("echo", "{"); got != "400 BadRequest" {
			t.Error(got)
		}
		if _, got := call("echo", `"`+strings.Repeat("x", iothub.MethodMaxBytes)+`"`); got != "413 MessageTooLarge" {
			t.Error(got)
		}
		var answering sync.WaitGroup
		answer := func(wantTopic, wantBody, topic, body string) {
			answering.Wait()
			answering.Go(func() {
				if got, text := c.wantPublish(); got != wantTopic || text != wantBody {
					t.Errorf("%s %s", got, text)
				}
				c.send(publishBytes(topic, body, 1, 7))
				c.want("40020007")
			})
		}
		answer("$iothub/methods/POST/thermostat1*getReport/?$rid=1", "", "$iothub/methods/res/404/?$rid=1", "")
		if r, got := call("thermostat1*getReport", ""); got != "<nil>" || r.Status != 404 || string(r.Payload) != "null" {
			t.Errorf("%+v %s", r, got)
		}
		answer("$iothub/methods/POST/x/?$rid=2", "", "$iothub/methods/res/200/?$rid=2", "not JSON")
		if _, got := call("x", "null"); got != "502 BadDeviceResponse" {
			t.Error(got)
		}
		answering.Wait()
		// nobody answers: 30 s; a late answer, and one to an unknown rid, is ignored
		start := time.Now()
		if _, got := call("x", ""); got != "504 GatewayTimeout" || time.Since(start) != 30*time.Second {
			t.Errorf("%s after %v", got, time.Since(start))
		}
		c.wantPublish()
		c.send(publishBytes("$iothub/methods/res/200/?$rid=3", "1", 0, 0), publishBytes("$iothub/methods/res/200/?$rid=ffff", "1", 0, 0))
		// the link ends: the rid dies, the caller waits for the time-out
		go func() {
			c.wantPublish()
			c.close()
			c = w.connect(host, "d")
			c.subscribeAll()
			c.send(publishBytes("$iothub/methods/res/200/?$rid=4", "1", 0, 0))
		}()
		start = time.Now()
		if _, got := call("x", ""); got != "504 GatewayTimeout" || time.Since(start) != 30*time.Second {
			t.Errorf("%s after %v", got, time.Since(start))
		}
		// rids count in hex, per connection
		for i := range 17 {
			rid := fmt.Sprintf("%x", i+1)
			answer("$iothub/methods/POST/n/?$rid="+rid, "7", "$iothub/methods/res/200/?$rid="+rid, rid[:1])
			if _, got := call("n", "7"); got != "<nil>" && rid[0] < 'a' {
				t.Error(got)
			}
		}
		answering.Wait()
	})
}

func TestMailWaitsIsDeliveredAndExpires(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		send := func(text string, ttl int) string {
			mid, err := w.SendC2D("d", iothub.C2D{Text: &text, TTLSeconds: ttl})
			must(t, err)
			return mid
		}
		states := func() (s string) {
			all, err := w.C2DMessages("d")
			must(t, err)
			for _, m := range all {
				s += fmt.Sprintf("%s/%d ", m.State, m.DeliveryCount)
			}
			return strings.TrimSpace(s)
		}
		send("one", 60)
		send("two", 0)
		time.Sleep(time.Minute)
		if s := states(); s != "expired/0 enqueued/0" {
			t.Error(s)
		}
		c := w.connect(host, "d")
		c.subscribeAll()
		if _, body := c.wantPublish(); body != "two" {
			t.Error(body)
		}
		c.send([]byte{0xc0, 0})
		c.want("d000")
		for _, text := range []string{"a", "b", "c"} {
			send(text, 0)
		}
		take := func() (text string, id uint16, first byte) {
			p := c.next()
			_, id, text = p.publish()
			return text, id, p.first
		}
		_, idA, _ := take()
		_, idB, _ := take()
		c.send(packet(0x40, []byte{byte(idB >> 8), byte(idB)})) // out of order: ignored
		c.send(packet(0x40, []byte{byte(idA >> 8), byte(idA)}))
		c.send([]byte{0xc0, 0})
		take()
		c.want("d000")
		if s := states(); s != "expired/0 completed/1 completed/1 delivered/1 delivered/1" {
			t.Error(s)
		}
		// never acknowledged: delivered ten times, with DUP from the second on, then given up
		for range 9 {
			c.close()
			c = w.connect(host, "d")
			if text, id, first := take(); text != "b" || first != 0x3a || id != idB {
				t.Errorf("%s %x %d", text, first, id)
			}
			take()
		}
		c.close()
		time.Sleep(time.Second)
		if s := states(); s != "expired/0 completed/1 completed/1 deadlettered/10 deadlettered/10" {
			t.Error(s)
		}
		for range 50 {
			send("x", 0)
		}
		if _, err := w.SendC2D("d", iothub.C2D{}); refusal(err) != "403 DeviceMaximumQueueDepthExceeded" {
			t.Errorf("%v", err)
		}
		// QoS 0: completed when sent
		c = w.connect(host, "d")
		for range 50 {
			take()
		}
		c.close()
		c = w.connect(host, "d")
		for range 50 {
			c.wantPublish()
		}
		c.send(subscribeBytes(5, 0, "devices/d/messages/devicebound/#"))
		c.want("9003000500")
		send("quick", 0)
		if text, id, first := take(); text != "quick" || id != 0 || first != 0x30 {
			t.Errorf("%s %d %x", text, id, first)
		}
		if s := states(); !strings.HasSuffix(s, "completed/1") || strings.Contains(s, "enqueued") {
			t.Error(s)
		}
	})
}

// A full mailbox of large messages is three times what may wait for a client. Yet it arrives, whole
// and once. So it does on a slow hub, for a client that reads late, and with QoS 0.
func TestFullMailboxOfLargeMessagesArrivesWhole(t *testing.T) {
	for _, c := range []struct {
		name string
		qos  byte
		slow bool
	}{{"QoS 1", 1, false}, {"QoS 0", 0, false}, {"slow", 1, true}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				host := w.provision("d")
				d := w.connect(host, "d")
				d.send(subscribeBytes(1, c.qos, "devices/d/messages/devicebound/#"))
				d.next()
				d.close()
				synctest.Wait()
				large := strings.Repeat("x", 60_000)
				for range 50 {
					_, err := w.SendC2D("d", iothub.C2D{Text: &large})
					must(t, err)
				}
				if c.slow {
					must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DelayMs: 300}))
				}
				d = w.connect(host, "d") // and so behind the CONNACK
				time.Sleep(5 * time.Second)
				for n := range 50 {
					if _, body := d.wantPublish(); body != large {
						t.Fatalf("message %d has %d bytes", n, len(body))
					}
				}
				messages, err := w.C2DMessages("d")
				must(t, err)
				for _, m := range messages {
					if m.DeliveryCount != 1 {
						t.Fatalf("delivered %d times", m.DeliveryCount)
					}
				}
				d.close()
			})
		})
	}
}

// A text that becomes part of a topic must be a name, and must fit.
func TestNamesThatAreNoTopicsAreRefused(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		d := w.connect(w.provision("d"), "d")
		d.subscribeAll()
		for _, name := range []string{strings.Repeat("x", 101), strings.Repeat("x", 65507), "a\x00b", "a/b", "a?$rid=9", "#", "\xff"} {
			if _, err := w.Method(w.t.Context(), "d", name, nil); refusal(err) != "400 ArgumentInvalid" {
				t.Errorf("%.20q: %v", name, err)
			}
		}
		topic := "$iothub/twin/GET/?$rid=" + strings.Repeat("r", 65535-23)
		d.send(publishBytes(topic, " ", 0, 0))
		d.wantEnd()
	})
}

func TestMailArrivesAsItWasSent(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if _, err := w.SendC2D("d", iothub.C2D{}); refusal(err) != "404 DeviceNotFound" {
			t.Errorf("%v", err)
		}
		c := w.connect(w.provision("d"), "d")
		c.subscribeAll()
		at := "@"
		for _, s := range []struct {
			c           iothub.C2D
			topic, body string
		}{
			{iothub.C2D{Text: &at, Properties: map[string]string{"$.mid": "m 1", "method-name": "a*b", "iothub-ack": "full"}},
				"devices/d/messages/devicebound/%24.mid=m%201&%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound&iothub-ack=full&method-name=a%2Ab", "@"},
			{iothub.C2D{Body: json.RawMessage(`1`), Properties: map[string]string{"$.mid": "m", "$.ct": "text/plain", "$.cid": "c", "$.uid": "u", "A": ""}},
				"devices/d/messages/devicebound/%24.mid=m&%24.cid=c&%24.uid=u&%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound&%24.ct=text%2Fplain&%24.ce=utf-8&iothub-ack=none&A=", "1"},
			{iothub.C2D{Body: json.RawMessage(`{"a":1}`), Properties: map[string]string{"$.mid": "m", "x&y": "1=2"}},
				"devices/d/messages/devicebound/%24.mid=m&%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound&%24.ct=application%2Fjson&%24.ce=utf-8&iothub-ack=none&x%26y=1%3D2", `{"a":1}`},
		} {
			_, err := w.SendC2D("d", s.c)
			must(t, err)
			if topic, body := c.wantPublish(); topic != s.topic || body != s.body {
				t.Errorf("%s %s", topic, body)
			}
		}
		for _, bad := range []iothub.C2D{{Properties: map[string]string{"iothub-ack": "maybe"}}, {Body: json.RawMessage("{")}, {Body: json.RawMessage("1"), Text: &at}, {TTLSeconds: -1}, {TTLSeconds: 172801},
			{Body: json.RawMessage(`"` + strings.Repeat("x", 64<<10) + `"`)}} {
			if _, err := w.SendC2D("d", bad); err == nil {
				t.Errorf("%.60v: accepted", bad)
			}
		}
	})
}

// The sender of a message gets the feedback that it asked for.
func TestSenderGetsTheFeedbackItAskedFor(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		for _, ack := range []string{"none", "positive", "negative", "full"} {
			for _, ttl := range []int{60, 3600} {
				_, err := w.SendC2D("d", iothub.C2D{TTLSeconds: ttl, Properties: map[string]string{"iothub-ack": ack}})
				must(t, err)
			}
		}
		time.Sleep(time.Minute)
		c := w.connect(host, "d")
		c.subscribeAll()
		for range 4 {
			c.wantPublish()
		}
		c.send([]byte{0xc0, 0})
		c.want("d000")
		got := ""
		all, err := w.C2DMessages("d")
		must(t, err)
		for _, m := range all {
			got += m.State + ":" + m.Feedback + " "
		}
		if got != "expired: completed: expired: completed:Success expired:Expired completed: expired:Expired completed:Success " {
			t.Error(got)
		}
		_, err = w.SendC2D("d", iothub.C2D{Properties: map[string]string{"iothub-ack": "negative"}})
		must(t, err)
		for range 10 {
			if p := c.next(); p.first>>4 != 3 {
				t.Fatalf("%s", p)
			}
			c.close()
			c = w.connect(host, "d")
		}
		if all, err = w.C2DMessages("d"); err != nil || all[8].Feedback != iothub.FeedbackExhausted {
			t.Errorf("%+v %v", all[8], err)
		}
	})
}
