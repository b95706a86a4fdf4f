package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
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

// serverTLS issues a certificate for host number i of a cloud and returns the TLS configuration of
// its listeners. The handshake asks for a client certificate but accepts any, because the real
// services refuse a bad one later, in their own protocol.
func (a *authority) serverTLS(c Config, i int, names ...string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := a.template(names[0])
	template.DNSNames = append(slices.Clone(names), "localhost")
	addresses := []netip.Addr{c.address(i)}
	if c.address(i).IsUnspecified() {
		addresses[0] = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if told, err := netip.ParseAddr(c.Advertise); err == nil {
		addresses = append(addresses, told)
	} else if c.Advertise != "" {
		template.DNSNames = append(template.DNSNames, c.Advertise)
	}
	for _, addr := range addresses {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
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

var errNoCertificate = errors.New("no client certificate")

// verifyCertificate checks the chain a client sent against what its identity knows; authority is the CA of all that name none.
func (c credentials) verifyCertificate(chain []*x509.Certificate, authority *authority, id string, now time.Time) error {
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
