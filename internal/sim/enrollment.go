package sim

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// enrollment is an entry of DPS's enrollment list, in the form of the service API. An individual
// enrollment has a registration id, a group has a group id. An entry of the list never changes:
// another one takes its place.
type enrollment struct {
	RegistrationID         string               `json:"registrationId,omitempty"`
	EnrollmentGroupID      string               `json:"enrollmentGroupId,omitempty"`
	DeviceID               string               `json:"deviceId,omitempty"` // "" means the registration id
	RegistrationState      *registrationState   `json:"registrationState,omitempty"`
	Attestation            attestation          `json:"attestation"`
	OptionalDeviceInfo     json.RawMessage      `json:"optionalDeviceInformation,omitempty"`
	Capabilities           *iothub.Capabilities `json:"capabilities,omitempty"`
	IotHubHostName         string               `json:"iotHubHostName,omitempty"`
	InitialTwin            *initialTwin         `json:"initialTwin,omitempty"`
	Etag                   string               `json:"etag,omitempty"`
	ProvisioningStatus     string               `json:"provisioningStatus,omitempty"`
	ReprovisionPolicy      *reprovisionPolicy   `json:"reprovisionPolicy,omitempty"`
	CreatedDateTimeUTC     string               `json:"createdDateTimeUtc,omitempty"`
	LastUpdatedDateTimeUTC string               `json:"lastUpdatedDateTimeUtc,omitempty"`
	AllocationPolicy       string               `json:"allocationPolicy,omitempty"`
	IotHubs                []string             `json:"iotHubs,omitempty"` // none means all linked ones
	CustomAllocation       *customAllocation    `json:"customAllocationDefinition,omitempty"`

	// These are made from the attestation.
	keys   [][]byte            // primary, secondary
	leaves []*x509.Certificate // of a device
	roots  []*x509.Certificate // of devices' certificate authorities
}

type attestation struct {
	Type         string           `json:"type"`
	SymmetricKey *symmetricKeys   `json:"symmetricKey,omitempty"`
	X509         *x509Attestation `json:"x509,omitempty"`
	TPM          json.RawMessage  `json:"tpm,omitempty"` // kept and shown, but no device can use it
}

// The types of attestation.
const (
	attestKey  = "symmetricKey"
	attestX509 = "x509"
	attestTPM  = "tpm"
)

type symmetricKeys struct {
	PrimaryKey   string `json:"primaryKey,omitempty"`
	SecondaryKey string `json:"secondaryKey,omitempty"`
}

type x509Attestation struct {
	ClientCertificates  *certificatePair `json:"clientCertificates,omitempty"`
	SigningCertificates *certificatePair `json:"signingCertificates,omitempty"`
	CAReferences        *caReferences    `json:"caReferences,omitempty"`
}

type certificatePair struct {
	Primary   *certificateEntry `json:"primary,omitempty"`
	Secondary *certificateEntry `json:"secondary,omitempty"`
}

func (p *certificatePair) entries() []*certificateEntry {
	if p == nil {
		return nil
	}
	return slices.DeleteFunc([]*certificateEntry{p.Primary, p.Secondary}, func(e *certificateEntry) bool { return e == nil })
}

// certificateEntry has a certificate in a request, PEM or base64, and its description in an answer.
type certificateEntry struct {
	Certificate string           `json:"certificate,omitempty"`
	Info        *certificateInfo `json:"info,omitempty"`
}

type certificateInfo struct {
	SubjectName      string `json:"subjectName"`
	SHA1Thumbprint   string `json:"sha1Thumbprint"`
	SHA256Thumbprint string `json:"sha256Thumbprint"`
	IssuerName       string `json:"issuerName"`
	NotBeforeUTC     string `json:"notBeforeUtc"`
	NotAfterUTC      string `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"`
	Version          int    `json:"version"`
}

// caReferences name certificates that were uploaded to DPS. Here there is only the device CA, see
// deviceCAName.
type caReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

type initialTwin struct {
	Tags       map[string]any `json:"tags,omitempty"`
	Properties struct {
		Desired map[string]any `json:"desired,omitempty"`
	} `json:"properties"`
}

type reprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

type customAllocation struct {
	WebhookURL string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}

const (
	enabledStatus  = "enabled"
	disabledStatus = "disabled"
)

// The enrollment groups that are there from the start, and the name of the certificate that the
// second one refers to.
const (
	defaultGroup     = "default"
	defaultX509Group = "default-x509"
	deviceCAName     = "device-ca"
)

