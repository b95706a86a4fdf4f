package sim

import (
	"encoding/hex"
	"strings"
	"testing"
)

// These are published packets, byte for byte.
const (
	vectorDPSConnect = `
10 fb 01 00 04 4d 51 54 54 04 c2 00 78 00 07 64 65 76 2d 30 30 31 00 52
30 6e 65 30 30 41 42 43 44 45 46 2f 72 65 67 69 73 74 72 61 74 69 6f 6e
73 2f 64 65 76 2d 30 30 31 2f 61 70 69 2d 76 65 72 73 69 6f 6e 3d 32 30
31 39 2d 30 33 2d 33 31 26 43 6c 69 65 6e 74 56 65 72 73 69 6f 6e 3d 67
6f 2d 68 61 25 32 46 31 2e 30 00 92 53 68 61 72 65 64 41 63 63 65 73 73
53 69 67 6e 61 74 75 72 65 20 73 72 3d 30 6e 65 30 30 41 42 43 44 45 46
25 32 46 72 65 67 69 73 74 72 61 74 69 6f 6e 73 25 32 46 64 65 76 2d 30
30 31 26 73 69 67 3d 77 71 49 5a 6d 64 63 73 5a 63 71 57 37 7a 7a 76 75
36 32 4d 75 58 32 59 74 4e 75 54 36 25 32 46 69 34 79 66 49 58 6a 36 72
6b 53 6a 6b 25 33 44 26 73 65 3d 31 39 30 30 30 30 30 30 30 30 26 73 6b
6e 3d 72 65 67 69 73 74 72 61 74 69 6f 6e`
	vectorDPSSubscribe = `
82 1d 00 01 00 18 24 64 70 73 2f 72 65 67 69 73 74 72 61 74 69 6f 6e 73
2f 72 65 73 2f 23 01`
	vectorRegister = `
32 7d 00 2e 24 64 70 73 2f 72 65 67 69 73 74 72 61 74 69 6f 6e 73 2f 50
55 54 2f 69 6f 74 64 70 73 2d 72 65 67 69 73 74 65 72 2f 3f 24 72 69 64
3d 31 00 02 7b 22 72 65 67 69 73 74 72 61 74 69 6f 6e 49 64 22 3a 22 64
65 76 2d 30 30 31 22 2c 22 70 61 79 6c 6f 61 64 22 3a 7b 22 6d 6f 64 65
6c 49 64 22 3a 22 64 74 6d 69 3a 53 61 6d 70 6c 65 3a 46 61 69 6c 6f 76
65 72 3b 31 22 7d 7d`
	vectorDPSResponse = `
32 92 01 00 30 24 64 70 73 2f 72 65 67 69 73 74 72 61 74 69 6f 6e 73 2f
72 65 73 2f 32 30 32 2f 3f 24 72 69 64 3d 31 26 72 65 74 72 79 2d 61 66
74 65 72 3d 33 00 01 7b 22 6f 70 65 72 61 74 69 6f 6e 49 64 22 3a 22 35
2e 37 31 63 66 37 65 33 38 61 61 62 62 63 63 64 64 2e 31 31 31 31 32 32
32 32 2d 33 33 33 33 2d 34 34 34 34 2d 35 35 35 35 2d 36 36 36 36 37 37
37 37 38 38 38 38 22 2c 22 73 74 61 74 75 73 22 3a 22 61 73 73 69 67 6e
69 6e 67 22 7d`
	vectorPoll = `
32 81 01 00 7d 24 64 70 73 2f 72 65 67 69 73 74 72 61 74 69 6f 6e 73 2f
47 45 54 2f 69 6f 74 64 70 73 2d 67 65 74 2d 6f 70 65 72 61 74 69 6f 6e
73 74 61 74 75 73 2f 3f 24 72 69 64 3d 32 26 6f 70 65 72 61 74 69 6f 6e
49 64 3d 35 2e 37 31 63 66 37 65 33 38 61 61 62 62 63 63 64 64 2e 31 31
31 31 32 32 32 32 2d 33 33 33 33 2d 34 34 34 34 2d 35 35 35 35 2d 36 36
36 36 37 37 37 37 38 38 38 38 00 03`
	vectorHubConnect = `
10 98 02 00 04 4d 51 54 54 04 c0 00 f0 00 07 64 65 76 2d 30 30 31 00 7a
68 75 62 2d 61 2e 61 7a 75 72 65 2d 64 65 76 69 63 65 73 2e 6e 65 74 2f
64 65 76 2d 30 30 31 2f 3f 61 70 69 2d 76 65 72 73 69 6f 6e 3d 32 30 32
31 2d 30 34 2d 31 32 26 44 65 76 69 63 65 43 6c 69 65 6e 74 54 79 70 65
3d 67 6f 2d 68 61 25 32 46 31 2e 30 26 6d 6f 64 65 6c 2d 69 64 3d 64 74
6d 69 25 33 41 53 61 6d 70 6c 65 25 33 41 46 61 69 6c 6f 76 65 72 25 33
42 31 00 87 53 68 61 72 65 64 41 63 63 65 73 73 53 69 67 6e 61 74 75 72
65 20 73 72 3d 68 75 62 2d 61 2e 61 7a 75 72 65 2d 64 65 76 69 63 65 73
2e 6e 65 74 25 32 46 64 65 76 69 63 65 73 25 32 46 64 65 76 2d 30 30 31
26 73 69 67 3d 61 48 45 55 4e 76 6b 6a 46 30 6a 6f 53 25 32 46 72 55 6d
63 77 4a 68 69 37 65 38 59 77 70 6c 5a 6d 38 55 50 41 72 57 63 63 6d 75
57 63 25 33 44 26 73 65 3d 31 39 30 30 30 30 30 30 30 30`
	vectorHubSubscribe = `
82 83 01 00 01 00 26 64 65 76 69 63 65 73 2f 64 65 76 2d 30 30 31 2f 6d
65 73 73 61 67 65 73 2f 64 65 76 69 63 65 62 6f 75 6e 64 2f 23 01 00 16
24 69 6f 74 68 75 62 2f 6d 65 74 68 6f 64 73 2f 50 4f 53 54 2f 23 00 00
12 24 69 6f 74 68 75 62 2f 74 77 69 6e 2f 72 65 73 2f 23 00 00 27 24 69
6f 74 68 75 62 2f 74 77 69 6e 2f 50 41 54 43 48 2f 70 72 6f 70 65 72 74
69 65 73 2f 64 65 73 69 72 65 64 2f 23 00`
	vectorTelemetry = `
32 6a 00 59 64 65 76 69 63 65 73 2f 64 65 76 2d 30 30 31 2f 6d 65 73 73
61 67 65 73 2f 65 76 65 6e 74 73 2f 25 32 34 2e 63 74 3d 61 70 70 6c 69
63 61 74 69 6f 6e 25 32 46 6a 73 6f 6e 26 25 32 34 2e 63 65 3d 75 74 66
2d 38 26 25 32 34 2e 6d 69 64 3d 6d 31 26 61 3d 62 25 32 30 63 00 05 7b
22 74 65 6d 70 22 3a 32 31 2e 35 7d`
	vectorGroupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
)

