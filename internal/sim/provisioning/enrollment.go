package provisioning

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
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
	Attestation            Attestation          `json:"attestation"`
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

// Attestation is how the devices of an enrollment prove who they are.
type Attestation struct {
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

// twin returns the twin that a device of the enrollment begins with.
func (e *enrollment) twin() *iothub.TwinContent {
	t := e.InitialTwin.content()
	t.Edge = e.Capabilities.IotEdge
	return t
}

// content returns the twin as a device gets it. For nil it is empty.
func (t *initialTwin) content() *iothub.TwinContent {
	c := &iothub.TwinContent{Desired: map[string]any{}, Reported: map[string]any{}, Tags: map[string]any{}}
	if t != nil {
		c.Desired, c.Tags = azure.WithoutNulls(t.Properties.Desired), azure.WithoutNulls(t.Tags)
	}
	return c
}

// public returns the enrollment without its keys, which are shown only if a request asks for them.
func (e *enrollment) public() *enrollment {
	shown := *e
	shown.Attestation.SymmetricKey = nil
	return &shown
}