func (e *enrollment) id() string {
	if e.RegistrationID != "" {
		return e.RegistrationID
	}
	return e.EnrollmentGroupID
}

func (e *enrollment) group() bool { return e.RegistrationID == "" }

func (e *enrollment) disabled() bool { return e.ProvisioningStatus == disabledStatus }

// rule is a text of all that decides where devices of the enrollment go. If it has changed since a
// device's last assignment the device is assigned anew.
func (e *enrollment) rule() string {
	return strings.Join(append([]string{e.AllocationPolicy, e.IotHubHostName}, e.IotHubs...), " ")
}

// reprovisions reports whether a device may get another hub.
func (e *enrollment) reprovisions() bool { return e.ReprovisionPolicy.UpdateHubAssignment }

// resets reports whether a device begins with its first twin at every registration.
func (e *enrollment) resets() bool {
	return e.ReprovisionPolicy.UpdateHubAssignment && !e.ReprovisionPolicy.MigrateDeviceData
}

// badEnrollment returns the refusal of an enrollment.
func badEnrollment(format string, args ...any) error {
	return &dpsError{code: 400004, text: fmt.Sprintf(format, args...)}
}

// complete checks an enrollment as it came in, and fills in what it leaves out. old is the one that
// it replaces, nil if there is none. mu is held.
func (r *registry) complete(e, old *enrollment) error {
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
		for _, half := range []map[string]any{t.Tags, t.Properties.Desired} {
			delete(half, "$version")
			delete(half, "$metadata")
			if err := iothub.CheckTwin(half); err != nil {
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

func (r *registry) completePolicies(e *enrollment) error {
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
		if e.CustomAllocation == nil || !validWebhook(e.CustomAllocation.WebhookURL) {
			return badEnrollment("A custom allocation needs a webhook URL.")
		}
	default:
		return badEnrollment("Invalid allocation policy %q.", e.AllocationPolicy)
	}
	return nil
}

// validGroupID reports whether an id may be that of a group. The rule is that of registration ids.
func validGroupID(id string) bool { return azure.ValidRegistrationID(id) }

func (r *registry) completeAttestation(e, old *enrollment) error {
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

func (r *registry) completeCertificates(e, old *enrollment) error {
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
				e.roots = append(e.roots, r.authority.Certificate)
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

// accepts checks how a device proves who it is, and returns the credentials that the device will
// have in its hub. Upper and lower case of the registration id count, because keys are derived from
// it.
func (e *enrollment) accepts(c claim, token *azure.SAS, now time.Time) (azure.Credentials, error) {
	switch {
	case token == nil && len(e.leaves) > 0:
		if err := azure.CheckLeaf(c.chain[0], c.registrationID, now); err != nil {
			return azure.Credentials{}, err
		}
		for _, leaf := range e.leaves {
			if bytes.Equal(c.chain[0].Raw, leaf.Raw) {
				return azure.Credentials{X509: true, Thumbprints: thumbprints(e.leaves)}, nil
			}
		}
		return azure.Credentials{}, errors.New("the certificate is not the one that is enrolled")
	case token == nil:
		err := errors.New("the enrollment takes no certificates")
		for _, root := range e.roots {
			if err = azure.VerifyChain(c.chain, root, c.registrationID, now); err == nil {
				return azure.Credentials{X509: true, Roots: e.roots}, nil
			}
		}
		return azure.Credentials{}, err
	default:
		auth := azure.Credentials{Keys: e.keys}
		if e.group() {
			auth.Keys = nil
			for _, key := range e.keys {
				auth.Keys = append(auth.Keys, azure.DeriveKey(key, c.registrationID))
			}
		}
		if token.SignedBy(auth.Keys...) {
			return auth, nil
		}
		return azure.Credentials{}, azure.ErrSASSignature
	}
}

func thumbprints(certs []*x509.Certificate) (all []string) {
	for _, c := range certs {
		all = append(all, azure.SHA1Thumbprint(c))
	}
	return all
}

// put places an enrollment in the list. ifMatch is the etag that the old one must have. If it is ""
// there must be no old one, unless overwrite says otherwise.
func (r *registry) put(e *enrollment, ifMatch string, overwrite bool) (*enrollment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, key := r.list(e.group()), strings.ToLower(e.id())
	old := list[key]
	switch {
	case old == nil && ifMatch != "":
		return nil, errNoEnrollment
	case old != nil && ifMatch == "" && !overwrite:
		return nil, &dpsError{code: 409000, text: "The enrollment exists already."}
	case old != nil && ifMatch != "" && !etagMatches(ifMatch, old.Etag):
		return nil, errEtag
	}
	if err := r.complete(e, old); err != nil {
		return nil, err
	}
	list[key] = e
	if r.keepEnrollment(e.group(), key) != nil {
		if list[key] = old; old == nil {
			delete(list, key)
		}
		return nil, errNotKept
	}
	return e, nil
}

var (
	errNoEnrollment   = &dpsError{code: 404201, text: "Enrollment not found."}
	errNoRegistration = &dpsError{code: 404201, text: "Registration not found."}
	errEtag           = &dpsError{code: 412000, text: "Precondition failed: the etag is another one."}
)

// etagMatches reports whether a condition is a star or the etag. Some clients put quotes around it.
func etagMatches(condition, etag string) bool {
	bare := strings.Trim(condition, `"`)
	return bare == "*" || bare == strings.Trim(etag, `"`)
}

// remove takes an enrollment out of the list, and forgets the registrations that it has made.
// Devices stay in their hubs.
func (r *registry) remove(group bool, id, ifMatch string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, key := r.list(group), strings.ToLower(id)
	e := list[key]
	if e == nil {
		return errNoEnrollment
	}
	if ifMatch != "" && !etagMatches(ifMatch, e.Etag) {
		return errEtag
	}
	delete(list, key)
	if r.keepEnrollment(group, key) != nil {
		list[key] = e
		return errNotKept
	}
	for _, d := range r.byRegistration {
		if d.registered && d.enrolledBy(e) {
			r.forget(d)
			_ = r.keep(d) // without its enrollment it is of no use anyway
		}
	}
	return nil
}

// list returns the groups or the individual enrollments, by id in lower case.
func (r *registry) list(group bool) map[string]*enrollment {
	if group {
		return r.groups
	}
	return r.enrollments
}

// enrolledBy reports whether the device registered with e.
func (d *device) enrolledBy(e *enrollment) bool {
	if e.group() {
		return strings.EqualFold(d.group, e.EnrollmentGroupID)
	}
	return d.group == "" && strings.EqualFold(d.registrationID, e.RegistrationID)
}

// entry returns the enrollment that a device registered with, as it is now, or nil if it was
// deleted. mu is held.
func (r *registry) entry(d *device) *enrollment {
	if d.group != "" {
		return r.groups[strings.ToLower(d.group)]
	}
	return r.enrollments[strings.ToLower(d.registrationID)]
}

// forget deletes the record of a registration, so the next one will be the first. The identity in
// the hub stays. mu is held.
func (r *registry) forget(d *device) {
	d.stayAway()
	d.registered, d.hub, d.first, d.visited, d.substatus, d.rule, d.refused, d.payload = false, nil, nil, nil, "", "", nil, nil
}

// enrolDefaults makes the two groups that every cloud has, and the enrollments of the options.
func (r *registry) enrolDefaults() error {
	keys := symmetricKeys{base64.StdEncoding.EncodeToString(r.group[0]), base64.StdEncoding.EncodeToString(r.group[1])}
	for _, e := range []*enrollment{
		{EnrollmentGroupID: defaultGroup, Attestation: attestation{Type: attestKey, SymmetricKey: &keys}},
		{EnrollmentGroupID: defaultX509Group, Attestation: attestation{Type: attestX509, X509: &x509Attestation{
			CAReferences: &caReferences{Primary: deviceCAName}}}},
	} {
		e.AllocationPolicy = r.config.Allocation
		if _, err := r.put(e, "", true); err != nil {
			return fmt.Errorf("enrollment group %q: %w", e.EnrollmentGroupID, err)
		}
	}
	for i, doc := range r.config.EnrollmentDocuments {
		if err := r.enrolDocument(doc); err != nil {
			return fmt.Errorf("enrollment %d: %w", i+1, err)
		}
	}
	return nil
}

// enrolDocument reads an enrollment in the form of the service API, and adds or replaces it.
func (r *registry) enrolDocument(doc []byte) error {
	e, err := decodeEnrollment(doc)
	if err != nil {
		return err
	}
	_, err = r.put(e, "", true)
	return err
}

// decodeEnrollment reads an enrollment or a group. As at the service, unknown fields are ignored.
func decodeEnrollment(doc []byte) (*enrollment, error) {
	e := &enrollment{}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(e); err != nil {
		return nil, badEnrollment("The enrollment is not what is expected: %s.", azure.JSONFault(err, nil))
	}
	if (e.RegistrationID == "") == (e.EnrollmentGroupID == "") {
		return nil, badEnrollment("An enrollment needs a registrationId or an enrollmentGroupId.")
	}
	return e, nil
}
