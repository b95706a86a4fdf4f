package mqtt

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
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// authority signs the certificates of a test: a broker's, and a client's by way of an intermediate.
type authority struct {
	pem          string
	pool         *x509.CertPool
	server       tls.Certificate
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

func newAuthority(t testing.TB) *authority {
	root := issue(t, "root", nil, true)
	server := issue(t, "broker", root, false)
	a := &authority{pem: root.pem, pool: x509.NewCertPool(), serverPEM: server.pem, serverKey: server.keyPEM(t),
		intermediate: issue(t, "intermediate", root, true), stranger: issue(t, "stranger", nil, true)}
	a.pool.AddCert(root.cert)
	var err error
	if a.server, err = tls.X509KeyPair([]byte(a.serverPEM), []byte(a.serverKey)); err != nil {
		t.Fatal(err)
	}
	return a
}

// write writes the files of a broker.
func (a *authority) write(t testing.TB, dir string) {
	writeFile(t, filepath.Join(dir, "ca.pem"), a.pem)
	writeFile(t, filepath.Join(dir, "server.pem"), a.serverPEM)
	writeFile(t, filepath.Join(dir, "server.key"), a.serverKey)
}

// client writes a client's secret. A wrong one is signed by a stranger.
func (a *authority) client(t testing.TB, dir string, right bool) {
	by := a.stranger
	if right {
		by = a.intermediate
	}
	c := issue(t, "client", by, false)
	writeFile(t, filepath.Join(dir, "client_key.pem"), c.keyPEM(t))
	writeFile(t, filepath.Join(dir, "client_intermediate_certs.pem"), by.pem)
	writeFile(t, filepath.Join(dir, "client_cert.pem"), c.pem)
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// mosquittoPassword returns the text of a password file.
func mosquittoPassword(t testing.TB, dir, name, word string) string {
	t.Helper()
	path := filepath.Join(dir, "made")
	writeFile(t, path, name+":"+word+"\n")
	if out, err := exec.Command("mosquitto_passwd", "-U", path).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
