package device

import (
	"crypto/tls"
	"slices"
	"testing"
	"time"

	"hubhop/hub"
)

// TestTLSResumption: a dialler that is given a session cache, as a device's is, resumes the TLS session of its last link to the same
// hub, also after it has been elsewhere. The first link to another hub gets a handshake of its own, although the cache is one.
func TestTLSResumption(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.run(10 * time.Second)
		w.must(w.cloud.Failover("dev-1", 0)) // so that the other hub knows the device too
		w.on("hub-b", 10*time.Second)
		w.halt()
		var resumed []bool
		d := &hub.Dialer{DialContext: w.config.DialContext, KeepAlive: time.Minute, C2D: true, Token: hub.KeyToken(w.config.Key, time.Hour),
			TLS: &tls.Config{RootCAs: w.config.Roots, ClientSessionCache: tls.NewLRUClientSessionCache(16),
				VerifyConnection: func(s tls.ConnectionState) error { resumed = append(resumed, s.DidResume); return nil }}}
		for _, host := range []string{"127.0.0.3", "127.0.0.3", "127.0.0.2", "127.0.0.3", "127.0.0.2"} {
			l, err := d.Dial(t.Context(), hub.Attempt{Host: host, DeviceID: "dev-1"}) // hub-a refuses the identity, behind TLS
			if err == nil {
				l.Close(t.Context())
			}
		}
		if want := []bool{false, true, false, true, true}; !slices.Equal(resumed, want) {
			t.Errorf("resumed %v, not %v", resumed, want)
		}
	})
}
