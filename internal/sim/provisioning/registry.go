package provisioning

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Registry is what DPS and IoT Central know: who may enrol, which devices there are, and which hub
// each device belongs to. Only the registry puts devices into hubs, and takes them out.
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

// NewRegistry returns a registry without devices. The caller calls Restore and EnrolConfigured, and
// Start when the hubs have their addresses.
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

// device is one device as DPS knows it. The registry's mutex guards it.
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

// dpsError is a refusal with an error code of DPS. The code divided by 1000 is the HTTP status.
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

// disabled reports whether DPS refuses the device at once.
func (r *Registry) disabled(d *device) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isDisabled(d)
}

// isDisabled is disabled with mu held.
func (r *Registry) isDisabled(d *device) bool {
	e := r.entry(d)
	return d.disabled || e != nil && e.disabled()
}

// with runs f on the device of this id, with mu held, and writes the device down. It returns an
// [azure.Error] with status 404 if nobody knows the device, and 409 if only a hub knows it.
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

// Delete forgets a device everywhere. Its group still enrols it, so it may come back as a new
// device.
func (r *Registry) Delete(id string) error {
	if i := r.made(id); i != nil {
		return azure.Unconfirmed(i.Hub().Delete(id, "device deleted"))
	}
	return r.with(id, func(d *device) error {
		r.drop(d, "device deleted")
		return nil
	})
}

// drop deletes a device. mu is held.
func (r *Registry) drop(d *device, reason string) {
	d.stayAway()
	delete(r.byID, d.id)
	delete(r.byRegistration, strings.ToLower(d.registrationID))
	for _, h := range r.hubs {
		r.unsaved(h.Delete(d.id, reason))
	}
}

// made returns the identity of a device that a service made in a hub and that DPS does not know. It
// is nil if DPS knows the device, or no hub has it.
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

// Newest returns the identity by which a device is connected, nil if it is not, and the model that
// it has announced. If a dead hub still holds an older connection, the newest connection counts.
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

// Close stops the timers: from now on no failover ends by itself.
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

// Known returns nil if DPS or a hub has the device, else an [azure.Error] with status 404.
func (r *Registry) Known(id string) error {
	if r.made(id) != nil {
		return nil
	}
	return r.with(id, func(*device) error { return nil })
}

// Start checks the hubs that enrollments name, and those of later enrollments are checked at once:
// before the start the names of the hubs are not all known. It also lets failovers end in time.
func (r *Registry) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started = true
	r.resume()
	for _, list := range []map[string]*enrollment{r.enrollments, r.groups} {
		for _, e := range list {
			if err := r.completePolicies(e); err != nil {
				return errors.New("enrollment " + strconv.Quote(e.id()) + ": " + err.Error())
			}
		}
	}
	return nil
}
