package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"time"
)

// authority is a certificate authority of the simulator's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time // certificates count from here: the cloud's clock when the simulator was made
}

func newAuthority(commonName string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key, now: now}
	template := a.template(commonName)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// parseAuthority reads what certPEM and keyPEM have written, one behind the other.
func parseAuthority(text []byte, now time.Time) (*authority, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("its key is not an ECDSA key")
	}
	return &authority{cert: pair.Leaf, key: key, now: now}, nil
}

// template is valid from a day ago for ten years. A real service's certificate is older than that, so a device whose clock is some
// hours behind gets through TLS and is refused for its token; one that lost its clock altogether is not.
func (a *authority) template(commonName string) *x509.Certificate {
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

// sign issues the certificate that the template describes, for the owner of a public key, and
// returns its DER form.
func (a *authority) sign(template *x509.Certificate, public any) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// serverTLS issues a certificate for a host with these names and addresses and returns the TLS
// configuration of its listeners. The handshake asks for a client certificate but accepts any,
// because the real services refuse a bad one later, in their own protocol.
func (a *authority) serverTLS(names []string, addresses []netip.Addr) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := a.template(names[0])
	template.DNSNames = names
	for _, addr := range addresses {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := a.sign(template, key.Public())
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

func (a *authority) certPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) keyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("sim: device CA key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// leafError says why a client certificate is wrong regardless of its signature, and which one is
// expected.
type leafError struct{ text string }

func (e *leafError) Error() string { return e.text }

// checkLeaf returns a leafError unless the certificate is valid at now and its common name is id.
// Case does not count, as in DPS.
func checkLeaf(leaf *x509.Certificate, id string, now time.Time) error {
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
	return &leafError{text}
}

// verifyChain checks that the leaf of a chain belongs to id, is valid at now and is signed by root.
// root may be an intermediate certificate.
func verifyChain(chain []*x509.Certificate, root *x509.Certificate, id string, now time.Time) error {
	if err := checkLeaf(chain[0], id, now); err != nil {
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

// parseCertificate takes PEM, PEM within base64, or DER within base64: people upload all three.
func parseCertificate(text string) (*x509.Certificate, error) {
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

func rawCertificates(certs []*x509.Certificate) (raw [][]byte) {
	for _, c := range certs {
		raw = append(raw, c.Raw)
	}
	return raw
}

func parseCertificates(raw [][]byte) (certs []*x509.Certificate, err error) {
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return certs, nil
}
