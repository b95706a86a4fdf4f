package cmd

import (
	"errors"
	"testing"
)

// TestErrorsShowNoSecret: what looks like a key is removed from an error that is printed, from
// wherever the text comes.
func TestErrorsShowNoSecret(t *testing.T) {
	for text, want := range map[string]string{
		"open AAECAwQFBgcICQoLDA0ODw==: no such file":  "open ********: no such file",
		"in HostName=h;SharedAccessKey=abc;DeviceId=d": "in HostName=h;SharedAccessKey=********;DeviceId=d",
		"sig=abc%3D&se=1": "sig=********&se=1",
		"there is no file /tmp/go-build-script-config/group.key": "there is no file /tmp/go-build-script-config/group.key",
	} {
		if got := faults(usage(errors.New(text))); len(got) != 1 || got[0] != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
