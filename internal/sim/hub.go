package sim

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// hub is one IoT Hub: its identities with their twins and mailboxes, and its listeners. What all hubs share is in hubDeps.
type hub struct {
	hubDeps
	name      string   // hub-a
	host      string   // what DPS hands out: the address, with the port in LayoutPorts
	hosts     []string // every name clients may use, with and without ports
	policies  []policy
	tls       *tls.Config
	mqtt      *wire.Endpoint
	https     *wire.Endpoint
	amqp      *wire.Endpoint   // refuses AMQP clients; nil if its port is taken
	surface   *http.ServeMux   // of https
	endpoints []*wire.Endpoint // all of them: faults hit every one

	conduct atomic.Pointer[conduct] // how MQTT is served at the moment
	live    atomic.Int64            // sessions

	mu         sync.Mutex
	identities map[string]*identity

	faults   faultState[Fault]
	losesAll bool // when the fault is over; guarded by faults.changing
}

// hubDeps is what every hub is given.
type hubDeps struct {
	log      zerolog.Logger
	now      func() time.Time // the cloud's clock
	grace    time.Duration
	refusal  byte // CONNACK for a disabled identity
	rejects  bool // dead-letter messages that are older than the device's subscription
	devices  *azure.Authority
	ledger   *ledger.Ledger
	store    *store.Store // nil without a state directory
	events   *broadcaster
	told     *wire.Novelty
	connects *atomic.Int64
	order    *atomic.Int64 // numbers the sessions of the whole cloud
}

// conduct is how a hub serves MQTT while a fault that needs the protocol is in force; the zero value is healthy.
type conduct struct {
	refuse     byte          // CONNACK for everybody
	delay      time.Duration // before every packet
	dropPuback bool
	throttle   time.Duration // before CONNACK and PUBACK; twin requests get 429
}

// identity is one device in one hub, or one module of it: a module has a twin, methods, telemetry and a connection of its own, but no
// cloud-to-device messages, and it is of no use while its device is disabled.
type identity struct {
	id         string // of the device
	module     string // "" for the device itself
	parent     *identity
	modules    map[string]*identity // of a device; guarded by the hub's mutex
	hub        *hub
	generation string

	entry sync.Mutex // held by the session that is being let in; before mu

	mu      sync.Mutex
	gone    bool // deleted; a session that still holds it must not attach
	enabled bool
	auth    azure.Credentials
	modelID string
	desired document
	report  document
	mail    mailbox
	stored  *subscriptions // the persistent session
	session *session       // the live one
	arrival chan struct{}  // closed when the device begins to listen; made by the waiting goroutine

	injected atomic.Pointer[injection] // a fault the device has asked for, over or not
	record
	kept keptState
}

// identity returns the identity of a device, nil if the hub has none.
func (h *hub) identity(id string) *identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.identities[id]
}

// admit creates the identity of a device, or puts an existing one back into service; a twin, unless
// nil, replaces the one it has. A new twin starts at version 1. An error says that the change was
// made but could not be written down.
func (h *hub) admit(id string, auth azure.Credentials, twin *twinContent, enabled bool) (err error) {
	h.mu.Lock()
	i := h.identities[id]
	if i == nil {
		i = h.create(id, auth, twin)
		i.enabled = enabled
		twin = nil
	}
	h.mu.Unlock()
	i.mu.Lock()
	i.auth = auth
	i.setEnabled(enabled, "")
	if twin != nil {
		err = i.replaceTwin(twin)
	}
	return errors.Join(err, i.saveAndUnlock())
}

// create is called with mu held; the twin is empty for nil.
func (h *hub) create(id string, auth azure.Credentials, twin *twinContent) *identity {
	now := h.now()
	i := &identity{id: id, hub: h, auth: auth, generation: strconv.FormatInt(now.UnixNano()/100, 10)}
	if twin == nil {
		twin = &twinContent{}
	}
	i.desired, i.report, i.edge = newDocument(twin.desired, now), newDocument(twin.reported, now), twin.edge
	i.tags.props = twin.tags
	h.identities[id] = i
	return i
}

