package drill

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// repeated is a text that begins, repeats a part many times, and ends.
type repeated struct {
	begin, part, end string
	times            int
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) {
		switch {
		case r.begin != "":
			k := copy(p[n:], r.begin)
			r.begin, n = r.begin[k:], n+k
		case r.times > 0:
			r.begin, r.times = r.part, r.times-1
		case r.end != "":
			r.begin, r.end = r.end, ""
		default:
			return n, io.EOF
		}
	}
	return n, nil
}

// TestHugeLedgerNeedsLittleMemory: a ledger of 128 MiB is read in the memory of a few messages, and
// one value of that size is refused.
func TestHugeLedgerNeedsLittleMemory(t *testing.T) {
	message := `{"mid":"0123456789abcdef-1","deviceId":"d1","body":"` + strings.Repeat("x", 200<<10) + `"},`
	times := 128 << 20 / len(message)
	for name, v := range map[string]struct {
		text *repeated
		want string
	}{
		"many messages": {&repeated{`{"messages":[`, message, message[:len(message)-1] + "]}", times}, ""},
		"lines":         {&repeated{"", message[:len(message)-1] + "\n", "", times}, ""},
		"one string":    {&repeated{`{"mid":"`, strings.Repeat("x", 64<<10), `"}`, times}, "one value has more than 8388608 bytes"},
		"blanks":        {&repeated{"", strings.Repeat(" ", 64<<10), "{}", times}, "one value has more than 8388608 bytes"},
	} {
		var most uint64
		n := 0
		look := func() { // what is held, and not what waits for the collector
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
		l := &Ledger{"test", io.NopCloser(v.text)}
		_, _, err := l.Read(func(Arrival) {
			if n++; n%100 == 0 {
				look()
			}
		})
		look()
		if v.want == "" && (err != nil || n < times) || v.want != "" && (err == nil || !strings.Contains(err.Error(), v.want)) {
			t.Errorf("%s: %d messages, %v", name, n, err)
		}
		if most > 48<<20 {
			t.Errorf("%s: %d MiB", name, most>>20)
		}
	}
}

// TestLedgerIsReadInEverySpelling: one message in every form in which somebody may have written it
// down.
func TestLedgerIsReadInEverySpelling(t *testing.T) {
	const id, gap, device = "0123456789abcdef-42", "3-7", "dev-1"
	whole := fmt.Sprint([]Arrival{{id, gap, device}})
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
			all := []Arrival{}
			l := &Ledger{"test", io.NopCloser(strings.NewReader(v.text))}
			_, _, err := l.Read(func(a Arrival) { all = append(all, a) })
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
	l := &Ledger{"test", io.NopCloser(strings.NewReader(`{"truncated":true,"messages":[]}`))}
	if _, partial, err := l.Read(nil); !partial || err != nil {
		t.Errorf("partial %v, %v", partial, err)
	}
}
