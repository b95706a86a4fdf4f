package provisioning

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Registry is what DPS and IoT Central know: who may enrol, which devices there are, and which hub each
// device belongs to. Only the registry puts devices into hubs, and takes them out.
type Registry struct {
	config RegistryOptions
	log    zerolog.Logger
	now    func() time.Time // the cloud's clock
	hubs   []*iothub.Hub
	group  [2][]byte    // primary and secondary key of the default group
	store  *store.Store // nil without a state directory

	mu             sync.Mutex             // guards all below, and every device; taken before the mutexes of hubs and identities
	enrollments    map[string]*enrollment // individual ones, by lower-case registration id
	groups         map[string]*enrollment // by lower-case group id
	byRegistration map[string]*device     // by lower-case registration id
	byID           map[string]*device
	started        bool // the hubs' host names are known
	closed         bool
	lost           error // errors of hubs that could not write since the last keep, see unsaved
}

// NewRegistry returns a registry without devices. The caller calls restore, and start when the hubs
// have their addresses.
func NewRegistry(o RegistryOptions) *Registry {
	r := &Registry{
		config: o, log: o.Log, now: o.Now, hubs: o.Hubs, store: o.Store,
		enrollments: map[string]*enrollment{}, groups: map[string]*enrollment{},
		byRegistration: map[string]*device{}, byID: map[string]*device{},
	}
	for i, name := range []string{"group/primary", "group/secondary"} {
		if text := o.GroupKeys[i]; text != "" {
			o.Store.SetSecret(name, text)
			r.group[i], _ = base64.StdEncoding.DecodeString(text) // validated
		} else {
			r.group[i] = o.Store.Key(name, 64)
		}
	}
	return r
}

// DeviceKey returns the primary key of a device that registers by the default group.
func (r *Registry) DeviceKey(registrationID string) []byte {
	return azure.DeriveKey(r.group[0], registrationID)
}

// IDScope returns the ID scope of DPS.
func (r *Registry) IDScope() string { return r.config.IDScope }

// GroupKeys returns the primary and the secondary key of the default group.
func (r *Registry) GroupKeys() [2][]byte { return r.group }

// unsaved notes that a hub could not write down a change of the registry. keep returns that error,
// and is called before anybody is answered. mu is held.
func (r *Registry) unsaved(err error) { r.lost = errors.Join(r.lost, err) }

// device is one device as DPS knows it; the registry's mutex guards it.
type device struct {
	id             string // in the hubs
	registrationID string // as it was first written
	group          string // the enrollment group it came by; "" for an individual enrollment
	auth           azure.Credentials
	modelID        string
	registered     bool // there is a record of its registration

	approved bool
	blocked  bool // by the operator: DPS answers failed 400209
	disabled bool // by the control API: DPS answers disabled, as if its enrollment were

	hub            *iothub.Hub // assigned; nil before the first assignment is finished
	first          *iothub.Hub // where failback leads
	visited        []*iothub.Hub
	rule           string // its enrollment's at the last assignment
	substatus      string
	payload        json.RawMessage // from the allocation webhook to the device
	refused        *dpsError       // why the last registration failed
	etag           string
	created        time.Time
	updated        time.Time
	failedOver     *failover
	unusable       bool // only its identity was disabled, DPS does not know
	attributes     Attributes
	attributesEtag string
	kept           []byte // as the store has it
}

// The values of registrationState.substatus in use.
const (
	substatusInitial  = "initialAssignment"
	substatusMigrated = "deviceDataMigrated"
	substatusReset    = "deviceDataReset"
	substatusReturned = "reprovisionedToInitialAssignment"
)

// dpsError is a refusal with DPS's own error code; code/1000 is the status.
type dpsError struct {
	code int
	text string // the service's own text, which clients may match
	why  string // exact reason for the log and the events; "" if text says it
}

func (e *dpsError) Error() string { return e.text }