// disable makes the identity unusable and closes its connection, and those of its modules. It does
// so even if it returns an error, which says that a restart will not know of it.
func (i *identity) disable(reason string) error {
	i.mu.Lock()
	i.setEnabled(false, reason)
	s := i.session
	lost := i.saveAndUnlock()
	if s != nil {
		s.wire.HangUp(reason)
	}
	for _, m := range i.hub.modulesOf(i) {
		if s := m.online(); s != nil {
			s.wire.HangUp(reason)
		}
	}
	return lost
}

// enable undoes disable; its error means the same.
func (i *identity) enable() error {
	i.mu.Lock()
	i.setEnabled(true, "")
	return i.saveAndUnlock()
}

// delete removes the identity with everything it has, and closes its connection. It does so even if
// it returns an error, which says that the identity may be back after a restart.
func (h *hub) delete(id, reason string) error {
	h.mu.Lock()
	i := h.identities[id]
	delete(h.identities, id)
	var live []*session
	var lost error
	if i != nil {
		buried := []*identity{i}
		for _, m := range i.modules {
			buried = append(buried, m)
		}
		for _, b := range buried {
			s, err := b.bury()
			live, lost = append(live, s), errors.Join(lost, err)
		}
	}
	h.mu.Unlock()
	for _, s := range live {
		if s != nil {
			s.wire.HangUp(reason)
		}
	}
	return lost
}

// bury ends an identity that is no longer in the hub's table. It returns the session that the
// caller must end, nil if there is none. An error says that the identity could not be removed from
// the store. The hub's mutex is held, so that a new identity of the same name comes later.
func (i *identity) bury() (live *session, err error) {
	i.mu.Lock()
	i.gone = true
	i.arrived()
	live = i.session
	return live, i.saveAndUnlock()
}

// online is the device's live session, nil without one.
func (i *identity) online() *session {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.session
}

// usable is nil if the device may connect.
func (i *identity) usable() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.usableLocked()
}

func (i *identity) usableLocked() error {
	switch {
	case i.gone:
		return &refusedError{wire.ConnackNotAuthorized, errors.New("device unknown")}
	case !i.enabled:
		return &refusedError{i.hub.refusal, errors.New("device disabled")}
	case i.parent != nil:
		return i.parent.usable()
	}
	return nil
}

// username is a hub's MQTT user name: {host}/{device}[/{module}]/[?]api-version=...
//
// A hub also takes {host}/{device} and {host}/{device}/, as old samples, bridges and Node-RED's
// Azure node send it. It then speaks the oldest version of the protocol: it offers no methods and
// answers twin requests with 400.
type username struct {
	host, device, module string
	modelID              string
	oldest               bool // it has no api-version
}

var errUsername = errors.New("malformed user name")

func parseUsername(s string) (u username, err error) {
	parts := strings.Split(s, "/")
	query := ""
	if len(parts) == 2 || len(parts) == 3 && parts[2] == "" {
		u = username{host: parts[0], device: parts[1], oldest: true}
		if u.host == "" || !validDeviceID(u.device) {
			return u, errUsername
		}
		return u, nil
	}
	switch len(parts) {
	case 3:
		u.host, u.device, query = parts[0], parts[1], parts[2]
	case 4:
		u.host, u.device, u.module, query = parts[0], parts[1], parts[2], parts[3]
		if !validDeviceID(u.module) {
			return u, errUsername
		}
	default: // a slash within the query breaks it apart too: values are to be percent-encoded
		return u, errUsername
	}
	query = strings.TrimPrefix(query, "?")
	if version, _ := azure.QueryValue(query, "api-version"); version == "" || u.host == "" || !validDeviceID(u.device) {
		return u, errUsername
	}
	u.modelID, _ = azure.QueryValue(query, "model-id")
	return u, nil
}

// validDeviceID follows the identity registry: at most 128 ASCII letters, digits and a set of signs.
func validDeviceID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("-.+%_#*?!(),:=@$';", c) < 0 {
			return false
		}
	}
	return id != "" && len(id) <= 128
}

// refusedError is a CONNECT that gets a CONNACK other than 0.
type refusedError struct {
	code byte
	err  error
}

func (e *refusedError) Error() string { return fmt.Sprintf("CONNACK %d: %v", e.code, e.err) }
func (e *refusedError) Unwrap() error { return e.err }

