// Package credentials reads what an endpoint needs of secrets and config maps: trusted
// certificates, a client certificate, a user name with its password, the token of a service
// account. A secret or a config map is a directory with a file for each key. The names of the keys
// are those of Microsoft's pages "Configure MQTT data flow endpoints", "Configure Azure Event Hubs
// and Kafka data flow endpoints" and "Configure OpenTelemetry data flow endpoints".
//
// Nothing is kept: who calls for each connection takes up what a person has changed meanwhile.
// Errors name the secret or the config map, the file, and the next step.
package credentials

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

// maxFile bounds a file of a config map, in bytes. A bundle of all public roots has 250 kB.
const maxFile = 4 << 20

// TLS returns the configuration of a connection. roots is the directory of a config map with
// trusted certificates; empty: the system's are trusted. secret is the directory of a secret with a
// client certificate; empty: none is shown.
func TLS(roots, secret string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if roots != "" {
		if c.RootCAs, err = trusted(roots); err != nil {
			return nil, err
		}
	}
	if secret != "" {
		pair, err := certificate(secret)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{*pair}
	}
	return c, nil
}

// trusted reads the certificates of a config map: every file is a PEM bundle. Hidden files and
// directories are the machinery of a mounted volume of Kubernetes, and are passed over.
func trusted(dir string) (*x509.CertPool, error) {
	name := filepath.Base(dir)
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("the config map %s: %s: %w; make the directory, and put the trusted certificates there in PEM", name, dir, namedfile.Cause(err))
	}
	pool, found := x509.NewCertPool(), false
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, f.Name())
		text, err := namedfile.Read("the key "+f.Name()+" of the config map "+name, path, maxFile)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("the config map %s: %s has no certificate in PEM; take the file away or write one", name, path)
		}
		found = true
	}
	if !found {
		return nil, fmt.Errorf("the config map %s: %s has no file; put the trusted certificates there in PEM", name, dir)
	}
	return pool, nil
}

// The keys of a client certificate: those of the page about MQTT, and those of a TLS secret of
// Kubernetes, which the page about OpenTelemetry uses. Each endpoint takes both.
var pairs = [][2]string{{"client_cert.pem", "client_key.pem"}, {"tls.crt", "tls.key"}}

// intermediates is the key of the certificates between the client's and the root. It may be
// missing.
const intermediates = "client_intermediate_certs.pem"

// certificate reads the client certificate of a secret, with its chain.
func certificate(dir string) (*tls.Certificate, error) {
	keys := pairs[0]
	if !has(dir, keys[0]) && has(dir, pairs[1][0]) {
		keys = pairs[1]
	}
	cert, err := key(dir, keys[0])
	if err != nil {
		return nil, err
	}
	private, err := key(dir, keys[1])
	if err != nil {
		return nil, err
	}
	used := keys[0] + " and " + keys[1]
	if has(dir, intermediates) {
		more, err := key(dir, intermediates)
		if err != nil {
			return nil, err
		}
		cert = slices.Concat(cert, []byte("\n"), more)
		used = keys[0] + ", " + intermediates + " and " + keys[1]
	}
	pair, err := tls.X509KeyPair(cert, private)
	if err != nil {
		return nil, fmt.Errorf("the secret %s: %s in %s cannot be used: %s; write the certificate and its key in PEM, without a password",
			filepath.Base(dir), used, dir, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

// maxText bounds a user name, a password or a token, in bytes: no protocol here carries more.
const maxText = 65535

// Password reads the keys username and password of a secret.
func Password(dir string) (user, password string, err error) {
	for _, k := range []struct {
		name string
		to   *string
	}{{"username", &user}, {"password", &password}} {
		text, err := key(dir, k.name)
		if err != nil {
			return "", "", err
		}
		if len(text) == 0 || len(text) > maxText {
			return "", "", fmt.Errorf("the secret %s: %s has %d bytes; it must have 1 to %d", filepath.Base(dir), filepath.Join(dir, k.name), len(text), maxText)
		}
		*k.to = string(text)
	}
	return user, password, nil
}

// Token reads the token of the service account from its file.
func Token(file string) (string, error) {
	text, err := namedfile.Read("the token of the service account", file, namedfile.MaxKeyBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w; have the token written there", err)
	}
	if err != nil {
		return "", err
	}
	token := string(bytes.TrimSpace(text))
	if token == "" || len(token) > maxText || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("the token of the service account: %s holds no token; have it written there as one word", file)
	}
	return token, nil
}

// key reads one key of a secret, without the line break that editors put at the end.
func key(dir, name string) ([]byte, error) {
	secret := filepath.Base(dir)
	text, err := namedfile.Read("the key "+name+" of the secret "+secret, filepath.Join(dir, name), namedfile.MaxKeyBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the secret %s has no file %s, %s; write the value to %s", secret, name, found(dir), filepath.Join(dir, name))
	}
	return bytes.TrimRight(text, "\r\n"), err
}

// has reports whether a secret has a key.
func has(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// found says which keys a secret has.
func found(dir string) string {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "because the directory is not there"
	}
	var names []string
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
	}
	switch {
	case len(names) == 0:
		return "it is empty"
	case len(names) > 5:
		return fmt.Sprintf("it has %s and %d others", strings.Join(names[:5], ", "), len(names)-5)
	}
	return "it has " + strings.Join(names, ", ")
}
