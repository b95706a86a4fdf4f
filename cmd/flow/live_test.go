package flow

import (
	"slices"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/identity"
)

func TestTokensComeFromWhatTheEnvironmentNames(t *testing.T) {
	env := map[string]string{"HUBHOP_TOKEN_PROGRAM": "get-token --quiet", "IDENTITY_ENDPOINT": "http://127.0.0.1:1/token", "IDENTITY_HEADER": "h"}
	s := tokens(func(name string) string { return env[name] }, []string{"PATH=/bin", "HUBHOP_GROUP_KEY=secret"})
	if !slices.Equal(s.Program, []string{"get-token", "--quiet"}) || s.Endpoint != env["IDENTITY_ENDPOINT"] || s.Header != "h" {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(s.Environ, []string{"PATH=/bin"}) {
		t.Errorf("the program gets %q", s.Environ)
	}
	if s := tokens(func(string) string { return "" }, nil); len(s.Program) > 0 || s.Endpoint != identity.OfVM {
		t.Errorf("%+v", s)
	}
}