func vector(t *testing.T, dump string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(dump), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The conversation in the appendix of the protocol reference takes place byte for byte, with its
// keys and names.
func TestConversationOfTheProtocolReference(t *testing.T) {
	setup := func(c *Config) { c.IDScope, c.GroupKey = "0ne00ABCDEF", vectorGroupKey }
	inWorld(t, setup, func(w *world) {
		c := w.mustDial(w.info.DPS.MQTT)
		c.send(vector(t, vectorDPSConnect), vector(t, vectorDPSSubscribe), vector(t, vectorRegister)) // pipelined
		c.want("20020000")
		c.want("9003000101")
		c.want("40020002")
		p := c.next()
		topic, id, body := p.publish()
		want, _, _ := (received{0x32, vector(t, vectorDPSResponse)[3:]}).publish()
		if topic != want || id != 1 || p.first != 0x32 {
			t.Fatalf("%s", p)
		}
		operation := strings.Split(body, `"`)[3]
		if len(operation) != len("5.71cf7e38aabbccdd.11112222-3333-4444-5555-666677778888") || body != `{"operationId":"`+operation+`","status":"assigning"}` {
			t.Fatalf("%s", body)
		}
		poll := strings.Replace(string(vector(t, vectorPoll)), "5.71cf7e38aabbccdd.11112222-3333-4444-5555-666677778888", operation, 1)
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
		c.send(vector(t, vectorHubConnect), vector(t, vectorHubSubscribe), vector(t, vectorTelemetry))
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
		c.send(vector(t, vectorHubConnect))
		c.want("20020100") // the session is there
	})
}
