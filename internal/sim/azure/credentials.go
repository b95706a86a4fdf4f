package azure

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// Credentials says how a device proves who it is: with a symmetric key, with a certificate of a CA,
// or with a certificate that is known itself.
type Credentials struct {
	Keys        [][]byte            // primary, secondary; none with X509
	X509        bool                // the device has a certificate
	Roots       []*x509.Certificate // the CAs; none means the device CA
	Thumbprints []string            // primary, secondary, hexadecimal; with them CAs do not count
}

// AuthType is the authentication type in the system properties of a message.
func (c Credentials) AuthType() string {
	switch {
	case len(c.Thumbprints) > 0:
		return "x509Certificate"
	case c.X509:
		return "x509CertificateAuthority"
	}
	return "sas"
}

// The values of authentication.type in the registry of a hub.
const (
	AuthSAS        = "sas"
	AuthSelfSigned = "selfSigned"
	AuthCA         = "certificateAuthority"
	AuthNone       = "none"
)

// Kind is the authentication.type of a device in the registry of a hub.
func (c Credentials) Kind() string {
	switch {
	case len(c.Thumbprints) > 0:
		return AuthSelfSigned
	case c.X509:
		return AuthCA
	case len(c.Keys) == 0:
		return AuthNone
	}
	return AuthSAS
}

// keptCredentials is the JSON form of credentials in a state directory.
type keptCredentials struct {
	Keys        [][]byte `json:"keys,omitempty"`
	X509        bool     `json:"x509,omitempty"`
	Roots       [][]byte `json:"roots,omitempty"` // DER
	Thumbprints []string `json:"thumbprints,omitempty"`
}

// MarshalJSON writes the form that a state directory holds.
func (c Credentials) MarshalJSON() ([]byte, error) {
	return json.Marshal(keptCredentials{Keys: c.Keys, X509: c.X509, Roots: RawCertificates(c.Roots), Thumbprints: c.Thumbprints})
}

// UnmarshalJSON reads what MarshalJSON has written. A root that is no certificate is an error.
func (c *Credentials) UnmarshalJSON(text []byte) error {
	var k keptCredentials
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	roots, err := ParseCertificates(k.Roots)
	*c = Credentials{Keys: k.Keys, X509: k.X509, Roots: roots, Thumbprints: k.Thumbprints}
	return err
}

var errNoCertificate = errors.New("no client certificate")

// Verify checks the chain that a client sent, leaf first. The authority is the CA of devices whose
// credentials name no CA. The common name of a leaf that a CA has signed must be id.
func (c Credentials) Verify(chain []*x509.Certificate, authority *Authority, id string, now time.Time) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	if len(c.Thumbprints) > 0 {
		return matchThumbprint(chain, c.Thumbprints)
	}
	roots := c.Roots
	if len(roots) == 0 {
		roots = []*x509.Certificate{authority.Certificate}
	}
	var err error
	for _, root := range roots {
		if err = VerifyChain(chain, root, id, now); err == nil {
			return nil
		}
	}
	return err
}

var errThumbprint = errors.New("the certificate has another thumbprint")

// matchThumbprint checks a self-signed certificate: its SHA-1 or SHA-256 thumbprint must be one of
// those registered.
func matchThumbprint(chain []*x509.Certificate, thumbprints []string) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	short, long := SHA1Thumbprint(chain[0]), SHA256Thumbprint(chain[0])
	for _, t := range thumbprints {
		if strings.EqualFold(t, short) || strings.EqualFold(t, long) {
			return nil
		}
	}
	return errThumbprint
}
