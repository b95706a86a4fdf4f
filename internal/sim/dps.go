package sim

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// dps is the Device Provisioning Service as clients talk to it. What it decides is in the registry; here are the requests and
// answers, the same over MQTT (dps_mqtt.go) and HTTPS (dps_https.go).
type dps struct {
	log      zerolog.Logger
	config   Config
	registry *registry
	events   *broadcaster
	host     string // what clients are told
	tls      *tls.Config

	mqtt, https *endpoint
	faults      faultState[DPSFault]

	registrations atomic.Int64 // register requests, whatever became of them
	polls         atomic.Int64

	mu         sync.Mutex
	operations map[string]*operation
	oldest     []*operation // in the order they were made
}

// operation is a registration under way.
type operation struct {
	id      string
	device  *device
	polls   int // answered with 202 so far
	created time.Time
}

// operationLife is how long an operation can be polled.
const operationLife = 30 * time.Minute

// registrationState is the record of a registration, in DPS's own names and order.
type registrationState struct {
	X509                   *struct{} `json:"x509,omitempty"`
	RegistrationID         string    `json:"registrationId"`
	CreatedDateTimeUTC     string    `json:"createdDateTimeUtc,omitempty"`
	AssignedHub            string    `json:"assignedHub,omitempty"`
	DeviceID               string    `json:"deviceId,omitempty"`
	Status                 string    `json:"status"`
	Substatus              string    `json:"substatus,omitempty"`
	ErrorCode              int       `json:"errorCode,omitempty"`
	ErrorMessage           string    `json:"errorMessage,omitempty"`
	LastUpdatedDateTimeUTC string    `json:"lastUpdatedDateTimeUtc,omitempty"`
	Etag                   string    `json:"etag,omitempty"`
}

// operationStatus is the body of an answer to register and to polls.
type operationStatus struct {
	OperationID string             `json:"operationId"`
	Status      string             `json:"status"`
	State       *registrationState `json:"registrationState,omitempty"`
}

// answer is what DPS replies, before it is put into a topic or a header.
type answer struct {
	status     int
	retryAfter string // whole seconds, "" to leave it out
	body       any
	delay      time.Duration
	hangUp     bool // the connection is closed after the reply, or instead of it if there is no status
}

// register serves a register request.
func (p *dps) register(c claim, body []byte) answer {
	p.registrations.Add(1)
	fault := p.faults.now.Load()
	if a, hit := p.faulty(fault); hit {
		return a
	}
	a := p.startRegistration(c, body)
	a.delay = delayOf(fault)
	a.hangUp = is(fault, DPSDrop)
	return a
}

func (p *dps) startRegistration(c claim, body []byte) answer {
	auth, err := p.registry.verify(c)
	if err != nil {
		p.event(c, err.Error())
		return p.refusal(err)
	}
	payload, err := parseRegister(body, c.registrationID)
	if err != nil {
		p.event(c, err.Error())
		return p.refusal(err)
	}
	d := p.registry.arrive(c.registrationID, auth, payload)
	if p.registry.disabled(d) {
		p.event(c, statusDisabled)
		state := registrationState{RegistrationID: d.registrationID, Status: statusDisabled}
		return answer{status: 200, body: operationStatus{Status: statusDisabled, State: &state}}
	}
	op := p.newOperation(d)
	return answer{status: 202, retryAfter: p.retryAfter(), body: operationStatus{OperationID: op.id, Status: statusAssigning}}
}

// poll serves a question for an operation's status.
func (p *dps) poll(c claim, operationID string) answer {
	p.polls.Add(1)
	fault := p.faults.now.Load()
	if a, hit := p.faulty(fault); hit {
		return a
	}
	if is(fault, DPSDrop) {
		return answer{hangUp: true}
	}
	a := p.operationStatus(c, operationID, is(fault, DPSStuck))
	a.delay = delayOf(fault)
	return a
}

func (p *dps) operationStatus(c claim, operationID string, stuck bool) answer {
	if _, err := p.registry.verify(c); err != nil {
		return p.refusal(err)
	}
	p.mu.Lock()
	op := p.operations[operationID]
	more := false
	if op != nil {
		op.polls++
		more = stuck || op.polls <= p.config.Polls
	}
	p.mu.Unlock()
	if op == nil || !strings.EqualFold(op.device.registrationID, c.registrationID) {
		return p.refusal(&dpsError{404202, "Operation not found."})
	}
	if more {
		state := registrationState{RegistrationID: op.device.registrationID, Status: statusAssigning}
		return answer{status: 202, retryAfter: p.retryAfter(), body: operationStatus{op.id, statusAssigning, &state}}
	}
	state, ok := p.registry.settle(op.device)
	if !ok {
		return p.refusal(&dpsError{404201, "Registration not found."})
	}
	p.event(c, state.Status)
	if state.Status == statusDisabled {
		op = &operation{}
	}
	return answer{status: 200, body: operationStatus{op.id, state.Status, &state}}
}

