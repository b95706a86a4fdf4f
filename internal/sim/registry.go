package sim

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// registry is what DPS and, above it, IoT Central know: who may enrol, which devices there are, and which hub each belongs to.
// It is the only one that puts devices into hubs and takes them out.
type registry struct {
	config    registryOptions
	log       zerolog.Logger
	now       func() time.Time // the cloud's clock
	hubs      []*iothub.Hub
	authority *azure.Authority // of device certificates
	group     [2][]byte        // primary and secondary group key
	events    *broadcaster
	store     *store.Store // nil without a state directory

	mu             sync.Mutex
	enrollments    map[string]*enrollment // individual ones, by lower-case registration id
	groups         map[string]*enrollment // by lower-case group id
	byRegistration map[string]*device     // by lower-case registration id
	byID           map[string]*device
	started        bool // the hubs' host names are known
	closed         bool
	lost           error // errors of hubs that could not write since the last keep, see unsaved
}

// unsaved notes that a hub could not write down a change of the registry. keep returns that error,
// and is called before anybody is answered. mu is held.
func (r *registry) unsaved(err error) { r.lost = errors.Join(r.lost, err) }

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

	hub         *iothub.Hub // assigned; nil before the first assignment is finished
	first       *iothub.Hub // where failback leads
	visited     []*iothub.Hub
	rule        string // its enrollment's at the last assignment
	substatus   string
	payload     json.RawMessage // from the allocation webhook to the device
	refused     *dpsError       // why the last registration failed
	etag        string
	created     time.Time
	updated     time.Time
	failedOver  *failover
	unusable    bool // only its identity was disabled, DPS does not know
	centralEtag string
	central     centralDevice
	kept        []byte // as the store has it
}

// failover is a move that ends by itself.
type failover struct {
	from  *iothub.Hub
	until time.Time
	timer *time.Timer
}

const defaultFailover = 30 * time.Minute

// The values of registrationState.substatus in use.
const (
	substatusInitial  = "initialAssignment"
	substatusMigrated = "deviceDataMigrated"
	substatusReset    = "deviceDataReset"
	substatusReturned = "reprovisionedToInitialAssignment"
)

// claim is what a client says of itself to DPS.
type claim struct {
	idScope        string
	registrationID string
	version        string // of the API
	token          string // SAS; "" with a certificate
	chain          []*x509.Certificate
	byAzureName    bool // it asked for DPS by the name Azure gives it
}

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

// verify checks a claim. It returns the enrollment that lets the device in, and the credentials it will have in its hub.
func (r *registry) verify(c claim) (*enrollment, azure.Credentials, error) {
	refuse := func(code int, text, why string) (*enrollment, azure.Credentials, error) {
		return nil, azure.Credentials{}, &dpsError{code, text, why}
	}
	if !validVersion(c.version) {
		return refuse(400004, "The api-version is missing or invalid.", "")
	}
	if c.idScope != r.config.IDScope {
		return refuse(401002, "Unauthorized", fmt.Sprintf("the ID scope is %.32q, here it is %s", c.idScope, r.config.IDScope))
	}
	if !azure.ValidRegistrationID(c.registrationID) {
		return refuse(400004, "Invalid registration id.", "")
	}
	var token *azure.SAS
	want := attestX509
	if c.token != "" {
		want = attestKey
		t, err := azure.ParseSAS(c.token)
		switch {
		case err != nil:
		case !t.CoversRegistration(c.idScope, c.registrationID):
			err = azure.ErrSASResource
		case t.Policy != "" && t.Policy != "registration": // some clients leave it out
			err = azure.ErrSASPolicy
		}
		if err != nil {
			return refuse(401000, "Unauthorized", err.Error())
		}
		token = &t
	} else if len(c.chain) == 0 {
		return refuse(401000, "Unauthorized", "neither a token nor a certificate was sent")
	}
	candidates := r.candidates(c.registrationID, want)
	var refused error
	for _, e := range candidates {
		auth, err := e.accepts(c, token, r.now())
		if err != nil {
			if _, named := errors.AsType[*azure.LeafError](refused); !named {
				refused = err
			}
			continue
		}
		if token != nil && !token.Expires.After(r.now()) {
			return refuse(401002, "Token expired.", "at "+token.Expires.UTC().Format(time.RFC3339))
		}
		return e, auth, nil
	}
	why := "there is no enrollment for it"
	if refused != nil {
		why = refused.Error()
	}
	switch {
	case token == nil:
		return refuse(401002, "Invalid certificate.", why)
	case len(candidates) == 0:
		return refuse(404201, "Enrollment not found.", "")
	}
	return refuse(401000, "Unauthorized", why)
}

