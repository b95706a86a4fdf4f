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

// Hub is one IoT Hub: its identities with their twins and mailboxes, and its listeners.
type Hub struct {
	options  Options
	name     string
	log      zerolog.Logger
	now      func() time.Time // the cloud's clock
	ledger   *ledger.Ledger
	store    *store.Store // nil without a state directory
	policies []policy

	// SetHost writes these two before the first client comes.
	host  string   // what DPS hands out: the address, with the port where all hubs share one
	hosts []string // every name that clients may use, with and without ports

	MQTT      *wire.Endpoint
	HTTPS     *wire.Endpoint
	AMQP      *wire.Endpoint   // refuses AMQP clients; nil if its port is taken
	Front     *wire.HTTPFront  // serves HTTPS
	endpoints []*wire.Endpoint // all of them: a fault affects every one

	conduct atomic.Pointer[conduct] // how MQTT is served at the moment
	live    atomic.Int64            // the number of sessions

	mu         sync.Mutex // guards the table, and the tables of modules
	identities map[string]*Identity

	faults   wire.FaultState[Fault]
	losesAll bool // at the end of the fault; the mutex of faults guards it
}

// Options is what a hub is given. The hubs of a cloud share everything but Name and TLS.
type Options struct {
	Name   string // hub-a
	TLS    *tls.Config
	Listen func(network, addr string) (net.Listener, error)
	Log    zerolog.Logger
	Now    func() time.Time // the cloud's clock

	Grace           time.Duration    // how long a token is still accepted when it has expired
	DisabledRefusal byte             // CONNACK for a disabled identity
	RejectEarlyMail bool             // messages that are older than the device's subscription are dead-lettered
	Devices         *azure.Authority // signs for devices whose credentials name no CA

	Ledger   *ledger.Ledger // gets what devices send
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

// HostNames returns the names of a hub that do not depend on its listeners: the simulator's own and
// Azure's.
func HostNames(name string) []string { return []string{name + ".sim.local", name + azure.DomainHubs} }

// New returns a hub without identities, which listens nowhere. The caller calls [Hub.Restore],
// binds MQTT and HTTPS, calls [Hub.SetHost] and then [Hub.Open].
func New(o Options) *Hub {
	h := &Hub{
		options: o, name: o.Name, log: o.Log, now: o.Now, ledger: o.Ledger, store: o.Store,
		hosts: HostNames(o.Name), identities: map[string]*Identity{},
	}
	h.policies = newPolicies(func(policy string, size int) []byte { return h.store.Key(h.name+"/"+policy, size) })
	h.faults.Over = FaultOver(h.log, h.options.Tell, h.name)
	h.MQTT = &wire.Endpoint{Listen: h.options.Listen, Serve: h.serve}
	surface := http.NewServeMux()
	h.routes(surface)
	(&hubService{h}).routes(surface)
	h.Front = wire.NewHTTPFront(h.options.Listen, wire.WithDate(surface, h.now), h.options.TLS, h.log)
	h.HTTPS = h.Front.Endpoint
	h.endpoints = []*wire.Endpoint{h.MQTT, h.HTTPS}
	return h
}

// Name returns the name of the hub, such as hub-a.
func (h *Hub) Name() string { return h.name }

// Host returns what DPS hands out: the hub's address, with the port where all hubs share one.
func (h *Hub) Host() string { return h.host }

// AzureName returns the hub's name in Azure's own domain.
func (h *Hub) AzureName() string { return h.name + azure.DomainHubs }

// KnownAs reports whether a host, with or without a port, is this hub.
func (h *Hub) KnownAs(host string) bool {
	return slices.ContainsFunc(h.hosts, func(own string) bool { return strings.EqualFold(own, host) })
}

// Connections returns the number of devices and modules that are connected.
func (h *Hub) Connections() int { return int(h.live.Load()) }

// RefuseAMQP binds an address where the hub refuses AMQP clients.
func (h *Hub) RefuseAMQP(addr string) error {
	e, err := (&wire.AMQPDesk{Hub: h.name, Log: h.log, Told: h.options.Told}).Listen(h.options.Listen, addr, h.options.TLS)
	if err == nil {
		h.AMQP = e
		h.endpoints = append(h.endpoints, e)
	}
	return err
}

// Open lets clients in on all addresses.
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

// tellRefused logs why a device was refused, and tells the event.
func (h *Hub) tellRefused(device, reason string) {
	device = wire.Shorten(device)
	h.options.Tell(Event{Kind: EventRefuse, Hub: h.name, Device: device, Reason: reason})
	level := zerolog.DebugLevel
	if h.options.Told.IsNew(h.name + " " + device + " " + reason) {
		level = zerolog.InfoLevel
	}
	h.log.WithLevel(level).Str("hub", h.name).Str("device", device).Str("kind", EventRefuse).Str("reason", reason).Msg("device refused")
}

// serve serves one connection over TCP.
func (h *Hub) serve(c *wire.Conn) {
	secure := tls.Server(c, h.options.TLS)
	h.speak(c, secure, secure)
}

// speak serves one connection from its TLS handshake to its end.
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

// newSession returns the session of a connection from which nothing was read yet.
func (h *Hub) newSession(w *wire.MQTT) *session {
	s := &session{hub: h, wire: w}
	w.OnOver = s.detach
	return s
}

// Converse serves a connection that needs no TLS handshake, until it ends. It is for tests.
func (h *Hub) Converse(w *wire.MQTT) { h.newSession(w).run() }

// SetHost sets the host that DPS hands out, and the address that clients are told. It is called
// once, when the listeners have their ports and no client has come. From then on the hub answers to
// all its names: its address, its aliases and, because some clients sign the port along, each of
// them with a port. Where all hubs share an address, the address without a port names none of them.
func (h *Hub) SetHost(host, address string) {
	h.host = host
	named := h.hosts
	var ports []string
	for _, e := range h.endpoints {
		if _, port, err := net.SplitHostPort(e.Address()); err == nil {
			ports = append(ports, port)
		}
	}
	var names []string
	join := func(hosts []string, ports []string) {
		for _, host := range hosts {
			for _, port := range ports {
				names = append(names, net.JoinHostPort(host, port))
			}
		}
	}
	if h.host == address {
		named = append(named, address)
	}
	join(named, append([]string{"443", "8883"}, ports...))
	join([]string{address, wire.HostIn(h.MQTT.Address()), "localhost"}, ports)
	h.hosts = append(named, names...)
}
