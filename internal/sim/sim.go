// Package sim is a local cloud for IoT devices: a Device Provisioning Service (DPS), up to 26 IoT
// Hubs behind it, and the failover endpoints of IoT Central, faithful enough that unmodified
// official Azure device SDKs provision, connect and work against it. It has a control API for the
// faults of real clouds, and a ledger of what arrived.
//
// # Use
//
//	s, err := sim.New(sim.DefaultConfig())
//	err = s.Start()              // every listener is up when it returns
//	err = s.WriteFiles("cloud")  // ca.pem, device CA and sim.json for other processes
//	defer s.Close()              // everything is down and no goroutine is left when it returns
//
// A device then needs what [Sim.Info] says: the ID scope, a group key (or a certificate of the
// device CA), and where DPS is. It must trust [Sim.CAPool]. To break things in the same process
// call [Sim.FaultHub], [Sim.Failover] and their kin; from outside use the same over HTTP
// (Info().Control).
//
// # Without a network
//
// With Config.Listen the caller decides where the simulator listens. Together with an in-memory
// network it runs in the virtual time of testing/synctest: it waits with plain timers and channels
// only, and makes its certificates from time.Now().
//
// # Where Azure is silent
//
// The protocol is public, some behaviour is not. This simulator: refuses a malformed user name with
// CONNACK 3 at a hub and 5 at DPS; takes a user name without api-version as the oldest version,
// without methods and with 400 for twin requests; lets a registration of a blocked or unapproved
// device run its course and answers failed 400209 to the poll, but answers disabled to the register
// itself; delivers cloud-to-device messages to a device that has never been connected before,
// unless [Config].C2DBeforeSubscription says otherwise; closes a connection that subscribes to a
// topic that is not its device's; closes healthy connections with FIN; never counts a will against
// a hub that is killed or silent. [Sim.Disable] means the enrollment and the identity, [Sim.Block]
// is IoT Central's operator. A desired property or a message for a device whose hub is dead makes
// the assignment that DPS would make at its next registration, so that both end up in one place. A
// device that moves takes its whole twin along, tags and reported properties too, unless its
// enrollment says reset; then it begins with the enrollment's first twin, at every registration. A
// changed enrollment counts from the next registration on; a change that names other hubs or
// another policy ends a failover. Registering again in the same hub keeps the substatus. Under a
// black hole sockets pause: what a client sent meanwhile is served afterwards, unless the client
// has reset the connection, or the fault says that waiting connections are reset. A sixth
// subscription closes the connection. The faults that a device injects into its own connection mean
// over MQTT: PUBACKs late and 429 (InvokeThrottling), telemetry closes (InvokeMaxMessageQuota),
// CONNACK 5 (InvokeAuthError).
//
// # Inside
//
// A [Sim] only joins the parts. registry.go knows which devices there are, and which hub each
// belongs to; enrollment.go who may enrol, and allocation.go where to. dps*.go and central.go speak
// for them. hub.go holds the identities of one hub, session.go is one device's connection, twin.go,
// methods.go and c2d.go are what it can do, modules.go the modules below it, hub_https.go the
// device's side over HTTPS, injection.go the faults a device asks for itself. wire.go and codec.go
// are MQTT 3.1.1, websocket.go carries it over WebSocket, amqp.go refuses AMQP clients; endpoint.go
// is a listening address with faults below TLS, and faults.go says which fault does what. Package
// ledger keeps the books. control.go is the typed control, control_http.go its HTTP form, jsontext.go
// words the errors of JSON texts, telling.go bounds the log.
//
// With a state directory, package store has the directory, a journal of documents and the format of
// all files, and keep.go says which documents there are of the hubs and of the registry. Package query
// reads and answers queries.
//
// Each piece of state has one owner and one mutex. They are taken in this order, any may be left
// out: a registration that takes effect, registry, hub, identity (that of a module before that of
// its device), wire. Ledger, broadcaster, store and DPS's list of operations are leaves, but for
// the ledger, which tells the store what files it has.
//
// The package imports nothing of this module, so that mistakes it might share with the client
// cannot cancel out.
package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/central"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// Sim is one simulated cloud. Its methods may be called from any goroutine.
type Sim struct {
	config   Config
	ca       *azure.Authority // of all servers
	deviceCA *azure.Authority // of device certificates
	registry *provisioning.Registry
	dps      *provisioning.Service
	central  *central.Application
	appID    string // of IoT Central
	apiToken string // of IoT Central
	hubs     []*iothub.Hub
	ledger   *ledger.Ledger
	store    *store.Store // nil without a state directory
	events   *broadcaster
	control  *wire.Endpoint
	proxy    *wire.Endpoint // nil unless asked for
	connects atomic.Int64
	sessions atomic.Int64

	running context.Context // ends with Close, for requests that wait
	stop    context.CancelFunc

	mu      sync.Mutex
	started bool
	closed  bool
	servers []*wire.HTTPFront
}

