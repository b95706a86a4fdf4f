package provisioning

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// This file is how IoT Central and the control API read and change what the registry has of
// devices. Every method takes the registry's mutex, and returns copies.

// Attributes are what operators say of a device.
type Attributes struct {
	DisplayName   string // "" means the id
	Template      string // "" means the model that the device announced
	Simulated     bool
	Organizations []string
}

// Record is a copy of what the registry has of a device.
type Record struct {
	ID             string
	RegistrationID string
	ModelID        string // "" before the device has announced one
	Provisioned    bool   // it is in a hub
	AssignedHub    string // the name of the hub that DPS would answer now; "" before the first assignment
	Approved       bool
	Blocked        bool // by an operator
	Disabled       bool // by an operator, as if its enrollment were
	Usable         bool // neither DPS nor its hub refuses it as disabled
	Attributes
	Etag string // of the attributes
}

// recordOf copies the record of a device. mu is held.
func (r *Registry) recordOf(d *device) Record {
	record := Record{
		ID: d.id, RegistrationID: d.registrationID, ModelID: d.modelID, Provisioned: d.hub != nil,
		Approved: d.approved, Blocked: d.blocked, Disabled: d.disabled, Usable: !r.isDisabled(d) && !d.unusable,
		Attributes: d.attributes, Etag: d.attributesEtag,
	}
	if d.hub != nil {
		record.AssignedHub = r.answer(d).Name()
	}
	record.Organizations = slices.Clone(d.attributes.Organizations)
	return record
}

// Record returns the record of a device. It returns an [azure.Error] with status 404 if nobody
// knows the device, and 409 if only a hub knows it.
func (r *Registry) Record(id string) (record Record, err error) {
	err = r.with(id, func(d *device) error {
		record = r.recordOf(d)
		return nil
	})
	return record, err
}

// Records returns at most limit records in the order of their ids, of those behind the id after,
// and whether there are more. A limit of 0 is none.
func (r *Registry) Records(after string, limit int) (records []Record, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(r.byID)) {
		if id <= after {
			continue
		}
		if limit > 0 && len(records) == limit {
			return records, true
		}
		records = append(records, r.recordOf(r.byID[id]))
	}
	return records, false
}

// Create makes the record of a device that nobody has seen yet. The device is approved.
func (r *Registry) Create(id string, enabled bool, attributes Attributes) (Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[id] != nil || r.byRegistration[strings.ToLower(id)] != nil {
		return Record{}, azure.Errorf(http.StatusConflict, "AlreadyExists", "A device with id %s exists already.", id)
	}
	now := r.now()
	d := &device{
		id: id, registrationID: id, approved: true, blocked: !enabled, created: now, updated: now,
		attributes: attributes, attributesEtag: azure.NewDPSEtag(),
	}
	r.byID[id], r.byRegistration[strings.ToLower(id)] = d, d
	return r.recordOf(d), azure.Unconfirmed(r.keep(d))
}

// Annotate changes the attributes of a device. change gets the etag that they had, and may refuse.
func (r *Registry) Annotate(id string, change func(etag string, attributes *Attributes) error) error {
	return r.with(id, func(d *device) error {
		attributes := d.attributes
		if err := change(d.attributesEtag, &attributes); err != nil {
			return err
		}
		d.attributes, d.attributesEtag = attributes, azure.NewDPSEtag()
		return nil
	})
}

// Keys returns the primary and the secondary key that a device may register with: its own, or those
// that its group derives for it.
func (r *Registry) Keys(id string) (keys [2][]byte, err error) {
	err = r.with(id, func(d *device) error {
		keys = r.keysOf(d)
		return nil
	})
	return keys, err
}

// keysOf is keys with mu held.
func (r *Registry) keysOf(d *device) (keys [2][]byte) {
	if e := r.enrollments[strings.ToLower(d.registrationID)]; e != nil && len(e.keys) == 2 {
		return [2][]byte(e.keys)
	}
	keys = r.group
	for _, group := range []string{d.group, defaultGroup} {
		if e := r.groups[strings.ToLower(group)]; e != nil && len(e.keys) == 2 {
			keys = [2][]byte(e.keys)
			break
		}
	}
	for n := range keys {
		keys[n] = azure.DeriveKey(keys[n], d.registrationID)
	}
	return keys
}

// OwnAttestation returns the attestation of a device's individual enrollment. It returns an
// [azure.Error] with status 404 if the device has none.
func (r *Registry) OwnAttestation(id string) (a Attestation, err error) {
	err = r.with(id, func(d *device) error {
		e := r.enrollments[strings.ToLower(d.registrationID)]
		if e == nil {
			return azure.Errorf(http.StatusNotFound, "NotFound", "Device %s has no attestation of its own: its group attests it.", d.id)
		}
		a = e.Attestation
		return nil
	})
	return a, err
}

// Attest gives a device an individual enrollment with this attestation, in place of the one that it
// has.
func (r *Registry) Attest(id string, a Attestation) error {
	record, err := r.Record(id)
	if err != nil {
		return err
	}
	e := &enrollment{AllocationPolicy: r.config.Allocation, RegistrationID: record.RegistrationID, Attestation: a}
	if !strings.EqualFold(record.ID, record.RegistrationID) {
		e.DeviceID = record.ID
	}
	_, err = r.put(e, "", true)
	return controlError(err)
}

// Unattest removes a device's individual enrollment, so its group attests it again.
func (r *Registry) Unattest(id string) error {
	record, err := r.Record(id)
	if err == nil {
		err = controlError(r.remove(false, record.RegistrationID, ""))
	}
	return err
}