// candidates are the enrollments a device might come by: the individual one if it has one, else all groups that attest in that way.
func (r *registry) candidates(registrationID, attestation string) []*enrollment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.enrollments[strings.ToLower(registrationID)]; e != nil {
		return []*enrollment{e}
	}
	var groups []*enrollment
	for _, id := range slices.Sorted(maps.Keys(r.groups)) {
		if e := r.groups[id]; e.Attestation.Type == attestation {
			groups = append(groups, e)
		}
	}
	return groups
}

// arrive notes that a device with good credentials has registered by an enrollment, and returns its record.
func (r *registry) arrive(registrationID string, by *enrollment, auth azure.Credentials, payload json.RawMessage) (*device, error) {
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
		d = &device{id: id, registrationID: registrationID, approved: r.config.AutoApprove, centralEtag: azure.NewDPSEtag()}
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
func (r *registry) settle(d *device, custom *allocation) (registrationState, error) {
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
func (r *registry) lookup(registrationID string) (registrationState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byRegistration[strings.ToLower(registrationID)]
	if d == nil || !d.registered {
		return registrationState{}, false
	}
	return r.stateOf(d), true
}

// disabled says whether DPS refuses the device at once.
func (r *registry) disabled(d *device) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isDisabled(d)
}

// isDisabled is called with mu held.
func (r *registry) isDisabled(d *device) bool {
	e := r.entry(d)
	return d.disabled || e != nil && e.disabled()
}

// place makes the answer of DPS come true; called with mu held.
func (r *registry) place(d *device, e *enrollment, custom *allocation) {
	d.refused, d.payload = nil, nil
	var twin *iothub.TwinContent // nil means the policy decides
	if custom != nil {
		if d.refused = custom.err; d.refused != nil {
			d.updated, d.etag = r.now(), azure.NewDPSEtag()
			return
		}
		twin, d.payload = custom.twin, custom.payload
	}
	target := r.decide(d, e, custom)
	first, moved := d.hub == nil, d.hub != nil && d.hub != target
	if twin == nil && (first || e.resets()) {
		twin = e.twin()
	}
	if rule := e.rule(); d.rule != rule {
		d.rule = rule
		d.stayAway() // where the failover would have ended counts no more
	}
	switch {
	case first:
		d.first = target
		r.assign(d, target, substatusInitial)
		if target.Identity(d.id) != nil {
			twin = nil // somebody made the device in the hub before: DPS takes it over as it is
		}
		r.unsaved(target.Admit(d.id, d.auth, twin, !d.unusable))
	case moved:
		r.move(d, target, twin)
	default: // credentials may have changed, and the identity may have been deleted from the hub
		if e.resets() {
			r.assign(d, target, substatusReset)
		} else if target.Identity(d.id) == nil && twin == nil {
			twin = e.twin()
		}
		r.unsaved(target.Admit(d.id, d.auth, twin, !d.unusable))
	}
}

// decide is the hub for a registration: where the device is, unless its enrollment says otherwise since the last time. Called with
// mu held.
func (r *registry) decide(d *device, e *enrollment, custom *allocation) *iothub.Hub {
	if d.hub != nil && !e.reprovisions() {
		return d.hub
	}
	target := d.hub
	switch {
	case custom != nil:
		target = custom.hub
	case d.hub == nil || d.rule != e.rule():
		target = r.choose(e, d.registrationID)
	}
	return r.alive(target, e)
}

// alive is another hub if DPS knows that the one it would name is of no use.
func (r *registry) alive(target *iothub.Hub, e *enrollment) *iothub.Hub {
	if target.DeadForDPS() {
		if other := otherThan(target, r.hubsOf(e)); other != nil {
			return other
		}
	}
	return target
}

// answer is the hub DPS would name now if nothing but the hubs has changed since the device registered; called with mu held.
func (r *registry) answer(d *device) *iothub.Hub {
	if e := r.entry(d); e != nil && e.reprovisions() {
		return r.alive(d.hub, e)
	}
	return d.hub
}

func (r *registry) assign(d *device, to *iothub.Hub, substatus string) {
	d.hub, d.substatus, d.updated, d.etag = to, substatus, r.now(), azure.NewDPSEtag()
	if !slices.Contains(d.visited, to) {
		d.visited = append(d.visited, to)
	}
}

// move takes a device to another hub: the identity there comes first, with the whole twin or, if its enrollment says so, with the
// one it began with; then the old one becomes unusable in the way configured, unless nobody could reach its hub to do that. A twin
// that is given counts in any case.
func (r *registry) move(d *device, to *iothub.Hub, twin *iothub.TwinContent) {
	from, substatus := d.hub, substatusMigrated
	if e := r.entry(d); e != nil && e.resets() {
		substatus = substatusReset
		if twin == nil {
			twin = e.twin()
		}
	}
	if twin == nil {
		twin = &iothub.TwinContent{}
		if old := from.Identity(d.id); old != nil {
			twin = old.Content()
		}
	}
	r.unsaved(to.Admit(d.id, d.auth, twin, !d.unusable && !d.blocked && !d.disabled))
	if slices.Contains(d.visited, to) {
		substatus = substatusReturned
	}
	r.assign(d, to, substatus)
	if d.failedOver != nil && d.failedOver.from == to {
		d.stayAway()
	}
	r.events.emit(iothub.Event{Kind: iothub.EventMove, Hub: to.Name(), Device: d.id})
	r.log.Info().Str("hub", to.Name()).Str("device", d.id).Str("kind", iothub.EventMove).Str("from", from.Name()).Msg("device moved")
	switch {
	case !from.Reachable():
	case r.config.Move == MoveDelete:
		r.unsaved(from.Delete(d.id, "device moved to "+to.Name()))
	default:
		if old := from.Identity(d.id); old != nil {
			r.unsaved(old.Disable("device moved to " + to.Name()))
		}
	}
}

// stateOf is the registration record; called with mu held.
func (r *registry) stateOf(d *device) registrationState {
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
func (r *registry) with(id string, f func(*device) error) error {
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

// placed is the identity that orders to a device go to: in the hub DPS would assign now. Giving the order makes the assignment, so
// that the order is where the device will be sent.
func (r *registry) placed(id string) (i *iothub.Identity, err error) {
	if i := r.made(id); i != nil {
		return i, nil
	}
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if target := r.answer(d); target != d.hub {
			r.move(d, target, nil)
		}
		if i = d.hub.Identity(d.id); i == nil { // the hub has lost it
			return azure.Errorf(404, "DeviceNotFound", "%s does not know device %s any more, until it registers again", d.hub.Name(), id)
		}
		return nil
	})
	return i, err
}

// linked are the hubs a device can be in; called with mu held.
func (r *registry) linked(d *device) []*iothub.Hub {
	if e := r.entry(d); e != nil {
		return r.hubsOf(e)
	}
	return r.hubs
}

func notProvisioned(d *device) error {
	return azure.Errorf(409, "DeviceNotProvisioned", "device %s has never been assigned to a hub", d.id)
}

// failover moves a device to the next living hub, until ttl is over.
func (r *registry) failover(id string, ttl time.Duration) (left *iothub.Hub, until time.Time, err error) {
	if ttl == 0 {
		ttl = defaultFailover
	}
	err = r.with(id, func(d *device) error {
		switch {
		case ttl < 0:
			return azure.Errorf(400, "BadRequest", "the time until the return is negative")
		case len(r.linked(d)) == 1:
			return azure.Errorf(400, "SingleHub", "there is a single hub, so no device can be failed over")
		case d.hub == nil:
			return notProvisioned(d)
		case d.failedOver != nil:
			return azure.Errorf(409, "DeviceAlreadyFailedOver", "device %s is failed over already, until %s", id, d.failedOver.until.UTC().Format(time.RFC3339))
		case r.closed:
			return azure.Errorf(409, "", "the simulator has stopped")
		}
		left = d.hub
		to := otherThan(left, r.linked(d))
		if to == nil {
			return azure.Errorf(409, "NoHealthyHub", "no other hub is alive")
		}
		r.move(d, to, nil)
		until = r.now().Add(ttl)
		f := &failover{from: left, until: until}
		f.timer = time.AfterFunc(ttl, func() { r.returnHome(d, f) })
		d.failedOver = f
		return nil
	})
	return left, until, err
}

// stayAway ends a failover without a return; called with the registry's mutex held.
func (d *device) stayAway() {
	if d.failedOver != nil {
		if d.failedOver.timer != nil { // it has none before the start
			d.failedOver.timer.Stop()
		}
		d.failedOver = nil
	}
}

// returnHome ends a failover whose time is up. A hub that is dead by then gets nobody back.
func (r *registry) returnHome(d *device, f *failover) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || d.failedOver != f {
		return
	}
	d.failedOver = nil
	if d.hub != f.from && !f.from.DeadForDPS() {
		r.move(d, f.from, nil)
	}
	_ = r.keep(d) // nobody has asked for it
}

