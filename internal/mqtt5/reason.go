package mqtt5

import (
	"errors"
	"fmt"
)

// Causes that this package finds itself, because the network has no error for them.
var (
	// ErrSilent says that the server owed an answer and sent nothing.
	ErrSilent = errors.New("no answer")
	// ErrWithheld says that the server is there, and gives none of the answers that it owes.
	ErrWithheld = errors.New("the server withholds its acknowledgements")
	// ErrProtocol says that the server broke a rule of MQTT.
	ErrProtocol = errors.New("protocol violation")
	// ErrClosed says that this side ended the session.
	ErrClosed = errors.New("closed by this side")
)

// Reason is a reason code of MQTT 5, section 2.4. From 0x80 on it means a failure.
type Reason byte

// The reason codes that this side sends, or treats in a way of its own.
const (
	Success            Reason = 0x00
	NoMatchingSub      Reason = 0x10
	ContinueAuth       Reason = 0x18
	Reauthenticate     Reason = 0x19
	Unspecified        Reason = 0x80
	MalformedPacket    Reason = 0x81
	ProtocolError      Reason = 0x82
	NotSupported       Reason = 0x83 // "implementation specific error"
	BadVersion         Reason = 0x84
	BadClientID        Reason = 0x85
	BadPassword        Reason = 0x86
	NotAuthorized      Reason = 0x87
	Unavailable        Reason = 0x88
	Busy               Reason = 0x89
	Banned             Reason = 0x8a
	BadAuthMethod      Reason = 0x8c
	KeepAliveTimeout   Reason = 0x8d
	TakenOver          Reason = 0x8e
	BadFilter          Reason = 0x8f
	BadTopic           Reason = 0x90
	ReceiveMaxExceeded Reason = 0x93
	BadAlias           Reason = 0x94
	PacketTooLarge     Reason = 0x95
	QuotaExceeded      Reason = 0x97
	BadPayload         Reason = 0x99
	NoRetain           Reason = 0x9a
	NoQoS              Reason = 0x9b
	UseAnother         Reason = 0x9c
	Moved              Reason = 0x9d
	NoShared           Reason = 0x9e
	NoSubscriptionIDs  Reason = 0xa1
	NoWildcards        Reason = 0xa2
)

var reasonNames = map[Reason]string{
	0x00: "success", 0x01: "granted QoS 1", 0x02: "granted QoS 2", 0x04: "disconnect with will message",
	0x10: "no matching subscribers", 0x11: "no subscription existed", 0x18: "continue authentication",
	0x19: "re-authenticate", 0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error",
	0x83: "implementation specific error", 0x84: "unsupported protocol version", 0x85: "client identifier not valid",
	0x86: "bad user name or password", 0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy", 0x8a: "banned",
	0x8b: "server shutting down", 0x8c: "bad authentication method", 0x8d: "keep alive timeout", 0x8e: "session taken over",
	0x8f: "topic filter invalid", 0x90: "topic name invalid", 0x91: "packet identifier in use",
	0x92: "packet identifier not found", 0x93: "receive maximum exceeded", 0x94: "topic alias invalid",
	0x95: "packet too large", 0x96: "message rate too high", 0x97: "quota exceeded", 0x98: "administrative action",
	0x99: "payload format invalid", 0x9a: "retain not supported", 0x9b: "QoS not supported", 0x9c: "use another server",
	0x9d: "server moved", 0x9e: "shared subscriptions not supported", 0x9f: "connection rate exceeded",
	0xa0: "maximum connect time", 0xa1: "subscription identifiers not supported",
	0xa2: "wildcard subscriptions not supported",
}

// String returns the name of the code as the specification has it, and the code.
func (r Reason) String() string {
	if name, ok := reasonNames[r]; ok {
		return fmt.Sprintf("%s (0x%02x)", name, byte(r))
	}
	return fmt.Sprintf("unknown reason 0x%02x", byte(r))
}

// Failed reports whether the code means a failure.
func (r Reason) Failed() bool { return r >= 0x80 }

// ReasonError is a packet of the server that refuses something, or ends the session.
type ReasonError struct {
	Packet Kind // CONNACK, AUTH or DISCONNECT
	Reason Reason
	Text   string // what the server says beside it; a text of somebody else
	Server string // where the server sends its clients; empty: nowhere
}

func (e *ReasonError) Error() string {
	text := fmt.Sprintf("%v: %v", e.Packet, e.Reason)
	if e.Text != "" {
		text += fmt.Sprintf(": %q", e.Text)
	}
	return text
}

// fault is a fault of the server's that this side names in its DISCONNECT.
type fault struct {
	reason Reason
	text   string
}

func (f *fault) Error() string { return ErrProtocol.Error() + ": " + f.text }

func (f *fault) Unwrap() error { return ErrProtocol }

func faulty(r Reason, format string, args ...any) error {
	return &fault{r, fmt.Sprintf(format, args...)}
}

// Faulty returns an error for a packet that a caller does not accept. It wraps [ErrProtocol], and
// the session names r when it disconnects because of it.
func Faulty(r Reason, format string, args ...any) error { return faulty(r, format, args...) }
