package credentials_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
)

// says fails the test if an error does not say all of want.
func says(t *testing.T, name string, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v, which does not say %q", name, err, w)
		}
	}
}

// shown returns how many certificates a configuration shows to a server.
func shown(t *testing.T, c *tls.Config, err error) int {
	t.Helper()
	if err != nil || len(c.Certificates) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	return len(c.Certificates[0].Certificate)
}

func TestAClientCertificateIsReadWithItsChain(t *testing.T) {
	pki, dir := endtest.New(t), t.TempDir()
	pki.WriteClient(t, dir, true)
	c, err := credentials.TLS("", dir)
	if n := shown(t, c, err); n != 2 || c.RootCAs != nil {
		t.Errorf("%d certificates are shown, want that of the client and the intermediate", n)
	}
	if err := os.Remove(filepath.Join(dir, "client_intermediate_certs.pem")); err != nil {
		t.Fatal(err)
	}
	c, err = credentials.TLS("", dir)
	if n := shown(t, c, err); n != 1 {
		t.Errorf("%d certificates are shown without an intermediate", n)
	}
	for from, to := range map[string]string{"client_cert.pem": "tls.crt", "client_key.pem": "tls.key"} {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	c, err = credentials.TLS("", dir)
	if n := shown(t, c, err); n != 1 {
		t.Errorf("%d certificates are shown of a TLS secret", n)
	}
}

func TestFaultsOfACertificateNameSecretAndFile(t *testing.T) {
	pki := endtest.New(t)
	for _, c := range []struct {
		name string
		mend func(dir string) error
		want []string
	}{
		{"no directory", os.RemoveAll, []string{"secret me", "client_cert.pem", "directory is not there"}},
		{"no key", func(dir string) error { return os.Remove(filepath.Join(dir, "client_key.pem")) },
			[]string{"the secret me has no file client_key.pem, it has client_cert.pem, client_intermediate_certs.pem", "write the value to"}},
		{"a key of others", func(dir string) error { return os.WriteFile(filepath.Join(dir, "client_key.pem"), []byte("x"), 0o600) },
			[]string{"the secret me", "client_cert.pem, client_intermediate_certs.pem and client_key.pem", "without a password"}},
		{"an intermediate that is a directory", func(dir string) error {
			path := filepath.Join(dir, "client_intermediate_certs.pem")
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		}, []string{"client_intermediate_certs.pem of the secret me", "directory"}},
	} {
		dir := filepath.Join(t.TempDir(), "me")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		pki.WriteClient(t, dir, true)
		if err := c.mend(dir); err != nil {
			t.Fatal(err)
		}
		_, err := credentials.TLS("", dir)
		says(t, c.name, err, c.want...)
	}
}

func TestEveryFileOfAConfigMapIsTrusted(t *testing.T) {
	one, other, dir := endtest.New(t), endtest.New(t), filepath.Join(t.TempDir(), "my-ca")
	if _, err := credentials.TLS(dir, ""); err == nil {
		t.Error("a missing directory is no fault")
	} else {
		says(t, "no directory", err, "config map my-ca", "make the directory")
	}
	if err := os.MkdirAll(filepath.Join(dir, "..data"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := credentials.TLS(dir, "")
	says(t, "no file", err, "config map my-ca", "has no file")
	endtest.WriteFile(t, filepath.Join(dir, "a.pem"), one.PEM)
	endtest.WriteFile(t, filepath.Join(dir, "b"), other.PEM)
	endtest.WriteFile(t, filepath.Join(dir, ".hidden"), "no certificate")
	c, err := credentials.TLS(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*endtest.Authority{one, other} {
		leaf, err := x509.ParseCertificate(a.Server.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.RootCAs}); err != nil {
			t.Error(err)
		}
	}
	endtest.WriteFile(t, filepath.Join(dir, "readme.txt"), "no certificate")
	_, err = credentials.TLS(dir, "")
	says(t, "a file of another kind", err, "config map my-ca", "readme.txt has no certificate in PEM")
}

func TestPasswordsAndTokensAreReadWithoutLineBreaks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "me")
	_, _, err := credentials.Password(dir)
	says(t, "no directory", err, "secret me", "username")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	endtest.WriteFile(t, filepath.Join(dir, "token"), "what a page of Microsoft's shows")
	_, _, err = credentials.Password(dir)
	says(t, "the single key token", err, "the secret me has no file username, it has token")
	endtest.WriteFile(t, filepath.Join(dir, "username"), "$ConnectionString\n")
	endtest.WriteFile(t, filepath.Join(dir, "password"), "\r\n")
	_, _, err = credentials.Password(dir)
	says(t, "an empty password", err, "secret me", "password has 0 bytes")
	endtest.WriteFile(t, filepath.Join(dir, "password"), " a b \r\n")
	if user, password, err := credentials.Password(dir); user != "$ConnectionString" || password != " a b " || err != nil {
		t.Errorf("%q, %q, %v", user, password, err)
	}

	file := filepath.Join(dir, "sat")
	_, err = credentials.Token(file)
	says(t, "no token", err, "token of the service account", file, "have the token written there")
	for text, want := range map[string]string{"\ta.b.c\n": "a.b.c", "two words": "", "": "", "a\x00b": ""} {
		endtest.WriteFile(t, file, text)
		token, err := credentials.Token(file)
		if token != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, token, err)
		}
	}
}
