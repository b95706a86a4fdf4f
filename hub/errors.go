package hub

import (
	"errors"
	"fmt"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// Phase says how far a connection had come.
type Phase = mqtt.Phase

// The phases of a connection, in their order.
const (
	PhaseDial      = mqtt.PhaseDial      // TCP
	PhaseTLS       = mqtt.PhaseTLS       // handshake
	PhaseConnect   = mqtt.PhaseConnect   // CONNECT to CONNACK
	PhaseSubscribe = mqtt.PhaseSubscribe // SUBSCRIBE to SUBACK
	PhaseSession   = mqtt.PhaseSession   // afterwards
)

// Causes that a link finds itself, because the network has no error for them. They are wrapped in
// an [*Error].
var (
	// ErrSilent says that the hub owed an answer and sent nothing.
	ErrSilent = mqtt.ErrSilent
	// ErrUnacked says that the hub lives but leaves a PUBLISH unacknowledged.
	ErrUnacked = mqtt.ErrUnacked
	// ErrProtocol says that the hub broke a rule of MQTT, TLS or IoT Hub.
	ErrProtocol = mqtt.ErrProtocol
	// ErrSubscription says that the hub refused a subscription (SUBACK 0x80).
	ErrSubscription = mqtt.ErrSubscription
	// ErrTokenExpired says that the hub closed a link whose token had ended.
	ErrTokenExpired = errors.New("the SAS token had expired")
	// ErrRenewal is the reason to close a link whose token ends soon.
	ErrRenewal = errors.New("the SAS token is to be renewed")
	// ErrClosed says that this side ended the link.
	ErrClosed = mqtt.ErrClosed
)

// ErrTwin says that the hub's answer to a request for the twin is not a twin: it is not JSON, is
// too long, or lacks one of its two parts. The link stays up.
var ErrTwin = errors.New("the hub's answer is not a twin")

// BugError is a panic in a goroutine of a link, so a bug of this program. It ends the link and
// nothing else. It is wrapped in an [*Error].
type BugError = mqtt.BugError

// ErrNoRoom says that a message does not fit into the write that opens a session. It may be sent
// later.
var ErrNoRoom = mqtt.ErrNoRoom

// Error is any failure of a connection to a hub.
type Error struct {
	Phase     Phase
	Host      string
	Gateway   string // the gateway that was dialled in the host's place, if any
	Code      byte   // CONNACK code (1–5), 0 if none came
	Pipelined bool   // more than CONNECT had been sent when the connection ended without a CONNACK
	Err       error  // the cause; never nil
}

func (e *Error) Error() string {
	who := e.Host
	if e.Gateway != "" {
		who += " through " + e.Gateway
	}
	if e.Code != 0 {
		return fmt.Sprintf("%s %s: CONNACK %d: %v", e.Phase, who, e.Code, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Phase, who, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// MessageError refuses one message that no hub would ever take. The link lives on.
type MessageError struct{ Reason string }

func (e *MessageError) Error() string { return "message refused: " + e.Reason }

// Permanent tells the sender that it is of no use to send this message again, here or to another
// hub.
func (e *MessageError) Permanent() bool { return true }

// TwinError is an answer other than success to a twin request (IoT Hub: 400, 404, 413, 429, 5xx).
type TwinError struct {
	Status  int
	Code    int    // IoT Hub error code such as 400004, 0 if none came
	Message string // IoT Hub's own words, shortened; may be empty
}

func (e *TwinError) Error() string {
	s := fmt.Sprintf("the twin request was answered %d", e.Status)
	if e.Code != 0 {
		s += fmt.Sprintf(" (%d)", e.Code)
	}
	if e.Message != "" {
		s += fmt.Sprintf(" %q", e.Message)
	}
	return s
}
