package provisioning

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// complete checks an enrollment as it came in, and fills in what it leaves out. old is the one that
// it replaces, nil if there is none. mu is held.
func (r *Registry) complete(e, old *enrollment) error {
	if e.group() {
		if !validGroupID(e.EnrollmentGroupID) {
			return badEnrollment("Invalid enrollment group id.")
		}
	} else if !azure.ValidRegistrationID(e.RegistrationID) {
		return badEnrollment("Invalid registration id.")
	}
	if e.DeviceID != "" && (e.group() || !azure.ValidDeviceID(e.DeviceID)) {
		return badEnrollment("Invalid device id.")
	}
	if err := r.completePolicies(e); err != nil {
		return err
	}
	if t := e.InitialTwin; t != nil {
		for _, part := range []map[string]any{t.Tags, t.Properties.Desired} {
			delete(part, "$version")
			delete(part, "$metadata")
			if err := azure.CheckTwin(part); err != nil {
				return badEnrollment("Invalid initial twin: %v", err)
			}
		}
	}
	if err := r.completeAttestation(e, old); err != nil {
		return err
	}
	now := azure.UTC7(r.now())
	e.RegistrationState = nil
	e.CreatedDateTimeUTC, e.LastUpdatedDateTimeUTC = now, now
	if old != nil {
		e.CreatedDateTimeUTC = old.CreatedDateTimeUTC
	}
	e.Etag = `"` + azure.NewGUID() + `"`
	return nil
}

func (r *Registry) completePolicies(e *enrollment) error {
	switch e.ProvisioningStatus {
	case "":
		e.ProvisioningStatus = enabledStatus
	case enabledStatus, disabledStatus:
	default:
		return badEnrollment("Invalid provisioning status %q.", e.ProvisioningStatus)
	}
	if e.Capabilities == nil {
		e.Capabilities = &iothub.Capabilities{}
	}
	if e.ReprovisionPolicy == nil {
		e.ReprovisionPolicy = r.config.reprovisionPolicy()
	}
	names := e.IotHubs
	if e.IotHubHostName != "" {
		names = append(slices.Clone(names), e.IotHubHostName)
	}
	for _, name := range names {
		if r.started && r.hubNamed(name) == nil { // before the start, the names of hubs are not all known
			return badEnrollment("IoT hub %q is not linked to this provisioning service.", name)
		}
	}
	switch e.AllocationPolicy {
	case "", AllocateHashed, AllocateGeoLatency:
	case AllocateStatic:
		if len(names) > 1 && e.IotHubHostName == "" {
			return badEnrollment("A static allocation needs exactly one IoT hub.")
		}
	case AllocateCustom:
		if e.CustomAllocation == nil && r.config.Webhook != "" {
			e.CustomAllocation = &customAllocation{WebhookURL: r.config.Webhook, APIVersion: "2021-10-01"}
		}
		if e.CustomAllocation == nil || !ValidWebhook(e.CustomAllocation.WebhookURL) {
			return badEnrollment("A custom allocation needs a webhook URL.")
		}
	default:
		return badEnrollment("Invalid allocation policy %q.", e.AllocationPolicy)
	}
	return nil
}

// validGroupID reports whether an id may be that of a group. The rule is that of registration ids.
func validGroupID(id string) bool { return azure.ValidRegistrationID(id) }

func (r *Registry) completeAttestation(e, old *enrollment) error {
	a := &e.Attestation
	if old != nil && old.Attestation.Type != a.Type {
		old = nil
	}
	switch a.Type {
	case attestKey:
		return completeKeys(e, old)
	case attestX509:
		return r.completeCertificates(e, old)
	case attestTPM:
		if e.group() {
			return badEnrollment("A group cannot attest with a TPM.")
		}
		return nil
	}
	return badEnrollment("Invalid attestation type %q.", a.Type)
}

