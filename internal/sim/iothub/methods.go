package iothub

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// MethodResult is a device's answer to a direct method.
type MethodResult struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"` // null if the device sent none
}

type methodAnswer struct {
	status int
	body   []byte
}

// MethodTimeout is how long IoT Hub waits for the answer of a method if the caller does not say.
const MethodTimeout = 30 * time.Second

// MethodMaxBytes is the size of the largest payload of a method, in either direction.
const MethodMaxBytes = 128 << 10

// methodNameLimit is the length of the longest name of a method, in bytes.
const methodNameLimit = 100

// validMethodName reports whether a name can be a part of a topic.
func validMethodName(name string) bool {
	return name != "" && len(name) <= methodNameLimit && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("/?#+", r) })
}

// Await waits until the device is there and listens for methods, or until ctx ends.
func (i *Identity) Await(ctx context.Context) {
	for {
		i.mu.Lock()
		ready := i.gone || i.session != nil && i.session.takesMethods()
		if !ready && i.arrival == nil {
			i.arrival = make(chan struct{})
		}
		arrival := i.arrival
		i.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			return
		}
	}
}

// takesMethods reports whether methods reach the device: it has subscribed to them, and its version
// of the protocol has them. The identity's mutex is held.
func (s *session) takesMethods() bool { return s.subs.methods > 0 && !s.oldest }

// arrived wakes the callers of Await. mu is held.
func (i *Identity) arrived() {
	if i.arrival != nil {
		close(i.arrival)
		i.arrival = nil
	}
}

// Invoke calls a method of a connected device, and waits for its answer or for the end of ctx. The
// request is QoS 0, so it is lost with the connection. Its error is an [azure.Error].
func (i *Identity) Invoke(ctx context.Context, name string, payload json.RawMessage) (MethodResult, error) {
	if !validMethodName(name) {
		return MethodResult{}, azure.Errorf(400, "ArgumentInvalid", "a method name has 1 to %d characters, without control characters and / ? # +", methodNameLimit)
	}
	if string(bytes.TrimSpace(payload)) == "null" {
		payload = nil // a hub sends no body for "payload":null
	}
	i.mu.Lock()
	s := i.session
	if s == nil || !s.takesMethods() {
		i.mu.Unlock()
		return MethodResult{}, DeviceNotOnline(i.id)
	}
	s.lastRID++
	rid := strconv.FormatUint(s.lastRID, 16)
	answers := make(chan methodAnswer, 1)
	if s.calls == nil {
		s.calls = map[string]chan<- methodAnswer{}
	}
	s.calls[rid] = answers
	s.wire.Push(wire.AppendPublish(nil, "$iothub/methods/POST/"+name+"/?$rid="+rid, payload, 0, false), s.conduct().delay)
	i.mu.Unlock()
	select {
	case a, ok := <-answers:
		if !ok { // the connection ended: as at a real hub, the caller learns it at the end of its time
			<-ctx.Done()
			return MethodResult{}, methodTimeout(i.id)
		}
		return a.result(i.id)
	case <-ctx.Done():
		i.mu.Lock()
		delete(s.calls, rid) // an answer from now on is ignored
		i.mu.Unlock()
		return MethodResult{}, methodTimeout(i.id)
	}
}

func (a methodAnswer) result(id string) (MethodResult, error) {
	switch {
	case len(a.body) == 0:
		return MethodResult{a.status, json.RawMessage("null")}, nil
	case len(a.body) > MethodMaxBytes:
		return MethodResult{}, azure.Errorf(413, "MessageTooLarge", "device %s answered with %d bytes, the limit is %d", id, len(a.body), MethodMaxBytes)
	case !json.Valid(a.body):
		return MethodResult{}, azure.Errorf(502, "BadDeviceResponse", "device %s answered the method with something that is not JSON", id)
	}
	return MethodResult{a.status, a.body}, nil
}

// answerMethod hands a device's answer to the caller. An unknown rid belongs to a caller that has
// left.
func (s *session) answerMethod(rid string, status int, body []byte) {
	s.identity.mu.Lock()
	defer s.identity.mu.Unlock()
	if answers, ok := s.calls[rid]; ok {
		delete(s.calls, rid)
		answers <- methodAnswer{status, append([]byte(nil), body...)}
	}
}

// DeviceNotOnline returns the error of a method of a device that is not connected, or does not
// listen.
func DeviceNotOnline(id string) error {
	return azure.Errorf(404, "DeviceNotOnline", "device %s is not online, or does not listen for methods", id)
}

func methodTimeout(id string) error {
	return azure.Errorf(504, "GatewayTimeout", "device %s did not answer in time", id)
}
