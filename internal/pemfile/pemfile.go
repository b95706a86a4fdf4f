// Package pemfile reads certificates, keys and trusted roots that a user names, and finds their
// faults before a hub does, because the hub would only say "not authorized".
package pemfile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// maxBytes bounds a file. All roots of a system are 250 kB.
const maxBytes = 4 << 20

// Pair reads a client certificate with its chain, and its key, from the files cert and key. Errors
// name the flag and the file. Without both files it returns nil.
func Pair(cert, key string) (*tls.Certificate, error) {
	if cert == "" && key == "" {
		return nil, nil //nolint:nilnil // no certificate and no error: a device may prove itself with a key
	}
	if cert == "" || key == "" {
		return nil, errors.New("cert and key belong together; give both")
	}
	chain, cerr := readPEM("cert", cert)
	keys, kerr := readPEM("key", key)
	if err := errors.Join(cerr, kerr); err != nil {
		return nil, err
	}
	leaf, err := leafOf(chain, cert)
	if err := errors.Join(err, checkKey(keys, key)); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, keys)
	if err != nil {
		if public := publicOf(keys); public != nil {
			if standsLater(chain, public) {
				return nil, fmt.Errorf("key %s belongs to a certificate in %s that is not the first; put the device's own first, then the one that signed it",
					secret.Quotable(key), secret.Quotable(cert))
			}
			return nil, fmt.Errorf("key %s does not fit cert %s: the key is %s, the certificate is for %s; give the two that were made together",
				secret.Quotable(key), secret.Quotable(cert), keyKind(public), keyKind(leaf.PublicKey))
		}
		return nil, fmt.Errorf("key %s cannot be used: %s; give a private key in PEM, PKCS #8 best", secret.Quotable(key), strings.TrimPrefix(err.Error(), "tls: "))
	}
	pair.Leaf = leaf
	return &pair, nil
}

// readPEM reads a file that should hold PEM.
func readPEM(key, path string) ([]byte, error) {
	data, err := namedfile.Read(key, path, maxBytes)
	if err != nil {
		return nil, err
	}
	if isPKCS12(data) {
		return nil, fmt.Errorf("%s: %s is PKCS #12 (.pfx, .p12); take it apart: openssl pkcs12 -in %[2]s -nokeys -out cert.pem, and -nodes -nocerts -out key.pem",
			key, secret.Quotable(path))
	}
	if len(data) > 0 && data[0] == 0x30 { // how DER begins
		return nil, fmt.Errorf("%s: %s is DER; turn it into PEM: openssl x509 -inform der, or openssl pkey -inform der", key, secret.Quotable(path))
	}
	text, err := namedfile.PlainText(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %s %w", key, secret.Quotable(path), err)
	}
	return text, nil
}

// isPKCS12 says whether data is a bundle of certificate and key: a DER sequence that begins with
// its version, the number 3. Certificates and keys begin in another way.
func isPKCS12(data []byte) bool {
	var bundle asn1.RawValue
	if _, err := asn1.Unmarshal(data, &bundle); err != nil || bundle.Tag != asn1.TagSequence {
		return false
	}
	var version int
	_, err := asn1.Unmarshal(bundle.Bytes, &version)
	return err == nil && version == 3
}

// standsLater says whether a certificate after the first one of a chain is for a public key.
func standsLater(chain []byte, public crypto.PublicKey) bool {
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if key, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && key.Equal(public) {
			return true
		}
	}
}

// leafOf is the first certificate of a chain, the device's own. path is for errors.
func leafOf(chain []byte, path string) (*x509.Certificate, error) {
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			hint := "it must be a text with -----BEGIN CERTIFICATE-----"
			if bytes.Contains(chain, []byte("PRIVATE KEY-----")) {
				hint = "it holds a private key; perhaps --cert and --key are exchanged"
			}
			return nil, fmt.Errorf("cert: %s holds no PEM certificate; %s", secret.Quotable(path), hint)
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cert: %s: the first certificate cannot be read: %w", secret.Quotable(path), err)
		}
		return leaf, nil
	}
}

