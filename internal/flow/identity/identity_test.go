package identity

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTokenOfAMachineAndOfArc(t *testing.T) {
	dir := t.TempDir()
	proof := filepath.Join(dir, "one.key")
	if err := os.WriteFile(proof, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	named := proof
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Header.Get("Metadata") != "true" || q.Get("resource") != "https://eventgrid.azure.net" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if q.Get("api-version") == "2020-06-01" && r.Header.Get("Authorization") != "Basic secret" {
			w.Header().Set("WWW-Authenticate", "Basic realm="+named)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"access_token":"token of %s","expires_in":"3599"}`, q.Get("client_id"))
	}))
	defer server.Close()
	r := Request{Audience: "https://eventgrid.azure.net", ClientID: "me"}
	for _, s := range []Source{{Endpoint: server.URL}, {Endpoint: server.URL, SecretDir: dir}} {
		if token, err := s.Token(t.Context(), r); err != nil || token != "token of me" {
			t.Errorf("%+v: %q, %v", s, token, err)
		}
	}
	named = "/etc/passwd"
	if _, err := (&Source{Endpoint: server.URL, SecretDir: dir}).Token(t.Context(), r); err == nil || !strings.Contains(err.Error(), "/etc/passwd") {
		t.Errorf("a proof elsewhere: %v", err)
	}
	if _, err := (&Source{Endpoint: server.URL}).Token(t.Context(), Request{Audience: "other"}); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("a refusal: %v", err)
	}
}

func TestTokenOfAProgram(t *testing.T) {
	for _, c := range []struct{ script, want, fault string }{
		{`echo "for $HUBHOP_AUDIENCE" | tr -d ' '`, "fora", ""},
		{`echo '{"accessToken":"x"}'`, "x", ""},
		{`echo '{"access_token":"x"}'`, "x", ""},
		{`echo '{}'`, "", "accessToken"},
		{`echo two words`, "", "one token"},
		{`exit 3`, "", "exit status 3"},
	} {
		s := Source{Program: []string{"sh", "-c", c.script}, Environ: os.Environ()}
		token, err := s.Token(t.Context(), Request{Audience: "a"})
		if token != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %q, %v", c.script, token, err)
		}
	}
	if _, err := new(Source).Token(t.Context(), Request{}); err == nil {
		t.Error("no source, and no error")
	}
}
