package secret

import (
	"strings"
	"testing"
)

// TestNoSecretIsQuoted: secrets are recognised, other texts are not taken for secrets, and secrets
// are removed from the texts of libraries.
func TestNoSecretIsQuoted(t *testing.T) {
	long := strings.Repeat("Ab3d", 12) // 48 bytes of a key have no = at their end
	for text, secret := range map[string]bool{
		"AAECAwQFBgcICQoLDA0ODw==": true, long: true, "HostName=h;SharedAccessKey=x": true, "SharedAccessSignature sr=h&sig=abc%3D&se=1": true,
		"-----BEGIN EC PRIVATE KEY-----": true, "AAECAwQFBgcICQoLDA0ODw%3D%3D": true,
		"": false, "dev-1": false, "0ne00ABCDEF": false, "/home/me/keys/Group1/AVeryLongDirectoryName22/x": false, "group.key": false,
		"dtmi:Sample:Failover;1": false, "global.azure-devices-provisioning.net": false, "hubhop.yaml": false, strings.Repeat("x", 128): false,
	} {
		if Looks(text) != secret {
			t.Errorf("%q: secret: %v", text, !secret)
		}
		if q := Quoted(text); secret && strings.Contains(q, text) || !secret && !strings.Contains(q, text) {
			t.Errorf("%q: %s", text, q)
		}
	}
	for text, want := range map[string]string{
		"open AAECAwQFBgcICQoLDA0ODw==: no such file":  "open ********: no such file",
		"in HostName=h;SharedAccessKey=abc;DeviceId=d": "in HostName=h;SharedAccessKey=********;DeviceId=d",
		"sig=abc%3D&se=1": "sig=********&se=1",
		"there is no file /tmp/go-build-script-config/group.key": "there is no file /tmp/go-build-script-config/group.key",
	} {
		if got := Without(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if q := Quotable(strings.Repeat("ä", 10_000) + "\x1b[2J"); len(q) > 2*maxQuoted || strings.Contains(q, "\x1b") {
		t.Errorf("%d bytes", len(q))
	}
	if q := Quotable("a\x1b[2J\nb"); strings.ContainsAny(q, "\x1b\n") {
		t.Errorf("%q", q)
	}
}
