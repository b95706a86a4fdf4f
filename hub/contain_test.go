package hub

import (
	"errors"
	"testing"
)

// TestParseTwin: a twin has two parts, and versions that are numbers.
func TestParseTwin(t *testing.T) {
	for body, want := range map[string]int64{
		`{"desired":{"$version":4,"a":1},"reported":{"$version":1}}`: 4,
		`{"desired":{},"reported":{}}`:                               0,
		`{"desired":{"$version":9223372036854775807},"reported":{}}`: 0,
		`{"desired":{"$version":1e30},"reported":{}}`:                0,
		`{"desired":{"$version":-1},"reported":{}}`:                  0,
		`{"desired":null,"reported":{}}`:                             -1,
		`{"desired":{},"reported":null}`:                             -1,
		`{"reported":{}}`:                                            -1,
		`[]`:                                                         -1,
		``:                                                           -1,
	} {
		doc, err := parseTwin([]byte(body))
		switch {
		case want < 0 && !errors.Is(err, ErrTwin):
			t.Errorf("%s: %v", body, err)
		case want >= 0 && (err != nil || doc.DesiredVersion != want || doc.Desired == nil || doc.Reported == nil):
			t.Errorf("%s: %+v %v", body, doc, err)
		}
	}
}