// New builds a cloud: keys, certificates, an empty registry; or, with a state directory, the cloud that is in it. It opens nothing
// else. Close must be called even if Start never is.
func New(c Config) (_ *Sim, err error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	if !c.ListenAny {
		c.Listen = onLoopbackOnly(c.Listen)
	}
	now := func() time.Time { return time.Now().Add(c.ClockOffset) }
	kept, err := store.Open(store.Options{Dir: c.StateDir, Log: c.Logger, Others: ledger.Files})
	if err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	s := &Sim{config: c, store: kept, events: &broadcaster{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.ledger.Close(), kept.Close())
		}
	}()
	ca, err := keptAuthority(kept, "ca", "hubhop simulator CA", now())
	if err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	deviceCA, err := keptAuthority(kept, "deviceCA", "hubhop simulator device CA", now())
	if err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	s.ca, s.deviceCA = ca, deviceCA
	if s.ledger, err = ledger.Open(c.ledgerOptions(kept)); err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	s.running, s.stop = context.WithCancel(context.Background())
	told := &wire.Novelty{}
	o := iothub.Options{
		Listen: c.Listen, Log: c.Logger, Now: now, Grace: c.SASGrace, DisabledRefusal: c.DisabledRefusal,
		RejectEarlyMail: c.C2DBeforeSubscription == EarlyC2DReject, Devices: deviceCA, Ledger: s.ledger, Store: kept, Told: told,
		Connects: &s.connects, Sessions: &s.sessions, Tell: s.events.emit, Received: s.events.telemetry,
		Switched: func(h *iothub.Hub, id string, enabled bool) { s.registry.Switched(h, id, enabled) },
	}
	for i := range c.Hubs {
		o.Name = "hub-" + string(rune('a'+i))
		if o.TLS, err = ca.ServerTLS(c.certified(i+1, iothub.HostNames(o.Name)...)); err != nil {
			return nil, fmt.Errorf("sim: %w", err)
		}
		h := iothub.New(o)
		s.servers = append(s.servers, h.Front)
		s.hubs = append(s.hubs, h)
	}
	s.registry = provisioning.NewRegistry(provisioning.RegistryOptions{
		IDScope: c.IDScope, GroupKeys: [2]string{c.GroupKey, c.SecondaryGroupKey}, AutoApprove: c.AutoApprove, Allocation: c.Allocation,
		HubWeights: c.HubWeights, Webhook: c.Webhook, Reprovision: c.Reprovision, Move: c.Move, EnrollmentDocuments: c.EnrollmentDocuments,
		Hubs: s.hubs, Authority: deviceCA, Store: kept, Log: c.Logger, Now: now, Tell: s.events.emit,
	})
	if err := s.restore(); err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	for _, e := range c.Enrollments {
		if err := s.Enroll(e); err != nil {
			return nil, fmt.Errorf("sim: enrollment %q: %w", e.RegistrationID, err)
		}
	}
	if s.appID, s.apiToken = kept.Secret("central/app"), kept.Secret("central/token"); s.appID == "" || s.apiToken == "" {
		s.appID, s.apiToken = central.NewToken(now())
		kept.SetSecret("central/app", s.appID)
		kept.SetSecret("central/token", s.apiToken)
	}
	s.central, err = central.New(central.Options{Token: s.apiToken, Template: c.Template, Registry: s.registry, Ledger: s.ledger, Now: now})
	if err != nil {
		return nil, fmt.Errorf("sim: template: %w", err)
	}
	dpsTLS, err := ca.ServerTLS(c.certified(0, "dps.sim.local", "*"+azure.DomainDPS, "*"+azure.DomainCentral))
	if err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	s.dps = provisioning.NewService(provisioning.ServiceOptions{
		RetryAfter: c.RetryAfter, RetryAfterAbsent: c.RetryAfterAbsent, RetryAfterFirst: c.RetryAfterFirst, Polls: c.Polls,
		MalformedDPS: c.MalformedDPS, DPSLimits: c.DPSLimits,
		Registry: s.registry, TLS: dpsTLS, Listen: c.Listen, Hooks: c.Hooks, Running: s.running, Routes: s.central.Routes,
		Store: kept, Log: c.Logger, Told: told, Tell: s.events.emit,
	})
	s.servers = append(s.servers, s.dps.Front)
	s.control = s.serveHTTP(s.ControlHandler(), nil)
	if c.ConnectProxy != "" {
		s.proxy = s.serveHTTP(http.HandlerFunc(s.connectProxy), nil)
	}
	if err := kept.Save(); err != nil {
		return nil, fmt.Errorf("sim: %w", err)
	}
	return s, nil
}

