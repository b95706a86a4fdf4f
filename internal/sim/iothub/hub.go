package iothub

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
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

// Hub is one IoT Hub: its identities with their twins and mailboxes, and its listeners. What all hubs share is in hubDeps.
type Hub struct {
	hubDeps
	name      string   // hub-a
	host      string   // what DPS hands out: the address, with the port in LayoutPorts
	hosts     []string // every name clients may use, with and without ports
	policies  []policy
	tls       *tls.Config
	MQTT      *wire.Endpoint
	HTTPS     *wire.Endpoint
	AMQP      *wire.Endpoint   // refuses AMQP clients; nil if its port is taken
	Front     *wire.HTTPFront  // serves https
	endpoints []*wire.Endpoint // all of them: faults hit every one

	conduct atomic.Pointer[conduct] // how MQTT is served at the moment
	live    atomic.Int64            // sessions

	mu         sync.Mutex
	identities map[string]*Identity

	faults   wire.FaultState[Fault]
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
	tell     func(Event)
	received func(hub string, n int64)
	switched func(h *Hub, id string, enabled bool)
	listen   func(network, addr string) (net.Listener, error)
	told     *wire.Novelty
	connects *atomic.Int64
	order    *atomic.Int64 // numbers the sessions of the whole cloud
}

// Options is what a hub is given. The hubs of a cloud share everything but Name and TLS.
type Options struct {
	Name   string // hub-a
	TLS    *tls.Config
	Listen func(network, addr string) (net.Listener, error)
	Log    zerolog.Logger
	Now    func() time.Time // the cloud's clock

	Grace           time.Duration    // how long a token is still good when it has expired
	DisabledRefusal byte             // CONNACK for a disabled identity
	RejectEarlyMail bool             // dead-letter messages that are older than the device's subscription
	Devices         *azure.Authority // of devices whose credentials name no CA

	Ledger   *ledger.Ledger // what devices send goes there
	Store    *store.Store   // nil without a state directory
	Told     *wire.Novelty
	Connects *atomic.Int64 // counts the CONNECTs that are accepted
	Sessions *atomic.Int64 // numbers the sessions of the whole cloud

	// The hub calls these functions. They must not block.
	Tell     func(Event)               // something has happened
	Received func(hub string, n int64) // n messages have been entered into the ledger
	// Switched says that a service has enabled or disabled the identity of a device. It is called
	// without a lock of the hub.
	Switched func(h *Hub, id string, enabled bool)
}

// HostNames are the names of a hub that need no listener: the simulator's own and Azure's.
func HostNames(name string) []string { return []string{name + ".sim.local", name + azure.DomainHubs} }

// New makes a hub without identities, which listens nowhere.
func New(o Options) *Hub {
	h := &Hub{
		hubDeps: hubDeps{
			log: o.Log, now: o.Now, grace: o.Grace, refusal: o.DisabledRefusal, rejects: o.RejectEarlyMail, devices: o.Devices,
			ledger: o.Ledger, store: o.Store, tell: o.Tell, received: o.Received, switched: o.Switched, listen: o.Listen, told: o.Told,
			connects: o.Connects, order: o.Sessions,
		},
		name: o.Name, hosts: HostNames(o.Name), tls: o.TLS, identities: map[string]*Identity{},
	}
	h.policies = newPolicies(func(policy string, size int) []byte { return h.store.Key(h.name+"/"+policy, size) })
	h.faults.Over = FaultOver(h.log, h.tell, h.name)
	h.MQTT = &wire.Endpoint{Listen: h.listen, Serve: h.serve}
	surface := http.NewServeMux()
	h.routes(surface)
	(&hubService{h}).routes(surface)
	h.Front = wire.NewHTTPFront(h.listen, wire.WithDate(surface, h.now), h.tls, h.log)
	h.HTTPS = h.Front.Endpoint
	h.endpoints = []*wire.Endpoint{h.MQTT, h.HTTPS}
	return h
}

// conduct is how a hub serves MQTT while a fault that needs the protocol is in force; the zero value is healthy.
type conduct struct {
	refuse     byte          // CONNACK for everybody
	delay      time.Duration // before every packet
	dropPuback bool
	throttle   time.Duration // before CONNACK and PUBACK; twin requests get 429
}