// failback returns a device to its first hub, whatever moved it; a device that is there stays.
func (r *registry) failback(id string) (left *iothub.Hub, err error) {
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if d.hub == d.first {
			return nil
		}
		if d.first.DeadForDPS() {
			return azure.Errorf(409, "NoHealthyHub", "%s is under fault %s", d.first.Name(), d.first.FaultKind())
		}
		left = d.hub
		d.stayAway()
		r.move(d, d.first, nil)
		return nil
	})
	return left, err
}

// change changes what stands between a device and its hub; set sets the flags.
func (r *registry) change(id, reason string, set func(*device)) error {
	return r.with(id, func(d *device) error {
		set(d)
		d.updated = r.now()
		if d.blocked || d.disabled || d.unusable {
			for _, h := range r.hubs {
				if i := h.Identity(d.id); i != nil {
					r.unsaved(i.Disable(reason))
				}
			}
		} else if d.hub != nil {
			if i := d.hub.Identity(d.id); i != nil {
				r.unsaved(i.Enable())
			}
		}
		return nil
	})
}

// delete forgets a device everywhere. Its group still enrols it, so it may come back as a new one.
func (r *registry) delete(id string) error {
	if i := r.made(id); i != nil {
		return azure.Unconfirmed(i.Hub().Delete(id, "device deleted"))
	}
	return r.with(id, func(d *device) error {
		r.drop(d, "device deleted")
		return nil
	})
}

