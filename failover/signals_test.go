package failover

import (
	"strings"
	"testing"
)

// TestHintsNameOnlySettingsThatTheDeviceHas: no hint mentions a key to a device without one, or DPS
// to a device with a connection string. The signals of DPS never come to the latter.
func TestHintsNameOnlySettingsThatTheDeviceHas(t *testing.T) {
	hints := 0
	for s := range signals {
		fromDPS := strings.HasPrefix(s.String(), "DPS") || strings.Contains(s.Hint(Proof{}), "--provisioning-host")
		for _, p := range []Proof{{}, {Certificate: true}, {OneHub: true}, {Certificate: true, OneHub: true}} {
			hint := s.Hint(p)
			if (hint == "") != (s.Hint(Proof{}) == "") {
				t.Errorf("%v: a hint for some only", s)
			}
			if hint != "" {
				hints++
			}
			if p.Certificate && strings.Contains(hint, " key") {
				t.Errorf("%v, with a certificate: %s", s, hint)
			}
			if p.OneHub && !fromDPS && (strings.Contains(hint, "DPS") || strings.Contains(hint, "enrollment") || strings.Contains(hint, "--id-scope")) {
				t.Errorf("%v, with one hub: %s", s, hint)
			}
		}
		if strings.Contains(s.Hint(Proof{}), " key") && !strings.Contains(s.Hint(Proof{Certificate: true}), "certificate") {
			t.Errorf("%v: nothing in the place of the key", s)
		}
	}
	if hints < 4*10 {
		t.Errorf("only %d hints", hints)
	}
}