// lookup serves a question for a registration's present state ("Device Registration Status Lookup", HTTPS only).
func (p *dps) lookup(c claim) answer {
	fault := p.faults.now.Load()
	if a, hit := p.faulty(fault); hit {
		return a
	}
	if _, err := p.registry.verify(c); err != nil {
		return p.refusal(err)
	}
	state, ok := p.registry.lookup(c.registrationID)
	if !ok {
		return p.refusal(&dpsError{404201, "Registration not found."})
	}
	return answer{status: 200, body: state, delay: delayOf(fault)}
}

// faulty answers what a fault of DPS answers to every request.
func (p *dps) faulty(fault *active[DPSFault]) (a answer, hit bool) {
	switch {
	case is(fault, DPSThrottle):
		a = p.refusal(&dpsError{429001, "Operations are being throttled for this tenant."})
		a.retryAfter = p.retryAfter()
		if r := fault.fault.RetryAfter; r != nil {
			a.retryAfter = fmt.Sprint(*r)
		}
	case is(fault, DPSError500):
		a = p.refusal(&dpsError{500000, "Internal server error."})
	case is(fault, DPSUnauthorized):
		a = p.refusal(&dpsError{401000, "Unauthorized"})
	default:
		return answer{}, false
	}
	return a, true
}

func is(fault *active[DPSFault], kind string) bool { return fault != nil && fault.kind == kind }

func delayOf(fault *active[DPSFault]) time.Duration {
	if is(fault, DPSSlow) {
		return delayOr(fault.fault.DelayMs, 1000)
	}
	return 0
}

func (p *dps) refusal(err error) answer {
	e, ok := errors.AsType[*dpsError](err)
	if !ok {
		e = &dpsError{500000, err.Error()}
	}
	return answer{status: e.code / 1000, body: errorDocument{
		ErrorCode: e.code, TrackingID: newGUID(), Message: e.text, TimestampUTC: utc7(p.registry.now()),
	}}
}

func (p *dps) retryAfter() string {
	if p.config.RetryAfterAbsent {
		return ""
	}
	return fmt.Sprint(int(p.config.RetryAfter / time.Second))
}

func (p *dps) event(c claim, status string) {
	p.events.emit(Event{Kind: EventRegister, Device: c.registrationID, Reason: status})
	p.log.Debug().Str("device", c.registrationID).Str("status", status).Msg("registration")
}

// newOperation also forgets the operations nobody may poll any more.
func (p *dps) newOperation(d *device) *operation {
	op := &operation{id: "5." + randomHex(8) + "." + newGUID(), device: d, created: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.oldest) > 0 && op.created.Sub(p.oldest[0].created) > operationLife {
		delete(p.operations, p.oldest[0].id)
		p.oldest = p.oldest[1:]
	}
	p.operations[op.id] = op
	p.oldest = append(p.oldest, op)
	return op
}

// registerLimit is the largest body of a register request.
const registerLimit = 96 << 10

// parseRegister checks the body of a register request and returns its payload.
func parseRegister(body []byte, registrationID string) (payload json.RawMessage, err error) {
	var r struct {
		RegistrationID *string         `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
	}
	if len(body) > registerLimit {
		return nil, &dpsError{400004, "The request is too large."}
	}
	if body = bytes.TrimSpace(body); len(body) == 0 || body[0] != '{' || json.Unmarshal(body, &r) != nil {
		return nil, &dpsError{400004, "The request body is malformed."}
	}
	if r.RegistrationID != nil && !strings.EqualFold(*r.RegistrationID, registrationID) {
		return nil, &dpsError{400004, "The registration id of the body is another one than that of the request."}
	}
	return r.Payload, nil
}

// fault makes DPS misbehave.
func (p *dps) fault(f DPSFault) error {
	if err := f.check(); err != nil {
		return err
	}
	err := p.faults.begin(f, f.Kind, f.Seconds, func() error {
		var m mode
		how := keep
		switch f.Kind {
		case DPSDown:
			m.door, how = doorShut, rst
		case DPSBlackhole:
			m.mute = true
		}
		for _, e := range []*endpoint{p.mqtt, p.https} {
			if err := e.enter(m, how, "fault "+f.Kind); err != nil {
				_ = p.undo()
				return errorf(409, "", "DPS: %v", err)
			}
		}
		return nil
	}, p.undo)
	if err == nil {
		p.events.emit(Event{Kind: EventFault, Hub: "dps", Reason: f.Kind})
		p.log.Info().Str("hub", "dps").Str("kind", f.Kind).Float64("seconds", f.Seconds).Msg("fault")
	}
	return err
}

func (p *dps) heal() error { return p.faults.end(p.undo) }

func (p *dps) undo() error {
	for _, e := range []*endpoint{p.mqtt, p.https} {
		if err := e.enter(mode{}, keep, ""); err != nil {
			return errorf(409, "", "DPS cannot come back: %v", err)
		}
	}
	p.events.emit(Event{Kind: EventHeal, Hub: "dps"})
	return nil
}
