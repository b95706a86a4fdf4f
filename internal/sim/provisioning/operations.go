package provisioning

import (
	"strings"
	"sync"
	"time"
)

// operation is a registration under way.
type operation struct {
	id      string
	device  *device
	version string          // version of the API of the request
	csr     *signingRequest // nil without one
	polls   int             // answered with 202 so far
	created time.Time

	asked  chan struct{} // closed when the webhook has answered; nil if none was asked
	custom webhookAnswer

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

// operationStatus is the body of the answer to a register request or a poll.
type operationStatus struct {
	OperationID string             `json:"operationId"`
	Status      string             `json:"status"`
	State       *registrationState `json:"registrationState,omitempty"`
}

func (p *Service) operationStatus(c claim, operationID string, stuck bool) answer {
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
func (p *Service) finish(op *operation) (*operationStatus, error) {
	op.settling.Lock()
	defer op.settling.Unlock()
	if op.final != nil {
		return op.final, nil
	}
	var custom *webhookAnswer
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
	op.csr, op.custom = nil, webhookAnswer{} // not needed any more; the operation is remembered for long
	if state.Status == statusDisabled {
		op.final.OperationID = ""
	}
	return op.final, nil
}

// remember adds an operation, and forgets those that can no longer be polled.
func (p *Service) remember(op *operation) {
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

// Remembered counts the registrations that can be polled. It is for tests.
func (p *Service) Remembered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.operations)
}