// drop is delete with mu held.
func (r *registry) drop(d *device, reason string) {
	d.stayAway()
	delete(r.byID, d.id)
	delete(r.byRegistration, strings.ToLower(d.registrationID))
	for _, h := range r.hubs {
		r.unsaved(h.Delete(d.id, reason))
	}
}

// newest returns the identity by which a device is connected, nil if it is not, and the model that it
// has announced. If a dead hub still holds an older connection, the newest connection counts.
func (r *registry) newest(id string) (i *iothub.Identity, modelID string) {
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

// close stops the timers.
func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, d := range r.byID {
		if d.failedOver != nil && d.failedOver.timer != nil {
			d.failedOver.timer.Stop()
		}
	}
}

// noteIdentity remembers that a service switched the identity of a device DPS has put there, lest the next registration undo it.
func (r *registry) noteIdentity(h *iothub.Hub, id string, enabled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.byID[id]; d != nil && d.hub == h {
		d.unusable = !enabled
		_ = r.keep(d) // the hub has answered for it
	}
}

// made is the identity of a device that a service made in a hub and DPS knows nothing of, nil if there is none.
func (r *registry) made(id string) *iothub.Identity {
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

// known is nil if DPS or a hub has the device.
func (r *registry) known(id string) error {
	if r.made(id) != nil {
		return nil
	}
	return r.with(id, func(*device) error { return nil })
}