// authenticate finds out who connects. A zero time means that the credentials do not expire.
func (h *hub) authenticate(c wire.ConnectPacket, chain []*x509.Certificate) (i *identity, u username, expires time.Time, err error) {
	refuse := func(code byte, err error) (*identity, username, time.Time, error) {
		return nil, u, time.Time{}, &refusedError{code, err}
	}
	if c.Level != 4 {
		return refuse(wire.ConnackBadProtocol, fmt.Errorf("protocol level %d", c.Level))
	}
	if u, err = parseUsername(c.Username); err != nil {
		return refuse(wire.ConnackUnavailable, err)
	}
	switch {
	case c.ClientID != nameOf(u.device, u.module):
		return refuse(wire.ConnackNotAuthorized, fmt.Errorf("client id %.200q is not that of the user name", c.ClientID))
	case !slices.ContainsFunc(h.hosts, func(host string) bool { return strings.EqualFold(host, u.host) }):
		return refuse(wire.ConnackNotAuthorized, fmt.Errorf("user name is for host %.200q", u.host))
	}
	if i = h.identity(u.device); i == nil {
		return refuse(wire.ConnackNotAuthorized, errors.New("device unknown"))
	}
	if u.module != "" {
		if i = h.module(u.device, u.module); i == nil {
			return refuse(wire.ConnackNotAuthorized, fmt.Errorf("module %.200q is unknown", u.module))
		}
	}
	if expires, err = h.verify(i, c.Password, chain); err != nil {
		return refuse(wire.ConnackNotAuthorized, err)
	}
	return i, u, expires, nil
}

// tellRefused logs why a device was refused, and emits the event.
func (h *hub) tellRefused(device, reason string) {
	device = wire.Shorten(device)
	h.events.emit(Event{Kind: EventRefuse, Hub: h.name, Device: device, Reason: reason})
	level := zerolog.DebugLevel
	if h.told.IsNew(h.name + " " + device + " " + reason) {
		level = zerolog.InfoLevel
	}
	h.log.WithLevel(level).Str("hub", h.name).Str("device", device).Str("kind", EventRefuse).Str("reason", reason).Msg("device refused")
}

// verify looks at what a device proves itself with: a certificate, a token of its own key, or one of a policy that
// may connect devices.
func (h *hub) verify(i *identity, password string, chain []*x509.Certificate) (expires time.Time, err error) {
	i.mu.Lock()
	auth := i.auth
	i.mu.Unlock()
	if auth.X509 {
		return time.Time{}, auth.Verify(chain, h.devices, i.name(), h.now())
	}
	token, err := azure.ParseSAS(password)
	keys := auth.Keys
	known := true
	if token.Policy != "" {
		var p policy
		p, known = h.policy(token.Policy, deviceConnect)
		keys = p.keys[:]
	}
	switch {
	case err != nil:
	case !known:
		err = azure.ErrSASPolicy
	case !token.CoversPath(h.hosts, "/"+i.resource()):
		err = azure.ErrSASResource
	case !token.SignedBy(keys...):
		err = azure.ErrSASSignature
	case h.now().After(token.Expires.Add(h.grace)):
		err = azure.ErrSASExpired
	}
	return token.Expires, err
}

// serve is one connection over TCP.
func (h *hub) serve(c *wire.Conn) {
	secure := tls.Server(c, h.tls)
	h.speak(c, secure, secure)
}

// speak is one connection from TLS to the end.
func (h *hub) speak(c *wire.Conn, secure *tls.Conn, via wire.Carrier) {
	w := wire.NewMQTT(c, secure, via, hubPacketLimit)
	s := &session{hub: h, wire: w}
	w.OnOver = s.detach
	c.OnHangUp(w.HangUp)
	defer w.Close()
	if err := w.Handshake(); err != nil {
		h.log.Debug().Str("hub", h.name).Err(err).Msg("TLS handshake failed")
		return
	}
	s.run()
}

// reachable says whether a hub takes part in the world: it does not while nobody can talk to it.
func (h *hub) reachable() bool {
	switch h.faults.kind() {
	case FaultKill, FaultBlackhole, FaultSYNDrop:
		return false
	}
	return true
}
