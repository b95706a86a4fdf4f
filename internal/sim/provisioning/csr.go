package provisioning

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// The preview versions of the API in which a device may ask for a certificate.
const (
	clientCSRVersion = "2021-11-01-preview" // clientCertificateCsr, answered with issuedClientCertificate
	csrVersion       = "2025-07-01-preview" // csr, answered with issuedCertificateChain
)

// signingRequest is a certificate signing request that was checked.
type signingRequest = x509.CertificateRequest

// parseSigningRequest reads base64 of a PKCS#10 request. It must be for the device's own name, and
// its key must be on an elliptic curve.
func parseSigningRequest(text, registrationID string) (*signingRequest, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, &dpsError{code: 400004, text: "The certificate signing request is not base64."}
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil {
		return nil, &dpsError{code: 400004, text: "The certificate signing request is malformed."}
	}
	if !strings.EqualFold(csr.Subject.CommonName, registrationID) {
		return nil, &dpsError{code: 400004, text: "The common name of the certificate signing request is not the registration id."}
	}
	if _, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, &dpsError{code: 400004, text: "The key of the certificate signing request is not on an elliptic curve."}
	}
	return csr, nil
}

// issuedDays is how many days an issued certificate is valid. The preview allows 7 to 90.
const issuedDays = 30

// issue gives a device the certificate that it asked for. From now on its hub expects this
// certificate.
func (p *Service) issue(op *operation, state *registrationState) error {
	r := p.registry
	template := r.config.Authority.Template(op.csr.Subject.CommonName)
	template.NotAfter = r.now().AddDate(0, 0, issuedDays)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := r.config.Authority.Sign(template, op.csr.PublicKey)
	if err != nil {
		return &dpsError{code: 500000, text: "The certificate cannot be issued: " + err.Error()}
	}
	if r.trustIssued(op.device) != nil {
		return errNotKept
	}
	if op.version == clientCSRVersion {
		state.IssuedClientCertificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		return nil
	}
	for _, b := range [][]byte{der, r.config.Authority.Certificate.Raw} {
		state.IssuedCertificateChain = append(state.IssuedCertificateChain, base64.StdEncoding.EncodeToString(b))
	}
	return nil
}

// trustIssued lets the device's identity accept certificates that DPS issues. An error means that
// this could not be written down, so it is lost at a restart.
func (r *Registry) trustIssued(d *device) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.hub == nil {
		return nil
	}
	d.auth = azure.Credentials{X509: true}
	if i := d.hub.Identity(d.id); i != nil {
		r.unsaved(i.Trust(d.auth))
	}
	return r.keep(d)
}
