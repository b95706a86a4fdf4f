package cmd

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestReadLedger: one message in every form in which somebody may have written it down.
func TestReadLedger(t *testing.T) {
	const id, gap, device = "0123456789abcdef-42", "3-7", "dev-1"
	whole := fmt.Sprint([]arrival{{id, gap, device}})
	for name, v := range map[string]struct{ text, want string }{
		"the simulator's": {`{"received":1,"messages":[{"mid":"` + id + `","device":"dev-1","hub":"hub-a","at":"2026-03-01T08:00:00Z",
			"properties":{"$.mid":"` + id + `","gap":"3-7","flag":null},"body":{"messageId":"x","gap":"1-1"}}]}`, whole},
		"bare wire names": {`{"$.mid":"` + id + `","gap":"3-7","deviceId":"dev-1"}`, whole},
		"a route's": {`{"EnqueuedTimeUtc":"2026-03-01T08:00:00Z","Properties":{"gap":"3-7"},"SystemProperties":{"messageId":"` + id + `",
			"connectionDeviceId":"dev-1","contentType":"application/json"},"Body":{"gap":"9-9"}}`, whole},
		"an Event Hubs SDK's": {`{"messageId":"` + id + `","properties":{"gap":"3-7"},"systemProperties":{"iothub-connection-device-id":"dev-1"},
			"body":"{}"}`, whole},
		"AMQP names": {`{"system_properties":{"message-id":"` + id + `"},"application_properties":{"gap":"3-7"},
			"annotations":{"iothub-connection-device-id":"dev-1"},"sequenceNumber":7}`, whole},
		"az iot hub monitor-events": {`{
			"event": {
				"annotations": {"iothub-connection-device-id": "dev-1"},
				"origin": "dev-1", "payload": {"mid": "nonsense"},
				"properties": {"application": {"gap": "3-7"}, "system": {"message_id": "` + id + `"}}
			}
		}`, whole},
		"an application's own device": {`{"properties":{"deviceId":"x","origin":"y","gap":"3-7"},"applicationProperties":{"device":"z"},
			"systemProperties":{"connectionDeviceId":"dev-1","messageId":"` + id + `"}}`, whole},
		"the outer one":       {`{"mid":"` + id + `","gap":"3-7","deviceId":"dev-1","systemProperties":{"messageId":"0123456789abcdef-1","deviceId":"x"}}`, whole},
		"an array":            {`[{"mid":"` + id + `"},{"mid":"x"}]`, "[{" + id + "  } {x  }]"},
		"lines and blanks":    {"\n{\"mid\":\"a\"}\n\n{\"mid\":\"b\"}", "[{a  } {b  }]"},
		"a real one wins":     {`{"messageId":"4711","properties":{"$.mid":"` + id + `"}}`, "[{" + id + "  }]"},
		"nothing":             {"", "[]"},
		"no id":               {`{"properties":7,"mid":8,"gap":null}`, "[{  }]"},
		"no messages":         {`{"received":0,"messages":[]}`, "[]"},
		"no JSON":             {"a: b", "behind message 0"},
		"cut off":             {`{"mid":"a"}` + "\n" + `{"mid":`, "behind message 1"},
		"cut off in the list": {`{"messages":[{"mid":"a"},`, "behind message 1"},
		"no objects":          {`[1]`, "behind message 0"},
		"no object":           {`7`, "something else than JSON objects"},
	} {
		t.Run(name, func(t *testing.T) {
			all := []arrival{}
			l := &ledgerFile{io.NopCloser(strings.NewReader(v.text)), "test"}
			_, _, err := l.read(func(a arrival) { all = append(all, a) })
			if err != nil {
				if !strings.Contains(err.Error(), v.want) {
					t.Errorf("%v, want %s", err, v.want)
				}
				return
			}
			if got := fmt.Sprint(all); got != v.want {
				t.Errorf("got %s, want %s", got, v.want)
			}
		})
	}
	l := &ledgerFile{io.NopCloser(strings.NewReader(`{"truncated":true,"messages":[]}`)), "test"}
	if _, partial, err := l.read(nil); !partial || err != nil {
		t.Errorf("partial %v, %v", partial, err)
	}
}
