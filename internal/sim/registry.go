package sim

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// registry is what DPS and, above it, IoT Central know: who may enrol, which devices there are, and which hub each belongs to.
// It is the only one that puts devices into hubs and takes them out.
type registry struct {
	config    Config
	log       zerolog.Logger
	now       func() time.Time // the cloud's clock
	hubs      []*hub
	authority *authority // of device certificates
	group     [2][]byte  // primary and secondary group key
	events    *broadcaster

	mu             sync.Mutex
	enrollments    map[string]Enrollment // individual ones, by lower-case registration id
	byRegistration map[string]*device    // by lower-case registration id
	byID           map[string]*device
	closed         bool
}

// device is one device as DPS knows it; the registry's mutex guards it.
type device struct {
	id             string // in the hubs
	registrationID string // as it was first written
	auth           credentials
	modelID        string

	approved bool
	blocked  bool // by the operator: DPS answers failed 400209
	disabled bool // the enrollment: DPS answers disabled

	hub         *hub // assigned; nil before the first assignment is finished
	first       *hub // where failback leads
	visited     []*hub
	substatus   string
	etag        string
	created     time.Time
	updated     time.Time
	failedOver  *failover
	unusable    bool // only its identity was disabled, DPS does not know
	centralEtag string
}

// failover is a move that ends by itself.
type failover struct {
	from  *hub
	until time.Time
	timer *time.Timer
}

const defaultFailover = 30 * time.Minute

// The values of registrationState.substatus in use.
const (
	substatusInitial  = "initialAssignment"
	substatusMigrated = "deviceDataMigrated"
	substatusReturned = "reprovisionedToInitialAssignment"
)

// validRegistrationID: at most 128 letters, digits, and - . _ :, the last one a letter, a digit or a dash.
func validRegistrationID(id string) bool {
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
		case strings.IndexByte("._:", c) >= 0 && i < len(id)-1:
		default:
			return false
		}
	}
	return id != "" && len(id) <= 128
}

// claim is what a client says of itself to DPS.
type claim struct {
	idScope        string
	registrationID string
	token          string // SAS; "" with a certificate
	chain          []*x509.Certificate
}

// dpsError is a refusal with DPS's own error code; code/1000 is the status.
type dpsError struct {
	code int
	text string
}

func (e *dpsError) Error() string { return e.text }

// verify checks a claim. The credentials it returns are those the device will have in its hub.
func (r *registry) verify(c claim) (credentials, error) {
	refuse := func(code int, text string) (credentials, error) { return credentials{}, &dpsError{code, text} }
	if c.idScope != r.config.IDScope {
		return refuse(401002, "Unauthorized")
	}
	if !validRegistrationID(c.registrationID) {
		return refuse(400004, "Invalid registration id.")
	}
	r.mu.Lock()
	individual, enrolled := r.enrollments[strings.ToLower(c.registrationID)]
	r.mu.Unlock()
	if c.token == "" {
		if len(c.chain) == 0 {
			return refuse(401000, "Unauthorized")
		}
		if enrolled {
			return refuse(401002, "Invalid certificate.")
		}
		if err := r.authority.verifyDevice(c.chain, c.registrationID, r.now()); err != nil {
			return refuse(401002, "Invalid certificate.")
		}
		return credentials{x509: true}, nil
	}
	auth := credentials{keys: [][]byte{deriveKey(r.group[0], c.registrationID), deriveKey(r.group[1], c.registrationID)}}
	if enrolled {
		auth.keys = individual.keys()
	}
	token, err := parseSAS(c.token)
	switch {
	case err != nil:
		return refuse(401000, "Unauthorized")
	case !token.coversRegistration(c.idScope, c.registrationID),
		token.skn != "" && token.skn != "registration", // some clients leave it out
		!token.signedBy(auth.keys...):
		return refuse(401000, "Unauthorized")
	case !token.expires.After(r.now()):
		return refuse(401002, "Token expired.")
	}
	return auth, nil
}

