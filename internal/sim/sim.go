package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
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

// New builds a cloud: keys, certificates, an empty registry; or, with a state directory, the cloud
// that is in it. It opens nothing else. Close must be called even if Start never is.
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

// Close ends everything at once, connections with a reset, and waits until no goroutine of the
// simulator is left.
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

// serveHTTP makes an endpoint whose connections speak HTTP, below TLS if config is not nil.
func (s *Sim) serveHTTP(handler http.Handler, config *tls.Config) *wire.Endpoint {
	f := wire.NewHTTPFront(s.config.Listen, handler, config, s.config.Logger)
	s.servers = append(s.servers, f)
	return f.Endpoint
}