// checkKey finds a missing key and a key with a password, for which the library has no clear error.
// path is for errors.
func checkKey(keys []byte, path string) error {
	for rest := keys; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			hint := "it must be a text with -----BEGIN PRIVATE KEY-----"
			if bytes.Contains(keys, []byte("BEGIN CERTIFICATE-----")) {
				hint = "it holds a certificate; perhaps --cert and --key are exchanged"
			}
			return fmt.Errorf("key: %s holds no PEM private key; %s", secret.Quotable(path), hint)
		}
		if strings.Contains(block.Type, "ENCRYPTED") || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return fmt.Errorf("key: %s is encrypted, and nobody is there to type its password; take that off: openssl pkey -in %[1]s -out plain.key",
				secret.Quotable(path))
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return nil
		}
	}
}

// CheckCommonName compares a certificate with a device id, because DPS takes only the common name
// as registration id, in any letter case. path is the file of the certificate.
func CheckCommonName(c *tls.Certificate, path, id string) error {
	switch cn := c.Leaf.Subject.CommonName; {
	case cn == "":
		return fmt.Errorf("cert %s has no common name (CN), and DPS takes the device id from it; have one made for CN=%s", secret.Quotable(path), id)
	case !strings.EqualFold(cn, id):
		return fmt.Errorf("device-id is %s, but cert %s is for CN=%s, and DPS takes no other id; leave --device-id out, or give the certificate of %[1]s",
			secret.Quotable(id), secret.Quotable(path), secret.Quotable(cn))
	}
	return nil
}

// Invalid says why a certificate is not valid now, "" if it is. That is only worth a warning: the
// machine's clock may be wrong, and a wrong clock must not keep a device from starting.
func Invalid(c *tls.Certificate, path string, now time.Time) string {
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
	const next = "DPS and hubs will refuse it: have it renewed, or set this machine's clock"
	switch {
	case now.After(c.Leaf.NotAfter):
		return fmt.Sprintf("cert %s has ended at %s, and here it is %s; %s", secret.Quotable(path), day(c.Leaf.NotAfter), day(now), next)
	case now.Before(c.Leaf.NotBefore):
		return fmt.Sprintf("cert %s begins at %s only, and here it is %s; %s", secret.Quotable(path), day(c.Leaf.NotBefore), day(now), next)
	}
	return ""
}

// publicOf returns the public half of the first private key in a PEM text, nil if there is none.
func publicOf(keys []byte) crypto.PublicKey {
	for rest := keys; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if signer, ok := key.(crypto.Signer); ok && err == nil {
			return signer.Public()
		}
		return nil
	}
}

// keyKind describes a public key so that a person can tell two apart: its kind and half of its
// SHA-256.
func keyKind(public crypto.PublicKey) string {
	kind := "a key of another kind"
	switch k := public.(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA with %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		kind = "ECDSA " + k.Curve.Params().Name
	case ed25519.PublicKey:
		kind = "Ed25519"
	}
	if der, err := x509.MarshalPKIXPublicKey(public); err == nil {
		sum := sha256.Sum256(der)
		kind += ", SHA-256 " + hex.EncodeToString(sum[:8]) + "…"
	}
	return kind
}

// Roots returns the trusted roots: the system's and those of the file of --ca-file, "" for none.
// bundle is what SSL_CERT_FILE says, where the system's roots are.
func Roots(caFile, bundle string) (*x509.CertPool, error) {
	if bundle != "" { // Go reads it whole, whatever its size
		if _, err := namedfile.Read("SSL_CERT_FILE", bundle, maxBytes); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if caFile == "" {
		return pool, nil
	}
	pem, err := readPEM("ca-file", caFile)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca-file: %s holds no PEM certificate; it must be a text with -----BEGIN CERTIFICATE-----", secret.Quotable(caFile))
	}
	return pool, nil
}
