package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// dps is the Device Provisioning Service (DPS) as clients see it: its requests and answers, which
// are the same over MQTT (dps_mqtt.go) and HTTPS (dps_https.go). The registry makes the decisions.
type dps struct {
	log      zerolog.Logger
	config   dpsOptions
	registry *registry
	events   *broadcaster
	told     *wire.Novelty
	host     string // what clients are told
	tls      *tls.Config

	mqtt, https *wire.Endpoint
	amqp        *wire.Endpoint // as a hub's
	faults      wire.FaultState[DPSFault]

	registrations atomic.Int64 // register requests, whatever became of them
	polls         atomic.Int64

	arrivals, questions limiter

	key   [2][]byte // primary and secondary, of the policy for the service API
	hooks *http.Client
	ctx   context.Context // ends when the simulator does
	jobs  sync.WaitGroup  // webhooks under way

	mu         sync.Mutex
	operations map[string]*operation
	oldest     []*operation // in the order they were made
}

// operation is a registration under way.
type operation struct {
	id      string
	device  *device
	version string          // version of the API of the request
	csr     *signingRequest // nil without one
	polls   int             // answered with 202 so far
	created time.Time

	asked  chan struct{} // closed when the webhook has answered; nil if none was asked
	custom allocation

	settling sync.Mutex // held while the registration takes effect, which it does once
	final    *operationStatus
}

// waiting reports whether the webhook still has to answer.
func (o *operation) waiting() bool {
	if o.asked == nil {
		return false
	}
	select {
	case <-o.asked:
		return false
	default:
		return true
	}
}

const (
	operationLife  = 30 * time.Minute // how long an operation can be polled
	operationLimit = 100_000          // the number of operations; beyond it the oldest are forgotten
)

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

// operationStatus is the body of the answer to a register request or a poll.
type operationStatus struct {
	OperationID string             `json:"operationId"`
	Status      string             `json:"status"`
	State       *registrationState `json:"registrationState,omitempty"`
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
func (p *dps) register(c claim, body []byte) answer {
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

func (p *dps) startRegistration(c claim, body []byte) answer {
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
			op.custom = p.callWebhook(p.ctx, to, ask)
		})
	}
	p.remember(op)
	return answer{status: 202, retryAfter: p.retryAfter(), body: operationStatus{OperationID: op.id, Status: statusAssigning}}
}

