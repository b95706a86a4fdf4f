package azname

import (
	"strings"
	"testing"
	"unicode"
)

func TestHosts(t *testing.T) {
	for s, good := range map[string]bool{
		"h": true, "hub-a.azure-devices.net": true, "hub-a.azure-devices.net.": true, "_h": true, "127.0.0.1:8883": true, "[::1]:8883": true, "[::1]": true,
		"::1": true, "h:1": true, "h:65535": true, strings.Repeat("x", 63) + ".net": true, strings.Repeat("y.", 126) + "y": true,
		"": false, ".": false, "a b": false, "h\n": false, "h/x": false, "h?x": false, "h\\x": false, "https://h": false, "-h": false, "h-": false, "a.-b": false,
		"h:0": false, "h:08883": false, "h:+1": false, "h:65536": false, "h:": false, "h:mqtts": false, ":8883": false, "h\x00": false, "h..i": false, "hü": false,
		"fe80::1%eth0": false, "[::1": false, strings.Repeat("x", 64): false, strings.Repeat("y.", 127): false, strings.Repeat("x", 66_000): false,
	} {
		err := CheckHost(s)
		if good != (err == nil) {
			t.Errorf("%.100q: %v", s, err)
		}
		isLine(t, err)
	}
}

func TestDeviceIDs(t *testing.T) {
	for s, good := range map[string]bool{
		"d": true, "aZ0-:.%_*?!(),=@$'": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, strings.Repeat("x", 66_000): false, "d/#": false, "+": false, "a b": false, "a\x00b": false, "a\nb": false, "é": false,
	} {
		err := CheckDeviceID(s)
		if good != (err == nil) {
			t.Errorf("%.100q: %v", s, err)
		}
		isLine(t, err)
	}
}

// isLine checks that an error fits into a line of a log.
func isLine(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if text := err.Error(); len(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("an error of %d bytes: %.200q", len(text), text)
	}
}

func TestSecretInThePlaceOfANameIsNotQuoted(t *testing.T) {
	const key = "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw="
	for _, err := range []error{CheckHost(key), CheckDeviceID(key + "#")} {
		if err == nil || strings.Contains(err.Error(), key[:20]) || !strings.Contains(err.Error(), "what looks like a secret") {
			t.Errorf("%v", err)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("hub-a:8883")
	f.Add("d/#")
	f.Fuzz(func(t *testing.T, s string) {
		host, id := CheckHost(s), CheckDeviceID(s)
		isLine(t, host)
		isLine(t, id)
		if host == nil && strings.ContainsAny(s, "+#/ \x00\n") || id == nil && (len(s) > 128 || strings.ContainsAny(s, "+#/ \x00\n")) {
			t.Errorf("%q was let through", s)
		}
	})
}
