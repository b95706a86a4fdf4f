package status

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// FuzzHostsThatAreLetThrough makes requests on a loopback address with any Host and Origin. One is
// let through only if Host is localhost or a loopback address, and Origin is that very host.
func FuzzHostsThatAreLetThrough(f *testing.F) {
	for _, host := range []string{"localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:9", "evil.example", "127.0.0.1.evil.example", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost:80:80", "[localhost]", "127.1", "0x7f.1"} {
		f.Add(host, "http://"+host)
		f.Add(host, "")
	}
	// What a loopback host can look like, written in another way than the code does it.
	local := regexp.MustCompile(`^(?i:localhost|\[localhost\]|(\[?)(127(\.[0-9]{1,3}){3}|[0:]*:0*1|[0:]*:ffff:(127(\.[0-9]{1,3}){3}|7f[0-9a-f]{2}:[0-9a-f]{1,4}))(%[^\]]+)?(\]?))(:[^:\]]*)?$`)
	f.Fuzz(func(t *testing.T, host, origin string) {
		r := httptest.NewRequest("GET", "/status", nil)
		r.Host = host
		if r.Header.Set("Origin", origin); foreign(r) != "" {
			return
		}
		if !local.MatchString(host) {
			t.Errorf("Host %q was let through", host)
		}
		if origin != "" && !strings.Contains(strings.ToLower(origin), strings.ToLower(host)) {
			t.Errorf("Origin %q was let through for Host %q", origin, host)
		}
	})
}

// BenchmarkEmit measures what an event costs the device that emits it, without a reader.
func BenchmarkEmit(b *testing.B) {
	e := NewEvents()
	event := journal.Event{Device: "dev-1", Kind: journal.Decision, Hub: "hub-a.azure-devices.net", Rule: "H07", Signal: "connection refused", Action: "reprovision",
		Error: "dial tcp 10.0.0.1:8883: connect: connection refused", Text: "hub-a.azure-devices.net: connection refused; reprovision"}
	b.ReportAllocs()
	for b.Loop() {
		e.Emit(event)
	}
}
