package central

import (
	"testing"
)

func TestMalformedTemplatesAreRefused(t *testing.T) {
	for _, text := range []string{"", "x", "{}", `{"@id":"x"}`, `[1]`} {
		if _, err := parseTemplates([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