// Identity is one device in one hub, or one module of it: a module has a twin, methods, telemetry and a connection of its own, but no
// cloud-to-device messages, and it is of no use while its device is disabled.
type Identity struct {
	id         string // of the device
	module     string // "" for the device itself
	parent     *Identity
	modules    map[string]*Identity // of a device; guarded by the hub's mutex
	hub        *Hub
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

// Name is the name of the hub: hub-a.
func (h *Hub) Name() string { return h.name }

// Host is what DPS hands out: the hub's address, with the port where all hubs share one.
func (h *Hub) Host() string { return h.host }

// AzureName is what the hub is called in Azure's own domain.
func (h *Hub) AzureName() string { return h.name + azure.DomainHubs }

// KnownAs says whether clients may use the name of a host, with or without a port, for this hub.
func (h *Hub) KnownAs(host string) bool {
	return slices.ContainsFunc(h.hosts, func(own string) bool { return strings.EqualFold(own, host) })
}

// Connections counts the devices and modules that are connected.
func (h *Hub) Connections() int { return int(h.live.Load()) }

// RefuseAMQP binds an address where the hub refuses AMQP clients.
func (h *Hub) RefuseAMQP(addr string) error {
	e, err := (&wire.AMQPDesk{Hub: h.name, Log: h.log, Told: h.told}).Listen(h.listen, addr, h.tls)
	if err == nil {
		h.AMQP = e
		h.endpoints = append(h.endpoints, e)
	}
	return err
}

// Open begins to serve on all addresses.
func (h *Hub) Open() {
	for _, e := range h.endpoints {
		e.Open()
	}
}

// KeepFault ends the timed healing of the hub's fault: from now on the fault stays what it is.
func (h *Hub) KeepFault() { h.faults.Close() }

// Stop resets all connections, and waits until they are gone.
func (h *Hub) Stop() {
	for _, e := range h.endpoints {
		e.Stop()
	}
}

// ID is the id of the device.
func (i *Identity) ID() string { return i.id }

// Hub is the hub that has the identity.
func (i *Identity) Hub() *Hub { return i.hub }

// Standing is how an identity stands at the moment.
type Standing struct {
	Enabled bool
	Online  bool
	ModelID string // as announced at the last CONNECT that had one
}

// Standing tells how the identity stands at the moment.
func (i *Identity) Standing() Standing {
	i.mu.Lock()
	defer i.mu.Unlock()
	return Standing{Enabled: i.enabled, Online: i.session != nil, ModelID: i.modelID}
}

// Connection returns the number of the live session, which counts all sessions of the cloud, and the
// model that it announced. It is 0 for a device that is not connected.
func (i *Identity) Connection() (number int64, modelID string) {
	if s := i.online(); s != nil {
		return s.number, s.from.ModelID
	}
	return 0, ""
}

// Disconnect ends the live session for a reason. It returns false if there is none.
func (i *Identity) Disconnect(reason string) bool {
	s := i.online()
	if s != nil {
		s.wire.HangUp(reason)
	}
	return s != nil
}

// Trust replaces the credentials. It does so even if it returns an error, which says that a restart
// will not know of it.
func (i *Identity) Trust(auth azure.Credentials) error {
	i.mu.Lock()
	i.auth = auth
	return i.saveAndUnlock()
}

// Identity returns the identity of a device, nil if the hub has none.
func (h *Hub) Identity(id string) *Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.identities[id]
}

// All returns the hub's identities in order of their ids.
func (h *Hub) All() []*Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.identities), func(a, b *Identity) int { return strings.Compare(a.id, b.id) })
}