// Start listens everywhere and returns when every listener is up, or closes what was opened.
func (s *Sim) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return errors.New("sim: already started or closed")
	}
	s.started = true
	for _, f := range s.servers {
		f.Start()
	}
	if err := s.listen(); err != nil {
		return fmt.Errorf("sim: %w", errors.Join(err, s.closeLocked()))
	}
	return nil
}

// listen takes all addresses before any of them is served: what clients are told must be known first.
func (s *Sim) listen() error {
	c := s.config
	bind := func(e *wire.Endpoint, name string, i, standard int) error {
		e.Host = c.Advertise
		if c.Layout == LayoutPorts {
			return s.bindFree(e, name, c.address(i).String())
		}
		return e.Bind(net.JoinHostPort(c.address(i).String(), strconv.Itoa(standard)))
	}
	// amqp lets refuse have the port of AMQP on address number i, if that is free: to refuse AMQP clients
	// is not essential.
	amqp := func(i int, name string, refuse func(addr string) error) {
		if err := refuse(net.JoinHostPort(c.address(i).String(), strconv.Itoa(wire.AMQPPort))); err != nil {
			c.Logger.Debug().Str("hub", name).Err(err).Msg("AMQP clients are refused by the operating system only")
		}
	}
	if err := bind(s.dps.MQTT, "dps/mqtt", 0, 8883); err != nil {
		return err
	}
	httpsPort := c.HTTPSPort
	if httpsPort == 0 {
		httpsPort = 443
		if c.Layout == LayoutLoopback {
			if err := bind(s.dps.Front.Endpoint, "dps/https", 0, 443); err != nil { // taken, or a port that this user may not bind
				httpsPort = 8443
				c.Logger.Info().Str("hub", "dps").Str("reason", err.Error()).
					Msg("HTTPS and WebSocket are on port 8443, because 443 cannot be bound; official SDKs know 443 only")
			}
		}
	}
	if s.dps.Front.Endpoint.Address() == "" {
		if err := bind(s.dps.Front.Endpoint, "dps/https", 0, httpsPort); err != nil {
			return err
		}
	}
	s.dps.SetHost(c.address(0).String())
	if c.Layout == LayoutPorts {
		s.dps.SetHost(s.dps.MQTT.Told())
	}
	if c.Layout == LayoutLoopback {
		amqp(0, "dps", s.dps.RefuseAMQP)
	}
	own := []*wire.Endpoint{s.control}
	for i, h := range s.hubs {
		if err := bind(h.MQTT, h.Name()+"/mqtt", i+1, 8883); err != nil {
			return err
		}
		if err := bind(h.HTTPS, h.Name()+"/https", i+1, httpsPort); err != nil {
			return err
		}
		host := c.address(i + 1).String()
		if c.Layout == LayoutPorts {
			host = h.MQTT.Told()
		}
		h.SetHost(host, c.told(i+1))
		if c.Layout == LayoutLoopback {
			amqp(i+1, h.Name(), h.RefuseAMQP)
		}
	}
	if err := s.registry.Start(); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(c.ControlAddr)
	if port == "0" && s.bindFree(s.control, "control", host) == nil {
		port = ""
	}
	if port != "" && s.control.Bind(c.ControlAddr) != nil { // taken
		if err := s.control.Bind(net.JoinHostPort(host, "0")); err != nil {
			return err
		}
	}
	if !isLoopbackHost(wire.HostIn(c.ControlAddr)) {
		s.control.Host = c.Advertise
	}
	if s.proxy != nil {
		if !isLoopbackHost(wire.HostIn(c.ConnectProxy)) {
			s.proxy.Host = c.Advertise
		}
		if err := s.proxy.Bind(c.ConnectProxy); err != nil {
			return err
		}
		own = append(own, s.proxy)
	}
	if err := s.store.Save(); err != nil {
		return err
	}
	s.dps.Open()
	for _, e := range own {
		e.Open()
	}
	for _, h := range s.hubs {
		h.Open()
	}
	return nil
}

