package provisioning

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// put places an enrollment in the list. ifMatch is the etag that the old one must have. If it is ""
// there must be no old one, unless overwrite says otherwise.
func (r *Registry) put(e *enrollment, ifMatch string, overwrite bool) (*enrollment, error) {
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

// etagMatches reports whether a condition that was given is a star or the etag. A condition with
// nothing between its quotes matches none.
func etagMatches(condition, etag string) bool {
	match := azure.ParseIfMatch(condition)
	return match.Given && match.Matches(etag)
}

// remove takes an enrollment out of the list, and forgets the registrations that it has made.
// Devices stay in their hubs.
func (r *Registry) remove(group bool, id, ifMatch string) error {
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
func (r *Registry) list(group bool) map[string]*enrollment {
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
func (r *Registry) entry(d *device) *enrollment {
	if d.group != "" {
		return r.groups[strings.ToLower(d.group)]
	}
	return r.enrollments[strings.ToLower(d.registrationID)]
}

// forget deletes the record of a registration, so the next one will be the first. The identity in
// the hub stays. mu is held.
func (r *Registry) forget(d *device) {
	d.stayAway()
	d.registered, d.hub, d.first, d.visited, d.substatus, d.rule, d.refused, d.payload = false, nil, nil, nil, "", "", nil, nil
}

// enrolDefaults makes the two groups that every cloud has, and the enrollments of the options.
func (r *Registry) enrolDefaults() error {
	keys := symmetricKeys{base64.StdEncoding.EncodeToString(r.group[0]), base64.StdEncoding.EncodeToString(r.group[1])}
	for _, e := range []*enrollment{
		{EnrollmentGroupID: defaultGroup, Attestation: Attestation{Type: attestKey, SymmetricKey: &keys}},
		{EnrollmentGroupID: defaultX509Group, Attestation: Attestation{Type: attestX509, X509: &x509Attestation{
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

// enrolDocument reads an enrollment or a group in the form of the service API, and adds or replaces
// it.
func (r *Registry) enrolDocument(doc []byte) error {
	e, err := decodeEnrollment(doc)
	if err != nil {
		return err
	}
	_, err = r.put(e, "", true)
	return err
}

// EnrollDocument is enrolDocument with the errors of the control API. It is for tests.
func (r *Registry) EnrollDocument(doc []byte) error { return controlError(r.enrolDocument(doc)) }

// EnrolConfigured brings the enrollments of the options into the list, if they are not those of the
// last start: a restart does not undo later changes of the list.
func (r *Registry) EnrolConfigured() error {
	c := r.config
	wanted := string(azure.EncodeJSON([]any{c.Allocation, c.Reprovision, c.Webhook, c.GroupKeys[0], c.GroupKeys[1], c.EnrollmentDocuments}))
	if r.store.Secret("enrollments") == wanted {
		return nil
	}
	err := r.enrolDefaults()
	r.store.SetSecret("enrollments", wanted)
	return err
}

// Enroll adds or replaces an individual enrollment with symmetric keys.
func (r *Registry) Enroll(e Enrollment) error {
	if e.PrimaryKey == "" {
		return azure.Errorf(400, "BadRequest", "an enrollment needs a base64 key")
	}
	entry := &enrollment{
		RegistrationID: e.RegistrationID, DeviceID: e.DeviceID, AllocationPolicy: r.config.Allocation,
		Attestation: Attestation{Type: attestKey, SymmetricKey: &symmetricKeys{e.PrimaryKey, e.SecondaryKey}},
	}
	if e.Disabled {
		entry.ProvisioningStatus = disabledStatus
	}
	_, err := r.put(entry, "", true)
	return controlError(err)
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

// controlError gives a refusal of DPS the form of an [azure.Error]. Other errors stay as they
// are.
func controlError(err error) error {
	if e, ok := errors.AsType[*dpsError](err); ok {
		return azure.Errorf(e.code/1000, "BadRequest", "%s", e.text)
	}
	return err
}
