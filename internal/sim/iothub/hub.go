package iothub

import (
	"crypto/tls"
	"net"
	"net/http"
	"slices"
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