// bindFree takes the port that the listener of that name had in an earlier life, because clients know it, or any free one.
func (s *Sim) bindFree(e *wire.Endpoint, name, host string) error {
	if known := s.store.Address(name); known != "" {
		if old, _, _ := net.SplitHostPort(known); old == host {
			if err := e.Bind(known); err != nil {
				return fmt.Errorf("the port of %s that clients of this state directory know cannot be taken again: %w; end what has it, or start with another state directory",
					name, err)
			}
			return nil
		}
	}
	if err := e.Bind(net.JoinHostPort(host, "0")); err != nil {
		return err
	}
	s.store.SetAddress(name, e.Address())
	return nil
}

// Close ends everything at once, connections with a reset, and waits until no goroutine of the simulator is left.
func (s *Sim) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeLocked()
}

func (s *Sim) closeLocked() error {
	if s.closed {
		return nil
	}
	s.closed = true
	s.stop()
	s.registry.Close()
	s.dps.Settle()
	for _, h := range s.hubs {
		h.KeepFault()
	}
	s.events.close()
	s.control.Stop()
	s.dps.Stop()
	for _, h := range s.hubs {
		h.Stop()
	}
	if s.proxy != nil {
		s.proxy.Stop() // its connections have ended with the endpoints they led to
	}
	for _, f := range s.servers {
		f.Stop()
	}
	return errors.Join(s.ledger.Close(), s.store.Close())
}

// Info is what a device, an operator or a script must know to use the cloud. It is the document sim.json.
type Info struct {
	IDScope           string      `json:"idScope"`
	GroupKey          string      `json:"groupKey"` // base64
	SecondaryGroupKey string      `json:"secondaryGroupKey"`
	ProvisioningHost  string      `json:"provisioningHost"` // host, or host:port in LayoutPorts
	CAFile            string      `json:"caFile"`           // beside sim.json
	DPS               DPSInfo     `json:"dps"`
	Hubs              []HubInfo   `json:"hubs"`
	Central           CentralInfo `json:"central"`
	Control           string      `json:"control"`                // URL
	ConnectProxy      string      `json:"connectProxy,omitempty"` // URL, for HTTPS_PROXY
}