func (e Enrollment) keys() (keys [][]byte) {
	for _, text := range []string{e.PrimaryKey, e.SecondaryKey} {
		if key, err := base64.StdEncoding.DecodeString(text); err == nil && len(key) > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// arrive notes that a device with good credentials has registered, and returns its record.
func (r *registry) arrive(registrationID string, auth credentials, payload json.RawMessage) *device {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := strings.ToLower(registrationID)
	d := r.byRegistration[key]
	if d == nil {
		now := r.now()
		d = &device{id: registrationID, registrationID: registrationID, approved: r.config.AutoApprove, created: now, updated: now,
			etag: newDPSEtag(), centralEtag: newDPSEtag()}
		if e, enrolled := r.enrollments[key]; enrolled {
			d.disabled = e.Disabled
			if e.DeviceID != "" {
				d.id = e.DeviceID
			}
		}
		r.byRegistration[key] = d
		r.byID[d.id] = d
	}
	d.auth = auth
	if model := modelIDIn(payload); model != "" {
		d.modelID = model
	}
	return d
}

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

// settle finishes a registration: the device is put into the hub that DPS assigns now, if it may be in any. It is false for a device
// that was deleted meanwhile.
func (r *registry) settle(d *device) (registrationState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[d.id] != d {
		return registrationState{}, false
	}
	if d.approved && !d.blocked && !d.disabled {
		r.place(d)
	}
	return r.stateOf(d), true
}

// lookup is settle without the effects.
func (r *registry) lookup(registrationID string) (registrationState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byRegistration[strings.ToLower(registrationID)]
	if d == nil {
		return registrationState{}, false
	}
	return r.stateOf(d), true
}

// disabled says whether DPS refuses the device at once.
func (r *registry) disabled(d *device) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.disabled
}

// place makes the answer of DPS come true; called with mu held.
func (r *registry) place(d *device) {
	target := r.answer(d)
	switch {
	case d.hub == nil:
		d.first = target
		r.assign(d, target, substatusInitial)
		target.admit(d.id, d.auth, nil, !d.unusable)
	case d.hub != target:
		r.move(d, target)
	default: // credentials may have changed, and the identity may have been deleted from the hub
		target.admit(d.id, d.auth, nil, !d.unusable)
	}
}

// answer is the hub DPS would name now; called with mu held.
func (r *registry) answer(d *device) *hub {
	hub := d.hub
	if hub == nil {
		hub = r.hubs[0]
		if r.config.Allocation == AllocateHashed {
			h := fnv.New32a()
			h.Write([]byte(strings.ToLower(d.registrationID)))
			hub = r.hubs[h.Sum32()%uint32(len(r.hubs))]
		}
	}
	if hub.deadForDPS() {
		if other := r.otherThan(hub); other != nil {
			return other
		}
	}
	return hub
}

// otherThan is the next living hub in the row, nil if there is none.
func (r *registry) otherThan(h *hub) *hub {
	at := slices.Index(r.hubs, h)
	for i := 1; i < len(r.hubs); i++ {
		if other := r.hubs[(at+i)%len(r.hubs)]; !other.deadForDPS() {
			return other
		}
	}
	return nil
}

func (r *registry) assign(d *device, to *hub, substatus string) {
	d.hub, d.substatus, d.updated, d.etag = to, substatus, r.now(), newDPSEtag()
	if !slices.Contains(d.visited, to) {
		d.visited = append(d.visited, to)
	}
}

// move takes a device to another hub: the identity there comes first, with the desired properties; then the old one becomes unusable
// in the way configured, unless nobody could reach its hub to do that.
func (r *registry) move(d *device, to *hub) {
	from := d.hub
	var desired map[string]any
	if old := from.identity(d.id); old != nil {
		old.mu.Lock()
		desired = old.desired.props
		old.mu.Unlock()
	}
	if desired == nil {
		desired = map[string]any{}
	}
	to.admit(d.id, d.auth, desired, !d.unusable && !d.blocked && !d.disabled)
	substatus := substatusMigrated
	if slices.Contains(d.visited, to) {
		substatus = substatusReturned
	}
	r.assign(d, to, substatus)
	if d.failedOver != nil && d.failedOver.from == to {
		d.failedOver.timer.Stop()
		d.failedOver = nil
	}
	r.events.emit(Event{Kind: EventMove, Hub: to.name, Device: d.id})
	r.log.Info().Str("device", d.id).Str("from", from.name).Str("to", to.name).Msg("device moved")
	switch {
	case !from.reachable():
	case r.config.Move == MoveDelete:
		from.delete(d.id, "device moved to "+to.name)
	default:
		if old := from.identity(d.id); old != nil {
			old.disable("device moved to " + to.name)
		}
	}
}

// stateOf is the registration record; called with mu held.
func (r *registry) stateOf(d *device) registrationState {
	s := registrationState{RegistrationID: d.registrationID}
	switch {
	case d.disabled:
		s.Status = statusDisabled
		return s
	case d.blocked || !d.approved: // IoT Central's allocation webhook refuses
		s.Status = statusFailed
		s.ErrorCode, s.ErrorMessage = 400209, "Custom allocation failed with status code: 401"
	case d.hub == nil:
		s.Status = statusUnassigned
	default:
		s.Status, s.Substatus = statusAssigned, d.substatus
		s.AssignedHub, s.DeviceID = d.hub.host, d.id
		s.X509 = &struct{}{}
	}
	s.CreatedDateTimeUTC, s.LastUpdatedDateTimeUTC, s.Etag = utc7(d.created), utc7(d.updated), d.etag
	return s
}

// with runs f on a device by its id, with mu held.
func (r *registry) with(id string, f func(*device) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byID[id]
	if d == nil {
		return errorf(404, "DeviceNotFound", "device %s is not known", id)
	}
	return f(d)
}

// placed is the identity that orders to a device go to: in the hub DPS would assign now. Giving the order makes the assignment, so
// that the order is where the device will be sent.
func (r *registry) placed(id string) (i *identity, err error) {
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if target := r.answer(d); target != d.hub {
			r.move(d, target)
		}
		i = d.hub.identity(d.id)
		if i == nil {
			i = d.hub.admit(d.id, d.auth, nil, !d.unusable && !d.blocked && !d.disabled)
		}
		return nil
	})
	return i, err
}

