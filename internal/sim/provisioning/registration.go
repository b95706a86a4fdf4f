package provisioning

import (
	"encoding/json"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// The values of registrationState.substatus in use.
const (
	substatusInitial  = "initialAssignment"
	substatusMigrated = "deviceDataMigrated"
	substatusReset    = "deviceDataReset"
	substatusReturned = "reprovisionedToInitialAssignment"
)

// The states of a registration.
const (
	statusUnassigned = "unassigned"
	statusAssigning  = "assigning"
	statusAssigned   = "assigned"
	statusFailed     = "failed"
	statusDisabled   = "disabled"
)

// arrive is the first half of a registration: a device with good credentials has asked for it by an
// enrollment. It returns the record of the device, which it makes if there is none.
func (r *Registry) arrive(registrationID string, by *enrollment, auth azure.Credentials, payload json.RawMessage) (*device, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, id := strings.ToLower(registrationID), registrationID
	if by.DeviceID != "" {
		id = by.DeviceID
	}
	d := r.byRegistration[key]
	if d != nil && by.DeviceID != "" && d.id != id { // the enrollment has got another device id: that is another device
		r.drop(d, "device has another id now")
		if r.keep(d) != nil {
			return nil, errNotKept
		}
		d = nil
	}
	now := r.now()
	if d == nil {
		if r.byID[id] != nil {
			return nil, &dpsError{code: 409000, text: "The device id belongs to another registration."}
		}
		d = &device{id: id, registrationID: registrationID, approved: r.config.AutoApprove, attributesEtag: azure.NewDPSEtag()}
		r.byRegistration[key] = d
		r.byID[id] = d
	}
	if !d.registered {
		d.registered, d.created, d.updated, d.etag = true, now, now, azure.NewDPSEtag()
	}
	d.auth, d.group = auth, by.EnrollmentGroupID
	if model := modelIDIn(payload); model != "" {
		d.modelID = model
	}
	if r.keep(d) != nil {
		return nil, errNotKept
	}
	return d, nil
}

// errNotKept is the answer of DPS when it cannot write down what it would have to promise.
var errNotKept = &dpsError{code: 500000, text: "Internal server error."}

// modelIDIn finds the model id in the payload of a registration. The payload may be a string that
// holds JSON, as the Azure CLI sends it.
func modelIDIn(payload json.RawMessage) string {
	var text string
	if json.Unmarshal(payload, &text) == nil {
		payload = json.RawMessage(text)
	}
	var p struct {
		ModelID     string `json:"modelId"`
		IotcModelID string `json:"iotcModelId"`
	}
	if json.Unmarshal(payload, &p) != nil {
		return ""
	}
	if p.ModelID != "" {
		return p.ModelID
	}
	return p.IotcModelID
}

// settle is the second half of a registration: it puts the device into the hub that DPS assigns
// now, if the device may be in any. custom is what the webhook said, nil if it was not asked.
func (r *Registry) settle(d *device, custom *webhookAnswer) (registrationState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry(d)
	if r.byID[d.id] != d || !d.registered || e == nil {
		return registrationState{}, errNoRegistration // it was deleted meanwhile
	}
	if d.approved && !d.blocked && !r.isDisabled(d) {
		r.place(d, e, custom)
	}
	if r.keep(d) != nil {
		return registrationState{}, errNotKept
	}
	return r.stateOf(d), nil
}

// lookup returns the state of a registration, and changes nothing.
func (r *Registry) lookup(registrationID string) (registrationState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byRegistration[strings.ToLower(registrationID)]
	if d == nil || !d.registered {
		return registrationState{}, false
	}
	return r.stateOf(d), true
}

// stateOf returns the state of a registration in the form of DPS. mu is held.
func (r *Registry) stateOf(d *device) registrationState {
	s := registrationState{RegistrationID: d.registrationID}
	switch {
	case r.isDisabled(d):
		s.Status = statusDisabled
		return s
	case d.blocked || !d.approved: // IoT Central's allocation webhook refuses
		s.Status = statusFailed
		s.ErrorCode, s.ErrorMessage = 400209, "Custom allocation failed with status code: 401"
	case d.refused != nil:
		s.Status = statusFailed
		s.ErrorCode, s.ErrorMessage = d.refused.code, d.refused.text
	case d.hub == nil:
		s.Status = statusUnassigned
	default:
		s.Status, s.Substatus = statusAssigned, d.substatus
		s.AssignedHub, s.DeviceID = d.hub.Host(), d.id
		s.X509, s.Payload = &registrationX509{}, d.payload // the service writes x509 for devices with keys too
		if d.auth.X509 {
			s.X509.EnrollmentGroupID = d.group
		}
	}
	s.CreatedDateTimeUTC, s.LastUpdatedDateTimeUTC, s.Etag = azure.UTC7(d.created), azure.UTC7(d.updated), d.etag
	return s
}

// Provision registers a device with the default group and assigns it to a hub, whose host it
// returns. It checks no credentials. The device gets those in auth. It is for tests, which fill a
// cloud with it.
func (r *Registry) Provision(id string, auth azure.Credentials) (host string, err error) {
	r.mu.Lock()
	group := r.groups[defaultGroup]
	r.mu.Unlock()
	d, err := r.arrive(id, group, auth, nil)
	if err != nil {
		return "", err
	}
	state, err := r.settle(d, nil)
	return state.AssignedHub, err
}
