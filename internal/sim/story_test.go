package sim

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// One device registers, sends telemetry, uses its twin, answers a method and receives a message.
func TestWholeLifeOfADevice(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		start := time.Now()
		host := w.provision("dev-1")
		if host != "127.0.0.2" || time.Since(start) != 3*time.Second {
			t.Fatalf("assigned %s after %v", host, time.Since(start))
		}
		c := w.connect(host, "dev-1")
		c.subscribeAll()
		c.telemetry("%24.mid=0123456789abcdef-1&%24.ct=application%2Fjson&a=b%20c", `{"temp":21.5}`, 5)
		l := w.Ledger("dev-1", true)
		if l.Received != 1 || l.Distinct != 1 || l.Messages[0].Mid != "0123456789abcdef-1" || *l.Messages[0].Properties["a"] != "b c" {
			t.Fatalf("ledger %+v", l)
		}
		c.send(publishBytes("$iothub/twin/GET/?$rid=7", "", 0, 0))
		if topic, body := c.wantPublish(); topic != "$iothub/twin/res/200/?$rid=7" || body != `{"desired":{"$version":1},"reported":{"$version":1}}` {
			t.Fatalf("%s %s", topic, body)
		}
		c.send(publishBytes("$iothub/twin/PATCH/properties/reported/?$rid=8", `{"battery":42.50}`, 0, 0))
		if topic, body := c.wantPublish(); topic != "$iothub/twin/res/204/?$rid=8&$version=2" || body != "" {
			t.Fatalf("%s %s", topic, body)
		}
		must(t, w.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":1200}`)))
		if topic, body := c.wantPublish(); topic != "$iothub/twin/PATCH/properties/desired/?$version=2" || body != `{"$version":2,"fanSpeed":1200}` {
			t.Fatalf("%s %s", topic, body)
		}
		go func() {
			topic, body := c.wantPublish()
			if topic != "$iothub/methods/POST/echo/?$rid=1" || body != `"hi"` {
				t.Errorf("%s %s", topic, body)
			}
			c.send(publishBytes("$iothub/methods/res/200/?$rid=1", `{"said":"hi"}`, 0, 0))
		}()
		r, err := w.Method(w.t.Context(), "dev-1", "echo", json.RawMessage(`"hi"`))
		if err != nil || r.Status != 200 || string(r.Payload) != `{"said":"hi"}` {
			t.Fatalf("%+v %v", r, err)
		}
		mid, err := w.SendC2D("dev-1", iothub.C2D{Body: json.RawMessage(`"12:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
		must(t, err)
		topic, body := c.wantPublish()
		if body != `"12:00"` || !strings.HasPrefix(topic, "devices/dev-1/messages/devicebound/%24.mid="+mid+"&") || !strings.HasSuffix(topic, "&iothub-ack=none&method-name=setAlarm") {
			t.Fatalf("%s %s", topic, body)
		}
		c.send([]byte{0xc0, 0})
		c.want("d000")
		if m, err := w.C2DMessages("dev-1"); err != nil || len(m) != 1 || m[0].State != iothub.C2DCompleted || m[0].DeliveryCount != 1 {
			t.Fatalf("%+v %v", m, err)
		}
		c.send([]byte{0xe0, 0})
		if err := c.howItEnds(); err.Error() != "EOF" {
			t.Fatal(err)
		}
		if d := w.device("dev-1"); d.ConnectedHub != "" || d.AssignedHub != "hub-a" {
			t.Fatalf("%+v", d)
		}
	})
}
