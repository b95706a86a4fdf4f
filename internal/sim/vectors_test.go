package sim

import (
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// The conversation in the appendix of the protocol reference takes place byte for byte, with its
// keys and names.
func TestConversationOfTheProtocolReference(t *testing.T) {
	setup := func(c *Config) { c.IDScope, c.GroupKey = "0ne00ABCDEF", simtest.VectorGroupKey }
	inWorld(t, setup, func(w *world) {
		c := w.mustDial(w.info.DPS.MQTT)
		c.send(simtest.Vector(t, simtest.VectorDPSConnect), simtest.Vector(t, simtest.VectorDPSSubscribe), simtest.Vector(t, simtest.VectorRegister)) // pipelined
		c.want("20020000")
		c.want("9003000101")
		c.want("40020002")
		p := c.next()
		topic, id, body := p.publish()
		want, _, _ := (received{0x32, simtest.Vector(t, simtest.VectorDPSResponse)[3:]}).publish()
		if topic != want || id != 1 || p.first != 0x32 {
			t.Fatalf("%s", p)
		}
		operation := strings.Split(body, `"`)[3]
		if len(operation) != len("5.71cf7e38aabbccdd.11112222-3333-4444-5555-666677778888") || body != `{"operationId":"`+operation+`","status":"assigning"}` {
			t.Fatalf("%s", body)
		}
		poll := strings.Replace(string(simtest.Vector(t, simtest.VectorPoll)), "5.71cf7e38aabbccdd.11112222-3333-4444-5555-666677778888", operation, 1)
		c.send([]byte(poll))
		c.want("40020003")
		if topic, body := c.wantPublish(); topic != "$dps/registrations/res/200/?$rid=2" || !strings.Contains(body, `"status":"assigned"`) {
			t.Fatalf("%s %s", topic, body)
		}
		c.close()
		if d := w.device("dev-001"); d.ModelID != "dtmi:Sample:Failover;1" {
			t.Fatalf("%+v", d)
		}

		c = w.mustDial(w.hubAddr("hub-a"))
		c.send(simtest.Vector(t, simtest.VectorHubConnect), simtest.Vector(t, simtest.VectorHubSubscribe), simtest.Vector(t, simtest.VectorTelemetry))
		c.want("20020000")
		c.want("9006000101000000")
		c.want("40020005")
		m := w.Ledger("dev-001", true).Messages[0]
		for key, value := range map[string]string{"$.ct": "application/json", "$.ce": "utf-8", "$.mid": "m1", "a": "b c",
			"iothub-connection-device-id": "dev-001", "dt-dataschema": "dtmi:Sample:Failover;1", "iothub-message-source": "Telemetry"} {
			if got := m.Properties[key]; got == nil || *got != value {
				t.Errorf("property %s is %v", key, got)
			}
		}
		if string(m.Body) != `{"temp":21.5}` || m.Mid != "m1" || m.Hub != "hub-a" {
			t.Errorf("%+v", m)
		}
		c.close()
		c = w.mustDial(w.hubAddr("hub-a"))
		c.send(simtest.Vector(t, simtest.VectorHubConnect))
		c.want("20020100") // the session is there
	})
}