// DPSInfo says where DPS listens, as host:port.
type DPSInfo struct {
	MQTT             string `json:"mqtt"`
	HTTPS            string `json:"https"`
	ConnectionString string `json:"connectionString"` // for service clients: policy provisioningserviceowner
}

// HubInfo says where a hub listens, as host:port.
type HubInfo struct {
	Name             string `json:"name"`
	Host             string `json:"host"` // as DPS assigns it
	MQTT             string `json:"mqtt"`
	HTTPS            string `json:"https"`
	ConnectionString string `json:"connectionString"` // of the policy iothubowner, for service clients
}

// CentralInfo says how to reach the IoT Central façade.
type CentralInfo struct {
	URL      string `json:"url"`
	AppID    string `json:"appId"`
	APIToken string `json:"apiToken"`
}

// Info describes the cloud; addresses are known once Start has returned.
func (s *Sim) Info() Info {
	keys := s.registry.GroupKeys()
	info := Info{
		IDScope:           s.config.IDScope,
		GroupKey:          base64.StdEncoding.EncodeToString(keys[0]),
		SecondaryGroupKey: base64.StdEncoding.EncodeToString(keys[1]),
		ProvisioningHost:  s.dps.Host(),
		CAFile:            "ca.pem",
		DPS:               DPSInfo{s.dps.MQTT.Told(), s.dps.Front.Endpoint.Told(), s.dps.ConnectionString()},
		Central:           CentralInfo{"https://" + s.dps.Front.Endpoint.Told(), s.appID, s.apiToken},
		Control:           "http://" + s.control.Told(),
	}
	if s.proxy != nil {
		info.ConnectProxy = "http://" + s.proxy.Told()
	}
	for _, h := range s.hubs {
		info.Hubs = append(info.Hubs, HubInfo{h.Name(), h.Host(), h.MQTT.Told(), h.HTTPS.Told(), h.ConnectionString()})
	}
	return info
}

func (s *Sim) controlAddress() string { return s.control.Address() }

// CAPool holds the CA of all the simulator's certificates.
func (s *Sim) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Certificate)
	return pool
}

// WriteFiles writes what other processes need into dir, made if missing: ca.pem, device-ca.pem,
// device-ca-key.pem, group.key (the primary group key, base64), and last sim.json, renamed into
// place, so that a process that sees it finds the rest. Everybody may read the directory, as far as
// the umask allows; only the owner may read files with keys.
func (s *Sim) WriteFiles(dir string) error {
	keys := s.registry.GroupKeys()
	deviceKey, err := s.deviceCA.KeyPEM()
	if err != nil {
		return err
	}
	var info bytes.Buffer
	e := json.NewEncoder(&info)
	e.SetEscapeHTML(false) // a script may well take the token out with sed
	e.SetIndent("", "  ")
	if err := e.Encode(s.Info()); err != nil {
		return fmt.Errorf("sim: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // everybody may read the CA in it
		return fmt.Errorf("sim: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{"ca.pem", s.ca.CertificatePEM(), 0o644},
		{"device-ca.pem", s.deviceCA.CertificatePEM(), 0o644},
		{"device-ca-key.pem", deviceKey, 0o600},
		{"group.key", append(base64.StdEncoding.AppendEncode(nil, keys[0]), '\n'), 0o600},
		{"sim.json", info.Bytes(), 0o600},
	} {
		if err := store.Replace(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("sim: %w", err)
		}
	}
	return nil
}

// serveHTTP makes an endpoint whose connections speak HTTP, below TLS if config is not nil.
func (s *Sim) serveHTTP(handler http.Handler, config *tls.Config) *wire.Endpoint {
	f := wire.NewHTTPFront(s.config.Listen, handler, config, s.config.Logger)
	s.servers = append(s.servers, f)
	return f.Endpoint
}
