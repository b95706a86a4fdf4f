package azure

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

func TestKeysAndTokensOfTheProtocolReference(t *testing.T) {
	key := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const groupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	for _, v := range []struct{ group, id, derived string }{
		{"8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==", "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="},
		{groupKey, "dev-001", "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw="},
		{groupKey, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "H49tqPHTlla5LkNA3pLy6NhQsAJ1mlIoQhoIwGmv15I="},
	} {
		if got := base64.StdEncoding.EncodeToString(DeriveKey(key(v.group), v.id)); got != v.derived {
			t.Errorf("%s: derived %s, want %s", v.id, got, v.derived)
		}
	}
	const device = "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw="
	for _, v := range []struct{ name, key, token string }{
		{"hub, documented", "18RQk/hOPJR9EbsJlk2j8WA6vWaj/yi+oaYg7zmxfQNdOyMSu+SJ8O7TSlZhDJCYmn4rzEiVKIzNiVAWjLxrGA==", "SharedAccessSignature sr=MyExampleHub.azure-devices.net%2Fdevices%2Fmy-symkey-device&sig=f%2BwW8XOKeJOtiPc9Iwjc4OpExvPM7NlhM9qxN2a1aAM%3D&se=1663119026"},
		{"DPS", device, "SharedAccessSignature sr=0ne00ABCDEF%2Fregistrations%2Fdev-001&sig=wqIZmdcsZcqW7zzvu62MuX2YtNuT6%2Fi4yfIXj6rkSjk%3D&se=1900000000&skn=registration"},
		{"DPS, lower-case escapes", device, "SharedAccessSignature sr=0ne00ABCDEF%2fregistrations%2fdev-001&sig=OHnao76s3XIsi9EPXIXcplDxk5qdJvYGU8n7a5yRO5Q%3D&se=1900000000&skn=registration"},
		{"hub", device, "SharedAccessSignature sr=hub-a.azure-devices.net%2Fdevices%2Fdev-001&sig=aHEUNvkjF0joS%2FrUmcwJhi7e8YwplZm8UPArWccmuWc%3D&se=1900000000"},
		{"policy", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "SharedAccessSignature sr=hub-a.azure-devices.net&sig=YlZHxLN7o4TSzifoZonTTWRPUsDDBTEcuGLbdnDCy4A%3D&se=1900000000&skn=iothubowner"},
	} {
		token, err := ParseSAS(v.token)
		if err != nil || !token.SignedBy(key(v.key)) {
			t.Errorf("%s: %v, %+v", v.name, err, token)
		}
		if token.SignedBy(key(groupKey)) {
			t.Errorf("%s: signed by another key too", v.name)
		}
	}
}

func TestSASCoverage(t *testing.T) {
	hub := func(sr string) bool {
		return SAS{Resource: sr}.CoversPath([]string{"hub-a.sim.local", "127.0.0.2:18883"}, "/devices/Dev#1")
	}
	for sr, want := range map[string]bool{
		"127.0.0.2:18883/devices/Dev#1": true, "HUB-A.sim.local/devices/Dev#1": true, "hub-a.sim.local": true, "hub-a.sim.local/": true,
		"hub-a.sim.local/devices": true, "hub-a.sim.local/dev": false, "hub-a.sim.local/devices/Dev": false, "hub-a.sim.local/devices/dev#1": false,
		"hub-a": false, "": false, "/devices/Dev#1": false, "hub-a.sim.local/devices/Dev#1/modules/m": false, "127.0.0.2": false,
	} {
		if hub(sr) != want {
			t.Errorf("%q covers: %v", sr, !want)
		}
	}
	for sr, want := range map[string]bool{
		"0ne/registrations/DEV": true, "0ne/registrations/dev": true, "0ne/registrations": false, "0ne": false,
		"1ne/registrations/dev": false, "0ne/registrations/dev/x": false,
	} {
		if got := (SAS{Resource: sr}).CoversRegistration("0ne", "dev"); got != want {
			t.Errorf("%q covers: %v", sr, got)
		}
	}
}

func TestMalformedSAS(t *testing.T) {
	sig := "&sig=" + strings.Repeat("A", 43) + "%3D"
	for _, s := range []string{"", "x", "SharedAccessSignature ", "SharedAccessSignature sr=a&se=1", "SharedAccessSignature sr=a&sig=AAAA&se=1",
		"SharedAccessSignature sr=a" + sig, "SharedAccessSignature sr=a" + sig + "&se=-1", "SharedAccessSignature sr=a" + sig + "&se=1e9",
		"SharedAccessSignature sr=a" + sig + "&se=99999999999999999999", "SharedAccessSignature sr=" + sig + "&se=1", "Bearer sr=a" + sig + "&se=1",
		"SharedAccessSignature sr=a&sig=!&se=1", "SharedAccessSignature " + strings.Repeat("sr=a&", 2000)} {
		if token, err := ParseSAS(s); err == nil {
			t.Errorf("%q gives %+v", s, token)
		}
	}
	if _, err := ParseSAS("sharedaccesssignature se=1&skn=&sr=a" + sig); err != nil {
		t.Error(err)
	}
}

func FuzzSAS(f *testing.F) {
	f.Add("SharedAccessSignature sr=0ne00ABCDEF%2fregistrations%2fdev-001&sig=OHnao76s3XIsi9EPXIXcplDxk5qdJvYGU8n7a5yRO5Q%3D&se=1900000000&skn=registration")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseSAS(s)
		if err != nil {
			return
		}
		if token.SignedBy([]byte("key")) || token.Expires.Before(time.Unix(0, 0)) || len(token.signature) != 32 {
			t.Fatalf("%+v", token)
		}
		_ = token.CoversPath([]string{"h"}, "/devices/d")
		_ = token.CoversRegistration("s", "r")
	})
}