// Admit creates the identity of a device, or puts an existing one back into service; a twin, unless
// nil, replaces the one it has. A new twin starts at version 1. An error says that the change was
// made but could not be written down.
func (h *Hub) Admit(id string, auth azure.Credentials, twin *TwinContent, enabled bool) (err error) {
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
func (h *Hub) create(id string, auth azure.Credentials, twin *TwinContent) *Identity {
	now := h.now()
	i := &Identity{id: id, hub: h, auth: auth, generation: strconv.FormatInt(now.UnixNano()/100, 10)}
	if twin == nil {
		twin = &TwinContent{}
	}
	i.desired, i.report, i.edge = newDocument(twin.Desired, now), newDocument(twin.Reported, now), twin.Edge
	i.tags.props = twin.Tags
	h.identities[id] = i
	return i
}

// Disable makes the identity unusable and closes its connection, and those of its modules. It does
// so even if it returns an error, which says that a restart will not know of it.
func (i *Identity) Disable(reason string) error {
	i.mu.Lock()
	i.setEnabled(false, reason)
	s := i.session
	lost := i.saveAndUnlock()
	if s != nil {
		s.wire.HangUp(reason)
	}
	for _, m := range i.hub.ModulesOf(i) {
		if s := m.online(); s != nil {
			s.wire.HangUp(reason)
		}
	}
	return lost
}

// Enable undoes disable; its error means the same.
func (i *Identity) Enable() error {
	i.mu.Lock()
	i.setEnabled(true, "")
	return i.saveAndUnlock()
}

// Delete removes the identity with everything it has, and closes its connection. It does so even if
// it returns an error, which says that the identity may be back after a restart.
func (h *Hub) Delete(id, reason string) error {
	h.mu.Lock()
	i := h.identities[id]
	delete(h.identities, id)
	var live []*session
	var lost error
	if i != nil {
		buried := []*Identity{i}
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
func (i *Identity) bury() (live *session, err error) {
	i.mu.Lock()
	i.gone = true
	i.arrived()
	live = i.session
	return live, i.saveAndUnlock()
}

// online is the device's live session, nil without one.
func (i *Identity) online() *session {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.session
}

// usable is nil if the device may connect.
func (i *Identity) usable() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.usableLocked()
}

func (i *Identity) usableLocked() error {
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
		if u.host == "" || !azure.ValidDeviceID(u.device) {
			return u, errUsername
		}
		return u, nil
	}
	switch len(parts) {
	case 3:
		u.host, u.device, query = parts[0], parts[1], parts[2]
	case 4:
		u.host, u.device, u.module, query = parts[0], parts[1], parts[2], parts[3]
		if !azure.ValidDeviceID(u.module) {
			return u, errUsername
		}
	default: // a slash within the query breaks it apart too: values are to be percent-encoded
		return u, errUsername
	}
	query = strings.TrimPrefix(query, "?")
	if version, _ := azure.QueryValue(query, "api-version"); version == "" || u.host == "" || !azure.ValidDeviceID(u.device) {
		return u, errUsername
	}
	u.modelID, _ = azure.QueryValue(query, "model-id")
	return u, nil
}

// refusedError is a CONNECT that gets a CONNACK other than 0.
type refusedError struct {
	code byte
	err  error
}

func (e *refusedError) Error() string { return fmt.Sprintf("CONNACK %d: %v", e.code, e.err) }
func (e *refusedError) Unwrap() error { return e.err }

// authenticate finds out who connects. A zero time means that the credentials do not expire.
func (h *Hub) authenticate(c wire.ConnectPacket, chain []*x509.Certificate) (i *Identity, u username, expires time.Time, err error) {
	refuse := func(code byte, err error) (*Identity, username, time.Time, error) {
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
	if i = h.Identity(u.device); i == nil {
		return refuse(wire.ConnackNotAuthorized, errors.New("device unknown"))
	}
	if u.module != "" {
		if i = h.Module(u.device, u.module); i == nil {
			return refuse(wire.ConnackNotAuthorized, fmt.Errorf("module %.200q is unknown", u.module))
		}
	}
	if expires, err = h.verify(i, c.Password, chain); err != nil {
		return refuse(wire.ConnackNotAuthorized, err)
	}
	return i, u, expires, nil
}

// tellRefused logs why a device was refused, and emits the event.
func (h *Hub) tellRefused(device, reason string) {
	device = wire.Shorten(device)
	h.tell(Event{Kind: EventRefuse, Hub: h.name, Device: device, Reason: reason})
	level := zerolog.DebugLevel
	if h.told.IsNew(h.name + " " + device + " " + reason) {
		level = zerolog.InfoLevel
	}
	h.log.WithLevel(level).Str("hub", h.name).Str("device", device).Str("kind", EventRefuse).Str("reason", reason).Msg("device refused")
}

// verify looks at what a device proves itself with: a certificate, a token of its own key, or one of a policy that
// may connect devices.
func (h *Hub) verify(i *Identity, password string, chain []*x509.Certificate) (expires time.Time, err error) {
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
func (h *Hub) serve(c *wire.Conn) {
	secure := tls.Server(c, h.tls)
	h.speak(c, secure, secure)
}

// speak is one connection from TLS to the end.
func (h *Hub) speak(c *wire.Conn, secure *tls.Conn, via wire.Carrier) {
	w := wire.NewMQTT(c, secure, via, hubPacketLimit)
	s := h.newSession(w)
	c.OnHangUp(w.HangUp)
	defer w.Close()
	if err := w.Handshake(); err != nil {
		h.log.Debug().Str("hub", h.name).Err(err).Msg("TLS handshake failed")
		return
	}
	s.run()
}

// newSession makes the session of a connection that nothing has been read from.
func (h *Hub) newSession(w *wire.MQTT) *session {
	s := &session{hub: h, wire: w}
	w.OnOver = s.detach
	return s
}

// Converse plays the whole conversation of a connection that needs no handshake.
func (h *Hub) Converse(w *wire.MQTT) { h.newSession(w).run() }

// Reachable says whether a hub takes part in the world: it does not while nobody can talk to it.
func (h *Hub) Reachable() bool {
	switch h.faults.Kind() {
	case FaultKill, FaultBlackhole, FaultSYNDrop:
		return false
	}
	return true
}

// Held returns how many bytes of memory the packets take that wait for the device.
func (i *Identity) Held() int {
	if s := i.online(); s != nil {
		return s.wire.Held()
	}
	return 0
}
