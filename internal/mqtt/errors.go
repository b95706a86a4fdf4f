package mqtt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Causes that this package finds itself, because the network has no error for them.
var (
	// ErrSilent says that the peer owed an answer and sent nothing.
	ErrSilent = errors.New("no answer")
	// ErrUnacked says that the peer lives but leaves a PUBLISH unacknowledged.
	ErrUnacked = errors.New("PUBACK withheld")
	// ErrProtocol says that the peer broke a rule of MQTT or TLS.
	ErrProtocol = errors.New("protocol violation")
	// ErrSubscription says that the peer refused a subscription (SUBACK 0x80).
	ErrSubscription = errors.New("subscription refused")
	// ErrClosed says that this side ended the connection.
	ErrClosed = errors.New("closed by this side")
	// ErrNoRoom says that a message does not fit into the write that opens a session. It may be
	// sent later.
	ErrNoRoom = errors.New("no room in the first write")
)

// Phase says how far a connection had come.
type Phase string

// The phases of a connection, in their order.
const (
	PhaseDial      Phase = "dial"      // TCP
	PhaseTLS       Phase = "TLS"       // handshake
	PhaseConnect   Phase = "connect"   // CONNECT to CONNACK
	PhaseSubscribe Phase = "subscribe" // SUBSCRIBE to SUBACK
	PhaseSession   Phase = "session"   // afterwards
)

// Error says why a session did not come up, or why it has ended.
type Error struct {
	Phase     Phase
	Pipelined bool  // more than CONNECT had been sent when the connection ended without a CONNACK
	Local     bool  // this side ended it
	Err       error // the cause; never nil. A [*RefusalError] if the server refused the session
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Phase, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// RefusalError is a CONNACK that refuses the session. Its text depends on its code alone.
type RefusalError struct {
	Code byte // 1 to 5 in MQTT 3.1.1; others are accepted here, because a peer may send them
}

func (r *RefusalError) Error() string {
	// The codec's table has texts for errors of its own behind the codes of MQTT 3.1.1.
	if text, ok := packets.ConnackReturnCodes[r.Code]; ok && r.Code <= packets.ErrRefusedNotAuthorised {
		_, reason, _ := strings.Cut(strings.ToLower(text), ": ")
		return reason
	}
	return fmt.Sprintf("unknown CONNACK code %d", r.Code)
}
