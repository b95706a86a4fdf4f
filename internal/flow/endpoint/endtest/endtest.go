// Package endtest makes the certificates of the tests of endpoints.
package endtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs the certificates of a test: a server's, and a client's by way of an intermediate.
type Authority struct {
	PEM    string         // of the root
	Pool   *x509.CertPool // with the root
	Server tls.Certificate

	serverPEM    string
	serverKey    string
	intermediate *issuer
	stranger     *issuer
}

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func issue(t testing.TB, name string, by *issuer, ca bool) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if ca {
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageCertSign, nil
	} else {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (i *issuer) keyPEM(t testing.TB) string {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// New makes an authority. Its server is at 127.0.0.1.
func New(t testing.TB) *Authority {
	root := issue(t, "root", nil, true)
	server := issue(t, "server", root, false)
	a := &Authority{PEM: root.pem, Pool: x509.NewCertPool(), serverPEM: server.pem, serverKey: server.keyPEM(t),
		intermediate: issue(t, "intermediate", root, true), stranger: issue(t, "stranger", nil, true)}
	a.Pool.AddCert(root.cert)
	var err error
	if a.Server, err = tls.X509KeyPair([]byte(a.serverPEM), []byte(a.serverKey)); err != nil {
		t.Fatal(err)
	}
	return a
}

// WriteServer writes ca.pem, server.pem and server.key into dir.
func (a *Authority) WriteServer(t testing.TB, dir string) {
	WriteFile(t, filepath.Join(dir, "ca.pem"), a.PEM)
	WriteFile(t, filepath.Join(dir, "server.pem"), a.serverPEM)
	WriteFile(t, filepath.Join(dir, "server.key"), a.serverKey)
}

// WriteClient writes a client's secret into dir, with the file names of Azure IoT Operations. A
// wrong one is signed by a stranger.
func (a *Authority) WriteClient(t testing.TB, dir string, right bool) {
	by := a.stranger
	if right {
		by = a.intermediate
	}
	c := issue(t, "client", by, false)
	WriteFile(t, filepath.Join(dir, "client_key.pem"), c.keyPEM(t))
	WriteFile(t, filepath.Join(dir, "client_intermediate_certs.pem"), by.pem)
	WriteFile(t, filepath.Join(dir, "client_cert.pem"), c.pem)
}

// WriteFile writes a file that only its owner can read.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