// poll serves a request for the status of an operation.
func (p *dps) poll(c claim, operationID string) answer {
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

func (p *dps) operationStatus(c claim, operationID string, stuck bool) answer {
	if _, _, err := p.registry.verify(c); err != nil {
		return p.refusal(err)
	}
	if wait := p.questions.take(strings.ToLower(c.registrationID)); wait > 0 {
		return p.throttled(wait)
	}
	p.mu.Lock()
	op := p.operations[operationID]
	more := false
	if op != nil {
		op.polls++
		more = stuck || op.polls <= p.config.Polls || op.waiting()
	}
	p.mu.Unlock()
	if op == nil || !strings.EqualFold(op.device.registrationID, c.registrationID) {
		return p.refusal(&dpsError{code: 404202, text: "Operation not found."})
	}
	if more {
		state := registrationState{RegistrationID: op.device.registrationID, Status: statusAssigning}
		return answer{status: 202, retryAfter: p.retryAfter(), body: operationStatus{op.id, statusAssigning, &state}}
	}
	final, err := p.finish(op)
	if err != nil {
		return p.refusal(err)
	}
	told := *final
	state := p.nameHub(c, *final.State)
	told.State = &state
	return answer{status: 200, body: told}
}

// finish lets a registration take effect when it is called for the first time.
func (p *dps) finish(op *operation) (*operationStatus, error) {
	op.settling.Lock()
	defer op.settling.Unlock()
	if op.final != nil {
		return op.final, nil
	}
	var custom *allocation
	if op.asked != nil {
		custom = &op.custom
	}
	state, err := p.registry.settle(op.device, custom)
	if err != nil {
		return nil, err
	}
	if op.csr != nil && state.Status == statusAssigned {
		if err := p.issue(op, &state); err != nil {
			return nil, err
		}
	}
	p.event(op.device.registrationID, &state)
	op.final = &operationStatus{op.id, state.Status, &state}
	op.csr, op.custom = nil, allocation{} // not needed any more; the operation is remembered for long
	if state.Status == statusDisabled {
		op.final.OperationID = ""
	}
	return op.final, nil
}

// lookup serves a request for the present state of a registration ("Device Registration Status
// Lookup", HTTPS only).
func (p *dps) lookup(c claim) answer {
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

// faulty returns the answer that a fault gives to every request, and whether there is such a fault.
func (p *dps) faulty(fault *wire.ActiveFault[DPSFault]) (a answer, hit bool) {
	switch {
	case is(fault, DPSThrottle):
		a = p.throttled(p.config.RetryAfter)
		if r := fault.Fault.RetryAfter; r != nil {
			a.retryAfter = fmt.Sprint(*r)
		}
		a.refused = "throttled: fault " + DPSThrottle
	case is(fault, DPSError500):
		a = p.refusal(&dpsError{code: 500000, text: "Internal server error.", why: "fault " + DPSError500})
	case is(fault, DPSUnauthorized):
		a = p.refusal(&dpsError{code: 401000, text: "Unauthorized", why: "fault " + DPSUnauthorized})
	default:
		return answer{}, false
	}
	return a, true
}

// throttled returns the answer to a request beyond the limits.
func (p *dps) throttled(wait time.Duration) answer {
	a := p.refusal(&dpsError{code: 429001, text: "Operations are being throttled for this tenant."})
	if !p.config.RetryAfterAbsent {
		a.retryAfter = fmt.Sprint(int((wait + time.Second - 1) / time.Second))
	}
	a.refused = "throttled: more requests than DPS allows"
	return a
}

// limiter allows so many requests of each client in a window of time. The zero value allows all.
type limiter struct {
	allowed int
	window  time.Duration

	mu     sync.Mutex
	since  time.Time
	counts map[string]int
}

// take counts a request. If it is one too many take returns how long the client should wait.
func (l *limiter) take(who string) (wait time.Duration) {
	if l.allowed == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.counts == nil || now.Sub(l.since) >= l.window {
		l.since, l.counts = now, map[string]int{}
	}
	if l.counts[who]++; l.counts[who] > l.allowed {
		return l.since.Add(l.window).Sub(now)
	}
	return 0
}

func is(fault *wire.ActiveFault[DPSFault], kind string) bool {
	return fault != nil && fault.Kind == kind
}

func delayOf(fault *wire.ActiveFault[DPSFault]) time.Duration {
	if is(fault, DPSSlow) {
		return iothub.DelayOr(fault.Fault.DelayMs, 1000)
	}
	return 0
}

func (p *dps) refusal(err error) answer {
	e, ok := errors.AsType[*dpsError](err)
	if !ok {
		e = &dpsError{code: 500000, text: err.Error()}
	}
	return answer{status: e.code / 1000, refused: e.reason(), body: azure.ErrorDocument{
		ErrorCode: e.code, TrackingID: azure.NewGUID(), Message: e.text, TimestampUTC: azure.UTC7(p.registry.now()),
	}}
}

func (p *dps) retryAfter() string {
	if p.config.RetryAfterAbsent {
		return ""
	}
	return fmt.Sprint(int(p.config.RetryAfter / time.Second))
}

// tell logs a refusal, emits its event, and returns the answer unchanged.
func (p *dps) tell(c claim, a answer) answer {
	if a.refused == "" {
		return a
	}
	device := wire.Shorten(c.registrationID)
	p.events.emit(iothub.Event{Kind: iothub.EventRegister, Device: device, Reason: a.refused})
	level := zerolog.DebugLevel
	if p.told.IsNew("dps " + device + " " + a.refused) {
		level = zerolog.InfoLevel
	}
	p.log.WithLevel(level).Str("hub", "dps").Str("device", device).Str("kind", iothub.EventRegister).Int("status", a.status).Str("reason", a.refused).
		Msg("registration refused")
	return a
}

// event emits the event for the end of a registration.
func (p *dps) event(registrationID string, state *registrationState) {
	device := wire.Shorten(registrationID)
	p.events.emit(iothub.Event{Kind: iothub.EventRegister, Device: device, Reason: state.Status})
	line, level := "registration", zerolog.DebugLevel
	if state.Status != statusAssigned {
		line = "registration refused"
		if p.told.IsNew("dps " + device + " " + state.Status) {
			level = zerolog.InfoLevel
		}
	}
	p.log.WithLevel(level).Str("hub", "dps").Str("device", device).Str("kind", iothub.EventRegister).Str("status", state.Status).
		Str("reason", state.ErrorMessage).Msg(line)
}

// remember adds an operation, and forgets those that can no longer be polled.
func (p *dps) remember(op *operation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.oldest) > 0 && (op.created.Sub(p.oldest[0].created) > operationLife || len(p.oldest) >= operationLimit) {
		delete(p.operations, p.oldest[0].id)
		p.oldest[0] = nil
		p.oldest = p.oldest[1:]
	}
	p.operations[op.id] = op
	p.oldest = append(p.oldest, op)
}

// registerLimit is the size of the largest body of a register request, in bytes.
const registerLimit = 96 << 10

// registerRequest is what a register request asks for.
type registerRequest struct {
	payload json.RawMessage
	csr     *signingRequest
}

// parseRegister checks the body of a register request.
func parseRegister(body []byte, c claim) (registerRequest, error) {
	var r struct {
		RegistrationID *string         `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
		CSR            string          `json:"csr"`
		ClientCSR      string          `json:"clientCertificateCsr"`
	}
	refuse := func(text string) (registerRequest, error) {
		return registerRequest{}, &dpsError{code: 400004, text: text}
	}
	if len(body) > registerLimit {
		return refuse("The request is too large.")
	}
	if body = bytes.TrimSpace(body); len(body) == 0 || body[0] != '{' || json.Unmarshal(body, &r) != nil {
		return refuse("The request body is malformed.")
	}
	if r.RegistrationID != nil && !strings.EqualFold(*r.RegistrationID, c.registrationID) {
		return refuse("The registration id of the body is another one than that of the request.")
	}
	request := registerRequest{payload: r.Payload}
	var err error
	switch {
	case c.version == csrVersion && r.CSR != "":
		request.csr, err = parseSigningRequest(r.CSR, c.registrationID)
	case c.version == clientCSRVersion && r.ClientCSR != "":
		request.csr, err = parseSigningRequest(r.ClientCSR, c.registrationID)
	}
	return request, err
}

// validVersion reports whether an api-version has the right form: a date since DPS exists, and
// perhaps "-preview".
func validVersion(v string) bool {
	date, _ := strings.CutSuffix(v, "-preview")
	t, err := time.Parse(time.DateOnly, date)
	return err == nil && t.Year() >= 2017
}

// fault makes DPS misbehave.
func (p *dps) fault(f DPSFault) error {
	if err := f.check(); err != nil {
		return err
	}
	err := iothub.FaultError(p.faults.Begin(f, f.Kind, f.Seconds, func() error {
		var m wire.Mode
		how := wire.Keep
		switch f.Kind {
		case DPSDown:
			m.Door, how = wire.DoorShut, wire.RST
		case DPSBlackhole:
			m.Mute, m.Resets = true, f.WhenOver == iothub.WaitingReset
		}
		for _, e := range p.endpoints() {
			if err := e.Enter(m, how, "fault "+f.Kind); err != nil {
				_ = p.undo()
				return azure.Errorf(409, "", "DPS: %v", err)
			}
		}
		return nil
	}, p.undo))
	if err == nil {
		iothub.FaultBegun(p.log, p.events.emit, "dps", f.Kind, f.Seconds)
	}
	return err
}

// endpoints returns all listening addresses. A fault affects every one of them.
func (p *dps) endpoints() []*wire.Endpoint {
	all := []*wire.Endpoint{p.mqtt, p.https}
	if p.amqp != nil {
		all = append(all, p.amqp)
	}
	return all
}

func (p *dps) heal() error { return iothub.FaultError(p.faults.End(p.undo)) }

func (p *dps) undo() error {
	for _, e := range p.endpoints() {
		if err := e.Enter(wire.Mode{}, wire.Keep, ""); err != nil {
			return azure.Errorf(409, "", "DPS cannot come back: %v", err)
		}
	}
	return nil
}