// reason returns the reason for the log and the events.
func (e *dpsError) reason() string {
	if e.why == "" {
		return e.text
	}
	return strings.TrimSuffix(e.text, ".") + ": " + e.why
}

// arrive notes that a device with good credentials has registered by an enrollment, and returns its record.
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

// errNotKept is what DPS answers when it cannot write down what it would have to promise.
var errNotKept = &dpsError{code: 500000, text: "Internal server error."}

// modelIDIn finds the model id in a registration's payload, which may itself be a string that holds JSON, as the Azure CLI sends it.
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

// The states of a registration.
const (
	statusUnassigned = "unassigned"
	statusAssigning  = "assigning"
	statusAssigned   = "assigned"
	statusFailed     = "failed"
	statusDisabled   = "disabled"
)

// settle finishes a registration: the device is put into the hub that DPS assigns now, if it may be in any. custom is what the
// webhook said, nil if it was not asked.
func (r *Registry) settle(d *device, custom *allocation) (registrationState, error) {
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

// lookup is settle without the effects.
func (r *Registry) lookup(registrationID string) (registrationState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byRegistration[strings.ToLower(registrationID)]
	if d == nil || !d.registered {
		return registrationState{}, false
	}
	return r.stateOf(d), true
}

// disabled says whether DPS refuses the device at once.
func (r *Registry) disabled(d *device) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isDisabled(d)
}

// isDisabled is called with mu held.
func (r *Registry) isDisabled(d *device) bool {
	e := r.entry(d)
	return d.disabled || e != nil && e.disabled()
}

// stateOf is the registration record; called with mu held.
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

// with runs f on a device by its id, with mu held.
func (r *Registry) with(id string, f func(*device) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byID[id]
	if d == nil {
		for _, h := range r.hubs {
			if h.Identity(id) != nil {
				return azure.Errorf(409, "DeviceNotProvisioned", "device %s was made in %s, DPS does not know it", id, h.Name())
			}
		}
		return azure.Errorf(404, "DeviceNotFound", "device %s is not known", id)
	}
	err := f(d)
	if lost := r.keep(d); err == nil && lost != nil {
		err = azure.Unconfirmed(lost)
	}
	return err
}

// Delete forgets a device everywhere. Its group still enrols it, so it may come back as a new one.
func (r *Registry) Delete(id string) error {
	if i := r.made(id); i != nil {
		return azure.Unconfirmed(i.Hub().Delete(id, "device deleted"))
	}
	return r.with(id, func(d *device) error {
		r.drop(d, "device deleted")
		return nil
	})
}

// drop is delete with mu held.
func (r *Registry) drop(d *device, reason string) {
	d.stayAway()
	delete(r.byID, d.id)
	delete(r.byRegistration, strings.ToLower(d.registrationID))
	for _, h := range r.hubs {
		r.unsaved(h.Delete(d.id, reason))
	}
}

// Newest returns the identity by which a device is connected, nil if it is not, and the model that it
// has announced. If a dead hub still holds an older connection, the newest connection counts.
func (r *Registry) Newest(id string) (i *iothub.Identity, modelID string) {
	newest := int64(0)
	for _, h := range r.hubs {
		if candidate := h.Identity(id); candidate != nil {
			if number, model := candidate.Connection(); number > newest {
				i, newest, modelID = candidate, number, model
			}
		}
	}
	return i, modelID
}

// Close stops the timers.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, d := range r.byID {
		if d.failedOver != nil && d.failedOver.timer != nil {
			d.failedOver.timer.Stop()
		}
	}
}

// made is the identity of a device that a service made in a hub and DPS knows nothing of, nil if there is none.
func (r *Registry) made(id string) *iothub.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[id] != nil {
		return nil
	}
	for _, h := range r.hubs {
		if i := h.Identity(id); i != nil {
			return i
		}
	}
	return nil
}

// Known is nil if DPS or a hub has the device.
func (r *Registry) Known(id string) error {
	if r.made(id) != nil {
		return nil
	}
	return r.with(id, func(*device) error { return nil })
}
