package azure

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"time"
)

// Authority is a certificate authority of the simulator. It never changes.
type Authority struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	now         time.Time // certificates count from here: the cloud's clock when the simulator was made
}

// NewAuthority makes an authority with a new key. Its certificate is valid from a day before now,
// for ten years.
func NewAuthority(commonName string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{key: key, now: now}
	template := a.Template(commonName)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a.Certificate, err = x509.ParseCertificate(der)
	return a, err
}

// ParseAuthority reads what CertificatePEM and KeyPEM have written, one behind the other. What the
// authority issues is dated from now.
func ParseAuthority(text []byte, now time.Time) (*Authority, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("its key is not an ECDSA key")
	}
	return &Authority{Certificate: pair.Leaf, key: key, now: now}, nil
}

// Template describes a certificate that is valid from a day ago for ten years. The certificate of a
// real service is some months old, so a device whose clock is hours behind gets through TLS and is
// refused for its token. A device that has lost its clock altogether fails in TLS.
func (a *Authority) Template(commonName string) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails since Go 1.24
	serial[0] &= 0x7f        // a serial number is positive
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    a.now.Add(-24 * time.Hour),
		NotAfter:     a.now.AddDate(10, 0, 0),
	}
}

// Sign issues the certificate that the template describes, for the owner of a public key, and
// returns its DER form.
func (a *Authority) Sign(template *x509.Certificate, public any) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.key)
}

// ServerTLS issues a certificate for a host with these names and addresses and returns the TLS
// configuration of its listeners. The handshake asks for a client certificate but accepts any,
// because the real services refuse a bad one later, in their own protocol.
func (a *Authority) ServerTLS(names []string, addresses []netip.Addr) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := a.Template(names[0])
	template.DNSNames = names
	for _, addr := range addresses {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := a.Sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12,
	}, nil
}

// CertificatePEM is the certificate in PEM.
func (a *Authority) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})
}

// KeyPEM is the private key in PEM.
func (a *Authority) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("the key of a CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// LeafError says why a client certificate is wrong regardless of its signature, and which one is
// expected.
type LeafError struct{ text string }

func (e *LeafError) Error() string { return e.text }

// CheckLeaf returns a *LeafError unless the certificate is valid at now and its common name is id.
// Case does not count, as in DPS.
func CheckLeaf(leaf *x509.Certificate, id string, now time.Time) error {
	var text string
	switch cn := leaf.Subject.CommonName; {
	case cn == "":
		text = fmt.Sprintf("the certificate has no common name (CN); it must be %.128q", id)
	case !strings.EqualFold(cn, id):
		text = fmt.Sprintf("the certificate is for CN %.128q, and not for %.128q", cn, id)
	case now.Before(leaf.NotBefore):
		text = "the certificate is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339)
	case now.After(leaf.NotAfter):
		text = "the certificate expired at " + leaf.NotAfter.UTC().Format(time.RFC3339)
	default:
		return nil
	}
	return &LeafError{text}
}

// VerifyChain checks that the leaf of a chain belongs to id, is valid at now and is signed by root.
// The root may be an intermediate certificate.
func VerifyChain(chain []*x509.Certificate, root *x509.Certificate, id string, now time.Time) error {
	if err := CheckLeaf(chain[0], id, now); err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// ParseCertificate takes PEM, PEM within base64, or DER within base64, because people upload all
// three.
func ParseCertificate(text string) (*x509.Certificate, error) {
	der := []byte(text)
	for range 2 {
		if block, _ := pem.Decode(der); block != nil {
			return x509.ParseCertificate(block.Bytes)
		}
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(der)), ""))
		if err != nil {
			break
		}
		der = decoded
		if cert, err := x509.ParseCertificate(der); err == nil {
			return cert, nil
		}
	}
	return nil, errors.New("neither PEM nor base64 of DER")
}

// RawCertificates returns the DER form of each certificate.
func RawCertificates(certs []*x509.Certificate) (raw [][]byte) {
	for _, c := range certs {
		raw = append(raw, c.Raw)
	}
	return raw
}

// ParseCertificates reads what RawCertificates returns.
func ParseCertificates(raw [][]byte) (certs []*x509.Certificate, err error) {
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// SHA1Thumbprint is the SHA-1 of a certificate in upper-case hexadecimal, as Azure writes it.
func SHA1Thumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw) // thumbprints are SHA-1 by tradition
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// SHA256Thumbprint is the SHA-256 of a certificate in upper-case hexadecimal.
func SHA256Thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}