// completeKeys draws the keys that are missing. An update without keys keeps the old ones, because
// a client may send back an enrollment that was shown without them.
func completeKeys(e, old *enrollment) error {
	keys := symmetricKeys{}
	if e.Attestation.SymmetricKey != nil {
		keys = *e.Attestation.SymmetricKey
	}
	if keys == (symmetricKeys{}) && old != nil {
		keys = *old.Attestation.SymmetricKey
	}
	for _, text := range []*string{&keys.PrimaryKey, &keys.SecondaryKey} {
		if *text == "" {
			*text = base64.StdEncoding.EncodeToString(azure.RandomKey(64))
		}
		key, err := base64.StdEncoding.DecodeString(*text)
		if err != nil || len(key) < 16 || len(key) > 64 {
			return badEnrollment("A symmetric key must be 16 to 64 bytes in base64.")
		}
		e.keys = append(e.keys, key)
	}
	e.Attestation.SymmetricKey = &keys
	return nil
}

func (r *Registry) completeCertificates(e, old *enrollment) error {
	a := e.Attestation.X509
	if a == nil {
		if old == nil {
			return badEnrollment("An X.509 attestation needs certificates.")
		}
		a = old.Attestation.X509
	}
	var known []*x509.Certificate
	if old != nil {
		known = append(slices.Clone(old.leaves), old.roots...)
	}
	shown := *a
	read := func(p *certificatePair) (*certificatePair, []*x509.Certificate, error) {
		if p == nil {
			return nil, nil, nil
		}
		out := &certificatePair{}
		var certs []*x509.Certificate
		for _, c := range p.entries() {
			cert, err := c.parse(known)
			if err != nil {
				return nil, nil, badEnrollment("Invalid certificate: %v.", err)
			}
			certs = append(certs, cert)
			described := &certificateEntry{Info: describeCertificate(cert)}
			if c == p.Primary {
				out.Primary = described
			} else {
				out.Secondary = described
			}
		}
		return out, certs, nil
	}
	var err error
	if shown.ClientCertificates, e.leaves, err = read(a.ClientCertificates); err != nil {
		return err
	}
	if shown.SigningCertificates, e.roots, err = read(a.SigningCertificates); err != nil {
		return err
	}
	if refs := a.CAReferences; refs != nil {
		for _, name := range []string{refs.Primary, refs.Secondary} {
			switch name {
			case "":
			case deviceCAName:
				e.roots = append(e.roots, r.config.Authority.Certificate)
			default:
				return badEnrollment("There is no certificate %q; %q is the only one.", name, deviceCAName)
			}
		}
	}
	switch {
	case e.group() && (len(e.roots) == 0 || len(e.leaves) > 0):
		return badEnrollment("A group needs signing certificates and no client certificates.")
	case len(e.roots) == 0 && len(e.leaves) == 0:
		return badEnrollment("An X.509 attestation needs certificates.")
	}
	e.Attestation.X509 = &shown
	return nil
}

// parse reads the certificate. If it is only described it must be one of the known ones.
func (c *certificateEntry) parse(known []*x509.Certificate) (*x509.Certificate, error) {
	if c.Certificate == "" && c.Info != nil {
		for _, k := range known {
			if strings.EqualFold(describeCertificate(k).SHA256Thumbprint, c.Info.SHA256Thumbprint) {
				return k, nil
			}
		}
	}
	return azure.ParseCertificate(c.Certificate)
}

func describeCertificate(c *x509.Certificate) *certificateInfo {
	return &certificateInfo{
		SubjectName: c.Subject.String(), IssuerName: c.Issuer.String(),
		SHA1Thumbprint: azure.SHA1Thumbprint(c), SHA256Thumbprint: azure.SHA256Thumbprint(c),
		NotBeforeUTC: c.NotBefore.UTC().Format(time.RFC3339), NotAfterUTC: c.NotAfter.UTC().Format(time.RFC3339),
		SerialNumber: strings.ToUpper(c.SerialNumber.Text(16)), Version: c.Version,
	}
}

// badEnrollment returns the refusal of an enrollment.
func badEnrollment(format string, args ...any) error {
	return &dpsError{code: 400004, text: fmt.Sprintf(format, args...)}
}
