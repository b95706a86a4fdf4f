package provisioning

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// Service is the Device Provisioning Service (DPS) as clients see it: its requests and answers,
// which are the same over MQTT (mqtt.go) and HTTPS (https.go). The registry makes the decisions.
type Service struct {
	config   ServiceOptions
	log      zerolog.Logger
	registry *Registry
	host     string // what clients are told
	faults   wire.FaultState[DPSFault]

	MQTT  *wire.Endpoint
	Front *wire.HTTPFront // serves HTTPS
	AMQP  *wire.Endpoint  // refuses AMQP clients; nil if its port is taken

	registrations atomic.Int64 // register requests, whatever became of them
	polls         atomic.Int64

	arrivals, questions limiter

	key   [2][]byte // primary and secondary, of the policy for the service API
	hooks *http.Client
	jobs  sync.WaitGroup // webhooks under way

	mu         sync.Mutex // guards the operations
	operations map[string]*operation
	oldest     []*operation // in the order they were made
}

// NewService returns a DPS that listens nowhere yet.
func NewService(o ServiceOptions) *Service {
	hooks := o.Hooks
	if hooks == nil {
		hooks = &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	}
	p := &Service{
		config: o, log: o.Log, registry: o.Registry, operations: map[string]*operation{},
		hooks: &http.Client{Transport: hooks, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		key:   [2][]byte{o.Store.Key("dps/"+dpsPolicy+"/primary", 32), o.Store.Key("dps/"+dpsPolicy+"/secondary", 32)},
	}
	p.arrivals = limiter{allowed: o.DPSLimits.RegistrationsPerMinute, window: time.Minute}
	p.questions = limiter{allowed: o.DPSLimits.PollsPer10s, window: 10 * time.Second}
	p.faults.Over = iothub.FaultOver(o.Log, o.Tell, "dps")
	p.MQTT = &wire.Endpoint{Listen: o.Listen, Serve: p.serveMQTT}
	surface := http.NewServeMux()
	p.routes(surface)
	o.Routes(surface)
	p.Front = wire.NewHTTPFront(o.Listen, wire.WithDate(p.serviceOr(surface), o.Registry.now), o.TLS, o.Log)
	return p
}

// SetHost tells DPS the host that clients know it by.
func (p *Service) SetHost(host string) { p.host = host }

// Host is the host that clients are told.
func (p *Service) Host() string { return p.host }

// Totals returns the numbers of register requests and of polls since the start.
func (p *Service) Totals() (registrations, polls int64) {
	return p.registrations.Load(), p.polls.Load()
}

// Open lets clients in on all addresses.
func (p *Service) Open() {
	for _, e := range p.endpoints() {
		e.Open()
	}
}

// Settle waits for the webhooks under way, and ends the timed healing of DPS's fault: from now on
// the fault stays what it is.
func (p *Service) Settle() {
	p.jobs.Wait()
	p.faults.Close()
}

// Stop resets all connections, and waits until they are gone.
func (p *Service) Stop() {
	for _, e := range p.endpoints() {
		e.Stop()
	}
}

// RefuseAMQP binds an address where DPS refuses AMQP clients.
func (p *Service) RefuseAMQP(addr string) error {
	e, err := (&wire.AMQPDesk{Hub: "dps", Log: p.log, Told: p.config.Told}).Listen(p.config.Listen, addr, p.config.TLS)
	if err == nil {
		p.AMQP = e
	}
	return err
}

// registrationState is the record of a registration. Its fields have the names and the order that
// DPS gives them.
type registrationState struct {
	X509                   *registrationX509 `json:"x509,omitempty"`
	RegistrationID         string            `json:"registrationId"`
	CreatedDateTimeUTC     string            `json:"createdDateTimeUtc,omitempty"`
	AssignedHub            string            `json:"assignedHub,omitempty"`
	DeviceID               string            `json:"deviceId,omitempty"`
	Status                 string            `json:"status"`
	Substatus              string            `json:"substatus,omitempty"`
	ErrorCode              int               `json:"errorCode,omitempty"`
	ErrorMessage           string            `json:"errorMessage,omitempty"`
	LastUpdatedDateTimeUTC string            `json:"lastUpdatedDateTimeUtc,omitempty"`
	Etag                   string            `json:"etag,omitempty"`
	Payload                json.RawMessage   `json:"payload,omitempty"`

	IssuedClientCertificate string   `json:"issuedClientCertificate,omitempty"` // 2021-11-01-preview
	IssuedCertificateChain  []string `json:"issuedCertificateChain,omitempty"`  // 2025-07-01-preview
}

type registrationX509 struct {
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
}

// answer is an answer of DPS, before it is put into a topic or a header.
type answer struct {
	status     int
	retryAfter string // whole seconds, "" to leave it out
	body       any
	refused    string // reason of a refusal, for the log and the events; "" if it is none
	delay      time.Duration
	hangUp     bool // the connection is closed after the answer; without a status there is no answer
}

// register serves a register request.
func (p *Service) register(c claim, body []byte) answer {
	p.registrations.Add(1)
	fault := p.faults.Now.Load()
	if a, hit := p.faulty(fault); hit {
		return p.tell(c, a)
	}
	a := p.startRegistration(c, body)
	a.delay = delayOf(fault)
	a.hangUp = is(fault, DPSDrop)
	return p.tell(c, a)
}

func (p *Service) startRegistration(c claim, body []byte) answer {
	by, auth, err := p.registry.verify(c)
	if err != nil {
		return p.refusal(err)
	}
	if wait := p.arrivals.take(""); wait > 0 {
		return p.throttled(wait)
	}
	request, err := parseRegister(body, c)
	if err != nil {
		return p.refusal(err)
	}
	d, err := p.registry.arrive(c.registrationID, by, auth, request.payload)
	if err != nil {
		return p.refusal(err)
	}
	if p.registry.disabled(d) {
		state := registrationState{RegistrationID: d.registrationID, Status: statusDisabled}
		return answer{status: 200, refused: statusDisabled, body: operationStatus{Status: statusDisabled, State: &state}}
	}
	op := &operation{id: "5." + azure.RandomHex(8) + "." + azure.NewGUID(), device: d, version: c.version, csr: request.csr, created: time.Now()}
	if to, ask := p.registry.webhookFor(d, c, request.payload); ask != nil {
		op.asked = make(chan struct{})
		p.jobs.Go(func() {
			defer close(op.asked)
			op.custom = p.callWebhook(p.config.Running, to, ask)
		})
	}
	p.remember(op)
	return answer{status: 202, retryAfter: p.retryAfter(), body: operationStatus{OperationID: op.id, Status: statusAssigning}}
}

// poll serves a request for the status of an operation.
func (p *Service) poll(c claim, operationID string) answer {
	p.polls.Add(1)
	fault := p.faults.Now.Load()
	if a, hit := p.faulty(fault); hit {
		return p.tell(c, a)
	}
	if is(fault, DPSDrop) {
		return answer{hangUp: true}
	}
	a := p.operationStatus(c, operationID, is(fault, DPSStuck))
	a.delay = delayOf(fault)
	return p.tell(c, a)
}

// lookup serves a request for the present state of a registration ("Device Registration Status
// Lookup", HTTPS only).
func (p *Service) lookup(c claim) answer {
	fault := p.faults.Now.Load()
	if a, hit := p.faulty(fault); hit {
		return p.tell(c, a)
	}
	if _, _, err := p.registry.verify(c); err != nil {
		return p.tell(c, p.refusal(err))
	}
	state, ok := p.registry.lookup(c.registrationID)
	if !ok {
		return p.refusal(errNoRegistration)
	}
	return answer{status: 200, body: p.nameHub(c, state), delay: delayOf(fault)}
}

// throttled returns the answer to a request beyond the limits.
func (p *Service) throttled(wait time.Duration) answer {
	a := p.refusal(&dpsError{code: 429001, text: "Operations are being throttled for this tenant."})
	if !p.config.RetryAfterAbsent {
		a.retryAfter = fmt.Sprint(int((wait + time.Second - 1) / time.Second))
	}
	a.refused = "throttled: more requests than DPS allows"
	return a
}

func (p *Service) refusal(err error) answer {
	e, ok := errors.AsType[*dpsError](err)
	if !ok {
		e = &dpsError{code: 500000, text: err.Error()}
	}
	return answer{status: e.code / 1000, refused: e.reason(), body: azure.ErrorDocument{
		ErrorCode: e.code, TrackingID: azure.NewGUID(), Message: e.text, TimestampUTC: azure.UTC7(p.registry.now()),
	}}
}

func (p *Service) retryAfter() string {
	if p.config.RetryAfterAbsent {
		return ""
	}
	return fmt.Sprint(int(p.config.RetryAfter / time.Second))
}

// tell logs a refusal, emits its event, and returns the answer unchanged.
func (p *Service) tell(c claim, a answer) answer {
	if a.refused == "" {
		return a
	}
	device := wire.Shorten(c.registrationID)
	p.config.Tell(iothub.Event{Kind: iothub.EventRegister, Device: device, Reason: a.refused})
	level := zerolog.DebugLevel
	if p.config.Told.IsNew("dps " + device + " " + a.refused) {
		level = zerolog.InfoLevel
	}
	p.log.WithLevel(level).Str("hub", "dps").Str("device", device).Str("kind", iothub.EventRegister).Int("status", a.status).Str("reason", a.refused).
		Msg("registration refused")
	return a
}

// event emits the event for the end of a registration.
func (p *Service) event(registrationID string, state *registrationState) {
	device := wire.Shorten(registrationID)
	p.config.Tell(iothub.Event{Kind: iothub.EventRegister, Device: device, Reason: state.Status})
	line, level := "registration", zerolog.DebugLevel
	if state.Status != statusAssigned {
		line = "registration refused"
		if p.config.Told.IsNew("dps " + device + " " + state.Status) {
			level = zerolog.InfoLevel
		}
	}
	p.log.WithLevel(level).Str("hub", "dps").Str("device", device).Str("kind", iothub.EventRegister).Str("status", state.Status).
		Str("reason", state.ErrorMessage).Msg(line)
}

// endpoints returns all listening addresses. A fault affects every one of them.
func (p *Service) endpoints() []*wire.Endpoint {
	all := []*wire.Endpoint{p.MQTT, p.Front.Endpoint}
	if p.AMQP != nil {
		all = append(all, p.AMQP)
	}
	return all
}

// nameHub puts Azure's name of the assigned hub in place of its address, for a client that asked
// for DPS by such a name: it can only have got here through the proxy.
func (p *Service) nameHub(c claim, s registrationState) registrationState {
	if h := p.registry.hubNamed(s.AssignedHub); h != nil && c.byAzureName {
		s.AssignedHub = h.AzureName()
	}
	return s
}

// ServiceKeys returns the primary and the secondary key of the policy for the service API. It is
// for tests.
func (p *Service) ServiceKeys() [2][]byte { return p.key }
