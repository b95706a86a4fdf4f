package mqtt

import (
	"fmt"
	"testing"
)

func TestEveryConnackCodeHasItsText(t *testing.T) {
	want := map[int]string{
		1: "bad protocol version", 2: "client identifier rejected", 3: "server unavailable",
		4: "username or password in unknown format", 5: "not authorised",
	}
	for code := 1; code < 256; code++ {
		text := (&RefusalError{Code: byte(code)}).Error()
		if code > 5 { // 6 and 7 are the first that MQTT 3.1.1 does not define
			want[code] = fmt.Sprintf("unknown CONNACK code %d", code)
		}
		if text != want[code] {
			t.Errorf("CONNACK %d: %q, want %q", code, text, want[code])
		}
	}
}