func notProvisioned(d *device) error {
	return errorf(409, "DeviceNotProvisioned", "device %s has never been assigned to a hub", d.id)
}

// failover moves a device to the next living hub, until ttl is over.
func (r *registry) failover(id string, ttl time.Duration) (left *hub, until time.Time, err error) {
	if ttl == 0 {
		ttl = defaultFailover
	}
	err = r.with(id, func(d *device) error {
		switch {
		case ttl < 0:
			return errorf(400, "BadRequest", "the time until the return is negative")
		case len(r.hubs) == 1:
			return errorf(400, "SingleHub", "there is a single hub, so no device can be failed over")
		case d.hub == nil:
			return notProvisioned(d)
		case d.failedOver != nil:
			return errorf(409, "DeviceAlreadyFailedOver", "device %s is failed over already, until %s", id, d.failedOver.until.UTC().Format(time.RFC3339))
		case r.closed:
			return errorf(409, "", "the simulator has stopped")
		}
		left = d.hub
		to := r.otherThan(left)
		if to == nil {
			return errorf(409, "NoHealthyHub", "no other hub is alive")
		}
		r.move(d, to)
		until = r.now().Add(ttl)
		f := &failover{from: left, until: until}
		f.timer = time.AfterFunc(ttl, func() { r.returnHome(d, f) })
		d.failedOver = f
		return nil
	})
	return left, until, err
}

// returnHome ends a failover whose time is up. A hub that is dead by then gets nobody back.
func (r *registry) returnHome(d *device, f *failover) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || d.failedOver != f {
		return
	}
	d.failedOver = nil
	if d.hub != f.from && !f.from.deadForDPS() {
		r.move(d, f.from)
	}
}

// failback returns a device to its first hub, whatever moved it; a device that is there stays.
func (r *registry) failback(id string) (left *hub, err error) {
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if d.hub == d.first {
			return nil
		}
		if d.first.deadForDPS() {
			return errorf(409, "NoHealthyHub", "%s is under fault %s", d.first.name, d.first.faults.kind())
		}
		left = d.hub
		if d.failedOver != nil {
			d.failedOver.timer.Stop()
			d.failedOver = nil
		}
		r.move(d, d.first)
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
				if i := h.identity(d.id); i != nil {
					i.disable(reason)
				}
			}
		} else if d.hub != nil {
			if i := d.hub.identity(d.id); i != nil {
				i.enable()
			}
		}
		return nil
	})
}

// delete forgets a device everywhere. Its group still enrols it, so it may come back as a new one.
func (r *registry) delete(id string) error {
	return r.with(id, func(d *device) error {
		if d.failedOver != nil {
			d.failedOver.timer.Stop()
		}
		delete(r.byID, d.id)
		delete(r.byRegistration, strings.ToLower(d.registrationID))
		for _, h := range r.hubs {
			h.delete(d.id, "device deleted")
		}
		return nil
	})
}

// newest is the hub a device is connected to; if a dead hub still holds an older connection, the newest counts.
func (r *registry) newest(id string) (i *identity, s *session) {
	for _, h := range r.hubs {
		if candidate := h.identity(id); candidate != nil {
			if live := candidate.online(); live != nil && (s == nil || live.number > s.number) {
				i, s = candidate, live
			}
		}
	}
	return i, s
}

// close stops the timers.
func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, d := range r.byID {
		if d.failedOver != nil {
			d.failedOver.timer.Stop()
		}
	}
}
