package sim

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// credentials is how a device proves who it is: with symmetric keys, or with a certificate: one of a CA, or one that is known itself.
type credentials struct {
	keys        [][]byte // primary, secondary; none with x509
	x509        bool
	roots       []*x509.Certificate // the CAs; none means the device CA
	thumbprints []string            // primary, secondary, hexadecimal; with them CAs do not count
}

func (c credentials) authType() string {
	switch {
	case len(c.thumbprints) > 0:
		return "x509Certificate"
	case c.x509:
		return "x509CertificateAuthority"
	}
	return "sas"
}

// The values of authentication.type.
const (
	authSAS        = "sas"
	authSelfSigned = "selfSigned"
	authCA         = "certificateAuthority"
	authNone       = "none"
)

// kind is the authentication.type of a device in the registry of a hub.
func (c credentials) kind() string {
	switch {
	case len(c.thumbprints) > 0:
		return authSelfSigned
	case c.x509:
		return authCA
	case len(c.keys) == 0:
		return authNone
	}
	return authSAS
}

// keptCredentials is the JSON form of credentials in a state directory.
type keptCredentials struct {
	Keys        [][]byte `json:"keys,omitempty"`
	X509        bool     `json:"x509,omitempty"`
	Roots       [][]byte `json:"roots,omitempty"` // DER
	Thumbprints []string `json:"thumbprints,omitempty"`
}

// MarshalJSON writes the form that a state directory holds.
func (c credentials) MarshalJSON() ([]byte, error) {
	return json.Marshal(keptCredentials{Keys: c.keys, X509: c.x509, Roots: rawCertificates(c.roots), Thumbprints: c.thumbprints})
}

// UnmarshalJSON reads what MarshalJSON has written. A root that is no certificate is an error.
func (c *credentials) UnmarshalJSON(text []byte) error {
	var k keptCredentials
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	roots, err := parseCertificates(k.Roots)
	*c = credentials{keys: k.Keys, x509: k.X509, roots: roots, thumbprints: k.Thumbprints}
	return err
}

var errNoCertificate = errors.New("no client certificate")

// verify checks the chain a client sent against what its identity knows; authority is the CA of all that name none.
func (c credentials) verify(chain []*x509.Certificate, authority *authority, id string, now time.Time) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	if len(c.thumbprints) > 0 {
		return matchThumbprint(chain, c.thumbprints)
	}
	roots := c.roots
	if len(roots) == 0 {
		roots = []*x509.Certificate{authority.cert}
	}
	var err error
	for _, root := range roots {
		if err = verifyChain(chain, root, id, now); err == nil {
			return nil
		}
	}
	return err
}

var errThumbprint = errors.New("the certificate has another thumbprint")

// matchThumbprint checks a self-signed certificate: its SHA-1 or SHA-256 thumbprint is one of those registered.
func matchThumbprint(chain []*x509.Certificate, thumbprints []string) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	short, long := thumbprint1(chain[0]), thumbprint256(chain[0])
	for _, t := range thumbprints {
		if strings.EqualFold(t, short) || strings.EqualFold(t, long) {
			return nil
		}
	}
	return errThumbprint
}

// thumbprint1 and thumbprint256 are in upper case, as Azure writes them.
func thumbprint1(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw) //nolint:gosec // see the import
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func thumbprint256(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}
